"""Pictures of the measurements, with matplotlib (extra ``report``)."""

from collections.abc import Callable
from typing import Any

from parallel_lenet import optional

Results = dict[str, Any]

PARTS = {
    "computing": "#2f6fde",
    "waiting": "#b8bcc6",
    "adding": "#e8a33d",
    "optimizer": "#3a9e6f",
    "messages": "#d0545f",
}
"""The parts of a step (see `common.parts`) and their colours."""


def library() -> Any:
    """The library that draws, or ends the program with a sentence if it is missing or does not work."""
    try:
        return optional.load("report", "matplotlib", "--picture", "matplotlib.figure")
    except optional.ExtraError as error:
        raise SystemExit(str(error)) from None


def _figure() -> tuple[Any, Any]:
    figure = library().Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _caption(machine: dict[str, str]) -> str:
    return ", ".join(
        [machine["cpu"], *(f"{name} {machine[name]}" for name in ("numpy", "numba", "torch") if name in machine)]
    )


def peers(results: Results, machine: dict[str, str], file: str) -> None:
    """Bars: seconds per epoch."""
    figure, axes = _figure()
    seconds = dict(sorted(results["epoch_seconds"].items(), key=lambda item: -item[1]))
    colours = ["#b8bcc6" if name.startswith("PyTorch") else "#2f6fde" for name in seconds]
    bars = axes.barh(list(seconds), list(seconds.values()), color=colours)
    axes.bar_label(bars, fmt="%.2f s", padding=4)
    axes.margins(x=0.12)
    axes.set_title(f"An epoch of 60,000 images, batches of {results['batch_size']}", loc="left", fontsize=11)
    axes.set_xlabel(f"seconds, median ({_caption(machine)})", fontsize=8)
    figure.savefig(file, dpi=150)


def scaling(results: Results, machine: dict[str, str], file: str) -> None:
    """Bars: the parts of a step's milliseconds, for each batch size and number of workers."""
    batches = results["batches"]
    figure = library().Figure(figsize=(8, 0.9 + 0.42 * sum(map(len, batches.values()))), layout="constrained")
    figure.suptitle(f"A step of LeNet-5, {results['kernel']}, with Adam", x=0.01, ha="left", fontsize=11)
    panels = figure.subplots(len(batches), 1, squeeze=False)[:, 0]
    for axes, (batch_size, rows) in zip(panels, batches.items(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        labels = [f"{row['workers']} worker{'s' * (row['workers'] > 1)}" for row in rows]
        left = [0.0] * len(rows)
        for part, colour in PARTS.items():
            ms = [row["parts_ms"][part] for row in rows]
            axes.barh(labels, ms, left=left, color=colour, label=part)
            left = [a + b for a, b in zip(left, ms, strict=True)]
        for label, end, row in zip(labels, left, rows, strict=True):
            gain = f"   {row['speedup']:.2f} x  (the hardware: {row['hardware']:.2f} x)" * (row["workers"] > 1)
            axes.annotate(f" {row['step_ms']:.2f} ms{gain}", (end, label), va="center", fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.3)
        axes.set_ylabel(f"batch {batch_size}", fontsize=9)
    panels[0].legend(frameon=False, fontsize=8, ncols=len(PARTS), loc="lower right", bbox_to_anchor=(1, 1))
    panels[-1].set_xlabel(f"milliseconds, median ({_caption(machine)})", fontsize=8)
    figure.savefig(file, dpi=150)


DRAWN: dict[str, Callable[[Results, dict[str, str], str], None]] = {"peers": peers, "scaling": scaling}
