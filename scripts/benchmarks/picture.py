"""Pictures of the measurements, with matplotlib (extra ``report``)."""

from collections.abc import Callable
from typing import Any

from parallel_lenet import optional

Results = dict[str, Any]


def library() -> Any:
    """The library that draws; ends the program with a sentence if it is missing or does not work."""
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
    """Bars: seconds an epoch."""
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
    """Curves: the speed-up, measured and predicted."""
    figure, axes = _figure()
    kernels = {name: found for name, found in results.items() if isinstance(found, dict)}
    for (name, found), colour in zip(kernels.items(), ("#7a8699", "#2f6fde"), strict=False):
        alone = found["step_ms"]["1"]
        predicted = {int(w): alone / ms for w, ms in found["predicted_ms"].items()}
        measured = {int(w): alone / ms for w, ms in found["step_ms"].items()}
        axes.plot(list(predicted), list(predicted.values()), "--", color=colour, label=f"{name}, predicted")
        axes.plot(list(measured), list(measured.values()), "o", color=colour, label=f"{name}, measured")
    workers = sorted({int(w) for found in kernels.values() for w in found["predicted_ms"]})
    axes.plot(workers, workers, color="#d0d3da", linewidth=1, label="ideal", zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(workers, [str(w) for w in workers])
    axes.set_yticks(workers, [str(w) for w in workers])
    axes.set_xlabel(f"workers, each on a core of its own ({_caption(machine)})", fontsize=8)
    axes.set_title(f"Speed-up of a step of {results['batch_size']} images", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def simulation(results: Results, machine: dict[str, str], file: str) -> None:
    """Curves: the predicted speed-up over the number of workers, one for each batch size."""
    figure, axes = _figure()
    workers = results["workers"]
    for name, style in (("naive", "--"), ("im2col", "-"), ("compiled", "-")):
        for number, (batch_size, speedups) in enumerate(results.get(name, {}).get("speedups", {}).items()):
            label = f"{name}, batches of {batch_size:,}"
            axes.plot(workers, speedups, style, color=f"C{number}", label=label)
    axes.plot(workers, workers, color="#d0d3da", linewidth=1, label="ideal", zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(workers, [f"{w:,}" for w in workers])
    axes.set_yticks([1 / 8, 1 / 2, *workers[::2]], ["⅛", "½", *(f"{w:,}" for w in workers[::2])])
    axes.set_ylim(1 / 16, 2 * workers[-1])
    network = f"{results['latency_ms']:g} ms and {results['gbit']:g} Gbit/s to the coordinator"
    axes.set_xlabel(f"workers of {results['backend']}, {network}\n({_caption(machine)})", fontsize=8)
    axes.set_title("Simulated speed-up over one core", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=150)


DRAWN: dict[str, Callable[[Results, dict[str, str], str], None]] = {
    "peers": peers,
    "scaling": scaling,
    "simulation": simulation,
}
