"""The dispatcher's decisions one by one. test_engine_states.py tries all orders of events."""

import math

import pytest

from parallel_lenet.engines.processes.dispatcher import (
    FIRST_SECONDS,
    LATE_FACTOR,
    LATE_SECONDS,
    LONGEST_SECONDS,
    OVERTIME_SECONDS,
    ROWS,
    START_SECONDS,
    AbandonedBlock,
    Dispatcher,
    HeldAnswer,
    Worker,
)

Given = list[tuple[int, int]]
"""A worker's number, and a block's."""


def dispatcher_of(
    workers: int, sizes: list[int], *, max_tries: int = 3, step_timeout: float | None = None
) -> Dispatcher[Worker]:
    """A dispatcher with workers that are ready, at the start of a step."""
    dispatcher = Dispatcher[Worker](max_tries, step_timeout)
    for number in range(workers):
        dispatcher.workers.append(Worker(number, [0] * ROWS, 0.0))
        dispatcher.confirm_opening(dispatcher.workers[-1], 0.0)
    dispatcher.begin(sizes)
    return dispatcher


def assigned(dispatcher: Dispatcher[Worker], now: float) -> Given:
    return [(worker.number, copy.block) for worker, copy in dispatcher.assign(now)]


def measured(workers: int, sizes: list[int], seconds: float) -> Dispatcher[Worker]:
    """As `dispatcher_of`, after a step that has shown how long a sample takes."""
    dispatcher = dispatcher_of(workers, [1])
    dispatcher.assign(0.0)
    dispatcher.answer(dispatcher.workers[0], "answer", 0.0, seconds)
    dispatcher.release(0)
    dispatcher.begin(sizes)
    return dispatcher


def test_a_new_worker_is_starting_and_gets_nothing() -> None:
    dispatcher = Dispatcher[Worker](3, None)
    worker = Worker(4, [0] * ROWS, 2.5)
    assert (worker.number, worker.busy_since, worker.copies, worker.free_rows) == (4, 2.5, [], [0, 1, 2])
    assert (worker.ready, worker.started, worker.was_ready, worker.opens_quickly) == (False, False, False, False)
    dispatcher.workers.append(worker)
    assert (dispatcher.stamp, dispatcher.answers, dispatcher.waiting) == (0, {}, [])
    assert dispatcher.begin([1]) == 1
    assert dispatcher.assign(0.0) == []
    worker.pending_openings += 1  # A context besides.
    dispatcher.confirm_opening(worker, 3.0)
    assert (worker.ready, worker.started, worker.was_ready, worker.busy_since) == (False, True, False, 3.0)
    dispatcher.confirm_opening(worker, 4.0)
    assert (worker.ready, worker.was_ready, worker.busy_since) == (True, True, 4.0)
    assert assigned(dispatcher, 5.0) == [(4, 0)]
    assert worker.busy_since == 5.0


def test_blocks_go_out_in_order_one_to_each_idle_worker_and_then_a_second_one() -> None:
    dispatcher = dispatcher_of(2, [1] * 5)
    assert assigned(dispatcher, 1.0) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    assert dispatcher.waiting == [4]
    first, second = dispatcher.workers[0].copies
    assert (first.stamp, first.block, first.size, first.kind) == (1, 0, 1, None)
    assert first.row != second.row
    assert dispatcher.workers[0].stamps[first.row] == 1
    assert assigned(dispatcher, 1.0) == []  # Each has two.


def test_a_second_block_is_not_sent_ahead_if_blocks_take_long() -> None:
    assert assigned(measured(2, [1] * 5, 0.0199), 0.0) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    assert assigned(measured(2, [1] * 5, 0.02), 0.0) == [(0, 0), (1, 1)]
    assert assigned(measured(2, [2] * 5, 0.01), 0.0) == [(0, 0), (1, 1)]


def test_the_last_free_row_is_kept_for_the_oldest_block_without_an_answer() -> None:
    dispatcher = dispatcher_of(2, [1] * 6)
    assert assigned(dispatcher, 0.0) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    quick = dispatcher.workers[1]
    dispatcher.answer(quick, "1", 0.01)  # Kept: block 0 comes first.
    dispatcher.answer(quick, "3", 0.02)
    assert len(quick.free_rows) == 1
    assert assigned(dispatcher, 0.02) == []  # Blocks 4 and 5 wait, although the worker is idle.
    dispatcher.answer(dispatcher.workers[0], "0", 0.03)
    dispatcher.release(0)
    dispatcher.release(1)
    assert (1, 4) in assigned(dispatcher, 0.03)


