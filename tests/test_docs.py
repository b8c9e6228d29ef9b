"""What README and docs tell a reader to type exists: recipes, options, commands, modules, names."""

import ast
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from core.cli import main
from core.commands.training import parse_config
from core.recipes import build_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language=""):
    """The fenced blocks of a page in one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [body for name, body in found if name == language]


def commands():
    """Each `trillium …` line of each page, as arguments; what follows two spaces is explanation."""
    for page in PAGES:
        for block in blocks(page):
            for line in block.splitlines():
                if line.startswith("trillium "):
                    yield pytest.param(shlex.split(re.split(r"\s{2,}", line)[0])[1:], id=line.split("  ")[0])


@pytest.mark.parametrize("arguments", list(commands()))
def test_commands(arguments, capsys):
    command, *rest = arguments
    if command != "train":
        assert main([command, *(rest[:1] if command == "data" else []), "--help"]) == 0
        known = capsys.readouterr().out
        assert all(option in known for option in rest if option.startswith("--"))
        return
    recipe, *options = rest
    if recipe.startswith("my_module"):
        return
    config = build_config(recipe)
    parsed = parse_config(recipe, config, options, "")
    starts = [index for index, option in enumerate(options) if option.startswith("--")]
    for start, stop in zip(starts, [*starts[1:], len(options)]):
        name, *values = options[start:stop]
        field = parsed
        for part in name.removeprefix("--").replace("-", "_").split("."):
            field = getattr(field, part)
        if isinstance(field, dict):
            assert [str(item) for pair in field.items() for item in pair] == values
            continue
        value = " ".join(values) or str(True)  # a flag has none
        assert str(field) in (value, str(float(value)) if re.fullmatch(r"[\d.e-]+", value) else value, f"('{value}',)")


def test_every_page_was_read():
    assert len([c for c in commands() if c.values[0][0] == "train"]) >= 8
    assert all(blocks(page) for page in PAGES)


def python_blocks():
    return [
        pytest.param(block, id=f"{page.name}-{i}") for page in PAGES for i, block in enumerate(blocks(page, "python"))
    ]


@pytest.mark.parametrize("block", python_blocks())
def test_python_imports(block):
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_prose(page):
    for name in re.findall(r"`((?:core|multimodal|adversarial|rl)(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
        pkgutil.resolve_name(name)
