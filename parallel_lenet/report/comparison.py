"""Several runs side by side: what differs, their curves in one picture each, and their mistakes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parallel_lenet.class_names import display_name
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.report import charts, page, summary
from parallel_lenet.report.page import Html
from parallel_lenet.report.timeline import timeline
from parallel_lenet.runs.predictions import Predictions, is_picture, picture
from parallel_lenet.runs.run import Run

TOP = 3  # Probabilities that are listed for a mistake.
MOST_MISTAKES = 10  # Of a run beside others.
WIDTH = 84  # Pixels on the page that a picture takes, roughly.


class MistakeCard(NamedTuple):
    """A mistake as the page shows it."""

    picture: Html
    label: str
    predicted: str
    probabilities: list[tuple[str, float]]
    """The highest probabilities and that of the right class, with their classes."""
    row: int


def mistakes(run: Run, most: int | None = None) -> list[MistakeCard]:
    """The worst mistakes of a run."""
    predictions = run.predictions
    names = run.class_names
    article = "a " if names is None else ""
    return [
        MistakeCard(
            _picture(
                each.picture,
                f"Test image {each.row}: {article}{display_name(names, each.label)}, "
                f"taken for {article}{display_name(names, each.predicted)}",
            ),
            page.class_name(names, each.label),
            page.class_name(names, each.predicted),
            [(page.class_name(names, i), p) for i, p in _probabilities(each.probabilities, each.label)],
            each.row,
        )
        for each in ([] if predictions is None else predictions.mistakes[:most])
    ]


def _picture(pixels: Any, alt: str) -> Html:
    return page.image(pixels, alt, max(1, WIDTH // pixels.shape[1]))


def _probabilities(probabilities: Any, label: int) -> list[tuple[int, float]]:
    best = [int(i) for i in np.argsort(-probabilities, kind="stable")[:TOP]]
    return [(i, float(probabilities[i])) for i in (best if label in best else [*best, label])]


def example(predictions: Predictions, model: Sequential, names: Sequence[str] | None) -> Html | None:
    """The image whose feature maps are shown."""
    pixels = picture(model.images.channels_first(predictions.example)[0], model)
    if not is_picture(pixels):
        return None
    return _picture(pixels, f"Test image of class {display_name(names, predictions.example_label)}")


def page_of(runs: Sequence[Run]) -> str:
    """The page about these runs. Call it within `page.drawing`."""
    names = _names(runs)
    values: dict[str, Any] = {
        "runs": [
            {
                "name": name,
                "subtitle": summary.subtitle(run),
                "when": summary.period(run),
                "mistakes": mistakes(run, MOST_MISTAKES),
                "confusion": summary.confusion(run),
                "classes": summary.class_names(run),
                "has_names": run.class_names is not None,
                "timeline": timeline(run.events),
                "commands": summary.commands(run),
            }
            for name, run in zip(names, runs, strict=True)
        ],
        "names": names,
        "results": _results(runs),
        "differences": _difference_rows(runs),
        "learning": charts.learning_curves(runs, names),
        "speed": charts.speed_curves(runs, names),
    }
    notes = [f"{name}: {note}" for name, run in zip(names, runs, strict=True) for note in dict.fromkeys(run.notes)]
    return page.render("comparison.html", notes=notes, **values)


def _names(runs: Sequence[Run]) -> list[str]:
    """The names of the folders, or their paths if two folders have the same name."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


def _results(runs: Sequence[Run]) -> list[list[str]]:
    """A row per figure, a column per run."""
    columns = [{label: value for label, value, _ in summary.cards(run)} for run in runs]
    labels = dict.fromkeys(label for column in columns for label in column)
    rows = [[label, *(column.get(label, "") for column in columns)] for label in labels]
    rows.append(["State", *(run.state for run in runs)])
    return [*rows, ["Parameters SHA-256", *(run.sha256[:16] for run in runs)]]


def _difference_rows(runs: Sequence[Run]) -> list[list[str]]:
    """The options, versions and parts of the machine that are not the same in all runs."""
    columns = []
    for run in runs:
        rows: list[summary.Row] = [(f"--{name}", value) for name, value in summary.options_rows(run)]
        rows += summary.session_rows(run.sessions[-1]) if run.sessions else []
        columns.append({str(name): str(value) for name, value in rows if name not in ("started", "--out")})
    names = dict.fromkeys(name for column in columns for name in column)
    return [
        [name, *(column.get(name, "unknown") for column in columns)]
        for name in names
        if len({column.get(name) for column in columns}) > 1
    ]
