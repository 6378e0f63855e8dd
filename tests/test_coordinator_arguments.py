"""The arguments of a coordinator and of its calls: what is wrong is named, with its value and what to do."""

import math
import re
from typing import Any

import numpy as np
import pytest
from kits import models
from kits.coordinators import serial
from kits.models import Array, ByImage, Scripted, Softmax

from parallel_lenet import (
    SGD,
    Coordinator,
    Dataset,
    DatasetError,
    Metrics,
    lenet5,
)
from parallel_lenet.engines.processes.engine import ProcessesEngine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number of at least 1, got 2.0"),
        ({"shard_size": 0}, "shard_size must be a whole number of at least 1, got 0"),
        ({"shard_size": True}, "shard_size must be a whole number of at least 1, got True"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": 2**64}, f"seed must be below 2**64, got {2**64}"),
        ({"clip_norm": 0}, "clip_norm must be a number above 0, or None, got 0"),
        ({"clip_norm": math.nan}, "clip_norm must be a number above 0, or None, got nan"),
        ({"n_workers": 0}, "the number of workers must not be 0: use 1 or more, -1 for all usable cores, -2 for all"),
        ({"step_timeout": 0}, "step_timeout must be a number above 0, or None, got 0"),
        ({"max_tries": 0}, "max_tries must be a whole number of at least 1, got 0"),
        ({"engine": "threads"}, "engine must be processes, serial, dask, ray, loky or threading, got 'threads'"),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_named_with_its_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Coordinator(Softmax(), SGD(), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lenet5, SGD()), "the model must be an object with layout, initial_parameters, loss_and_gradient, predict, "),
        ((SGD(), Softmax()), "the model must be an object with layout"),
        ((Softmax(), None), "the optimizer must be an object with init, update, got None"),
        ((Softmax(), SGD), "the optimizer must be an object with init, update, got <class "),
    ],
)
def test_what_is_no_model_or_optimizer_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        Coordinator(*arguments)


def test_what_is_no_engine_no_data_and_no_input_is_named(digits: Dataset) -> None:
    with pytest.raises(TypeError, match="engine must be a name or an Engine, got 3"):
        Coordinator(Softmax(), SGD(), engine=3)  # type: ignore[arg-type]
    coordinator = serial()
    for data in (None, digits.inputs, (digits.inputs,)):
        with pytest.raises(TypeError, match=r"data must be a Dataset or a pair \(inputs, targets\), got "):
            coordinator.fit(data)  # type: ignore[arg-type]
    for call in (coordinator.evaluate, coordinator.iterate_evaluation, coordinator.warm_up):
        with pytest.raises(TypeError, match=rf"one pair, {call.__name__}\(\(inputs, targets\)\)$"):
            call(digits.inputs, digits.targets)  # type: ignore[operator]
    for call in (coordinator.fit, coordinator.iterate):
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'epoch'$"):
            call(digits, epoch=3)  # type: ignore[call-arg]
        with pytest.raises(
            TypeError, match=rf"unexpected keyword argument 'y'; .* {call.__name__}\(\(inputs, targets\)"
        ):
            call(digits.inputs, y=digits.targets)  # type: ignore[operator]
    for pair in (([[1.0]], digits.targets), (digits.inputs, [1])):
        with pytest.raises(DatasetError, match=r"must be a NumPy array, got list: np\.asarray\((in|tar).*\) makes one"):
            coordinator.fit(pair)  # type: ignore[arg-type]
    for inputs, what in (
        (digits, "Dataset"),
        ([1.0], r"list: np\.asarray\(inputs\) makes one"),
        (np.array(["a"]), "an array of <U1"),
    ):
        with pytest.raises(TypeError, match=f"inputs must be a NumPy array of numbers, got {what}"):
            coordinator.predict(inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (None, "None"),
        ([0, 1, 2], r"\[0, 1, 2\]"),
        (np.zeros(2), r"an array of shape \(2,\)"),
        (np.array(7), "an array"),
    ],
)
def test_predictions_are_one_per_input(result: Any, found: str) -> None:
    class Predicting(Softmax):
        def predict(self, parameters: Array, inputs: Array) -> Any:
            return result

        predict_proba = predict

    coordinator = serial(Predicting())
    for method in (coordinator.predict, coordinator.predict_proba):
        with pytest.raises(
            ValueError, match=rf"must return an array with one row per input, got {found}.* for \(3, 28, 28\)"
        ):
            method(np.zeros((3, 28, 28)))


