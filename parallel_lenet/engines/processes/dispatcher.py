"""Which worker computes which block: decisions only, without processes, sockets or a clock, to be checked by reading.

A *worker* is **starting** until it says that it is ready, and again while it takes over a new context; then **idle**,
or **busy** while copies of blocks that it was given are unanswered; and **gone** when it has died or been let go. It
computes its copies in the order it was given them, each into a row of memory of its own, and answers each.

A *block* of the step is **waiting**; **out** while a worker has a copy that is still wanted, or several workers have;
**held** when the first of its answers is here; **yielded** when its turn has come and its row has been read.

===============  =====================================================================================================
what happens     what follows
===============  =====================================================================================================
`begin`          A new step: the one before is given up. Rows are free, but for those of unanswered copies, which aren't
                 wanted any more: their workers skip them, or answer in vain.
`assign`         Waiting blocks go out in order, to idle workers first; while blocks are short, a busy worker gets a
                 second copy, which waits in its socket so that it needn't wait for us. A worker that is still idle then
                 takes over the oldest block that is late: one that its worker can't have begun, being at the one before
                 for longer than usual (that copy isn't wanted any more); or one that has itself been out for clearly
                 longer than usual for its size (now two compute it).
`answer`         The first answer to a block of this step is held, wanted or not: every copy gives the same bits. The
                 other copies aren't wanted any more. Any other answer only frees its row.
`died`           Its blocks wait again, unless they are out elsewhere too. The one it was computing has had one more
                 try; after ``max_tries`` it is given up: an `AbandonedBlock` takes its place. A worker that dies
                 while starting counts against its number until any worker is ready. What a dead worker has answered
                 stays held: its rows stay mapped.
`overdue`        A worker that has been computing one block for ``step_timeout``, or starting for that and for `START`,
                 or computing the first block of a kind for that and for `FIRST`: whoever asks kills it.
`remove`         A worker is let go: as `died`, but no try is counted.
`release`        The held answer has been used: its row is free.
===============  =====================================================================================================

Three rules make it safe. A worker writes only to rows of its own, and a row is free only when no unanswered copy and no
held answer has it: so two copies of a block never write to the same memory, and no one writes what is being read. A
block of the step is always in exactly one of its four states. And a worker's last free row is kept for the oldest
unanswered block, the one that all held rows are waiting for: so a worker that can go on with it always has a row to.
"""

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

ROWS = 3  # Gradients a worker can hold: two under way, the other waiting for another worker's earlier block.
SHORT = 0.02  # Seconds: of blocks shorter than this a worker is given the next while it computes one.
PATIENCE = 0.1  # Seconds a block may be out before an idle worker computes it too, at least,
SLOW = 3  # and how many times as long as blocks usually take.
HASTE = (
    0.001  # Seconds more than usual that its worker may be at the one before: less than an answer takes is no delay.
)
LONGEST = 86_400.0  # Seconds to wait at once: a system's longest is 24.8 days.
FIRST = 10.0  # Seconds a worker may take for its first block of a kind, if there is a timeout: it may load or compile.
START = 60.0  # Seconds a worker may take to start, if there is a timeout: imports are slow where everything is.


class Copy(NamedTuple):
    """A block as it was given to one worker."""

    stamp: int
    """Of the step: an unanswered copy may be of one given up."""
    block: int
    row: int
    """Of the worker's memory: where it writes the gradient."""
    size: int = 1
    """Samples: the time it takes is in proportion to them, about."""
    kind: Hashable = None
    """What is computed of them."""


class Worker:
    """What the dispatcher knows of a worker."""

    def __init__(self, number: int, wanted: "list[int] | NDArray[np.int64]", now: float) -> None:
        self.number = number
        self.wanted = wanted
        """For each row the stamp of the copy to compute into it, or 0; the worker looks before it begins one."""
        self.opening = 1
        """What it hasn't said it is ready with: starting, and contexts that it was given to open."""
        self.started = False
        self.served = False
        """Whether it has been ready for blocks once: before, its death counts as a failed start."""
        self.hurried = False
        """Whether what it is opening has nothing new to import or compile."""
        self.since = now
        """When it began what it is doing: starting, or its first unanswered copy."""
        self.copies: list[Copy] = []
        """Unanswered, in the order it was given them: it can only be computing the first."""
        self.free = list(range(ROWS))
        self.known = set[Hashable]()
        """The kinds and sizes of blocks that it has computed."""

    @property
    def ready(self) -> bool:
        """Whether it can be given blocks."""
        return self.opening == 0


W = TypeVar("W", bound=Worker)


class AbandonedBlock(NamedTuple):
    """Takes the place of the answer to a block that no worker survives."""

    ending: str
    """How the last of them ended."""


