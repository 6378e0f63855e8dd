"""The dispatcher of the processes engine, driven by Hypothesis through every order of events, with workers played here.

A played worker takes its copies in order, looks whether each is still wanted, scribbles over the row while it computes,
and its answers wait until they are delivered: so it can be ahead of what the dispatcher knows, as a real one.
"""

from collections import Counter, deque

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parallel_lenet.engines.processes.dispatcher import (
    LATE_FACTOR,
    LATE_SECONDS,
    OVERTIME_SECONDS,
    ROWS,
    SHORT_SECONDS,
    AbandonedBlock,
    Copy,
    Dispatcher,
    Worker,
)

MAX_TRIES = 3
SIZES = st.sampled_from([1, 8, 64])  # Of blocks.
STEP_TIMEOUT = 50.0
TORN = ("torn", -1)


class Played(Worker):
    """A worker, and what it does by itself."""

    def __init__(self, number: int, now: float) -> None:
        super().__init__(number, [0] * ROWS, now)
        self.memory: list[object] = [None] * ROWS
        self.inbox = deque[Copy]()
        self.computing: Copy | None = None
        self.outbox = deque[Copy | None]()
        """Undelivered answers; None for a skipped copy."""

    def start(self) -> None:
        copy = self.inbox.popleft()
        if self.stamps[copy.row] == copy.stamp:
            self.computing = copy
            self.memory[copy.row] = TORN
        else:
            self.outbox.append(None)

    def finish(self) -> None:
        assert self.computing is not None
        self.memory[self.computing.row] = (self.computing.stamp, self.computing.block)
        self.outbox.append(self.computing)
        self.computing = None

    def run(self) -> None:
        """To the end of what it has been given."""
        while self.computing or self.inbox:
            if self.computing:
                self.finish()
            else:
                self.start()


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.dispatcher = Dispatcher[Played](MAX_TRIES, STEP_TIMEOUT)
        self.failed_starts = Counter[int]()
        self.start_step([])

    @initialize(workers=st.integers(2, 3), blocks=st.lists(SIZES, min_size=1, max_size=3 * ROWS))
    def open(self, workers: int, blocks: list[int]) -> None:
        for number in range(workers):
            self.add(number)
            self.dispatcher.confirm_opening(self.dispatcher.workers[-1], self.now)
        self.start_step(blocks)
        self.assign()

    # What the engine does.

    def add(self, number: int) -> None:
        self.dispatcher.workers.append(Played(number, self.now))

    @precondition(lambda self: self.next == len(self.blocks) or self.steps > 8)
    @rule(blocks=st.lists(SIZES, max_size=3 * ROWS), kind=st.booleans())
    def begin(self, blocks: list[int], kind: bool) -> None:
        """Also half way through a step, which is given up with that: not at once, or none would get far."""
        self.start_step(blocks, kind)
        self.assign()

    def start_step(self, blocks: list[int], kind: bool = False) -> None:
        self.steps = 0
        self.stamp = self.dispatcher.begin(blocks, kind)
        self.blocks = blocks
        self.next = 0
        self.reading = False
        self.deaths = Counter[int]()
        """Of workers that were computing the block for this step."""

    def assign(self) -> bool:
        given = self.dispatcher.assign(self.now)
        for worker, copy in given:
            assert worker.ready
            assert copy.stamp == self.stamp
            assert copy.size == self.blocks[copy.block]
            wanted = [other.block for other in worker.inbox if worker.stamps[other.row] == other.stamp]
            assert copy.block not in wanted  # It may have a copy that it is going to skip.
            worker.inbox.append(copy)
            assert len(worker.copies) <= 2
        return bool(given)

    @precondition(lambda self: not self.reading and self.next in self.dispatcher.answers)
    @rule()
    def read(self) -> None:
        """Yield the next result; whoever asked goes on reading it until `release`."""
        self.reading = True

    @precondition(lambda self: self.reading)
    @rule()
    def release(self) -> None:
        self.dispatcher.release(self.next)
        self.next += 1
        self.reading = False
        self.assign()

    @precondition(lambda self: self.steps > 10)
    @rule(number=st.integers(1, 4))
    def resize(self, number: int) -> None:
        for worker in list(self.dispatcher.workers):
            if worker.number >= number:
                self.dispatcher.remove(worker)
        for new in set(range(number)) - {worker.number for worker in self.dispatcher.workers}:
            self.add(new)

    # What workers do, and what becomes of it.

    def some(self, data: st.DataObject, **traits: bool) -> Played | None:
        found = [
            worker
            for worker in self.dispatcher.workers
            if all(bool(getattr(worker, name)) == wanted for name, wanted in traits.items())
        ]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        if worker := self.some(data, ready=False):
            self.dispatcher.confirm_opening(worker, self.now)
            self.failed_starts.clear()
            self.assign()

    @precondition(lambda self: self.steps > 5)
    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        """A worker is given a context to open, whatever it is doing."""
        if worker := self.some(data, ready=True):
            worker.pending_openings += 1
            worker.busy_since = self.now

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        if worker := self.some(data, inbox=True, computing=False):
            worker.start()

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if worker := self.some(data, computing=True):
            worker.finish()

    @rule(data=st.data(), seconds=st.sampled_from([SHORT_SECONDS / 20, SHORT_SECONDS / 20, SHORT_SECONDS * 2, 1.0]))
    def deliver(self, data: st.DataObject, seconds: float) -> None:
        if worker := self.some(data, outbox=True):
            self.deliver_first(worker, seconds)
            self.assign()

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """A worker computes all that it has, and it is all delivered."""
        if worker := self.some(data, ready=True):
            worker.run()
            while worker.outbox:
                self.deliver_first(worker)
            self.assign()

    def deliver_first(self, worker: Played, seconds: float = 0.001) -> None:
        copy = worker.outbox.popleft()
        self.dispatcher.answer(worker, copy, self.now, seconds if copy else None)

    @rule(data=st.data(), replaced=st.booleans())
    def die(self, data: st.DataObject, replaced: bool) -> None:
        """At any moment; what it answered before can still be read."""
        if worker := self.some(data):
            self.bury(worker)
            if replaced and not self.dispatcher.workers[-1].ready:  # Soon, before anything else happens.
                self.dispatcher.confirm_opening(self.dispatcher.workers[-1], self.now)
                self.failed_starts.clear()
            self.assign()

    def bury(self, worker: Played) -> None:
        while worker.outbox:
            self.deliver_first(worker)
        if worker.computing:
            worker.memory[worker.computing.row] = TORN
        first = worker.copies[0] if worker.copies else None
        tried = first is not None and worker.stamps[first.row] == self.stamp
        given_up = self.dispatcher.died(worker, f"death {self.deaths.total()}")
        if not worker.was_ready:
            self.failed_starts[worker.number] += 1
            assert given_up == (self.failed_starts[worker.number] >= MAX_TRIES)
            if given_up:  # The engine raises, and closes; a test goes on without the step.
                self.dispatcher.reset()
                self.failed_starts.clear()
                self.start_step([])
        elif tried and first is not None:
            self.deaths[first.block] += 1
            if given_up:
                assert self.deaths[first.block] >= MAX_TRIES
                assert isinstance(self.dispatcher.answers[first.block].answer, AbandonedBlock)
            elif self.deaths[first.block] >= MAX_TRIES:
                assert first.block in self.dispatcher._assigned  # Another worker may still answer.
        else:
            assert not given_up
        self.add(worker.number)

    @rule(seconds=st.sampled_from([OVERTIME_SECONDS * 2, LATE_SECONDS, 1.0, STEP_TIMEOUT]), kill=st.booleans())
    def time_passes(self, seconds: float, kill: bool) -> None:
        self.now += seconds
        if kill:
            self.kill_overdue()
        self.assign()

    @rule()
    def sleep(self) -> None:
        """For as long as the dispatcher says: then there is something to do, so the engine never spins."""
        self.assign()
        timeout = self.dispatcher.timeout(self.now)
        idle = [worker for worker in self.dispatcher.workers if worker.ready and not worker.copies and worker.free_rows]
        if idle and self.dispatcher._assigned:
            assert timeout is not None
            assert timeout < 2 * LATE_FACTOR  # No block here takes more than a second.
        for look in range(2):  # The first time may be an estimate, made before some of the answers.
            if timeout is not None:
                self.now += timeout + 1e-6
                overdue = self.kill_overdue()
                if self.assign() or overdue:
                    return
                timeout = self.dispatcher.timeout(self.now)
                assert look == 0 or timeout is None

    def kill_overdue(self) -> bool:
        late = self.dispatcher.overdue(self.now)
        for worker in late:
            assert worker.copies or not worker.ready
            self.bury(worker)
        return bool(late)

    @precondition(lambda self: self.steps > 15)
    @rule(data=st.data())
    def one_worker_is_enough_to_finish(self, data: st.DataObject) -> None:
        """Though all others are stopped, or hang, and no one kills them."""
        worker = data.draw(st.sampled_from(self.dispatcher.workers))
        if not worker.ready:
            self.dispatcher.confirm_opening(worker, self.now)
            self.failed_starts.clear()
        for _ in range(10 * (len(self.blocks) + ROWS)):
            self.now += 2 * LATE_FACTOR  # No block here takes more than a second.
            self.assign()
            worker.run()
            while worker.outbox:
                self.deliver_first(worker)
            while self.reading or self.next in self.dispatcher.answers:
                self.read()
                self.the_row_is_that_of_the_block()
                self.release()
        assert self.next == len(self.blocks)

    # What always holds.

    @invariant()
    def count(self) -> None:
        self.steps += 1

    @invariant()
    def every_block_is_in_exactly_one_state(self) -> None:
        dispatcher = self.dispatcher
        states = [*range(self.next), *dispatcher.waiting, *dispatcher._assigned, *dispatcher.answers]
        assert sorted(states) == list(range(len(self.blocks)))
        for assignment in dispatcher._assigned.values():
            assert assignment.copies
            if len(assignment.copies) > 1:  # Only what may have been begun is computed twice.
                assert all(copy is worker.copies[0] for worker, copy in assignment.copies)

    @invariant()
    def what_is_out_is_what_live_workers_have(self) -> None:
        wanted = {
            (worker, copy)
            for worker in self.dispatcher.workers
            for copy in worker.copies
            if worker.stamps[copy.row] == self.stamp
        }
        out = [each for block in self.dispatcher._assigned.values() for each in block.copies]
        assert len(out) == len(set(out))
        assert set(out) == wanted
        assert all(
            len(worker.copies) == len(worker.inbox) + bool(worker.computing) + len(worker.outbox)
            for worker in self.dispatcher.workers
        )

    @invariant()
    def every_row_has_one_use(self) -> None:
        for worker in self.dispatcher.workers:
            held = [held.row for held in self.dispatcher.answers.values() if held.worker is worker]
            assert sorted([*worker.free_rows, *held, *(copy.row for copy in worker.copies)]) == list(range(ROWS))

    @invariant()
    def the_row_is_that_of_the_block(self) -> None:
        """And stays so while it is held, and read: no live worker writes it."""
        for block, held in self.dispatcher.answers.items():
            if not isinstance(held.answer, AbandonedBlock):
                assert held.worker.memory[held.row] == (self.stamp, block)
            else:
                assert self.deaths[block] >= MAX_TRIES


TestStates = Machine.TestCase
TestStates.settings = settings(max_examples=50, stateful_step_count=80, deadline=None)
