"""Retrieval on files written here: the losses, learning, controls, resume, what is compared in a batch."""

import json
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.nn.functional import normalize

from core.cli import main
from core.config import OptimConfig
from multimodal import recipes
from multimodal.examples import Example, Examples, Medium
from multimodal.reading import TooLong
from multimodal.retrieval.augment import moved
from multimodal.retrieval.config import RetrievalConfig
from multimodal.retrieval.evaluation import RetrievalEvaluation
from multimodal.retrieval.loss import contrastive_loss, equal_pairs
from multimodal.retrieval.retriever import Retriever
from multimodal.retrieval.towers import INIT, MAX_LOGIT_SCALE, ClipTowers
from multimodal.retrieval.trainers import RetrievalTrainer


def settings(manifest: Path, out: Path, **changes: Any) -> RetrievalConfig:
    """Settings that learn `write_media` by heart within seconds."""
    chosen: dict[str, Any] = {
        "out": out, "data": str(manifest), "tower": "features", "image_encoder": "pixels", "image_side": 20, "grid": 2,
        "encoder_width": 64, "max_seconds": 2.0, "cache": manifest.parent / "cache", "vector_width": 32,
        "media_width": 64, "media_layers": 1, "text_width": 64, "text_layers": 1, "max_text_tokens": 8, "steps": 40,
        "batch_size": 6, "log_every": 1, "threads": 1, "device": "cpu", "precision": "fp32",
        "optim": OptimConfig(lr=3e-3, warmup_steps=5),
    }  # fmt: skip
    return RetrievalConfig(**{**chosen, **changes})


def trained(config: RetrievalConfig) -> RetrievalTrainer:
    trainer = RetrievalTrainer(config, quiet=True, report=False)
    trainer.train()
    return trainer


def stored_rows(out: Path) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads((out / "eval.json").read_text("utf-8"))["rows"]}


