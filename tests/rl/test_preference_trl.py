"""Losses against TRL's own trainers, on the same folders and lines: one step each, whose loss TRL reports."""

import json

import pytest
import torch

from core.config import ModelConfig
from core.nn.transformer import Transformer
from core.policy import LanguageModelPolicy
from core.pretrained.huggingface import save_hf
from core.text.characters import CharTokenizer
from rl.preferences.classifier import save_classifier
from rl.preferences.examples import Encoder, both_sides, labelled_from_pairs, read_examples
from rl.preferences.losses import (
    bradley_terry_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kl_reference_point,
    kto_loss,
    orpo_loss,
    simpo_loss,
)
from rl.preferences.reward_model import RewardModel
from rl.preferences.scoring import completion_logprobs

pytest.importorskip("trl")

PAIRS = [("a:", "aab", "bd"), ("b:", "b", "dcad"), ("c:", "", "abca"), ("d:", "ddda", "c")]
SETTINGS = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [], "save_strategy": "no",
    "max_steps": 1, "logging_steps": 1, "disable_tqdm": True, "learning_rate": 1e-3, "seed": 0,
    "dataloader_pin_memory": False, "per_device_train_batch_size": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name in ("CI", "HF_HUB_OFFLINE", "TRL_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.fixture(scope="module")
def tokenizer():
    return CharTokenizer.train("abcd:")


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    """Two different models, policy and reference, and their folders."""
    found = []
    for seed, name in enumerate(("policy", "reference")):
        torch.manual_seed(seed)
        shape = ModelConfig(vocab_size=tokenizer.vocab_size, width=32, num_layers=1, num_heads=2, max_length=32)
        model = Transformer(shape)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        folder = tmp_path_factory.mktemp("trl") / name
        save_hf(model, folder, tokenizer, check=False)
        found.append((LanguageModelPolicy(model.eval(), max_new_tokens=1), folder))
    return found


@pytest.fixture(scope="module")
def pairs(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "pairs.jsonl"
    path.write_text("".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), row))) + "\n" for row in PAIRS))
    return Encoder(tokenizer, 32).pairs(read_examples(path))


@pytest.fixture(scope="module")
def ours(models, pairs):
    """Per policy and reference: logprob_B2 and length_B2."""
    flat = [completion for sides in both_sides(pairs) for completion in sides]
    with torch.no_grad():
        return [[part.view(-1, 2) for part in completion_logprobs(policy, flat)] for policy, _ in models]


def dataset(pairs=PAIRS, **more):
    from datasets import Dataset

    prompts, chosen, rejected = zip(*pairs)
    # TRL ends completions as we do; what begins a text it leaves to the prompt.
    return Dataset.from_dict({"prompt": [f"<bos>{p}" for p in prompts], "chosen": chosen, "rejected": rejected, **more})


def first_loss(trainer):
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def load(kind, folder):
    import transformers

    return getattr(transformers, kind).from_pretrained(folder)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_dpo_and_its_kin(loss, models, ours, tmp_path):
    from trl import DPOConfig, DPOTrainer

    (_, folder), (_, reference) = models
    config = DPOConfig(output_dir=str(tmp_path), beta=0.3, loss_type=[loss], **SETTINGS)
    trainer = DPOTrainer(
        model=load("AutoModelForCausalLM", folder), ref_model=load("AutoModelForCausalLM", reference), args=config,
        train_dataset=dataset(), processing_class=load("AutoTokenizer", folder),
    )  # fmt: skip
    (logprob_B2, length_B2), (reference_B2, _) = ours
    ratio_B2 = logprob_B2 - reference_B2
    wanted = {
        "sigmoid": dpo_loss(*ratio_B2.unbind(1), beta=0.3),
        "hinge": hinge_loss(*ratio_B2.unbind(1), beta=0.3),
        "ipo": ipo_loss(*(ratio_B2 / length_B2).unbind(1), beta=0.3),
    }[loss]
    assert first_loss(trainer) == pytest.approx(wanted.mean().item(), abs=2e-4)


