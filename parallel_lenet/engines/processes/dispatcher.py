"""Decides which worker computes which block, and what follows when a worker dies or does not answer.

It has only decisions: no processes, sockets or clock.

The module is long because it is one state machine, whose states, events and rules are explained here together.

A *worker* is **starting** until it says that it is ready, and again while it opens a new context. Then it is **idle**,
or **busy** while it has unanswered *copies* of blocks. It is **gone** when it has died or was removed. It computes its
copies in the order in which it got them, each into a row of its own memory, and answers each one.

A *block* of the step is **waiting**, or **assigned** while at least one worker has a copy that is still wanted, or
**answered** when its first answer has come, or **released** when its result has been used.

===============  =====================================================================================================
event            what follows
===============  =====================================================================================================
`begin`          A new step starts and the one before is given up. All rows are free, except those of unanswered copies.
                 These copies are not wanted any more: their workers skip them, or their answers are ignored.
`assign`         Waiting blocks are assigned in order, to idle workers first. While blocks are short, a busy worker gets
                 a second copy, which waits in its socket, so that the worker need not wait for the coordinator. A
                 worker that is still idle then takes over the oldest late block. A block is late if its worker cannot
                 have started it because it spends longer than usual on the block before (that copy is not wanted any
                 more). It is also late if it has been computed for much longer than usual (now two workers compute it).
`answer`         The first answer to a block is kept, whether its copy is still wanted or not: every copy gives the same
                 bits. The other copies are not wanted any more. Any later answer only frees its row.
`died`           The worker's blocks wait again, unless another worker has them too. The block it was computing has had
                 one more try. After ``max_tries`` the block is abandoned: its answer is an `AbandonedBlock`. The death
                 of a starting worker counts against its number until any worker is ready. Answers of a dead worker
                 stay, since its rows stay mapped.
`overdue`        A worker has computed one block for ``step_timeout``, or has started for that long and for
                 `START_SECONDS`, or has computed the first block of a kind for that long and for `FIRST_SECONDS`. The
                 caller kills it.
`remove`         A worker is removed: as `died`, but no try is counted.
`release`        The answer to a block has been used: its row is free.
===============  =====================================================================================================

Three rules make it safe:

- A worker writes only to its own rows. A row is free only if no unanswered copy and no kept answer uses it. So two
  copies of a block never write to the same memory, and nothing is written while it is read.
- A block of the step is always in exactly one of its four states.
- A worker's last free row is kept for the oldest block without an answer, which all kept answers wait for. So a worker
  that could compute that block always has a row for it.
"""

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

ROWS = 3  # Gradients per worker: two being computed or read, and one that waits for an earlier block of another worker.
SHORT_SECONDS = 0.02  # A worker gets the next block ahead of time if blocks are shorter than this.
LATE_SECONDS = 0.1  # An idle worker may compute a block again after this time at the earliest,
LATE_FACTOR = 3  # and after this many times the usual time of a block.
OVERTIME_SECONDS = 0.001  # An idle worker takes over a second copy if the first one takes this much longer than usual.
LONGEST_SECONDS = 86_400.0  # To wait at once: a system's longest wait is 24.8 days.
FIRST_SECONDS = 10.0  # The least time limit, if there is one, for a worker's first block of a kind: it may compile.
START_SECONDS = 60.0  # The least time limit, if there is one, for starting: imports are slow on a busy machine.


class Copy(NamedTuple):
    """A block as one worker got it."""

    stamp: int
    """The step's; an unanswered copy may belong to an earlier step."""
    block: int
    row: int
    """The row of the worker's memory for the gradient."""
    size: int = 1
    """Samples, which decide roughly how long it takes."""
    kind: Hashable = None
    """What is computed: a model, and gradients or metrics."""


