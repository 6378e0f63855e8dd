"""Worker processes on this machine, with shared memory: the default engine.

Datasets (as stored) and parameters lie in memory that all workers map. Each worker writes its gradients to memory that
only it and the coordinator share. So a step sends each worker the positions of its samples, and gets a few numbers
back. A context goes to each worker once: the pickled model, and the descriptors of the memory that is new to it. A
worker that starts later gets all open contexts. `dispatcher` decides which worker computes what, and what follows from
each event. This module is long because all events are handled in one class, around one `select`:

- *An answer* goes to the dispatcher. An exception of the model is raised after all blocks before it were yielded. So it
  is always the same one.
- *The end of a stream* means that a worker has died. Its answers have been read before. Another worker starts at once,
  and a `WorkerWarning` is issued. The new worker reports that it is ready through the same `select`.
- *The end of a process* ends its stream too, even if a process that the model started keeps the socket open.
- *Room in a socket*: messages that wait are sent. Sending never blocks.
- *Time*: a worker that has used up ``step_timeout`` is killed, which ends its stream.
- *An interrupt while waiting* gives up the step, as when its iterator is dropped, and kills the workers that compute,
  since they may hang. Others take their place with the next step.
- *An interrupt while events are handled* may leave them half handled: the workers are ended.
"""

import os
import selectors
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence

import numpy as np

from parallel_lenet.batching import Block
from parallel_lenet.checks import ABOVE_ZERO, LEAST, optional_number, whole_number
from parallel_lenet.datasets import Dataset
from parallel_lenet.descriptors import above_standard
from parallel_lenet.display import Displayed, Summary
from parallel_lenet.engines import BlockGradient, Context, Engine, WorkerError, WorkerWarning
from parallel_lenet.engines.imports import import_path, pickle_model
from parallel_lenet.engines.memory import SharedMemory, require_memory, shared_bytes
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
from parallel_lenet.engines.processes.worker_process import GRACE_SECONDS, WorkerProcess, end_all, uninterrupted
from parallel_lenet.engines.remote_exceptions import raise_pickled
from parallel_lenet.engines.snapshots import OpenContext, Snapshots
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector

POLL = 0.5  # Seconds between looks for processes that have ended, if the system does not tell.

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_Events = Sequence[tuple[selectors.SelectorKey, int]]


class _Resources:
    """What has to be freed. It is a separate object so that the finalizer does not keep the engine alive."""

    def __init__(self, workers: list[WorkerProcess]) -> None:
        self.process = os.getpid()
        """The process that started the workers. In a process forked from it, nothing of the parent's is touched."""
        self.workers = workers
        self.shared: SharedMemory | None = None
        """The memory with the parameters."""
        self.placement = Placement()
        self.selector: selectors.BaseSelector | None = None
        self.snapshots: Snapshots[bytes] = Snapshots(
            shared_bytes, may_overwrite=lambda: not any(worker.copies for worker in workers), reopens_files=True
        )

    def end_workers(self) -> None:
        """End the workers, and free what only they need."""
        if self.selector is not None:
            self.selector.close()
            self.selector = None
        end_all(self.workers)
        self.placement.release()
        if self.shared is not None:
            self.shared.close()
            self.shared = None

    def end(self) -> None:
        """Free everything."""
        self.end_workers()
        self.snapshots.clear()