@pytest.fixture(scope="module")
def two_kinds(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> RetrievalTrainer:
    """A run that has learnt pictures and sounds by heart."""
    folder = tmp_path_factory.mktemp("retrieval")
    trainer = RetrievalTrainer(
        settings(runs.write_media(folder / "data", ["image", "audio"]), folder / "run"), quiet=True
    )
    trainer.train()
    return trainer


# The losses


def vectors(seed: int, count: int = 5) -> Tensor:
    return normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_two_pairs_by_hand() -> None:
    media, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # Products [[1, .6], [0, .8]], times 2: [[2, 1.2], [0, 1.6]].
    by_row = math.log(1 + math.exp(1.2 - 2)) + math.log(1 + math.exp(0 - 1.6))
    by_column = math.log(1 + math.exp(0 - 2)) + math.log(1 + math.exp(1.2 - 1.6))
    loss = contrastive_loss(media, texts, torch.tensor(2.0), None, kind="clip")
    assert loss.item() == pytest.approx((by_row / 2 + by_column / 2) / 2, abs=1e-6)
    # With bias -1: [[1, .2], [-1, .6]]; right pairs log(1 + e^-x), wrong ones log(1 + e^x), over 2.
    terms = [math.exp(-1), math.exp(0.2), math.exp(-1), math.exp(-0.6)]
    loss = contrastive_loss(media, texts, torch.tensor(2.0), torch.tensor(-1.0), kind="siglip")
    assert loss.item() == pytest.approx(sum(math.log(1 + term) for term in terms) / 2, abs=1e-6)


def test_without_equal_pairs_the_loss_is_open_clips() -> None:
    media, texts, scale, bias = vectors(0), vectors(1), torch.tensor(7.0), torch.tensor(-3.0)
    nothing_equal = equal_pairs(torch.arange(5), torch.arange(5))
    for same in (None, nothing_equal):
        assert contrastive_loss(media, texts, scale, None, kind="clip", same_NN=same) == ClipLoss()(media, texts, scale)
        ours = contrastive_loss(media, texts, scale, bias, kind="siglip", same_NN=same)
        assert ours == SigLipLoss()(media, texts, scale, bias)
    with pytest.raises(ValueError, match=r"one text per medium, got \(5, 4\) and \(4, 4\)"):
        contrastive_loss(media, texts[:4], scale, None, kind="clip")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_equal_texts_and_media_are_not_pushed_apart(kind: Any) -> None:
    same = equal_pairs(torch.tensor([0, 1, 2, 2]), torch.tensor([5, 6, 5, 7]))
    assert same.nonzero().tolist() == [[0, 0], [0, 2], [1, 1], [2, 0], [2, 2], [2, 3], [3, 2], [3, 3]]
    media, texts = vectors(2, 4).requires_grad_(), vectors(3, 4).requires_grad_()
    bias = torch.tensor(-1.0) if kind == "siglip" else None
    loss = contrastive_loss(media, texts, torch.tensor(3.0), bias, kind=kind, same_NN=same)
    # By hand, with the alternatives that are left.
    logits = (3 * media @ texts.T + (0 if bias is None else bias)).detach()
    total = 0.0
    for n in range(4):
        others = [m for m in range(4) if not same[n, m]]
        if kind == "siglip":
            total += math.log1p(math.exp(-logits[n, n])) + sum(math.log1p(math.exp(logits[n, m])) for m in others)
        else:
            for line in (logits[n], logits[:, n]):
                total += (torch.logsumexp(line[[n, *others]], 0) - line[n]).item() / 2
    assert loss.item() == pytest.approx(total / 4, abs=1e-5)
    loss.backward()
    assert media.grad is not None
    assert bool(media.grad.isfinite().all())


@pytest.mark.parametrize(("kind", "scale", "bias"), [("clip", 14.2857, None), ("siglip", 10.0, -10.0)])
def test_scale_and_bias_begin_as_in_open_clip(kind: Any, scale: float, bias: float | None, tmp_path: Path) -> None:
    log_scale, addend = INIT[kind]
    assert (math.exp(log_scale), addend) == (pytest.approx(scale, abs=1e-4), bias)
    small: dict[str, Any] = {"media_width": 64, "text_width": 64, "media_layers": 1, "text_layers": 1}
    towers = ClipTowers(RetrievalConfig(loss=kind, image_side=16, patch=8, **small), 10, 2)
    assert towers.scale[0].item() == pytest.approx(log_scale)
    assert (towers.scale[1] is None) == (bias is None)


# Training


def test_two_kinds_are_learnt_and_exchanged_media_are_not_found(two_kinds: RetrievalTrainer) -> None:
    out = two_kinds.config.out
    rows = stored_rows(out)
    assert list(rows) == ["model", "exchanged media", "reversed in time", "untrained towers", "random ranking"]
    for way in ("medium", "text"):
        recall = {name: row[f"{way}_recall_1"]["value"] for name, row in rows.items()}
        assert recall["model"] == 1
        assert recall["exchanged media"] == 0
        assert recall["untrained towers"] < 1
        assert recall["random ranking"] < 1
        assert rows["model"][f"{way}_median_rank"] == {"value": 1, "low": 1, "high": 1}
    assert json.loads((out / "eval.json").read_text("utf-8"))["metrics"]["medium_recall_1"] == 1


def test_samples_show_what_was_found(two_kinds: RetrievalTrainer) -> None:
    out = two_kinds.config.out
    (file,) = (out / "samples").glob("step-*.jsonl")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len(rows) == 6
    red = next(row for row in rows if row["prompt"] == "a red square")
    assert red["ok"] is True
    assert red["text"] == "the first 3 of 6; the right one is number 1"
    shown = red["image"] if isinstance(red["image"], list) else [red["image"]]
    assert shown[0].endswith("test-red.png")
    assert (out / shown[0]).is_file()
    page = (out / "report.html").read_text("utf-8")
    assert "a red square" in page
    assert "exchanged media" in page
    assert two_kinds.sample(2) == [rows[0], rows[3]]


def test_a_run_is_loaded_and_saved_with_equal_vectors(two_kinds: RetrievalTrainer, tmp_path: Path) -> None:
    media, texts = two_kinds.evaluation.vectors
    for folder in (two_kinds.config.out, two_kinds.save(tmp_path / "saved")):
        retriever = Retriever.load(folder, device="cpu")
        assert retriever.kinds == ["image", "audio"]
        found, kept, bad = retriever.media(two_kinds.evaluation.media)
        assert (kept, bad) == (list(range(6)), [])
        torch.testing.assert_close(found, media, atol=1e-5, rtol=0)
        torch.testing.assert_close(retriever.texts(two_kinds.evaluation.texts), texts, atol=1e-5, rtol=0)
        assert found.norm(dim=1).tolist() == pytest.approx([1] * 6)
    assert RetrievalTrainer.load(two_kinds.config.out, device="cpu").sample(6) == two_kinds.sample(6)


@pytest.mark.parametrize(("tower", "loss"), [("open_clip", "clip"), ("features", "siglip")])
def test_both_towers_and_losses_learn_pictures(runs: Any, tmp_path: Path, tower: Any, loss: Any) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image"])
    options: dict[str, Any] = {"tower": tower, "loss": loss, "patch": 10, "augment": tower == "open_clip"}
    trainer = trained(settings(manifest, tmp_path / "run", batch_size=3, **options))
    rows = stored_rows(tmp_path / "run")
    assert rows["model"]["medium_recall_1"]["value"] == 1
    assert rows["exchanged media"]["medium_recall_1"]["value"] == 0
    vectors_NV, _, _ = Retriever.load(tmp_path / "run", device="cpu").media(trainer.evaluation.media)
    torch.testing.assert_close(vectors_NV, trainer.evaluation.vectors[0], atol=1e-5, rtol=0)


def test_the_scale_stays_below_a_hundred(two_kinds: RetrievalTrainer) -> None:
    trainer = RetrievalTrainer(two_kinds.config, quiet=True)
    scale = trainer._task.towers.scale[0]
    with torch.no_grad():
        scale.fill_(9)
    assert trainer._task.train_step(next(iter(trainer.batches)))["scale"] == pytest.approx(100)
    assert scale.item() <= MAX_LOGIT_SCALE + 0.01


def test_a_run_that_was_stopped_goes_on_with_equal_batches_and_losses(runs: Any, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image", "audio"])
    # Batches of 4 of 6 pairs: step 4 stops in the middle of an epoch. Chance is in dropout, words and order.
    options: dict[str, Any] = {"batch_size": 4, "dropout": 0.1, "word_dropout": 0.3, "steps": 9, "checkpoint_every": 4}
    whole = trained(settings(manifest, tmp_path / "whole", **options))
    stopped = settings(manifest, tmp_path / "stopped", **options)
    trainer = RetrievalTrainer(stopped, quiet=True, report=False)
    step, taken = type(trainer._task).train_step, []

    def stop_after(task: Any, batch: Any) -> Any:
        if len(taken) == 6:
            raise KeyboardInterrupt
        taken.append(batch)
        return step(task, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer._task), "train_step", stop_after)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    again = trained(stopped)
    assert again.batches.state_dict() == whole.batches.state_dict()

    assert losses(stopped.out) == losses(tmp_path / "whole")
    weights = [run._task.updater.module.state_dict() for run in (whole, again)]
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())


