"""Models of the tests, in a module of their own so that workers can import them without the tests."""

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import Layout, Metrics
from parallel_lenet.engines.serial import blas

Array = NDArray[Any]


class ModelError(Exception):
    """An error of the user's own."""


class OneWayError(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


class UnpicklableError(Exception):
    """Can't be pickled."""

    def __init__(self) -> None:
        super().__init__("it holds a generator")
        self.generator = (i for i in range(3))


# What an input (action, value) makes `Scripted` do.
NOTHING, SLEEP, RAISE, EXIT, HOLD, WRITE_PARAMETERS, WRITE_INPUTS, UNPICKLABLE, ONE_WAY, INTERRUPT = range(10)
SEGFAULT, SLEEP_NATIVE, DIE_AT_FIRST, LEAVE = range(10, 14)


@dataclass(frozen=True)
class Scripted:
    """A model that does what its inputs say. Its gradient depends on every bit of parameters, inputs and targets."""

    size: int = 50
    dtype: str = "float32"
    folder: str = ""
    """Where ``HOLD`` leaves a file that says who holds, and ``DIE_AT_FIRST`` counts."""

    @property
    def layout(self) -> Layout:
        return Layout.of({"weight": (self.size,)})

    def initial_parameters(self, rng: np.random.Generator) -> Array:
        return rng.standard_normal(self.size).astype(self.dtype)

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        for action, value in inputs[:, :2]:
            self._act(int(action), float(value), parameters, inputs)
        factor = np.tanh(inputs.sum(axis=1) + targets).sum()
        if gradient is not None:
            gradient[:] = np.sin(parameters * parameters.dtype.type(factor))
        return Metrics(float(factor) + float(parameters.sum()), int((targets > 0).sum()), len(inputs))

    def _act(self, action: int, value: float, parameters: Array, inputs: Array) -> None:
        if action == SLEEP:
            time.sleep(value / 1000)
        elif action == RAISE:
            raise ModelError(f"value {value:g}")
        elif action == EXIT:
            os._exit(int(value))
        elif action == HOLD:
            Path(self.folder, f"{os.getpid()}.holds").touch()
            time.sleep(value)
        elif action == WRITE_PARAMETERS:
            parameters[0] = 0
        elif action == WRITE_INPUTS:
            inputs[:] = 0
        elif action == UNPICKLABLE:
            raise UnpicklableError
        elif action == ONE_WAY:
            raise OneWayError("one", "two")
        elif action == INTERRUPT:
            signal.raise_signal(signal.SIGINT)
        elif action == SEGFAULT:
            ctypes.string_at(0)
        elif action == SLEEP_NATIVE:  # As long native code does that never lets go of the interpreter's lock.
            Path(self.folder, f"{os.getpid()}.holds").touch()
            ctypes.PyDLL(None).sleep(int(value))
        elif action == DIE_AT_FIRST:
            die_at_first(self.folder, int(value))
        elif action == LEAVE:
            raise SystemExit(int(value))

    def predict(self, parameters: Array, inputs: Array) -> Array:
        return np.zeros(len(inputs), np.int64)


def die_at_first(folder: str, times: int) -> None:
    """End this process, unless this number of processes have ended here before."""
    deaths = len(list(Path(folder).glob("*.died")))
    if deaths < times:
        Path(folder, f"{os.getpid()}.died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Once(Scripted):
    """Kills its process, or sleeps, the first time it comes to the sample with this value."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        for action, value in inputs[:, :2]:
            if action == HOLD:
                try:
                    Path(self.folder, "done").touch(exist_ok=False)
                except FileExistsError:
                    continue
                if value < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(float(value))
        quiet = np.where(inputs[:, :1] == HOLD, NOTHING, inputs)
        return super().loss_and_gradient(parameters, quiet.astype(np.float32), targets, gradient)


class Recorded(Scripted):
    """Leaves the number of its process, and takes its time."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        Path(self.folder, str(os.getpid())).touch()
        time.sleep(0.15)
        return super().loss_and_gradient(parameters, inputs, targets, gradient)


class Threads(Scripted):
    """Its loss is the number of BLAS threads."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        return Metrics(max((library["num_threads"] for library in blas().info()), default=1), 0, 1)


@dataclass(frozen=True)
class DiesUnpickling(Scripted):
    """The first ``deaths`` workers that get it die of it."""

    deaths: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _born, (self.size, self.dtype, self.folder, self.deaths)


def _born(size: int, dtype: str, folder: str, deaths: int) -> DiesUnpickling:
    die_at_first(folder, deaths)
    return DiesUnpickling(size, dtype, folder, deaths)


class FailsToUnpickle(Scripted):
    """An exception that can be pickled, but not unpickled in a worker."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise ModelError("it can't be made here")


class Softmax:
    """Softmax regression on images, as a user would write it. It returns NumPy's numbers, as users do."""

    layout = Layout.of({"weight": (10, 784), "bias": (10,)})

    def initial_parameters(self, rng: np.random.Generator) -> Array:
        return np.zeros(self.layout.size, np.float32)

    def _scores(self, parameters: Array, inputs: Array) -> tuple[Array, Array]:
        x = inputs.reshape(len(inputs), -1) / np.float32(255)
        views = self.layout.views(parameters)
        return x, x @ views["weight"].T + views["bias"]

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        x, scores = self._scores(parameters, inputs)
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        each = np.arange(len(x))
        loss = -np.log(p[each, targets]).sum()
        correct = (scores.argmax(axis=1) == targets).sum()
        if gradient is not None:
            p[each, targets] -= 1
            views = self.layout.views(gradient)
            views["weight"][:] = p.T @ x
            views["bias"][:] = p.sum(axis=0)
        return Metrics(loss, correct, len(x))

    def predict(self, parameters: Array, inputs: Array) -> Array:
        return self._scores(parameters, inputs)[1].argmax(axis=1)


class ByImage(Softmax):
    """Computes image by image and adds along the tree, so its leaf is one image."""

    leaf = 1
    preferred_shard_size = 8

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        sums: list[tuple[Metrics, Array]] = []
        for i in range(len(inputs)):
            own = np.empty_like(parameters)
            m = super().loss_and_gradient(parameters, inputs[i : i + 1], targets[i : i + 1], own)
            sums.append((Metrics(float(m.loss_sum), int(m.correct), m.count), own))
        while len(sums) > 1:
            pairs = [sums[i : i + 2] for i in range(0, len(sums), 2)]
            sums = [(p[0][0] + p[1][0], p[0][1] + p[1][1]) if len(p) == 2 else p[0] for p in pairs]
        if gradient is not None:
            gradient[:] = sums[0][1]
        return sums[0][0]


@dataclass(frozen=True)
class Returning(Softmax):
    """Returns what it is told to."""

    returned: Any = None

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        if gradient is not None:
            gradient[:] = 0
        return self.returned


@dataclass(frozen=True)
class Forgetful(Softmax):
    """Writes no gradient."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        return super().loss_and_gradient(parameters, inputs, targets, None)


class Raveled:
    """Adds its inputs up as they lie in memory."""

    layout = Layout.of({"weight": (1,)})

    def initial_parameters(self, rng: np.random.Generator) -> Array:
        return np.zeros(1, np.float32)

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        if gradient is not None:
            gradient[0] = np.add.reduce(inputs.ravel(order="K")) / np.float32(7)
        return Metrics(0.0, 0, len(inputs))

    def predict(self, parameters: Array, inputs: Array) -> Array:
        return inputs


class Counting(Softmax):
    """Its loss is ``scale`` times the mean input, plus how often this object has been called, if it counts that."""

    layout = Layout.of({"weight": (4,)})
    scale = 1.0

    def __init__(self, counts: bool = False) -> None:
        self.counts = counts
        self.calls = 0

    def initial_parameters(self, rng: np.random.Generator) -> Array:
        return np.zeros(4, np.float32)

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        self.calls += 1
        value = self.scale * float(inputs.sum()) / inputs[0].size + self.counts * self.calls * len(inputs)
        if gradient is not None:
            gradient[:] = value
        return Metrics(value, 0, len(inputs))
