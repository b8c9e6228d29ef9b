"""Line charts as inline SVG: no script, no font, no request, and colours that follow the page's light or dark theme."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from core.report.rundata import Curve

WIDTH, HEIGHT = 440, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 12, 26
_MOST_POINTS = 300
_SMOOTH_ABOVE = 60
_LOG_ABOVE = 200.0


@dataclass(frozen=True)
class Line:
    """One curve of a chart, with its legend label and the number (0…7) of its colour and dash pattern."""

    label: str
    curve: Curve
    colour: int = 0
    dash: int = 0


def draw_chart(lines: Sequence[Line], title: str) -> str:
    """Draw curves over one pair of axes.

    Long curves are thinned to their extremes and drawn twice: as logged, pale, and smoothed, strong. The y axis is
    logarithmic when positive values span more than a factor of 200.

    Args:
        lines: the curves; those without a finite value are left out.
        title: what the y axis shows; becomes the picture's accessible name.

    Returns:
        An `<svg>` element; empty when no curve has a finite value.
    """
    shown = [line for line in lines if line.curve.values]
    if not shown:
        return ""
    values = [value for line in shown for value in line.curve.values]
    steps = [step for line in shown for step in line.curve.steps]
    logarithmic = min(values) > 0 and max(values) / min(values) > _LOG_ABOVE
    y_axis = _Axis.fit(min(values), max(values), HEIGHT - _BOTTOM, _TOP, logarithmic=logarithmic)
    x_axis = _Axis.fit(min(steps), max(steps), _LEFT, WIDTH - _RIGHT, tight=True)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_grid(x_axis, y_axis),
    ]
    for line in shown:
        parts += _line(line, x_axis, y_axis)
    return "".join([*parts, "</svg>"])


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Centred moving average: it follows a falling loss without the lag of a running average.

    Args:
        values: what was logged.
        reach: number of neighbours on either side; near an end both sides shrink alike.
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    smoothed = []
    for index in range(len(values)):
        sides = min(reach, index, len(values) - 1 - index)
        smoothed.append((sums[index + sides + 1] - sums[index - sides]) / (2 * sides + 1))
    return smoothed


def thin(curve: Curve, most: int = _MOST_POINTS) -> Curve:
    """At most about `most` points of a curve: the lowest and the highest of each stretch, in order, and both ends."""
    count = len(curve.values)
    if count <= most:
        return curve
    keep = {0, count - 1}
    stretches = most // 2
    for index in range(stretches):
        stretch = range(index * count // stretches, (index + 1) * count // stretches)
        keep.add(min(stretch, key=curve.values.__getitem__))
        keep.add(max(stretch, key=curve.values.__getitem__))
    order = sorted(keep)
    return Curve([curve.steps[i] for i in order], [curve.values[i] for i in order], curve.nonfinite)


def format_number(value: float, digits: int = 4) -> str:
    """Four significant digits without needless zeros: 0.6123, 12.5, 1,234, 3e-05."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    text = f"{value:.{digits}g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels; `low` and `high` are logarithms when `logarithmic`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool

    @classmethod
    def fit(
        cls, low: float, high: float, start: float, end: float, *, logarithmic: bool = False, tight: bool = False
    ) -> "_Axis":
        if logarithmic:
            exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            every = max(1, len(exponents) // 5)
            ticks = tuple(10.0**e for e in exponents[::every])
            return cls(math.log10(low) - 0.05, math.log10(high) + 0.05, start, end, ticks, True)
        if high == low:
            margin = 0.5 if tight or low == 0 else abs(low) * 0.1
            low, high = low - margin, high + margin
        ticks = _round_ticks(low, high)
        if not tight:
            margin = (high - low) * 0.06
            low, high = (low if low == 0 else low - margin), high + margin
        return cls(low, high, start, end, ticks, False)

    def __call__(self, value: float) -> float:
        position = math.log10(value) if self.logarithmic else value
        return self.start + (position - self.low) / (self.high - self.low) * (self.end - self.start)

    def inside(self) -> list[float]:
        """The ticks that lie on the axis."""
        low, high = sorted((self.start, self.end))
        return [tick for tick in self.ticks if low - 0.5 <= self(tick) <= high + 0.5]


def _round_ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """About `wanted` values at steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1))


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[str]:
    parts = []
    for tick in y_axis.inside():
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in x_axis.inside():
        if tick == int(tick):
            parts.append(f'<text x="{x_axis(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_short(tick)}</text>')
    bottom = HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    return parts


def _short(value: float) -> str:
    """Tick label: 20000 becomes 20k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return format_number(value / (1e3 if letter == "k" else size)) + letter
    return format_number(value)


def _line(line: Line, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    style = f"c{line.colour % 8} d{line.dash % 4}"
    curve = line.curve
    tip = f"<title>{escape(line.label)}: {format_number(curve.values[-1])} at step {curve.steps[-1]:,}</title>"
    if len(curve.values) <= _SMOOTH_ABOVE:
        dots = [
            f'<circle class="{style}" cx="{x_axis(s):.1f}" cy="{y_axis(v):.1f}" r="2.4">'
            f"<title>{escape(line.label)}: {format_number(v)} at step {s:,}</title></circle>"
            for s, v in zip(curve.steps, curve.values)
        ]
        return [_path(curve, style, x_axis, y_axis, tip), *dots]
    smoothed = Curve(curve.steps, smooth(curve.values, max(3, len(curve.values) // 40)))
    return [
        _path(thin(curve), f"{style} raw", x_axis, y_axis, ""),
        _path(thin(smoothed), style, x_axis, y_axis, tip),
    ]


def _path(curve: Curve, style: str, x_axis: _Axis, y_axis: _Axis, tip: str) -> str:
    points = " ".join(f"{x_axis(s):.1f},{y_axis(v):.1f}" for s, v in zip(curve.steps, curve.values))
    return f'<polyline class="line {style}" points="{points}">{tip}</polyline>'
