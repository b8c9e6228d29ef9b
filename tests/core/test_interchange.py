"""From a folder to samples, to a fine-tuned run, and out again; through the command line where that is the way in."""

import json
import shutil

import pytest
import torch

from core.cli import main
from core.errors import RunError, UserError
from core.language.recipes import text as text_recipe
from core.language.trainers import LanguageTrainer
from core.pretrained.architectures import UnsupportedModel
from core.pretrained.huggingface import from_hf, save_hf
from core.pretrained.interchange import export_run, import_folder, kind_of, load_model
from core.text.tokenizer import CharTokenizer
from core.training.trainer import Trainer

TEXT = "the cat sat on the mat and the dog ran to the hat. " * 40


@pytest.fixture
def folder(random_model, tmp_path):
    tokenizer = CharTokenizer.train(TEXT)
    save_hf(random_model(vocab_size=tokenizer.vocab_size, num_layers=1), tmp_path / "hf", tokenizer, check=False)
    return tmp_path / "hf"


def train(tmp_path, name="run", **changes):
    text_file = tmp_path / "text.txt"
    text_file.write_text(TEXT)
    options = {"steps": 2, "length": 16, "batch_size": 4, "device": "cpu", "precision": "fp32", "compile": "off"}
    config = text_recipe(text_file, time_budget_s=None, out=tmp_path / name, **options, **changes)
    trainer = LanguageTrainer(config, quiet=True, report=False)
    trainer.train()
    return trainer


def test_fine_tuning_starts_from_the_weights_and_the_tokenizer_of_a_folder(folder, tmp_path):
    before, tokenizer = from_hf(folder)
    trainer = train(tmp_path, init_from=folder)
    assert trainer.tokenizer.fingerprint == tokenizer.fingerprint
    after = trainer.task.model
    assert after.config == before.config
    change = (after.model.embed_tokens.weight - before.model.embed_tokens.weight).abs().max()
    assert 0 < change < 0.1


def test_a_run_is_exported_and_a_next_one_starts_from_it(tmp_path):
    trainer = train(tmp_path)
    export = export_run(tmp_path / "run", tmp_path / "out")
    assert (export.family, export.checked_by) == ("qwen3", "transformers")
    exported, tokenizer = from_hf(tmp_path / "out")
    expected = {name: tensor.detach() for name, tensor in trainer.task.model.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in exported.state_dict().items())
    again, same = load_model(tmp_path / "run")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    assert same.fingerprint == tokenizer.fingerprint
    child = train(tmp_path, name="child", init_from=tmp_path / "run")
    assert child.task.model.config == again.config


def test_a_run_whose_text_is_gone_still_samples_and_exports(tmp_path):
    train(tmp_path)
    (tmp_path / "text.txt").unlink()
    loaded = Trainer.load(tmp_path / "run")
    assert len(loaded.sample(2, max_new_tokens=5)) == 2
    assert export_run(tmp_path / "run", tmp_path / "out").max_difference <= 1e-5
    with pytest.raises(RunError, match=r"text\.txt of this run is not there"):
        loaded.evaluate()


def test_the_command_line_imports_samples_and_exports_again(folder, tmp_path, capsys):
    assert main(["import", str(folder), str(tmp_path / "mine")]) == 0
    assert main(["sample", str(tmp_path / "mine"), "-n", "2", "--device", "cpu"]) == 0
    first = capsys.readouterr().out
    assert main(["sample", str(tmp_path / "mine"), "-n", "2", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == first[first.index("\n") + 1 :]
    assert main(["sample", str(tmp_path / "mine"), "-n", "2", "--device", "cpu", "--seed", "5"]) == 0
    assert capsys.readouterr().out not in first
    assert main(["export", str(tmp_path / "mine"), str(tmp_path / "again")]) == 0
    theirs, ours = from_hf(folder)[0].state_dict(), from_hf(tmp_path / "again")[0].state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "mine"), "--device", "cpu"]) == 2
    assert "without a text to score it on" in capsys.readouterr().err


def test_the_seed_of_the_command_line_reaches_a_runs_samples(tmp_path, capsys):
    train(tmp_path)
    outputs = []
    for seed in ("1", "1", "2"):
        assert main(["sample", str(tmp_path / "run"), "-n", "2", "--seed", seed, "--device", "cpu"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_what_holds_no_model_is_named(folder, tmp_path):
    assert kind_of(folder) == "folder"
    for bad in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UnsupportedModel, match="holds no model"):
            load_model(bad)
    with pytest.raises(UnsupportedModel, match="import it instead"):
        export_run(folder, tmp_path / "out")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"config_class": "a:B"}))
    with pytest.raises(UnsupportedModel, match="export it instead"):
        import_folder(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_trained_from_is_named(folder, tmp_path):
    config = text_recipe(folder / "config.json", out=tmp_path / "run", init_from=folder, length=200, device="cpu")
    with pytest.raises(UserError, match="at most 128 tokens: give --length 128"):
        LanguageTrainer(config, quiet=True).train()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        train(tmp_path, init_from=folder)


def test_the_packaged_model_has_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("core.pretrained.interchange.load_smollm2", lambda: ("model", "tokenizer"))
    assert load_model("smollm2") == ("model", "tokenizer")
    (tmp_path / "smollm2").mkdir()
    with pytest.raises(UnsupportedModel, match="holds no model"):  # a folder of that name comes first
        load_model("smollm2")
