"""Hugging Face folders, against transformers as the independent implementation."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.generate import generate, pad_left
from core.nn import attention, linear
from core.nn.lstm import LSTM
from core.pretrained import architectures, huggingface
from core.pretrained.architectures import ExportError, UnsupportedModel, from_config_json, to_config_json
from core.pretrained.huggingface import from_hf, save_hf, to_hf
from core.sampling import Sampling
from core.text.tokenizer import ByteTokenizer, CharTokenizer

transformers = pytest.importorskip("transformers")

OURS = {
    "llama": {"qk_norm": False},
    "llama-untied-gqa": {"qk_norm": False, "num_kv_heads": 2, "tied": False},
    "llama-head-dim": {"qk_norm": False, "head_dim": 32, "rope_theta": 5e5, "norm_eps": 1e-5},
    "llama-bias-scaled": {"qk_norm": False, "bias": True, "rope_scaling": 2.0},
    "qwen3": {},
    "qwen3-untied-gqa": {"num_kv_heads": 1, "tied": False, "head_dim": 32, "rope_theta": 1e6, "mlp_width": 96},
    "gpt2": {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu_tanh", "bias": True},
    "gpt2-untied-plain": {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu",
                          "tied": False, "norm_eps": 1e-5},
}  # fmt: skip

SMALL = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
THEIRS = {
    "llama": ("LlamaConfig", {**SMALL, "tie_word_embeddings": True}),
    "llama-untied-gqa": ("LlamaConfig", {**SMALL, "num_key_value_heads": 2, "attention_bias": True}),
    "llama-linear": ("LlamaConfig", {**SMALL, "head_dim": 32, "mlp_bias": True, "rms_norm_eps": 1e-5,
                     "rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}}),
    "qwen3": ("Qwen3Config", {**SMALL, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-untied": ("Qwen3Config", {**SMALL, "num_key_value_heads": 4, "head_dim": 32,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2": ("Qwen2Config", {**SMALL, "num_key_value_heads": 2}),
    "gpt2": ("GPT2Config", {"vocab_size": 97, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}),
}  # fmt: skip

TOKENS_BT = torch.randint(97, (3, 40), generator=torch.Generator().manual_seed(1))
PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]


def our_logits(model, tokens_BT, **options):
    with torch.no_grad():
        return model.logits(model(tokens_BT, **options))


def random_theirs(name, seed=0):
    """A transformers model whose parameters are all random: its own initialisation leaves biases and norms plain."""
    kind, fields = THEIRS[name]
    config = getattr(transformers, kind)(**fields)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.12, generator=generator)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.mark.parametrize("name", OURS)
def test_saved_folder_gives_equal_logits_in_transformers_and_in_ours(name, random_model, tmp_path):
    model = random_model(**OURS[name])
    export = save_hf(model, tmp_path / "out")

    assert export.family == name.split("-")[0]
    assert export.checked_by == "transformers"
    assert export.max_difference <= 1e-5
    again, tokenizer = from_hf(tmp_path / "out")
    assert tokenizer is None
    assert torch.equal(our_logits(again.eval(), TOKENS_BT), our_logits(model, TOKENS_BT))


@pytest.mark.parametrize("name", [name for name in OURS if name != "gpt2"])
def test_the_same_attention_kernel_gives_the_same_bits(name, random_model, tmp_path, monkeypatch):
    # So what is left of the difference above is rounding in our attention and our products, nothing else. GPT-2's
    # gelu_new is a formula in Python in transformers and a fused kernel here: 1.2e-6.
    monkeypatch.setattr(attention, "MAX_BMM_KEYS", 0)
    monkeypatch.setattr(linear, "prefers_onednn", lambda: False)
    assert save_hf(random_model(**OURS[name]), tmp_path / "out").max_difference == 0.0


@pytest.mark.parametrize("name", THEIRS)
def test_loads_what_transformers_saved(name, tmp_path):
    theirs = random_theirs(name)
    theirs.save_pretrained(tmp_path)
    ours, _ = from_hf(tmp_path)
    ours.eval()
    with torch.no_grad():
        expected = theirs(TOKENS_BT).logits
    torch.testing.assert_close(our_logits(ours, TOKENS_BT), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama-untied-gqa", "qwen3", "gpt2"])
def test_left_padding_equals_their_attention_mask(name, tmp_path):
    theirs = random_theirs(name)
    theirs.save_pretrained(tmp_path)
    ours = from_hf(tmp_path)[0].eval()
    tokens_BT, mask_BT = pad_left(PROMPTS, torch.device("cpu"))
    positions = (mask_BT.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(tokens_BT, attention_mask=mask_BT.long(), position_ids=positions).logits
    found = our_logits(ours, tokens_BT, key_mask_BS=mask_BT)
    torch.testing.assert_close(found[mask_BT], expected[mask_BT], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama-untied-gqa", "llama-linear", "qwen3", "gpt2"])
def test_greedy_decoding_with_caches_gives_the_same_tokens(name, tmp_path):
    theirs = random_theirs(name)
    theirs.save_pretrained(tmp_path)
    ours = from_hf(tmp_path)[0]
    samples = generate(ours, PROMPTS, max_new_tokens=40, sampling=Sampling(temperature=0))
    tokens_BT, mask_BT = pad_left(PROMPTS, torch.device("cpu"))
    theirs.generation_config.pad_token_id = 0
    expected = theirs.generate(
        tokens_BT, attention_mask=mask_BT.long(), max_new_tokens=40, do_sample=False, eos_token_id=None
    )
    assert samples.tokens_BT.tolist() == expected[:, tokens_BT.shape[1] :].tolist()


def test_config_json_spells_out_every_field(random_model, tmp_path):
    tokenizer = CharTokenizer.train("abcdefgh")
    model = random_model(vocab_size=16, rope_theta=5e5, num_kv_heads=2, head_dim=32, mlp_width=80)
    save_hf(model, tmp_path / "out", tokenizer)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings == {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 16, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": True, "initializer_range": 0.02,
        "use_cache": True, "dtype": "float32", "torch_dtype": "float32", "hidden_size": 64, "intermediate_size": 80,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 5e5, "rope_scaling": None,
        "attention_bias": False, "attention_dropout": 0.0, "use_sliding_window": False, "sliding_window": None,
        "max_window_layers": 3, "layer_types": ["full_attention"] * 3,
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    modes = {(tmp_path / "out" / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1  # who may read the one may read the other
    assert "model.layers.2.self_attn.q_norm.weight" in tensors


@pytest.mark.parametrize("name", OURS)
def test_config_survives_the_round_trip(name, random_model):
    config = random_model(**OURS[name]).config
    again = from_config_json(json.loads(json.dumps(to_config_json(config))))
    computed = {"head_width", "kv_heads", "hidden"}
    given = set(vars(config)) - {"num_kv_heads", "head_dim", "mlp_width", "bias"}
    for field in given | computed:
        assert getattr(again, field) == getattr(config, field), field


@pytest.mark.parametrize(
    "tokenizer", [CharTokenizer.train("Ein Bär, \n42 中文"), ByteTokenizer()], ids=["char", "byte"]
)
def test_tokenizer_travels_along(tokenizer, random_model, tmp_path):
    save_hf(random_model(vocab_size=tokenizer.vocab_size), tmp_path / "out", tokenizer)
    _, ours = from_hf(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Bär 42\n中"
    assert ours.encode(text) == tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (ours.pad_id, ours.bos_id, ours.eos_id)
    # TRL writes the end of an example as text. Ours takes no orders from a text, before the export and after.
    assert theirs("B<eos>", add_special_tokens=False)["input_ids"] == [*tokenizer.encode("B"), tokenizer.eos_id]
    assert (
        ours.encode("B<eos>") == tokenizer.encode("B<eos>") != theirs("B<eos>", add_special_tokens=False)["input_ids"]
    )


def test_bfloat16_weights_stay_bfloat16(random_model, tmp_path):
    model = random_model().to(torch.bfloat16)
    assert save_hf(model, tmp_path / "out").max_difference <= 1e-5
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["dtype"] == "bfloat16"
    again, _ = from_hf(tmp_path / "out", dtype=torch.bfloat16)
    assert torch.equal(again.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)


def test_shards_are_read(tmp_path):
    theirs = random_theirs("qwen3-untied")
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = from_hf(tmp_path)[0].eval()
    with torch.no_grad():
        expected = theirs(TOKENS_BT).logits
    torch.testing.assert_close(our_logits(ours, TOKENS_BT), expected, atol=1e-5, rtol=0)
    next(iter(tmp_path.glob("*00002*.safetensors"))).unlink()
    with pytest.raises(UnsupportedModel, match=r"00002.*fetch the folder again"):
        from_hf(tmp_path)


def test_loading_leaves_the_random_generators_alone(random_model, tmp_path):
    save_hf(random_model(), tmp_path / "out")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model, _ = from_hf(tmp_path / "out")
    to_hf(model)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("name", ["llama-untied-gqa", "qwen3"])
def test_training_the_view_trains_the_model(name, random_model):
    model = random_model(**OURS[name])
    view = to_hf(model)
    assert view.model.embed_tokens.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert (view.lm_head.weight is view.model.embed_tokens.weight) == model.config.tied
    before = our_logits(model, TOKENS_BT)
    with torch.no_grad():
        torch.testing.assert_close(view(TOKENS_BT).logits, before, atol=1e-5, rtol=0)
    optimizer = torch.optim.SGD(view.parameters(), lr=0.1)
    view(TOKENS_BT, labels=TOKENS_BT).loss.backward()
    optimizer.step()
    after = our_logits(model, TOKENS_BT)
    assert (after - before).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(view(TOKENS_BT).logits, after, atol=1e-5, rtol=0)


def test_a_wrong_export_is_caught_and_leaves_nothing(random_model, tmp_path, monkeypatch):
    def forgets_theta(config, **rest):
        return to_config_json(config, **rest) | {"rope_parameters": None, "rope_theta": 1e4}

    monkeypatch.setattr(huggingface, "to_config_json", forgets_theta)
    with pytest.raises(ExportError, match="computes something else"):
        save_hf(random_model(rope_theta=5e5), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_transformers_ignores_are_caught(random_model, tmp_path, monkeypatch):
    def as_llama(config, **rest):
        return to_config_json(config, **rest) | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}

    monkeypatch.setattr(huggingface, "to_config_json", as_llama)
    with pytest.raises(ExportError, match=r"unexpected_keys.*q_norm"):
        save_hf(random_model(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_transformers_our_own_reader_checks(random_model, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    tokenizer = CharTokenizer.train("abc")
    export = save_hf(random_model(vocab_size=8), tmp_path / "out", tokenizer)
    assert (export.checked_by, export.max_difference) == ("trillium", 0.0)


def test_an_existing_folder_is_kept_unless_allowed(random_model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        save_hf(random_model(), out, check=False)
    assert (out / "mine.txt").read_text() == "mine"
    save_hf(random_model(), out, check=False, overwrite=True)
    assert not (out / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cross_attention_every": 1}, "cross-attention has no Hugging Face form"),
        ({"bias": True}, "model.bias"),
        ({"norm": "layer"}, "model.norm"),
        ({"activation": "gelu"}, "model.activation"),
        ({"positions": "learned", "norm": "layer", "activation": "gelu"}, "model.qk_norm"),
        ({"positions": "learned", "norm": "layer", "activation": "gelu", "qk_norm": False, "num_kv_heads": 2}, "GPT-2"),
    ],
)
def test_variants_without_a_hugging_face_form_are_refused(fields, message, random_model, tmp_path):
    with pytest.raises(ExportError, match=message):
        save_hf(random_model(**fields), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_named(random_model, tmp_path):
    with pytest.raises(ExportError, match="not LSTM"):
        save_hf(LSTM(8, 4, 4), tmp_path / "out")
    with pytest.raises(ExportError, match="tokenizer has 259 ids"):
        save_hf(random_model(), tmp_path / "out", ByteTokenizer())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"attention_bias": True}, "attention_bias"),
        ({"model_type": "llama", "attention_bias": True}, "unexpected .*k_norm"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": "wide"}, "does not fit"),
        ({"num_hidden_layers": 2}, "unexpected .*layers.2"),
        ({"num_hidden_layers": 4}, "missing .*layers.3"),
        ({"vocab_size": 96}, "shape"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
    ],
)
def test_a_config_that_does_not_fit_is_named(change, message, random_model, tmp_path):
    save_hf(random_model(), tmp_path / "out", check=False)
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UnsupportedModel, match=message):
        from_hf(tmp_path / "out")


@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "vocab_size", "intermediate_size"])
def test_a_field_that_is_missing_is_named(field, random_model, tmp_path):
    settings = to_config_json(random_model().config)
    del settings[field]
    with pytest.raises(UnsupportedModel, match=f"lacks {field}"):
        from_config_json(settings)


def test_folders_that_are_no_model_are_named(random_model, tmp_path):
    with pytest.raises(UnsupportedModel, match=r"no config\.json"):
        from_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnsupportedModel, match="not JSON"):
        from_hf(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(to_config_json(random_model().config)))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedModel, match=r"pytorch_model\.bin is pickled"):
        from_hf(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        from_hf(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(UnsupportedModel, match="lacks"):
        from_hf(tmp_path)


def test_an_untied_head_in_a_tied_folder_is_refused(random_model, tmp_path):
    save_hf(random_model(), tmp_path / "out", check=False)
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, file)
    with pytest.raises(UnsupportedModel, match="tie_word_embeddings"):
        from_hf(tmp_path / "out")


def test_every_family_has_its_class():
    for name in architectures.CLASSES.values():
        assert hasattr(transformers, name)
