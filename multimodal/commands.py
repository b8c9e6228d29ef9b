"""The command that this package adds to the command line."""

import sys
from collections.abc import Callable
from pathlib import Path

from core.commands.options import Parser, positive

BATCH = 32
"""Pictures that are captioned at a time."""


def caption(arguments: list[str]) -> int:
    """Caption pictures with a trained captioner: one line per picture."""
    parser = Parser("caption", "Caption pictures with a run's captioner, one line per picture: file, tab, caption.")
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run directory of a captioner, or a folder it was saved to"
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="pictures: PNG, JPEG, GIF, WebP or BMP")
    parser.add_argument("--beams", type=positive, default=1, help="width of the beam; 1 is greedy (default 1)")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    import torch

    from multimodal.media import MediaError, load_image
    from multimodal.pipeline import CaptioningPipeline

    pipeline = CaptioningPipeline.load(options.run, device=options.device)
    bad = 0
    for start in range(0, len(options.files), BATCH):
        paths, images = [], []
        for path in options.files[start : start + BATCH]:
            try:
                images.append(load_image(path, side=pipeline.encoder.image_side))
                paths.append(path)
            except MediaError as error:
                bad += 1
                print(f"trillium caption: skipped {error}", file=sys.stderr)
        if images:
            for path, text in zip(paths, pipeline.caption(torch.stack(images), beams=options.beams)):
                print(f"{path}\t{text}", flush=True)
    if bad:
        print(f"trillium caption: {bad} of {len(options.files)} pictures could not be used", file=sys.stderr)
    if bad == len(options.files):
        return 2
    return 1 if bad else 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"caption": caption}
