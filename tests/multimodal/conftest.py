"""What the tests of captioners share: small captioners, and examples with media of every kind in different numbers.

Shape suffixes: N = media, I = input steps, P = positions, F = features.
"""

import json
import math
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from core.config import ModelConfig, OptimConfig
from core.nn.transformer import Transformer
from core.sampling import Sampling
from core.text.words import WordTokenizer
from core.training.runtime import Runtime
from multimodal.batch import CaptionBatch, Contexts, Prompt
from multimodal.build import build_captioner, language_model_shape
from multimodal.captioner import Captioner
from multimodal.config import CaptioningConfig, Fusion
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Example, Kind, Medium
from multimodal.media.decode import content
from multimodal.reading import Reader
from multimodal.store import MediaStore

if TYPE_CHECKING:
    from multimodal.trainers import CaptioningTrainer

SIZES: dict[Kind, tuple[int, int, int]] = {"image": (5, 2, 1), "audio": (3, 1, 7), "video": (4, 2, 3)}
"""Features of a position, positions of a step, most steps."""
WORDS = "one two three four five six seven eight nine ten"


class FakeEncoder(Encoder):
    """Takes tensors (steps, positions of a step, features) for media; one that is trained mixes the features."""

    def __init__(self, kind: Kind, *, frozen: bool = True) -> None:
        super().__init__()
        self.kind, self.name, self.frozen = kind, f"fake {kind}", frozen
        self.num_features, self.positions_per_step, self.max_steps = SIZES[kind]
        self.mix = nn.Identity() if frozen else nn.Linear(self.num_features, self.num_features)

    def load(self, medium: Medium) -> Tensor:
        return content(medium)

    def forward(self, inputs_NI: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        features_NPF = self.mix(inputs_NI.float().flatten(1, 2))
        return features_NPF, self.position_mask(lengths_N, features_NPF.shape[1], features_NPF.device)


def medium(kind: Kind, steps: int, seed: int) -> Medium:
    num_features, positions, _ = SIZES[kind]
    made = torch.randn(steps, positions, num_features, generator=torch.Generator().manual_seed(seed))
    return Medium(kind, made.half().float())  # features are kept as float16


def mixed_examples() -> list[Example]:
    """Several media of several kinds between texts, two of a kind, one alone, and none at all."""
    return [
        Example((medium("image", 1, 1), "one two", medium("audio", 5, 2), "three"), ("four five",), "a"),
        Example(("six seven eight",), ("nine",), "b"),
        Example(
            ("one", medium("video", 3, 3), medium("audio", 2, 4), "two", medium("audio", 7, 5), medium("image", 1, 6)),
            ("ten one two three",),
            "c",
        ),
        Example((medium("video", 1, 7), medium("video", 2, 8)), ("five", "six six"), "d"),
        Example((medium("audio", 1, 9), "seven"), ("eight nine ten",), "e"),
    ]


@dataclass
class Bench:
    """A captioner in evaluation mode, and examples as it reads them."""

    captioner: Captioner
    reader: Reader
    store: MediaStore
    examples: list[Example]
    prompts: list[Prompt]
    targets: list[list[int]]

    def batch(self, only: Sequence[int] | None = None, **options: Any) -> CaptionBatch:
        chosen = range(len(self.prompts)) if only is None else only
        return self.reader.batch(
            [self.prompts[i] for i in chosen], [self.targets[i] for i in chosen], self.store, **options
        )

    def contexts(self, only: Sequence[int] | None = None) -> Contexts:
        chosen = range(len(self.prompts)) if only is None else only
        return self.reader.contexts([self.prompts[i] for i in chosen], self.store)


def randomise(module: nn.Module, seed: int) -> None:
    """Random weights everywhere: projections that start at 0 and gates that start closed would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
            elif name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("gate"):
                parameter.fill_(1.5)
            else:
                parameter.normal_(std=0.2, generator=generator)


def make(
    fusion: Fusion,
    *,
    examples: Sequence[Example] | None = None,
    frozen: bool = True,
    random: bool = True,
    temperature: float = 1.0,
    seed: int = 0,
    width: int = 32,
    **config: Any,
) -> Bench:
    """A bench whose captioner has random weights.

    Args:
        fusion: how media enter.
        examples: by default `mixed_examples()`.
        frozen: whether the encoders are.
        random: randomise what starts at 0 as well.
        temperature: of the captioner.
        seed: of the weights.
        width: of the language model.
        config: further settings.
    """
    torch.manual_seed(seed)
    examples = mixed_examples() if examples is None else list(examples)
    tokenizer = WordTokenizer.train([WORDS])
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, width=width, num_layers=2, num_heads=2, max_length=40,
        dropout=config.pop("dropout", 0.0),
    )  # fmt: skip
    settings = CaptioningConfig(fusion=fusion, num_queries=3, **{"max_target_tokens": 6, **config})
    encoders: dict[Kind, Encoder] = {kind: FakeEncoder(kind, frozen=frozen) for kind in SIZES}
    model = Transformer(language_model_shape(settings, shape))
    captioner = build_captioner(settings, encoders, model, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id).eval()
    captioner.sampling = Sampling(temperature=temperature)
    if random:
        randomise(captioner, seed)
    store = MediaStore(encoders, Runtime(torch.device("cpu")))
    store.add(examples)
    reader = Reader.of(captioner, tokenizer)
    prompts = [reader.prompt(example, store) for example in examples]
    targets = [reader.target(one, one.targets[0]) for one in examples]
    return Bench(captioner, reader, store, examples, prompts, targets)


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    """The function `make`."""
    return make


@pytest.fixture
def made_medium() -> Callable[..., Medium]:
    """The function `medium`: kind, steps and seed to a medium that a bench's encoders take."""
    return medium


COLOURS = {"red": (230, 20, 20), "green": (20, 190, 60), "blue": (30, 60, 230)}
TONES_HZ = {"low": 200, "middle": 600, "high": 2000}
MOVES = {"right": (2, 6, 10, 14), "left": (14, 10, 6, 2), "never": (6, 6, 6, 6)}


def write_picture(path: Path, colour: str) -> None:
    """A square of a colour."""
    image = Image.new("RGB", (20, 20), (255, 255, 255))
    ImageDraw.Draw(image).rectangle((4, 4, 15, 15), fill=COLOURS[colour])
    image.save(path)


def write_sound(path: Path, tone: str) -> None:
    """A quarter of a second of a tone, as 16-bit WAV."""
    steps = torch.arange(4000) / 16_000
    samples = (torch.sin(2 * math.pi * TONES_HZ[tone] * steps) * 12_000).to(torch.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.numpy().tobytes())


def write_clip(path: Path, move: str) -> None:
    """A bar that moves over four frames, as GIF; one that stands still blinks in a corner, or GIF would join frames."""
    frames = []
    for number, x in enumerate(MOVES[move]):
        frame = Image.new("RGB", (20, 20), (255, 255, 255))
        pen = ImageDraw.Draw(frame)
        pen.rectangle((x, 0, x + 3, 14), fill=(0, 0, 0))
        pen.rectangle((0, 18, 1, 19), fill=(60 * number, 0, 0))
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


WRITERS: dict[Kind, tuple[str, tuple[str, ...], Callable[[Path, str], None]]] = {
    "image": ("png", tuple(COLOURS), write_picture),
    "audio": ("wav", tuple(TONES_HZ), write_sound),
    "video": ("gif", tuple(MOVES), write_clip),
}
TEXTS: dict[Kind, str] = {"image": "a {} square", "audio": "the tone is {}", "video": "it moves {} now"}


def write_media(folder: Path, kinds: Sequence[Kind] = ("image", "audio", "video")) -> Path:
    """Files of some kinds and a manifest; the test files are copies of the training files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for kind in kinds:
        suffix, contents, write = WRITERS[kind]
        for held in contents:
            for split in ("train", "test"):
                name = f"{split}-{held}.{suffix}"
                write(folder / name, held)
                lines.append(json.dumps({kind: name, "caption": TEXTS[kind].format(held), "split": split}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines), "utf-8")
    return manifest


def run_config(manifest: Path, out: Path, **changes: Any) -> CaptioningConfig:
    """Settings that learn `write_media` by heart within seconds."""
    settings: dict[str, Any] = {
        "out": out, "data": str(manifest), "image_encoder": "pixels", "video_encoder": "pixels", "image_side": 20,
        "grid": 2, "num_frames": 4, "encoder_width": 32, "max_seconds": 2.0, "cache": manifest.parent / "cache",
        "steps": 60, "batch_size": 9, "label_smoothing": 0.0, "max_target_tokens": 8, "log_every": 1,
        "threads": 1, "device": "cpu", "precision": "fp32",
        "model": ModelConfig(width=64, num_layers=2, num_heads=2, max_length=64),
        "optim": OptimConfig(lr=3e-3, warmup_steps=5),
    }  # fmt: skip
    return CaptioningConfig(**{**settings, **changes})


@dataclass(frozen=True)
class Runs:
    """How runs on files are made."""

    write_media: Callable[..., Path] = write_media
    config: Callable[..., CaptioningConfig] = run_config


@pytest.fixture(scope="session")
def runs() -> Runs:
    """The functions `write_media` and `run_config`."""
    return Runs()


@pytest.fixture(scope="session")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> "CaptioningTrainer":
    """A run that has learnt pictures, sounds and clips by heart."""
    from multimodal.trainers import CaptioningTrainer

    folder = tmp_path_factory.mktemp("mixed")
    trainer = CaptioningTrainer(run_config(write_media(folder / "data"), folder / "run"), quiet=True)
    trainer.train()
    return trainer
