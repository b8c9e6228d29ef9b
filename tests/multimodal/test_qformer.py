"""The Q-Former has the outputs of transformers' with the same weights."""

import pytest
import torch

from multimodal.qformer import QFormer

transformers = pytest.importorskip("transformers")

_NAMES = {
    "layernorm": "norm", "encoder.layer": "layers", "attention.attention.query": "own.query",
    "attention.attention.key": "own.key", "attention.attention.value": "own.value",
    "attention.output.dense": "own.out", "attention.output.LayerNorm": "own.norm",
    "intermediate_query.dense": "up", "output_query.dense": "down", "output_query.LayerNorm": "norm",
}  # fmt: skip


def ours(name: str) -> str:
    """Our name of a parameter of theirs."""
    for theirs, own in _NAMES.items():
        crossed = theirs.replace("attention.", "crossattention.", 1)
        if theirs.startswith("attention.") and crossed in name:
            return ours(name.replace(crossed, own.replace("own", "media")))
        if theirs in name and not (theirs.startswith("attention.") and "crossattention" in name):
            name = name.replace(theirs, own)
    return name


@pytest.mark.parametrize("cross_every", [1, 2])
def test_equal_to_transformers(cross_every: int) -> None:
    torch.manual_seed(0)
    config = transformers.Blip2QFormerConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192, encoder_hidden_size=20,
        cross_attention_frequency=cross_every, initializer_range=0.3,
    )  # fmt: skip
    theirs = transformers.Blip2QFormerModel(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = QFormer(48, 3, num_heads=4, media_width=20, cross_every=cross_every).eval()
    state = {ours(name): value for name, value in theirs.state_dict().items()}
    model.load_state_dict(state)
    queries, media = torch.randn(2, 5, 48), torch.randn(2, 7, 20)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    with torch.no_grad():
        expected = theirs(
            query_embeds=queries, encoder_hidden_states=media, encoder_attention_mask=mask.long()
        ).last_hidden_state
        torch.testing.assert_close(model(queries, media, mask), expected, atol=1e-5, rtol=1e-5)
