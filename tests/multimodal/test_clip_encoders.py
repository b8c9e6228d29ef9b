"""Clip encoders: order and padding of frames, and torchvision's video networks by their own pooled outputs."""

from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.transforms.v2.functional import normalize

from multimodal.encoders.backbones import ModelUnavailable
from multimodal.encoders.clips import ConvClipEncoder, TorchvisionClipEncoder
from multimodal.encoders.encoder import fingerprint, pad_inputs
from multimodal.examples import Medium

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def clip(num_frames: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.fixture
def conv() -> ConvClipEncoder:
    """With random matrices everywhere: the Transformer's own start is the identity."""
    torch.manual_seed(0)
    encoder = ConvClipEncoder(side=16, num_frames=6, width=64, num_layers=1)
    for parameter in encoder.transformer.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return encoder.eval()


@torch.no_grad()
def test_a_clip_gives_one_vector_a_frame(conv: ConvClipEncoder) -> None:
    loaded = conv.load(Medium("video", clip(9, 20), rate=10))
    assert (loaded.shape, loaded.dtype) == ((6, 3, 16, 16), torch.uint8)
    features, mask = conv(loaded[None], torch.tensor([6]))
    assert (features.shape, features.dtype) == ((1, 6, 64), torch.float32)
    assert mask.tolist() == [[True] * 6]
    assert conv.num_positions(6) == conv.max_steps == 6


@torch.no_grad()
def test_a_clip_backwards_is_another_clip(conv: ConvClipEncoder) -> None:
    frames, lengths = clip(6)[None], torch.tensor([6])
    forward, backward = conv(frames, lengths)[0], conv(frames.flip(1), lengths)[0]
    # Not even as a set of vectors are they the same: a network that averages frames would not notice.
    assert (torch.cdist(forward[0], backward[0]).min(1).values > 0.1).all()
    assert not torch.allclose(forward.mean(1), backward.mean(1), atol=1e-2)


@torch.no_grad()
def test_where_something_is_matters(conv: ConvClipEncoder) -> None:
    frames, lengths = torch.zeros(2, 6, 3, 16, 16, dtype=torch.uint8), torch.tensor([6, 6])
    frames[0, :, :, 2:6, 2:6] = 255
    frames[1, :, :, 10:14, 10:14] = 255  # the same square, elsewhere
    features, _ = conv(frames, lengths)
    assert not torch.allclose(features[0], features[1], atol=1e-2)


@torch.no_grad()
def test_masked_frames_change_nothing(conv: ConvClipEncoder) -> None:
    clips = [clip(6, seed=1), clip(2, seed=2), clip(1, seed=3)]
    padded, lengths = pad_inputs(clips)
    noise = torch.where((torch.arange(6) < lengths[:, None])[..., None, None, None], padded, clip(6, seed=4)[None])
    for batch in (padded, noise):
        features, mask = conv(batch, lengths)
        assert mask.sum(1).tolist() == [6, 2, 1]
        for row, one in enumerate(clips):
            alone, _ = conv(one[None], torch.tensor([len(one)]))
            torch.testing.assert_close(features[row, : len(one)], alone[0], **CLOSE)


def test_every_weight_of_the_conv_encoder_gets_a_gradient(conv: ConvClipEncoder) -> None:
    assert not conv.frozen
    features, mask = conv.train()(*pad_inputs([clip(6), clip(2)]))
    features[mask].square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# torchvision's networks


@pytest.mark.parametrize(
    ("architecture", "num_frames", "side", "num_steps", "num_features"),
    [
        ("r2plus1d_18", 8, 112, 1, 512),
        pytest.param("s3d", 16, 224, 2, 1024, marks=pytest.mark.soak),
        ("swin3d_t", 4, 224, 2, 768),
    ],
)
@torch.no_grad()
def test_features_averaged_over_time_are_torchvisions_pooled_ones(
    architecture: str, num_frames: int, side: int, num_steps: int, num_features: int
) -> None:
    torch.manual_seed(0)
    encoder = TorchvisionClipEncoder(architecture, "random", num_frames=num_frames)
    assert (encoder.side, encoder.max_steps, encoder.num_features) == (side, num_steps, num_features)
    frames = encoder.load(Medium("video", clip(num_frames, side), rate=10))
    features, mask = encoder(frames[None], torch.tensor([num_frames]))
    assert features.shape == (1, num_steps, num_features)
    assert mask.all()
    assert encoder.num_positions(num_frames) == num_steps
    assert not any(module.training for module in encoder.train().modules())  # frozen, it stays so
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    preset = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    normal = normalize(frames.float() / 255, preset.mean, preset.std)
    # The classifier is dropped, so what the network itself gives is what it would classify.
    pooled = encoder.network(normal.transpose(0, 1)[None]).flatten(1)
    torch.testing.assert_close(features.mean(1), pooled, atol=1e-4, rtol=1e-4)


@pytest.mark.soak
@torch.no_grad()
def test_mvit_gives_its_normed_tokens_averaged_over_space() -> None:
    torch.manual_seed(0)
    encoder = TorchvisionClipEncoder("mvit_v1_b", "random", num_frames=16)
    seen: list[torch.Tensor] = []
    encoder.network.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    frames = clip(16, 224)
    features, _ = encoder(frames[None], torch.tensor([16]))
    encoder.network((frames.float() / 255 - 0.45).div(0.225).transpose(0, 1)[None])
    ours, theirs = seen
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert theirs.shape == (1, 1 + 8 * 7 * 7, 768)
    third = theirs[0, 1 + 2 * 49 : 1 + 3 * 49].mean(0)
    assert features.shape == (1, 8, 768)
    torch.testing.assert_close(features[0, 2], third, **CLOSE)


def test_building_an_encoder_leaves_the_weights_of_a_file_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.get_model("r3d_18")
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    encoder = TorchvisionClipEncoder("r3d_18", str(tmp_path / "weights.pt"), num_frames=2)
    # A first pass in training mode would move the batch norms' statistics.
    whole.fc = torch.nn.Identity()
    assert fingerprint(encoder.network) == fingerprint(whole)
    assert fingerprint(whole) in encoder.name


def test_a_video_network_can_be_trained() -> None:
    encoder = TorchvisionClipEncoder("r3d_18", "random", num_frames=2, frozen=False).train()
    assert encoder.network.training
    features, _ = encoder(clip(2, 112)[None], torch.tensor([2]))
    features.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_batch_norms_follow_the_batch_only_where_they_know_no_better(tmp_path: Path) -> None:
    torch.save(torchvision.models.get_model("r3d_18").state_dict(), tmp_path / "weights.pt")
    for weights, moves in (("random", True), (str(tmp_path / "weights.pt"), False)):
        encoder = TorchvisionClipEncoder("r3d_18", weights, num_frames=2, frozen=False).train()
        before = fingerprint(encoder.network)
        encoder(clip(2, 112)[None], torch.tensor([2]))
        assert (fingerprint(encoder.network) != before) == moves


def test_what_cannot_be_built_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no video network 'resnet18'; it has: .*r2plus1d_18"):
        TorchvisionClipEncoder("resnet18", "random")
    with pytest.raises(ValueError, match="mvit_v2_s takes 16 frames, not 8: set num_frames=16"):
        TorchvisionClipEncoder("mvit_v2_s", "random", num_frames=8)
    with pytest.raises(ModelUnavailable, match="must be `pretrained`, `random` or a file"):
        TorchvisionClipEncoder("r3d_18", "absent.pt")

    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    with pytest.raises(ModelUnavailable, match=r"torchvision's r3d_18 cannot be had \(no network\): give a file"):
        TorchvisionClipEncoder("r3d_18", "pretrained")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_conv_clips_on_cuda_equal_the_cpu(conv: ConvClipEncoder) -> None:
    padded, lengths = pad_inputs([clip(6, seed=1), clip(2, seed=2)])
    expected, mask = conv(padded, lengths)
    found, found_mask = conv.cuda()(padded.cuda(), lengths)  # batches keep the lengths on the CPU
    assert torch.equal(found_mask.cpu(), mask)
    torch.testing.assert_close(found.cpu()[mask], expected[mask], atol=2e-2, rtol=1e-2)  # TF32 convolutions


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_video_networks_on_cuda_equal_the_cpu() -> None:
    torch.manual_seed(0)
    encoder = TorchvisionClipEncoder("r2plus1d_18", "random", num_frames=8)
    frames, lengths = clip(8, 112)[None], torch.tensor([8])
    expected, _ = encoder(frames, lengths)
    found, mask = encoder.cuda()(frames.cuda(), lengths)
    assert mask.is_cuda
    torch.testing.assert_close(found.cpu(), expected, atol=2e-2, rtol=1e-2)  # TF32 convolutions
