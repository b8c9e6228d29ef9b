"""GGUF files: a tiny one written here, read by us and by transformers; and SmolLM2 where its file is present."""

import pytest
import torch
from tokenizers import pre_tokenizers

from core.generate import generate
from core.pretrained.architectures import UnsupportedModel
from core.pretrained.gguf import read_gguf
from core.pretrained.smollm2 import load_smollm2
from core.pretrained.sources import MissingData
from core.sampling import Sampling

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

HEADS, KV_HEADS, WIDTH, HIDDEN, LAYERS = 4, 2, 128, 192, 2
# transformers does not read attention.key_length and takes every Qwen3 head to be 128 wide.
HEAD_DIMS = {"llama": 32, "qwen3": 128, "mamba": 32}
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "1 2"]
TOKENS = ["<|end|>", "<|start|>", *ALPHABET, *(merge.replace(" ", "") for merge in MERGES)]
TEXTS = ["hello world", "naïve 中文\n\n", "<|start|>hello<|end|>", "it's  a\ttab ", ""]


def interleaved(weight, head_dim):
    """llama.cpp's row order of query and key heads, written row by row: pair i of a head is rows (2i, 2i + 1)."""
    out = torch.empty_like(weight)
    for head in range(len(weight) // head_dim):
        for pair in range(head_dim // 2):
            for half in range(2):
                out[head * head_dim + 2 * pair + half] = weight[head * head_dim + pair + half * head_dim // 2]
    return out


def write(path, *, kind="llama", tied=True, quantised=None, change=lambda fields: fields, extra=()):
    """A small random model as a GGUF file. Returns the weights before the permutation, by GGUF name."""
    generator, head_dim = torch.Generator().manual_seed(0), HEAD_DIMS[kind]
    shapes = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    if not tied:
        shapes["output.weight"] = (len(TOKENS), WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {
            f"{block}attn_norm.weight": (WIDTH,),
            f"{block}attn_q.weight": (HEADS * head_dim, WIDTH),
            f"{block}attn_k.weight": (KV_HEADS * head_dim, WIDTH),
            f"{block}attn_v.weight": (KV_HEADS * head_dim, WIDTH),
            f"{block}attn_output.weight": (WIDTH, HEADS * head_dim),
            f"{block}ffn_norm.weight": (WIDTH,),
            f"{block}ffn_gate.weight": (HIDDEN, WIDTH),
            f"{block}ffn_up.weight": (HIDDEN, WIDTH),
            f"{block}ffn_down.weight": (WIDTH, HIDDEN),
        }
        if kind == "qwen3":
            shapes |= {f"{block}attn_{part}_norm.weight": (head_dim,) for part in "qk"}
    weights = {
        name: torch.randn(shape, generator=generator) * (WIDTH**-0.5 if len(shape) > 1 else 0.1) + (len(shape) == 1)
        for name, shape in shapes.items()
    }
    fields = change(
        {
            "context_length": 64, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": HIDDEN,
            "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.freq_base": 5e4,
            "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": head_dim, "vocab_size": len(TOKENS),
            **({"attention.key_length": head_dim, "attention.value_length": head_dim} if kind == "qwen3" else {}),
        }
    )  # fmt: skip
    writer = gguf.GGUFWriter(str(path), kind)
    for name, value in fields.items():
        if value is None:
            continue
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(name if name.startswith("tokenizer") else f"{kind}.{name}", value)
    if "tokenizer.ggml.model" not in fields:
        writer.add_tokenizer_model("gpt2")
    if "tokenizer.ggml.pre" not in fields:
        writer.add_tokenizer_pre("qwen2" if kind == "qwen3" else "gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    for name in extra:
        writer.add_tensor(name, torch.ones(head_dim // 2).numpy())
    for name, tensor in weights.items():
        stored = (
            interleaved(tensor, head_dim) if kind == "llama" and name.split(".")[-2] in ("attn_q", "attn_k") else tensor
        )
        if quantised is not None and tensor.dim() > 1:
            data = gguf.quants.quantize(stored.numpy(), quantised)
            writer.add_tensor(name, data, raw_dtype=quantised)
        else:
            writer.add_tensor(name, stored.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_come_back_in_our_row_order(kind, tied, tmp_path):
    weights = write(tmp_path / "tiny.gguf", kind=kind, tied=tied)
    model, _ = read_gguf(tmp_path / "tiny.gguf")
    assert (model.config.tied, model.config.qk_norm) == (tied, kind == "qwen3")
    assert (model.config.norm_eps, model.config.rope_theta, model.config.max_length) == (1e-5, 5e4, 64)
    layer = model.model.layers[1]
    assert torch.equal(layer.self_attn.q_proj.weight, weights["blk.1.attn_q.weight"])
    assert torch.equal(layer.self_attn.k_proj.weight, weights["blk.1.attn_k.weight"])
    assert torch.equal(layer.mlp.down_proj.weight, weights["blk.1.ffn_down.weight"])
    assert torch.equal(model.lm_head.weight, weights["token_embd.weight" if tied else "output.weight"])


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("quantised", ["F32", "Q4_1", "Q8_0"])
def test_logits_and_greedy_tokens_equal_transformers_reading(kind, quantised, tmp_path):
    write(tmp_path / "tiny.gguf", kind=kind, quantised=getattr(gguf.GGMLQuantizationType, quantised))
    ours, _ = read_gguf(tmp_path / "tiny.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    ).eval()
    tokens_BT = torch.randint(len(TOKENS), (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(tokens_BT).logits
        found = ours.eval().logits(ours(tokens_BT))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    greedy = theirs.generate(
        tokens_BT, attention_mask=torch.ones_like(tokens_BT), max_new_tokens=30, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    samples = generate(ours, tokens_BT.tolist(), max_new_tokens=30, sampling=Sampling(temperature=0))
    assert samples.tokens_BT.tolist() == greedy[:, 20:].tolist()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_tokenizer_equals_transformers_reading(kind, tmp_path):
    write(tmp_path / "tiny.gguf", kind=kind)
    _, ours = read_gguf(tmp_path / "tiny.gguf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ours.encode(text), skip_special=False) == text
    assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (1, 0, (0,))
    assert ours.chat_template == "{{ messages[0].content }}"


def test_smollm_cuts_every_digit_off(tmp_path):
    # What the file's tokenizer.ggml.pre says, and what the model was trained with. transformers does not read the
    # field and would merge "12" here, and cut differently where several spaces stand before a digit.
    write(tmp_path / "tiny.gguf", change=lambda fields: fields | {"tokenizer.ggml.pre": "smollm"})
    _, tokenizer = read_gguf(tmp_path / "tiny.gguf")
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("hello 12")] == ["hello", "Ġ", "1", "2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mamba"}, "general.architecture 'mamba'"),
        ({"change": lambda f: f | {"rope.scaling.type": "yarn"}}, "rope.scaling.type 'yarn'"),
        ({"extra": ["rope_freqs.weight"]}, "rope_freqs.weight"),
        ({"change": lambda f: f | {"rope.dimension_count": 16}}, "rope.dimension_count"),
        ({"change": lambda f: f | {"embedding_length": None}}, "lacks the field llama.embedding_length"),
        ({"change": lambda f: f | {"tokenizer.ggml.model": "llama"}}, "tokenizer.ggml.model 'llama'"),
        ({"change": lambda f: f | {"tokenizer.ggml.pre": "tekken"}}, "tokenizer.ggml.pre 'tekken'"),
        ({"change": lambda f: f | {"block_count": 3}}, "missing .*layers.2"),
        ({"change": lambda f: f | {"feed_forward_length": 128}}, "shape"),
        ({"extra": ["blk.0.attn_q.bias"]}, r"unexpected .*q_proj\.bias"),
    ],
)
def test_files_that_do_not_fit_are_named(options, message, tmp_path):
    write(tmp_path / "tiny.gguf", **options)
    with pytest.raises(UnsupportedModel, match=message):
        read_gguf(tmp_path / "tiny.gguf")


def test_files_that_are_no_gguf_are_named(tmp_path):
    with pytest.raises(UnsupportedModel, match="no file"):
        read_gguf(tmp_path / "none.gguf")
    for content in (b"", b"not a gguf file at all", b"GGUF\x03\x00\x00\x00"):
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(UnsupportedModel, match="cannot be read"):
            read_gguf(tmp_path / "bad.gguf")


def test_smollm2_answers():
    try:
        model, tokenizer = load_smollm2()
    except MissingData as error:
        pytest.skip(str(error))
    assert model.num_parameters() == 134_515_008
    samples = generate(
        model, [tokenizer.encode("The capital of France is")], max_new_tokens=2, sampling=Sampling(temperature=0)
    )
    # benchmarks/smollm2_parity.py compares 640 tokens and all logits with transformers' reading.
    assert tokenizer.decode(samples.lists()[0]) == " Paris."
