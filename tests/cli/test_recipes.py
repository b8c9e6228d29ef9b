from pathlib import Path

import pytest

from core.errors import RecipeError
from core.recipes import build_config, describe_recipe, list_recipes, resolve


def test_a_file_in_the_current_directory_is_a_recipe_module(mine):
    config = build_config(f"{mine}:good", {"steps": 7})
    assert config.steps == 7
    assert config.out == Path("out")


def test_the_docstring_gives_summary_runtime_and_expected_score(mine):
    info = describe_recipe("x:good", resolve(f"{mine}:good"))
    assert (info.summary, info.runtime, info.expected) == ("A run of five steps.", "no time at all", "accuracy 0.5")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("good", "PKG:RECIPE"),
        (":good", "PKG:RECIPE"),
        ("{mine}:", "PKG:RECIPE"),
        ("no_such_module_at_all:good", "no package or module 'no_such_module_at_all'"),
        ("{mine}:goood", "did you mean 'good'"),
        ("{mine}:_private", "has no recipe '_private'"),
        ("{mine}:returns_number", "must return a core.config.RunConfig, not int"),
        ("{mine}:raises", "KeyError: 'gone'"),
        ("{mine}:no_trainer", "names no trainer"),
    ],
)
def test_a_bad_name_or_recipe_is_explained(mine, name, message):
    with pytest.raises(RecipeError, match=message):
        build_config(name.format(mine=mine))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def f(:\n", "invalid syntax.*line 1"),
        (
            "import no_such_dependency\n",
            "ModuleNotFoundError: No module named 'no_such_dependency'",
        ),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_module_that_fails_on_import_is_named(tmp_path, monkeypatch, content, message):
    name = f"broken_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError, match=message):
        resolve(f"{name}:f")


def test_a_file_hidden_by_another_module_is_refused(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("def good(): ...\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="rename your file"):
        resolve("json:good")


def test_listing_skips_absent_packages_but_not_broken_ones(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("core.recipes.declared_modules", lambda group="": {"ghost": "ghost_package_zz.recipes"})
    assert list_recipes() == []
    (tmp_path / "ghost_package_yy.py").write_text("import absent_dependency_yy\n")
    monkeypatch.setattr("core.recipes.declared_modules", lambda group="": {"ghost": "ghost_package_yy"})
    with pytest.raises(RecipeError, match="absent_dependency_yy"):
        list_recipes()


def test_listing_has_the_functions_that_need_no_argument_and_say_that_they_return_a_config(mine, monkeypatch):
    monkeypatch.setattr("core.recipes.declared_modules", lambda group="": {"my": mine})
    assert [recipe.name for recipe in list_recipes()] == ["my:good"]


def test_every_declared_recipe_says_what_to_expect():
    for recipe in list_recipes():
        assert recipe.summary.endswith("."), recipe
        assert recipe.runtime, f"{recipe.name}: a line `Runtime: …` is missing in the docstring"
        assert recipe.expected, f"{recipe.name}: a line `Expected: …` is missing in the docstring"
        config = build_config(recipe.name)
        assert ":" in config.trainer
