"""``benchmark.py large``: ten million parameters of a network of the user's own, in plain NumPy, and their memory.

Per step and image it computes as much as 25 LeNet-5s, and moves 160 times as many numbers: gradients to add, an
optimizer's state to update, parameters to hand out.
"""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import PARTS, Report, counts, parts, reports, sixty_thousand
from parallel_lenet import Adam, Coordinator, Dataset, Layout, Metrics
from parallel_lenet.cores import usable_cores

Array = NDArray[Any]

BATCH_SIZE = 256
STEPS = 12


class Perceptron:
    """Dense layers with ReLU between them, and cross-entropy: four members, none of this package's layers."""

    def __init__(self, *sizes: int) -> None:
        self.layers = len(sizes) - 1
        shapes: dict[str, tuple[int, ...]] = {}
        for n, (before, after) in enumerate(itertools.pairwise(sizes)):
            shapes[f"weight{n}"] = (before, after)
            shapes[f"bias{n}"] = (after,)
        self.layout = Layout.of(shapes)

    def initial_parameters(self, rng: np.random.Generator) -> Array:
        """Weights by He's rule, biases of 0."""
        vector = np.zeros(self.layout.size, np.float32)
        for name, array in self.layout.views(vector).items():
            if name.startswith("weight"):
                array[:] = rng.standard_normal(array.shape, np.float32) * np.float32((2 / len(array)) ** 0.5)
        return vector

    def _forward(self, parameters: Array, inputs: Array) -> list[Array]:
        p = self.layout.views(parameters)
        values = [inputs.reshape(len(inputs), -1) / np.float32(255)]
        for n in range(self.layers):
            z = values[-1] @ p[f"weight{n}"] + p[f"bias{n}"]
            values.append(np.maximum(z, 0, out=z) if n + 1 < self.layers else z)
        return values

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        """Forward, and layer by layer back."""
        values = self._forward(parameters, inputs)
        rows = np.arange(len(inputs))
        q = np.exp(values[-1] - values[-1].max(axis=1, keepdims=True))
        q /= q.sum(axis=1, keepdims=True)
        correct = int(np.count_nonzero(q.argmax(axis=1) == targets))
        metrics = Metrics(-np.log(np.maximum(q[rows, targets], 1e-30)).sum(), correct, len(inputs))
        if gradient is not None:
            p = self.layout.views(parameters)
            g = self.layout.views(gradient)
            q[rows, targets] -= 1
            for n in reversed(range(self.layers)):
                g[f"weight{n}"][:] = values[n].T @ q
                g[f"bias{n}"][:] = q.sum(axis=0)
                if n:
                    q = q @ p[f"weight{n}"].T
                    q *= values[n] > 0
        return metrics

    def predict(self, parameters: Array, inputs: Array) -> Array:
        """The class with the largest score."""
        labels: Array = self._forward(parameters, inputs)[-1].argmax(axis=1)
        return labels


def shared_bytes() -> int:
    """Bytes that this process shares with its workers, all of them reserved, or 0 if the system does not tell."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    ranges = [line.split()[0].split("-") for line in lines if "memfd:parallel-lenet" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


def with_workers(data: Dataset, workers: int) -> tuple[dict[str, float], int, str]:
    """The parts of a step, the bytes of shared memory, and the parameters' hash."""
    with Coordinator(
        Perceptron(784, 2048, 4096, 10), Adam(1e-4), n_workers=workers, batch_size=BATCH_SIZE
    ) as coordinator:
        found = parts(reports(coordinator, data, STEPS), coordinator.n_workers)
        return found, shared_bytes(), coordinator.parameters_sha256()


def measure(arguments: argparse.Namespace) -> Report:
    """Medians of the rounds. Ratios are taken within a round."""
    data = sixty_thousand()
    workers = counts(usable_cores())
    found: dict[int, list[dict[str, float]]] = {w: [] for w in workers}
    memory = dict[int, int]()
    hashes = set[str]()
    for _ in range(arguments.rounds):
        for w, series in found.items():
            each, memory[w], digest = with_workers(data, w)
            series.append(each)
            hashes.add(digest)
    rows: list[dict[str, Any]] = []
    for w, series in found.items():
        speedup = statistics.median(sum(a.values()) / sum(b.values()) for a, b in zip(found[1], series, strict=True))
        rows.append(
            {
                "workers": w,
                "step_ms": statistics.median(sum(each.values()) for each in series) * 1e3,
                "speedup": speedup,
                "parts_ms": {name: statistics.median(each[name] for each in series) * 1e3 for name in PARTS},
                "shared_mb": memory[w] / 1e6,
            }
        )
    size = Perceptron(784, 2048, 4096, 10).layout.size
    return Report(
        title=f"A step of {size:,} parameters, {BATCH_SIZE} images, plain NumPy: milliseconds, and where they go",
        header=("workers", "ms", "speed-up", *PARTS, "shared MB"),
        rows=[
            (
                str(row["workers"]),
                f"{row['step_ms']:.1f}",
                f"{row['speedup']:.2f}",
                *(f"{ms:.1f}" for ms in row["parts_ms"].values()),
                f"{row['shared_mb']:.0f}",
            )
            for row in rows
        ],
        results={"parameters": size, "batch_size": BATCH_SIZE, "rows": rows, "same_bits": len(hashes) == 1},
        notes=[f"the parameters after {STEPS + 2} steps: {len(hashes)} hash{'es' * (len(hashes) > 1)}"],
    )
