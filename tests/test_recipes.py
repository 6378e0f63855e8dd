"""Recipes: a name for options, and what the bundled digits reach with one."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from kits.programs import run, run_here, train_here, write_idx

from parallel_lenet import Checkpoint
from parallel_lenet.cli import _config
from parallel_lenet.cli._optimizer import with_defaults
from parallel_lenet.cli._options import TrainOptions, add_train_options, check, flags
from parallel_lenet.cli._recipes import RECIPES, expand
from parallel_lenet.cli._results import repeat_command

SMALL = ("--data-dir", "data", "--kernel", "im2col", "--engine", "serial", "--batch-size", "20", "--epochs", "2")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_options_that_exist_and_are_allowed(name: str) -> None:
    options = TrainOptions(**expand({"recipe": name}))
    check(options)
    assert options.epochs == RECIPES[name]["epochs"]
    paper = ("tanh", "average")
    assert (options.activation, options.pooling) == (("relu", "max") if name == "best" else paper)


def test_options_beside_a_recipe_win_and_one_of_the_command_line_replaces_that_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"

    def merged(**given: Any) -> dict[str, Any]:
        return expand(_config.merge(_config.read(str(file)), given))

    file.write_text('recipe = "quick"\nweight-decay = 0.7\n')
    assert merged() == RECIPES["quick"] | {"recipe": "quick", "weight_decay": 0.7}
    assert merged(epochs=3)["epochs"] == 3
    assert merged(recipe="best", epochs=3) == RECIPES["best"] | {"recipe": "best", "epochs": 3}
    spelled = TrainOptions(**expand({"recipe": "best", "seed": 5, "batch_size": 64, "weight_decay": 0.3}))
    for content in ('recipe = "best"\nseed = 5\n', spelled.toml()):
        file.write_text(content)
        options = TrainOptions(**merged(recipe="paper"))
        assert (options.recipe, options.seed, options.epochs) == ("paper", 5, RECIPES["paper"]["epochs"])
        assert (options.activation, options.pooling, options.augment) == ("tanh", "average", None)
    assert (options.batch_size, options.weight_decay) == (64, 0.3)


@pytest.mark.parametrize("name", RECIPES)
def test_the_learning_rate_and_the_weight_decay_of_a_recipe_are_for_adamw(name: str) -> None:
    other = expand({"recipe": name, "optimizer": "sgd"})
    assert not {"learning_rate", "weight_decay"} & other.keys()
    assert other.items() >= (RECIPES[name].items() - expand({"recipe": name, "optimizer": "adamw"}).items())
    assert expand({"recipe": name, "optimizer": "adamw"}) == expand({"recipe": name}) | {"optimizer": "adamw"}
    assert expand({"recipe": name, "optimizer": "sgd", "learning_rate": 0.5})["learning_rate"] == 0.5


def test_the_command_that_repeats_a_run_names_what_differs_from_its_recipe() -> None:
    parser = argparse.ArgumentParser()
    add_train_options(parser)
    beside = {"epochs": TrainOptions.epochs, "activation": "tanh", "label_smoothing": 0.0}
    for given in ({"recipe": "best", **beside}, {"recipe": "quick", "optimizer": "sgd"}, beside, {"recipe": "paper"}):
        options = with_defaults(TrainOptions(**expand(given)))
        words = shlex.split(repeat_command(options))[2:]
        again = expand(flags(parser.parse_args(words)))
        assert with_defaults(TrainOptions(**again)) == options


def test_a_run_by_a_recipe_has_the_bits_of_its_options_and_can_be_repeated_and_continued(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 60, 20)
    recipe = train_here(tmp_path, *SMALL, "--recipe", "best", "--out", "recipe")
    spelled = [word for name, value in RECIPES["best"].items() if name != "epochs" for word in (name, value)]
    words = [f"--{word.replace('_', '-')}" if i % 2 == 0 else str(word) for i, word in enumerate(spelled)]
    assert train_here(tmp_path, *SMALL, *words)["parameters_sha256"] == recipe["parameters_sha256"]
    again = train_here(tmp_path, "--config", "recipe/config.toml", "--engine", "serial")
    assert again["parameters_sha256"] == recipe["parameters_sha256"]
    train_here(tmp_path, *SMALL, "--recipe", "best", "--max-steps", "4", "--out", "half")
    rest = train_here(tmp_path, "--resume", "half", "--recipe", "best", "--max-steps", "6")
    assert (rest["parameters_sha256"], rest["epochs"]) == (recipe["parameters_sha256"], 2)
    other = run_here(tmp_path, "train", "--resume", "half", "--recipe", "paper", code=2)
    assert "--recipe paper disagrees with the run in half, which has best" in other.stderr


def test_augment_none_switches_off_the_augmentation_of_a_recipe(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 60, 20)
    words = ("--recipe", "best", "--augment", "none", "--max-steps", "1")
    train_here(tmp_path, *SMALL, *words, "--out", "plain")
    settings = Checkpoint.load(tmp_path / "plain" / "checkpoint.npz").settings
    assert (settings["augment"], settings["label_smoothing"]) == (None, RECIPES["best"]["label_smoothing"])
    assert _config.read(str(tmp_path / "plain" / "config.toml"))["augment"] == "none"  # So --config repeats it.
    failed = run_here(tmp_path, "train", "--augment", "non", code=2)
    assert "--augment must be none, default, or as in shift=2,rotation=10" in failed.stderr


def test_recipes_are_for_lenet5(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from parallel_lenet import lenet5\nnet = lenet5()\n")
    failed = run_here(tmp_path, "train", "--model", "mine.py:net", "--recipe", "quick", code=2)
    assert "--recipe is for LeNet-5: leave it out, or leave out --model" in failed.stderr


def test_an_unknown_recipe_is_a_mistake_in_the_call(tmp_path: Path) -> None:
    for words in (["--recipe", "bst"], ["--config", "c.toml"]):
        (tmp_path / "c.toml").write_text('recipe = "bst"\n')
        failed = run_here(tmp_path, "train", *words, code=2)
        assert "bst" in failed.stderr
        assert "best" in failed.stderr
        assert "Traceback" not in failed.stderr


@pytest.mark.slow
def test_the_bundled_digits_reach_96_percent_by_8_of_the_40_epochs_of_the_recipe_best(tmp_path: Path) -> None:
    options = ("--recipe", "best", "--epochs", "8", "--json", "--quiet")
    found = run(tmp_path, "train", *options, env={"PARALLEL_LENET_REPORT": "0"})
    assert json.loads(found.stdout)["test_accuracy"] >= 0.96
