import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import trillium
from core.cli import BUILT_IN, main
from core.commands.options import print_table
from core.errors import UserError


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    code = "import sys; from trillium import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    # Not from the checkout, whose packages would be found first.
    where, settings = Path(sys.prefix), dict(PATH="", **environment)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=settings, cwd=where, check=False)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_train_passes_options_on_and_prints_the_scores(mine, capsys):
    assert main(["train", f"{mine}:good", "--steps", "9", "--out", "here", "--no-resume"]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "0.5" in out
    assert "9" in out
    assert Path("here/recipe.txt").read_text() == f"{mine}:good"


def test_an_error_of_ours_is_one_line_and_other_defects_keep_their_traceback(mine, capsys, monkeypatch):
    with pytest.raises(ValueError, match="lemon"):
        main(["train", f"{mine}:good", "--flavour", "sour"])  # raised in the user's file: theirs to debug

    def refuse(_: list[str]) -> int:
        raise ValueError("two\nlines")

    monkeypatch.setattr("core.commands.show.list_command", refuse)
    with pytest.raises(ValueError, match="two"):
        main(["list"])
    capsys.readouterr()

    monkeypatch.setattr("core.commands.show.list_command", lambda _: _raise(UserError("two\nlines")))
    assert main(["list"]) == 2
    assert last_line(capsys) == "trillium: error: two lines"


def _raise(error: Exception) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [(FileNotFoundError(2, "No such file", "a.txt"), 2), (OSError(28, "No space left", "b"), 1), (MemoryError(), 1)],
)
def test_errors_of_the_system_have_their_codes(monkeypatch, capsys, error, code):
    monkeypatch.setattr("core.commands.show.list_command", lambda _: _raise(error))
    assert main(["list"]) == code
    line = last_line(capsys)
    assert line.startswith("trillium: error: ")
    assert "TRILLIUM_TRACEBACK" in line


