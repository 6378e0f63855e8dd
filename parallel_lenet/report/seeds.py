"""The page about runs that differ in their seed only: the statistics of their results, and each of them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parallel_lenet.display import count
from parallel_lenet.files import write_atomically
from parallel_lenet.report import page, summary
from parallel_lenet.report.page import MUTED, SERIES, Html
from parallel_lenet.runs.run import Run
from parallel_lenet.runs.statistics import Statistics, number_text, over_runs, results

FILE = "seeds.html"
TITLES = {
    "test_accuracy": "Test accuracy",
    "test_loss": "Test loss",
    "validation_accuracy": "Validation accuracy",
    "validation_loss": "Validation loss",
    "seconds": "Training time",
}
MARGINS = (52, 12, 10, 40)


def write(runs: Sequence[Run], seeds: Sequence[int], command: str, file: Path) -> None:
    """Write the page. ``command`` repeats all runs. Raises ExtraError if jinja2 or matplotlib is missing."""
    with page.drawing():
        text = page_of(runs, seeds, command)
    write_atomically(file, text.encode("utf-8", "backslashreplace"))


def page_of(runs: Sequence[Run], seeds: Sequence[int], command: str) -> str:
    """The page, as text. Call it within `page.drawing`."""
    statistics = over_runs(runs)
    names = [name for name in TITLES if name in statistics]
    rows = [
        [str(seed), *(with_unit(name, results(run)[name]) for name in names), run.sha256[:16], run.name]
        for seed, run in zip(seeds, runs, strict=True)
    ]
    accuracy = next((name for name in ("test_accuracy", "validation_accuracy") if name in statistics), None)
    figures: list[tuple[str, Html, str]] = []
    if accuracy is not None:
        figures = [_strip(runs, seeds, accuracy, statistics[accuracy]), *_curves(runs, accuracy)]
    return page.render(
        "seeds.html",
        number=count(len(runs), "seed"),
        subtitle=summary.subtitle(runs[0]),
        cards=[
            (TITLES[name], with_unit(name, statistics[name].mean), spread(name, statistics[name])) for name in names
        ],
        statistics=[[TITLES[name], *(with_unit(name, value) for value in statistics[name])] for name in names],
        figures=figures,
        header=["seed", *(TITLES[name] for name in names), "parameters SHA-256", "folder"],
        each=rows,
        options=[row for row in summary.options_rows(runs[0]) if row[0] not in ("seed", "out", "report")],
        command=command,
        notes=[f"{run.name}: {note}" for run in runs for note in dict.fromkeys(run.notes)],
    )


def with_unit(name: str, value: float) -> str:
    """A number of a result as text, with its unit."""
    number = number_text(name, value) or "unknown"
    return f"{number} s" if name == "seconds" and number != "unknown" else number


def spread(name: str, statistics: Statistics) -> str:
    """Deviation and extremes as text."""
    deviation = f"± {with_unit(name, statistics.deviation)}, " if math.isfinite(statistics.deviation) else ""
    return f"{deviation}{with_unit(name, statistics.least)} to {with_unit(name, statistics.largest)}"


def _strip(runs: Sequence[Run], seeds: Sequence[int], name: str, statistics: Statistics) -> tuple[str, Html, str]:
    """A dot per seed, with the mean and a band of one deviation."""
    percent = [100 * results(run)[name] for run in runs]
    figure = page.figure(margins=MARGINS)
    axes = figure.subplots()
    mean = 100 * statistics.mean
    if math.isfinite(statistics.deviation):
        deviation = 100 * statistics.deviation
        axes.axhspan(mean - deviation, mean + deviation, color=SERIES[0], alpha=0.14, linewidth=0)
    axes.axhline(mean, color=MUTED, linewidth=1)
    axes.plot(list(seeds), percent, "o", color=SERIES[0], markersize=5)
    axes.set_xlabel("seed")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.5g}")
    axes.margins(x=0.06, y=0.12)
    alt = f"{TITLES[name]} of each seed, from {min(percent):.2f} to {max(percent):.2f} percent, mean {mean:.2f}."
    return f"{TITLES[name]} (%)", page.svg(figure, alt), "A dot per seed. The line is the mean, the band one deviation."


def _curves(runs: Sequence[Run], name: str) -> list[tuple[str, Html, str]]:
    """The accuracy after each epoch: all seeds, their mean, least and largest."""
    epochs = min(len(run.epochs) for run in runs)
    if epochs < 2:
        return []
    values = 100 * np.array([[line.get(name, math.nan) for line in run.epochs[:epochs]] for run in runs])
    if not np.isfinite(values).all():
        return []
    x = np.arange(1, epochs + 1)
    mean = values.mean(axis=0)
    figure = page.figure(margins=MARGINS)
    axes = figure.subplots()
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=SERIES[0], alpha=0.16, linewidth=0)
    axes.plot(x, mean, color=SERIES[0])
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.5g}")
    axes.set_ylim(bottom=max(float(values.min()), float(values[:, -1].min()) - 3))
    alt = f"Mean over the seeds after each epoch: from {mean[0]:.2f} to {mean[-1]:.2f} percent."
    caption = "The line is the mean over the seeds, the band reaches from the least to the largest."
    return [(f"{TITLES[name]} after each epoch (%)", page.svg(figure, alt), caption)]
