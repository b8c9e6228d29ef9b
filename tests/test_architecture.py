"""What holds for the whole repository: direction of imports, no code from files, sizes, no traces of a machine."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("core", "multimodal", "adversarial", "rl")
MAY_IMPORT_BY_NAME = {
    "core/cli.py": "commands that packages declare",
    "core/recipes.py": "recipe modules and trainers that a config names",
    "multimodal/datasets/named.py": "data sets of our own table",
    "core/doctor.py": "torchvision and torchaudio, whose import is what it tests",
    "core/training/configfile.py": "the config class that config.json names; checked to be a RunConfig",
    "core/training/trainer.py": "the trainer class that a config names",
}
LONGEST_FILE = 400


def sources(*folders: str) -> list[Path]:
    """Python files of the given folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tracked() -> list[Path]:
    """Text files under version control; all files outside of it where git is absent, as in an unpacked archive."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain, `?` for whatever else it begins with."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


def dangers(tree: ast.AST, name: str) -> Iterator[str]:
    """What could run code that a file brings, or that hides from the import rules."""
    for module, line in imports(tree):
        if module.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"):
            yield f"{name}:{line} imports {module}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, options = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        place = f"{name}:{node.lineno}"
        if called in ("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"):
            yield f"{place} calls {called}"
        if called in ("os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "torch.hub.load"):
            yield f"{place} calls {called}"
        if called == "torch.load" and not is_true(options.get("weights_only")):
            yield f"{place} calls torch.load without weights_only=True"
        if called.endswith("import_module") and name not in MAY_IMPORT_BY_NAME:
            yield f"{place} imports a module by name"
        for option in ("shell", "trust_remote_code", "allow_pickle"):
            if option in options and not is_false(options[option]):
                yield f"{place} sets {option}"


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from joblib import load", "eval(x)", "torch.load(p)", "torch.load(p, weights_only=False)",
     "yaml.load(f)", "subprocess.run(c, shell=True)", "AutoModel.from_pretrained(n, trust_remote_code=True)",
     "importlib.import_module(n)", "np.load(f, allow_pickle=flag)", "__import__(n)"],
)  # fmt: skip
def test_the_search_finds_what_it_should(code):
    assert list(dangers(ast.parse(code), "core/x.py"))


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "torch.load(p, weights_only=True)", "re.compile(x)", "torch.compile(m)", "run(c, shell=False)"],
)
def test_the_search_passes_what_is_harmless(code):
    assert not list(dangers(ast.parse(code), "core/x.py"))


def test_no_code_comes_from_files():
    found = [
        danger
        for path in sources(*PACKAGES, "examples", "benchmarks")
        for danger in dangers(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT)))
    ]
    assert found == []


def test_core_imports_nothing_upward_and_the_petals_not_one_another():
    upward = []
    for package in PACKAGES:
        allowed = {"core", package}
        for path in sources(package):
            for module, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
                if module.split(".")[0] in set(PACKAGES) - allowed:
                    upward.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert upward == []


def test_the_import_contract_is_kept():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_slow_packages_are_imported_where_they_are_needed():
    slow = {"transformers", "trl", "open_clip", "peft", "matplotlib", "tensorboard", "torchvision", "torchaudio"}
    found = []
    for path in sources(*PACKAGES):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # the top level only
            found += [f"{path.relative_to(ROOT)}: {m}" for m, _ in imports(node) if m.split(".")[0] in slow
                      and isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    assert found == []


def test_configs_and_recipes_import_no_torch():
    code = (
        "import sys, importlib; "
        "[importlib.import_module(m) for m in sys.argv[1:]]; "
        "heavy = {'torch', 'numpy', 'gymnasium'} & set(sys.modules); assert not heavy, heavy"
    )
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sources(*PACKAGES)
        if path.name in ("config.py", "recipes.py", "commands.py", "cli.py", "errors.py")
    ]
    done = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", [*PACKAGES, "examples", "benchmarks", "tests"])
def test_files_stay_short_enough_to_read(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(folder)
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_module_is_named_like_a_drawer_or_like_the_standard_library():
    drawers = {"utils", "util", "helpers", "common", "misc", "base"}
    found = [
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES)
        if path.stem in drawers or path.stem in sys.stdlib_module_names
    ]
    assert found == []


def test_tests_have_unique_names_and_are_no_packages():
    names = [path.name for path in sources("tests") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
    assert [path for path in sources("tests") if path.name == "__init__.py"] == []


def test_no_tracked_file_names_a_machine():
    # Written in pieces, so that this file does not contain what it looks for.
    forbidden = re.compile(
        "|".join(["/wor" + "k/main", "/wor" + "k/shared", "/roo" + "t/", "/home/[a-z]+/", "PIP_" + "INDEX_URL",
                  "extra-index" + "-url", "https?://[^ ]*/simple", "/opt/" + "(wheels|pypi)"])
    )  # fmt: skip
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if forbidden.search(line) and path != Path(__file__).resolve():
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_no_data_and_no_weights_are_tracked():
    suffixes = {".safetensors", ".pt", ".pth", ".bin", ".gguf", ".npz", ".npy", ".pkl", ".wav", ".mp3", ".mp4", ".whl"}
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.suffix in suffixes] == []
    large = [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 500_000]
    assert large == []


def test_pinned_versions_carry_no_index_and_no_path():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9A-Za-z.+!]*", line) for line in lines)
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert {"torch", "torchvision", "torchaudio", "gymnasium", "trl", "pytest"} <= set(names)


def test_commands_in_the_readme_exist():
    from core.cli import BUILT_IN, package_commands
    from core.recipes import list_recipes

    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
    # A command is at the start of a line or of a code span; elsewhere `trillium` is just a word.
    commands = set(re.findall(r"(?m)(?:^|`)(?:\$ )?(?:\.venv/bin/)?trillium ([a-z]+)", text))
    assert commands <= {*BUILT_IN, *package_commands()}
    assert commands >= {"list", "train", "doctor", "report"}

    recipes = set(re.findall(r"trillium train ((?:core|multimodal|adversarial|rl):\w+)", text))
    assert recipes <= {recipe.name for recipe in list_recipes()}

    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", text)) <= targets

    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_python_blocks_in_the_readme_name_what_exists():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                path = ROOT.joinpath(*node.module.split("."))
                file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
                defined = ast.parse(file.read_text(encoding="utf-8")).body
                names = {getattr(item, "name", "") for item in defined}
                names |= {
                    alias.asname or alias.name for i in defined if isinstance(i, ast.ImportFrom) for alias in i.names
                }
                assert {alias.name for alias in node.names} <= names, f"{node.module} lacks one of them"