def test_an_answer_is_kept_until_its_release_and_later_ones_only_free_their_row() -> None:
    dispatcher = dispatcher_of(2, [1])
    dispatcher.assign(0.0)
    assert assigned(dispatcher, LATE_SECONDS) == [(1, 0)]  # It is late: the idle worker computes it too.
    slow, quick = dispatcher.workers
    row = quick.copies[0].row
    dispatcher.answer(quick, "first", 1.0)
    assert dispatcher.answers == {0: HeldAnswer(quick, row, "first")}
    assert slow.stamps[slow.copies[0].row] == 0  # Not wanted any more.
    dispatcher.answer(slow, "second", 2.0)
    assert dispatcher.answers == {0: HeldAnswer(quick, row, "first")}
    assert len(slow.free_rows) == ROWS
    dispatcher.release(0)
    assert dispatcher.answers == {}
    assert len(quick.free_rows) == ROWS


def test_a_skipped_copy_is_no_answer_and_an_answer_of_an_earlier_step_frees_its_row() -> None:
    dispatcher = dispatcher_of(1, [1, 1], step_timeout=5.0)
    dispatcher.assign(0.0)
    (worker,) = dispatcher.workers
    assert dispatcher.begin([1]) == 2
    assert len(worker.free_rows) == ROWS - 2  # The unanswered copies keep their rows,
    assert [worker.stamps[copy.row] for copy in worker.copies] == [0, 0]  # but are not wanted.
    dispatcher.answer(worker, "of step 1", 1.0)
    dispatcher.answer(worker, None, 1.0)
    assert dispatcher.answers == {}
    assert len(worker.free_rows) == ROWS
    assert worker.computed_kinds == {(None, 1)}
    assert assigned(dispatcher, 1.0) == [(0, 0)]


def test_a_block_is_late_after_a_tenth_of_a_second_or_three_times_the_usual_time() -> None:
    for seconds, patience in ((0.01, LATE_SECONDS), (1.0, LATE_FACTOR * 1.0)):
        dispatcher = measured(2, [1], seconds)
        assert assigned(dispatcher, 5.0) == [(0, 0)]
        assert dispatcher.timeout(5.0) == pytest.approx(patience)
        assert assigned(dispatcher, 5.0 + patience - 1e-6) == []
        assert assigned(dispatcher, 5.0 + patience + 1e-6) == [(1, 0)]


def test_the_second_copy_of_a_worker_is_taken_over_when_its_first_takes_longer_than_usual() -> None:
    dispatcher = measured(2, [1, 1, 1], 0.01)
    assert assigned(dispatcher, 0.0) == [(0, 0), (1, 1), (0, 2)]
    dispatcher.answer(dispatcher.workers[1], "1", 0.01, 0.01)
    late = 0.01 + OVERTIME_SECONDS
    assert assigned(dispatcher, late - 1e-6) == []
    held_up = dispatcher.workers[0].copies[1]
    assert assigned(dispatcher, late + 1e-6) == [(1, 2)]
    assert dispatcher.workers[0].stamps[held_up.row] == 0  # Its first worker has not started it: not wanted there.


def test_the_usual_time_is_the_shorter_of_the_last_two_per_sample() -> None:
    dispatcher = dispatcher_of(1, [2] * 4)
    (worker,) = dispatcher.workers
    usual = []
    for block, seconds in enumerate([0.4, 0.2, 2.0, 0.6]):
        dispatcher.assign(0.0)
        dispatcher.answer(worker, "answer", 0.0, seconds)
        dispatcher.release(block)
        usual.append(dispatcher._usual_seconds)
    assert usual == pytest.approx([0.2, 0.1, 0.1, 0.3])
    dispatcher.reset()
    assert (dispatcher._usual_seconds, dispatcher._last_seconds, dispatcher.waiting) == (0.0, 0.0, [])


def test_the_block_of_a_dead_worker_waits_again_and_is_abandoned_after_max_tries() -> None:
    dispatcher = dispatcher_of(3, [1, 1], max_tries=2)
    assert assigned(dispatcher, 0.0) == [(0, 0), (1, 1)]
    assert dispatcher.died(dispatcher.workers[0], "first death") is False
    assert [worker.number for worker in dispatcher.workers] == [1, 2]
    assert dispatcher.waiting == [0]
    assert (2, 0) in assigned(dispatcher, 0.0)
    victim = dispatcher.workers[1]
    assert dispatcher.died(victim, "second death") is True
    assert dispatcher.answers[0].answer == AbandonedBlock("second death")
    assert dispatcher.waiting == []


