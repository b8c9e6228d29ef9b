"""Runs that are known to work. A recipe returns a config; `trillium list` shows what its docstring says.

`Captions:` is what the same recipe gives on COCO's captions, split as Texygen has them: `trillium train
adversarial:RECIPE --text TRAIN.txt --held-out-text TEST.txt --max-tokens 40`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from adversarial.config import GANConfig
from core.config import ModelConfig, OptimConfig

_ADAM = OptimConfig(optimizer="adam", betas=(0.9, 0.99), max_grad_norm=5.0)


def gan(**changes: Any) -> GANConfig:
    """A text GAN: MLE, then a discriminator, on sentences of a small grammar or on your own file (`--text FILE`).

    Command: trillium train adversarial:gan
    Runtime: 46 seconds on one CPU core
    Expected: 84 % of the sentences are grammatical, 48 % before the GAN phase; held-out NLL 1.83 nats (bound 1.80)
    Captions: held-out NLL 4.16, 4.37 before the GAN phase

    MLE for as many steps (`--mle-fraction 1`) is better still here, 88 % and 1.82: the GAN phase keeps a likelihood
    term, and on a grammar this regular that term is what teaches most.
    """
    config = GANConfig(
        out=Path("runs/gan"),
        held_out_lines=1000,
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)


def cooperative(**changes: Any) -> GANConfig:
    """Cooperative training: two LSTMs learn the oracle's text by MLE; one then follows the other, its mediator.

    Command: trillium train adversarial:cooperative
    Runtime: 19 minutes on one CPU core
    Expected: held-out NLL 7.37, 7.40 before the game (the oracle's own 5.82); NLL_oracle 9.21 and 9.08

    The mediator goes on learning from real and generated sequences, the generator from the mediator's distributions and
    from real ones. `trillium frontier runs/cooperative` shows the gain at every temperature; it is largest at low ones.
    `--oracle FILE` takes the classic oracle, `--text FILE` your own text.
    """
    config = GANConfig(
        out=Path("runs/cooperative"),
        source="oracle",
        held_out_lines=10_000,
        eval_samples=10_000,
        network="lstm",
        model=ModelConfig(width=128, num_layers=1, max_length=128, dropout=0.6),
        batch_size=128,
        steps=3725,
        mle_fraction=3125 / 3725,
        mle=dataclasses.replace(_ADAM, lr=3e-3, warmup_steps=50),
        select_every=300,
        estimator="cooperative",
        judge="mediator",
        fake_weight=0.5,
        adversarial_weight=0.8,
        mle_weight=0.2,
        adversarial_dropout=0.3,
        discriminator_warmup=0.0,
        penalty=0.0,
        optim=dataclasses.replace(_ADAM, lr=1e-3),
        discriminator=dataclasses.replace(_ADAM, lr=3e-4),
        precision="bf16",
        threads=1,
    )
    return dataclasses.replace(config, **changes)


def missions(**changes: Any) -> GANConfig:
    """Cooperative training on BabyAI's instructions, of which a grammar knows all. Needs the package minigrid.

    Command: trillium train adversarial:missions
    Runtime: 90 seconds on one CPU core, after 40 for drawing the missions
    Expected: 99 % valid; of the missions that no training episode has, 17 % are among 2,000 sentences

    `trillium frontier runs/missions -n 20000`: with 99.5 % valid it covers 78.5 % of them, its MLE start 77.4 %.
    """
    config = cooperative(
        out=Path("runs/missions"),
        source="babyai",
        train_lines=2000,
        held_out_lines=5000,
        eval_samples=2000,
        model=ModelConfig(width=128, num_layers=1, max_length=128, dropout=0.4),
        steps=900,
        mle_fraction=600 / 900,
        select_every=100,
    )
    return dataclasses.replace(config, **changes)


def conditional(**changes: Any) -> GANConfig:
    """A generator that is told the class: few labelled sentences, and what more of them are worth to a classifier.

    Command: trillium train adversarial:conditional
    Runtime: 2 minutes on one busy CPU core
    Expected: a classifier finds 56.8 % of held-out labels with the sentences, 53.0 % with the 160 training lines alone

    By default the classes are eight levels of BabyAI, whose instructions overlap; your own with `--text FILE --label
    FIELD`. `trillium augment` then writes more. It is a Transformer, for an LSTM is slow to learn to mind the label.
    """
    config = cooperative(
        out=Path("runs/conditional"),
        source="babyai",
        level="GoTo,Pickup,PutNextLocal,Synth,SynthLoc,SynthSeq,GoToSeq,BossLevel",
        train_lines=160,
        held_out_lines=2000,
        eval_samples=1000,
        max_tokens=60,
        network="transformer",
        model=ModelConfig(width=64, num_layers=2, num_heads=2, max_length=128, dropout=0.3),
        adversarial_dropout=0.2,
        batch_size=32,
        steps=500,
        mle_fraction=400 / 500,
        select_every=25,
        min_unique=0.0,
    )
    return dataclasses.replace(config, **changes)


def seqgan(**changes: Any) -> GANConfig:
    """SeqGAN: REINFORCE with Monte-Carlo roll-outs, judged by convolutions; an LSTM on the oracle's sequences.

    Command: trillium train adversarial:seqgan
    Runtime: 8 minutes on one busy CPU core
    Expected: NLL_oracle 8.51, 8.84 before the game; held-out NLL 8.49 and 8.37
    Captions: held-out NLL 5.08, 4.87 before the game

    As in the classic protocol the LSTM has learned its text by heart before the game begins, which is what there is to
    mend: after a well-kept MLE (dropout, weights chosen by validation lines) the game changed 9.43 and 7.49 to 9.41 and
    7.55. A discriminator that never learns (`--discriminator.lr 1e-9`) gives 8.49 and 8.52: without a baseline all
    rewards are positive, and what helps is that the generator's own samples become likelier. `--text FILE` takes yours.
    """
    config = _classic(
        "seqgan",
        rounds=20,
        mle_steps=6250,
        model=ModelConfig(width=32, num_layers=1, max_length=128),
        select_every=0,
        estimator="rollouts",
        baseline="none",
        judge="light_cnn",
        judge_width=16,
        judge_filters=60,
        discriminator_steps=200,
        discriminator_batch=32,
        fakes_per_round=6400,
        discriminator=dataclasses.replace(_ADAM, lr=3e-4, schedule="constant"),
        optim=dataclasses.replace(_ADAM, lr=1e-2, schedule="constant"),
    )
    return dataclasses.replace(config, **changes)


def scratchgan(**changes: Any) -> GANConfig:
    """ScratchGAN: no MLE at all; a reward for every token, from a discriminator that judges token by token.

    Command: trillium train adversarial:scratchgan
    Runtime: 4 minutes on one CPU core
    Expected: held-out NLL 7.87 (8.52 before, a good MLE 7.5), NLL_oracle 10.1
    Captions: not learned; with `--optim.lr 5e-4 --discriminator.lr 1e-3` NLL 7.64 at best, 8.40 untrained

    The discriminator tells unseen real sequences apart until about step 600; longer runs get no better.
    """
    config = _classic(
        "scratchgan",
        rounds=600,
        mle_steps=0,
        estimator="dense",
        baseline="critic",
        judge="tokens",
        judge_dropout=0.1,
        select_every=100,
        select_generator=True,
        discriminator_warmup=0.0,
        discriminator=dataclasses.replace(_ADAM, lr=5e-3, betas=(0.5, 0.99), schedule="constant"),
        optim=dataclasses.replace(_ADAM, lr=2e-3, betas=(0.5, 0.99), schedule="constant"),
    )
    return dataclasses.replace(config, **changes)


def rpgan(**changes: Any) -> GANConfig:
    """RpGAN: pairs of real and generated sentences, gradient penalties on both, straight-through samples.

    Command: trillium train adversarial:rpgan
    Runtime: 8 minutes on one busy CPU core
    Expected: held-out NLL 7.51 as before the game; NLL_oracle 9.45, 9.47 before
    Captions: held-out NLL 3.99, 3.98 before the game
    """
    config = _classic(
        "rpgan",
        rounds=100,
        estimator="straight_through",
        judge="ratio",
        loss="relativistic",
        penalty=0.3,
        fake_penalty=0.3,
        mle_weight=1.0,
        adversarial_weight=0.1,
        precision="fp32",
        discriminator=dataclasses.replace(_ADAM, lr=1e-3, schedule="constant"),
        optim=dataclasses.replace(_ADAM, lr=1e-3),
    )
    return dataclasses.replace(config, **changes)


def relgan(**changes: Any) -> GANConfig:
    """RelGAN: relational memory, Gumbel-softmax samples that harden, many representations of each sentence judged.

    Command: trillium train adversarial:relgan
    Runtime: 11 minutes on one busy CPU core
    Expected: held-out NLL 7.69, 7.66 before the game; NLL_oracle 9.86 and 9.76: nothing gained
    Captions: held-out NLL 4.23, 4.01 before the game

    The discriminator is a quarter as wide as the paper's and learns thirty times as fast, or 800 updates would leave it
    at chance; the paper has 15,000.
    """
    config = _classic(
        "relgan",
        rounds=160,
        mle_steps=600,
        network="relational",
        model=ModelConfig(width=32, num_layers=1, max_length=128),
        mle=dataclasses.replace(_ADAM, lr=1e-2, warmup_steps=20),
        select_every=100,
        estimator="gumbel",
        inverse_temperature=100.0,
        judge="representations",
        judge_width=16,
        judge_dropout=0.25,
        loss="relativistic",
        discriminator_steps=5,
        discriminator=dataclasses.replace(_ADAM, lr=3e-3, schedule="constant"),
        optim=dataclasses.replace(_ADAM, schedule="constant"),
    )
    return dataclasses.replace(config, **changes)


def maligan(**changes: Any) -> GANConfig:
    """MaliGAN: samples weighted by how much likelier the discriminator finds them in real text.

    Command: trillium train adversarial:maligan
    Runtime: 4 minutes on one busy CPU core
    Expected: NLL_oracle 8.85, 8.84 before the game; held-out NLL 8.38 and 8.37: nothing gained
    Captions: held-out NLL 4.91, 4.87 before the game

    A discriminator that has learned more makes it worse (9.01 and 8.85 after 40 rounds of 200 updates, the generator at
    1e-2): few of 64 sentences then carry all the weight.
    """
    config = _classic(
        "maligan",
        rounds=200,
        mle_steps=6250,
        model=ModelConfig(width=32, num_layers=1, max_length=128),
        select_every=0,
        estimator="importance",
        judge="light_cnn",
        judge_width=16,
        judge_filters=60,
        discriminator_steps=20,
        discriminator=dataclasses.replace(_ADAM, lr=3e-4, schedule="constant"),
        optim=dataclasses.replace(_ADAM, lr=1e-3, schedule="constant"),
    )
    return dataclasses.replace(config, **changes)


def rankgan(**changes: Any) -> GANConfig:
    """RankGAN: SeqGAN's roll-outs, but a sentence is worth its rank among real ones.

    Command: trillium train adversarial:rankgan
    Runtime: 4 minutes on one busy CPU core
    Expected: NLL_oracle 8.52, 8.84 before the game; held-out NLL 8.49 and 8.37
    Captions: held-out NLL 5.39, 4.87 before the game
    """
    config = seqgan(out=Path("runs/rankgan"), loss="ranking", reward="rank")
    return dataclasses.replace(config, **changes)


def cot(**changes: Any) -> GANConfig:
    """CoT as published: a mediator learns the mixture of real and generated text, the generator comes to meet it.

    Command: trillium train adversarial:cot
    Runtime: 7 minutes on one busy CPU core
    Expected: held-out NLL 7.60 without any MLE of the generator (8.52 before, a good MLE 7.5); NLL_oracle 9.78
    Captions: held-out NLL 4.68, 8.40 before
    """
    config = _classic(
        "cot",
        rounds=2000,
        mle_steps=0,
        select_generator=True,
        estimator="cooperative",
        judge="mediator",
        divergence="reverse",
        fake_weight=1.0,
        discriminator_warmup=0.0,
        discriminator=dataclasses.replace(_ADAM, lr=1e-2, schedule="constant"),
        optim=dataclasses.replace(_ADAM, lr=1e-2, schedule="constant"),
    )
    return dataclasses.replace(config, **changes)


def textgail(**changes: Any) -> GANConfig:
    """TextGAIL: proximal policy optimisation against a discriminator that compares pairs, with real text mixed in.

    Command: trillium train adversarial:textgail
    Runtime: 2 minutes on one busy CPU core
    Expected: NLL_oracle 9.10, 9.46 before the game; held-out NLL 7.60 and 7.51
    Captions: held-out NLL 4.04, 3.98 before the game
    """
    config = _classic(
        "textgail",
        rounds=100,
        estimator="clipped",
        generator_steps=4,
        adversarial_dropout=0.0,
        judge="ratio",
        loss="relativistic",
        mle_weight=0.3,
        discriminator_steps=2,
        discriminator=dataclasses.replace(_ADAM, lr=1e-3, schedule="constant"),
        optim=dataclasses.replace(_ADAM, lr=1e-3, schedule="constant"),
    )
    return dataclasses.replace(config, **changes)


def _classic(name: str, rounds: int, mle_steps: int = 2000, **settings: Any) -> GANConfig:
    """The classic setting: sequences of the oracle, a small LSTM, its best MLE weights after 13 epochs, a game."""
    common: dict[str, Any] = {
        "out": Path(f"runs/{name}"),
        "source": "oracle",
        "held_out_lines": 5000,
        "eval_samples": 5000,
        "network": "lstm",
        "model": ModelConfig(width=64, num_layers=1, max_length=128, dropout=0.5),
        "batch_size": 64,
        "steps": mle_steps + rounds,
        "mle_fraction": mle_steps / (mle_steps + rounds),
        "mle": dataclasses.replace(_ADAM, lr=1e-2, warmup_steps=50),
        "select_every": 300,
        "discriminator_warmup": 0.1,
        "penalty": 0.0,
        "feature_weight": 0.0,
        "mle_weight": 0.0,
        "adversarial_weight": 1.0,
        "precision": "bf16",
        "threads": 1,
    }
    return GANConfig(**(common | settings))