def test_the_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("TRILLIUM_TRACEBACK", "1")
    monkeypatch.setattr("core.commands.show.list_command", lambda _: _raise(UserError("x")))
    with pytest.raises(UserError):
        main(["list"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frain"], "did you mean `trillium train`?"),
        (["zzzz"], "see `trillium --help`"),
        (["train"], "required: PKG:RECIPE"),
        (["train", "nonsense"], "a recipe is named PKG:RECIPE"),
        (["eval", "no/such/run"], "no/such/run is not a run directory"),
        (["eval", "."], "it has no config.json"),
        (["sample", ".", "-n", "0"], "not a whole number above 0"),
        (["report"], "required: RUN"),
        (["report", "."], "is not a run directory"),
        (["data"], "required"),
        (["data", "get", "no-such-data"], "no data named 'no-such-data'"),
        (["import", "no-such-folder", "out"], "no-such-folder holds no model"),
        (["doctor", "--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    line = last_line(capsys)
    assert line.startswith("trillium")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_ends_with_code_2_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "core:text", "--text", "absent.txt", "--device", "cpu"]) == 2
    assert "absent.txt" in last_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_every_command_and_version_works(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name}" in out for name in BUILT_IN)
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert "trillium 0." in capsys.readouterr().out


@pytest.mark.parametrize("command", [name for name in BUILT_IN if name != "train"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"trillium {command}" in capsys.readouterr().out


def test_help_of_a_recipe_shows_its_docstring_and_the_fields(mine, capsys):
    assert main(["train", f"{mine}:good", "--help"]) == 0
    out = capsys.readouterr().out
    assert "A run of five steps." in out
    assert "Expected: accuracy 0.5" in out
    assert "Which taste. (default: sweet)" in " ".join(out.replace("│", " ").split())


def test_commands_of_packages_are_found_by_entry_point(tmp_path, monkeypatch, capsys):
    (tmp_path / "petal_commands.py").write_text(
        'def wave(arguments):\n    """Wave a hand."""\n    print("waved", *arguments)\n    return 3\n\n\n'
        'COMMANDS = {"wave": wave}\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("core.recipes.declared_modules", lambda group="": {"petal": "petal_commands"})
    assert main(["wave", "twice"]) == 3
    assert capsys.readouterr().out == "waved twice\n"
    assert main(["--help"]) == 0
    assert "wave …" in capsys.readouterr().out
    (tmp_path / "petal_commands_two.py").write_text("COMMANDS = {'train': print}\n")
    monkeypatch.setattr("core.recipes.declared_modules", lambda group="": {"petal": "petal_commands_two"})
    assert main(["wave"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", ["['list']", "['--help']", "['train', 'core:text', '--help']", "['data', 'list']"]
)
def test_light_commands_do_not_import_torch(arguments):
    code = (
        f"import sys; from trillium import main; assert main({arguments}) == 0; "
        "heavy = {'torch', 'transformers', 'matplotlib', 'tensorboard', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", trillium.PACKAGES)
def test_a_foreign_package_earlier_on_the_path_stops_the_program_with_both_paths(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = run("list", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path / name) in done.stderr
    assert str(trillium.ROOT / name) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_package_that_is_gone_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trillium, "PACKAGES", ("no_such_package_zz",))
    assert "imported from nowhere" in trillium.foreign_packages()[0]


def test_a_closed_pipe_is_no_failure():
    code = "import sys; from trillium import main; sys.exit(main(['data', 'list']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
        assert process.wait(60) == 0, error
        assert error == b""


def test_tables_in_a_file_are_not_wrapped(capsys):
    print_table(["a", "b"], [["x" * 100, "[bold]y" * 10]])
    assert "x" * 100 + "   " + "[bold]y" * 10 in capsys.readouterr().out


def test_eval_and_sample_print_what_the_trainer_gives(tmp_path, monkeypatch, capsys):
    class Loaded:
        task = None

        def evaluate(self):
            return {"loss": 1.25, "bad": float("nan")}

        def sample(self, number):
            return [f"sample {number}", {"text": "b", "transcript": [{"role": "agent", "text": "left"}]}]

    monkeypatch.setattr("core.commands.training.load_run", lambda run, device: Loaded())
    assert main(["eval", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": 1.25, "bad": "nan"}
    assert main(["eval", str(tmp_path)]) == 0
    assert "1.25" in capsys.readouterr().out
    assert main(["sample", str(tmp_path), "-n", "2"]) == 0
    assert capsys.readouterr().out == "sample 2\ntext: b\ntranscript:\n  agent: left\n\n"
    assert main(["sample", str(tmp_path), "--prompt", "a"]) != 0
    assert "--prompt is for language models" in capsys.readouterr().err


def test_a_prompt_goes_to_a_language_model(tmp_path, monkeypatch, capsys):
    class Loaded:
        task = None

        def sample(self, number, *, prompt="", max_new_tokens=200):
            return [f"{prompt} {max_new_tokens}"] * number

    monkeypatch.setattr("core.commands.training.load_run", lambda run, device: Loaded())
    assert main(["sample", str(tmp_path), "-n", "1", "--prompt", "once upon", "--max-new-tokens", "5"]) == 0
    assert main(["sample", str(tmp_path), "-n", "1"]) == 0
    assert capsys.readouterr().out == "once upon 5\n 200\n"


def test_export_and_import_pass_weights_through_a_hugging_face_folder(tmp_path, monkeypatch, capsys):
    import torch

    from core.config import ModelConfig
    from core.nn.transformer import Transformer
    from core.pretrained.huggingface import from_hf
    from core.text.characters import CharTokenizer

    tokenizer = CharTokenizer.train(["abc"])
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2))
    loaded = SimpleNamespace(export_parts=lambda: (model, tokenizer))
    monkeypatch.setattr("core.commands.weights.load_run", lambda run, device: loaded)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    assert main(["import", str(tmp_path / "hf"), str(tmp_path / "again")]) == 0
    assert "qwen3" in capsys.readouterr().out
    back, tokens = from_hf(tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values(), strict=True))
    assert tokens is not None
    assert tokens.encode("cab") == tokenizer.encode("cab")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "hf")]) == 2
    assert "exists already" in last_line(capsys)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "hf"), "--overwrite"]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_signal_before_a_run_has_begun_ends_with_its_code(monkeypatch, number, code):
    def stopped(_: list[str]) -> int:
        os.kill(os.getpid(), number)
        time.sleep(5)
        return 0

    monkeypatch.setattr("core.commands.show.list_command", stopped)
    assert main(["list"]) == code
