"""The captioner reads a picture as a prefix: masks, decoding, the policy surface and the fusion.

Shape suffixes: B = captions, T = tokens, P = positions of a picture, F = features.
"""

import pytest
import torch

from core.config import ModelConfig
from core.interfaces import Samples
from core.nn.transformer import Transformer
from multimodal.captioner import Captioner
from multimodal.fusion import PrefixFusion

VOCAB, FEATURES, POSITIONS, BOS, EOS = 23, 5, 4, 1, 2


def make(*, bidirectional: bool = True, dropout: float = 0.0, temperature: float = 1.0, seed: int = 0) -> Captioner:
    torch.manual_seed(seed)
    config = ModelConfig(vocab_size=VOCAB, width=32, num_layers=2, num_heads=2, max_length=32, dropout=dropout)
    model = Transformer(config)
    for parameter in model.parameters():  # zero-initialised projections would hide mistakes
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    fusion = PrefixFusion(FEATURES, POSITIONS, 32, dropout=dropout)
    return Captioner(
        model, fusion, bos_id=BOS, eos_id=EOS, max_new_tokens=9, bidirectional=bidirectional, temperature=temperature
    )


def features(batch: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, POSITIONS, FEATURES, generator=torch.Generator().manual_seed(seed))


def greedy_without_cache(captioner: Captioner, features_BPF: torch.Tensor) -> list[list[int]]:
    """The definition of greedy decoding: the whole sequence is read again for every token."""
    captions = []
    for row in features_BPF:
        tokens = [BOS]
        while len(tokens) <= captioner.max_new_tokens:
            hidden = captioner(row[None], torch.tensor([tokens]))
            tokens.append(int(captioner.logits(hidden)[0, -1].argmax()))
            if tokens[-1] == EOS:
                break
        captions.append(tokens[1:])
    return captions


@pytest.mark.parametrize("bidirectional", [True, False])
def test_cached_generation_is_the_full_recomputation(bidirectional: bool) -> None:
    captioner = make(bidirectional=bidirectional).eval()
    with torch.no_grad():
        expected = greedy_without_cache(captioner, features(24))
    assert captioner.sample(features(24), greedy=True).lists() == expected
    assert captioner.beam(features(24), beams=1).lists() == expected
    assert len({len(row) for row in expected}) > 1  # some end early, so rows that leave the batch are covered


def test_a_beam_is_at_least_as_likely_as_greedy() -> None:
    captioner = make(seed=3).eval()
    greedy, beam = captioner.sample(features(8), greedy=True), captioner.beam(features(8), beams=5, length_penalty=0)
    assert torch.all(beam.logprobs_BT.sum(1) >= greedy.logprobs_BT.sum(1) - 1e-5)


def test_the_prefix_does_not_count_towards_max_new_tokens() -> None:
    captioner = make()
    captioner.eos_id = VOCAB  # never drawn, so every caption has full length
    assert captioner.sample(features(2), greedy=True).tokens_BT.shape == (2, 9)
    assert captioner.beam(features(2), beams=2).mask_BT.sum(1).tolist() == [9, 9]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scored_log_probabilities_are_those_sampled_from(temperature: float) -> None:
    captioner = make(temperature=temperature, dropout=0.2)
    samples = captioner.sample(features(5), num_samples=3, generator=torch.Generator().manual_seed(0))
    contexts = features(5).repeat_interleave(3, dim=0)
    captioner.eval()
    scored = captioner.logprobs(contexts, samples)
    torch.testing.assert_close(scored, samples.logprobs_BT, atol=1e-5, rtol=1e-5)
    assert torch.all(scored[~samples.mask_BT] == 0)
    scored.sum().backward()
    gradient = captioner.fusion.project.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_tokens_after_the_end_change_nothing() -> None:
    captioner = make().eval()
    samples = captioner.sample(features(4), generator=torch.Generator().manual_seed(5))
    noise = torch.where(samples.mask_BT, samples.tokens_BT, VOCAB - 1)
    noisy = Samples(noise, samples.mask_BT, samples.logprobs_BT, samples.finished_B)
    torch.testing.assert_close(captioner.logprobs(features(4), noisy), captioner.logprobs(features(4), samples))


