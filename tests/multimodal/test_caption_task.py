"""The captioning objective: what is supervised, and that it is the same however the batch is laid out.

Shape suffixes: E = examples, L = target tokens, P = positions of a medium, Q = embeddings of a medium, D = width.
"""

import dataclasses
import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.config import OptimConfig
from core.training.runtime import Runtime
from multimodal.batch import PLACEHOLDERS
from multimodal.config import CaptioningConfig, Fusion
from multimodal.examples import KINDS, Example, Medium
from multimodal.task import CaptioningTask, CaptionLoss

FUSIONS = get_args(Fusion)
IN_SEQUENCE = ("prefix", "perceiver", "qformer")
RUNTIME = Runtime(torch.device("cpu"))


def make_task(bench: Any, **optim: Any) -> CaptioningTask:
    config = OptimConfig(**{"lr": 3e-3, "schedule": "constant", **optim})
    return CaptioningTask(bench.captioner, config, RUNTIME, 100)


def naive_logits_LV(bench: Any, example: Example, target: list[int]) -> Tensor:
    """By the definition: one example alone, its media embedded one by one and put where they stand."""
    captioner, model = bench.captioner, bench.captioner.model
    pieces, by_kind = [], {kind: [] for kind in KINDS}
    for part in example.prompt:
        if isinstance(part, Medium):
            features_PF = bench.store.features(part)
            embedded_1QD, _ = captioner.adapters[part.kind](
                features_PF[None], torch.ones(1, len(features_PF), dtype=torch.bool)
            )
            by_kind[part.kind].append(embedded_1QD[0])
            if captioner.placement == "sequence":
                pieces.append(embedded_1QD[0])
        else:
            pieces.append(model.embed(torch.tensor(bench.reader.tokenizer.encode(part))))
    pieces.append(model.embed(torch.tensor([bench.reader.bos_id, *target[:-1]])))
    x_1TD = torch.cat(pieces)[None]
    num_prompt = x_1TD.shape[1] - len(target) + 1
    options: dict[str, Tensor] = {}
    if captioner.bidirectional:
        options["prefix_BT"] = (torch.arange(x_1TD.shape[1]) < num_prompt)[None]
    if example.media and captioner.placement == "memory":
        options["memory_BMD"] = torch.cat([one for own in by_kind.values() for one in own])[None]
    if example.media and captioner.placement == "shift":
        options["shift_BD"] = sum(torch.stack(own).mean(0) for own in by_kind.values() if own)
    hidden_1TD = model(embeddings_BTD=x_1TD, **options)
    return model.logits(hidden_1TD)[0, num_prompt - 1 :]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_ragged_mixed_batches_are_the_examples_one_by_one(make_bench: Any, fusion: Fusion, bidirectional: bool) -> None:
    bench = make_bench(fusion, bidirectional=bidirectional)
    given = bench.batch()
    logits_ELV = bench.captioner.logits(bench.captioner(given))
    for row, example in enumerate(bench.examples):
        expected_LV = naive_logits_LV(bench, example, bench.targets[row])
        torch.testing.assert_close(logits_ELV[row][given.mask_EL[row]], expected_LV, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_loss_is_the_naive_one(make_bench: Any, fusion: Fusion, smoothing: float) -> None:
    bench = make_bench(fusion)
    losses = CaptionLoss(bench.captioner, label_smoothing=smoothing).train()
    bench.captioner.eval()  # smoothing counts while training only, when a Q-Former has dropout of its own
    loss_sum, count = losses(bench.batch())
    naive = torch.zeros(())
    for example, target in zip(bench.examples, bench.targets):
        logits_LV = naive_logits_LV(bench, example, target)
        naive = naive + F.cross_entropy(logits_LV, torch.tensor(target), label_smoothing=smoothing, reduction="sum")
    assert count.item() == 3 + 2 + 5 + 2 + 4  # the first targets' words and their five ends
    torch.testing.assert_close(loss_sum, naive, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("fusion", ["concat", "prefix"])
def test_the_first_token_and_the_end_are_supervised_and_padding_is_not(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion)
    given = bench.batch(target_length=7)
    losses = CaptionLoss(bench.captioner).eval()
    expected, _ = losses(given)
    noise_EL = (given.targets_EL + 3) % bench.captioner.model.vocab_size
    assert given.mask_EL.sum(1).tolist() == [len(target) for target in bench.targets]

    def loss_with_noise(where_EL: Tensor) -> Tensor:
        return losses(dataclasses.replace(given, targets_EL=torch.where(where_EL, noise_EL, given.targets_EL)))[0]

    steps_L = torch.arange(7)
    ends_EL = steps_L == given.mask_EL.sum(1, keepdim=True) - 1
    assert (given.targets_EL[ends_EL] == bench.reader.eos_id).all()
    assert torch.equal(loss_with_noise(~given.mask_EL), expected)
    for row in range(len(bench.prompts)):
        own_E1 = (torch.arange(len(bench.prompts)) == row)[:, None]
        assert loss_with_noise(own_E1 & (steps_L == 0)) != expected
        assert loss_with_noise(own_E1 & ends_EL) != expected


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_and_its_id_are_free(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion)
    losses = CaptionLoss(bench.captioner).eval()
    tight, loose = bench.batch(), bench.batch(length=30, target_length=9)
    expected = losses(tight)
    torch.testing.assert_close(losses(loose), expected, atol=1e-4, rtol=1e-5)
    lengths = torch.tensor([len(p.ids) + len(t) - 1 for p, t in zip(bench.prompts, bench.targets)])
    padding_BT = torch.arange(30) >= lengths[:, None]
    for pad_id in (bench.reader.eos_id, 9):
        padded = dataclasses.replace(
            loose,
            tokens_BT=loose.tokens_BT.masked_fill(padding_BT, pad_id),
            targets_EL=loose.targets_EL.masked_fill(~loose.mask_EL, pad_id),
        )
        torch.testing.assert_close(losses(padded), expected, atol=1e-4, rtol=1e-5)
    media = {
        kind: dataclasses.replace(
            one,
            inputs_NI=torch.where(
                (torch.arange(one.inputs_NI.shape[1]) < one.lengths_N[:, None])[..., None], one.inputs_NI, 50.0
            ),
        )
        for kind, one in tight.media.items()
    }
    torch.testing.assert_close(losses(dataclasses.replace(tight, media=media)), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_batch_without_labels_gives_0_and_changes_nothing(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion)
    task = make_task(bench, weight_decay=0.0)
    given = bench.batch()
    empty = dataclasses.replace(given, mask_EL=torch.zeros_like(given.mask_EL))
    before = {name: value.clone() for name, value in task.captioner.state_dict().items()}
    metrics = task.train_step([empty])
    assert metrics["loss"] == metrics["grad_norm"] == metrics["tokens"] == 0
    for name, value in task.captioner.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert task.loss([empty]) == 0


@pytest.mark.parametrize("fusion", IN_SEQUENCE)
@pytest.mark.parametrize(("bidirectional", "pack_to"), [(True, 24), (True, 40), (False, 30)])
def test_packed_rows_give_the_logits_of_unpacked_ones(
    make_bench: Any, fusion: Fusion, bidirectional: bool, pack_to: int
) -> None:
    bench = make_bench(fusion, bidirectional=bidirectional)
    plain, packed = bench.batch(), bench.batch(pack_to=pack_to)
    assert len(packed.tokens_BT) < len(plain.tokens_BT)
    logits_ELV, packed_ELV = (bench.captioner.logits(bench.captioner(one)) for one in (plain, packed))
    assert torch.equal(plain.targets_EL, packed.targets_EL)
    torch.testing.assert_close(packed_ELV[plain.mask_EL], logits_ELV[plain.mask_EL], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", ["concat", "gated_cross_attention"])
def test_media_beside_the_sequence_are_not_packed(fusion: Fusion) -> None:
    with pytest.raises(ValueError, match=f"pack needs media in the sequence: fusion {fusion}"):
        CaptioningConfig(fusion=fusion, pack=True)


def test_the_step_does_not_depend_on_the_micro_batches(make_bench: Any) -> None:
    for fusion in ("prefix", "gated_cross_attention"):
        whole, parts = make_bench(fusion), make_bench(fusion)
        tasks = make_task(whole), make_task(parts)
        for _ in range(2):
            # The micro-batches lack media of a kind, or all of them.
            first = tasks[0].train_step([whole.batch()])
            second = tasks[1].train_step([parts.batch([1]), parts.batch([0, 2]), parts.batch([3, 4])])
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
        for (name, a), b in zip(whole.captioner.named_parameters(), parts.captioner.parameters()):
            torch.testing.assert_close(a, b, atol=3e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("fusion", ["concat", "prefix", "gated_cross_attention"])
def test_a_batch_is_overfitted_and_the_media_decide(make_bench: Any, made_medium: Any, fusion: Fusion) -> None:
    said = ["one", "two three", "four five six", "seven eight"]
    kinds = ["image", "audio", "video", "audio"]
    examples = [
        Example((made_medium(kind, 1, seed), "ten"), (text,)) for seed, (kind, text) in enumerate(zip(kinds, said))
    ]
    bench = make_bench(fusion, examples=examples, random=False)
    task = make_task(bench, lr=1e-2)
    metrics = [task.train_step([bench.batch()]) for _ in range(150)]
    assert metrics[0]["loss"] == pytest.approx(math.log(bench.captioner.model.vocab_size), abs=0.5)
    assert task.loss([bench.batch()]) < 0.1

    def greedy(prompts: list[Any]) -> list[str]:
        samples = bench.captioner.sample(bench.reader.contexts(prompts, bench.store), greedy=True)
        return [bench.reader.tokenizer.decode(ids) for ids in samples.lists()]

    assert greedy(bench.prompts) == said
    exchanged = list(bench.prompts)
    exchanged[1], exchanged[3] = exchanged[3], exchanged[1]  # the two sounds
    assert greedy(exchanged) == [said[0], said[3], said[2], said[1]]
    with bench.captioner.blanked():
        blank = greedy(bench.prompts)
    assert blank[1] == blank[3]
    assert greedy(bench.prompts) == said


def test_the_ctc_loss_is_torchs_over_each_sounds_positions(make_bench: Any, made_medium: Any) -> None:
    examples = [
        Example((made_medium("audio", 6, 1), "ten"), ("one two",)),
        Example(("one", made_medium("audio", 3, 2), made_medium("audio", 2, 3)), ("three",)),
        Example((made_medium("audio", 2, 4),), ("four five six",)),  # longer than its sound: counts as 0
        Example(("seven", made_medium("image", 1, 5)), ("eight",)),  # no sound
    ]
    bench = make_bench("prefix", examples=examples)
    captioner, batch = bench.captioner, bench.batch()
    blank = bench.reader.bos_id
    expected = torch.zeros(())
    for row, (own, target) in enumerate(zip(batch.tokens_BT, bench.targets)):
        heard = (own == PLACEHOLDERS["audio"]).nonzero().squeeze(1)
        if row < 2:
            logprobs_PV = captioner.logits(captioner.read(batch)[row, heard]).log_softmax(-1)
            answer = torch.tensor([target[:-1]])
            lengths = torch.tensor([len(heard)]), torch.tensor([len(target) - 1])
            expected = expected + F.ctc_loss(logprobs_PV[:, None], answer, *lengths, blank=blank, reduction="sum")
    loss = CaptionLoss(captioner)
    plain_sum, plain_count = loss.train()(batch)
    captioner.ctc_weight = 0.3
    joint_sum, joint_count = loss(batch)
    assert joint_count == plain_count
    torch.testing.assert_close(joint_sum, 0.7 * plain_sum + 0.3 * expected)
    torch.testing.assert_close(loss.eval()(batch)[0], plain_sum)  # held-out losses stay comparable


def test_every_part_that_is_trained_gets_a_gradient(make_bench: Any) -> None:
    for fusion in FUSIONS:
        bench = make_bench(fusion, frozen=False)
        loss_sum, _ = CaptionLoss(bench.captioner).train()(bench.batch())
        loss_sum.backward()
        idle = [n for n, p in bench.captioner.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # Each key's bias adds the same to all scores of a query, so softmax takes it away.
        assert [name for name in idle if not name.endswith("key.bias")] == [], fusion


@pytest.mark.parametrize("fusion", FUSIONS)
def test_bfloat16_autocast_stays_near_float32(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion, frozen=False)
    losses = CaptionLoss(bench.captioner).eval()
    exact, count = losses(bench.batch())
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = losses(bench.batch())
        half.backward()
        samples = bench.captioner.sample(bench.contexts(), greedy=True)
    assert abs(half - exact) / count < 0.05
    assert samples.logprobs_BT.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in bench.captioner.parameters())


@pytest.mark.parametrize("how", [True, "whole"])
@pytest.mark.parametrize("fusion", ["prefix", "gated_cross_attention"])
def test_a_compiled_step_is_the_plain_one(
    make_bench: Any, fusion: Fusion, how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, plain = make_bench(fusion), make_bench(fusion)
    for bench in (compiled, plain):
        bench.captioner.adapters.eval()
    torch._dynamo.reset()
    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: original(self, backend="eager", **options))
    task = CaptioningTask(compiled.captioner, OptimConfig(), dataclasses.replace(RUNTIME, compile=how), 10)
    other = make_task(plain)
    losses = []
    for one, bench in ((task, compiled), (other, plain)):
        one.updater.module.train()
        bench.captioner.adapters.eval()  # a Q-Former has dropout
        batches = [bench.batch(only, length=30, target_length=6) for only in ([0, 2], [1, 4], [3, 1])]
        losses.append([one._loss(batch)[0].item() for batch in batches])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_evaluation_has_neither_dropout_nor_smoothing(make_bench: Any) -> None:
    bench = make_bench("qformer", dropout=0.5, media_dropout=0.5, blank_probability=0.5)
    task = CaptioningTask(
        bench.captioner, OptimConfig(), RUNTIME, 10, label_smoothing=0.3,
        score=lambda: {"exact_match": 0.25}, held_out=lambda: [bench.batch([0, 1]), bench.batch([2, 3, 4])],
    )  # fmt: skip
    bench.captioner.train()
    scores = task.evaluate()
    loss_sum, count = CaptionLoss(bench.captioner).eval()(bench.batch())
    assert scores == {"exact_match": 0.25, "loss": pytest.approx((loss_sum / count).item(), rel=1e-5)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_cuda_gives_the_loss_and_the_texts_of_the_cpu(make_bench: Any, fusion: Fusion, frozen: bool) -> None:
    bench = make_bench(fusion, frozen=frozen)
    losses = CaptionLoss(bench.captioner).eval()
    expected, _ = losses(bench.batch())
    greedy = bench.captioner.sample(bench.contexts(), greedy=True)
    losses.to("cuda")
    found, count = losses(bench.batch().to(torch.device("cuda")))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-4)
    assert bench.captioner.sample(bench.contexts().to(torch.device("cuda")), greedy=True).lists() == greedy.lists()
    with torch.autocast("cuda", torch.bfloat16):
        half, _ = losses(bench.batch().to(torch.device("cuda")))
    assert abs(half.cpu() - expected) / count.cpu() < 0.05
    half.backward()
    if fusion in IN_SEQUENCE:
        packed, _ = losses(bench.batch(pack_to=40).to(torch.device("cuda")))
        torch.testing.assert_close(packed.cpu(), expected, atol=1e-3, rtol=1e-4)
