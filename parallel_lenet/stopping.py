"""Early stopping: which epoch is best by the validation data, and when to stop because no later one is better.

Everything follows from the figures of the finished epochs, so a resumed run stops at the same epoch.
"""

import math
from collections.abc import Sequence

from parallel_lenet.checks import InvalidValue, quoted
from parallel_lenet.model import Model
from parallel_lenet.reports import EpochReport

BEST_BY = ("loss", "accuracy")
"""The lowest validation loss, or the highest validation accuracy."""


def check_best_by(name: object, model: Model) -> None:
    """Raises InvalidValue unless ``name`` is one of `BEST_BY`, and the model has what it names."""
    if name not in BEST_BY:
        raise InvalidValue("best_by", " or ".join(map(quoted, BEST_BY)), name)
    if name == "accuracy" and not getattr(model, "classifies", True):
        raise InvalidValue("best_by", "loss for a model that predicts no classes, and so has no accuracy", name)


def figures(reports: Sequence[EpochReport], best_by: str) -> list[float | None]:
    """The figure of each epoch that decides, or None if it was not validated."""
    return [report.validation_loss if best_by == "loss" else report.validation_accuracy for report in reports]


def best_epoch(values: Sequence[float | None], best_by: str) -> int | None:
    """The epoch, counted from 1, with the best value. Of equals, the first. None if no value is a number.

    >>> best_epoch([0.5, 0.2, 0.3, 0.2], "loss")
    2
    """
    best = -math.inf
    found = None
    for epoch, value in enumerate(values, 1):
        score = -math.inf if value is None or math.isnan(value) else -value if best_by == "loss" else value
        if score > best:
            best = score
            found = epoch
    return found


def is_enough(values: Sequence[float | None], best_by: str, patience: int) -> bool:
    """Whether the last `patience` epochs with a value brought none that is better than the best before them.

    Source: Prechelt 1998, "Early stopping - but when?", criterion UP, with the best epoch in place of the last.

    >>> is_enough([0.5, 0.2, 0.3], "loss", patience=2), is_enough([0.5, 0.2, 0.3, 0.2], "loss", patience=2)
    (False, True)
    """
    known = [value for value in values if value is not None]
    return len(known) - (best_epoch(known, best_by) or 0) >= patience
