"""LoRA: against hand-worked numbers, against a merged weight, and against peft both ways."""

import json

import pytest
import torch
from torch import nn

from core.nn.lora import (
    ALL_LINEAR,
    AdapterError,
    LoRALinear,
    apply_lora,
    hold_frozen,
    load_lora,
    lora_layers,
    merge_lora,
    save_lora,
)
from core.nn.lstm import LSTM
from core.pretrained.architectures import ExportError
from core.pretrained.huggingface import save_hf, to_hf

TOKENS_BT = torch.arange(36).reshape(2, 18)


def logits(model, tokens_BT=TOKENS_BT):
    with torch.no_grad():
        return model.logits(model(tokens_BT))


def randomise(model):
    """Random updates: B starts at 0, which would make every comparison trivial."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.normal_(std=0.1, generator=generator)


def test_layer_by_hand():
    base = nn.Linear(2, 2)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        base.bias.copy_(torch.tensor([10.0, 20.0]))
    layer = LoRALinear(base, rank=1, alpha=3.0, dropout=0.0)
    with torch.no_grad():
        layer.lora_A.copy_(torch.tensor([[1.0, 2.0]]))
        layer.lora_B.copy_(torch.tensor([[1.0], [-1.0]]))
    # A x = 1*3 + 2*4 = 11; scaled by 3: +33 and -33.
    torch.testing.assert_close(layer(torch.tensor([3.0, 4.0])), torch.tensor([13.0 + 33.0, 24.0 - 33.0]))
    torch.testing.assert_close(layer.merged()(torch.tensor([3.0, 4.0])), torch.tensor([46.0, -9.0]))


def test_frozen_weights_held_as_autocast_multiplies_them_change_no_bit(random_model):
    model = random_model()
    apply_lora(model, rank=4)
    randomise(model)

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            found = model.logits(model(TOKENS_BT))
        model.zero_grad()
        found.float().square().mean().backward()
        return [found.detach(), *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)]

    before = run()
    hold_frozen(model, torch.bfloat16)
    assert all(torch.equal(old, new) for old, new in zip(before, run(), strict=True))
    held = {module.weight.dtype for name, module in model.named_modules() if name.endswith(("_proj", "lm_head"))}
    assert held == ({torch.bfloat16, torch.float32} if model.config.tied else {torch.bfloat16})
    assert model.model.embed_tokens.weight.dtype == torch.float32
    layer = model.model.layers[0].self_attn.q_proj
    expected = layer.weight.float() + (layer.lora_B @ layer.lora_A) * layer.scaling
    merge_lora(model)  # the update is finer than bfloat16, and stays so
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, expected)


def test_a_fresh_adapter_changes_nothing_and_trains_alone(random_model):
    model = random_model()
    before, names = logits(model), set(model.state_dict())
    parameters = apply_lora(model, rank=4, targets=ALL_LINEAR)
    assert torch.equal(logits(model), before)
    assert names < set(model.state_dict())  # the base weights keep their names
    # 3 layers: q k v o 4 * 4 * (64 + 64), gate up down 3 * 4 * (64 + 192)
    assert sum(parameter.numel() for parameter in parameters) == 3 * (4 * 4 * 128 + 3 * 4 * 256)

    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items() if "lora" not in name}
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    for _ in range(2):  # in the first step A has no gradient, as B is 0
        optimizer.zero_grad()
        model.logits(model(TOKENS_BT)).square().mean().backward()
        optimizer.step()
    assert (logits(model) - before).abs().max() > 1e-3
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in frozen.items())
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in parameters)


def test_merging_keeps_the_outputs_and_gives_plain_layers_back(random_model, tmp_path):
    model = random_model()
    names = set(model.state_dict())
    apply_lora(model, rank=3, alpha=5.0, targets=ALL_LINEAR)
    randomise(model)
    adapted = logits(model)
    with pytest.raises(ExportError, match="merge it first"):
        save_hf(model, tmp_path / "out")
    merge_lora(model)
    assert set(model.state_dict()) == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(logits(model), adapted, atol=1e-5, rtol=0)
    save_hf(model, tmp_path / "out", check=False)


def test_dropout_acts_on_the_update_in_training_only(random_model):
    model = random_model()
    apply_lora(model, dropout=0.5)
    randomise(model)
    assert torch.equal(logits(model), logits(model))  # the model was in evaluation mode, and so are its new layers
    model.train()
    assert not torch.equal(logits(model), logits(model))
    merge_lora(model)
    assert all(module.training for module in model.modules())


def test_an_adapter_survives_its_folder(random_model, tmp_path):
    model = random_model()
    apply_lora(model, rank=4, alpha=2.0, targets=("q_proj", "down_proj"))
    randomise(model)
    save_lora(model, tmp_path)
    again = random_model()
    parameters = load_lora(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert len(parameters) == 2 * 2 * 3


def test_the_head_of_an_lstm_can_be_adapted():
    model = LSTM(11, 6, 8)
    before = model.logits(model(torch.arange(6)[None]))
    assert len(apply_lora(model, targets=("lm_head",))) == 2
    assert torch.equal(model.logits(model(torch.arange(6)[None])), before)


def test_peft_loads_our_adapter_into_the_hugging_face_model(random_model, tmp_path):
    peft = pytest.importorskip("peft")
    model = random_model(num_kv_heads=2)
    apply_lora(model, rank=4, alpha=7.0, targets=ALL_LINEAR)
    randomise(model)
    save_lora(model, tmp_path)
    view = peft.PeftModel.from_pretrained(to_hf(random_model(num_kv_heads=2)), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(view(TOKENS_BT).logits, logits(model), atol=1e-5, rtol=0)


def test_peft_adapts_our_module_and_its_adapter_loads_everywhere(random_model, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(random_model(), config).eval()
    expected = logits(adapted.base_model.model)
    assert (expected - logits(random_model())).abs().max() > 0.01
    adapted.save_pretrained(tmp_path)

    view = peft.PeftModel.from_pretrained(to_hf(random_model()), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(view(TOKENS_BT).logits, expected, atol=1e-5, rtol=0)
    ours = random_model()
    load_lora(ours, tmp_path)
    torch.testing.assert_close(logits(ours), expected, atol=1e-5, rtol=0)


def test_bad_adapters_are_named(random_model, tmp_path):
    model = random_model()
    with pytest.raises(AdapterError, match="named qproj"):
        apply_lora(model, targets=("q_proj", "qproj"))
    with pytest.raises(AdapterError, match="rank"):
        apply_lora(model, rank=0)
    with pytest.raises(AdapterError, match="no LoRA adapter"):
        save_lora(model, tmp_path)
    with pytest.raises(AdapterError, match="no readable"):
        load_lora(model, tmp_path)
    apply_lora(model)
    save_lora(model, tmp_path)
    with pytest.raises(AdapterError, match="already"):
        apply_lora(model)
    with pytest.raises(AdapterError, match="does not fit"):
        load_lora(random_model(num_layers=2), tmp_path)
    with pytest.raises(AdapterError, match="does not fit"):
        load_lora(random_model(num_kv_heads=2), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    with pytest.raises(AdapterError, match="use_dora"):
        load_lora(random_model(), tmp_path)
