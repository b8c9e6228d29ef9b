"""The networks that a config describes: the policy's model and the critic.

Shape suffixes: N = turns, T = tokens of a turn, D = model width.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
from torch import Tensor, nn

from core.interfaces import Samples
from core.nn.networks import LanguageNetwork, build_network
from core.policy import LanguageModelPolicy, ValueHead
from rl.config import PolicyConfig
from rl.interface import TextInterface, build_tokenizer, text_spaces


def build_networks(
    config: PolicyConfig, env: gymnasium.Env[Any, Any], *, critic: bool
) -> tuple[LanguageNetwork, "Critic | None", TextInterface]:
    """The policy's model, the critic, and what connects them with the environment's text.

    Args:
        config: the run.
        env: any copy of the environment.
        critic: whether to build one. It has the policy's sizes, and its weights where they are pretrained.

    Raises:
        EnvironmentMismatch: the environment does not read and give text, or the tokenizer lacks its characters.
        ValueError: the folder to start from cannot be used.
    """
    spaces = text_spaces(env)
    if config.init_from is not None:
        from core.pretrained.interchange import load_model

        model, tokenizer = load_model(config.init_from)
        if tokenizer is None:
            raise ValueError(f"{config.init_from} has no tokenizer.json: a policy needs one to read and write text")
        interface = TextInterface(tokenizer, *spaces, vocab_size=model.vocab_size)
        return model, Critic(copy.deepcopy(model)) if critic else None, interface
    interface = TextInterface(build_tokenizer(env), *spaces)
    turn = interface.max_observation_tokens + interface.max_action_tokens
    longest = 1 + turn * (config.max_turns if config.context == "history" else 1)

    def fresh() -> LanguageNetwork:
        sizes = config.model
        # An MLP sees no more than it must: its first layer is as wide as what it sees.
        length = longest if config.network == "mlp" else max(sizes.max_length, longest)
        shape = replace(sizes, vocab_size=interface.vocab_size, max_length=length)
        return build_network(config.network, shape)

    return fresh(), Critic(fresh()) if critic else None, interface


class Critic(nn.Module):
    """A network of its own that expects returns; 0 everywhere at the start.

    Args:
        model: reads the same tokens as the policy.
    """

    def __init__(self, model: LanguageNetwork) -> None:
        super().__init__()
        self.model = model
        self.head = ValueHead(model.width)

    def forward(self, contexts: Sequence[Sequence[int]], samples: Samples) -> Tensor:
        """value_NT: what is still to come before each sampled token, in float32.

        Args:
            contexts: what the policy read.
            samples: what it sampled; the value at the first token does not depend on it.
        """
        return self.head(LanguageModelPolicy(self.model, max_new_tokens=1).hidden(contexts, samples))
