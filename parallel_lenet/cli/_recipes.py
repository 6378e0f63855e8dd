"""Recipes: options that suit LeNet-5 on MNIST, chosen by images held out of training. See docs/recipes.md."""

from typing import Any

DISTORTIONS = "shift=1,rotation=8,scale=0.08,shear=0.08"
RECIPES: dict[str, dict[str, Any]] = {
    "quick": {"epochs": 4, "learning_rate": 0.006, "label_smoothing": 0.1},
    "paper": {"epochs": 20, "label_smoothing": 0.1},
    "best": {
        "epochs": 40,
        "label_smoothing": 0.1,
        "weight_decay": 0.1,
        "augment": DISTORTIONS,
        "activation": "relu",
        "pooling": "max",
    },
}


def options_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the recipe that these options name. Its learning rate and weight decay are for adamw only."""
    name = options.get("recipe")
    if name is None:
        return {}
    left_out = () if options.get("optimizer", "adamw") == "adamw" else ("learning_rate", "weight_decay")
    return {name: value for name, value in RECIPES[name].items() if name not in left_out}


def expand(options: dict[str, Any]) -> dict[str, Any]:
    """The options with those of the recipe that they name, if they name one. Options beside the recipe win."""
    return options_of(options) | options
