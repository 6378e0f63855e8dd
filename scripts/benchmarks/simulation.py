"""``benchmark.py simulation``: what a cluster of up to 1,024 machines would bring, from what was measured on this one.

A step's pairs of shards go out in tasks as the engine would cut them, each to the worker that is free first, and take
``T(w) = optimizer + pieces a + call + tasks c + 2 latency + max(compute, send, receive)``:

- *optimizer*, and ``a`` for adding one gradient, which the coordinator does alone, for each pair or half of one;
- *call*, *c*: what joblib and the cluster cost for a step and for each task, in the coordinator and scheduler;
- *compute*: of the busiest worker;
- *send*, *receive*: the coordinator's own link carries parameters to every task, and a gradient from every piece. It
  is shared by all workers, so it, not theirs, is where the network ends. Taking a gradient out of its messages takes
  the coordinator's time too, and the slower of the two counts.

Measured on this machine: compute of a shard, optimizer, ``a``, call, ``c`` and the taking out (of Dask, or loky without
it). Given: latency and bandwidth of the network.

At 1 and 2 workers the same model is checked against real runs here: without a network, and with what sharing a machine
costs. Its cores slow each other down (measured by two programs at once, as in ``scaling``), and they do the cluster's
own work beside the workers'.
"""

import argparse
import heapq
import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.common import Report, alternate, sixty_thousand, steps, works
from benchmarks.engines import NoOp
from benchmarks.scaling import Timed, copies, one_worker
from parallel_lenet import Adam, Coordinator, Dataset, kernels, lenet5
from parallel_lenet.batching import tasks
from parallel_lenet.cores import usable_cores
from parallel_lenet.engines.cluster.engine import Cluster, ClusterWarning, grouped

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BATCH_SIZES = (128, 512, 2048, 8192, 65536)
SHARD_SIZES = {"naive": 32, "im2col": 32, "compiled": 64}
LATENCY_MS, GBIT = 0.2, 10.0


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds."""

    shard: float
    """To compute."""
    add: float
    """A gradient to the sum."""
    optimizer: float
    call: float
    """One step of a cluster, whatever is in it."""
    task: float
    """One more task in it."""
    take: float
    """One more gradient out of its messages."""
    gradient_bytes: int


@dataclass(frozen=True)
class Place:
    """Where workers and coordinator are: by default, on machines of their own with no network between them."""

    latency: float = 0.0
    """Seconds."""
    bandwidth: float = math.inf
    """Bytes a second, to and from the coordinator."""
    cores: float = math.inf
    """For workers, coordinator and scheduler together."""
    slowdown: float = 1.0
    """Of a worker's core by the others."""


def predict(costs: Costs, workers: int, shards: int, place: Place) -> float:
    """Seconds a step."""
    pieces = [len(piece.rows) for piece in tasks(np.arange(shards), 1, workers)]  # A row for each shard.
    seconds = [(n * costs.shard + (n - 1) * costs.add) * place.slowdown for n in pieces]
    groups = [sum(group) for group in grouped(seconds, sum(seconds), workers)]
    busy = [0.0] * workers
    for group in groups:
        heapq.heapreplace(busy, busy[0] + group)
    transfer = costs.gradient_bytes / place.bandwidth
    send, receive = len(groups) * transfer, len(pieces) * max(costs.take, transfer)
    shared = (sum(seconds) + len(pieces) * costs.take) / place.cores
    serial = costs.optimizer + len(pieces) * costs.add + costs.call + len(groups) * costs.task
    return serial + 2 * place.latency + max(*busy, send, receive, shared)


