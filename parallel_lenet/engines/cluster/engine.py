"""Workers on any cluster that joblib can use: Dask, Ray, or loky's processes and threads on this machine.

The blocks of a step are sent in groups. Each group is a task. It returns the gradient of each block, not their sum, and
the coordinator adds them in order. So the result has the same bits as on one machine.

Each task carries the parameters, and returns at least one gradient of the same size. So the parameters are never the
larger part. To store them in the cluster first would take as long as to send them twice.

The file has more than 300 lines, because one class handles all failures of a call of joblib:

- *joblib may wait forever* for a task of the Dask backend that has failed. Calls to other processes have a time limit.
- *A `Parallel` may return results of an earlier call that failed.* After any exception a new one is made. Each result
  has its step's version and its block, and only results that are missing are used.
- *Arrays changed in place may be outdated* in a worker. A step sends a copy, and joblib maps no arrays into files.
- *A lost worker ends the call.* The results so far are kept, and the other blocks are computed again.
"""

import copy
import hashlib
import heapq
import secrets
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar

from parallel_lenet.batching import Block
from parallel_lenet.checks import ABOVE_ZERO, LEAST, optional_number, quoted, whole_number
from parallel_lenet.cores import usable_cores
from parallel_lenet.datasets import Dataset
from parallel_lenet.display import Displayed, Summary, Table, count
from parallel_lenet.engines import BlockGradient, Context, Engine, WorkerError, WorkerWarning
from parallel_lenet.engines.cluster.answers import check
from parallel_lenet.engines.cluster.backends import Backend, Loky, Threading
from parallel_lenet.engines.cluster.dask import Dask
from parallel_lenet.engines.cluster.limits import (
    START_LIMIT,
    UnansweredError,
    call_to_leave,
    call_within,
    results_within,
)
from parallel_lenet.engines.cluster.ray import Ray
from parallel_lenet.engines.cluster.task import (
    Blob,
    GroupAnswer,
    GroupTask,
    ModelAndData,
    Result,
    compute,
    dumps,
    forget,
    keep_locally,
    pack,
)
from parallel_lenet.engines.copying import copy_model
from parallel_lenet.engines.memory import read_only
from parallel_lenet.engines.remote_exceptions import raise_pickled
from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.engines.snapshots import PrivateMemory, Snapshots
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector

BACKENDS: dict[str, type[Backend]] = {kind.name: kind for kind in (Dask, Ray, Loky, Threading)}
STEP_TIMEOUT = 300.0  # Seconds.
TASK_SECONDS = 0.1  # The least computation of a task, if a step is long enough: ten times the overhead of a task.
TASKS_PER_WORKER = 4  # At most. A slow worker then delays the others by a quarter of its share.
CALL_BYTES = 256 * 2**20  # Of gradients. A step with more takes several calls, each with work for all workers.
COUNT_INTERVAL = 2.0  # Seconds between two counts of the workers.
MEASURED_STEPS = 5  # Before a warning that the cluster is slow.

Work = TypeVar("Work")
NumberedBlocks: TypeAlias = Sequence[tuple[int, Block]]


class ClusterWarning(UserWarning):
    """Sending the data of a step takes longer than computing it."""


class Traffic(NamedTuple):
    """Bytes of arrays."""

    sent: int
    """Parameters, positions of samples, and datasets."""
    received: int
    """Gradients."""