class ProcessesEngine(Displayed, Engine):
    """An engine of ``n_workers`` processes. A worker that dies is replaced, and its block is computed again.

    - ``max_tries``: how many workers may die over one block, or one after the other while they start, before
      WorkerError is raised.
    - ``step_timeout``: seconds after which a worker that has not answered is killed and replaced; None for never.
      Results do not depend on it. A worker has at least a minute to start, in which it calls the model's ``warm_up``,
      and at least ten seconds for its first block of a size and kind.

    Close it, or use it in a ``with`` block. Otherwise its workers end when the engine is garbage or the program ends.

    Raises ValueError if a value is out of its range.

    >>> from parallel_lenet import Coordinator, SGD, lenet5
    >>> with ProcessesEngine(2) as engine:
    ...     coordinator = Coordinator(lenet5(kernel="im2col"), SGD(0.1), engine=engine)
    ...     coordinator.n_workers
    2
    """

    def __init__(self, n_workers: int, *, max_tries: int = 3, step_timeout: float | None = None) -> None:
        self.n_workers = whole_number("n_workers", n_workers, 1)
        self.max_tries = whole_number("max_tries", max_tries, LEAST["max_tries"])
        self.step_timeout = optional_number("step_timeout", step_timeout, ABOVE_ZERO)
        self._context: OpenContext[bytes] | None = None
        self._kind = GRADIENT
        self._blocks: Sequence[Block] = ()
        self._parameters: Vector = np.empty(0)
        self._dispatcher = Dispatcher[WorkerProcess](max_tries, step_timeout)
        self._workers = self._dispatcher.workers
        self._resources = _Resources(self._workers)
        self._snapshots = self._resources.snapshots
        self._refused: dict[int, tuple[WorkerProcess, BlockAnswer]] = {}  # By context that a worker could not open.
        self._warnings: list[str] = []
        self._polls = False  # Whether the system does not tell when a worker's process has ended.
        import_path()  # Notes the meaning of relative entries now.
        # Ends the workers when the engine is garbage or the interpreter exits, if it was not closed.
        self._finalizer = weakref.finalize(self, self._resources.end)

    def _summary(self) -> Summary:
        limits = f"max_tries={self.max_tries}, step_timeout={self.step_timeout}"
        return Summary(f"ProcessesEngine(n_workers={self.n_workers}, {limits})")

    def open(
        self, model: Model, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """Copy the model and the datasets, and send them to the workers that run, without waiting for their answers."""
        self._forget_parents_workers()
        self._receive_and_sweep()
        context = self._snapshots.open(pickle_model(model), datasets, parameters, call_sizes)
        opened = self._snapshots.get(context)
        if self._fits(opened):
            try:
                for worker in self._workers:
                    self._send_opening(worker, opened)
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
                self._resources.shared = SharedMemory([(opened.shape, opened.dtype)])
                (self._parameters,) = self._resources.shared.arrays
                for number in range(self.n_workers):
                    self._start(number)
                while not all(worker.ready for worker in self._workers):
                    self._wait()
            except BaseException:
                self._end_workers()
                raise
        self._raise_refusal(opened)

    def _fits(self, opened: OpenContext[bytes]) -> bool:
        """Whether the workers' memory fits the parameters of this context."""
        return self._parameters.shape == opened.shape and self._parameters.dtype == opened.dtype

    def _raise_refusal(self, opened: OpenContext[bytes]) -> None:
        """Raise the exception of a worker that could not open this context, if there is one."""
        if opened.number in self._refused:
            worker, answer = self._refused[opened.number]
            raise_pickled(answer.failure, f"worker {worker.number}")

    def _receive_and_sweep(self) -> None:
        """Handle the events so far, and have the workers forget the contexts that were closed."""
        if self._workers:
            self._handle(self._selector.select(0))
        ended = [opened.number for opened in self._snapshots.free_closed()]
        for context in ended:
            self._refused.pop(context, None)
        for worker in self._workers:
            worker.close(ended, self._snapshots.array_numbers())
            self._watch(worker)

    @property
    def _selector(self) -> selectors.BaseSelector:
        assert self._resources.selector is not None
        return self._resources.selector

    def _forget_parents_workers(self) -> None:
        """Forget the workers and the contexts if this process was forked from the one that started the workers."""
        if self._resources.process != os.getpid():
            self.close()
            self._resources.process = os.getpid()

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that are alive, also of those that start."""
        self._forget_parents_workers()
        return [worker.process.pid for worker in list(self._workers) if worker.process.poll() is None]

    def resize(self, n_workers: int) -> None:
        """Have this number of workers from now on. New ones join as soon as they are ready. Results stay the same."""
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
                self._resources.placement.set_affinity(worker.process.pid, worker.number, n_workers)
            for number in set(range(n_workers)) - {worker.number for worker in self._workers}:
                self._start(number)
        except BaseException:
            self._end_workers()
            raise

    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """The gradients are views of the workers' memory."""
        for (worker, row, answer), ready in self._results(GRADIENT, context, parameters, blocks):
            gradient = worker.rows[row]
            yield BlockGradient(
                answer.metrics, gradient, worker.name, answer.seconds, answer.finite, ready, answer.start
            )

    def metrics(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[Metrics]:
        """As ``gradients``, but nothing is written to the workers' memory."""
        for (_, _, answer), _ in self._results(METRICS, context, parameters, blocks):
            yield answer.metrics

    def _results(
        self, kind: int, context: Context, parameters: Vector, blocks: Sequence[Block]
    ) -> Iterator[tuple[HeldAnswer[WorkerProcess], int]]:
        """Yield the answers in block order, each with the number of the next ones before its row is released.

        Those that have come are released together: until then no worker is waited for, which might need their rows to
        continue. If there is a worker for each block, all are released together at the end. Should an idle worker
        then have no free row, because it computed the blocks of others, it gets new memory: see `_renew_rows`.
        """
        self.start(context)
        opened = self._snapshots.get(context)
        if kind == GRADIENT:  # Raise an error about memory before any worker starts.
            require_memory(parameters.nbytes * sum(not worker.rows for worker in self._workers))
        dispatcher = self._dispatcher
        model = hash(opened.model)
        stamp = dispatcher.begin([len(block.rows) for block in blocks], (model, kind))
        self._kind = kind
        self._context = opened
        self._blocks = blocks
        self._parameters[:] = parameters
        one_each = len(blocks) <= len(self._workers)
        try:
            first = 0  # The first and the last of the answers that are released together.
            last = 0
            for index in range(len(blocks)):
                if dispatcher.waiting:
                    self._send_tasks()
                while index not in dispatcher.answers:
                    self._raise_refusal(opened)
                    if first < index and not all(worker.free_rows or worker.copies for worker in self._workers):
                        self._renew_rows(range(first, index))
                        first = index
                    self._wait()
                held_answer = dispatcher.answers[index]
                if isinstance(held_answer.answer, AbandonedBlock):
                    raise WorkerError(self._abandoned(index, held_answer.answer))
                if held_answer.answer.kind == FAILED:
                    raise_pickled(held_answer.answer.failure, f"worker {held_answer.worker.number}")
                if index == first:
                    last = len(blocks) - 1 if one_each else self._last_computed(index)
                yield held_answer, last - index
                self._forget_parents_workers()
                if dispatcher.stamp != stamp:
                    raise RuntimeError("the engine was closed or has started another step: these results are gone")
                while index == last and first <= last:
                    dispatcher.release(first)
                    first += 1
        finally:
            self._forget_parents_workers()
            if dispatcher.stamp == stamp:
                dispatcher.begin(())  # Give up the rest.

    def _renew_rows(self, blocks: range) -> None:
        """Release the answers to these blocks, whose gradients stay valid: their rows get other memory when needed."""
        for block in blocks:
            worker, row, _ = self._dispatcher.answers[block]
            self._dispatcher.release(block)
            worker.rows.pop(row, None)  # The gradient that was yielded keeps the memory.
        self._send_tasks()

    def _last_computed(self, index: int) -> int:
        """The last of the blocks after ``index`` whose answers have come without a gap, and are results."""
        answers = self._dispatcher.answers
        while (held_answer := answers.get(index + 1)) is not None:
            if isinstance(held_answer.answer, AbandonedBlock) or held_answer.answer.kind != RESULT:
                break
            index += 1
        return index

    def _abandoned(self, index: int, answer: AbandonedBlock) -> str:
        block = self._blocks[index]
        return f"block {index} ({block.samples()}) crashed {self._tries()}; the last one: {answer.ending}"

    def _tries(self) -> str:
        """``max_tries`` workers, for a message."""
        return f"{self.max_tries} worker{'s' * (self.max_tries > 1)}"

    def _activity(self, worker: WorkerProcess) -> str:
        """What a worker is doing, for a message."""
        if not worker.ready:
            return "loading a model and data" if worker.started else "starting"
        if not worker.copies:
            return "waiting for work"
        copy = worker.copies[0]
        if copy.stamp != self._dispatcher.stamp:
            return "computing a block of an earlier step"
        return f"computing block {copy.block}"

    def _wait(self) -> None:
        """Wait for events, and handle them."""
        try:
            events = self._selector.select(self._timeout())
        except BaseException:
            for worker in self._workers:
                if worker.copies:
                    worker.kill()
            raise
        self._handle(events)
        while self._warnings:
            warnings.warn(self._warnings.pop(0), WorkerWarning, stacklevel=2)

    def _timeout(self) -> float | None:
        """Seconds to wait for an event; None for any time."""
        timeout = self._dispatcher.timeout(time.monotonic())
        if not self._polls:
            return timeout
        return POLL if timeout is None else min(timeout, POLL)

    def _handle(self, events: _Events) -> None:
        """Handle the events of a wait, and send the blocks that can be assigned then."""
        try:
            now = time.monotonic()
            for key, mask in events:
                worker: WorkerProcess = key.data
                if worker not in self._workers:  # Replaced after another one of these events.
                    continue
                if key.fileobj == worker.sentinel:
                    self._selector.unregister(worker.sentinel)
                    worker.channel.shut_down()
                    continue
                if mask & _WRITE:
                    self._flush(worker)
                if mask & _READ:
                    self._receive(worker, now)
            if not events and self._polls:
                for worker in self._workers:
                    if worker.sentinel is None and worker.process.poll() is not None:
                        worker.channel.shut_down()
            for worker in self._dispatcher.overdue(now):
                worker.kill(f"it took longer than the step_timeout of {self.step_timeout:g} s")
        except BaseException:
            self._end_workers()
            raise
        self._send_tasks()

    def _send_tasks(self) -> None:
        """Send the blocks that can be assigned now."""
        try:
            for worker, copy in self._dispatcher.assign(time.monotonic()):
                assert self._context is not None
                if self._kind == GRADIENT and copy.row not in worker.rows:
                    worker.add_row(copy.row, self._parameters)
                task = BlockTask(self._kind, copy.stamp, self._context.number, copy.row, self._blocks[copy.block])
                worker.send(task.pack())
                if worker.channel.outbox:
                    self._watch(worker)
        except BaseException:
            self._end_workers()
            raise

    def _watch(self, worker: WorkerProcess) -> None:
        """Send the messages that wait as soon as there is room in the socket."""
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
        """Pass the worker's answers to the dispatcher. If its stream has ended, replace it."""
        try:
            answers = worker.receive()
        except (EOFError, OSError):
            self._replace(worker)
            return
        for answer in answers:
            if answer.kind in (READY, REFUSED):
                self._dispatcher.confirm_opening(worker, now)
                if answer.kind == REFUSED:
                    self._refused[answer.metrics.count] = worker, answer
            elif answer.kind == SKIPPED:
                self._dispatcher.answer(worker, None, now)
            else:
                self._dispatcher.answer(worker, answer, now, answer.seconds if answer.kind == RESULT else None)

    def _replace(self, worker: WorkerProcess) -> None:
        """Start another worker for one that has died."""
        self._unwatch(worker)
        worker.wait(time.monotonic() + GRACE_SECONDS)
        worker.end()
        ending = worker.ending(self._activity(worker))
        given_up = self._dispatcher.died(worker, ending)
        if given_up and not worker.was_ready:
            raise WorkerError(f"{self._tries()} in a row crashed before being ready; the last one: {ending}")
        if not given_up and not worker.dismissed:
            self._warnings.append(f"{ending}: another has taken its place, and the result is not affected")
        self._start(worker.number)

    def _start(self, number: int) -> None:
        with uninterrupted():  # So that each process is in the list of workers.
            assert self._resources.shared is not None
            worker = WorkerProcess(number, self._resources.shared, time.monotonic())
            self._resources.placement.set_affinity(worker.process.pid, number, self.n_workers)
            self._workers.append(worker)
            self._selector.register(worker.channel.socket, _READ | _WRITE, worker)
            self._polls |= worker.sentinel is None
            if worker.sentinel is not None:
                self._selector.register(worker.sentinel, _READ, worker)
        for opened in self._snapshots.open_contexts():
            if self._fits(opened):
                self._send_opening(worker, opened)

    def _send_opening(self, worker: WorkerProcess, opened: OpenContext[bytes]) -> None:
        """Have a worker open a context."""
        if worker.ready:
            worker.busy_since = time.monotonic()
        worker.open(opened)
        self._watch(worker)

    def _end_workers(self) -> None:
        """End the workers. Open contexts stay open: the next call starts other workers."""
        with uninterrupted():
            self._resources.end_workers()
            self._dispatcher.reset()
            self._refused.clear()
            self._parameters = np.empty(0)  # The last view of the shared memory, which is freed with it.
            self._blocks = ()
            self._context = None

    def close(self) -> None:
        """End the workers and free the memory."""
        with uninterrupted():
            self._end_workers()
            self._resources.end()
