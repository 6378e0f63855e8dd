"""Recipes: a name for options, and what the bundled digits reach with one."""

import json
from pathlib import Path

import pytest
from kits.programs import run, train, write_idx

from parallel_lenet.cli import _config
from parallel_lenet.cli._options import TrainOptions, check
from parallel_lenet.cli._recipes import RECIPES, expand

SMALL = ("--data-dir", "data", "--kernel", "im2col", "--engine", "serial", "--batch-size", "20", "--epochs", "2")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_options_that_exist_and_are_allowed(name: str) -> None:
    options = TrainOptions(**expand({"recipe": name}))
    check(options)
    assert options.epochs == RECIPES[name]["epochs"]
    paper = ("tanh", "average")
    assert (options.activation, options.pooling) == (("relu", "max") if name == "best" else paper)


def test_a_recipe_counts_where_it_is_named_and_other_options_win(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('recipe = "quick"\nweight-decay = 0.7\n')
    configured = _config.read(str(file))
    quick, best = RECIPES["quick"], RECIPES["best"]
    assert _config.merge(configured, {})["epochs"] == quick["epochs"]
    assert _config.merge(configured, {})["weight_decay"] == 0.7
    assert _config.merge(configured, {"epochs": 3})["epochs"] == 3
    by_flag = _config.merge(configured, {"recipe": "best", "epochs": 3})
    assert (by_flag["recipe"], by_flag["epochs"]) == ("best", 3)
    assert by_flag["weight_decay"] == best["weight_decay"]
    assert by_flag["augment"] == best["augment"]


def test_a_run_by_a_recipe_has_the_bits_of_its_options_and_can_be_repeated_and_continued(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 60, 20)
    recipe = train(tmp_path, *SMALL, "--recipe", "best", "--out", "recipe")
    spelled = [word for name, value in RECIPES["best"].items() if name != "epochs" for word in (name, value)]
    words = [f"--{word.replace('_', '-')}" if i % 2 == 0 else str(word) for i, word in enumerate(spelled)]
    assert train(tmp_path, *SMALL, *words)["parameters_sha256"] == recipe["parameters_sha256"]
    again = train(tmp_path, "--config", "recipe/config.toml", "--engine", "serial")
    assert again["parameters_sha256"] == recipe["parameters_sha256"]
    train(tmp_path, *SMALL, "--recipe", "best", "--max-steps", "4", "--out", "half")
    rest = train(tmp_path, "--resume", "half", "--recipe", "best", "--epochs", "2", "--max-steps", "6")
    assert rest["parameters_sha256"] == recipe["parameters_sha256"]
    other = run(tmp_path, "train", "--resume", "half", "--recipe", "paper", code=2)
    assert "--recipe paper disagrees with the run in half, which has best" in other.stderr


def test_recipes_are_for_lenet5(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from parallel_lenet import lenet5\nnet = lenet5()\n")
    failed = run(tmp_path, "train", "--model", "mine.py:net", "--recipe", "quick", code=2)
    assert "--recipe is for LeNet-5: leave it out, or leave out --model" in failed.stderr


def test_an_unknown_recipe_is_a_mistake_in_the_call(tmp_path: Path) -> None:
    for words in (["--recipe", "bst"], ["--config", "c.toml"]):
        (tmp_path / "c.toml").write_text('recipe = "bst"\n')
        failed = run(tmp_path, "train", *words, code=2)
        assert "bst" in failed.stderr
        assert "best" in failed.stderr
        assert "Traceback" not in failed.stderr


@pytest.mark.slow
def test_the_bundled_digits_reach_98_percent_by_the_recipe_best(tmp_path: Path) -> None:
    found = run(tmp_path, "train", "--recipe", "best", "--json", "--quiet", env={"PARALLEL_LENET_REPORT": "0"})
    assert json.loads(found.stdout)["test_accuracy"] >= 0.98
