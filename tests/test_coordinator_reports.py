"""What a coordinator tells of itself: every field of its reports, its text, and the words of its errors."""

import logging
import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.coordinators import SeveralSerial, serial
from kits.models import Array, Scripted

from parallel_lenet import (
    SGD,
    Coordinator,
    Cosine,
    Dataset,
    DatasetError,
    EpochReport,
    Metrics,
    NonFiniteError,
    StepReport,
    lenet5,
)
from parallel_lenet.batching import epoch_order
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.optimizers import OptimizerState
from parallel_lenet.reports import StepTimes

DATA = Dataset(np.linspace(0, 0.1, 24, dtype=np.float32).reshape(12, 2), np.arange(12.0))
OTHER = Dataset(DATA.inputs + 1, DATA.targets)


def scripted(model: Any = None, optimizer: Any = None, **settings: Any) -> Coordinator:
    return serial(model or Scripted(), optimizer or SGD(0.1), **{"batch_size": 5, "shard_size": 2, **settings})


class Weighted(Scripted):
    """Takes weights, and counts them as samples."""

    def loss_and_gradient(  # type: ignore[override]
        self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None, weights: Array | None = None
    ) -> Metrics:
        metrics = super().loss_and_gradient(parameters, inputs, targets, gradient)
        return Metrics(metrics.loss_sum, 0, metrics.count, metrics.count if weights is None else float(weights.sum()))


# Reports.


def test_a_batch_without_weight_has_a_report_and_counts_as_done() -> None:
    weights = np.zeros(12)
    weights[epoch_order(3, 1, 12)[-1]] = 2  # In the last batch of the second epoch.
    coordinator = scripted(Weighted(), SGD(Cosine(1.0, total_steps=6)))
    coordinator.fit(DATA)
    reports = coordinator.iterate(Dataset(DATA.inputs, DATA.targets, weights=weights))
    for _ in range(2):
        report = next(reports)
        assert isinstance(report, StepReport)
        assert (report.epoch, report.step, report.count, report.seconds) == (2, 3, 5, 0.0)
        assert all(math.isnan(number) for number in (report.loss, report.accuracy, report.gradient_norm))
        assert report.skipped == "all weights of the batch are 0"
        assert report.learning_rate == Cosine(1.0, total_steps=6)(3)
        assert report.times == StepTimes()
    assert (coordinator.step, coordinator.cursor) == (3, 10)
    with pytest.raises(DatasetError, match="epoch 2 is unfinished, with 10 samples done, and was started with other"):
        next(coordinator.iterate(OTHER))
    *_, step, epoch = reports
    assert isinstance(step, StepReport)
    assert isinstance(epoch, EpochReport)
    assert (step.count, step.skipped, epoch.train_loss) == (2, None, step.loss)
    assert epoch.images_per_second == pytest.approx(2 / epoch.seconds)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_report_of_a_step_has_all_figures(clip_norm: float | None) -> None:
    coordinator = scripted(clip_norm=clip_norm)
    start = coordinator.parameters
    coordinator.fit(DATA)
    began = time.perf_counter()
    *steps, epoch = coordinator.iterate(DATA)
    elapsed = time.perf_counter() - began
    assert [(step.epoch, step.step, step.count) for step in steps if isinstance(step, StepReport)] == [
        *((2, 4, 5), (2, 5, 5), (2, 6, 2)),
    ]
    for step in steps:
        assert isinstance(step, StepReport)
        times = step.times
        assert step.skipped is None
        assert step.learning_rate == 0.1
        assert step.gradient_norm > 0
        assert times.waiting + times.adding + times.updating == pytest.approx(step.seconds, rel=0.9)
        assert (0 < times.clipping < times.updating) == (clip_norm is not None)
        assert (times.clipping == 0.0) == (clip_norm is None)
        assert list(times.computing) == ["this process"]
    assert isinstance(epoch, EpochReport)
    seconds = sum(step.seconds for step in steps if isinstance(step, StepReport))
    assert epoch.seconds == pytest.approx(seconds, rel=1e-9)
    assert 0 < epoch.seconds <= elapsed
    assert epoch.images_per_second == pytest.approx(12 / epoch.seconds, rel=1e-9)
    assert not np.array_equal(coordinator.parameters, start)