def test_kto(models, pairs, tmp_path):
    from trl import KTOConfig, KTOTrainer

    (policy, folder), (other, reference) = models
    labelled = labelled_from_pairs(pairs[:2])
    rows = [("a:", "aab", True), ("b:", "b", True), ("a:", "bd", False), ("b:", "dcad", False)]
    prompts, completions, labels = zip(*rows)
    from datasets import Dataset

    data = Dataset.from_dict({"prompt": [f"<bos>{p}" for p in prompts], "completion": completions, "label": labels})
    config = KTOConfig(
        output_dir=str(tmp_path), beta=0.3, desirable_weight=1.5, undesirable_weight=0.5, **SETTINGS
    )  # fmt: skip
    trainer = KTOTrainer(
        model=load("AutoModelForCausalLM", folder), ref_model=load("AutoModelForCausalLM", reference), args=config,
        train_dataset=data, processing_class=load("AutoTokenizer", folder),
    )  # fmt: skip
    sides = both_sides(labelled)
    flat = [completion for side in sides for completion in side]
    with torch.no_grad():
        ratio_B2 = (completion_logprobs(policy, flat)[0] - completion_logprobs(other, flat)[0]).view(-1, 2)
    wanted = kto_loss(
        ratio_B2[:, 0], torch.tensor([one.good for one in labelled]), kl_reference_point(ratio_B2[:, 1]), beta=0.3,
        desirable_weight=1.5, undesirable_weight=0.5,
    )  # fmt: skip
    assert first_loss(trainer) == pytest.approx(wanted.mean().item(), abs=2e-4)


def test_simpo(models, ours, tmp_path):
    cpo = pytest.importorskip("trl.experimental.cpo")
    _, folder = models[0]
    config = cpo.CPOConfig(
        output_dir=str(tmp_path), beta=2.0, simpo_gamma=0.7, loss_type="simpo", cpo_alpha=0.0, max_length=32, **SETTINGS
    )
    trainer = cpo.CPOTrainer(
        model=load("AutoModelForCausalLM", folder), args=config, train_dataset=dataset(),
        processing_class=load("AutoTokenizer", folder),
    )  # fmt: skip
    logprob_B2, length_B2 = ours[0]
    wanted = simpo_loss(*(logprob_B2 / length_B2).unbind(1), beta=2.0, margin=0.7)
    assert first_loss(trainer) == pytest.approx(wanted.mean().item(), abs=2e-4)


def test_the_odds_ratio_of_orpo(ours):
    orpo = pytest.importorskip("trl.experimental.orpo")

    class Settings:
        beta = 0.4

        class accelerator:
            device = "cpu"

    chosen, rejected = (ours[0][0] / ours[0][1]).unbind(1)
    theirs = orpo.ORPOTrainer.odds_ratio_loss(Settings, chosen, rejected)[0]
    torch.testing.assert_close(orpo_loss(chosen, rejected, weight=0.4) + chosen, -theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("margins", [None, [0.5, 0.0, 1.0, 2.0]])
def test_reward_model(models, tokenizer, pairs, margins, tmp_path):
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(5)
    reward_model = RewardModel(models[0][0].model, tokenizer).eval()
    with torch.no_grad():
        reward_model.head.weight.normal_()
    save_classifier(reward_model, tmp_path / "folder")
    config = RewardConfig(output_dir=str(tmp_path / "out"), center_rewards_coefficient=0.05, **SETTINGS)
    more = {} if margins is None else {"margin": margins}
    trainer = RewardTrainer(
        model=load("AutoModelForSequenceClassification", tmp_path / "folder"), args=config,
        train_dataset=dataset(**more), processing_class=load("AutoTokenizer", tmp_path / "folder"),
    )  # fmt: skip
    with torch.no_grad():
        chosen_B, rejected_B = (
            reward_model.rewards([getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected")
        )
    margin_B = None if margins is None else torch.tensor(margins)
    wanted = bradley_terry_loss(chosen_B, rejected_B, margin_B, centring=0.05)
    assert first_loss(trainer) == pytest.approx(wanted.mean().item(), abs=2e-4)
