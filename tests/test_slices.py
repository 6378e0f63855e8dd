"""Slices of a vector: all of it, each once, in order, on any number of threads."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_lenet.slices import SLICE, Threads

SOME = 5 * SLICE + 17


@given(st.integers(0, SOME), st.integers(1, 9))
def test_the_slices_cover_the_vector_and_their_results_are_in_order(size: int, number: int) -> None:
    parts = Threads(number).map(lambda part: part, size)
    assert [part.start for part in parts] == list(range(0, max(1, size), SLICE))
    assert [part.stop for part in parts] == [*(part.start for part in parts[1:]), size]
    assert parts == Threads(1).map(lambda part: part, size)


def test_three_threads_work_at_once_and_none_remains() -> None:
    before = threading.active_count()
    meeting = threading.Barrier(3)  # Passed only if three are in it.
    names = Threads(3).map(lambda part: (meeting.wait(20), threading.current_thread())[1], 3 * SLICE)
    assert len(set(names)) == 3
    assert threading.current_thread() in names
    assert threading.active_count() == before


def test_one_slice_or_one_thread_needs_no_other_thread() -> None:
    here = threading.current_thread()
    assert Threads(8).map(lambda part: threading.current_thread(), SLICE) == [here]
    assert set(Threads(1).map(lambda part: threading.current_thread(), SOME)) == {here}


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_error_of_the_first_slice_is_raised_when_all_threads_have_stopped(number: int) -> None:
    before = threading.active_count()

    def fail(part: slice) -> None:
        raise ValueError(f"slice {part.start // SLICE}")

    with pytest.raises(ValueError, match=r"^slice 0$"):
        Threads(number).map(fail, SOME)
    assert threading.active_count() == before


def test_an_interrupt_counts_more_than_an_error() -> None:
    both = threading.Barrier(2)

    def interrupted(part: slice) -> None:
        both.wait(20)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        raise ValueError

    with pytest.raises(KeyboardInterrupt):
        Threads(2).map(interrupted, 2 * SLICE)


def test_threads_that_the_system_refuses_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert len(Threads(4).map(lambda part: part.start, SOME)) == 6
