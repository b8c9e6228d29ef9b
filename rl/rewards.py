"""Reward functions: how good the texts are that a policy wrote.

A reward function takes lists of prompts and completions and gives a list of numbers, as TRL's trainers want it too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from core.errors import UserError
from core.metrics.ngrams import distinct_n

AT_ONCE = 32
"""Texts that a reference model reads at a time."""


class BadReward(UserError, ValueError):
    """A reward function that gave no list of finite numbers."""

    exit_code: ClassVar[int] = 1


class RewardFunction(Protocol):
    """Any function of this shape, for example a user's own."""

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """One number for each completion.

        Args:
            prompts: what the policy read.
            completions: what it wrote, one for each prompt.
            columns: further fields of the data, one list each.
        """
        ...


def score(reward: RewardFunction, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Call a reward function, and check what it gives.

    Raises:
        BadReward: another number of rewards, or one that is no finite number.
    """
    given: Any = reward(prompts=prompts, completions=completions, **columns)
    wanted = f"return a list of one finite number for each of the {len(completions)} completions"
    try:
        rewards = [float(value) for value in given]
    except (TypeError, ValueError):
        raise BadReward(f"the reward function {name_of(reward)} gave {_short(given)}: {wanted}") from None
    if len(rewards) != len(completions):
        raise BadReward(f"the reward function {name_of(reward)} gave {len(rewards)} rewards: {wanted}")
    for value, completion in zip(rewards, completions):
        if not math.isfinite(value):
            raise BadReward(f"the reward function {name_of(reward)} gave {value} for {_short(completion)}: {wanted}")
    return rewards


def resolve_reward(
    reward: RewardFunction | str, named: Mapping[str, Callable[[], RewardFunction]] | None = None
) -> RewardFunction:
    """A reward function from its description.

    Args:
        reward: the function itself; its name, `module:function` or one of `named`; or a weighted sum of such names, as
            `0.3*length+0.7*my_module:my_reward`.
        named: what makes the functions that have a short name.

    Raises:
        ValueError: no such function, or a description that cannot be read.
    """
    if not isinstance(reward, str):
        if not callable(reward):
            raise ValueError(f"reward must be a function or the name of one, got {_short(reward)}")
        return reward
    terms = [_term(text.strip(), named or {}, reward) for text in reward.split("+")]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]
    return WeightedReward(terms)


def name_of(reward: Any) -> str:
    """What to call a reward function in messages."""
    kind = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{kind.__module__}:{kind.__qualname__}"


class WeightedReward:
    """A weighted sum of reward functions.

    Args:
        terms: (weight, function) pairs.
    """

    def __init__(self, terms: Sequence[tuple[float, RewardFunction]]) -> None:
        self.terms = list(terms)

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """The sums."""
        columns_T = [score(function, prompts, completions, **columns) for _, function in self.terms]
        weights = [weight for weight, _ in self.terms]
        return [sum(w * value for w, value in zip(weights, values)) for values in zip(*columns_T)]


class LengthReward:
    """The length of a completion as a fraction of a target; 1 beyond it.

    Args:
        target: characters.
    """

    def __init__(self, target: int) -> None:
        if target < 1:
            raise ValueError(f"target must be >= 1, got {target}")
        self.target = target

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """Fractions from 0 to 1."""
        return [min(len(completion) / self.target, 1.0) for completion in completions]


class QualityReward:
    """How likely a completion is under a reference language model, less a penalty for repetition.

    The mean log-likelihood of its tokens in nats, given the prompt, less `repetition_penalty` times the share of its
    n-grams of tokens that it has had before. A completion without tokens counts as one token with the probability
    1 / vocabulary, so that saying nothing is as good as babbling. The model is loaded at the first call.

    Args:
        reference: Hugging Face folder, .gguf file or run directory of the reference model.
        repetition_penalty: see above.
        order: n of the n-grams.
        device: where the reference computes.

    Raises:
        ValueError: nothing is there.
    """

    def __init__(
        self, reference: Path | str, *, repetition_penalty: float = 1.0, order: int = 2, device: str = "cpu"
    ) -> None:
        if not Path(reference).exists():
            raise ValueError(f"there is no reference model at {reference}: give a model folder, .gguf file or run")
        if not 0 <= repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be finite and >= 0, got {repetition_penalty}")
        if order < 1:
            raise ValueError(f"order must be >= 1, got {order}")
        self.reference, self.device = Path(reference), device
        self.repetition_penalty, self.order = repetition_penalty, order

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """Nats a token, below 0 but for a certain completion."""
        _, tokenizer = _load(str(self.reference), self.device)
        written = [tokenizer.encode(completion) for completion in completions]
        likelihoods = self.likelihoods(prompts, written)
        return [
            likelihood - self.repetition_penalty * repetition(tokens, self.order)
            for likelihood, tokens in zip(likelihoods, written)
        ]

    def likelihoods(self, prompts: list[str], written: list[list[int]]) -> list[float]:
        """Mean log-likelihood of each completion's tokens, in nats.

        Args:
            prompts: what comes before.
            written: token ids of the completions.

        Raises:
            ValueError: a text is longer than the reference model can read.
        """
        from core.language.pretrained import start_ids

        policy, tokenizer = _load(str(self.reference), self.device)
        likelihoods = [-math.log(policy.model.vocab_size)] * len(written)
        rows = [row for row, tokens in enumerate(written) if tokens]
        contexts = {row: tokenizer.encode(prompts[row]) or start_ids(tokenizer) for row in rows}
        longest = max((len(contexts[row]) + len(written[row]) - 1 for row in rows), default=0)
        if longest > policy.model.config.max_length:
            raise ValueError(
                f"{self.reference} reads {policy.model.config.max_length} tokens, a text to be judged has {longest}: "
                "shorten prompts or completions"
            )
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            means = _mean_logprobs(policy, [contexts[row] for row in some], [written[row] for row in some])
            for row, mean in zip(some, means):
                likelihoods[row] = mean
        return likelihoods


def repetition(tokens: Sequence[int], order: int) -> float:
    """Share of the n-grams of a text that it has had before: 0 where all are different, and where it has none."""
    return 1 - distinct_n([tokens], order) if len(tokens) >= order else 0.0


def _mean_logprobs(policy: Any, contexts: list[list[int]], written: list[list[int]]) -> list[float]:
    import torch

    from core.interfaces import Samples

    device = next(policy.model.parameters()).device
    lengths_B = torch.tensor([len(tokens) for tokens in written], device=device)
    tokens_BT = torch.zeros(len(written), int(lengths_B.max()), dtype=torch.long, device=device)
    for row, tokens in enumerate(written):
        tokens_BT[row, : len(tokens)] = torch.tensor(tokens, device=device)
    mask_BT = torch.arange(tokens_BT.shape[1], device=device) < lengths_B[:, None]
    samples = Samples(tokens_BT, mask_BT, torch.zeros(tokens_BT.shape, device=device), torch.zeros_like(lengths_B) > 0)
    with torch.no_grad():
        sums_B = policy.logprobs(contexts, samples).sum(1)
    return cast("list[float]", (sums_B / lengths_B).tolist())


@lru_cache(maxsize=2)
def _load(reference: str, device: str) -> tuple[Any, Any]:
    """(policy, tokenizer); copies of an environment share them."""
    from core.policy import LanguageModelPolicy
    from core.pretrained.interchange import load_model

    model, tokenizer = load_model(reference)
    if tokenizer is None:
        raise ValueError(f"{reference} has no tokenizer.json, so it cannot read texts: export it with its tokenizer")
    return LanguageModelPolicy(model.to(device).eval(), max_new_tokens=1), tokenizer


def _term(text: str, named: Mapping[str, Callable[[], RewardFunction]], whole: str) -> tuple[float, RewardFunction]:
    weight_text, star, name = text.rpartition("*")
    try:
        weight = float(weight_text) if star else 1.0
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"{weight_text!r} in the reward {whole!r} is no weight: write it as 0.3*length+0.7*quality")
    name = name.strip()
    if name in named:
        return weight, named[name]()
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        known = ", ".join([*named, "module:function"])
        raise ValueError(f"no reward is called {name!r}: use one of {known}, or a weighted sum of them")
    from core.recipes import import_by_name

    function = getattr(import_by_name(module_name, f"the reward {name}"), function_name, None)
    if not callable(function):
        raise ValueError(f"{module_name} has no function {function_name!r}: give the reward as module:function")
    return weight, function


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
