"""``benchmark.py epoch``: an epoch of 60,000 images, everything included, for each kernel and number of workers."""

import argparse
import statistics

from benchmarks.common import Report, counts, sixty_thousand
from parallel_lenet import Adam, Coordinator, Dataset, kernels, lenet5, load_dataset
from parallel_lenet.cores import usable_cores


def epoch_seconds(
    data: Dataset,
    kernel: str,
    workers: int,
    batch_size: int = 128,
    shard_size: int | None = None,
    engine: str = "processes",
) -> float:
    """Seconds of one epoch with Adam, after one on the 4,000 bundled digits that doesn't count."""
    warm_up, _ = load_dataset()
    coordinator = Coordinator(
        lenet5(kernel=kernel),
        Adam(1e-3, fused=kernel == "compiled"),
        n_workers=workers,
        batch_size=batch_size,
        shard_size=shard_size,
        engine=engine,
    )
    with coordinator:
        coordinator.fit(warm_up)
        return coordinator.fit(data)[-1].seconds


def measure(arguments: argparse.Namespace) -> Report:
    data = sixty_thousand()
    names = [name for name in kernels.available() if name != "naive"]  # naive would take an hour.
    seconds: dict[tuple[str, int], list[float]] = {(name, n): [] for name in names for n in counts(usable_cores())}
    for _ in range(arguments.rounds):
        for name, n in seconds:
            seconds[name, n].append(epoch_seconds(data, name, n))
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return Report(
        title="An epoch of 60,000 images, batches of 128, Adam, everything included",
        header=("kernel", "workers", "seconds", "images/s"),
        rows=[(name, str(n), f"{s:.2f}", f"{60_000 / s:,.0f}") for (name, n), s in medians.items()],
        results={"epoch_seconds": [{"kernel": name, "workers": n, "seconds": s} for (name, n), s in medians.items()]},
    )
