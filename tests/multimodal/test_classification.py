"""Emotions from a drawn face and a sentence: classes that neither tells alone."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from multimodal.trainers import CaptioningTrainer

EMOTIONS = {
    (True, "i won the game"): "happy",
    (False, "i won the game"): "touched",
    (True, "i lost the game"): "relieved",
    (False, "i lost the game"): "sad",
}


def draw_face(path: Path, smiles: bool, draw: random.Random) -> None:
    image = Image.new("RGB", (24, 24), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    x, y = draw.randint(0, 2), draw.randint(0, 2)
    pen.ellipse((x + 1, y + 1, x + 20, y + 20), fill=(255, draw.randint(180, 230), 60))
    for eye in (6, 13):
        pen.rectangle((x + eye, y + 6, x + eye + 1, y + 8), fill=(0, 0, 0))
    top, angles = (9, (20, 160)) if smiles else (13, (200, 340))
    pen.arc((x + 6, y + top, x + 15, y + top + 6), *angles, fill=(0, 0, 0), width=2)
    image.save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, runs: Any) -> CaptioningTrainer:
    folder = tmp_path_factory.mktemp("faces")
    draw, lines = random.Random(0), []
    for number in range(160):
        (smiles, said), emotion = list(EMOTIONS.items())[number % 4]
        draw_face(folder / f"{number}.png", smiles, draw)
        prompt = f"<image> {said}. what does the speaker feel?"
        split = "test" if number >= 120 else "train"
        lines.append(json.dumps({"image": f"{number}.png", "prompt": prompt, "answer": emotion, "split": split}))
    manifest = folder / "faces.jsonl"
    manifest.write_text("\n".join(lines), "utf-8")
    config = runs.config(manifest, folder / "run", scoring="classes", image_side=24, grid=3, steps=120, batch_size=20)
    trainer = CaptioningTrainer(config, quiet=True)
    trainer.train()
    return trainer


def test_classes_are_learnt_from_both_and_scored_one_by_one(trained: CaptioningTrainer) -> None:
    written = json.loads((trained.config.out / "eval.json").read_text("utf-8"))
    rows = {row["name"]: row for row in written["rows"]}
    assert rows["model"]["accuracy"]["value"] > 0.9
    assert rows["model"]["macro_f1"]["value"] > 0.9
    assert rows["no media"]["accuracy"]["value"] <= 0.5  # the sentence leaves two of four
    by_class = next(note for note in written["notes"] if note.startswith("F1 by class"))
    assert all(f"{emotion} " in by_class for emotion in EMOTIONS.values())
    assert "(of 10)" in by_class
    assert any(note.startswith("most frequent confusions") for note in written["notes"])


def test_what_is_said_counts(trained: CaptioningTrainer) -> None:
    examples = trained.test_examples
    trained.test_examples = [
        type(example)((example.prompt[0], str(example.prompt[1]).replace("won", "lost")), example.targets)
        for example in examples
        if "won" in str(example.prompt[1])
    ]
    try:
        said = {row["text"] for row in trained.sample(20)}
    finally:
        trained.test_examples = examples
    assert said == {"relieved", "sad"}
