"""Which worker computes which shard: decisions only, without processes, sockets or a clock, to be checked by reading.

A *worker* is **starting** until it says that it is ready, and again while it takes over a new context; then **idle**,
or **busy** while copies of shards that it was given are unanswered; and **gone** when it has died or been let go. It
computes its copies in the order it was given them, each into a row of memory of its own, and answers each.

A *shard* of the step is **waiting**; **out** while a worker has a copy that is still wanted, or several workers have;
**held** when the first of its answers is here; **yielded** when its turn has come and its row has been read.

===============  =====================================================================================================
what happens     what follows
===============  =====================================================================================================
`begin`          A new step: the one before is given up. Rows are free, but for those of unanswered copies, which aren't
                 wanted any more: their workers skip them, or answer in vain.
`assign`         Waiting shards go out in order, to idle workers first; while shards are short, a busy worker gets a
                 second copy, which waits in its socket so that it needn't wait for us. A worker that is still idle then
                 takes over the oldest shard that is late: one that its worker can't have begun, being at the one before
                 for longer than usual (that copy isn't wanted any more); or one that has itself been out for clearly
                 longer than usual (now two compute it).
`answer`         The first answer to a shard of this step is held, wanted or not: every copy gives the same bits. The
                 other copies aren't wanted any more. Any other answer only frees its row.
`died`           Its shards wait again, unless they are out elsewhere too. The one it was computing has had one more
                 try; after ``max_tries`` it is given up: what is held in its place is `GivenUp`. A worker that dies
                 while starting counts against its number until any worker is ready. What a dead worker has answered
                 stays held: its rows stay mapped.
`overdue`        A worker that has been computing one shard for ``step_timeout``, or starting for that and for `START`,
                 or computing the first shard of a kind for that and for `FIRST`: whoever asks kills it.
`remove`         A worker is let go: as `died`, but no try is counted.
`release`        The held answer has been used: its row is free.
===============  =====================================================================================================

Three rules make it safe. A worker writes only to rows of its own, and a row is free only when no unanswered copy and no
held answer has it: so two copies of a shard never write to the same memory, and no one writes what is being read. A
shard of the step is always in exactly one of its four states. And a worker's last free row is kept for the oldest
unanswered shard, the one that all held rows are waiting for: so a worker that can go on with it always has a row to.
"""

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

ROWS = 3  # Gradients a worker can hold: two under way, the other waiting for another worker's earlier shard.
SHORT = 0.02  # Seconds: of shards shorter than this a worker is given the next while it computes one.
PATIENCE = 0.1  # Seconds a shard may be out before an idle worker computes it too, at least,
SLOW = 3  # and how many times as long as shards usually take.
HASTE = (
    0.001  # Seconds more than usual that its worker may be at the one before: less than an answer takes is no delay.
)
LONGEST = 86_400.0  # Seconds to wait at once: a system's longest is 24.8 days.
FIRST = 10.0  # Seconds a worker may take for its first shard of a kind, if there is a timeout: it may load or compile.
START = 60.0  # Seconds a worker may take to start, if there is a timeout: imports are slow where everything is.


class Copy(NamedTuple):
    """A shard as it was given to one worker."""

    stamp: int
    """Of the step: an unanswered copy may be of one given up."""
    shard: int
    row: int
    """Of the worker's memory: where it writes the gradient."""
    kind: Hashable = None
    """Shards of one kind take about as long as each other, except for the first, in which a worker may compile."""


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
        """Whether it has been ready for shards once: before, its death counts as a failed start."""
        self.hurried = False
        """Whether what it is opening has nothing new to import or compile."""
        self.since = now
        """When it began what it is doing: starting, or its first unanswered copy."""
        self.copies: list[Copy] = []
        """Unanswered, in the order it was given them: it can only be computing the first."""
        self.free = list(range(ROWS))
        self.known = set[Hashable]()
        """The kinds of shards that it has computed."""

    @property
    def ready(self) -> bool:
        """Whether it can be given shards."""
        return self.opening == 0


