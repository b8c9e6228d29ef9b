"""From a trained run to captions for new pictures: encoder, captioner and tokenizer together.

Shape suffixes: B = pictures, P = positions of a picture, F = features of a position; 3HW = colour, height, width.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from core.config import ModelConfig
from core.errors import RunError
from core.nn.transformer import Transformer
from core.text.tokenizer import Tokenizer, load_tokenizer
from core.training import checkpoint, configfile
from core.training.resume import CHECKPOINTS_NAME
from core.training.runtime import Runtime
from multimodal.captioner import Captioner
from multimodal.config import CaptioningConfig
from multimodal.encoders.grid import GridEncoder, build_encoder
from multimodal.evaluation import generate_captions
from multimodal.fusion import PrefixFusion

TOKENIZER_NAME = "tokenizer"
WEIGHTS_NAME = "model.safetensors"
_PREFIX = "captioner."


def build_captioner(config: CaptioningConfig, encoder: GridEncoder, tokenizer: Tokenizer) -> Captioner:
    """A fresh captioner of the shape that a config gives."""
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ValueError("a captioner's tokenizer needs a begin and an end-of-sequence token")
    shape: ModelConfig = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    fusion = PrefixFusion(
        encoder.num_features,
        encoder.num_positions,
        shape.width,
        dropout=config.prefix_dropout,
        blank_probability=config.blank_probability,
    )
    return Captioner(
        Transformer(shape),
        fusion,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        max_new_tokens=config.max_caption_tokens,
        bidirectional=config.bidirectional,
    )


class CaptioningPipeline:
    """Captions pictures with a trained captioner. Needs the encoder's weights, but none of the training data."""

    def __init__(self, encoder: GridEncoder, captioner: Captioner, tokenizer: Tokenizer, runtime: Runtime) -> None:
        self.encoder = encoder
        self.captioner = captioner.to(runtime.device).eval()
        self.tokenizer = tokenizer
        self.runtime = runtime

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto") -> Self:
        """The pipeline of a run directory (newest good checkpoint, averaged weights if any) or of a saved folder.

        Args:
            folder: a captioning run's directory, or what `CaptioningTrainer.save` wrote.
            device: where to compute.

        Raises:
            RunError: not such a folder.
            MissingData: the pretrained encoder is not on this machine.
        """
        folder = Path(folder)
        if not (folder / configfile.NAME).is_file():
            raise RunError(f"{folder} is not a run directory: it has no {configfile.NAME}")
        config = configfile.read(folder / configfile.NAME)
        if not isinstance(config, CaptioningConfig):
            raise RunError(f"{folder} holds a {type(config).__name__}, not a captioning run")
        if not (folder / TOKENIZER_NAME).is_dir():
            raise RunError(f"{folder} has no tokenizer: train the run first")
        runtime = Runtime.from_config(dataclasses.replace(config, device=device, compile="off"))
        runtime.apply()
        tokenizer = load_tokenizer(folder / TOKENIZER_NAME)
        encoder = build_encoder(
            config.encoder, config.image_side, config.grid, device=runtime.device, dtype=runtime.dtype
        )
        captioner = build_captioner(config, encoder, tokenizer)
        captioner.load_state_dict(_weights(folder, captioner))
        return cls(encoder, captioner, tokenizer, runtime)

    def caption(self, images_B3HW: Tensor, *, beams: int = 1) -> list[str]:
        """One caption per picture.

        Args:
            images_B3HW: uint8 pictures of the encoder's side, from `multimodal.media`.
            beams: width of the beam; 1 is greedy.
        """
        features_BPF = self.encoder.encode(images_B3HW)
        return generate_captions(self.captioner, features_BPF, self.tokenizer.decode, self.runtime, beams=beams)


def _weights(folder: Path, captioner: Captioner) -> Mapping[str, Tensor]:
    """The captioner's state dict from saved weights, or from a run's newest checkpoint."""
    if (folder / WEIGHTS_NAME).is_file():
        from safetensors.torch import load_file

        stored: dict[str, Any] = load_file(folder / WEIGHTS_NAME)
    else:
        found = checkpoint.latest(folder / CHECKPOINTS_NAME)
        if found is None:
            raise RunError(f"{folder} has no good checkpoint: train it first")
        updater = found.state["task"]["updater"]
        stored = {**updater["module"], **updater["ema"]}
    weights = {name.removeprefix(_PREFIX): value for name, value in stored.items()}
    # Tied weights are stored once; which of the two names they bear is up to the writer.
    head, embedding = "model.lm_head.weight", "model.model.embed_tokens.weight"
    if captioner.model.config.tied:
        tied = weights.get(embedding, weights.get(head))
        weights |= {head: tied, embedding: tied}
    return weights
