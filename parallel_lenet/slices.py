"""Long vectors in slices that fit a core's cache, shared by several threads.

NumPy and compiled loops release the interpreter's lock, so the threads work in parallel. Where a slice begins depends
only on the vector's length, so no bit depends on the number of threads.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SLICE = 1 << 18  # Numbers. Smaller slices spend more time in the interpreter than they save in the cache.
LONG = 4 * SLICE  # Up to this length, one thread with whole vectors is as fast.


class Threads:
    """``number`` threads that share slices, including the caller's."""

    def __init__(self, number: int) -> None:
        self.number = number

    def map(self, function: Callable[[slice], T], size: int) -> list[T]:
        """Call the function with each slice of a vector of ``size`` numbers, and return the results in order.

        The other threads start and end with this call. Each takes about 0.05 ms, a tenth of a slice, to start. A forked
        process would lack threads that outlive the call, and the coordinator would have to end them. If calls raise,
        the error of the first such slice is raised after all threads have stopped.
        """
        parts = [slice(start, min(start + SLICE, size)) for start in range(0, max(1, size), SLICE)]
        if min(self.number, len(parts)) == 1:
            return [function(part) for part in parts]
        waiting = deque(enumerate(parts))
        results: dict[int, T] = {}
        errors: dict[int, BaseException] = {}

        def work() -> None:
            while True:
                try:
                    number, part = waiting.popleft()
                except IndexError:
                    return
                try:
                    results[number] = function(part)
                except BaseException as error:
                    errors[number] = error
                    waiting.clear()

        helpers: list[threading.Thread] = []
        try:
            while len(helpers) + 1 < min(self.number, len(parts)):
                helper = threading.Thread(target=work, name="parallel_lenet slices")
                try:
                    helper.start()
                except RuntimeError:  # The system allows no more threads: fewer do the same.
                    break
                helpers.append(helper)
            work()
        finally:
            waiting.clear()
            for helper in helpers:
                helper.join()
        interrupts = [error for error in errors.values() if not isinstance(error, Exception)]
        for error in interrupts or [errors[number] for number in sorted(errors)]:
            raise error
        return [results[number] for number in range(len(parts))]


ONE_THREAD = Threads(1)