class HeldAnswer(NamedTuple, Generic[W]):
    """An answer that waits for its turn."""

    worker: W
    row: int
    answer: Any
    """What the worker answered, or `AbandonedBlock`."""


@dataclass(slots=True)
class _Assignment(Generic[W]):
    """Where a block is being computed: the copies that are wanted, and when the latest was given."""

    copies: list[tuple[W, Copy]]
    since: float


class Dispatcher(Generic[W]):
    """The state of one step, and of the workers from step to step. Times are seconds of any one clock."""

    def __init__(self, max_tries: int, step_timeout: float | None) -> None:
        self.max_tries = max_tries
        self.step_timeout = math.inf if step_timeout is None else step_timeout
        self.workers: list[W] = []
        self.stamp = 0
        self.held: dict[int, HeldAnswer[W]] = {}
        self.waiting: list[int] = []
        """Blocks that no one has, a heap."""
        self._assigned: dict[int, _Assignment[W]] = {}
        self._sizes: Sequence[int] = ()
        self._kind: Hashable = None
        self._oldest = 0  # The first block that isn't answered.
        self._tries = Counter[int]()
        self._failed_starts = Counter[int]()
        self._seconds = self._usual = 0.0  # Per sample.
        self._look = math.inf  # When to look for what is late: then, or after, the first that an idle worker can take.
        self._late_from = math.inf  # When the first block that is out counts as late, or some time before.

    def begin(self, sizes: Sequence[int], kind: Hashable = None) -> int:
        """Start a step of blocks of so many samples and return its stamp; what was left of the one before is given up.

        What a worker computes for the first time of a ``kind`` and size may take longer: it may compile.
        """
        self.stamp += 1
        for worker in self.workers:
            if len(worker.free) < ROWS:
                used = [copy.row for copy in worker.copies]
                for row in used:
                    worker.wanted[row] = 0
                worker.free = [row for row in range(ROWS) if row not in used]
        self.held = {}
        self.waiting = list(range(len(sizes)))
        self._sizes = sizes
        self._kind = kind
        self._assigned = {}
        self._oldest = 0
        self._tries.clear()
        self._look = self._late_from = math.inf
        return self.stamp

    def reset(self) -> None:
        """Forget the step, and all that was learned from the workers there were."""
        self.begin(())
        self._failed_starts.clear()
        self._seconds = self._usual = 0.0

    def opened(self, worker: W, now: float) -> None:
        """It has started, or taken over a context."""
        worker.opening -= 1
        worker.started = True
        worker.since = now
        if worker.ready:
            worker.served = True
            self._failed_starts.clear()
            self._idle()

    def assign(self, now: float) -> list[tuple[W, Copy]]:
        """What to give to whom now."""
        given = list[tuple[W, Copy]]()
        waiting = self.waiting
        for already in (0, 1) if waiting else ():
            if already and waiting and self._usual * self._sizes[waiting[0]] >= SHORT:
                break
            for worker in self.workers:
                if not waiting:
                    break
                if worker.opening == 0 and len(worker.copies) == already and self._has_room(worker, waiting[0]):
                    given.append((worker, self._give(worker, heapq.heappop(waiting), now)))
        if now >= self._look:
            self._take_over(now, given)
        return given

    def _has_room(self, worker: W, block: int) -> bool:
        """Whether it has a row for the block: the last one is for the oldest."""
        return len(worker.free) > (block != self._oldest)

    def _give(self, worker: W, block: int, now: float) -> Copy:
        size = self._sizes[block]
        copy = Copy(self.stamp, block, worker.free.pop(), size, self._kind)
        if worker.copies:
            late = worker.since + self._usual * worker.copies[0].size + HASTE
        else:
            worker.since = now
            late = now + max(PATIENCE, SLOW * self._usual * size)
        worker.copies.append(copy)
        worker.wanted[copy.row] = self.stamp
        out = self._assigned.get(block)
        if out is None:
            self._assigned[block] = _Assignment([(worker, copy)], now)
        else:
            out.copies.append((worker, copy))
            out.since = now
        if late < self._late_from:
            self._late_from = late
        if late < self._look:
            self._look = late
        return copy

    def _take_over(self, now: float, given: list[tuple[W, Copy]]) -> None:
        """Have idle workers take over what is late, and find out when to look again."""
        self._look = self._late_from = math.inf
        idle = [worker for worker in self.workers if worker.ready and not worker.copies]
        for block in sorted(self._assigned):
            late = self._late(block)
            worker = next((worker for worker in idle if self._has_room(worker, block)), None)
            if worker is None:
                self._late_from = min(self._late_from, late)
            elif late > now:
                self._look = min(self._look, late)
            else:
                idle.remove(worker)
                out = self._assigned[block]
                if not self._begun(out):
                    self._forget(out)
                given.append((worker, self._give(worker, block, now)))
        self._late_from = min(self._late_from, self._look)

    def _begun(self, out: _Assignment[W]) -> bool:
        """Whether some worker may be computing it."""
        return any(copy is holder.copies[0] for holder, copy in out.copies)

    def _late(self, block: int) -> float:
        """From when on a block that is out counts as late."""
        out = self._assigned[block]
        if self._begun(out):
            return out.since + max(PATIENCE, SLOW * self._usual * self._sizes[block])
        return min(holder.since + self._usual * holder.copies[0].size for holder, _ in out.copies) + HASTE

    def _idle(self) -> None:
        """A worker is idle, or has room, or blocks take much less than was thought: look for what is late."""
        if self._late_from < self._look:
            self._look = self._late_from

    def _forget(self, out: _Assignment[W]) -> None:
        """None of these copies is wanted any more."""
        for worker, copy in out.copies:
            worker.wanted[copy.row] = 0
        out.copies.clear()

    def answer(self, worker: W, answer: Any, now: float, seconds: float | None = None) -> None:
        """A worker has answered its first copy, in so many seconds; ``answer`` is None where it was skipped."""
        copy = worker.copies.pop(0)
        if answer is not None:
            worker.known.add((copy.kind, copy.size))
        worker.since = now
        if seconds is not None:
            # The shorter of the last two, so that one that was held up doesn't count.
            seconds /= copy.size
            before, self._usual = self._usual, min(self._seconds or seconds, seconds)
            self._seconds = seconds
            if self._usual < before / 2:
                self._late_from = -math.inf
                self._idle()
        if not worker.copies:
            self._idle()
        late = copy.stamp != self.stamp or copy.block < self._oldest or copy.block in self.held
        if late or answer is None:
            worker.free.append(copy.row)
        else:
            self._hold(copy.block, HeldAnswer(worker, copy.row, answer))

    def _hold(self, block: int, held: HeldAnswer[W]) -> None:
        self.held[block] = held
        out = self._assigned.pop(block, None)
        if out is None:  # It had come back, and waits for another try.
            self.waiting.remove(block)
            heapq.heapify(self.waiting)
        else:
            self._forget(out)
        while self._oldest in self.held:
            self._oldest += 1

    def release(self, block: int) -> None:
        """Its held answer has been used."""
        held = self.held.pop(block)
        held.worker.free.append(held.row)
        self._idle()

    def died(self, worker: W, ending: str) -> bool:
        """A worker has died; whether that was one death too many for what it was doing."""
        first = worker.copies[0] if worker.copies else None
        self.remove(worker)
        if not worker.served:
            self._failed_starts[worker.number] += 1
            return self._failed_starts[worker.number] >= self.max_tries
        if first is None or not worker.wanted[first.row]:
            return False
        self._tries[first.block] += 1
        if self._tries[first.block] < self.max_tries or first.block in self._assigned:
            return False
        self._hold(first.block, HeldAnswer(worker, first.row, AbandonedBlock(ending)))
        return True

    def remove(self, worker: W) -> None:
        """A worker is gone: what only it was computing waits again."""
        self.workers.remove(worker)
        for block in [
            block for block, out in self._assigned.items() if any(holder is worker for holder, _ in out.copies)
        ]:
            out = self._assigned[block]
            out.copies = [(holder, copy) for holder, copy in out.copies if holder is not worker]
            if not out.copies:
                del self._assigned[block]
                heapq.heappush(self.waiting, block)
        worker.copies.clear()

    def overdue(self, now: float) -> list[W]:
        """The workers to kill, each named once."""
        if self.step_timeout == math.inf:
            return []
        late = [worker for worker in self.workers if self._deadline(worker) <= now]
        for worker in late:
            worker.since = math.inf
        return late

    def _deadline(self, worker: W) -> float:
        if not worker.ready:
            return worker.since + (self.step_timeout if worker.hurried else max(self.step_timeout, START))
        if not worker.copies:
            return math.inf
        known = (worker.copies[0].kind, worker.copies[0].size) in worker.known
        return worker.since + (self.step_timeout if known else max(self.step_timeout, FIRST))

    def timeout(self, now: float) -> float | None:
        """Seconds until `assign` or `overdue` has something to do even if no one answers; None for never."""
        due = self._look
        if self.step_timeout < math.inf:
            due = min(due, *map(self._deadline, self.workers))
        return None if due == math.inf else min(max(0.0, due - now), LONGEST)