def test_a_report_of_an_epoch_so_far_has_all_figures() -> None:
    coordinator = scripted()
    coordinator.fit(DATA)
    before = coordinator.epoch_report()
    assert (before.epoch, before.step, before.seconds, before.images_per_second) == (2, 3, 0.0, 0.0)
    assert math.isnan(before.train_loss)
    assert math.isnan(before.train_accuracy)
    reports = coordinator.iterate(DATA, validation=OTHER)
    steps = [next(reports), next(reports)]
    now = coordinator.epoch_report()
    assert (now.epoch, now.step) == (2, 5)
    assert now.train_loss == pytest.approx(np.mean([step.loss for step in steps if isinstance(step, StepReport)]))
    assert now.train_accuracy == pytest.approx(
        np.mean([step.accuracy for step in steps if isinstance(step, StepReport)])
    )
    assert now.images_per_second == pytest.approx(10 / now.seconds)
    assert (now.validation_loss, now.validation_accuracy) == (None, None)
    *_, done = reports
    assert isinstance(done, EpochReport)
    measured = coordinator.evaluate(OTHER)
    assert (done.validation_loss, done.validation_accuracy) == (measured.loss, measured.accuracy)
    assert coordinator.history[1] == done
    assert len(coordinator.history) == 2


def test_an_epoch_that_starts_again_forgets_its_samples_and_figures() -> None:
    coordinator = scripted()
    coordinator.fit(DATA)
    reports = coordinator.iterate(DATA)
    next(reports)
    parameters, history = coordinator.parameters, coordinator.history
    coordinator.restart_epoch()
    assert (coordinator.epoch, coordinator.step, coordinator.cursor) == (1, 4, 0)
    assert coordinator.parameters is parameters
    assert coordinator.history == history
    assert coordinator.epoch_report().seconds == 0
    assert math.isnan(coordinator.epoch_report().train_loss)
    coordinator.fit(OTHER)  # With other data.
    assert (coordinator.epoch, coordinator.step) == (2, 7)


def test_an_epoch_of_skipped_steps_is_named_with_the_step() -> None:
    coordinator = scripted(Nan(), on_nan="skip")
    with pytest.raises(NonFiniteError) as caught:
        coordinator.fit(DATA)
    assert str(caught.value) == "epoch 1: every step was skipped for NaN or infinity"
    assert caught.value.step == 0


def test_a_skipped_update_leaves_parameters_and_optimizer_as_they_were() -> None:
    class Overflowing(Plain):
        def update(self, parameters: Array, gradient: Array, state: OptimizerState) -> tuple[Array, OptimizerState]:
            result, after = super().update(parameters, gradient, state)
            return (result * np.float32(np.inf) if state.step == 1 else result), after

    coordinator = scripted(optimizer=Overflowing(), on_nan="skip")
    first, second, *_ = coordinator.iterate(DATA)
    assert isinstance(first, StepReport)
    assert isinstance(second, StepReport)
    assert second.skipped == ("step 2: the update put NaN or infinity into weight: the learning rate may be too high")
    assert (first.step, second.step, coordinator.step, len(coordinator.history)) == (1, 1, 1, 1)
    alone = scripted(optimizer=Overflowing())
    next(alone.iterate(DATA))
    assert coordinator.parameters_sha256() == alone.parameters_sha256()
    assert coordinator.history[0].train_loss == first.loss


class Nan(Scripted):
    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        metrics = super().loss_and_gradient(parameters, inputs, targets, gradient)
        return Metrics(math.nan, metrics.correct, metrics.count)


