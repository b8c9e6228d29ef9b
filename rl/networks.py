"""The networks that a config describes: the policy's model and the critic.

Shape suffixes: N = turns, T = tokens of a turn, D = model width.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from core.interfaces import Samples
from core.nn.lora import apply_lora
from core.nn.networks import LanguageNetwork, build_network, set_dropout
from core.policy import LanguageModelPolicy, ValueHead
from rl.config import PolicyConfig
from rl.environments import EnvironmentPool
from rl.interface import build_tokenizer
from rl.players import EnvironmentPlayer, Player, PromptPlayer
from rl.vector import environment_pool


def build_policy(config: PolicyConfig, *, critic: bool) -> tuple[LanguageNetwork, "Critic | None", Player]:
    """The policy's model, the critic, and what lets them play.

    Args:
        config: the run.
        critic: whether to build one. It has the policy's sizes, and its weights where they are pretrained.

    Raises:
        EnvironmentMismatch: the environment does not read and give text, or the tokenizer lacks its characters.
        ValueError: the folder to start from, the prompts or the reward cannot be used.
    """
    if config.init_from is not None:
        from core.pretrained.interchange import load_model

        model, tokenizer = load_model(config.init_from)
        if tokenizer is None:
            raise ValueError(f"{config.init_from} has no tokenizer.json: a policy needs one to read and write text")
        set_dropout(model, 0.0)
        if config.lora_rank:
            apply_lora(model, rank=config.lora_rank)
        player: Player
        if config.prompts is not None:
            player = PromptPlayer.of(config, tokenizer)
        else:
            player = EnvironmentPlayer(config, _pool(config), tokenizer, model.vocab_size)
        return model, Critic(copy.deepcopy(model)) if critic else None, player
    pool = _pool(config)
    fresh_tokenizer = build_tokenizer(pool.first(1)[0])
    player = EnvironmentPlayer(config, pool, fresh_tokenizer, fresh_tokenizer.vocab_size)
    turn = player.interface.max_observation_tokens + player.max_new_tokens
    longest = 1 + turn
    if config.context == "history":  # and what a critic reads after the last turn
        longest = 1 + turn * config.max_turns + player.interface.max_observation_tokens

    def fresh() -> LanguageNetwork:
        sizes = config.model
        # An MLP sees no more than it must: its first layer is as wide as what it sees.
        length = longest if config.network == "mlp" else max(sizes.max_length, longest)
        return build_network(config.network, replace(sizes, vocab_size=fresh_tokenizer.vocab_size, max_length=length))

    return fresh(), Critic(fresh()) if critic else None, player


def _pool(config: PolicyConfig) -> EnvironmentPool:
    return environment_pool(config.env, config.env_kwargs, config.env_workers, timeout_s=config.env_timeout_s)


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
