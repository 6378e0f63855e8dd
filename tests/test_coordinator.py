"""The coordinator's promises: the same bits whatever computes them, exact numbers, and nothing lost when it stops."""

import itertools
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import models
from kits.coordinators import UNEVEN, SeveralSerial, losses, serial, small
from kits.models import Array, ByImage, ModelError, Scripted, Softmax
from numpy.testing import assert_allclose, assert_array_equal

from parallel_lenet import (
    SGD,
    Adam,
    CheckpointError,
    Coordinator,
    Cosine,
    Dataset,
    DatasetError,
    Engine,
    EpochReport,
    History,
    Metrics,
    StepReport,
    lenet5,
    load_dataset,
)
from parallel_lenet.batching import epoch_order, split
from parallel_lenet.clipping import clip_by_global_norm, global_norm
from parallel_lenet.engines.cluster.engine import Cluster
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.serial import SerialEngine, one_blas_thread

# 1. The result does not depend on the workers.


@pytest.mark.slow
def test_parameters_and_losses_are_bit_identical_for_any_number_of_workers(
    digits: Dataset, leaves_nothing: None
) -> None:
    model = lenet5(kernel="im2col")
    results = set()
    for engine, n_workers in [("serial", 1), ("processes", 1), ("processes", 3)]:
        with Coordinator(model, Adam(), engine=engine, n_workers=n_workers, **UNEVEN) as coordinator:
            curve = losses(coordinator.iterate(digits, 2))
            results.add((coordinator.parameters_sha256(), *curve, coordinator.evaluate(digits)))
    assert len(results) == 1


def test_nor_do_they_for_the_slow_kernel(digits: Dataset, leaves_nothing: None) -> None:
    data = small(digits, 4)
    results = set()
    for engine in ("serial", "processes"):
        with Coordinator(
            lenet5(kernel="naive"), SGD(), engine=engine, n_workers=2, batch_size=3, shard_size=1
        ) as coordinator:
            coordinator.fit(data)
            results.add(coordinator.parameters_sha256())
    assert len(results) == 1


def test_a_model_that_returns_numpys_numbers_gives_the_same_reports_everywhere(
    digits: Dataset, tmp_path: Path, processes: ProcessesEngine
) -> None:
    results = []
    for engine in ("serial", processes):
        with Coordinator(Softmax(), SGD(), engine=engine, **UNEVEN) as coordinator:
            results.append([(r.loss, r.accuracy) for r in coordinator.iterate(digits) if isinstance(r, StepReport)])
            coordinator.save(tmp_path / "checkpoint.npz")
    assert results[0] == results[1]


@pytest.mark.parametrize("shard_size", [1, 7, 10, 56, 150])
def test_a_step_is_the_gradient_of_the_whole_batch_whatever_its_shards(digits: Dataset, shard_size: int) -> None:
    model = lenet5(dtype="float64", kernel="im2col")
    coordinator = serial(model, SGD(0.5), shard_size=shard_size)
    before = coordinator.parameters.copy()
    report = next(coordinator.iterate(digits))
    rows = epoch_order(3, 0, 150)[:56]
    gradient = np.empty_like(before)
    with one_blas_thread():  # Not for the bits: two threads on a busy machine wait for each other.
        sums = model.loss_and_gradient(before, digits.inputs[rows], digits.targets[rows], gradient)
    assert isinstance(report, StepReport)
    assert (report.count, report.accuracy) == (56, sums.correct / 56)
    assert_allclose(report.loss, sums.loss_sum / 56, rtol=1e-13)
    assert_allclose(coordinator.parameters, before - 0.5 * gradient / 56, rtol=1e-9, atol=1e-13)


def test_every_batch_counts_by_its_samples_and_every_epoch_has_an_order_of_its_own(digits: Dataset) -> None:
    """Three epochs of batches of 56, 56 and 38, beside the same steps taken by hand."""
    model, parameters = Softmax(), np.zeros(7850)
    coordinator = serial(model, SGD(0.1), parameters=parameters)
    reports = [report for report in coordinator.iterate(digits, 3) if isinstance(report, StepReport)]
    rows = [epoch_order(3, epoch, 150)[start : start + 56] for epoch in range(3) for start in (0, 56, 112)]
    assert len({tuple(np.sort(batch)) for batch in rows}) == 9
    for batch, report in zip(rows, reports, strict=True):
        gradient = np.empty_like(parameters)
        with one_blas_thread():
            sums = model.loss_and_gradient(parameters, digits.inputs[batch], digits.targets[batch], gradient)
        assert (report.count, report.accuracy) == (len(batch), sums.correct / len(batch))
        assert_allclose(report.loss, sums.loss_sum / len(batch), rtol=1e-6)
        parameters = parameters - 0.1 * gradient / len(batch)
    assert [len(batch) for batch in rows] == [56, 56, 38] * 3
    assert_allclose(coordinator.parameters, parameters, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("samples", "n_workers"), [(1, 1), (10, 1), (56, 1), (56, 3), (64, 2), (73, 3)])
