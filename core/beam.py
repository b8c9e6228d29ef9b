"""Beam search over the same models, prompts and masks as `core.generate`.

Shape suffixes: B = prompts, W = beams, V = vocabulary, D = model width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.generate import CausalModel, Embed, decoding, prefill
from core.interfaces import Samples

Hypothesis = tuple[float, list[int], list[float], bool]
"""Value that hypotheses are compared by, tokens, their log-probabilities, and whether end-of-sequence was reached."""


def beam_search(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    max_new_tokens: int,
    eos_id: int | None = None,
    length_penalty: float = 1.0,
    embed: Embed | None = None,
    bidirectional: bool = False,
    allowed_V: Tensor | None = None,
    **inputs: Tensor,
) -> Samples:
    """The most likely continuation of each prompt that a beam of `beams` finds.

    Hypotheses are compared by log-probability / length ** length_penalty, end-of-sequence counted. A prompt is done
    when it has `beams` finished hypotheses and no live one beats the worst of them at its present score: the rule of
    transformers with `early_stopping=False`, and the same results.

    Args:
        model: as in `core.generate.generate`.
        prompts: token ids of each prompt.
        beams: W; 1 is greedy decoding.
        max_new_tokens: most tokens to generate.
        eos_id: the token that ends a hypothesis.
        length_penalty: exponent of the length; 0 compares sums, 1 means.
        embed: how prompts are embedded; by default as the model does it.
        bidirectional: the positions of a prompt see one another in both directions.
        allowed_V: bool; False forbids a token everywhere.
        inputs: `memory_BMD`, `memory_mask_BM` for cross-attention; `shift_BD`.

    Returns:
        Samples, one a prompt, with the model's own log-probabilities.
    """
    if beams < 1 or max_new_tokens < 1:
        raise ValueError(f"beams and max_new_tokens must be >= 1, got {beams} and {max_new_tokens}")
    num_prompts = len(prompts)
    with decoding(model):
        hidden_BD, cache = prefill(
            model, prompts, max_new_tokens, embed=embed, bidirectional=bidirectional, options=inputs
        )
        device = hidden_BD.device
        cache.repeat(beams)
        hidden_BD = hidden_BD.repeat_interleave(beams, dim=0)
        # All beams of a prompt start equal, so only the first may extend at the first step.
        scores_BW = torch.full((num_prompts, beams), float("-inf"), device=device)
        scores_BW[:, 0] = 0
        tokens = torch.zeros(num_prompts, beams, 0, dtype=torch.long, device=device)
        logprobs = torch.zeros(num_prompts, beams, 0, device=device)
        finished: list[list[Hypothesis]] = [[] for _ in prompts]
        done = [False] * num_prompts
        for step in range(1, max_new_tokens + 1):
            logits = model.logits(hidden_BD).float()
            if allowed_V is not None:
                logits = logits.masked_fill(~allowed_V, float("-inf"))
            step_BWV = logits.log_softmax(-1).view(num_prompts, beams, -1)
            vocab_size = step_BWV.shape[-1]
            joint = (scores_BW[..., None] + step_BWV).flatten(1)
            # Twice as many as needed: at most `beams` of them end, so `beams` always go on.
            top, index = joint.topk(min(2 * beams, joint.shape[1]), dim=1)
            beam, token = index // vocab_size, index % vocab_size
            keep_beam = torch.zeros(num_prompts, beams, dtype=torch.long, device=device)
            keep_token = torch.zeros_like(keep_beam)
            keep_score = torch.full((num_prompts, beams), float("-inf"), device=device)
            for prompt in range(num_prompts):
                if done[prompt]:
                    continue
                slot = 0
                for rank, (score, source, chosen) in enumerate(
                    zip(top[prompt].tolist(), beam[prompt].tolist(), token[prompt].tolist())
                ):
                    ends = chosen == eos_id
                    if score == float("-inf"):
                        continue  # a forbidden token, or a beam that does not exist yet
                    if (ends and rank < beams) or step == max_new_tokens:
                        history = [*tokens[prompt, source].tolist(), chosen]
                        past = [*logprobs[prompt, source].tolist(), step_BWV[prompt, source, chosen].item()]
                        finished[prompt].append((score / step**length_penalty, history, past, ends))
                    elif not ends and slot < beams:
                        keep_beam[prompt, slot], keep_token[prompt, slot] = source, chosen
                        keep_score[prompt, slot] = score
                        slot += 1
                live = keep_score[prompt].max().item() / step**length_penalty
                finished[prompt] = sorted(finished[prompt], key=_value, reverse=True)[:beams]
                full = len(finished[prompt]) == beams and finished[prompt][-1][0] >= live
                done[prompt] = full or live == float("-inf")
            if all(done) or step == max_new_tokens:
                break
            scores_BW = keep_score
            chosen_logprobs = step_BWV.gather(1, keep_beam[..., None].expand(-1, -1, vocab_size))
            chosen_logprobs = chosen_logprobs.gather(2, keep_token[..., None])
            order = keep_beam[..., None].expand(-1, -1, tokens.shape[2])
            tokens = torch.cat((tokens.gather(1, order), keep_token[..., None]), dim=2)
            logprobs = torch.cat((logprobs.gather(1, order), chosen_logprobs), dim=2)
            cache.select((torch.arange(num_prompts, device=device)[:, None] * beams + keep_beam).flatten())
            hidden_BD = model(keep_token.flatten()[:, None], cache=cache)[:, -1]
    return _samples([hypotheses[0] for hypotheses in finished], device)


def _value(hypothesis: Hypothesis) -> float:
    return hypothesis[0]


def _samples(best: list[Hypothesis], device: torch.device) -> Samples:
    longest = max(len(tokens) for _, tokens, _, _ in best)
    padded = [tokens + [0] * (longest - len(tokens)) for _, tokens, _, _ in best]
    past = [logprobs + [0.0] * (longest - len(logprobs)) for _, _, logprobs, _ in best]
    lengths_B = torch.tensor([len(tokens) for _, tokens, _, _ in best], device=device)
    return Samples(
        torch.tensor(padded, dtype=torch.long, device=device),
        torch.arange(longest, device=device) < lengths_B[:, None],
        torch.tensor(past, device=device),
        torch.tensor([ends for _, _, _, ends in best], device=device),
    )
