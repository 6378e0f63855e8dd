"""The curves of a report about one run or several, each run in its own colour."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parallel_lenet.report import page
from parallel_lenet.report.page import MUTED, SERIES, Html
from parallel_lenet.report.series import Numbers, curve, epochs_done, rate
from parallel_lenet.report.summary import smooths_labels
from parallel_lenet.runs.run import Run
from parallel_lenet.runs.steps import Steps

MARGINS = (48, 10, 8, 38)  # Pixels left, right, above and below the axes.
SPREAD = 20  # A larger ratio of positive numbers is drawn on a logarithmic axis.


class Line(NamedTuple):
    """One curve of a chart."""

    label: str
    x: Numbers
    y: Numbers
    colour: str
    style: str = "-"
    every: bool = False
    """Whether each number gets a mark, as those of epochs, which are few."""
    band: bool = False
    """Whether a band shows the smallest and the largest numbers."""


def learning_curves(runs: Sequence[Run], names: Sequence[str] = ("",)) -> list[tuple[str, Html, str]]:
    """The charts of loss, accuracy, learning rate and norm of the gradient, as title, picture and caption.

    Figures that are not known have no chart. ``names`` are those of several runs.
    """
    loss = f"{LOSS} {SMOOTHING}" if any(map(smooths_labels, runs)) else LOSS
    return [
        *_chart("Loss", _lines(runs, names, "loss"), loss),
        *_chart("Accuracy (%)", _lines(runs, names, "accuracy"), ACCURACY, log=False),
        *_chart("Learning rate", _step_lines(runs, names, "learning_rate"), RATE, log=False),
        *_chart("Gradient norm", _step_lines(runs, names, "gradient_norm"), NORM),
    ]


LOSS = (
    "The thin line is the mean of neighbouring steps, before each update. The shade around it reaches from the least "
    "to the largest. Dots are epochs."
)
SMOOTHING = (
    "With label smoothing the training loss is larger than the others: it compares with labels that are not certain. "
    "The losses of validation and test are the plain ones."
)
ACCURACY = "Percent of the images that were right. Dots are epochs. The thin line has the batches of the steps."
RATE = "The factor of each step's direction."
NORM = "The length of the mean gradient of each batch, before any clipping."
SPEED = "Images of a step, divided by its seconds. Evaluation and checkpoints do not count."


def speed_curves(runs: Sequence[Run], names: Sequence[str] = ("",)) -> list[tuple[str, Html, str]]:
    """Images per second, and for a single run the parts of the time of its steps."""
    lines = [
        Line(label, epochs_done(run, steps), rate(steps), colour, band=len(runs) == 1)
        for label, colour, run, steps in _with_steps(runs, names)
    ]
    charts = _chart("Images per second", lines, SPEED, log=False, least=0.0)
    if len(runs) == 1 and runs[0].steps is not None and len(runs[0].steps):
        charts += _phases(runs[0], runs[0].steps)
    return charts


def _with_steps(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, str, Run, Steps]]:
    return [
        (name, SERIES[i % len(SERIES)], run, run.steps)
        for i, (run, name) in enumerate(zip(runs, names, strict=True))
        if run.steps is not None and len(run.steps)
    ]


def _step_lines(runs: Sequence[Run], names: Sequence[str], column: str) -> list[Line]:
    many = len(runs) > 1
    return [
        Line(label, epochs_done(run, steps), steps[column], colour, band=not many)
        for label, colour, run, steps in _with_steps(runs, names)
    ]


def _lines(runs: Sequence[Run], names: Sequence[str], figure_name: str) -> list[Line]:
    """The training, validation and test curves."""
    lines = []
    factor = 100.0 if figure_name == "accuracy" else 1.0
    for label, colour, run, steps in _with_steps(runs, names):
        each = steps["loss"] if figure_name == "loss" else steps["correct"] / steps["images"] * factor
        # For a single run the epochs' curve has the label.
        lines.append(Line(label, epochs_done(run, steps), each, colour if label else MUTED, band=not label))
    for i, run in enumerate(runs):
        epochs = np.array([line["epoch"] for line in run.epochs], np.float64)
        for j, part in enumerate(("train", "validation", "test")):
            values = np.array([line.get(f"{part}_{figure_name}", math.nan) for line in run.epochs], np.float64) * factor
            if not np.isfinite(values).any() or (len(runs) > 1 and part == "train" and run.steps is not None):
                continue
            if len(runs) > 1:
                style = {"train": "-", "validation": "--", "test": ":"}[part]
                colour = SERIES[i % len(SERIES)]
                lines.append(Line(f"{names[i]}, {part}", epochs, values, colour, style, every=True))
            else:
                lines.append(Line(PARTS[part], epochs, values, SERIES[j], every=True))
    return lines


PARTS = {"train": "training", "validation": "validation", "test": "test"}


def _chart(
    title: str, lines: list[Line], caption: str, *, log: bool | None = None, least: float | None = None
) -> list[tuple[str, Html, str]]:
    """A chart, or none if there is nothing to draw."""
    curves = [(line, curve(line.x, line.y)) for line in lines]
    curves = [(line, points) for line, points in curves if len(points.x)]
    if not curves:
        return []
    figure = page.figure(margins=MARGINS)
    axes = figure.subplots()
    for line, points in curves:
        width = 0.9 if line.band or (not line.every and len(lines) > 1) else 1.6
        mark = {"marker": "o", "markersize": 3.2 if len(points.x) < 60 else 0} if line.every else {}
        if len(points.x) == 1:
            mark = {"marker": "o", "markersize": 4}
        if line.band:
            axes.fill_between(points.x, points.least, points.most, color=line.colour, alpha=0.16, linewidth=0)
        axes.plot(
            points.x,
            points.mean,
            line.style,
            color=line.colour,
            linewidth=width,
            label=_legend_label(line.label),
            **mark,
        )
    values = np.concatenate([points.least for _, points in curves] + [points.most for _, points in curves])
    if log is None and values.min() > 0 and values.max() / values.min() > SPREAD:
        axes.set_yscale("log")
        axes.minorticks_off()
    if least is not None:
        axes.set_ylim(bottom=least)
    _finish(axes, legend=any(line.label for line, _ in curves))
    return [(title, page.svg(figure, _description(title, curves)), caption)]


def _finish(axes: Any, *, legend: bool) -> None:
    axes.set_xlabel("epoch")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.set_xlim(left=0)
    axes.margins(x=0.01)
    if legend:
        axes.legend(loc="best", handlelength=1.6, borderaxespad=0.2, labelspacing=0.3)


def _legend_label(label: str) -> str:
    """A label that leaves room for the curves.

    matplotlib treats ``$`` as a formula and hides labels that begin with ``_``.
    """
    label = label if len(label) <= 32 else f"{label[:31]}…"
    return label.replace("$", r"\$") if not label.startswith("_") else f" {label}".replace("$", r"\$")


def _description(title: str, curves: Sequence[tuple[Line, Any]]) -> str:
    """The chart in words: the first and the last number of each curve."""
    parts = [
        f"{line.label or 'the curve'} from {points.mean[0]:.3g} to {points.mean[-1]:.3g}" for line, points in curves
    ]
    epochs = max(float(np.nanmax(line.x)) for line, _ in curves)
    return f"{title} over {epochs:.3g} epochs: {'; '.join(parts)}."


def _phases(run: Run, steps: Steps) -> list[tuple[str, Html, str]]:
    """The charts of the milliseconds of a step: the coordinator's phases, and what each worker computed meanwhile."""
    done = epochs_done(run, steps)
    scale = 1e3
    phases = {
        "waiting for gradients": steps["waiting"],
        "adding": steps["adding"],
        "updating": steps["updating"],
    }
    points = {name: curve(done, seconds * scale, 80) for name, seconds in phases.items()}
    first = points["waiting for gradients"]
    if not len(first.x):
        return []
    figure = page.figure(margins=MARGINS)
    axes = figure.subplots()
    x = first.x if len(first.x) > 1 else np.array([0.0, first.x[0]])
    stack = [np.broadcast_to(each.mean, x.shape) for each in points.values()]
    axes.stackplot(x, *stack, colors=SERIES[:3], labels=list(points), alpha=0.75, linewidth=0)
    axes.set_ylim(0, 1.25 * float(np.percentile(sum(stack), 98)) or 1.0)
    _finish(axes, legend=True)
    means = ", ".join(f"{name} {np.nanmean(seconds) * scale:.2f} ms" for name, seconds in phases.items())
    charts = [("Where a step's time goes (ms)", page.svg(figure, f"Mean of a step: {means}."), COORDINATOR)]
    workers = [
        (f"worker {number}", seconds * scale)
        for number, seconds in enumerate(steps.workers.T)
        if np.nansum(seconds) > 0
    ]
    if not workers:
        return charts
    figure = page.figure(margins=MARGINS)
    axes = figure.subplots()
    most = 0.0
    for number, (name, milliseconds) in enumerate(workers):
        each = curve(done, milliseconds, 80)
        colour = SERIES[number % len(SERIES)] if len(workers) <= len(SERIES) else SERIES[0]
        marker = "o" if len(each.x) == 1 else ""
        axes.plot(each.x, each.mean, color=colour, label=name, linewidth=1.2, marker=marker, markersize=4)
        most = max(most, float(np.percentile(each.mean, 98)))
    axes.set_ylim(0, 1.25 * most or 1.0)
    _finish(axes, legend=len(workers) <= len(SERIES))
    means = ", ".join(f"{name} {np.nanmean(milliseconds):.2f} ms" for name, milliseconds in workers[:16])
    return [
        *charts,
        ("What each worker computes in a step (ms)", page.svg(figure, f"Mean of a step: {means}."), WORKERS),
    ]


COORDINATOR = (
    "What the coordinator does in a step: it waits while the workers compute, adds their gradients along the tree, and "
    "updates the parameters. A few steps may reach above the picture."
)
WORKERS = "For how long each worker computed gradients. The rest of a step it waited."
