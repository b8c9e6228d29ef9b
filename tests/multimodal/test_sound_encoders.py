"""Sound encoders: padding changes nothing, Whisper equals transformers', and the files its weights come from."""

import json
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from core.pretrained.sources import DamagedData, MissingData, locate
from multimodal.encoders.ctranslate2 import read_variables, read_whisper
from multimodal.encoders.encoder import pad_inputs
from multimodal.encoders.spectrogram import SpectrogramEncoder, log_mel, spec_augment
from multimodal.encoders.whisper import SOURCE, WhisperEncoder, WhisperMel, load_whisper
from multimodal.examples import Medium
from multimodal.media.errors import MediaError

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def sound(num_samples: int, seed: int = 0) -> Tensor:
    """Two gliding tones in a little noise."""
    time_s = torch.arange(num_samples) / 16_000
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))
    return 0.3 * (440 * (1 + seed + time_s) * 6.28 * time_s).sin() + 0.2 * (50 * time_s * 6.28).sin() + 0.01 * noise


def randomise(module: torch.nn.Module) -> None:
    """Every matrix random: the Transformer's own start is the identity."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[1:].numel() ** -0.5)


# Spectrogram


@pytest.fixture(scope="module")
def spectrogram() -> SpectrogramEncoder:
    encoder = SpectrogramEncoder(width=64, num_layers=2, max_seconds=4.0)
    randomise(encoder)
    return encoder.eval()


def test_log_mel_by_hand() -> None:
    # Silence is the floor: log(1e-5) = -11.513, and (-11.513 + 5) / 4 = -1.628. 160 samples are one more frame.
    silence = log_mel()(torch.zeros(1600))
    assert silence.shape == (11, 64)
    torch.testing.assert_close(silence, torch.full((11, 64), -1.6282), atol=1e-4, rtol=0)
    # A tone excites the bands around it and no others, and twice as loud adds log(2) / 4 there.
    tone = 0.4 * (1000 * 6.28318 * torch.arange(16_000) / 16_000).sin()
    quiet, loud = log_mel()(tone)[50], log_mel()(2 * tone)[50]
    peak = int(quiet.argmax())
    assert 20 < peak < 28  # 1000 Hz is 1000 mel, of 2840 at 8 kHz: 35 % of 64 bands
    assert loud[peak] - quiet[peak] == pytest.approx(0.1733, abs=1e-4)


@pytest.mark.parametrize("num_samples", [1, 100, 256, 257, 400])
def test_sounds_shorter_than_a_window_are_encoded(spectrogram: SpectrogramEncoder, num_samples: int) -> None:
    mel = spectrogram.load(Medium("audio", sound(num_samples), rate=16_000))
    assert mel.dtype == torch.float16
    features, mask = spectrogram(mel[None], torch.tensor([len(mel)]))
    assert features.shape == (1, 1, 64)
    assert mask.all()
    assert features.isfinite().all()


def test_num_steps_is_what_comes_out(spectrogram: SpectrogramEncoder) -> None:
    for length in (1, 2, 3, 4, 5, 8, 9, 101):
        features, mask = spectrogram(torch.zeros(1, length, 64), torch.tensor([length]))
        assert features.shape[1] == mask.shape[1] == spectrogram.num_steps(length) == spectrogram.num_positions(length)
    longest = spectrogram.load(Medium("audio", sound(64_000), rate=16_000))
    assert spectrogram.num_steps(len(longest)) <= spectrogram.max_steps
    with pytest.raises((MediaError, ValueError), match="4"):
        spectrogram.load(Medium("audio", sound(80_000), rate=16_000))


@torch.no_grad()
def test_padding_changes_no_feature_of_a_spectrogram(spectrogram: SpectrogramEncoder) -> None:
    inputs = [spectrogram.load(Medium("audio", sound(count, count % 7), rate=16_000)) for count in (20_000, 700, 7_777)]
    padded, lengths = pad_inputs(inputs)
    # Whatever stands in the padding must not matter either.
    filled = padded.masked_fill((torch.arange(padded.shape[1]) >= lengths[:, None])[..., None], 3.0)
    for batch in (padded, filled):
        features, mask = spectrogram(batch, lengths)
        assert mask.sum(1).tolist() == [spectrogram.num_steps(len(one)) for one in inputs]
        for row, one in enumerate(inputs):
            alone, _ = spectrogram(one[None], torch.tensor([len(one)]))
            torch.testing.assert_close(features[row][mask[row]], alone[0], **CLOSE)


def test_spec_augment_covers_whole_bands_and_spans_with_zeros_only() -> None:
    torch.manual_seed(0)
    x_NMT = torch.rand(16, 64, 100) + 1
    y_NMT = spec_augment(x_NMT)
    covered = y_NMT == 0
    assert torch.equal(torch.where(covered, x_NMT, y_NMT), x_NMT)
    whole_bands, whole_spans = covered.all(2), covered.all(1)
    assert torch.equal(covered, whole_bands[:, :, None] | whole_spans[:, None])
    assert whole_bands.any()
    assert whole_spans.any()
    assert whole_bands.sum(1).max() <= 2 * 13  # two bands of at most 12, which may begin between two rows
    assert whole_spans.sum(1).max() <= 2 * 11
    assert len({tuple(row) for row in whole_bands.tolist()}) > 8  # each sound has its own
    assert torch.equal(spec_augment(x_NMT, bands=0, spans=0), x_NMT)


def test_spectra_are_masked_only_while_training() -> None:
    inputs, lengths = torch.rand(4, 80, 64) + 1, torch.full((4,), 80)
    for wanted, mode in ((True, True), (True, False), (False, True)):
        encoder = SpectrogramEncoder(width=64, num_layers=1, spec_augment=wanted).train(mode)
        encoder.transformer.eval()  # whose dropout is chance as well
        first, second = encoder(inputs, lengths)[0], encoder(inputs, lengths)[0]
        assert torch.equal(first, second) != (wanted and mode)


def test_every_weight_of_the_spectrogram_encoder_gets_a_gradient() -> None:
    encoder = SpectrogramEncoder(width=64, num_layers=1)
    randomise(encoder)
    assert not encoder.frozen
    features, mask = encoder(torch.rand(2, 40, 64), torch.tensor([40, 9]))
    features[mask].square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# Whisper


@pytest.fixture(scope="module")
def peer() -> torch.nn.Module:
    """transformers' Whisper, small and random; full length, as its feature extractor makes 30 s of everything."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=64, d_model=128, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=256, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=128, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    randomise(model.model.encoder.layers)
    return model