def losses(out: Path) -> list[tuple[int, float]]:
    """Step and loss of every line of metrics."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_two_processes_compare_the_pairs_of_both(runs: Any, tmp_path: Path, loss: Any) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image", "video"])
    options: dict[str, Any] = {"video_encoder": "pixels", "num_frames": 4, "steps": 4, "batch_size": 4, "loss": loss}

    def train(name: str) -> None:
        trained(settings(manifest, tmp_path / name, **options))

    train("one")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    pids = []
    for rank in ("0", "1"):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
                os.environ["MASTER_PORT"] = str(port)
                train("two")
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in two] == [1, 2, 3, 4]
    assert [value for _, value in two] == pytest.approx([value for _, value in one], rel=1e-4)


def test_pairs_that_share_medium_or_text_are_known_in_a_batch(tmp_path: Path) -> None:
    def picture(value: int) -> Medium:
        return Medium("image", torch.full((3, 20, 20), value, dtype=torch.uint8))

    grey, dark = picture(128), picture(10)
    train = [Example((grey,), ("one", "two")), Example((dark,), ("Two",)), Example((picture(99), "read me"), ("four",))]
    trainer = RetrievalTrainer(settings(tmp_path / "none", tmp_path / "run", batch_size=4), quiet=True)
    trainer.examples = Examples(train, train)
    batch = next(iter(trainer.batches))
    media, texts = batch.numbers_2N.tolist()
    assert sorted(texts) == [0, 1, 1, 2]  # case does not tell texts apart
    assert sorted(media) == sorted([media[texts.index(0)], *media])[1:]
    assert int(equal_pairs(*batch.numbers_2N).sum()) == 4 + 2 + 2


# Evaluation


def test_scores_by_hand() -> None:
    media = [Medium("image", torch.zeros(1)), Medium("image", torch.ones(1)), Medium("image", torch.ones(2))]
    test = [Example((media[0],), ("x", "y")), Example((media[1],), ("y",)), Example((media[2],), ("z",))]
    places = {"x": [1.0, 0.0], "y": [0.6, 0.8], "z": [0.8, 0.6]}
    of_media = {id(media[0].source): [1.0, 0.0], id(media[1].source): [0.0, 1.0], id(media[2].source): [0.0, -1.0]}
    evaluation = RetrievalEvaluation(
        lambda media: torch.tensor([of_media[id(one.source)] for one in media]),
        lambda texts: torch.tensor([places[text] for text in texts]),
        test,
    )
    assert (evaluation.texts, evaluation.media_of) == (["x", "y", "z"], [{0}, {0, 1}, {2}])
    scores = evaluation.score()
    # x finds medium 0 first; y finds medium 1, one of its two; z has its medium last of three.
    assert scores["medium_recall_1"] == pytest.approx(2 / 3)
    assert (scores["medium_recall_5"], scores["medium_median_rank"]) == (1, 1)
    # Medium 0 finds x, medium 1 y; medium 2, below all, prefers x, then z.
    assert scores["text_recall_1"] == pytest.approx(2 / 3)
    assert evaluation.model["text"].per_item["median_rank"].tolist() == [1, 1, 2]


def test_pictures_are_moved_each_by_itself_and_keep_their_colours() -> None:
    torch.manual_seed(0)
    images = torch.zeros(8, 3, 24, 24)
    images[:, 0, 8:16, 8:16] = -2.0
    changed = moved(images)
    assert changed.shape == images.shape
    assert bool((changed[:, 1:] == 0).all())
    assert changed.min() >= -2.0 - 1e-6
    assert changed[:, 0, 11:13, 11:13].max() < -1
    assert len({tuple(one.flatten().tolist()) for one in changed}) == 8


# Faults


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 11}, "image_side 72 must be a multiple of patch 11"),
        ({"batch_size": 1}, "nothing is compared, got 1"),
        ({"optim": OptimConfig(accumulate=2)}, "it cannot be split"),
        ({"dropout": 0.1}, "leave it at 0"),
        ({"media_width": 100}, "media_width must be a multiple of 64, got 100"),
        ({"max_text_tokens": 2}, "max_text_tokens must be >= 3"),
        ({"word_dropout": 1.0}, r"word_dropout must be in \[0, 1\)"),
        ({"image_encoder": "nonsense"}, "image_encoder must be one of"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalConfig(**changes)


def test_data_that_do_not_fit(runs: Any, tmp_path: Path) -> None:
    def build(examples: Examples, **changes: Any) -> Callable[[], Any]:
        trainer = RetrievalTrainer(settings(tmp_path / "x", tmp_path / "run", **changes), quiet=True)
        trainer.examples = examples
        return trainer.train

    picture = Medium("image", torch.zeros(3, 20, 20, dtype=torch.uint8))
    good = [Example((picture,), ("a b",))]
    with pytest.raises(ValueError, match="example 'q' has no medium"):
        build(Examples([Example(("text",), ("a",), "q")], good))()
    with pytest.raises(TooLong, match="has 9 tokens, begin and end counted, max_text_tokens allows 8"):
        build(Examples(good, [Example((picture,), ("a a a a a a a",))]))()
    clip = Medium("video", torch.zeros(2, 3, 20, 20, dtype=torch.uint8))
    with pytest.raises(ValueError, match="open_clip takes pictures only, the data have image, video"):
        build(Examples(good, [Example((clip,), ("a",))]), tower="open_clip", patch=10)()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_recipe(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipes.retrieval()
    assert (config.data, config.tower) == ("twemoji", "open_clip")
    manifest = runs.write_media(tmp_path / "data", ["image"])
    options = {
        "data": manifest, "out": tmp_path / "run", "steps": 2, "batch_size": 3, "threads": 1, "device": "cpu",
        "image_side": 20, "patch": 10, "media_width": 64, "text_width": 64, "media_layers": 1, "text_layers": 1,
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert main(["train", "multimodal:retrieval", *arguments]) == 0
    assert main(["eval", str(tmp_path / "run")]) == 0
    assert "medium_recall_1" in capsys.readouterr().out
