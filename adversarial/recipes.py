"""Runs that are known to work. A recipe returns a config; `trillium list` shows what its docstring says."""

from pathlib import Path

from adversarial.config import GANConfig


def gan() -> GANConfig:
    """A text GAN: MLE, then a discriminator, on sentences of a small grammar or on your own file (`--text FILE`).

    Command: trillium train adversarial:gan
    Runtime: TO MEASURE
    Expected: TO MEASURE
    """
    return GANConfig(
        out=Path("runs/gan"),
        threads=1,  # networks this small only lose time when they are split over threads
    )