def measure(arguments: argparse.Namespace) -> Report:
    """Predicted speed-ups, and the prediction's error where it can be checked."""
    latency, gbit = arguments.latency_ms / 1e3, arguments.gbit
    name: Literal["dask", "loky"] = "dask" if works("dask", "distributed") else "loky"
    data, rows, notes, results = sixty_thousand(), [], [], dict[str, Any]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClusterWarning)
        with Cluster(name, n_workers=2) as engine:
            overhead = _overhead(engine, data, arguments.rounds)
            for kernel in ("naive", kernels.available()[-1]):
                costs = _costs(kernel, data, overhead)
                speedups = _speedups(costs, SHARD_SIZES[kernel], Place(latency, gbit * 1e9 / 8))
                rows += [(kernel, f"{batch:,}", *(f"{each:.1f}" for each in row)) for batch, row in speedups.items()]
                checks = _check(engine, kernel, data, costs)
                results[kernel] = {"costs": vars(costs), "speedups": speedups, "checks": checks}
                notes += [
                    f"{kernel}, {w} worker{'s' * (w > 1)} here, batches of {batch}: predicted {predicted * 1e3:,.1f} "
                    f"ms, measured {measured * 1e3:,.1f} ms, error {predicted / measured - 1:+.0%}"
                    for w, batch, predicted, measured in checks
                ]
                notes.append(
                    f"{kernel}: a shard of {SHARD_SIZES[kernel]} computes {costs.shard * 1e3:,.2f} ms and sends back "
                    f"{costs.gradient_bytes / 1e3:,.0f} kB"
                )
    call, task, take = (1e3 * seconds for seconds in overhead)
    notes.append(
        f"{name}: {call:.1f} ms a step, {task:.2f} ms a task and {take:.2f} ms a gradient, whatever is computed"
    )
    return Report(
        title=f"Predicted speed-up over one core, {latency * 1e3:g} ms and {gbit:g} Gbit/s to the coordinator",
        header=("kernel", "batch", *(f"{w:,}" for w in WORKERS)),
        rows=rows,
        results={"latency_ms": latency * 1e3, "gbit": gbit, "backend": name, "workers": WORKERS, **results},
        notes=notes,
    )


def _speedups(costs: Costs, shard_size: int, place: Place) -> dict[int, list[float]]:
    """Over one core without a cluster, for each batch size and number of workers."""
    found = {}
    for batch_size in BATCH_SIZES:
        shards = math.ceil(batch_size / shard_size)
        alone = costs.optimizer + shards * (costs.add + costs.shard)
        found[batch_size] = [alone / predict(costs, w, shards, place) for w in WORKERS]
    return found


def _overhead(engine: Cluster, data: Dataset, rounds: int) -> tuple[float, float, float]:
    """Of a call, of a task in it and of a gradient from it: from steps that compute nothing."""
    rows, seconds = [], []
    for workers, pieces in ((2, 4), (8, 8), (2, 32)):
        engine.n_workers = workers
        engine._discard()
        coordinator = Coordinator(NoOp(), Adam(), engine=engine, batch_size=2 * 16 * pieces, shard_size=16)
        rows.append((1, workers, pieces))
        seconds.append(steps(coordinator, data, 10 * rounds)[0])
    engine.n_workers = 2
    engine._discard()
    call, task, take = np.maximum(0.0, np.linalg.solve(rows, seconds)).tolist()
    return call, task, take


def _costs(kernel: str, data: Dataset, overhead: tuple[float, float, float]) -> Costs:
    model, shard_size = lenet5(kernel=kernel), SHARD_SIZES[kernel]
    with Coordinator(Timed(model), Adam(), engine="serial", batch_size=shard_size, shard_size=shard_size) as alone:
        shard = steps(alone, data, 2 if kernel == "naive" else 50)[1]
    a, b = (np.zeros(model.layout.size, np.float32) for _ in range(2))
    adam = Adam()
    state = adam.init(a)
    seconds = alternate({"add": lambda: np.add(a, b, a), "adam": lambda: adam.update(a, b, state)}, 30)
    return Costs(shard, seconds["add"], seconds["adam"], *overhead, a.nbytes)


def _check(engine: Cluster, kernel: str, data: Dataset, costs: Costs) -> list[tuple[int, int, float, float]]:
    """Workers, batch size, predicted and measured seconds, without a network."""
    found = []
    cores = usable_cores()
    alone, together = one_worker(kernel, data).seconds, copies(kernel, cores)
    batch_size = 64 if kernel == "naive" else 8192
    for workers in (1, 2):
        engine.resize(workers)
        coordinator = Coordinator(
            lenet5(kernel=kernel), Adam(), engine=engine, batch_size=batch_size, shard_size=SHARD_SIZES[kernel]
        )
        measured = steps(coordinator, data, 3 if kernel == "naive" else 5)[0]
        shards = math.ceil(batch_size / SHARD_SIZES[kernel])
        place = Place(cores=cores, slowdown=together / alone if workers == cores else 1.0)
        found.append((workers, batch_size, predict(costs, workers, shards, place), measured))
    return found