W = TypeVar("W", bound=Worker)


class GivenUp(NamedTuple):
    """Held in place of the answer to a shard that no worker survives."""

    ending: str
    """How the last of them ended."""


class Held(NamedTuple, Generic[W]):
    """An answer that waits for its turn."""

    worker: W
    row: int
    answer: Any
    """What the worker answered, or `GivenUp`."""


@dataclass(slots=True)
class _Out(Generic[W]):
    """Where a shard is being computed: the copies that are wanted, and when the latest was given."""

    copies: list[tuple[W, Copy]]
    since: float


class Dispatcher(Generic[W]):
    """The state of one step, and of the workers from step to step. Times are seconds of any one clock."""

    def __init__(self, max_tries: int, step_timeout: float | None) -> None:
        self.max_tries = max_tries
        self.step_timeout = math.inf if step_timeout is None else step_timeout
        self.workers: list[W] = []
        self.stamp = 0
        self.held: dict[int, Held[W]] = {}
        self.waiting: list[int] = []
        """Shards that no one has, a heap."""
        self._out: dict[int, _Out[W]] = {}
        self._kinds: Sequence[Hashable] = ()
        self._oldest = 0  # The first shard that isn't answered.
        self._tries = Counter[int]()
        self._failed_starts = Counter[int]()
        self._seconds = self._usual = 0.0
        self._due = math.inf  # When an idle worker will take over a shard that is out.

    def begin(self, kinds: Sequence[Hashable]) -> int:
        """Start a step of shards of these kinds and return its stamp; what was left of the one before is given up."""
        self.stamp += 1
        for worker in self.workers:
            used = [copy.row for copy in worker.copies]
            for row in used:
                worker.wanted[row] = 0
            worker.free = [row for row in range(ROWS) if row not in used]
        self.held = {}
        self.waiting = list(range(len(kinds)))
        self._kinds = kinds
        self._out = {}
        self._oldest = 0
        self._tries.clear()
        return self.stamp

    def reset(self) -> None:
        """Forget the step, and all that was learned from the workers there were."""
        self.begin(())
        self._failed_starts.clear()
        self._seconds = self._usual = 0.0
        self._due = math.inf

    def opened(self, worker: W, now: float) -> None:
        """It has started, or taken over a context."""
        worker.opening -= 1
        worker.started = True
        worker.since = now
        if worker.ready:
            worker.served = True
            self._failed_starts.clear()

    def assign(self, now: float) -> list[tuple[W, Copy]]:
        """What to give to whom now."""
        given = []
        for already in (0, 1) if self._usual < SHORT else (0,):
            for worker in self.workers:
                if not self.waiting:
                    break
                if worker.ready and len(worker.copies) == already and self._has_room(worker, self.waiting[0]):
                    given.append((worker, self._give(worker, heapq.heappop(self.waiting), now)))
        self._due = math.inf
        for worker in self.workers:
            if worker.ready and not worker.copies:
                shard = self._late(worker, now)
                if shard is not None:
                    given.append((worker, self._give(worker, shard, now)))
        return given

    def _has_room(self, worker: W, shard: int) -> bool:
        """Whether it has a row for the shard: the last one is for the oldest."""
        return len(worker.free) > (shard != self._oldest)

    def _give(self, worker: W, shard: int, now: float) -> Copy:
        copy = Copy(self.stamp, shard, worker.free.pop(), self._kinds[shard])
        if not worker.copies:
            worker.since = now
        worker.copies.append(copy)
        worker.wanted[copy.row] = self.stamp
        out = self._out.setdefault(shard, _Out([], now))
        out.copies.append((worker, copy))
        out.since = now
        return copy

    def _late(self, worker: W, now: float) -> int | None:
        """The oldest shard for an idle worker to take over; without one `_due` says when to look again."""
        for shard in sorted(self._out):
            if not self._has_room(worker, shard):
                continue
            out = self._out[shard]
            begun = any(copy is holder.copies[0] for holder, copy in out.copies)
            if begun:
                due = out.since + max(PATIENCE, SLOW * self._usual)
            else:
                due = min(holder.since for holder, _ in out.copies) + self._usual + HASTE
            if due <= now:
                if not begun:
                    self._forget(out)
                return shard
            self._due = min(self._due, due)
        return None

    def _forget(self, out: _Out[W]) -> None:
        """None of these copies is wanted any more."""
        for worker, copy in out.copies:
            worker.wanted[copy.row] = 0
        out.copies.clear()

    def answer(self, worker: W, answer: Any, now: float, seconds: float | None = None) -> None:
        """A worker has answered its first copy, in so many seconds; ``answer`` is None where it was skipped."""
        copy = worker.copies.pop(0)
        if answer is not None:
            worker.known.add(copy.kind)
        worker.since = now
        if seconds is not None:
            # The shorter of the last two, so that one that was held up doesn't count.
            self._usual = min(self._seconds or seconds, seconds)
            self._seconds = seconds
        late = copy.stamp != self.stamp or copy.shard < self._oldest or copy.shard in self.held
        if late or answer is None:
            worker.free.append(copy.row)
        else:
            self._hold(copy.shard, Held(worker, copy.row, answer))

    def _hold(self, shard: int, held: Held[W]) -> None:
        self.held[shard] = held
        out = self._out.pop(shard, None)
        if out is None:  # It had come back, and waits for another try.
            self.waiting.remove(shard)
            heapq.heapify(self.waiting)
        else:
            self._forget(out)
        while self._oldest in self.held:
            self._oldest += 1

    def release(self, shard: int) -> None:
        """Its held answer has been used."""
        held = self.held.pop(shard)
        held.worker.free.append(held.row)

    def died(self, worker: W, ending: str) -> bool:
        """A worker has died; whether that was one death too many for what it was doing."""
        first = worker.copies[0] if worker.copies else None
        self.remove(worker)
        if not worker.served:
            self._failed_starts[worker.number] += 1
            return self._failed_starts[worker.number] >= self.max_tries
        if first is None or not worker.wanted[first.row]:
            return False
        self._tries[first.shard] += 1
        if self._tries[first.shard] < self.max_tries or first.shard in self._out:
            return False
        self._hold(first.shard, Held(worker, first.row, GivenUp(ending)))
        return True

    def remove(self, worker: W) -> None:
        """A worker is gone: what only it was computing waits again."""
        self.workers.remove(worker)
        for shard in [shard for shard, out in self._out.items() if any(holder is worker for holder, _ in out.copies)]:
            out = self._out[shard]
            out.copies = [(holder, copy) for holder, copy in out.copies if holder is not worker]
            if not out.copies:
                del self._out[shard]
                heapq.heappush(self.waiting, shard)
        worker.copies.clear()

    def overdue(self, now: float) -> list[W]:
        """The workers to kill, each named once."""
        late = [worker for worker in self.workers if self._deadline(worker) <= now]
        for worker in late:
            worker.since = math.inf
        return late

    def _deadline(self, worker: W) -> float:
        if not worker.ready:
            return worker.since + (self.step_timeout if worker.hurried else max(self.step_timeout, START))
        if not worker.copies:
            return math.inf
        known = worker.copies[0].kind in worker.known
        return worker.since + (self.step_timeout if known else max(self.step_timeout, FIRST))

    def timeout(self, now: float) -> float | None:
        """Seconds until `assign` or `overdue` has something to do even if no one answers; None for never."""
        due = self._due
        if self.step_timeout < math.inf:
            due = min(due, *map(self._deadline, self.workers))
        return None if due == math.inf else min(max(0.0, due - now), LONGEST)
