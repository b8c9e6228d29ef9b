from pathlib import Path

import pytest
import torch
from torch import nn

from core.config import ModelConfig, OptimConfig, RunConfig
from core.nn.transformer import Transformer
from core.training.runtime import Runtime
from core.training.update import Updater


def test_autocast_changes_products_but_not_parameters() -> None:
    module, x = nn.Linear(4, 4), torch.randn(2, 4)
    with Runtime(torch.device("cpu"), torch.bfloat16).autocast():
        assert module(x).dtype == torch.bfloat16
    with Runtime(torch.device("cpu"), torch.float32).autocast():
        assert module(x).dtype == torch.float32
    assert module.weight.dtype == torch.float32


def test_apply_sets_threads_and_keeps_float32_exact() -> None:
    threads = torch.get_num_threads()
    try:
        Runtime(torch.device("cpu"), threads=1).apply()
        assert torch.get_num_threads() == 1
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_num_threads(threads)


def test_compile_keeps_the_names_of_the_parameters() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    names = list(module.state_dict())
    Runtime(torch.device("cpu"), compile=False).maybe_compile(module)
    assert module._compiled_call_impl is None
    Runtime(torch.device("cpu"), compile=True).maybe_compile(module)
    assert module._compiled_call_impl is not None
    assert list(module.state_dict()) == names


def test_blocks_are_compiled_alone_or_the_whole_model() -> None:
    for how, expected in ((True, [False, True]), ("whole", [True, False])):
        model = Transformer(ModelConfig(vocab_size=7, width=8, num_layers=1, num_heads=1))
        runtime = Runtime.from_config(
            RunConfig(out=Path("x"), device="cpu", compile="whole" if how == "whole" else "on")
        )
        assert runtime.compile == how
        assert Runtime.from_config(RunConfig(out=Path("x")), runtime.describe()).compile == how
        runtime.maybe_compile(model)
        assert [part._compiled_call_impl is not None for part in (model, model.model.layers[0])] == expected


def test_description_uses_the_names_of_the_config() -> None:
    description = Runtime(torch.device("cpu"), torch.bfloat16, compile=True, threads=3).describe()
    assert description == {"device": "cpu", "precision": "bf16", "compile": True, "threads": 3, "deterministic": False}
    again = Runtime.from_config(RunConfig(out=Path("x")), description)
    assert again.describe() == description


def test_automatic_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda supported=supported: supported)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
        assert Runtime.from_config(RunConfig(device="cpu")).dtype == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_deterministic_cuda_run_repeats_to_the_bit() -> None:
    runtime = Runtime(torch.device("cuda"), torch.bfloat16, deterministic=True)
    runtime.apply()
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 64), nn.Dropout(0.1), nn.Linear(64, 50))
        updater = Updater(module, OptimConfig(), runtime, 20)
        for _ in range(20):
            tokens = torch.randint(50, (16, 32), device="cuda")
            with runtime.autocast():
                loss = nn.functional.cross_entropy(updater(tokens).flatten(0, 1), tokens.flatten())
            updater.step(loss)
        weights.append(module[1].weight.detach().clone())
    torch.use_deterministic_algorithms(False)
    assert torch.equal(*weights)