def test_a_death_is_no_try_for_a_block_that_another_worker_has_or_that_was_not_started() -> None:
    dispatcher = dispatcher_of(2, [1, 1], max_tries=1)
    assert assigned(dispatcher, 0.0) == [(0, 0), (1, 1)]
    dispatcher.answer(dispatcher.workers[1], "1", 0.0)
    assert assigned(dispatcher, 1.0) == [(1, 0)]
    assert dispatcher.died(dispatcher.workers[0], "death") is False  # Worker 1 computes block 0 too.
    dispatcher.remove(dispatcher.workers[0])  # Let go: no try either.
    assert dispatcher.waiting == [0]
    assert dispatcher.workers == []


def test_deaths_while_starting_count_until_any_worker_is_ready() -> None:
    dispatcher = Dispatcher[Worker](2, None)

    def dies() -> bool:
        dispatcher.workers.append(Worker(0, [0] * ROWS, 0.0))
        return dispatcher.died(dispatcher.workers[-1], "death")

    assert [dies(), dies()] == [False, True]
    dispatcher.workers.append(Worker(1, [0] * ROWS, 0.0))
    dispatcher.confirm_opening(dispatcher.workers[-1], 0.0)
    assert dies() is False
    dispatcher.reset()
    assert dies() is False


def test_the_time_limit_is_longer_for_a_start_and_for_a_first_block_of_a_kind() -> None:
    dispatcher = dispatcher_of(1, [1, 1, 2], step_timeout=5.0)
    (worker,) = dispatcher.workers
    assert dispatcher.overdue(1e9) == []  # Idle workers have no time limit.
    dispatcher.assign(100.0)
    dispatcher._next_check = math.inf
    assert dispatcher.timeout(100.0) == FIRST_SECONDS
    assert dispatcher.overdue(100.0 + FIRST_SECONDS - 0.1) == []
    dispatcher.answer(worker, "0", 101.0)
    assert dispatcher.overdue(105.9) == []
    assert dispatcher.overdue(106.0) == [worker]
    assert dispatcher.overdue(106.0) == []  # Named once.
    starting = Worker(1, [0] * ROWS, 200.0)
    dispatcher.workers.append(starting)
    assert dispatcher.overdue(200.0 + START_SECONDS - 0.1) == []
    assert dispatcher.overdue(200.0 + START_SECONDS) == [starting]
    starting.busy_since = 300.0
    starting.opens_quickly = True
    assert dispatcher.overdue(305.0) == [starting]


def test_without_a_time_limit_nothing_is_overdue_and_waits_have_an_end() -> None:
    dispatcher = dispatcher_of(1, [1])
    assert dispatcher.timeout(0.0) is None
    assert dispatcher.overdue(math.inf) == []
    assert dispatcher_of(1, [1], step_timeout=1e9).timeout(0.0) is None
    busy = dispatcher_of(1, [1], step_timeout=1e9)
    busy.assign(0.0)
    busy._next_check = math.inf
    assert busy.timeout(0.0) == LONGEST_SECONDS
    assert busy.timeout(2e9) == 0.0


def test_resize_and_reset_forget_what_a_worker_that_was_removed_had() -> None:
    dispatcher = dispatcher_of(2, [1] * 4)
    dispatcher.assign(0.0)
    removed = dispatcher.workers[1]
    dispatcher.remove(removed)
    assert removed.copies == []
    assert sorted(dispatcher.waiting) == [1, 3]


def test_times_are_in_proportion_to_the_samples_and_a_copy_says_what_is_computed() -> None:
    dispatcher = measured(2, [4], 0.5)
    dispatcher.begin([4, 4, 4], "a kind")
    ((_, copy), _) = dispatcher.assign(0.0)
    assert (copy.size, copy.kind) == (4, "a kind")
    dispatcher.answer(dispatcher.workers[1], "1", 0.1)
    patience = LATE_FACTOR * 0.5 * 4
    dispatcher.assign(0.1)  # The idle worker gets block 2.
    dispatcher.answer(dispatcher.workers[1], "2", 0.2)
    assert assigned(dispatcher, patience - 1e-6) == []
    assert assigned(dispatcher, patience + 1e-6) == [(1, 0)]
    queued = measured(2, [8, 8, 8], 0.001)
    assert assigned(queued, 0.0) == [(0, 0), (1, 1), (0, 2)]
    queued.answer(queued.workers[1], "1", 0.0)
    overtime = 0.001 * 8 + OVERTIME_SECONDS
    assert assigned(queued, overtime - 1e-6) == []
    assert assigned(queued, overtime + 1e-6) == [(1, 2)]