@pytest.fixture(scope="module")
def whisper(peer: torch.nn.Module) -> WhisperEncoder:
    return WhisperEncoder(peer.state_dict(), source="random")


@pytest.mark.parametrize("num_samples", [16_000, 7_777, 480_000])
def test_mel_equals_the_feature_extractor_of_transformers(num_samples: int) -> None:
    transformers = pytest.importorskip("transformers")
    samples = sound(num_samples)
    extractor = transformers.WhisperFeatureExtractor()
    expected = extractor(samples.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    found = WhisperMel()(torch.nn.functional.pad(samples, (0, 480_000 - num_samples))[None])
    assert found.shape == (1, 80, 3000)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


@torch.no_grad()
def test_whisper_equals_the_encoder_of_transformers(peer: torch.nn.Module, whisper: WhisperEncoder) -> None:
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(1))
    expected = peer.model.encoder(mel).last_hidden_state
    torch.testing.assert_close(whisper.encode(mel), expected, **CLOSE)


@torch.no_grad()
def test_the_features_are_four_neighbouring_positions_side_by_side(whisper: WhisperEncoder) -> None:
    samples = sound(16_000)[None]
    features, mask = whisper(samples, torch.tensor([16_000]))
    # One second is 50 positions of 20 ms: 12 and a half groups of 4.
    assert features.shape == (1, 13, 4 * 128)
    assert mask.all()
    hidden = whisper.encode(whisper.mel(torch.nn.functional.pad(samples, (0, 8_000))))
    assert hidden.shape == (1, 75, 128)
    assert torch.equal(features[0, 3], hidden[0, 12:16].flatten())


def test_number_of_steps_of_whisper(whisper: WhisperEncoder) -> None:
    assert [whisper.num_steps(count) for count in (1, 1280, 1281, 16_000, 480_000)] == [1, 1, 2, 13, 375]
    assert whisper.max_steps == 375
    assert whisper.num_features == 512


