"""Random numbers for dropout and augmentation, decided by (seed, epoch, sample).

A sample's numbers do not depend on the samples beside it. So they are the same for any number of workers and any size
of a shard, after the death of a worker, and after a resume.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import InvalidValue, whole_number
from parallel_lenet.random import Bits, philox

DOMAIN = 1  # The counter's last word. It is 0 for the numbers that shuffle an epoch, which have the same key.


Draw = Callable[["SampleKeys", int], Bits]
"""Computes the words ``(4 * calls, n)`` of the keys and the number of calls of the generator."""


class SampleKeys:
    """The random numbers of some samples in one epoch of training: see `Model` and `Layer`.

    The numbers are those of `random.philox` with the key ``(seed, epoch)``. Each sample has its own counters, which
    contain its position in the dataset. A call computes the numbers of all samples at once.

    - ``samples``: the positions ``(n,)`` of the samples in the training data, int64.
    - ``stream``: which numbers of these samples. Every stream has other numbers. `Sequential` gives each layer a
      stream of its own.

    >>> keys = SampleKeys(seed=0, epoch=3, samples=np.array([5, 2]))
    >>> keys.uniform(-1, 1, shape=(2,)).round(3)
    array([[-0.823,  0.904],
           [ 0.376,  0.676]])
    >>> keys.integers(-2, 3)
    array([-2,  1])
    """

    def __init__(self, seed: int, epoch: int, samples: NDArray[np.int64], stream: int = 0) -> None:
        self.seed = seed
        self.epoch = epoch
        self.samples = samples
        self.number = stream
        self._streams: dict[int, SampleKeys] = {}
        self._words: Bits | None = None
        self._draw: Draw = philox_words

    def __len__(self) -> int:
        return len(self.samples)

    def stream(self, number: int) -> "SampleKeys":
        """Other numbers for the same samples: a second draw needs another stream than the first."""
        if number not in self._streams:
            stream = whole_number("stream", number, 0, 2**63)
            self._streams[number] = SampleKeys(self.seed, self.epoch, self.samples, stream).drawn_by(self._draw)
        return self._streams[number]

    def words(self, count: int) -> Bits:
        """The first ``count`` random 64-bit words of each sample, uint64 ``(count, n)``, read-only.

        Word ``4 * j + i`` of a sample is word i of ``philox((j, sample, stream, 1), key=(seed, epoch))``. A second call
        returns the same words.
        """
        if self._words is None or len(self._words) < count:
            self._words = self._draw(self, -(-whole_number("count", count, 0) // 4))
            self._words.flags.writeable = False
        return self._words[:count]

    def drawn_by(self, draw: Draw) -> "SampleKeys":
        """The same numbers, which ``draw`` computes as `philox_words` does."""
        keys = SampleKeys(self.seed, self.epoch, self.samples, self.number)
        keys._draw = draw
        return keys

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Numbers from ``low`` to below ``high``, ``shape`` of them for each sample: float64 ``(n, *shape)``.

        Number i of a sample is ``low + (high - low) * k / 2^53``, for the upper 53 bits k of its i-th word.
        """
        integers = self.words(math.prod(shape)).T >> np.uint64(11)
        result = integers.astype(np.float64).reshape(len(self), *shape)
        result *= 2.0**-53
        result *= high - low
        result += low
        return result

    def integers(self, low: int, high: int, shape: tuple[int, ...] = ()) -> NDArray[np.int64]:
        """Whole numbers from ``low`` to ``high - 1``, ``shape`` of them for each sample: int64 ``(n, *shape)``.

        Number i of a sample is ``low + floor((high - low) * k / 2^32)``, for the upper 32 bits k of its i-th word.
        Raises ValueError unless ``low < high <= low + 2^32``.
        """
        low = whole_number("low", low)
        high = whole_number("high", high)
        if not low < high <= low + 2**32:
            raise InvalidValue("high", f"above low, {low}, and at most 2^32 more", high)
        upper = self.words(math.prod(shape)).T >> np.uint64(32)
        numbers = (upper * np.uint64(high - low) >> np.uint64(32)).astype(np.int64) + low
        return numbers.reshape(len(self), *shape)


def philox_words(keys: SampleKeys, calls: int) -> Bits:
    """The words ``(4 * calls, n)`` of all samples by ``calls`` calls of `random.philox` for each."""
    n = len(keys)
    counters = np.empty((4, calls, n), np.uint64)
    counters[0] = np.arange(calls, dtype=np.uint64)[:, np.newaxis]
    counters[1] = keys.samples.astype(np.uint64)
    counters[2] = keys.number
    counters[3] = DOMAIN
    words = philox(counters.reshape(4, -1), (keys.seed, keys.epoch)).reshape(4, calls, n)
    return np.ascontiguousarray(words.transpose(1, 0, 2)).reshape(4 * calls, n)
