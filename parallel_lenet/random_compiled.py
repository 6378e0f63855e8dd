"""`random.philox`, compiled by Numba: the random words of samples, with the same bits."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import jit_cache
from parallel_lenet.kernels.compiled.jit import DISABLED, compiled
from parallel_lenet.kernels.compiled.scalars import high_word
from parallel_lenet.random import KEY_STEPS, MULTIPLIERS, ROUNDS, Bits
from parallel_lenet.sample_keys import DOMAIN, SampleKeys

Array = NDArray[Any]

_M0, _M1 = MULTIPLIERS
_W0 = np.uint64(KEY_STEPS[0])
_W1 = np.uint64(KEY_STEPS[1])


@compiled
def words_of_sample(sample: Any, key: Array, words: Array) -> None:
    """The words ``(4 * calls,)`` of one sample: `SampleKeys.words`. ``key`` is that of `key_of`."""
    for j in range(len(words) // 4):
        c0 = np.uint64(j)
        c1 = sample
        c2 = key[2]
        c3 = np.uint64(DOMAIN)
        k0 = key[0]
        k1 = key[1]
        for _ in range(ROUNDS):
            high0 = high_word(c0, _M0)
            low0 = c0 * _M0
            high1 = high_word(c2, _M1)
            low1 = c2 * _M1
            c0 = high1 ^ c1 ^ k0
            c1 = low1
            c2 = high0 ^ c3 ^ k1
            c3 = low0
            k0 += _W0
            k1 += _W1
        words[4 * j] = c0
        words[4 * j + 1] = c1
        words[4 * j + 2] = c2
        words[4 * j + 3] = c3


@compiled
def _words(samples: Array, key: Array, out: Array) -> None:
    words = np.empty(len(out), np.uint64)
    for i in range(len(samples)):
        words_of_sample(samples[i], key, words)
        for j in range(len(words)):
            out[j, i] = words[j]


def key_of(keys: SampleKeys) -> Bits:
    """Seed, epoch and stream as the compiled loops take them."""
    return np.array([keys.seed, keys.epoch, keys.number], np.uint64)


def words(keys: SampleKeys, calls: int) -> Bits:
    """The words of all samples: `sample_keys.philox_words`."""
    out = np.empty((4 * calls, len(keys)), np.uint64)
    _words(keys.samples.astype(np.uint64), key_of(keys), out)
    return out


def is_kept() -> bool:
    """Whether the code is in memory or on disk."""
    return DISABLED or jit_cache.is_kept(_words, numba.uint64)