class Worker:
    """What the dispatcher knows of a worker."""

    def __init__(self, number: int, stamps: "list[int] | NDArray[np.int64]", now: float) -> None:
        self.number = number
        self.stamps = stamps
        """For each row the stamp of the copy that is wanted there, or 0. The worker looks before it starts a copy."""
        self.pending_openings = 1
        """How much it has not confirmed yet: its start, and each context that it was asked to open."""
        self.started = False
        self.was_ready = False
        """Whether it has been ready once. Until then its death counts as a failed start."""
        self.opens_quickly = False
        """Whether the contexts that it is opening need no import and no compilation."""
        self.busy_since = now
        """When it began its present task: its start, or its first unanswered copy."""
        self.copies: list[Copy] = []
        """Unanswered ones, oldest first. It can only be computing the first."""
        self.free_rows = list(range(ROWS))
        self.computed_kinds = set[Hashable]()
        """The kinds and sizes of the blocks that it has computed."""

    @property
    def ready(self) -> bool:
        """Whether it can be given blocks."""
        return self.pending_openings == 0


W = TypeVar("W", bound=Worker)


class AbandonedBlock(NamedTuple):
    """The answer to a block over which too many workers died."""

    ending: str
    """How the last worker ended."""


class HeldAnswer(NamedTuple, Generic[W]):
    """An answer that is kept until its result has been used."""

    worker: W
    row: int
    answer: Any
    """The worker's answer, or an `AbandonedBlock`."""


@dataclass(slots=True)
class _Assignment(Generic[W]):
    """The wanted copies of a block with their workers, and when the latest copy was assigned."""

    copies: list[tuple[W, Copy]]
    since: float