def test_sampling_leaves_modes_and_dropout_alone() -> None:
    captioner = make(dropout=0.5).train()
    captioner.fusion.eval()
    first, second = captioner.sample(features(3), greedy=True), captioner.sample(features(3), greedy=True)
    assert torch.equal(first.logprobs_BT, second.logprobs_BT)  # no dropout while sampling
    assert captioner.training
    assert captioner.model.training
    assert not captioner.fusion.training


def test_a_caption_token_never_sees_the_ones_after_it() -> None:
    captioner = make().eval()
    tokens = torch.randint(3, VOCAB, (2, 7))
    tokens[:, 0] = BOS
    changed = tokens.clone()
    changed[:, 4:] = 3
    with torch.no_grad():
        before, after = captioner(features(2), tokens), captioner(features(2), changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize(("bidirectional", "reaches"), [(True, True), (False, False)])
def test_picture_positions_see_one_another_only_in_a_bidirectional_prefix(bidirectional: bool, reaches: bool) -> None:
    captioner = make(bidirectional=bidirectional).eval()
    prefix = captioner.fusion(features(1)).detach().requires_grad_(True)
    embedded = torch.cat((prefix, captioner.model.embed(torch.tensor([[BOS]]))), dim=1)
    prefix_B = torch.tensor([POSITIONS + 1]) if bidirectional else None
    captioner.model(embeddings_BTD=embedded, prefix_B=prefix_B)[0, 0].sum().backward()
    assert prefix.grad is not None
    assert bool(prefix.grad[0, -1].abs().sum() > 0) is reaches  # position 0 and the last one


def test_every_position_of_the_picture_reaches_the_caption() -> None:
    captioner = make().eval()
    picture = features(1).requires_grad_(True)
    captioner(picture, torch.tensor([[BOS]])).sum().backward()
    assert picture.grad is not None
    assert torch.all(picture.grad.abs().sum(-1) > 0)


def test_positions_are_told_apart() -> None:
    captioner = make().eval()
    picture = features(1)
    with torch.no_grad():
        first = captioner(picture, torch.tensor([[BOS]]))
        second = captioner(picture.flip(1), torch.tensor([[BOS]]))
    assert not torch.allclose(first, second)


def test_standardised_features_have_mean_0_and_scale_1() -> None:
    fusion = PrefixFusion(3, 2, 8)
    pictures = torch.randn(500, 2, 3) * torch.tensor([5.0, 0.1, 0.0]) + torch.tensor([100.0, -3.0, 7.0])
    fusion.standardise_by(pictures)
    standardised = (pictures - fusion.mean_F) * fusion.inverse_scale_F
    torch.testing.assert_close(standardised.mean((0, 1)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(standardised.std((0, 1)), torch.tensor([1.0, 1.0, 0.0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(fusion(fusion.blank(2)), fusion(pictures.mean((0, 1)).expand(2, 2, 3)))


def test_blank_pictures_are_drawn_while_training_only() -> None:
    fusion = PrefixFusion(FEATURES, POSITIONS, 8, blank_probability=0.5)
    pictures = features(400)
    blank = fusion(fusion.blank(400))
    fusion.train()
    share = (fusion(pictures) == blank).flatten(1).all(1).float().mean().item()
    assert 0.4 < share < 0.6
    fusion.eval()
    assert not (fusion(pictures) == blank).flatten(1).all(1).any()


@pytest.mark.parametrize("shape", [(2, POSITIONS, FEATURES + 1), (2, POSITIONS + 1, FEATURES), (2, FEATURES)])
def test_features_of_another_encoder_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"4 positions, 5 features.*encoder and grid"):
        make()(torch.zeros(shape), torch.tensor([[BOS], [BOS]]))


def test_as_many_pictures_as_captions() -> None:
    with pytest.raises(ValueError, match="3 pictures for 2 captions"):
        make()(features(3), torch.tensor([[BOS], [BOS]]))


def test_widths_must_agree() -> None:
    captioner = make()
    with pytest.raises(ValueError, match="16 wide, the model 32"):
        Captioner(captioner.model, PrefixFusion(FEATURES, POSITIONS, 16), bos_id=BOS, eos_id=EOS)