@pytest.mark.parametrize("pool", [1, 4, 7, 40])
@torch.no_grad()
def test_padding_changes_no_feature_of_whisper(peer: torch.nn.Module, pool: int) -> None:
    whisper = WhisperEncoder(peer.state_dict(), source="random", pool=pool)
    inputs = [sound(count, count % 5) for count in (20_000, 161, 7_937)]
    features, mask = whisper(*pad_inputs(inputs))
    for row, one in enumerate(inputs):
        alone, own = whisper(one[None], torch.tensor([len(one)]))
        assert own.all()
        assert mask[row].sum() == alone.shape[1] == whisper.num_steps(len(one))
        torch.testing.assert_close(features[row][mask[row]], alone[0], atol=3e-5, rtol=3e-5)


@torch.no_grad()
def test_the_longest_sound_fills_every_position(whisper: WhisperEncoder) -> None:
    features, mask = whisper(torch.zeros(1, 480_000), torch.tensor([480_000]))
    assert features.shape == (1, 375, 512)
    assert mask.all()


def test_whisper_is_frozen_or_trained(peer: torch.nn.Module, whisper: WhisperEncoder) -> None:
    samples = sound(4_000)[None]
    assert not whisper(samples, torch.tensor([4_000]))[0].requires_grad
    assert not any(parameter.requires_grad for parameter in whisper.parameters())
    trained = WhisperEncoder(peer.state_dict(), source="random", frozen=False)
    trained(samples, torch.tensor([4_000]))[0].square().sum().backward()
    assert trained.conv1.weight.grad.abs().max() > 0


def test_whisper_refuses_sounds_over_thirty_seconds(whisper: WhisperEncoder) -> None:
    assert whisper.load(Medium("audio", sound(800), rate=8_000)).shape == (1_600,)
    with pytest.raises((MediaError, ValueError), match="30"):
        whisper.load(Medium("audio", sound(481_000), rate=16_000))


@torch.no_grad()
def test_a_folder_that_transformers_saved(peer: torch.nn.Module, whisper: WhisperEncoder, tmp_path: Path) -> None:
    samples, lengths = sound(4_000)[None], torch.tensor([4_000])
    # Both classes write their tensors under different names.
    for model in (peer, peer.model):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        state, source = load_whisper(folder)
        assert source == folder.name
        assert torch.equal(WhisperEncoder(state, source=source)(samples, lengths)[0], whisper(samples, lengths)[0])


def test_folders_that_hold_no_whisper(peer: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read .*give a folder that transformers saved"):
        load_whisper(tmp_path / "absent")
    folder = tmp_path / "model"
    peer.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "encoder_attention_heads": 4}))
    with pytest.raises(UserError, match="4 heads of 128 features: only heads of 64"):
        load_whisper(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_whisper(folder)
    weights.unlink()
    with pytest.raises(UserError, match="holds no Whisper"):
        load_whisper(folder)


@torch.no_grad()
def test_the_packaged_whisper_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    try:
        locate(SOURCE)
    except MissingData as error:
        pytest.skip(str(error))
    state, source = load_whisper()
    encoder = WhisperEncoder(state, source=source)
    assert (source, encoder.num_features) == ("tiny.en", 4 * 384)
    config = transformers.WhisperConfig(vocab_size=51864)  # whose other defaults are those of tiny
    peer = transformers.WhisperForConditionalGeneration(config).eval()
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], [])  # shared with the embeddings
    mel = WhisperMel()(torch.nn.functional.pad(sound(32_000), (0, 448_000))[None])
    torch.testing.assert_close(encoder.encode(mel), peer.model.encoder(mel).last_hidden_state, atol=1e-3, rtol=1e-3)


# CTranslate2's format


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def model_bin(variables: dict[str, Tensor], version: int = 6) -> bytes:
    """A `model.bin` written after the format's description, independently of the reader."""
    codes = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.float16: 4}
    data = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        data += text(name) + struct.pack("<B", value.dim()) + struct.pack(f"<{value.dim()}I", *value.shape)
        content = value.numpy().tobytes()
        data += struct.pack("<BI", codes[value.dtype], len(content)) + content
    return data + struct.pack("<I", 0)  # no aliases


