"""Every recipe of text GANs, small: its parts fit together, and it ends with scores of all that it promises."""

from pathlib import Path

import pytest

from adversarial import recipes
from adversarial.trainers import GANTrainer
from core.recipes import list_recipes

NAMES = sorted(recipe.name.partition(":")[2] for recipe in list_recipes() if recipe.name.startswith("adversarial:"))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_made_small_trains_and_scores(name: str, tmp_path: Path) -> None:
    if name in ("missions", "conditional"):
        pytest.importorskip("minigrid")
    whole = getattr(recipes, name)()
    text_only = whole.mle_fraction == 1
    config = getattr(recipes, name)(
        out=tmp_path / "run", train_lines=200, held_out_lines=20, eval_samples=30, steps=6, batch_size=8,
        mle_fraction=1.0 if text_only else 0.5 if whole.mle_steps else 0.0, select_every=2, discriminator_warmup=0.0,
        device="cpu", num_rollouts=2, fakes_per_round=min(whole.fakes_per_round, 16),
        discriminator_steps=min(whole.discriminator_steps, 2),
    )  # fmt: skip
    trainer = GANTrainer(config, recipe=f"adversarial:{name}", quiet=True)
    scores = trainer.train()
    rows = {row["name"]: row for row in trainer.report_sections()["rows"]}
    assert {"untrained", "model"} <= set(rows)
    assert scores["nll"] == rows["model"]["nll"]["value"]
    assert ("nll_oracle" in scores) == (whole.source == "oracle")
    assert ("valid" in scores) == (whole.source in ("grammar", "babyai"))


def test_the_docstring_of_every_recipe_says_what_to_type_and_to_expect() -> None:
    for name in NAMES:
        text = getattr(recipes, name).__doc__
        assert f"Command: trillium train adversarial:{name}\n" in text
        assert "Runtime: " in text
        assert "Expected: " in text
        assert "TODO" not in text