class Plain:
    """An optimizer with any ``learning_rate``, or none."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def init(self, parameters: Array) -> OptimizerState:
        return OptimizerState(0, {})

    def update(self, parameters: Array, gradient: Array, state: OptimizerState) -> tuple[Array, OptimizerState]:
        return parameters - gradient, OptimizerState(state.step + 1, {})


@pytest.mark.parametrize(
    ("attributes", "rates"),
    [
        ({}, [None, None, None]),
        ({"learning_rate": "high"}, [None, None, None]),
        ({"learning_rate": None}, [None, None, None]),
        ({"learning_rate": np.float32(0.5)}, [0.5, 0.5, 0.5]),
        ({"learning_rate": 2}, [2.0, 2.0, 2.0]),
        ({"learning_rate": lambda step: 1 / (1 + step)}, [1.0, 1 / 2, 1 / 3]),
    ],
    ids=["none", "a word", "None", "of NumPy", "whole", "a schedule"],
)
def test_the_learning_rate_of_any_optimizer_is_reported(attributes: dict[str, Any], rates: list[float | None]) -> None:
    reports = scripted(optimizer=Plain(**attributes)).iterate(DATA)
    found = [report.learning_rate for report in reports if isinstance(report, StepReport)]
    assert found == rates
    assert all(rate is None or type(rate) is float for rate in found)


# Its text.


def test_a_coordinator_shows_its_settings_and_where_it_is() -> None:
    coordinator = scripted(clip_norm=2, on_nan="skip")
    assert repr(coordinator) == (
        "Coordinator(Scripted, SGD, n_workers=1, engine=SerialEngine, batch_size=5, epoch=0, step=0)"
    )

    def rows() -> dict[str, str]:
        lines = (line.strip().split("  ", 1) for line in str(coordinator).splitlines() if "  " in line.strip())
        return {name: text.strip() for name, text in lines}

    assert {name: text for name, text in rows().items() if name not in ("model", "optimizer")} == {
        "workers": "1 of SerialEngine()",
        "batch_size": "5",
        "shard_size": "2",
        "seed": "3",
        "clip_norm": "2.0",
        "on_nan": "skip",
        "finished": "0 epochs, 0 steps",
        "unfinished epoch": "none",
    }
    assert rows()["model"].startswith("Scripted(")
    assert rows()["optimizer"] == "SGD(learning_rate=0.1)"
    reports = coordinator.iterate(DATA)
    next(reports)
    assert (rows()["finished"], rows()["unfinished epoch"]) == ("0 epochs, 1 step", "5 samples")
    for _ in reports:
        pass
    assert (rows()["finished"], rows()["unfinished epoch"]) == ("1 epoch, 3 steps", "none")
    shown = [line for line in str(scripted(engine=Recording())).splitlines() if line.startswith("workers")]
    assert shown == ["workers           2 of SerialEngine(), processes 11, 12"]


class Recording(SeveralSerial):
    """An engine that would have two processes, and can have any number of workers."""

    def __init__(self) -> None:
        super().__init__(2)

    def worker_pids(self) -> list[int]:
        return [11, 12]

    def resize(self, n_workers: int) -> None:
        self.n_workers = n_workers


# Its calls.


def test_another_number_of_workers_is_passed_on() -> None:
    coordinator = scripted(engine=Recording())
    assert (coordinator.n_workers, coordinator.workers_note) == (2, None)
    reports = coordinator.iterate(DATA)
    next(reports)
    coordinator.resize(5)
    assert coordinator.n_workers == 5
    assert coordinator.workers_note is not None
    assert coordinator.workers_note.startswith("3 of 5 workers have work: a batch of 5 makes 3 shards of 2")
    undisturbed = scripted()
    undisturbed.fit(DATA)
    for _ in reports:
        pass
    assert coordinator.parameters_sha256() == undisturbed.parameters_sha256()


class Calling(Scripted):
    """Calls something while it computes a gradient."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        object.__setattr__(self, "call", call)

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        self.call()  # type: ignore[attr-defined]
        return super().loss_and_gradient(parameters, inputs, targets, gradient)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("fit or iterate", lambda c, loop: c.fit(DATA)),
        ("a step", lambda c, loop: next(loop)),
        ("evaluate", lambda c, loop: c.evaluate(DATA)),
        ("warm_up", lambda c, loop: c.warm_up(DATA)),
        ("resize", lambda c, loop: c.resize(1)),
        ("close", lambda c, loop: c.close()),
    ],
)
def test_a_model_that_calls_its_coordinator_is_told_which_call_would_wait_for_itself(
    name: str, call: Callable[[Coordinator, Iterator[Any]], Any]
) -> None:
    coordinator = scripted(Calling(lambda: call(coordinator, loop)))
    loop = coordinator.iterate(DATA)
    with pytest.raises(RuntimeError) as caught:
        coordinator.fit(DATA)
    assert str(caught.value) == f"{name} was called during another call of this coordinator, by the same thread"
    assert coordinator.step == 0


