"""Random numbers: Philox against its published vectors and NumPy's own, and what is made of its words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_lenet.random import INITIAL, generator, permutation, philox, uniform, words

KEYS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))

# counter, key and output, from Random123's file kat_vectors, lines "philox4x64 10".
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
    ),
    (
        (2**64 - 1,) * 4,
        (2**64 - 1,) * 2,
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (  # The digits of pi.
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_philox_gives_the_published_words(
    counter: tuple[int, ...], key: tuple[int, int], output: tuple[int, ...]
) -> None:
    counters = np.array([counter, counter], np.uint64).T
    assert philox(counters, key).T.tolist() == [list(output), list(output)]


@given(KEYS, st.integers(0, 50))
def test_words_are_those_of_numpys_philox(key: tuple[int, int], n: int) -> None:
    theirs = np.random.Philox(key=np.array(key, np.uint64)).random_raw(n)
    assert words(key, n).tolist() == theirs.tolist()


@given(KEYS, st.integers(0, 300))
def test_a_permutation_sorts_the_words(key: tuple[int, int], n: int) -> None:
    order = permutation(key, n)
    assert order.dtype == np.int64
    assert order.tolist() == sorted(range(n), key=words(key, n).tolist().__getitem__)


def test_every_permutation_is_as_likely_as_another() -> None:
    counts = np.zeros((4, 4))
    for epoch in range(2000):
        counts[np.arange(4), permutation((1, epoch), 4)] += 1
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500 * 3 / 4)


def test_uniform_numbers_are_those_of_the_words_that_the_key_gives() -> None:
    key = np.random.default_rng(3).bit_generator.random_raw(2).tolist()
    ours = uniform(np.random.default_rng(3), -2, 3, (2, 5))
    assert ours.shape == (2, 5)
    assert ours.ravel().tolist() == [-2 + 5 * ((word >> 11) / 2**53) for word in words(tuple(key), 10).tolist()]


def test_uniform_numbers_fill_their_range_evenly() -> None:
    rng = np.random.default_rng(0)
    numbers = uniform(rng, -0.5, 0.5, (100_000,))
    assert numbers.min() >= -0.5
    assert numbers.max() < 0.5
    assert np.abs(np.histogram(numbers, 10, (-0.5, 0.5))[0] - 10_000).max() < 5 * np.sqrt(9000)
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02
    assert (uniform(rng, -0.5, 0.5, (100,)) != numbers[:100]).all()


def test_a_seeds_generator_is_philox_with_a_key_that_no_epoch_has() -> None:
    for seed in (0, 7, 2**64 - 1):
        assert generator(seed).bit_generator.random_raw(8).tolist() == words((seed, INITIAL), 8).tolist()