def test_a_block_that_two_compute_is_late_again_after_the_second_was_assigned() -> None:
    dispatcher = dispatcher_of(3, [1, 1])
    assert assigned(dispatcher, 0.0) == [(0, 0), (1, 1)]
    dispatcher.answer(dispatcher.workers[1], "1", 0.0)
    assert assigned(dispatcher, 0.15) == [(1, 0)]
    assert assigned(dispatcher, 0.15 + LATE_SECONDS - 1e-6) == []
    assert assigned(dispatcher, 0.15 + LATE_SECONDS + 1e-6) == [(2, 0)]


def test_blocks_that_turn_out_to_be_much_shorter_are_late_sooner() -> None:
    dispatcher = measured(3, [1, 1, 1], 10.0)  # The first step was slow: it compiled.
    assert assigned(dispatcher, 0.0) == [(0, 0), (1, 1), (2, 2)]
    dispatcher.answer(dispatcher.workers[1], "1", 0.01, 0.01)
    assert assigned(dispatcher, 0.02) == []
    assert dispatcher.timeout(0.02) == pytest.approx(LATE_SECONDS - 0.02)  # Not 30 s.
    assert assigned(dispatcher, LATE_SECONDS + 1e-6) == [(1, 0)]


def test_the_last_row_is_not_used_to_take_over_a_late_block_that_is_not_the_oldest() -> None:
    dispatcher = measured(2, [1] * 4, 0.03)
    assert assigned(dispatcher, 0.0) == [(0, 0), (1, 1)]
    quick = dispatcher.workers[1]
    for block, now in ((1, 0.03), (2, 0.06)):
        dispatcher.answer(quick, str(block), now)
        assert assigned(dispatcher, now) == ([(1, 2)] if block == 1 else [])
    assert len(quick.free_rows) == 1
    assert assigned(dispatcher, 1.0) == [(1, 0)]  # The oldest.
    assert quick.free_rows == []


def test_a_copy_that_is_not_wanted_is_no_try_when_its_worker_dies() -> None:
    dispatcher = dispatcher_of(2, [1, 1], max_tries=1)
    dispatcher.assign(0.0)
    dispatcher.begin([1])
    assert dispatcher.died(dispatcher.workers[0], "death") is False
    assert dispatcher.answers == {}
    assert dispatcher.died(dispatcher.workers[0], "death") is False
    idle = dispatcher_of(1, [], max_tries=1)
    assert idle.died(idle.workers[0], "death") is False


def test_a_late_answer_to_a_block_that_was_released_is_not_kept() -> None:
    dispatcher = dispatcher_of(2, [1, 1])
    dispatcher.assign(0.0)
    slow, quick = dispatcher.workers
    dispatcher.answer(quick, "1", 0.0)
    assert assigned(dispatcher, 1.0) == [(1, 0)]
    dispatcher.answer(quick, "0", 1.1)
    dispatcher.release(0)
    dispatcher.answer(slow, "0 again", 1.2)
    assert list(dispatcher.answers) == [1]
    assert len(slow.free_rows) == ROWS


def test_an_answer_of_a_copy_that_was_taken_over_cancels_the_copy_that_took_over() -> None:
    dispatcher = measured(2, [1, 1, 1], 0.01)
    assert assigned(dispatcher, 0.0) == [(0, 0), (1, 1), (0, 2)]
    slow, quick = dispatcher.workers
    dispatcher.answer(quick, "1", 0.01, 0.01)
    assert assigned(dispatcher, 0.02) == [(1, 2)]
    dispatcher.answer(slow, "0", 0.1, 0.01)
    dispatcher.answer(slow, "2", 0.1, 0.01)  # It had started the block, as only it could know.
    assert dispatcher.answers[2].worker is slow
    (copy,) = quick.copies
    assert quick.stamps[copy.row] == 0


def test_a_worker_that_will_skip_a_copy_can_get_the_block_again() -> None:
    dispatcher = measured(2, [1, 1, 1], 0.01)
    dispatcher.assign(0.0)
    slow, quick = dispatcher.workers
    dispatcher.answer(quick, "1", 0.01, 0.01)
    assert assigned(dispatcher, 0.02) == [(1, 2)]
    dispatcher.died(quick, "death")
    dispatcher.answer(slow, "0", 0.1, 0.01)
    assert assigned(dispatcher, 0.02) == [(0, 2)]
    skipped, again = slow.copies
    assert (slow.stamps[skipped.row], slow.stamps[again.row]) == (0, dispatcher.stamp)
    dispatcher.answer(slow, None, 0.02)
    dispatcher.answer(slow, "2", 0.03, 0.01)
    assert dispatcher.answers[2].row == again.row
