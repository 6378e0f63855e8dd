"""Workers on any cluster that joblib can use: Dask, Ray, or loky's processes and threads on this machine.

The blocks of a step are dealt out in groups; a group is a task, and takes the parameters along. Back come the gradients
of its blocks one by one, not their sum: the coordinator adds them in order, so that the result has the same bits as on
one machine. (Parameters could travel once a worker instead; but at least one gradient, of the same size, comes back
for every task, so they are never the larger part, and putting them into a cluster first takes as long as sending them
twice.)

What joblib does when something goes wrong, and what we do about it:

- *It may wait for ever* for a task of the Dask backend that has failed. Calls to other processes have a time limit.
- *A `Parallel` may return results of an earlier call that failed.* After any exception it is thrown away; and every
  result is stamped with its step's version and its block, and only those that are wanted are taken.
- *Arrays changed in place may go stale* in a worker. A step sends a copy, and joblib maps nothing into files.
- *A lost worker costs the call.* What was stamped before is kept, the rest is asked for again.
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
from parallel_lenet.checks import ABOVE_ZERO, optional_number, quoted, whole_number
from parallel_lenet.cores import usable_cores
from parallel_lenet.datasets import Dataset
from parallel_lenet.display import Displayed, Summary, Table
from parallel_lenet.engines import BlockGradient, Context, Engine, WorkerError, WorkerWarning
from parallel_lenet.engines.cluster.answers import check
from parallel_lenet.engines.cluster.backends import Backend, Loky, Threads
from parallel_lenet.engines.cluster.dask import Dask
from parallel_lenet.engines.cluster.limits import START, UnansweredError, answers, left, limited
from parallel_lenet.engines.cluster.ray import Ray
from parallel_lenet.engines.cluster.task import (
    Blob,
    GroupTask,
    ModelAndData,
    Result,
    compute,
    dumps,
    forget,
    hold,
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

BACKENDS: dict[str, type[Backend]] = {kind.name: kind for kind in (Dask, Ray, Loky, Threads)}
STEP_TIMEOUT = 300.0  # Seconds.
TASK_SECONDS = 0.1  # A task computes at least so long, if the step does: ten times what a task costs.
TASKS_A_WORKER = 4  # And a worker gets at most so many: a slow one then holds up the others by a quarter of its share.
BYTES_HELD = 256 * 2**20  # Of gradients: a step with more is several calls, each with some work for all workers.
LOOK_EVERY = 2.0  # Seconds.
STEPS_MEASURED = 5  # Before we say that a cluster doesn't pay.

Work = TypeVar("Work")
Numbered: TypeAlias = Sequence[tuple[int, Block]]


class ClusterWarning(UserWarning):
    """A step takes longer to send around than to compute."""


class Traffic(NamedTuple):
    """Bytes of arrays: parameters, sample positions and datasets one way, gradients the other."""

    sent: int
    received: int


class Cluster(Displayed, Engine):
    """An engine over one of joblib's backends: "dask", "ray", "loky" or "threading".

    - ``address``: of a running Dask scheduler ("tcp://host:8786") or Ray cluster ("host:6379"), which is used and
      left as it was; by default a cluster on this machine starts and ends with the engine.
    - ``n_workers``: by default all the cluster has, or all usable cores of this machine. With one worker of any but
      Dask, joblib computes in this process.
    - ``step_timeout``: seconds without any result after which a call counts as lost and is tried again; by default 300.
      It must be longer than a worker's part of a step takes.
    - ``max_tries``: calls that may be lost over one step before WorkerError.

    Raises ValueError if a value is out of its range, ExtraError if the cluster's library is missing or does not work,
    and WorkerError if there is no cluster at the address.

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
        """Never None: Dask may keep a call waiting forever."""
        self.max_tries = whole_number("max_tries", max_tries, 1)
        self.bytes_a_step = Traffic(0, 0)
        """Of the last step; the first also sends the datasets."""
        self._backend = BACKENDS[backend](address)
        self._backend.require()
        self._parallel: Any = None
        self._abandoned = False  # Whether tasks in threads of this process may still read what was closed.
        self._snapshots: Snapshots[None] = Snapshots(PrivateMemory, may_overwrite=lambda: not self._abandoned)
        self._setups: dict[int, tuple[str, ModelAndData]] = {}
        """Of the contexts that are open, by number: their keys and contents."""
        self._name = secrets.token_hex(8)
        self._version = 0
        self._sample_seconds = 0.0
        self._measured: list[tuple[float, float]] = []  # Of each step: all of it, and what the busiest worker computed.
        self._follows, self._counted = False, 0.0
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
        """The workers get model and datasets with their first task, unless they have the same from an earlier call."""
        pickled = copy_model(model, dumps)
        try:
            own = copy_model(model, copy.deepcopy)  # For threads.
        except Exception:  # The tasks, if there are any in this process, raise it.
            own = None
        context = self._snapshots.open(None, datasets, parameters)
        for ended in self._setups.keys() - {opened.number for opened in self._snapshots.open_contexts()}:
            forget(self._setups.pop(ended)[0])
        # An array with the same number is the same array: no need to hash the data.
        numbers = [stored.number for stored in self._snapshots.get(context).arrays]
        key = f"{self._name}-{hashlib.sha256(f'{numbers} '.encode() + pickled).hexdigest()}"
        self._setups[context.number] = key, ModelAndData(pickled, context.datasets)
        hold(*self._setups[context.number], own)
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
        """Use so many workers from the next step on; a cluster of our own is started anew."""
        self.n_workers, self._follows = whole_number("n_workers", n_workers, 1), False
        self._discard()
        if self._backend.address is None:
            self._backend.stop()
            if self._setups:
                self._backend.start(n_workers)

    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """Computed a few hundred megabytes of gradients at a time."""
        for result in self._results(context, parameters, blocks, True):
            if result.gradient is not None:  # Always, but that is for us to know.
                gradient, worker = read_only(result.gradient), f"worker {result.worker}"
                yield BlockGradient(result.metrics, gradient, worker, result.seconds, result.finite)

    def metrics(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[Metrics]:
        """As ``gradients``."""
        for result in self._results(context, parameters, blocks, False):
            yield result.metrics

    def _results(
        self, context: Context, parameters: Vector, blocks: Sequence[Block], gradients: bool
    ) -> Iterator[Result]:
        """Call after call, each yielded in block order before the next is made."""
        self.start(context)
        self._version += 1
        version = self._version
        key, setup = self._setups[context.number]
        parameters = parameters.copy()
        self._follow()
        at_once = max(self.n_workers * TASKS_A_WORKER, BYTES_HELD // max(1, parameters.nbytes))
        sent = received = 0
        for start in range(0, len(blocks), at_once):
            numbered = list(enumerate(blocks))[start : start + at_once]
            task = GroupTask(version, key, f"{self._name}-{context.number}", parameters, numbered, gradients)
            done, traffic = self._complete(task, setup)
            sent, received = sent + traffic.sent, received + traffic.received
            self.bytes_a_step = Traffic(sent, received)
            for index, _ in numbered:
                if done[index].failure:
                    raise_pickled(done[index].failure, "a worker of the cluster")
                yield done.pop(index)
                self._snapshots.get(context)

    def _follow(self) -> None:
        """Look, now and then, whether workers have come or gone, if we are to use all there are."""
        if self._follows and time.monotonic() > self._counted + LOOK_EVERY and self._backend.running():
            self._counted, count = time.monotonic(), self._backend.count()
            if count != self.n_workers:
                self.n_workers = count
                self._discard()

    def _complete(self, task: GroupTask, setup: ModelAndData) -> tuple[dict[int, Result], Traffic]:
        """The results of all the task's blocks, or of all up to the first that the model fails on."""
        done: dict[int, Result] = {}
        failures, sent, received, blob = 0, 0, 0, None
        start, busy, clean = time.perf_counter(), dict[str, float](), True
        while wanted := _wanted(task.blocks, done):
            if self._backend.gone():
                self._end(wanted)
            sizes = [len(block.rows) for _, block in wanted]
            groups = [
                GroupTask(task.version, task.key, task.context, task.parameters, group, task.gradients)
                for group in grouped(wanted, sizes, self._sample_seconds, self.n_workers)
            ]
            sent += sum(group.nbytes for group in groups) + (0 if blob is None else blob.nbytes * len(groups))
            missing = False
            try:
                with one_blas_thread():  # For tasks in this process; a worker's has its own.
                    for returned in self._call(groups, blob):
                        answer = check(returned, groups, had_setup=blob is not None, cluster=self._backend.name)
                        received += answer.nbytes
                        missing |= not answer.results
                        seconds = answer.seconds / max(1, sum(result.metrics.count for result in answer.results))
                        for result in answer.results:
                            if result.version == task.version:
                                share = seconds * result.metrics.count
                                result = result._replace(worker=answer.worker, seconds=share)
                                done.setdefault(result.block, result)
                        if answer.results:
                            busy[answer.worker] = busy.get(answer.worker, 0.0) + answer.seconds
                            self._sample_seconds = seconds
                if not missing and len(_wanted(task.blocks, done)) == len(wanted):
                    raise RuntimeError("no results")
            except WorkerError:
                self.close()
                raise
            except Exception as error:
                self._abandoned = True
                self._discard()
                failures, clean = failures + 1, False
                self._retry(error, failures, _wanted(task.blocks, done))
            except BaseException:  # An interrupt.
                self._abandoned = True
                self._discard()
                raise
            if missing:
                blob, clean = pack(setup), False
        self._tell()
        if clean and task.gradients:
            self._compare(time.perf_counter() - start, max(busy.values()))
        return done, Traffic(sent, received)

    def _call(self, tasks: Sequence[GroupTask], blob: Blob | None) -> Iterable[object]:
        """One call of joblib's, on the `Parallel` that we have as long as nothing goes wrong."""
        from joblib import delayed  # Late: 0.1 s.

        backend = self._backend

        def start() -> Any:
            return backend.parallel(self.n_workers, self.step_timeout).__enter__()

        def call() -> Iterable[object]:
            results: Iterable[object] = parallel(delayed(compute)(task, blob) for task in tasks)
            return results

        if self._parallel is None:
            self._parallel = limited(START, "starting its workers", start) if backend.remote else start()
        parallel = self._parallel
        return answers(call, self._look, self.step_timeout) if backend.remote else call()

    def _look(self) -> None:
        """Raises ConnectionError or UnansweredError if waiting for the call under way is of no use."""
        self._tell()
        if self._backend.gone():
            raise ConnectionError("it doesn't answer")
        if stuck := self._backend.stuck():
            raise UnansweredError(stuck)

    def _tell(self) -> None:
        """Warn of workers that were given up."""
        while self._backend.lost:
            warnings.warn(
                f"{self._backend.lost.pop()}: others compute its blocks, and the result is not affected",
                WorkerWarning,
                stacklevel=2,
            )

    def _retry(self, error: Exception, failures: int, wanted: Numbered) -> None:
        """Say that it will be tried again, or raise WorkerError."""
        late = type(error).__name__ == "TimeoutError"  # Joblib has used Python's and multiprocessing's.
        what, missing = f"no result within {self.step_timeout:g} s" if late else _described(error), len(wanted)
        if not self._backend.running():
            self._end(wanted, None if late or isinstance(error, ConnectionError) else error)
        if failures >= self.max_tries:
            self.close()
            raise WorkerError(f"{missing} blocks could not be computed in {self.max_tries} tries: {what}") from error
        if isinstance(error, TimeoutError) and self._backend.remote and self._backend.address is None:
            self._backend.stop()  # What is stopped, but not dead, would only hold up the next try too.
            self._backend.start(self.n_workers)
        warnings.warn(
            f"a worker of the {self._backend.name} cluster was lost ({what}): {missing} blocks are computed again, and "
            "the result is not affected",
            WorkerWarning,
            stacklevel=2,
        )

    def _end(self, wanted: Numbered, error: Exception | None = None) -> NoReturn:
        """WorkerError: there is no cluster any more."""
        what = "it doesn't answer" if error is None else _described(error)
        self.close()
        raise WorkerError(
            f"the {self._backend.name} cluster is gone, with {len(wanted)} blocks to compute: {what}"
        ) from error

    def _compare(self, seconds: float, computing: float) -> None:
        """Warn, once, when a step takes twice as long as its busiest worker computes."""
        if len(self._measured) > STEPS_MEASURED:
            return
        self._measured.append((seconds, computing))
        if len(self._measured) <= STEPS_MEASURED:
            return
        seconds, computing = (sorted(times)[STEPS_MEASURED // 2] * 1e3 for times in zip(*self._measured, strict=True))
        if seconds > 2 * computing:
            warnings.warn(
                f"a step takes {seconds:.1f} ms, of which its busiest worker computes {computing:.1f} ms, so the "
                f"{self._backend.name} cluster costs more than it computes: larger batches would help, or "
                "the engine of this machine, processes",
                ClusterWarning,
                stacklevel=2,
            )

    def _discard(self) -> None:
        """Throw the `Parallel` away, and the pool behind it."""
        parallel, self._parallel = self._parallel, None
        if parallel is not None:
            if self._backend.remote:
                left(lambda: parallel.__exit__(None, None, None))
            else:
                with suppress(Exception):
                    parallel.__exit__(None, None, None)

    def close(self) -> None:
        """Leave the cluster, or end it if it is ours."""
        self._discard()
        for key, _ in self._setups.values():
            forget(key)
        self._setups.clear()
        self._backend.forget(self._name)
        self._snapshots.clear()
        self._backend.stop()


def grouped(work: Sequence[Work], sizes: Sequence[int], seconds: float, n_workers: int) -> list[Sequence[Work]]:
    """The work in as many groups as a worker's share of it is worth, about equally large; each in the order it has.

    A piece of work of size 1 takes so many ``seconds``.
    """
    number = n_workers * min(TASKS_A_WORKER, max(1, int(sum(sizes) * seconds / n_workers / TASK_SECONDS)))
    groups: list[list[Work]] = [[] for _ in range(min(number, len(work)))]
    loads = [(0, group) for group in range(len(groups))]
    for piece, size in zip(work, sizes, strict=True):
        load, group = loads[0]
        groups[group].append(piece)
        heapq.heapreplace(loads, (load + size, group))
    return list(groups)


def _wanted(blocks: Numbered, done: dict[int, Result]) -> Numbered:
    """Those without a result, but none behind one that has failed: its exception ends the step."""
    wanted = []
    for index, block in blocks:
        if index not in done:
            wanted.append((index, block))
        elif done[index].failure:
            break
    return wanted


def _described(error: Exception) -> str:
    """The first line of what can be a page."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