class Dispatcher(Generic[W]):
    """The state of one step, and of the workers across steps. Times are seconds of one clock, whichever it is."""

    def __init__(self, max_tries: int, step_timeout: float | None) -> None:
        self.max_tries = max_tries
        self.step_timeout = math.inf if step_timeout is None else step_timeout
        self.workers: list[W] = []
        self.stamp = 0
        self.answers: dict[int, HeldAnswer[W]] = {}
        self.waiting: list[int] = []
        """Blocks that no worker has: a heap."""
        self._assigned: dict[int, _Assignment[W]] = {}
        self._sizes: Sequence[int] = ()
        self._kind: Hashable = None
        self._first_unanswered = 0  # Of all blocks.
        self._tries = Counter[int]()
        self._failed_starts = Counter[int]()
        self._last_seconds = 0.0  # Per sample, in the last block.
        self._usual_seconds = 0.0  # Per sample.
        self._next_check = math.inf  # When to look for late blocks, if an idle worker can take one.
        self._first_late = math.inf  # When the first assigned block is late, or earlier.

    def begin(self, sizes: Sequence[int], kind: Hashable = None) -> int:
        """Start a step with blocks of these ``sizes``, in samples, give up the step before, and return the stamp.

        ``kind`` says what is computed. A worker may take longer for its first block of a kind and size: it may compile.
        """
        self.stamp += 1
        for worker in self.workers:
            if len(worker.free_rows) < ROWS:
                used = [copy.row for copy in worker.copies]
                for row in used:
                    worker.stamps[row] = 0
                worker.free_rows = [row for row in range(ROWS) if row not in used]
        self.answers = {}
        self.waiting = list(range(len(sizes)))
        self._sizes = sizes
        self._kind = kind
        self._assigned = {}
        self._first_unanswered = 0
        self._tries.clear()
        self._next_check = math.inf
        self._first_late = math.inf
        return self.stamp

    def reset(self) -> None:
        """Forget the step, and what is known from the workers so far."""
        self.begin(())
        self._failed_starts.clear()
        self._last_seconds = 0.0
        self._usual_seconds = 0.0

    def confirm_opening(self, worker: W, now: float) -> None:
        """The worker has started, or has opened a context."""
        worker.pending_openings -= 1
        worker.started = True
        worker.busy_since = now
        if worker.ready:
            worker.was_ready = True
            self._failed_starts.clear()
            self._check_soon()

    def assign(self, now: float) -> list[tuple[W, Copy]]:
        """The copies to send now, each with its worker."""
        assignments = list[tuple[W, Copy]]()
        waiting = self.waiting
        for already in (0, 1) if waiting else ():
            if already and waiting and self._usual_seconds * self._sizes[waiting[0]] >= SHORT_SECONDS:
                break
            for worker in self.workers:
                if not waiting:
                    break
                if (
                    worker.pending_openings == 0
                    and len(worker.copies) == already
                    and self._has_room(worker, waiting[0])
                ):
                    assignments.append((worker, self._assign_copy(worker, heapq.heappop(waiting), now)))
        if now >= self._next_check:
            self._take_over(now, assignments)
        return assignments

    def _has_room(self, worker: W, block: int) -> bool:
        """Whether it has a row for the block. The last free row is for the oldest block without an answer."""
        return len(worker.free_rows) > (block != self._first_unanswered)

    def _assign_copy(self, worker: W, block: int, now: float) -> Copy:
        size = self._sizes[block]
        copy = Copy(self.stamp, block, worker.free_rows.pop(), size, self._kind)
        if worker.copies:
            late = self._overtime(worker)
        else:
            worker.busy_since = now
            late = now + self._patience(size)
        worker.copies.append(copy)
        worker.stamps[copy.row] = self.stamp
        assignment = self._assigned.get(block)
        if assignment is None:
            self._assigned[block] = _Assignment([(worker, copy)], now)
        else:
            assignment.copies.append((worker, copy))
            assignment.since = now
        if late < self._first_late:
            self._first_late = late
        if late < self._next_check:
            self._next_check = late
        return copy

    def _take_over(self, now: float, assignments: list[tuple[W, Copy]]) -> None:
        """Assign late blocks to idle workers too, and find out when to look again."""
        self._next_check = math.inf
        self._first_late = math.inf
        idle = [worker for worker in self.workers if worker.ready and not worker.copies]
        for block in sorted(self._assigned):
            late = self._late(block)
            worker = next((worker for worker in idle if self._has_room(worker, block)), None)
            if worker is None:
                self._first_late = min(self._first_late, late)
            elif late > now:
                self._next_check = min(self._next_check, late)
            else:
                idle.remove(worker)
                assignment = self._assigned[block]
                if not self._is_started(assignment):
                    self._cancel(assignment)
                assignments.append((worker, self._assign_copy(worker, block, now)))
        self._first_late = min(self._first_late, self._next_check)

    def _is_started(self, assignment: _Assignment[W]) -> bool:
        """Whether a worker may have started the block."""
        return any(copy is holder.copies[0] for holder, copy in assignment.copies)

    def _late(self, block: int) -> float:
        """When an assigned block becomes late."""
        assignment = self._assigned[block]
        if self._is_started(assignment):
            return assignment.since + self._patience(self._sizes[block])
        return min(self._overtime(worker) for worker, _ in assignment.copies)

    def _patience(self, size: int) -> float:
        """Seconds that a block of this size may be computed before an idle worker computes it too."""
        return max(LATE_SECONDS, LATE_FACTOR * self._usual_seconds * size)

    def _overtime(self, worker: W) -> float:
        """From when a worker spends longer than usual on its first copy."""
        return worker.busy_since + self._usual_seconds * worker.copies[0].size + OVERTIME_SECONDS

    def _check_soon(self) -> None:
        """Look for late blocks at the next chance: a worker is idle or has room, or blocks turn out to be shorter."""
        if self._first_late < self._next_check:
            self._next_check = self._first_late

    def _cancel(self, assignment: _Assignment[W]) -> None:
        """Stop wanting these copies."""
        for worker, copy in assignment.copies:
            worker.stamps[copy.row] = 0
        assignment.copies.clear()

    def answer(self, worker: W, answer: Any, now: float, seconds: float | None = None) -> None:
        """A worker has answered its first copy, or skipped it: then ``answer`` is None.

        ``seconds`` is how long the computation took, None if that is not known.
        """
        copy = worker.copies.pop(0)
        if answer is not None and self.step_timeout < math.inf:  # Without a time limit they are not needed.
            worker.computed_kinds.add((copy.kind, copy.size))
        worker.busy_since = now
        if seconds is not None:
            self._measure(seconds / copy.size)
        if not worker.copies:
            self._check_soon()
        late = copy.stamp != self.stamp or copy.block < self._first_unanswered or copy.block in self.answers
        if late or answer is None:
            worker.free_rows.append(copy.row)
        else:
            self._keep(copy.block, HeldAnswer(worker, copy.row, answer))

    def _measure(self, seconds: float) -> None:
        """Note how long a sample took. The usual time is the shorter of the last two: one delay is ignored."""
        before = self._usual_seconds
        self._usual_seconds = min(self._last_seconds or seconds, seconds)
        self._last_seconds = seconds
        if self._usual_seconds < before / 2:
            self._first_late = -math.inf
            self._check_soon()

    def _keep(self, block: int, answer: HeldAnswer[W]) -> None:
        self.answers[block] = answer
        assignment = self._assigned.pop(block, None)
        if assignment is None:  # The block waits for another try.
            self.waiting.remove(block)
            heapq.heapify(self.waiting)
        else:  # Including a copy of another worker, if the answer is from one that was not wanted any more.
            self._cancel(assignment)
        while self._first_unanswered in self.answers:
            self._first_unanswered += 1

    def release(self, block: int) -> None:
        """The answer to the block has been used."""
        answer = self.answers.pop(block)
        answer.worker.free_rows.append(answer.row)
        self._check_soon()

    def died(self, worker: W, ending: str) -> bool:
        """A worker has died. Returns whether its block is abandoned, or it failed to start too often."""
        first = worker.copies[0] if worker.copies else None
        self.remove(worker)
        if not worker.was_ready:
            self._failed_starts[worker.number] += 1
            return self._failed_starts[worker.number] >= self.max_tries
        if first is None or not worker.stamps[first.row]:
            return False
        self._tries[first.block] += 1
        if self._tries[first.block] < self.max_tries or first.block in self._assigned:
            return False
        self._keep(first.block, HeldAnswer(worker, first.row, AbandonedBlock(ending)))
        return True

    def remove(self, worker: W) -> None:
        """A worker is gone: the blocks that only it had wait again."""
        self.workers.remove(worker)
        for block in [
            block
            for block, assignment in self._assigned.items()
            if any(holder is worker for holder, _ in assignment.copies)
        ]:
            assignment = self._assigned[block]
            assignment.copies = [(holder, copy) for holder, copy in assignment.copies if holder is not worker]
            if not assignment.copies:
                del self._assigned[block]
                heapq.heappush(self.waiting, block)
        worker.copies.clear()

    def overdue(self, now: float) -> list[W]:
        """The workers to kill; each is named once."""
        if self.step_timeout == math.inf:
            return []
        late = [worker for worker in self.workers if self._deadline(worker) <= now]
        for worker in late:
            worker.busy_since = math.inf
        return late

    def _deadline(self, worker: W) -> float:
        if not worker.ready:
            return worker.busy_since + (
                self.step_timeout if worker.opens_quickly else max(self.step_timeout, START_SECONDS)
            )
        if not worker.copies:
            return math.inf
        known = (worker.copies[0].kind, worker.copies[0].size) in worker.computed_kinds
        return worker.busy_since + (self.step_timeout if known else max(self.step_timeout, FIRST_SECONDS))

    def timeout(self, now: float) -> float | None:
        """Seconds until `assign` or `overdue` has something to do even if no worker answers; None for never."""
        due = self._next_check
        if self.step_timeout < math.inf:
            due = min(due, *map(self._deadline, self.workers))
        return None if due == math.inf else min(max(0.0, due - now), LONGEST_SECONDS)