def test_gradients_and_losses_of_a_step_are_added_along_the_tree(digits: Dataset, samples: int, n_workers: int) -> None:
    model, start = Softmax(), np.linspace(-0.01, 0.01, 7850).astype(np.float32)

    def block(rows: Array) -> tuple[float, Array]:
        """The law: a block is its left half plus its right half, down to the shard of 10."""
        if len(rows) <= 10:
            own = np.empty_like(start)
            metrics = model.loss_and_gradient(start, digits.inputs[rows], digits.targets[rows], own)
            return float(metrics.loss_sum), own
        half = 10
        while 2 * half < len(rows):
            half *= 2
        (left_loss, left), (right_loss, right) = block(rows[:half]), block(rows[half:])
        return left_loss + right_loss, left + right

    with Coordinator(
        model, SGD(1.0), engine=SeveralSerial(n_workers), batch_size=samples, shard_size=10, parameters=start
    ) as coordinator:
        with one_blas_thread():
            loss, gradient = block(epoch_order(0, 0, 150)[:samples])
            total, _ = block(np.arange(150))
        result = coordinator.evaluate(digits)
        report = next(coordinator.iterate(digits))
    assert isinstance(report, StepReport)
    assert report.loss == loss / samples
    assert result.loss == total / 150
    assert_array_equal(coordinator.parameters, start - gradient / np.float32(samples))


def test_no_shard_size_changes_a_bit_of_a_model_that_obeys_the_law(digits: Dataset, leaves_nothing: None) -> None:
    results = set()
    for shard_size in (None, 1, 2, 8, 15, 64):
        coordinator = serial(ByImage(), shard_size=shard_size)
        curve = losses(coordinator.iterate(digits))
        results.add((coordinator.parameters_sha256(), *curve, coordinator.evaluate(digits)))
    with Coordinator(ByImage(), Adam(), n_workers=3, **{**UNEVEN, "shard_size": 4}) as coordinator:
        curve = losses(coordinator.iterate(digits))
        results.add((coordinator.parameters_sha256(), *curve, coordinator.evaluate(digits)))
    assert len(results) == 1


@pytest.mark.slow
def test_one_to_sixteen_workers_and_a_resize_give_the_same_bits(digits: Dataset, leaves_nothing: None) -> None:
    results = set()
    for first, then in [(1, 3), (16, 5)]:
        with Coordinator(ByImage(), Adam(), n_workers=first, batch_size=56, seed=3) as coordinator:
            curve = []
            for report in coordinator.iterate(digits, 2):
                if isinstance(report, StepReport):
                    curve.append(report.loss)
                    if report.step == 2:
                        coordinator.resize(then)
            assert coordinator.n_workers == then
            results.add((coordinator.parameters_sha256(), *curve, coordinator.evaluate(digits)))
    alone = serial(ByImage())
    curve = losses(alone.iterate(digits, 2))
    assert results == {(alone.parameters_sha256(), *curve, alone.evaluate(digits))}


class Picky(ByImage):
    """Raises an error for some images, which says where among those that it was given the first is."""

    leaf = 1

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        bad = np.flatnonzero(inputs[:, 0, 0] == 99)
        if len(bad):
            raise ModelError(f"image {bad[0]}")
        return super().loss_and_gradient(parameters, inputs, targets, gradient)


class PickyByShard(Picky):
    leaf = None  # type: ignore[assignment]