def test_calls_that_would_disturb_another_threads_training_are_refused_by_their_names(tmp_path: Path) -> None:
    coordinator = scripted()
    coordinator.save(tmp_path / "c.npz")
    started, finished = threading.Event(), threading.Event()

    def train() -> None:
        reports = coordinator.iterate(DATA)
        next(reports)
        started.set()
        finished.wait(60)

    thread = threading.Thread(target=train, name="trainer")
    thread.start()
    started.wait(60)
    try:
        for action, call in (
            ("train", lambda: coordinator.fit(DATA)),
            ("train", lambda: coordinator.iterate(DATA)),
            ("load", lambda: coordinator.load(tmp_path / "c.npz")),
            ("start the epoch again", coordinator.restart_epoch),
            ("close", coordinator.close),
        ):
            with pytest.raises(RuntimeError) as caught:
                call()
            assert str(caught.value) == (
                f"can't {action} now: another thread, trainer, trains, loads or closes with this coordinator; wait "
                "until that has ended"
            )
        assert (coordinator.step, coordinator.cursor) == (1, 5)
    finally:
        finished.set()
        thread.join()


def test_the_model_is_warmed_up_with_the_current_parameters_unless_it_is_closed() -> None:
    got: list[tuple[bool, int]] = []

    class Compiles(Scripted):
        def warm_up(self, parameters: Array, inputs: Array, targets: Array) -> None:
            got.append((np.array_equal(parameters, coordinator.parameters), len(inputs)))

    coordinator = scripted(Compiles())
    coordinator.warm_up(DATA)
    assert sorted(got) == [(True, 1), (True, 2)]
    got.clear()
    coordinator = scripted(Compiles())
    next(coordinator.iterate(DATA))
    assert sorted(got) == [(True, 1), (True, 2)]
    coordinator = scripted(Compiles())
    reports = coordinator.iterate(DATA)
    coordinator.close()
    with pytest.raises(RuntimeError, match="this call has ended"):
        next(reports)
    assert len(got) == 2


def test_a_compiled_step_of_the_optimizer_is_warmed_up_once() -> None:
    class Fused(Plain):
        fused = True
        calls = 0

        def update(self, parameters: Array, gradient: Array, state: OptimizerState) -> tuple[Array, OptimizerState]:
            self.calls += 1
            return super().update(parameters, gradient, state)

    optimizer = Fused()
    coordinator = scripted(optimizer=optimizer)
    for _ in range(2):
        coordinator.warm_up(DATA)
    assert optimizer.calls == 1
    coordinator.fit(DATA)
    assert optimizer.calls == 1 + coordinator.step


def test_a_step_that_is_computed_again_has_the_random_numbers_of_the_first_time() -> None:
    class Drawing(Scripted):
        def loss_and_gradient(  # type: ignore[override]
            self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None, keys: Array | None = None
        ) -> Metrics:
            metrics = super().loss_and_gradient(parameters, inputs, targets, gradient)
            return metrics if keys is None else Metrics(math.nan, metrics.correct, metrics.count)

    with pytest.raises(NonFiniteError, match=r"^step 1, shard 1 of 3: the loss is nan, and all gradients are finite$"):
        scripted(Drawing()).fit(DATA)