def ctranslate2_variables(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of transformers' names, as CTranslate2 names and joins it."""
    found = {
        "encoder/num_heads": torch.tensor(2, dtype=torch.int16),
        "encoder/position_encodings/encodings": state["model.encoder.embed_positions.weight"],
    }
    for leaf, norm in (("weight", "gamma"), ("bias", "beta")):
        found[f"encoder/layer_norm/{norm}"] = state[f"model.encoder.layer_norm.{leaf}"]
        for conv in ("conv1", "conv2"):
            found[f"encoder/{conv}/{leaf}"] = state[f"model.encoder.{conv}.{leaf}"]
        for layer in range(2):
            ours, theirs = f"model.encoder.layers.{layer}", f"encoder/layer_{layer}"
            key_bias = {f"{ours}.self_attn.k_proj.bias": torch.zeros(128)}
            joined = [(state | key_bias)[f"{ours}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            found[f"{theirs}/self_attention/linear_0/{leaf}"] = torch.cat(joined)
            found[f"{theirs}/self_attention/linear_1/{leaf}"] = state[f"{ours}.self_attn.out_proj.{leaf}"]
            found[f"{theirs}/ffn/linear_0/{leaf}"] = state[f"{ours}.fc1.{leaf}"]
            found[f"{theirs}/ffn/linear_1/{leaf}"] = state[f"{ours}.fc2.{leaf}"]
            found[f"{theirs}/self_attention/layer_norm/{norm}"] = state[f"{ours}.self_attn_layer_norm.{leaf}"]
            found[f"{theirs}/ffn/layer_norm/{norm}"] = state[f"{ours}.final_layer_norm.{leaf}"]
    return found


def test_ctranslate2_variables_are_read_back(tmp_path: Path) -> None:
    variables = {
        "a/weight": torch.arange(6, dtype=torch.float32).view(2, 3),
        "b": torch.tensor([1.5, -2], dtype=torch.float16),
        "c": torch.tensor(7, dtype=torch.int32),
        "d": torch.tensor([-1, 5], dtype=torch.int8),
    }
    (tmp_path / "model.bin").write_bytes(model_bin(variables))
    found = read_variables(tmp_path / "model.bin")
    assert list(found) == list(variables)
    for name, value in variables.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_a_ctranslate2_whisper_is_the_same_encoder(peer: torch.nn.Module, tmp_path: Path) -> None:
    state = {name: value for name, value in peer.state_dict().items() if ".encoder." in name}
    (tmp_path / "model.bin").write_bytes(model_bin(ctranslate2_variables(state)))
    found = read_whisper(tmp_path / "model.bin")
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(found[name], value), name


def test_damaged_ctranslate2_files(peer: torch.nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    data = model_bin({"a/weight": torch.ones(4, 8), "b": torch.ones(3)})
    for end in (0, 2, 8, 20, 30, 60, len(data) - 12):
        file.write_bytes(data[:end])
        with pytest.raises(DamagedData, match=r"model\.bin"):
            read_variables(file)
    place = data.index(struct.pack("<II", 4, 8))
    for wrong in (struct.pack("<II", 4, 9), struct.pack("<II", 5, 8)):  # a shape that its bytes do not fill
        file.write_bytes(data[:place] + wrong + data[place + 8 :])
        with pytest.raises(DamagedData, match=r"damaged .*get it again"):
            read_variables(file)
    file.write_bytes(data[: place + 8] + b"\x77" + data[place + 9 :])  # no such dtype
    with pytest.raises(DamagedData):
        read_variables(file)
    file.write_bytes(model_bin({}, version=5))
    with pytest.raises(DamagedData, match="format 5; only 6"):
        read_variables(file)


@pytest.mark.parametrize("name", ["encoder/layer_0/odd/linear_0/weight", "encoder/conv2/weight", "other"])
def test_other_ctranslate2_models_are_not_whispers(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.bin").write_bytes(model_bin({name: torch.ones(4, 8)}))
    with pytest.raises(DamagedData, match="is a CTranslate2 model, but not of Whisper"):
        read_whisper(tmp_path / "model.bin")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["spectrogram", "whisper"])
@torch.no_grad()
def test_sound_encoder_on_cuda_equals_the_cpu(name: str, request: pytest.FixtureRequest) -> None:
    encoder = request.getfixturevalue(name)
    inputs = [encoder.load(Medium("audio", sound(count), rate=16_000)) for count in (20_000, 7_777)]
    padded, lengths = pad_inputs(inputs)
    expected, mask = encoder(padded, lengths)
    found, found_mask = encoder.cuda()(padded.cuda(), lengths)  # batches keep the lengths on the CPU
    encoder.cpu()
    assert torch.equal(found_mask.cpu(), mask)
    torch.testing.assert_close(found.cpu()[mask], expected[mask], atol=2e-2, rtol=1e-2)  # TF32 convolutions