def test_how_a_dataset_lies_in_memory_changes_no_bit_on_any_engine(processes: ProcessesEngine) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.random((9, 5, 60)).astype(np.float32).transpose(2, 0, 1)
    hashes = set()
    for data in (inputs, np.ascontiguousarray(inputs)):
        for where in ({"engine": "serial"}, {"engine": "threading", "n_workers": 2}, {"engine": processes}):
            with Coordinator(models.Raveled(), SGD(0.1), batch_size=20, shard_size=5, **where) as coordinator:  # type: ignore[arg-type]
                coordinator.fit((data, np.zeros(60, np.int64)))
                hashes.add(coordinator.parameters_sha256())
    assert len(hashes) == 1


@pytest.mark.parametrize("engine", ["serial", "processes"])
@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, "loss_and_gradient must return Metrics, got NoneType"),
        ((1.0, 1, 1), TypeError, "loss_and_gradient must return Metrics, got tuple"),
        (Metrics(1.0, 1, 7), ValueError, "the 10 samples it was given: count 10, got 7, and correct a whole number"),
        (Metrics(1.0, 11, 10), ValueError, "and correct a whole number from 0 to 10, got 11"),
        (Metrics(1.0, -1, 10), ValueError, "and correct a whole number from 0 to 10, got -1"),
        (Metrics(1.0, 0.5, 10), ValueError, "and correct a whole number from 0 to 10, got 0.5"),  # type: ignore[arg-type]
        (Metrics("1", 1, 10), TypeError, "Metrics of numbers, got loss_sum='1'"),  # type: ignore[arg-type]
        (Metrics(1.0, np.ones(2), 10), TypeError, "Metrics of numbers, got correct=array([1., 1.])"),  # type: ignore[arg-type]
    ],
)
def test_metrics_that_cannot_be_are_refused(
    returned: Any, error: type[Exception], message: str, engine: str, digits: Dataset, processes: ProcessesEngine
) -> None:
    where = processes if engine == "processes" else engine
    with Coordinator(models.Returning(returned), SGD(), batch_size=20, shard_size=10, engine=where) as coordinator:
        with pytest.raises(error, match=re.escape(message)):
            coordinator.fit(digits)
        with pytest.raises(error, match=re.escape(message)):
            coordinator.evaluate(digits)


@pytest.mark.parametrize("epochs", [-1, 1.5, True])
def test_epochs_are_checked_before_anything_runs(digits: Dataset, epochs: Any) -> None:
    with pytest.raises(ValueError, match=f"epochs must be a whole number of at least 0, got {epochs}"):
        serial().iterate(digits, epochs)


@pytest.mark.parametrize("start", [np.zeros(49, np.float32), np.zeros((1, 50), np.float32), np.zeros(50, np.int64)])
def test_initial_parameters_that_do_not_fit_the_layout_are_refused(start: Array) -> None:
    class Wrong(Scripted):
        def initial_parameters(self, rng: np.random.Generator) -> Array:
            return start

    message = re.escape(f"got {start.dtype} of shape {start.shape}")
    with pytest.raises(ValueError, match=rf"float32 or float64 of shape \(50,\).*{message}"):
        serial(Wrong())


def test_no_more_workers_start_than_a_batch_has_shards_and_that_is_noted_not_warned_of(
    digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="parallel_lenet")
    with Coordinator(Softmax(), SGD(), n_workers=50, batch_size=64, shard_size=32) as coordinator:
        assert coordinator.n_workers == 2
        note = (
            "2 of 50 workers run: a batch of 64 makes 2 shards of 32; a smaller shard_size or a larger batch_size "
            "makes more"
        )
        assert coordinator.workers_note == note
        assert caplog.messages == [note]
        coordinator.evaluate(digits)  # It has 5 shards.
        assert len(coordinator.worker_pids()) == 2
        coordinator.resize(1)
        assert (coordinator.n_workers, coordinator.workers_note) == (1, None)
        coordinator.resize(3)
        assert (coordinator.n_workers, coordinator.workers_note) == (2, note.replace("50", "3"))
        coordinator.fit(digits)
        assert len(coordinator.worker_pids()) == 2
    leaves = Coordinator(ByImage(), SGD(), n_workers=50, batch_size=8)
    assert leaves.n_workers == 4
    assert (
        leaves.workers_note == "4 of 50 workers run: a batch of 8 makes 4 blocks of 2; a larger batch_size makes more"
    )
    assert Coordinator(ByImage(), SGD(), n_workers=4, batch_size=8).workers_note is None
    mine = Coordinator(Softmax(), SGD(), engine=ProcessesEngine(3), batch_size=64, shard_size=32)
    assert mine.n_workers == 3
    assert mine.workers_note is not None
    assert mine.workers_note.startswith("2 of 3 workers have work: ")
