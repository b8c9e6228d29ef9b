"""EfficientNet-Lite0: the same numbers as timm's, with the batch norms folded in, and the published weights."""

import pytest
import torch
from torch import Tensor

from core.pretrained.sources import DamagedData, MissingData, locate
from multimodal.encoders.efficientnet_lite import (
    CHANNELS,
    SOURCE,
    EfficientNetLite0,
    load_efficientnet_lite0,
    normalise,
)
from multimodal.encoders.encoder import fingerprint


def published_names() -> list[str]:
    """The names of the published file in the network's order."""

    def norm(name: str) -> list[str]:
        return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    names = ["_conv_stem.weight", *norm("_bn0")]
    for index in range(16):
        block = f"_blocks.{index}"
        if index:
            names += [f"{block}._expand_conv.weight", *norm(f"{block}._bn0")]
        names += [f"{block}._depthwise_conv.weight", *norm(f"{block}._bn1")]
        names += [f"{block}._project_conv.weight", *norm(f"{block}._bn2")]
    return [*names, "_conv_head.weight", *norm("_bn1"), "_fc.weight", "_fc.bias"]


@pytest.fixture(scope="module")
def peer() -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """timm's network with random weights and statistics in float64, and its tensors under the published names."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").double().eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    state = network.state_dict()
    return network, dict(zip(published_names(), state.values(), strict=True))


@pytest.mark.parametrize("side", [144, 101, 64])
def test_equal_to_timm(peer: tuple[torch.nn.Module, dict[str, Tensor]], side: int):
    network, tensors = peer
    ours = EfficientNetLite0().double().eval()
    ours.load_published(tensors)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
    with torch.no_grad():
        expected, logits = network.forward_features(images), network(images)
        features = ours(images)
        assert features.shape == (2, CHANNELS, -(-side // 32), -(-side // 32))
        torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours.classify(images), logits, rtol=1e-9, atol=1e-12)


def test_number_of_parameters_is_the_published_one_less_the_norms():
    # 4,652,008 parameters as published, with two vectors per norm; folding leaves one bias instead.
    norms = 32 + sum(module.conv.out_channels for block in EfficientNetLite0().blocks for module in block.children())
    norms += CHANNELS
    assert sum(parameter.numel() for parameter in EfficientNetLite0().parameters()) == 4_652_008 - norms


def test_other_weights_are_refused(peer: tuple[torch.nn.Module, dict[str, Tensor]]):
    tensors = dict(peer[1])
    del tensors["_blocks.3._project_conv.weight"]
    with pytest.raises(DamagedData, match=r"_blocks\.3\._project_conv"):
        EfficientNetLite0().load_published(tensors)
    with pytest.raises(DamagedData, match="not those of EfficientNet-Lite0"):
        EfficientNetLite0().load_published({**peer[1], "_fc.bias": torch.zeros(10)})


def test_fingerprint_follows_the_weights(peer: tuple[torch.nn.Module, dict[str, Tensor]]):
    first, second = EfficientNetLite0(), EfficientNetLite0()
    first.load_published(peer[1])
    second.load_published(peer[1])
    assert fingerprint(first) == fingerprint(second)
    second.head.conv.bias.data[7] += 1e-3
    assert fingerprint(first) != fingerprint(second)


def test_normalise_by_hand():
    images = torch.tensor([0, 127, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert normalise(images).flatten().tolist() == [-127 / 128, 0.0, 1.0]


def test_published_weights_name_a_picture():
    """A drawn tiger is not at hand on every machine: a plain orange disc with a leaf must at least be some fruit."""
    try:
        locate(SOURCE)
    except MissingData as error:
        pytest.skip(str(error))
    network = load_efficientnet_lite0()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    side = 224
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = torch.full((3, side, side), 255, dtype=torch.uint8)
    disc = (x - 112) ** 2 + (y - 120) ** 2 < 80**2
    shade = (1 - ((x - 90) ** 2 + (y - 95) ** 2) / 40_000).clamp(0.5, 1)
    for channel, value in enumerate((255, 140, 0)):
        image[channel][disc] = (value * shade)[disc].to(torch.uint8)
    top = network.classify(normalise(image[None])).topk(5).indices[0].tolist()
    # 950 orange, 951 lemon.
    assert 950 in top
