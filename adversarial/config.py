"""Settings of a text GAN. Imports no torch, so that the command line starts fast."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from core.config import ModelConfig, OptimConfig, RunConfig, require

LogitLoss = Literal["bce", "hinge", "least_squares", "wasserstein", "relativistic", "relativistic_average"]
Loss = LogitLoss | Literal["ranking"]
Estimator = Literal["straight_through", "gumbel", "rollouts", "dense", "importance", "clipped", "cooperative"]
Judge = Literal["ratio", "cnn", "light_cnn", "representations", "attention", "tokens", "mediator"]


@dataclass(frozen=True, kw_only=True)
class GANConfig(RunConfig):
    """Train a generator of sentences: first by maximum likelihood (MLE), then against a discriminator."""

    trainer: ClassVar[str] = "adversarial.trainers:GANTrainer"

    text: Path | None = None
    """Your own text, one sentence a line (JSON lines, CSV and Parquet with a `text` field too)."""
    source: Literal["grammar", "oracle", "babyai", "emoji"] = "grammar"
    """What is learned when there is no `text`. `grammar`: sentences of a small grammar, for which it can be decided
    exactly whether a sentence is right. `oracle`: sequences of a random LSTM, which can score any sequence exactly.
    `babyai`: instructions of the grid worlds of the package `minigrid`, of which a grammar knows all. `emoji`: the
    English names of emoji, from the package `emoji`."""
    label: str | None = None
    """Field of `text` (JSON lines, CSV, Parquet) with the class of each sentence. The generator then writes sentences
    of each class, and the report says what they are worth to a classifier; see `trillium augment`."""
    level: str = "Synth"
    """Whose instructions `babyai` has: Synth, SynthLoc, SynthSeq, GoToSeq, PutNextLocal, BossLevel … Several, separated
    by commas, are the classes of a generator that is told which level to write for."""
    train_lines: int = 10_000
    """Sentences drawn to train on, when there is no `text`."""
    oracle: Path | None = None
    """File of the oracle's arrays (`.npz`). `None`: an oracle drawn from `oracle_seed`, which everyone can make."""
    oracle_seed: int = 0
    """Seed of the oracle when it comes from no file."""
    oracle_transposed: bool = False
    """Read the gate matrices of the file the other way round, as some published curves did."""
    held_out_text: Path | None = None
    """Lines to score with, from a file of their own instead of a share of `text`."""
    held_out_fraction: float = 0.1
    """Share of the different lines of `text` that is kept for scores and never trained on."""
    held_out_lines: int = 2000
    """Most lines for scores; without `text` exactly so many are drawn."""
    max_tokens: int = 24
    """Longest sentence in words, end-of-sequence counted, in training and in generation."""
    max_long_fraction: float = 0.05
    """Stop when more than this share of the lines is longer than `max_tokens`; fewer are left out and counted."""
    min_count: int = 1
    """Words that occur less often in the training text become the unknown word."""
    max_vocabulary: int = 20_000
    """Most words, special tokens included; rarer ones become the unknown word."""

    network: Literal["transformer", "lstm", "relational"] = "transformer"
    """What the generator is, and the body of some discriminators; an LSTM takes width and num_layers from `model`,
    `relational` (RelGAN's relational memory) the embedding width."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(width=64, num_layers=2, num_heads=2, max_length=128))
    """Shape of the generator; its vocabulary size comes from the text."""
    latent: int = 0
    """Width of the normal noise z that every sentence is drawn with; 0: none, and all chance is in the words. With it
    nlls are estimates, -log of the mean of p(x | z) over 16 draws of z, which are too high rather than too low."""
    adversarial_dropout: float | None = None
    """Dropout of the generator in the adversarial phase, where generated sentences and soft targets do what much
    dropout does before; `None` keeps that of `model`."""
    mle_fraction: float = 0.4
    """Share of `steps` that is plain MLE; the rest is adversarial. 1 trains a language model, the baseline."""
    select_every: int = 0
    """Steps between two looks at the nll of validation lines, half as many as the held-out ones and never scored with.
    The weights that were best are taken when the MLE phase ends. 0 takes the last."""
    mle: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=3e-3, betas=(0.9, 0.98), warmup_steps=20, weight_decay=0.05)
    )
    """The generator's optimiser in the MLE phase; its schedule spans that phase."""
    judge: Judge = "ratio"
    """The discriminator. `ratio`: a copy of the generator that adds up what speaks for each token; `cnn`: SeqGAN's
    convolutions, `light_cnn` a tenth of them; `representations`: RelGAN's; `attention`: a bidirectional Transformer of
    the shape of `model`; `tokens`: a logit for every token, as in ScratchGAN; `mediator`: a language model like the
    generator, with weights of its own, for `cooperative`."""
    judge_width: int = 64
    """Embedding width of the convolutional discriminators."""
    judge_filters: int = 160
    """Filters of `light_cnn`, for windows of 2, 3 and 4 words: two, two and one fifth of them."""
    judge_dropout: float = 0.0
    """Dropout of the discriminator."""
    spectral_norm: bool = False
    """Keep the linear layers of the discriminator at a spectral norm of 1."""
    loss: Loss = "bce"
    """What discriminator and generator minimise; see `adversarial/losses.py`. `ranking` (RankGAN) ranks sentences by
    their features instead of judging them, and goes with the reward `rank`."""
    estimator: Estimator = "straight_through"
    """How the verdict reaches the generator. `straight_through`: hard samples with the gradient of their softmax;
    `gumbel`: soft tokens, fed back (RelGAN); `rollouts`: REINFORCE with Monte-Carlo roll-outs (SeqGAN); `dense`:
    REINFORCE with a reward for every token (ScratchGAN); `importance`: samples weighted by D / (1 - D) (MaliGAN);
    `clipped`: PPO on whole sentences, learned from in each of the `generator_steps` of a round (TextGAIL);
    `cooperative`: the next-token distribution of a mediator that learns from real and generated text (CoT)."""
    discriminator: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-3, betas=(0.9, 0.99), schedule="constant", weight_decay=0.01)
    )
    """The discriminator's optimiser; its schedule spans the adversarial phase."""
    discriminator_steps: int = 1
    """Discriminator updates in each round."""
    discriminator_batch: int = 0
    """Real sentences in each of them, and as many generated ones; 0: `batch_size`, over all processes."""
    generator_steps: int = 1
    """Generator updates in each round, which is one training step of the adversarial phase."""
    fakes_per_round: int = 0
    """Sentences generated for the discriminator's updates of a round; 0: each update has its own."""
    replay: float = 0.0
    """Share of sentences of earlier rounds in what the discriminator sees."""
    discriminator_warmup: float = 0.2
    """Share of the adversarial phase in which the discriminator learns alone."""
    temperature: float = 1.0
    """`straight_through`: of the softmax whose gradient the samples take. Sampling itself is always at 1."""
    inverse_temperature: float = 100.0
    """`gumbel`: the inverse temperature at the end; it grows exponentially from 1."""
    num_rollouts: int = 16
    """`rollouts`: sentences drawn to finish each prefix."""
    reward: Literal["probability", "logit", "rank"] = "probability"
    """`rollouts`: what a finished sentence is worth; `rank` is for the loss `ranking`."""
    discount: float = 0.23
    """`dense`: weight of the next token's reward in a token's own."""
    divergence: Literal["forward", "reverse"] = "forward"
    """`cooperative`: from the mediator to the generator, at real and generated sentences, or the other way (CoT)."""
    fake_weight: float = 0.5
    """`cooperative`: weight of generated sentences in the mediator's likelihood; 1 makes it the mixture of CoT."""
    baseline: Literal["mean", "critic", "none"] = "mean"
    """`rollouts`, `dense`: what is subtracted from a reward. `mean`: each position's mean; `critic`: what a linear
    layer on the generator's states predicts; `none`: nothing, so that every token drawn becomes likelier (SeqGAN)."""
    adversarial_weight: float = 0.1
    """Weight of the non-saturating generator loss. It adds up over tokens while the MLE loss is a mean, so 0.1 is on a
    par with it; 0.3 made the generator overshoot and 1 destroyed its language within 40 steps, on the grammar."""
    feature_weight: float = 1.0
    """Weight of feature matching; `straight_through` and `gumbel` have it."""
    feature_loss: Literal["mean", "mmd"] = "mean"
    """What is matched: the mean of the features, or all moments (maximum mean discrepancy)."""
    mle_weight: float = 1.0
    """Weight of the MLE loss in the adversarial phase. It keeps the language from drifting away; 0 is a pure GAN."""
    penalty: float = 0.3
    """gamma of the zero-centred gradient penalty on real sequences (R1)."""
    fake_penalty: float = 0.0
    """gamma of the same on generated ones (R2)."""
    interpolated_penalty: float = 0.0
    """Weight of WGAN's gradient penalty, between real and generated sequences."""
    select_generator: bool = False
    """Choose weights by validation nll in the adversarial phase too; those of the MLE start are a candidate."""
    max_nll_rise: float = 3.0
    """Stop when the validation nll is so many nats above its best. Needs `select_every`."""
    min_unique: float = 0.2
    """Stop when a smaller share of the generated sentences differs, ten rounds in a row."""

    eval_samples: int = 1000
    """Sentences generated for the scores of each row, and as many real ones as references."""
    reverse_steps: int = 0
    """Updates of a small LSTM that learns from the sentences of a row alone and is then scored on held-out text
    (`reverse_nll`): bad where they are wrong as well as where something is missing. 0 leaves this score out."""
    mauve: bool = False
    """Also MAUVE, of LSA vectors. Needs the extra `mauve`."""
    sample_lines: int = 24
    """Sentences written to `samples` at each evaluation."""

    steps: int = 400
    """Training steps of both phases together."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """fp32: the gradient penalty differentiates twice, and small models gain little from bf16."""
    compile: Literal["auto", "on", "off"] = "off"
    """Off: torch.compile does not differentiate twice, and the lengths change from step to step."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-3, betas=(0.9, 0.99), warmup_steps=10))
    """The generator's optimiser in the adversarial phase; its schedule spans that phase."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train_lines", "held_out_lines"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        require(self.select_every >= 0, f"select_every must be >= 0, got {self.select_every}")
        require(
            self.held_out_text is None or self.text is not None,
            "held_out_text goes with text: give the training lines too",
        )
        require(self.label is None or self.text is not None, "label goes with text: name the file that has the field")
        require(
            0 < self.held_out_fraction < 1, f"held_out_fraction must be between 0 and 1, got {self.held_out_fraction}"
        )
        require(self.max_tokens >= 2, f"max_tokens must be >= 2, got {self.max_tokens}")
        require(
            self.max_tokens <= self.model.max_length,
            f"model.max_length {self.model.max_length} is too short for max_tokens {self.max_tokens}: raise it",
        )
        for name in ("min_count", "discriminator_steps", "generator_steps", "judge_width", "num_rollouts"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        require(self.latent >= 0, f"latent must be >= 0, got {self.latent}")
        require(self.judge_filters >= 5, f"judge_filters must be >= 5, got {self.judge_filters}")
        require(self.max_vocabulary > 4, f"max_vocabulary must be > 4, got {self.max_vocabulary}")
        for name in ("fakes_per_round", "discriminator_batch"):
            require(getattr(self, name) >= 0, f"{name} must be >= 0, got {getattr(self, name)}")
        require(
            self.adversarial_dropout is None or 0 <= self.adversarial_dropout < 1,
            f"adversarial_dropout must be in [0, 1), got {self.adversarial_dropout}",
        )
        require(0 <= self.judge_dropout < 1, f"judge_dropout must be in [0, 1), got {self.judge_dropout}")
        require(self.inverse_temperature >= 1, f"inverse_temperature must be >= 1, got {self.inverse_temperature}")
        require(
            self.estimator != "dense" or self.judge == "tokens",
            "estimator dense needs a logit for every token: set judge to tokens",
        )
        require(
            self.loss != "relativistic" or self.judge != "tokens",
            "loss relativistic compares sentences in pairs, and judge tokens has none: use relativistic_average",
        )
        require(
            (self.loss == "ranking") == (self.reward == "rank") and (self.loss != "ranking" or self.judge != "tokens"),
            f"loss ranking, reward rank and a judge of sentences go together, got {self.loss}, {self.reward} and "
            f"{self.judge}",
        )
        require(
            self.reward == "probability" or self.estimator == "rollouts",
            f"reward {self.reward} is for the estimator rollouts, got {self.estimator}",
        )
        dropout = self.model.dropout if self.adversarial_dropout is None else self.adversarial_dropout
        require(
            self.estimator != "clipped" or dropout == 0,
            "estimator clipped compares probabilities before and after a step, which dropout would blur: set "
            "adversarial_dropout to 0",
        )
        require(
            (self.estimator == "cooperative") == (self.judge == "mediator"),
            f"estimator cooperative and judge mediator go together, got {self.estimator} and {self.judge}",
        )
        require(
            self.baseline == "mean" or self.estimator in ("rollouts", "dense"),
            f"baseline {self.baseline} is for the estimators rollouts and dense, got {self.estimator}",
        )
        for name in ("mle_fraction", "max_long_fraction", "discriminator_warmup", "replay", "discount", "min_unique"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1], got {getattr(self, name)}")
        require(
            math.isfinite(self.temperature) and self.temperature > 0,
            f"temperature must be finite and > 0, got {self.temperature}",
        )
        for name in (
            "adversarial_weight", "feature_weight", "mle_weight", "penalty", "fake_penalty", "interpolated_penalty",
            "max_nll_rise", "fake_weight",
        ):  # fmt: skip
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"{name} must be finite and >= 0, got {value}")
        require(self.eval_samples >= 2, f"eval_samples must be >= 2, got {self.eval_samples}")
        require(self.reverse_steps >= 0, f"reverse_steps must be >= 0, got {self.reverse_steps}")
        require(self.sample_lines >= 0, f"sample_lines must be >= 0, got {self.sample_lines}")
        require(self.precision != "fp16", "precision fp16 is too narrow for a gradient penalty: use fp32 or bf16")
        require(self.compile not in ("on", "whole"), "compile must be off: torch.compile does not differentiate twice")
        require(
            self.time_budget_s is None,
            "time_budget_s does not go with a GAN, whose two phases have steps of different cost: set steps",
        )
        for name in ("optim", "mle", "discriminator"):
            accumulate = getattr(self, name).accumulate
            require(accumulate == 1, f"{name}.accumulate must be 1 for a GAN, got {accumulate}: lower batch_size")
            require(
                name == "optim" or getattr(self, name).ema_decay == 0,
                f"{name}.ema_decay must be 0: the average of the adversarial phase's generator is optim.ema_decay",
            )

    @property
    def mle_steps(self) -> int:
        """Steps of the MLE phase."""
        return round(self.steps * self.mle_fraction)