ENGINES: list[Callable[[], Engine]] = [
    SerialEngine,
    lambda: ProcessesEngine(1),
    lambda: ProcessesEngine(3),
    lambda: Cluster("threading", n_workers=3),
    lambda: Cluster("loky", n_workers=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("make", ENGINES, ids=["serial", "1 process", "3 processes", "threading", "loky"])
def test_an_exception_names_the_same_samples_for_any_workers(make: Callable[[], Engine], digits: Dataset) -> None:
    order = epoch_order(3, 0, 150)
    inputs = digits.inputs.copy()
    inputs[order[56 + np.array([19, 41])], 0, 0] = 99  # In the second batch; the first is in its third shard of 8.
    expected: list[tuple[Any, str, str]] = [
        (Picky(), "image 0", f"On sample {order[56 + 19]} of dataset 0."),
        (PickyByShard(), "image 3", f"On samples {', '.join(map(str, order[56 + 16 : 56 + 24]))} of dataset 0."),
    ]
    with make() as engine:
        for model, text, note in expected:
            coordinator = Coordinator(model, SGD(), batch_size=56, shard_size=8, seed=3, engine=engine)
            with pytest.raises(ModelError) as caught:
                coordinator.fit(Dataset(inputs, digits.targets))
            assert (str(caught.value), caught.value.__notes__[0], coordinator.step) == (text, note, 1)


def test_no_shard_size_changes_a_bit_with_the_kernel_compiled(digits: Dataset) -> None:
    pytest.importorskip("numba")
    results = set()
    for shard_size in (None, 1, 8, 64):
        coordinator = serial(lenet5(kernel="compiled"), shard_size=shard_size)
        curve = losses(coordinator.iterate(small(digits, 70)))
        results.add((coordinator.parameters_sha256(), *curve, coordinator.evaluate(digits)))
    assert len(results) == 1


def test_shards_of_a_model_with_a_leaf_are_blocks_of_the_tree() -> None:
    model = ByImage()
    assert [serial(model, shard_size=size).shard_size for size in (None, 1, 3, 8, 100)] == [8, 1, 2, 8, 64]
    model.leaf = 12
    assert [serial(model, shard_size=size).shard_size for size in (1, 12, 23, 24, 100)] == [12, 12, 12, 24, 96]
    model.leaf = 0
    with pytest.raises(ValueError, match="the model's leaf must be"):
        serial(model)


def test_a_run_continues_with_another_shard_size_if_it_decides_no_bit(digits: Dataset, tmp_path: Path) -> None:
    whole, first, second = serial(ByImage()), serial(ByImage(), shard_size=1), serial(ByImage(), shard_size=16)
    whole.fit(digits, 2)
    first.fit(digits, 1)
    first.save(tmp_path / "checkpoint.npz")
    second.load(tmp_path / "checkpoint.npz")
    second.fit(digits, 1)
    assert second.parameters_sha256() == whole.parameters_sha256()
    serial(Softmax(), shard_size=4).save(tmp_path / "checkpoint.npz")
    other = serial(Softmax(), shard_size=8)
    other.load(tmp_path / "checkpoint.npz")
    with pytest.raises(CheckpointError, match="shard_size is 4 in the checkpoint, 8 in this coordinator"):
        other.fit(digits)


def test_the_last_batch_counts_only_what_is_in_it(digits: Dataset) -> None:
    reports = list(serial().iterate(digits))
    assert [report.count for report in reports[:-1] if isinstance(report, StepReport)] == [56, 56, 38]
    epoch = reports[-1]
    assert isinstance(epoch, EpochReport)
    assert_allclose(epoch.train_loss, np.average(losses(reports), weights=[56, 56, 38]), rtol=1e-13)


# Validation.


def test_a_fraction_for_validation_is_left_out_of_training_the_same_way_each_time(digits: Dataset) -> None:
    train, validation = split(digits, 0.2, seed=3)
    apart, together, reports = serial(), serial(), serial()
    apart.fit(train, 2, validation)
    for _ in range(2):
        together.fit(digits, 1, validation=np.float32(0.2))
    assert [r.count for r in reports.iterate(digits, 1, 0.2) if isinstance(r, StepReport)] == [56, 56, 8]
    assert together.parameters_sha256() == apart.parameters_sha256()
    assert [e.validation_loss for e in together.history] == [e.validation_loss for e in apart.history]
    for wrong in (0, 1.0, True):
        with pytest.raises(ValueError, match="validation must be a fraction"):
            together.fit(digits, 1, wrong)


def test_the_best_epoch_by_validation_loss_can_be_kept(digits: Dataset, tmp_path: Path) -> None:
    # A learning rate that rises at the third epoch to one that spoils everything.
    def coordinator() -> Coordinator:
        return serial(lenet5(kernel="im2col"), SGD(lambda step: 0.02 if step < 6 else 3.0))

    straight, best, further = coordinator(), coordinator(), coordinator()
    straight.fit(digits, 2, validation=digits)
    history = best.fit(digits, 4, validation=digits, keep_best=True)
    losses = [epoch.validation_loss for epoch in history]
    assert len(losses) == 4
    assert losses.index(min(losses)) == 1  # type: ignore[type-var]
    assert best.parameters_sha256() == straight.parameters_sha256()
    assert (best.epoch, best.step, len(best.history)) == (2, 6, 2)
    best.fit(digits, 1, validation=digits)
    further.fit(digits, 3, validation=digits)
    assert best.parameters_sha256() == further.parameters_sha256()
    with pytest.raises(ValueError, match="keep_best needs validation data"):
        best.fit(digits, 1, keep_best=True)


# Steps, epochs, and going on.


def test_iterate_reports_every_step_and_every_epoch(digits: Dataset) -> None:
    coordinator = serial()
    reports = list(coordinator.iterate(digits, 2, validation=small(digits, 20)))
    assert [(type(r), r.epoch, r.step) for r in reports] == [
        *((StepReport, 1, step) for step in (1, 2, 3)),
        (EpochReport, 1, 3),
        *((StepReport, 2, step) for step in (4, 5, 6)),
        (EpochReport, 2, 6),
    ]
    assert coordinator.history == History((reports[3], reports[7]))  # type: ignore[arg-type]
    assert (coordinator.epoch, coordinator.step) == (2, 6)
    measured = coordinator.evaluate(small(digits, 20))
    assert (reports[7].validation_loss, reports[7].validation_accuracy) == (measured.loss, measured.accuracy)  # type: ignore[union-attr]


@pytest.mark.parametrize("left_after", range(9))
def test_a_loop_that_is_left_goes_on_with_the_same_bits(digits: Dataset, left_after: int) -> None:
    whole, parts = serial(), serial()
    whole.fit(digits, 2)
    for _ in itertools.islice(parts.iterate(digits, 2), left_after):
        pass
    parts.fit(digits, 2 - parts.epoch)
    assert parts.parameters_sha256() == whole.parameters_sha256()
    assert [epoch.train_loss for epoch in parts.history] == [epoch.train_loss for epoch in whole.history]


def test_one_epoch_and_another_are_two_epochs(digits: Dataset) -> None:
    once, twice = serial(), serial()
    assert len(once.fit(digits, 2)) == 2
    twice.fit(digits)
    assert len(twice.fit(digits)) == 2
    assert twice.parameters_sha256() == once.parameters_sha256()


def test_no_epochs_change_nothing(digits: Dataset) -> None:
    coordinator = serial()
    before = coordinator.parameters_sha256()
    assert coordinator.fit(digits, 0) == History()
    assert coordinator.parameters_sha256() == before


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_what_is_evaluated_between_steps_has_no_influence_on_training(digits: Dataset, engine: str) -> None:
    other = Dataset(255 - digits.inputs[:9], digits.targets[:9])
    with Coordinator(Softmax(), SGD(), engine=engine, n_workers=1, **{**UNEVEN, "batch_size": 75}) as disturbed:
        undisturbed = serial(Softmax(), SGD(), batch_size=75)
        for _ in disturbed.iterate(digits):
            disturbed.evaluate(other)
    undisturbed.fit(digits)
    assert disturbed.parameters_sha256() == undisturbed.parameters_sha256()


def test_other_data_evaluated_in_the_loop_cost_no_new_workers(digits: Dataset) -> None:
    other, third = small(digits, 20), small(digits, 30)
    with Coordinator(Softmax(), SGD(), n_workers=1, **UNEVEN) as coordinator:
        workers = set()
        for _ in coordinator.iterate(digits, 2, other):
            coordinator.evaluate(third)
            workers |= set(coordinator.worker_pids())
        assert len(workers) == 1


def test_training_goes_on_with_the_data_it_is_given(digits: Dataset) -> None:
    validation = Dataset(digits.inputs[:40], digits.targets[:40])
    a, b = serial(), serial()
    a.fit(digits, validation=validation)
    a.fit(validation)  # The engine holds both now; it must not take the first.
    b.fit(digits)
    b.fit(Dataset(validation.inputs, validation.targets))
    assert a.parameters_sha256() == b.parameters_sha256()


# Evaluating and predicting.


@pytest.mark.parametrize("n", [1, 9, 10, 11, 149, 150])
def test_evaluation_counts_every_sample_once(digits: Dataset, n: int) -> None:
    coordinator = serial(lenet5())
    coordinator.fit(digits)
    data = small(digits, n)
    metrics = coordinator.evaluate(data)
    correct = int((coordinator.predict(data.inputs) == data.targets).sum())
    assert (metrics.count, metrics.correct, metrics.accuracy) == (n, correct, correct / n)
    assert math.isfinite(metrics.loss)


def test_tuples_of_arrays_are_data_too(digits: Dataset) -> None:
    a, b = serial(), serial()
    a.fit(digits, validation=digits)
    pair = digits.inputs, digits.targets
    b.fit(pair, validation=pair)
    assert a.parameters_sha256() == b.parameters_sha256()
    assert a.evaluate(digits) == b.evaluate(pair)
    with pytest.raises(DatasetError, match="150 inputs but 149 targets"):
        b.fit((digits.inputs, digits.targets[1:]))


# Stopping in the middle.


def test_an_exception_of_the_model_leaves_the_last_finished_step(leaves_nothing: None) -> None:
    inputs = np.zeros((40, 2), np.float32)
    inputs[epoch_order(3, 0, 40)[25]] = models.RAISE, 9  # In the third batch of ten.
    data = Dataset(inputs, np.arange(40))
    good = Dataset(np.zeros((40, 2), np.float32), np.arange(40))
    for engine in ("serial", "processes"):
        with Coordinator(
            Scripted(), SGD(momentum=0.9), engine=engine, n_workers=2, batch_size=10, shard_size=3, seed=3
        ) as coordinator:
            with pytest.raises(ModelError, match="value 9"):
                coordinator.fit(data)
            assert coordinator.step == 2
            with pytest.raises(ModelError, match="value 9"):
                coordinator.fit(data)
            assert coordinator.step == 2
            reference = serial(Scripted(), SGD(momentum=0.9), batch_size=10, shard_size=3)
            for each in (coordinator, reference):
                for _ in itertools.islice(each.iterate(data), 2 - each.step):
                    pass
                each.restart_epoch()
                each.fit(good)
            assert coordinator.parameters_sha256() == reference.parameters_sha256()


def test_a_keyboard_interrupt_within_a_step_leaves_the_step_before() -> None:
    inputs = np.zeros((40, 2), np.float32)
    inputs[epoch_order(3, 0, 40)[25]] = models.INTERRUPT, 0
    coordinator = serial(Scripted(), batch_size=10, shard_size=3)
    finished = []
    steps = coordinator.iterate((inputs, np.arange(40)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(2):
            next(steps)
            finished.append(coordinator.parameters_sha256())
        with pytest.raises(KeyboardInterrupt):
            next(steps)
    finally:
        signal.signal(signal.SIGINT, before)
    assert coordinator.step == len(finished) == 2
    assert coordinator.parameters_sha256() == finished[-1]


def test_an_interrupt_in_the_loop_leaves_the_step_reported(digits: Dataset, leaves_nothing: None) -> None:
    def interrupted() -> None:
        for report in coordinator.iterate(digits, 5):
            if report.step == 2:
                raise KeyboardInterrupt

    with Coordinator(Softmax(), SGD(), n_workers=2, **UNEVEN) as coordinator:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert coordinator.step == 2
        coordinator.fit(digits)
    reference = serial(Softmax(), SGD())
    reference.fit(digits)
    assert coordinator.parameters_sha256() == reference.parameters_sha256()


def test_after_a_with_block_the_state_stays_and_new_workers_start_until_it_is_closed_again(
    digits: Dataset, leaves_nothing: None
) -> None:
    with Coordinator(Softmax(), SGD(0.1), n_workers=1, **UNEVEN) as coordinator:
        coordinator.fit(digits)
        before = coordinator.worker_pids()
    assert coordinator.worker_pids() == []
    coordinator.predict(digits.inputs)
    assert coordinator.worker_pids() == []  # Predicting needs no workers.
    coordinator.fit(digits)
    assert coordinator.epoch == 2
    assert len(coordinator.worker_pids()) == 1
    assert coordinator.worker_pids() != before
    coordinator.close()
    assert coordinator.worker_pids() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "im2col"}, r"Coordinator has no argument kernel: give it to the model, such as lenet5(kernel=...)"),
        ({"lr": 0.1}, "Coordinator has no argument lr: give it to the optimizer, such as Adam(learning_rate=...)"),
        ({"epochs": 3}, "Coordinator has no argument epochs: give it to fit(train, epochs=...)"),
        ({"batchsize": 3}, "Coordinator has no argument batchsize: it has model, optimizer, n_workers, batch_size, "),
    ],
    ids=str,
)
def test_an_unknown_argument_is_told_where_it_belongs(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        Coordinator(Softmax(), SGD(), **arguments)


def test_it_starts_again_after_it_was_closed(digits: Dataset, leaves_nothing: None) -> None:
    coordinator = Coordinator(Softmax(), SGD(), n_workers=1, **UNEVEN)
    for _ in range(2):
        coordinator.fit(digits)
        coordinator.close()
        coordinator.close()
    assert coordinator.epoch == 2


# And what else users rely on.


def test_a_model_of_the_users_own_learns_the_bundled_digits() -> None:
    train, test = load_dataset()
    with Coordinator(Softmax(), Adam(0.002), n_workers=2, seed=1) as coordinator:
        coordinator.fit(train, 6)
        assert coordinator.evaluate(test).accuracy > 0.85


def test_clipping_limits_the_mean_gradient_and_reports_its_norm_before(digits: Dataset) -> None:
    limit = 0.01
    free, clipped = (serial(Softmax(), SGD(1.0), clip_norm=norm) for norm in (1e9, limit))
    start = free.parameters.copy()
    unlimited, limited = next(free.iterate(digits)), next(clipped.iterate(digits))
    gradient = start - free.parameters
    assert isinstance(unlimited, StepReport)
    assert isinstance(limited, StepReport)
    assert limited.gradient_norm == unlimited.gradient_norm > limit
    assert_allclose(unlimited.gradient_norm, np.linalg.norm(gradient), rtol=1e-5)
    assert_array_equal(clipped.parameters, start - clip_by_global_norm(gradient, limit)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_the_reported_norm_is_that_of_the_gradient(dtype: type, scale: float) -> None:
    gradient = (np.random.default_rng(0).standard_normal(5000) * scale).astype(dtype)
    assert_allclose(global_norm(gradient), math.sqrt(sum(float(x) ** 2 for x in gradient)), rtol=1e-5)
    for bad in (np.nan, np.inf):
        gradient[123] = bad
        assert not math.isfinite(global_norm(gradient))
    assert global_norm(np.zeros(3, dtype)) == 0


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_a_step_tells_its_learning_rate_and_where_its_time_went(engine: str, digits: Dataset) -> None:
    schedule = Cosine(1.0, total_steps=6)
    with Coordinator(Softmax(), SGD(schedule), n_workers=2, batch_size=16, shard_size=4, engine=engine) as coordinator:
        reports = [report for report in coordinator.iterate(digits) if isinstance(report, StepReport)]
    assert [report.learning_rate for report in reports] == [schedule(step) for step in range(len(reports))]
    for report in reports:
        times = report.times
        assert min(times.waiting, times.adding, times.updating) > 0
        assert times.waiting + times.adding + times.updating <= report.seconds * 1.000001
        assert 1 <= len(times.computing) <= (1 if engine == "serial" else 2)
        assert all(0 < seconds < report.seconds for seconds in times.computing.values())
        assert all(name.startswith(("worker ", "this process")) for name in times.computing)


def test_a_schedule_counts_all_steps(digits: Dataset) -> None:
    rates = Cosine(1.0, total_steps=6)
    whole, parts = (serial(Softmax(), SGD(rates)) for _ in range(2))
    whole.fit(digits, 2)
    parts.fit(digits)
    parts.fit(digits)
    assert parts.parameters_sha256() == whole.parameters_sha256()


def test_numpys_global_random_state_is_neither_read_nor_changed(digits: Dataset) -> None:
    results = set()
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        coordinator = serial(lenet5())
        coordinator.fit(digits)
        results.add(coordinator.parameters_sha256())
        assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert len(results) == 1


def test_the_seed_decides_the_start_and_the_order(digits: Dataset) -> None:
    starts = {serial(lenet5(), seed=seed).parameters_sha256() for seed in (0, 0, 1)}
    assert len(starts) == 2
    curves = [losses(serial(seed=seed).iterate(digits)) for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]


def test_the_callers_arrays_stay_as_they_are(digits: Dataset) -> None:
    inputs, targets = digits.inputs.copy(), digits.targets.copy()
    inputs.flags.writeable = targets.flags.writeable = False
    coordinator = serial(lenet5())
    coordinator.fit((inputs, targets))
    before = coordinator.parameters
    kept = before.copy()
    coordinator.fit((inputs, targets))
    assert_array_equal(before, kept)  # Parameters that someone took are a snapshot.


def test_sums_of_metrics_add_up() -> None:
    assert Metrics(1.5, 2, 3) + Metrics() + Metrics(0.25, 1, 1) == Metrics(1.75, 3, 4)


def test_another_number_of_workers_between_steps_changes_no_bit(digits: Dataset, leaves_nothing: None) -> None:
    reference = serial()
    reference.fit(digits, 2)
    with Coordinator(Softmax(), Adam(), n_workers=1, **UNEVEN) as coordinator:
        assert coordinator.worker_pids() == []
        for report, workers in zip(coordinator.iterate(digits, 2), itertools.cycle((3, 1, 2)), strict=False):
            assert isinstance(report, StepReport | EpochReport)
            coordinator.resize(workers)
            assert coordinator.n_workers == workers
        assert coordinator.parameters_sha256() == reference.parameters_sha256()
    with pytest.raises(ValueError, match="must not be 0"):
        coordinator.resize(0)
    with pytest.raises(ValueError, match="2"):
        reference.resize(2)
    assert reference.worker_pids() == []


def test_the_epoch_so_far_can_be_asked_for(digits: Dataset) -> None:
    coordinator = serial()
    assert math.isnan(coordinator.epoch_report().train_loss)
    steps = coordinator.iterate(digits)
    first = next(steps)
    assert isinstance(first, StepReport)
    so_far = coordinator.epoch_report()
    assert (so_far.epoch, so_far.step, so_far.train_loss) == (1, 1, first.loss)
    assert coordinator.cursor == 56


def test_limits_are_passed_on_to_the_engine() -> None:
    engine = Coordinator(Softmax(), SGD(), n_workers=1, step_timeout=7.5, max_tries=5).engine
    assert (engine.step_timeout, engine.max_tries) == (7.5, 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "ignored", [{"n_workers": 2}, {"step_timeout": 5}, {"max_tries": 1}, {"cluster_address": "tcp://h:1"}]
)
def test_what_an_engine_that_exists_would_not_see_is_refused(ignored: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=rf"{next(iter(ignored))} has no effect on .*: give it to SerialEngine\("):
        Coordinator(Softmax(), SGD(), engine=SerialEngine(), **ignored)


@pytest.mark.parametrize("name", ["processes", "serial"])
def test_only_a_cluster_has_an_address(name: str) -> None:
    with pytest.raises(ValueError, match=f"cluster_address goes with the engines dask and ray, not with {name}"):
        Coordinator(Softmax(), SGD(), engine=name, cluster_address="tcp://h:1")


def test_an_engine_is_closed_by_the_one_who_created_it(digits: Dataset) -> None:
    with ProcessesEngine(1) as engine:
        with Coordinator(Softmax(), SGD(0.1), engine=engine, batch_size=50) as first:
            reports = first.iterate(digits)
            next(reports)
            pids = engine.worker_pids()
        with pytest.raises(RuntimeError, match="this call has ended"):  # The coordinator was closed.
            next(reports)
        with Coordinator(Softmax(), SGD(0.1), engine=engine, batch_size=50) as second:
            second.fit(digits)
        assert engine.worker_pids() == pids  # The same workers served both.
    assert engine.worker_pids() == []
    with Coordinator(Softmax(), SGD(0.1), n_workers=1, batch_size=50) as own:
        own.fit(digits)
        assert own.worker_pids()
    assert own.worker_pids() == []


def test_an_engine_taken_over_from_another_coordinator_gets_the_new_ones_model(digits: Dataset) -> None:
    engine = SerialEngine()
    hashes = []
    for model in (lenet5(kernel="im2col"), lenet5(kernel="im2col", activation="relu")):
        Coordinator(lenet5(kernel="im2col"), SGD(0.1), engine=engine).fit(digits)
        coordinator = Coordinator(model, SGD(0.1), engine=engine)
        coordinator.fit(digits)
        fresh = Coordinator(model, SGD(0.1), engine="serial")
        fresh.fit(digits)
        hashes.append((coordinator.parameters_sha256(), fresh.parameters_sha256()))
    assert all(taken == fresh for taken, fresh in hashes)
    assert hashes[0] != hashes[1]


def test_a_model_is_warmed_up_once_before_anything_is_measured(digits: Dataset) -> None:
    calls: list[str] = []

    class Compiles:
        def __init__(self) -> None:
            self.model = lenet5(kernel="im2col")
            self.layout, self.initial_parameters, self.predict = (
                self.model.layout,
                self.model.initial_parameters,
                self.model.predict,
            )

        def warm_up(self, parameters: Any, inputs: Any, targets: Any) -> None:
            calls.append(f"warm up {len(inputs)}")

        def loss_and_gradient(self, *arguments: Any) -> Any:
            calls.append("compute")
            return self.model.loss_and_gradient(*arguments)

    with Coordinator(Compiles(), SGD(), engine="serial") as coordinator:
        coordinator.fit(digits, epochs=2)
    assert calls[0] == "warm up 32"
    assert set(calls[1:]) == {"compute"}


def test_a_model_is_warmed_up_with_the_numbers_of_samples_that_it_will_get(digits: Dataset) -> None:
    calls: list[int] = []

    class Compiles(ByImage):
        preferred_shard_size = 32

        def warm_up(self, parameters: Array, inputs: Array, targets: Array) -> None:
            assert len(inputs) == len(targets)
            calls.append(len(inputs))

        def is_compiled(self, samples: int) -> bool:
            return samples == 16

    engine = SeveralSerial(2)
    coordinator = Coordinator(Compiles(), SGD(), engine=engine, batch_size=128)
    assert coordinator.call_sizes == (32,)
    coordinator.warm_up(small(digits, 3))  # Fewer than it needs.
    assert calls == [32]
    for n_workers, sizes in [(3, (32, 16)), (16, (8,)), (2, (32,))]:
        engine.n_workers = n_workers
        assert coordinator.call_sizes == sizes
        coordinator.warm_up(digits)
    assert calls == [32, 8]


def test_an_evaluation_can_be_followed(digits: Dataset) -> None:
    with Coordinator(lenet5(kernel="im2col"), SGD(), engine="serial", shard_size=64) as coordinator:
        metrics = list(coordinator.iterate_evaluation(digits))
        assert 1 < len(metrics) == len({each.count for each in metrics})
        assert metrics[-1] == coordinator.evaluate(digits)


READ_ONLY: dict[str, str] = {
    "batch_size": r"create another one, Coordinator\(model, optimizer, batch_size=\.\.\., parameters=coordinator\.",
    "shard_size": r"create another one, .* shard_size=",
    "seed": "create another one, .* seed=",
    "clip_norm": "create another one, .* clip_norm=",
    "on_nan": "create another one, .* on_nan=",
    "step_timeout": "create another one, .* step_timeout=",
    "engine": "create another one, .* engine=",
    "n_workers": r"call resize\(n_workers\)",
    "model": r"create another one, Coordinator\(model, optimizer\)$",
    "optimizer": r"create another one, Coordinator\(model, optimizer, parameters=coordinator\.parameters\)$",
    "parameters": r"create another one, Coordinator\(model, optimizer, parameters=\.\.\.\)$",
    "leaf": "fit, iterate and load change what it trains",
    "epoch": "fit, iterate and load",
    "history": "fit, iterate and load",
    "workers_note": "fit, iterate and load",
    "fit": "fit, iterate and load",
}


def test_every_public_attribute_is_read_only_and_the_error_says_what_to_do_instead(digits: Dataset) -> None:
    with serial() as coordinator:
        names = {name for name in [*dir(coordinator), *vars(coordinator)] if not name.startswith("_")}
        for name in names:
            sentence = f"^{name} of a Coordinator is read-only: {READ_ONLY.get(name, '')}"
            before = getattr(coordinator, name)
            with pytest.raises(AttributeError, match=sentence):
                setattr(coordinator, name, -1)
            with pytest.raises(AttributeError, match=sentence):
                delattr(coordinator, name)
            assert getattr(coordinator, name) is before or getattr(coordinator, name) == before
        assert names | {"step_timeout"} >= READ_ONLY.keys()
        with pytest.raises(AttributeError, match=f"^step_timeout of .*{READ_ONLY['step_timeout']}"):
            coordinator.step_timeout = 1.0  # type: ignore[attr-defined]
        with pytest.raises(AttributeError, match=r"^a Coordinator has no attribute learning_rate: .* to its optimizer"):
            coordinator.learning_rate = 5  # type: ignore[attr-defined]
        coordinator.model.anything = 1  # type: ignore[attr-defined]
        assert sum(step.count for step in coordinator.iterate(digits) if isinstance(step, StepReport)) == len(digits)


def test_a_batch_size_far_above_the_number_of_samples_costs_nothing(digits: Dataset) -> None:
    few = small(digits, 3)
    parameters = []
    for batch_size in (3, 10**12):
        with Coordinator(lenet5(kernel="im2col"), SGD(0.1), engine="serial", batch_size=batch_size) as coordinator:
            coordinator.fit(few)
            parameters.append(coordinator.parameters)
    np.testing.assert_allclose(*parameters, rtol=1e-5, atol=1e-7)
