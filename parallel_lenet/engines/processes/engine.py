"""Worker processes on this machine, with shared memory: the default engine.

Datasets (as stored) and parameters lie in blocks that all workers map; each worker writes its gradients into
blocks of its own. So a step sends each worker the positions of its samples, and gets a few numbers back. A context goes
to every worker once: the model pickled, and the descriptors of blocks that are new to it; one that starts later gets
all that are open. `dispatcher` decides who computes what and what follows from each event. Here are the events, all
of them from one `select`:

- *An answer* goes to the dispatcher. The model's own exception is raised after all blocks before it were yielded: so
  it is always the same one.
- *The end of a stream* means that a worker has died, after its last answer. Another is started at once, and a
  `WorkerWarning` is issued. It is ready when it says so, through the same `select`: no one waits for it.
- *The end of a process* ends its stream too, even if a process that the model has started holds that open.
- *Room in a socket*: what a worker didn't take before goes out. No sending ever blocks.
- *Time*: a worker that has used up ``step_timeout`` is killed, which ends its stream.
- *An interrupt* while we wait ends the step, as when its iterator is dropped, and workers that are in the middle of it,
  for they may hang: others take their place with the next step. One that comes while events are handled may have cut
  that short: the engine is closed.
"""

import os
import selectors
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence

import numpy as np

from parallel_lenet.batching import Block
from parallel_lenet.checks import ABOVE_ZERO, optional_number, whole_number
from parallel_lenet.datasets import Dataset
from parallel_lenet.descriptors import above_standard
from parallel_lenet.display import Displayed, Summary
from parallel_lenet.engines import BlockGradient, Context, Engine, WorkerError, WorkerWarning
from parallel_lenet.engines.imports import import_path, pickle_model
from parallel_lenet.engines.memory import SharedBlock, block_of, require_memory
from parallel_lenet.engines.processes.dispatcher import AbandonedBlock, Dispatcher, HeldAnswer
from parallel_lenet.engines.processes.messages import (
    FAILED,
    GRADIENT,
    METRICS,
    READY,
    REFUSED,
    RESULT,
    SKIPPED,
    BlockAnswer,
    BlockTask,
)
from parallel_lenet.engines.processes.placement import Placement
from parallel_lenet.engines.processes.start import interpreter
from parallel_lenet.engines.processes.worker_process import GRACE, WorkerProcess, end_all, uninterrupted
from parallel_lenet.engines.remote_exceptions import raise_pickled
from parallel_lenet.engines.snapshots import OpenContext, Snapshots
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector

POLL = 0.5  # Seconds between looks for processes that have ended, if the system does not tell.

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_Events = Sequence[tuple[selectors.SelectorKey, int]]


class _Resources:
    """What has to be given back: an object of its own, so that nothing the finalizer holds holds the engine."""

    def __init__(self, workers: list[WorkerProcess]) -> None:
        self.process = os.getpid()
        """That started the workers. In another, forked from it, giving back touches nothing of this one's."""
        self.workers = workers
        self.shared: SharedBlock | None = None
        """With the parameters."""
        self.placement = Placement()
        self.selector: selectors.BaseSelector | None = None
        self.snapshots: Snapshots[bytes] = Snapshots(
            block_of, quiet=lambda: not any(worker.copies for worker in workers), maps=True
        )

    def end_workers(self) -> None:
        """And give back what they alone need."""
        if self.selector is not None:
            self.selector.close()
            self.selector = None
        end_all(self.workers)
        self.placement.release()
        if self.shared is not None:
            self.shared.close()
            self.shared = None

    def end(self) -> None:
        """Give back everything."""
        self.end_workers()
        self.snapshots.clear()