class Cluster(Displayed, Engine):
    """An engine over one of joblib's backends: "dask", "ray", "loky" or "threading".

    - ``address``: that of a running Dask scheduler ("tcp://host:8786") or Ray cluster ("host:6379"), which continues
      after the engine. By default a cluster on this machine starts and ends with the engine.
    - ``n_workers``: by default all workers of the cluster, or all usable cores of this machine. With one worker of any
      backend but Dask, joblib computes in this process.
    - ``step_timeout``: seconds without any result after which a call counts as lost and is tried again (default: 300).
      It must be longer than a worker takes for its part of a step.
    - ``max_tries``: how many calls may be lost over one step before WorkerError is raised.

    Close it, or use it in a ``with`` block. A new cluster that was not closed runs until the program ends. Then a guard
    process kills it, removes its folder and says so on standard error.

    Raises ValueError if a value is out of its range, and WorkerError if there is no cluster at the address. Raises
    ExtraError if the cluster's library is missing or does not work.

    >>> from parallel_lenet import Coordinator, SGD, lenet5
    >>> with Cluster("threading", n_workers=2) as cluster:
    ...     coordinator = Coordinator(lenet5(kernel="im2col"), SGD(0.1), engine=cluster)
    ...     coordinator.n_workers
    2
    """

    def __init__(
        self,
        backend: str,
        *,
        address: str | None = None,
        n_workers: int | None = None,
        step_timeout: float | None = None,
        max_tries: int = 3,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"unknown cluster backend {backend!r}: choose {', '.join(BACKENDS)}")
        self.step_timeout = optional_number("step_timeout", step_timeout, ABOVE_ZERO) or STEP_TIMEOUT
        """Never None: a call to Dask may wait forever."""
        self.max_tries = whole_number("max_tries", max_tries, LEAST["max_tries"])
        self.bytes_per_step = Traffic(0, 0)
        """The traffic of the last step. The first one also sends the datasets."""
        self._backend = BACKENDS[backend](address)
        self._backend.require_library()
        self._parallel: Any = None
        self._has_abandoned_tasks = False  # Tasks in threads of this process may still read closed data.
        self._snapshots: Snapshots[None] = Snapshots(PrivateMemory, may_overwrite=lambda: not self._has_abandoned_tasks)
        self._setups: dict[int, tuple[str, ModelAndData]] = {}
        """The keys and setups of the open contexts, by number."""
        self._name = secrets.token_hex(8)
        self._version = 0
        self._sample_seconds = 0.0
        self._step_times: list[tuple[float, float]] = []
        """Per step: the seconds in all, and those of the busiest worker."""
        self._follows = False  # Whether the engine uses all workers of the cluster, with those that come later.
        self._count_time = 0.0  # When they were last counted.
        if n_workers is None:
            n_workers = usable_cores() if address is None else self._backend.start(None)
            self._follows = address is not None
        self.n_workers = whole_number("n_workers", n_workers, 1)

    def _summary(self) -> Summary:
        settings = {
            "address": quoted(self._backend.address),
            "n_workers": str(self.n_workers),
            "step_timeout": f"{self.step_timeout:g}",
            "max_tries": str(self.max_tries),
        }
        line = ", ".join([repr(self._backend.name), *(f"{name}={value}" for name, value in settings.items())])
        rows = [("backend", self._backend.name), *settings.items()]
        return Summary(f"Cluster({line})", [Table((), rows, texts=2)])

    __str__ = Displayed.__repr__

    def open(
        self, model: Model, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """Copy the model and the datasets. Workers get them with their first task, unless they have them."""
        model_bytes = copy_model(model, dumps)
        local: Model | None
        try:
            local = copy_model(model, copy.deepcopy)  # For threads.
        except Exception:  # Tasks in this process raise it, if there are any.
            local = None
        context = self._snapshots.open(None, datasets, parameters)
        open_numbers = {open_context.number for open_context in self._snapshots.open_contexts()}
        for number in self._setups.keys() - open_numbers:
            forget(self._setups.pop(number)[0])
        # An array with the same number is the same array: no need to hash the data.
        numbers = [array.number for array in self._snapshots.get(context).arrays]
        key = f"{self._name}-{hashlib.sha256(f'{numbers} '.encode() + model_bytes).hexdigest()}"
        self._setups[context.number] = key, ModelAndData(model_bytes, context.datasets)
        keep_locally(*self._setups[context.number], local)
        return context

    def start(self, context: Context) -> None:
        """Start or join the cluster."""
        self._snapshots.get(context)
        try:
            self._backend.start(self.n_workers)
        except BaseException:
            self.close()
            raise

    def resize(self, n_workers: int) -> None:
        """Use this number of workers from the next step on. A cluster of its own is started again."""
        self.n_workers = whole_number("n_workers", n_workers, 1)
        self._follows = False
        self._discard_parallel()
        if self._backend.address is None:
            self._backend.stop()
            if self._setups:
                self._backend.start(n_workers)

    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """One call of joblib computes a few hundred megabytes of gradients."""
        for result in self._results(context, parameters, blocks, True):
            if result.gradient is not None:  # Always true: `check` refuses other results.
                gradient = read_only(result.gradient)
                worker = f"worker {result.worker}"
                yield BlockGradient(result.metrics, gradient, worker, result.seconds, result.finite)

    def metrics(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[Metrics]:
        for result in self._results(context, parameters, blocks, False):
            yield result.metrics

    def _results(
        self, context: Context, parameters: Vector, blocks: Sequence[Block], gradients: bool
    ) -> Iterator[Result]:
        """Make call after call, and yield the results of each in block order."""
        self.start(context)
        self._version += 1
        version = self._version
        key, setup = self._setups[context.number]
        parameters = parameters.copy()
        self._update_n_workers()
        at_once = max(self.n_workers * TASKS_PER_WORKER, CALL_BYTES // max(1, parameters.nbytes))
        sent = 0
        received = 0
        for start in range(0, len(blocks), at_once):
            numbered_blocks = list(enumerate(blocks))[start : start + at_once]
            task = GroupTask(version, key, f"{self._name}-{context.number}", parameters, numbered_blocks, gradients)
            done, traffic = self._complete(task, setup)
            sent += traffic.sent
            received += traffic.received
            self.bytes_per_step = Traffic(sent, received)
            for index, _ in numbered_blocks:
                if done[index].failure:
                    raise_pickled(done[index].failure, "a worker of the cluster")
                yield done.pop(index)
                self._snapshots.get(context)

    def _update_n_workers(self) -> None:
        """Count the workers every few seconds, if the engine uses all of them."""
        if self._follows and time.monotonic() > self._count_time + COUNT_INTERVAL and self._backend.is_running():
            self._count_time = time.monotonic()
            count = self._backend.count()
            if count != self.n_workers:
                self.n_workers = count
                self._discard_parallel()

    def _complete(self, task: GroupTask, setup: ModelAndData) -> tuple[dict[int, Result], Traffic]:
        """The results of all blocks of the task, or of all up to the first one that the model fails on."""
        start = time.perf_counter()
        collection = _Collection(task)
        blob: Blob | None = None
        while missing_blocks := collection.missing_blocks():
            if self._backend.is_gone():
                self._raise_lost(missing_blocks)
            groups = self._groups(task, missing_blocks)
            collection.count_groups(groups, blob)
            self._run_groups(groups, blob, collection)
            if collection.lacks_setup:
                blob = pack(setup)
        self._warn_of_lost_workers()
        if collection.is_usual and task.gradients:
            self._warn_if_slow(time.perf_counter() - start, max(collection.seconds.values()))
        return collection.results, Traffic(collection.sent, collection.received)

    def _groups(self, task: GroupTask, missing_blocks: NumberedBlocks) -> list[GroupTask]:
        """The missing blocks of a task, in groups for the workers."""
        sizes = [len(block.rows) for _, block in missing_blocks]
        return [
            GroupTask(task.version, task.key, task.context, task.parameters, group, task.gradients)
            for group in groups_of_work(missing_blocks, sizes, self._sample_seconds, self.n_workers)
        ]

    def _run_groups(self, groups: Sequence[GroupTask], blob: Blob | None, collection: "_Collection") -> None:
        """Compute the groups in one call, and collect the results up to its end or its failure.

        Raises WorkerError if the answers are wrong, or if too many calls have failed.
        """
        collection.lacks_setup = False
        before = len(collection.missing_blocks())
        try:
            with one_blas_thread():  # For tasks in this process. Worker processes have one thread anyway.
                for value in self._call(groups, blob):
                    answer = check(value, groups, had_setup=blob is not None, cluster=self._backend.name)
                    collection.add(answer)
                    if answer.results:
                        self._sample_seconds = _sample_seconds(answer)
            if not collection.lacks_setup and len(collection.missing_blocks()) == before:
                raise RuntimeError("no results")
        except WorkerError:
            self.close()
            raise
        except Exception as error:
            self._has_abandoned_tasks = True
            self._discard_parallel()
            collection.failures += 1
            self._retry(error, collection.failures, collection.missing_blocks())
        except BaseException:  # An interrupt.
            self._has_abandoned_tasks = True
            self._discard_parallel()
            raise

    def _call(self, tasks: Sequence[GroupTask], blob: Blob | None) -> Iterable[object]:
        """One call of joblib, with the same `Parallel` as before unless a call has failed."""
        from joblib import delayed  # Imported lazily: it takes 0.1 s.

        backend = self._backend

        def start() -> Any:
            return backend.parallel(self.n_workers, self.step_timeout).__enter__()

        def call() -> Iterable[object]:
            results: Iterable[object] = parallel(delayed(compute)(task, blob) for task in tasks)
            return results

        if self._parallel is None:
            self._parallel = call_within(START_LIMIT, "starting its workers", start) if backend.remote else start()
        parallel = self._parallel
        return results_within(call, self._check_cluster, self.step_timeout) if backend.remote else call()

    def _check_cluster(self) -> None:
        """Raises ConnectionError or UnansweredError if the present call cannot return any more."""
        self._warn_of_lost_workers()
        if self._backend.is_gone():
            raise ConnectionError("no response")
        if stuck := self._backend.stuck_reason():
            raise UnansweredError(stuck)

    def _warn_of_lost_workers(self) -> None:
        while self._backend.lost_workers:
            warnings.warn(
                f"{self._backend.lost_workers.pop()}: others compute its blocks, and the result is not affected",
                WorkerWarning,
                stacklevel=2,
            )

    def _retry(self, error: Exception, failures: int, missing_blocks: NumberedBlocks) -> None:
        """Warn that the blocks will be computed again, or raise WorkerError."""
        is_timeout = type(error).__name__ == "TimeoutError"  # joblib has raised Python's and multiprocessing's.
        reason = f"no result within {self.step_timeout:g} s" if is_timeout else _first_line(error)
        missing_count = len(missing_blocks)
        if not self._backend.is_running():
            self._raise_lost(missing_blocks, None if is_timeout or isinstance(error, ConnectionError) else error)
        if failures >= self.max_tries:
            self.close()
            tries = "1 try" if self.max_tries == 1 else f"{self.max_tries} tries"
            raise WorkerError(f"{count(missing_count, 'block')} could not be computed in {tries}: {reason}") from error
        if isinstance(error, TimeoutError) and self._backend.remote and self._backend.address is None:
            self._backend.stop()  # A stopped process would delay the next try too.
            self._backend.start(self.n_workers)
        again = f"{count(missing_count, 'block')} {'is' if missing_count == 1 else 'are'} computed again"
        warnings.warn(
            f"a worker of the {self._backend.name} cluster was lost ({reason}): {again}, and the result is not "
            "affected",
            WorkerWarning,
            stacklevel=2,
        )

    def _raise_lost(self, missing_blocks: NumberedBlocks, error: Exception | None = None) -> NoReturn:
        """Raises WorkerError: the cluster does not respond any more."""
        reason = "no response" if error is None else _first_line(error)
        self.close()
        blocks = count(len(missing_blocks), "block")
        raise WorkerError(f"lost the {self._backend.name} cluster with {blocks} left to compute: {reason}") from error

    def _warn_if_slow(self, seconds: float, computing: float) -> None:
        """Warn once if steps take twice as long as their busiest worker computes."""
        if len(self._step_times) > MEASURED_STEPS:
            return
        self._step_times.append((seconds, computing))
        if len(self._step_times) <= MEASURED_STEPS:
            return
        seconds, computing = (sorted(times)[MEASURED_STEPS // 2] * 1e3 for times in zip(*self._step_times, strict=True))
        if seconds > 2 * computing:
            warnings.warn(
                f"a step takes {seconds:.1f} ms, of which its busiest worker computes {computing:.1f} ms. The "
                f"{self._backend.name} cluster costs more than it computes: use a larger batch_size, or the engine "
                "processes on this machine",
                ClusterWarning,
                stacklevel=2,
            )

    def _discard_parallel(self) -> None:
        """End the `Parallel` and its pool. The next call makes another one."""
        parallel = self._parallel
        self._parallel = None
        if parallel is not None:
            if self._backend.remote:
                call_to_leave(lambda: parallel.__exit__(None, None, None))
            else:
                with suppress(Exception):
                    parallel.__exit__(None, None, None)

    def close(self) -> None:
        """End the cluster if the engine started it, or leave it."""
        self._discard_parallel()
        for key, _ in self._setups.values():
            forget(key)
        self._setups.clear()
        self._backend.forget(self._name)
        self._snapshots.clear()
        self._backend.stop()


def groups_of_work(work: Sequence[Work], sizes: Sequence[int], seconds: float, n_workers: int) -> list[Sequence[Work]]:
    """The pieces of work in groups of about equal size, each in the order of the work.

    A piece of size 1 takes ``seconds``. The number of groups follows from `TASK_SECONDS` and `TASKS_PER_WORKER`.
    """
    number = n_workers * min(TASKS_PER_WORKER, max(1, int(sum(sizes) * seconds / n_workers / TASK_SECONDS)))
    groups: list[list[Work]] = [[] for _ in range(min(number, len(work)))]
    loads = [(0, group) for group in range(len(groups))]
    for piece, size in zip(work, sizes, strict=True):
        load, group = loads[0]
        groups[group].append(piece)
        heapq.heapreplace(loads, (load + size, group))
    return list(groups)


class _Collection:
    """The results of a task so far, and what they cost."""

    def __init__(self, task: GroupTask) -> None:
        self._task = task
        self.results: dict[int, Result] = {}
        """The results by block."""
        self.failures = 0
        """Calls that failed."""
        self.sent = 0
        """Bytes of arrays that were sent."""
        self.received = 0
        """Bytes of arrays that were received."""
        self.seconds: dict[str, float] = {}
        """The seconds of computation by worker."""
        self.lacks_setup = False
        """Whether a worker did not have the model and the data in the last call."""
        self._has_sent_setup = False

    @property
    def is_usual(self) -> bool:
        """Whether no call failed and no setup was sent, so that the time is that of a usual step."""
        return not self.failures and not self._has_sent_setup

    def missing_blocks(self) -> NumberedBlocks:
        """The blocks without a result, up to the first one that has failed: its exception ends the step."""
        missing_blocks = []
        for number, block in self._task.blocks:
            if number not in self.results:
                missing_blocks.append((number, block))
            elif self.results[number].failure:
                break
        return missing_blocks

    def count_groups(self, groups: Sequence[GroupTask], blob: Blob | None) -> None:
        """Count the bytes of the groups, and of the setup that goes with each."""
        self.sent += sum(group.nbytes for group in groups)
        if blob is not None:
            self.sent += blob.nbytes * len(groups)

    def add(self, answer: GroupAnswer) -> None:
        """Add the results of this step in an answer. The first result of a block counts."""
        self.received += answer.nbytes
        if not answer.results:
            self.lacks_setup = True
            self._has_sent_setup = True
            return
        self.seconds[answer.worker] = self.seconds.get(answer.worker, 0.0) + answer.seconds
        sample_seconds = _sample_seconds(answer)
        for result in answer.results:
            if result.version == self._task.version:
                seconds = sample_seconds * result.metrics.count
                self.results.setdefault(result.block, result._replace(worker=answer.worker, seconds=seconds))


def _sample_seconds(answer: GroupAnswer) -> float:
    """The seconds that an answer took per sample."""
    return answer.seconds / max(1, sum(result.metrics.count for result in answer.results))


def _first_line(error: Exception) -> str:
    """The type of the error, and the first line of its text, which can be long."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
