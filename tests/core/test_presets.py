"""The named model sizes."""

import pytest
import torch

from core.nn.presets import PRESETS, preset
from core.nn.transformer import Transformer


@pytest.mark.parametrize(
    ("name", "vocab_size", "millions"),
    [("1m", 256, (0.8, 1.2)), ("10m", 256, (9, 12)), ("125m", 50_000, (100, 140)), ("1b", 150_000, (1000, 1300)),
     ("7b", 150_000, (6500, 7500))],
)  # fmt: skip
def test_presets_have_the_size_that_they_say(name, vocab_size, millions):
    with torch.device("meta"):
        model = Transformer(preset(name, vocab_size=vocab_size))
    assert millions[0] * 1e6 < model.num_parameters() < millions[1] * 1e6


def test_every_preset_is_a_valid_config_and_unknown_ones_are_named():
    for name in PRESETS:
        assert preset(name, vocab_size=100).vocab_size == 100
        if name != "gpt2":
            assert PRESETS[name].head_width in (32, 64, 128)
    assert not preset("llama-1m", vocab_size=100).qk_norm
    with pytest.raises(ValueError, match="no model preset '2m'"):
        preset("2m", vocab_size=100)
