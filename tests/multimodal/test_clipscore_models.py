"""CLIPScore by models: a small open_clip model from a file, and a retrieval run."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from core.errors import RunError, UserError
from multimodal.examples import Medium
from multimodal.media.errors import MediaError
from multimodal.metrics.clip_models import HESSEL_PROMPT, load_clip_model, model_clip_scores
from multimodal.retrieval.config import RetrievalConfig
from multimodal.retrieval.retriever import Retriever
from multimodal.retrieval.trainers import RetrievalTrainer

CAPTIONS = ["a red square", "a green square", "a blue square"]
SHAPE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def pictures(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = runs.write_media(tmp_path_factory.mktemp("clipscore") / "data", ["image"]).parent
    return [folder / f"test-{colour}.png" for colour in ("red", "green", "blue")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shape that open_clip now knows as `trillium-test`, and random weights of it."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "trillium-test.json").write_text(json.dumps(SHAPE), "utf-8")
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("trillium-test").state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def test_an_open_clip_model_from_a_file(weights: Path, pictures: list[Path]) -> None:
    model = load_clip_model(f"open_clip:trillium-test:{weights}")
    scores = model_clip_scores(model, CAPTIONS, pictures, prompt=HESSEL_PROMPT)
    # The same by open_clip alone.
    network, _, preprocess = open_clip.create_model_and_transforms("trillium-test", pretrained=str(weights))
    network.eval()
    with torch.no_grad():
        texts = network.encode_text(open_clip.get_tokenizer("trillium-test")([HESSEL_PROMPT + c for c in CAPTIONS]))
        images = network.encode_image(torch.stack([preprocess(Image.open(one).convert("RGB")) for one in pictures]))
    expected = 2.5 * cosine_similarity(texts, images).clamp(min=0)
    assert scores.per_item["clip_score"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert scores.signature.endswith(f"|model:{model.name}|prompt:'A photo depicts '")
    assert model.name.startswith("open_clip trillium-test ")
    # An identical reference is as close as can be, so the mean is that of the score and 1.
    with_references = model_clip_scores(model, CAPTIONS, pictures, [[text, "x"] for text in CAPTIONS])
    score = torch.tensor(with_references.per_item["clip_score"])
    assert with_references.per_item["ref_clip_score"].tolist() == pytest.approx((2 * score / (score + 1)).tolist())


def test_a_retrieval_run(pictures: list[Path], tmp_path: Path) -> None:
    config = RetrievalConfig(
        out=tmp_path / "run", data=str(pictures[0].parent / "manifest.jsonl"), image_side=20, patch=10, media_width=64,
        text_width=64, media_layers=1, text_layers=1, max_text_tokens=8, steps=30, batch_size=3, threads=1,
        device="cpu", precision="fp32",
    )  # fmt: skip
    RetrievalTrainer(config, quiet=True, report=False).train()
    model = load_clip_model(tmp_path / "run")
    right = model_clip_scores(model, CAPTIONS, pictures)
    wrong = model_clip_scores(model, CAPTIONS[1:] + CAPTIONS[:1], pictures)
    assert bool((right.per_item["clip_score"] > wrong.per_item["clip_score"]).all())
    retriever = Retriever.load(tmp_path / "run", device="cpu")
    cosine = retriever.texts(CAPTIONS[:1])[0] @ retriever.media([Medium("image", pictures[0])])[0][0]
    assert right.per_item["clip_score"][0] == pytest.approx(2.5 * cosine.item(), abs=1e-5)
    assert f"|model:run run {retriever.name[:12]}|" in right.signature
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(MediaError, match="broken"):
        model_clip_scores(model, ["a"], [tmp_path / "broken.png"])
    with pytest.raises(ValueError, match="2 captions and 3 pictures"):
        model_clip_scores(model, CAPTIONS[:2], pictures)


def test_models_that_cannot_be(weights: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_text("no weights")
    for name, message in (
        ("open_clip:trillium-test", "names no weights: write open_clip:trillium-test:FILE"),
        ("open_clip:nonsense:x", "open_clip has no model 'nonsense'"),
        ("open_clip:trillium-test:x", "'x' is neither a file nor a tag of trillium-test; its tags: none"),
        (f"open_clip:trillium-test:{damaged}", "cannot be had"),
    ):
        with pytest.raises(UserError, match=message):
            load_clip_model(name)
    with pytest.raises(RunError, match="not a run directory"):
        load_clip_model(tmp_path)