def test_the_defaults_are_those_of_the_documentation() -> None:
    coordinator = Coordinator(Scripted(), SGD())
    assert (coordinator.batch_size, coordinator.seed, coordinator.clip_norm, coordinator.on_nan) == (
        128,
        0,
        None,
        "stop",
    )
    assert isinstance(coordinator.engine, ProcessesEngine)
    assert (coordinator.engine.max_tries, coordinator.engine.step_timeout, coordinator.trace) == (3, None, None)
    assert scripted().fit(DATA)[-1].epoch == 1
    assert [report.epoch for report in scripted().iterate(DATA)] == [1, 1, 1, 1]


def test_probabilities_warn_of_random_parameters_by_their_own_name(caplog: pytest.LogCaptureFixture) -> None:
    class Certain(Scripted):
        def predict_proba(self, parameters: Array, inputs: Array) -> Array:
            return np.ones((len(inputs), 1), np.float32)

    coordinator = scripted(Certain())
    with caplog.at_level(logging.WARNING, "parallel_lenet"):
        for _ in range(2):
            coordinator.predict_proba(DATA.inputs)
    assert caplog.messages == ["predict_proba before any training: the parameters are the random initial ones"]
    with pytest.raises(TypeError) as caught:
        scripted().predict_proba(DATA.inputs)
    assert str(caught.value) == ("Scripted has no probabilities: it lacks the method predict_proba(parameters, inputs)")


def test_only_a_dict_is_metadata_and_none_is_an_empty_one(tmp_path: Path) -> None:
    coordinator = scripted()
    coordinator.save(tmp_path / "c.npz")
    assert coordinator.load(tmp_path / "c.npz") == {}
    for wrong in ([], "text", 3):
        with pytest.raises(TypeError, match=f"^metadata must be a dict, got {type(wrong).__name__}$"):
            coordinator.save(tmp_path / "c.npz", wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^metadata\['deep'\]\['curve'\] is an array of shape \(2,\)"):
        coordinator.save(tmp_path / "c.npz", {"deep": {"curve": np.zeros(2)}})


def test_a_trace_must_be_a_trace() -> None:
    with pytest.raises(TypeError, match=r"^trace must be a Trace or None, got 't\.json': Trace\(path\) creates one$"):
        scripted(trace="t.json")


def test_patience_and_the_best_epoch_need_validation_data() -> None:
    for name, arguments in (("keep_best", {"keep_best": True}), ("patience", {"patience": 2})):
        with pytest.raises(ValueError, match=f"^{name} needs validation data: ") as caught:
            scripted().fit(DATA, **arguments)  # type: ignore[arg-type]
        assert str(caught.value).endswith("validation must be data, or a fraction such as 0.1")
    with pytest.raises(ValueError, match=r"^patience must be a whole number of at least 1, got 0$"):
        scripted().fit(DATA, 1, OTHER, patience=0)


def test_a_refused_call_leaves_no_call_behind() -> None:
    coordinator = scripted()
    next(coordinator.iterate(DATA))
    with pytest.raises(DatasetError, match="epoch 1 is unfinished, with 5 samples done"):
        coordinator.fit(OTHER)
    assert (coordinator.step, coordinator.cursor) == (1, 5)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(len(coordinator.fit(DATA))))
    thread.start()
    thread.join()
    assert results == [1]


def test_call_sizes_follow_the_batch_and_the_shards() -> None:
    assert scripted(batch_size=5, shard_size=2).call_sizes == (2, 1)
    assert scripted(batch_size=4, shard_size=2).call_sizes == (2,)


def test_data_that_do_not_fit_the_model_are_refused_by_each_evaluation() -> None:
    coordinator = serial(lenet5(kernel="im2col"))
    for call in (coordinator.evaluate, coordinator.iterate_evaluation):
        with pytest.raises(DatasetError, match=r"^data: "):
            call((DATA.inputs, np.zeros(12, np.int64)))


def test_a_coordinator_says_in_place_of_a_copy_what_to_do() -> None:
    with pytest.raises(TypeError) as caught:
        pickle.dumps(scripted())
    assert str(caught.value) == (
        "a Coordinator cannot be copied or pickled, since it holds workers: save(path) writes its state, and "
        "load(path) of another Coordinator takes it over"
    )
