"""From the names in a config to encoders."""

from pathlib import Path
from typing import Any

from multimodal.config import CaptioningConfig
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Kind

DEFAULT_SIDE = 144
"""Pixels a side of pictures for encoders that take any size."""


def build_encoder(kind: Kind, config: CaptioningConfig) -> Encoder:
    """The encoder of a kind of media that a config names.

    Raises:
        ValueError: an unknown name.
        MissingData: the packaged weights are not on this machine.
        ModelUnavailable: other weights cannot be had.
    """
    name = config.encoder_name(kind)
    if kind == "audio":
        return _audio(name, config)
    frames: dict[str, Any] = {}
    if kind == "video":
        frames = {
            "num_frames": config.num_frames,
            "sampling": config.frame_sampling,
            "stride": config.frame_stride,
        }
        if name == "conv":
            from multimodal.encoders.clips import ConvClipEncoder

            return ConvClipEncoder(side=config.image_side or DEFAULT_SIDE, width=config.encoder_width, **frames)
        if name.startswith("torchvision_video:"):
            from multimodal.encoders.clips import TorchvisionClipEncoder

            _require_own_side(name, config)
            _, architecture, weights = _parts(name)
            return TorchvisionClipEncoder(architecture, weights, frozen=not config.train_encoders, **frames)
    from multimodal.encoders.pictures import PictureEncoder

    network = _network(name, config)
    return PictureEncoder(
        network,
        kind,
        frozen=not (name == "vit" or config.train_encoders),
        from_scratch=name == "vit" or name.endswith(":random"),
        augment=config.augment,
        **frames,
    )


def _audio(name: str, config: CaptioningConfig) -> Encoder:
    if name == "spectrogram":
        from multimodal.encoders.spectrogram import SpectrogramEncoder

        return SpectrogramEncoder(
            width=config.encoder_width,
            pool=config.audio_pool,
            max_seconds=config.max_seconds,
            spec_augment=config.augment,
        )
    from multimodal.encoders.whisper import WhisperEncoder, load_whisper

    folder = Path(name.removeprefix("whisper:")) if name.startswith("whisper:") else None
    state, source = load_whisper(folder)
    return WhisperEncoder(
        state, source=source, pool=config.audio_pool, max_seconds=config.max_seconds, frozen=not config.train_encoders
    )


def _network(name: str, config: CaptioningConfig) -> Any:
    """A picture network."""
    side = config.image_side or DEFAULT_SIDE
    if name == "pixels":
        from multimodal.encoders.grid import PixelGrid

        return PixelGrid(side, config.grid)
    if name == "efficientnet_lite0":
        from multimodal.encoders.efficientnet_lite import load_efficientnet_lite0
        from multimodal.encoders.grid import EfficientNetGrid

        return EfficientNetGrid(load_efficientnet_lite0(), side, config.grid)
    if name == "vit":
        from multimodal.encoders.vit import SmallViT

        return SmallViT(side, config.grid, width=config.encoder_width)
    from multimodal.encoders import backbones

    library, architecture, weights = _parts(name)
    if library == "open_clip":
        _require_own_side(name, config)
        return backbones.open_clip_backbone(architecture, weights)
    if library == "timm":
        return backbones.timm_backbone(architecture, weights, config.image_side)
    return backbones.torchvision_backbone(architecture, weights, config.image_side or 224)


def _require_own_side(name: str, config: CaptioningConfig) -> None:
    if config.image_side is not None:
        raise ValueError(f"{name} takes pictures of its own size only: leave image_side out")


def _parts(name: str) -> tuple[str, str, str]:
    """Library, architecture and weights of `timm:resnet18:pretrained`."""
    library, _, rest = name.partition(":")
    architecture, _, weights = rest.partition(":")
    return library, architecture, weights or "pretrained"
