"""What a fresh Transformer is made of, and parts that are added to it."""

import pytest
import torch

from core.config import ModelConfig
from core.nn.transformer import Transformer

TOKENS_BT = torch.randint(97, (3, 14), generator=torch.Generator().manual_seed(2))


def test_a_fresh_model_starts_as_the_identity():
    model = Transformer(ModelConfig(vocab_size=11, width=32, num_layers=3, num_heads=2)).eval()
    expected = model.model.norm(model.embed(TOKENS_BT % 11))
    assert torch.equal(model(TOKENS_BT % 11), expected)


def test_tied_parameters_count_once(random_model):
    tied, untied = random_model(), random_model(tied=False)
    assert untied.num_parameters() - tied.num_parameters() == 97 * 64
    # embedding 97*64; per layer q k v o 4*64*64, mlp 3*64*192, two norms 2*64, q and k norm 2*16; final norm 64
    assert tied.num_parameters() == 97 * 64 + 3 * (4 * 64 * 64 + 3 * 64 * 192 + 2 * 64 + 2 * 16) + 64


def test_cross_attention_added_later_is_closed_and_the_right_blocks_have_it(random_model):
    model = random_model().eval()
    expected = model(TOKENS_BT)
    model.add_cross_attention(2)
    assert [block.cross_attn is not None for block in model.model.layers] == [False, True, False]
    memory = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(TOKENS_BT, memory_BMD=memory), expected)
    model.model.layers[1].cross_attn.gate.data.fill_(1.0)
    assert not torch.allclose(model(TOKENS_BT, memory_BMD=memory), expected)
    with pytest.raises(ValueError, match="has cross-attention already"):
        model.add_cross_attention(1)
