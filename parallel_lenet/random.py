"""Random numbers that are the same on all machines and with all versions of NumPy.

NumPy may change what `permutation` and `standard_normal` draw, and the mathematical library that they use differs
between machines. So the numbers that decide a training are computed here, with whole-number arithmetic alone. A
generator is a *key* of two 64-bit numbers. Its n-th number is a function of the key and n.
"""

import math

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # The golden ratio and sqrt(3) - 1, times 2^64.

INITIAL = 2**64 - 2  # In the place of an epoch's number. No training has this number of epochs.

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def philox(counter: Bits, key: tuple[int, int]) -> Bits:
    """Philox4x64-10: random words for many counters at once, ``(4, n)`` uint64 -> ``(4, n)`` uint64.

    Ten rounds. Round r = 0 to 9 turns the words ``c0 to c3`` and the key ``k0, k1`` into

        c0, c1, c2, c3 = high(M1 * c2) ^ c1 ^ (k0 + r * W0),  low(M1 * c2),
                         high(M0 * c0) ^ c3 ^ (k1 + r * W1),  low(M0 * c0)

    where ``high`` and ``low`` are the halves of the 128-bit product, M are `MULTIPLIERS`, W are `KEY_STEPS`, and sums
    are taken modulo 2^64. It passes the statistical tests of TestU01's BigCrush. Source: Salmon, Moraes, Dror, Shaw,
    "Parallel random numbers: as easy as 1, 2, 3" (2011), section 4.3. It is the same as `numpy.random.Philox` and
    Random123's ``philox4x64``.
    """
    c0, c1, c2, c3 = counter
    m0, m1 = MULTIPLIERS
    for r in range(ROUNDS):
        k0, k1 = (np.uint64((word + r * step) % 2**64) for word, step in zip(key, KEY_STEPS, strict=True))
        c0, c1, c2, c3 = _high_word(c2, m1) ^ c1 ^ k0, c2 * m1, _high_word(c0, m0) ^ c3 ^ k1, c0 * m0
    return np.stack([c0, c1, c2, c3])


def _high_word(a: Bits, m: np.uint64) -> Bits:
    """The upper 64 bits of the product ``a * m``, from the products of 32-bit halves."""
    a0, a1 = a & _LOW, a >> _HALF
    m0, m1 = m & _LOW, m >> _HALF
    middle = a1 * m0 + (a0 * m0 >> _HALF)
    upper: Bits = a1 * m1 + (middle >> _HALF) + (a0 * m1 + (middle & _LOW) >> _HALF)
    return upper


def generator(seed: int) -> np.random.Generator:
    """NumPy's generator for a model's initial parameters: over Philox with the key ``(seed, INITIAL)``."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, INITIAL], np.uint64)))


def words(key: tuple[int, int], n: int) -> Bits:
    """The first ``n`` random 64-bit words ``(n,)`` of the key, each of whose numbers is below 2^64.

    They are the outputs of `philox` for the counters 1, 2, ..., and so ``numpy.random.Philox(key=key).random_raw(n)``.
    """
    counter = np.zeros((4, -(-n // 4)), np.uint64)
    counter[0] = np.arange(1, counter.shape[1] + 1, dtype=np.uint64)
    result: Bits = philox(counter, key).T.reshape(-1)[:n]
    return result


def permutation(key: tuple[int, int], n: int) -> NDArray[np.int64]:
    """The numbers 0 to ``n - 1`` in random order, int64.

    Number i takes the position of the i-th word of the key when the words are sorted. Equal words stay in order.
    """
    return np.argsort(words(key, n), kind="stable").astype(np.int64, copy=False)


def uniform(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers ``low + (high - low) * k / 2^53``, float64 of ``shape``, for random whole k from 0 to 2^53 - 1.

    Like ``rng.uniform``, but the same with every version of NumPy. The key of the numbers is two words of the
    generator, which NumPy promises not to change.
    """
    first, second = rng.bit_generator.random_raw(2)
    integers = words((int(first), int(second)), math.prod(shape)) >> np.uint64(11)
    result = integers.astype(np.float64).reshape(shape)
    result *= 2.0**-53
    result *= high - low
    result += low
    return result