class ProcessesEngine(Displayed, Engine):
    """An engine of ``n_workers`` processes. A worker that dies is replaced, and what it was doing done again.

    - ``max_tries``: how many workers may die at one block, or one after the other while they start, before WorkerError.
    - ``step_timeout``: seconds after which a worker that has not answered a block counts as hung, is killed and
      replaced; None for never. Results do not depend on it. A worker has at least a minute to start, in which it calls
      the model's ``warm_up``, and at least ten seconds for its first block of a size and kind.

    ValueError where a value is out of its range.
    """

    def __init__(self, n_workers: int, *, max_tries: int = 3, step_timeout: float | None = None) -> None:
        self.n_workers = whole_number("n_workers", n_workers, 1)
        self.max_tries = whole_number("max_tries", max_tries, 1)
        self.step_timeout = optional_number("step_timeout", step_timeout, ABOVE_ZERO)
        self._context: OpenContext[bytes] | None = None
        self._kind = GRADIENT
        self._blocks: Sequence[Block] = ()
        self._parameters: Vector = np.empty(0)
        self._dispatcher = Dispatcher[WorkerProcess](max_tries, step_timeout)
        self._workers = self._dispatcher.workers
        self._resources = _Resources(self._workers)
        self._snapshots = self._resources.snapshots
        self._refused: dict[int, tuple[WorkerProcess, BlockAnswer]] = {}  # Contexts that a worker could not open.
        self._warnings: list[str] = []
        self._polls = False  # Whether the system does not tell when a worker's process has ended.
        import_path()  # What relative entries mean now.
        # Ends the workers when the engine is garbage or the interpreter leaves, if nobody called close.
        self._finalizer = weakref.finalize(self, self._resources.end)

    def _summary(self) -> Summary:
        limits = f"max_tries={self.max_tries}, step_timeout={self.step_timeout}"
        return Summary(f"ProcessesEngine(n_workers={self.n_workers}, {limits})")

    def open(
        self, model: Model, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """The workers that run get it at once, and no one waits for them."""
        self._forget_parents_workers()
        self._receive_and_sweep()
        context = self._snapshots.open(pickle_model(model), datasets, parameters, call_sizes)
        opened = self._snapshots.get(context)
        if self._fits(opened):
            try:
                for worker in self._workers:
                    self._give(worker, opened)
            except BaseException:
                self._end_workers()
                raise
        return context

    def start(self, context: Context) -> None:
        """Start workers if there are none, or none for this model's parameters, and wait until each is ready."""
        self._forget_parents_workers()
        opened = self._snapshots.get(context)
        if not self._workers or not self._fits(opened):
            self._end_workers()
            interpreter()
            try:
                with above_standard():
                    self._resources.selector = selectors.DefaultSelector()
                self._resources.shared = SharedBlock([(opened.shape, opened.dtype)])
                (self._parameters,) = self._resources.shared.arrays
                for number in range(self.n_workers):
                    self._start(number)
                while not all(worker.ready for worker in self._workers):
                    self._wait()
            except BaseException:
                self._end_workers()
                raise
        self._check(opened)

    def _fits(self, opened: OpenContext[bytes]) -> bool:
        """Whether the workers' memory is made for such parameters."""
        return self._parameters.shape == opened.shape and self._parameters.dtype == opened.dtype

    def _check(self, opened: OpenContext[bytes]) -> None:
        """Raise what a worker raised when it took over this context."""
        if opened.number in self._refused:
            worker, answer = self._refused[opened.number]
            raise_pickled(answer.failure, f"worker {worker.number}")

    def _receive_and_sweep(self) -> None:
        """Take in the answers that are here, and have the workers forget the contexts that were closed."""
        if self._workers:
            self._handle(self._selector.select(0))
        ended = [opened.number for opened in self._snapshots.sweep()]
        for context in ended:
            self._refused.pop(context, None)
        for worker in self._workers:
            worker.close(ended, self._snapshots.held())
            self._watch(worker)

    @property
    def _selector(self) -> selectors.BaseSelector:
        assert self._resources.selector is not None
        return self._resources.selector

    def _forget_parents_workers(self) -> None:
        """In a process that was forked from the one that started the workers: forget them, and what is open."""
        if self._resources.process != os.getpid():
            self.close()
            self._resources.process = os.getpid()

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that are alive, starting ones included."""
        self._forget_parents_workers()
        return [worker.process.pid for worker in list(self._workers) if worker.process.poll() is None]

    def resize(self, n_workers: int) -> None:
        """Have so many workers from now on; new ones join as soon as they are ready. The results stay the same."""
        self.n_workers = whole_number("n_workers", n_workers, 1)
        self._forget_parents_workers()
        if not self._workers:
            return
        try:
            leaving = [worker for worker in self._workers if worker.number >= n_workers]
            with uninterrupted():
                for worker in leaving:
                    self._unwatch(worker)
                    self._dispatcher.remove(worker)
                end_all(leaving)
            self._resources.placement.release()
            for worker in self._workers:
                self._resources.placement.place(worker.process.pid, worker.number, n_workers)
            for number in set(range(n_workers)) - {worker.number for worker in self._workers}:
                self._start(number)
        except BaseException:
            self._end_workers()
            raise

    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """The gradients are views of the workers' memory."""
        for held, ready in self._results(GRADIENT, context, parameters, blocks):
            answer, worker = held.answer, held.worker
            yield BlockGradient(
                answer.metrics, worker.rows[held.row], worker.name, answer.seconds, answer.finite, ready
            )

    def metrics(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[Metrics]:
        """As ``gradients``, but nothing is written."""
        for held, _ in self._results(METRICS, context, parameters, blocks):
            yield held.answer.metrics

    def _results(
        self, kind: int, context: Context, parameters: Vector, blocks: Sequence[Block]
    ) -> Iterator[tuple[HeldAnswer[WorkerProcess], int]]:
        """Hand out, receive, and yield in order, each with how many of those that follow are here.

        These are released together: meanwhile no one waits for a worker, which may need their rows to go on.
        """
        self.start(context)
        opened = self._snapshots.get(context)
        if kind == GRADIENT:  # Too little memory is better known before any worker has begun.
            require_memory(parameters.nbytes * sum(not worker.rows for worker in self._workers))
        dispatcher = self._dispatcher
        model = hash(opened.model)
        stamp = dispatcher.begin([len(block.rows) for block in blocks], (model, kind))
        self._kind = kind
        self._context = opened
        self._blocks = blocks
        self._parameters[:] = parameters
        try:
            first = last = 0  # Those that are released together.
            for index in range(len(blocks)):
                if dispatcher.waiting:
                    self._handle()
                while index not in dispatcher.held:
                    self._check(opened)
                    self._wait()
                held = dispatcher.held[index]
                if isinstance(held.answer, AbandonedBlock):
                    raise WorkerError(self._given_up(index, held.answer))
                if held.answer.kind == FAILED:
                    raise_pickled(held.answer.failure, f"worker {held.worker.number}")
                if index == first:
                    last = index
                    while self._is_computed(last + 1):
                        last += 1
                yield held, last - index
                self._forget_parents_workers()
                if dispatcher.stamp != stamp:
                    raise RuntimeError("the engine has been closed or begun another step: these results are gone")
                while index == last and first <= last:
                    dispatcher.release(first)
                    first += 1
        finally:
            self._forget_parents_workers()
            if dispatcher.stamp == stamp:
                dispatcher.begin(())  # Whatever is left of it is given up.

    def _is_computed(self, index: int) -> bool:
        """Whether the block's result is here, and not an exception."""
        held = self._dispatcher.held.get(index)
        return held is not None and not isinstance(held.answer, AbandonedBlock) and held.answer.kind == RESULT

    def _given_up(self, index: int, answer: AbandonedBlock) -> str:
        block = self._blocks[index]
        return f"block {index} ({block.samples()}) crashed {self._tries()}; the last one: {answer.ending}"

    def _tries(self) -> str:
        """How many workers may be lost over one block, for people."""
        return f"{self.max_tries} worker{'s' * (self.max_tries > 1)}"

    def _doing(self, worker: WorkerProcess) -> str:
        """What a worker is in the middle of, for people."""
        if not worker.ready:
            return "taking over a model and data" if worker.started else "starting"
        if not worker.copies:
            return "waiting for work"
        stamp, index, *_ = worker.copies[0]
        return f"computing block {index}" if stamp == self._dispatcher.stamp else "computing a block given up"

    def _wait(self) -> None:
        """Until something happens, and handle it."""
        try:
            events = self._selector.select(self._timeout())
        except BaseException:
            for worker in self._workers:
                if worker.copies:
                    worker.kill()
            raise
        self._handle(events, waited=True)
        while self._warnings:
            warnings.warn(self._warnings.pop(0), WorkerWarning, stacklevel=2)

    def _timeout(self) -> float | None:
        """Seconds to wait for an event, None for as long as it takes."""
        timeout = self._dispatcher.timeout(time.monotonic())
        if not self._polls:
            return timeout
        return POLL if timeout is None else min(timeout, POLL)

    def _handle(self, events: _Events = (), waited: bool = False) -> None:
        """Take in what has happened, and hand out what there is to do."""
        try:
            now = time.monotonic()
            for key, mask in events:
                worker: WorkerProcess = key.data
                if worker not in self._workers:  # Replaced for another of these events.
                    continue
                if key.fileobj == worker.sentinel:
                    self._selector.unregister(worker.sentinel)
                    worker.channel.hang_up()
                    continue
                if mask & _WRITE:
                    self._flush(worker)
                if mask & _READ:
                    self._receive(worker, now)
            if not events:
                for worker in self._workers:
                    if worker.sentinel is None and worker.process.poll() is not None:
                        worker.channel.hang_up()
            if waited:  # Else there may be answers that nobody has looked at.
                for worker in self._dispatcher.overdue(now):
                    worker.kill(f"it took longer than the step_timeout of {self.step_timeout:g} s")
            for worker, copy in self._dispatcher.assign(now):
                assert self._context is not None
                if self._kind == GRADIENT:
                    worker.give_row(copy.row, self._parameters)
                task = BlockTask(self._kind, copy.stamp, self._context.number, copy.row, self._blocks[copy.block])
                worker.send(task.pack())
                self._watch(worker)
        except BaseException:
            self._end_workers()
            raise

    def _watch(self, worker: WorkerProcess) -> None:
        """Send the rest when there is room for it."""
        if worker.channel.outbox:
            self._selector.modify(worker.channel.socket, _READ | _WRITE, worker)

    def _unwatch(self, worker: WorkerProcess) -> None:
        self._selector.unregister(worker.channel.socket)
        if worker.sentinel is not None and worker.sentinel in self._selector.get_map():
            self._selector.unregister(worker.sentinel)

    def _flush(self, worker: WorkerProcess) -> None:
        worker.flush()
        if not worker.channel.outbox:
            self._selector.modify(worker.channel.socket, _READ, worker)

    def _receive(self, worker: WorkerProcess, now: float) -> None:
        """The worker's answers, or that there will be no more."""
        try:
            answers = worker.receive()
        except (EOFError, OSError):
            self._replace(worker)
            return
        for answer in answers:
            if answer.kind in (READY, REFUSED):
                self._dispatcher.opened(worker, now)
                if answer.kind == REFUSED:
                    self._refused[answer.metrics.count] = worker, answer
            elif answer.kind == SKIPPED:
                self._dispatcher.answer(worker, None, now)
            else:
                self._dispatcher.answer(worker, answer, now, answer.seconds if answer.kind == RESULT else None)

    def _replace(self, worker: WorkerProcess) -> None:
        """A worker has died: start another."""
        self._unwatch(worker)
        worker.wait(time.monotonic() + GRACE)
        worker.end()
        ending = worker.ending(self._doing(worker))
        given_up = self._dispatcher.died(worker, ending)
        if given_up and not worker.served:
            raise WorkerError(f"{self._tries()} in a row crashed before being ready; the last one: {ending}")
        if not given_up and not worker.dismissed:
            self._warnings.append(f"{ending}: another has taken its place, and the result is not affected")
        self._start(worker.number)

    def _start(self, number: int) -> None:
        with uninterrupted():  # No process that isn't listed.
            assert self._resources.shared is not None
            worker = WorkerProcess(number, self._resources.shared, time.monotonic())
            self._resources.placement.place(worker.process.pid, number, self.n_workers)
            self._workers.append(worker)
            self._selector.register(worker.channel.socket, _READ | _WRITE, worker)
            self._polls = worker.sentinel is None
            if worker.sentinel is not None:
                self._selector.register(worker.sentinel, _READ, worker)
        for opened in self._snapshots.live():
            if self._fits(opened):
                self._give(worker, opened)

    def _give(self, worker: WorkerProcess, opened: OpenContext[bytes]) -> None:
        """Have a worker take over a context."""
        if worker.ready:
            worker.since = time.monotonic()
        worker.open(opened)
        self._watch(worker)

    def _end_workers(self) -> None:
        """What is open stays so: the next call starts other workers."""
        with uninterrupted():
            self._resources.end_workers()
            self._dispatcher.reset()
            self._refused.clear()
            self._parameters = np.empty(0)  # The last view of the shared block, which goes with it.
            self._blocks = ()
            self._context = None

    def close(self) -> None:
        """End the workers and free the memory."""
        with uninterrupted():
            self._end_workers()
            self._resources.end()
