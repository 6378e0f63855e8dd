"""The balanced tree of additions, with numbers whose sum shows how it was added."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_lenet.tree import TreeSum


def by_halves(first: int, leaves: int) -> str:
    """The law, as the module words it: brackets round each sum of two halves."""
    if leaves == 1:
        return str(first)
    half = 1
    while 2 * half < leaves:
        half *= 2
    return f"({by_halves(first, half)} {by_halves(first + half, leaves - half)})"


def add(left: str, right: str) -> str:
    return f"({left} {right})"


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A number of leaves, and aligned blocks (first, size) that hold them all. The last may be cut off."""
    leaves = draw(st.integers(1, 100))
    blocks = []
    first = 0
    while first < leaves:
        sizes = [2**k for k in range(8) if first % 2**k == 0 and first + 2 ** (k - 1) < leaves]
        size = draw(st.sampled_from(sizes))
        blocks.append((first, size))
        first += size
    return leaves, blocks


@given(cuts())
def test_the_total_is_the_same_however_the_leaves_are_cut_into_blocks(cut: tuple[int, list[tuple[int, int]]]) -> None:
    leaves, blocks = cut
    sums = TreeSum(add)
    for first, size in blocks:
        sums.append(by_halves(first, min(size, leaves - first)), size)
        assert sums.total() == by_halves(0, min(first + size, leaves))
        assert 1 <= sums.waiting <= leaves.bit_length()


@given(st.integers(1, 70))
def test_blocks_that_wait_can_be_kept(leaves: int) -> None:
    """As an engine gives them: each block in the same memory, which is written to again when the next is asked for."""
    memory = [""]
    sums = TreeSum[list[str]](lambda left, right: [add(left[0], right[0])])
    for leaf in range(leaves):
        memory[0] = str(leaf)
        if leaf % 2:
            sums.append(memory, 1)
        else:
            sums.append(memory)  # The same.
        sums.keep(list)
    memory[0] = "overwritten"
    assert sums.total() == [by_halves(0, leaves)]


def test_nothing_has_no_sum() -> None:
    with pytest.raises(ValueError, match=r"^there is nothing to add$"):
        TreeSum[int]().total()
