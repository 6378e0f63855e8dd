"""NaN and infinity in training: found, traced to shard and layer, stopped or skipped, the last good state intact."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import Array, Forgetful, Softmax
from kits.programs import run_here, write_idx

from parallel_lenet import (
    SGD,
    Adam,
    Coordinator,
    Dataset,
    EpochReport,
    Layout,
    Metrics,
    NonFiniteError,
    StepReport,
    archive,
)
from parallel_lenet.batching import epoch_order
from parallel_lenet.finite import is_finite

GOOD, NAN_LOSS, NAN_SECOND, INFINITE_FIRST, HUGE = range(5)  # What the sample of a `Fragile` model does.


class Fragile:
    """Two layers whose gradient is bad where a sample says so."""

    layout = Layout.of({"first": (3,), "second": (2, 2)})

    def initial_parameters(self, rng: np.random.Generator) -> Array:
        return np.ones(self.layout.size, np.float32)

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        actions = set(inputs[:, 0].astype(int))
        if gradient is not None:
            gradient[:] = 0.1
            views = self.layout.views(gradient)
            if NAN_SECOND in actions:
                views["second"][1, 0] = math.nan
            if INFINITE_FIRST in actions:
                views["first"][2] = math.inf
            if HUGE in actions:
                gradient[:] = 3e38
        return Metrics(math.nan if NAN_LOSS in actions else 1.0, 0, len(inputs))

    def predict(self, parameters: Array, inputs: Array) -> Array:
        return np.zeros(len(inputs))


def data(*bad: tuple[int, int]) -> Dataset:
    """Forty samples. ``(position, action)``: what the sample does that comes at this position of the first epoch."""
    inputs = np.zeros((40, 1), np.float32)
    for position, action in bad:
        inputs[epoch_order(0, 0, 40)[position]] = action
    return Dataset(inputs, np.zeros(40))


def coordinator(**settings: Any) -> Coordinator:
    return Coordinator(Fragile(), Adam(), **{"batch_size": 10, "shard_size": 3, "engine": "serial", **settings})


CASES: list[tuple[list[tuple[int, int]], str, int | None, str | None]] = [
    ([(26, NAN_SECOND)], "step 3, shard 3 of 4: the loss is 1, and the gradient of second holds NaN", 3, "second"),
    ([(26, NAN_SECOND), (29, INFINITE_FIRST)], "step 3, shard 3 of 4: the loss is 1, and the gr", 3, "second"),
    (
        [(20, INFINITE_FIRST), (21, NAN_SECOND)],
        "shard 1 of 4: the loss is 1, and the gradient of first",
        1,
        "first",
    ),
    ([(29, NAN_LOSS)], "step 3, shard 4 of 4: the loss is nan, and all gradients are finite", 4, None),
    ([(20, HUGE), (23, HUGE)], "step 3: the shards are finite, but their sum overflows", None, None),
]


@pytest.mark.parametrize(
    ("engine", "bad", "message", "shard", "layer"),
    [*(("serial", *case) for case in CASES), *(("processes", *case) for case in (CASES[1], CASES[-1]))],
)
def test_it_stops_with_the_step_the_shard_and_the_layer(
    engine: str, bad: list[tuple[int, int]], message: str, shard: int | None, layer: str | None
) -> None:
    with coordinator(engine=engine, n_workers=1) as c:
        with pytest.raises(NonFiniteError, match=re.escape(message)) as caught:
            c.fit(data(*bad))
        assert (caught.value.step, caught.value.shard, caught.value.layer) == (3, shard, layer)
        assert isinstance(caught.value, ArithmeticError)
        assert (c.step, c.cursor) == (2, 20)  # The step before, and it stays usable.
        c.restart_epoch()
        c.fit(data())
        assert c.epoch == 1


def test_an_update_that_overflows_is_found_where_it_happens() -> None:
    c = Coordinator(Softmax(), SGD(1e38), engine="serial", batch_size=5, shard_size=5)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 28, 28)).astype(np.float32) * 1e3
    with pytest.raises(NonFiniteError, match="the update put NaN or infinity into weight: the learning rate may"):
        c.fit((pixels, np.arange(50) % 10))
    assert np.isfinite(c.parameters).all()


def test_a_skipped_step_updates_nothing_and_the_next_one_runs() -> None:
    c, reference = coordinator(on_nan="skip"), coordinator()
    reports = list(c.iterate(data((12, NAN_LOSS))))
    steps = [report for report in reports if isinstance(report, StepReport)]
    assert [(report.step, report.skipped is not None) for report in steps] == [
        *((1, False), (1, True), (2, False), (3, False)),
    ]
    assert steps[1].skipped is not None
    assert "step 2, shard 1 of 4" in steps[1].skipped
    for _ in zip(range(3), reference.iterate(data()), strict=False):
        pass
    assert c.parameters_sha256() == reference.parameters_sha256()  # All gradients are equal: three updates are three.
    epoch = reports[-1]
    assert isinstance(epoch, EpochReport)
    assert math.isfinite(epoch.train_loss)


def test_an_epoch_of_skipped_steps_only_is_an_error() -> None:
    c = coordinator(on_nan="skip", batch_size=40)
    with pytest.raises(NonFiniteError, match="epoch 1: every step was skipped"):
        c.fit(data((0, NAN_LOSS)))


def test_on_nan_is_checked() -> None:
    with pytest.raises(ValueError, match="on_nan must be stop or skip, got 'ignore'"):
        coordinator(on_nan="ignore")


def test_the_check_sees_every_position() -> None:
    vector = np.zeros(61_706, np.float32)
    assert is_finite(1.0, vector)
    for position in (0, 61_705):
        for bad in (math.nan, math.inf, -math.inf):
            changed = vector.copy()
            changed[position] = bad
            assert not is_finite(1.0, changed)
    assert not is_finite(math.inf, vector)


@pytest.mark.parametrize("engine", ["serial", "processes", "threading"])
def test_a_gradient_that_a_model_forgets_to_write_is_noticed(engine: str, digits: Dataset) -> None:
    coordinator = Coordinator(Forgetful(), SGD(), engine=engine, n_workers=2, batch_size=40, shard_size=10)
    with coordinator, pytest.raises(NonFiniteError, match=r"step 1, shard 1 of 4: .* the gradient of weight holds NaN"):
        coordinator.fit(digits)


def test_the_command_line_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 40, 20)
    arguments = [
        "--data-dir",
        "data",
        "--kernel",
        "im2col",
        "--batch-size",
        "10",
        "--engine",
        "serial",
        "--warmup",
        "0",
    ]
    arguments += ["--optimizer", "sgd", "--learning-rate", "1e30", "--checkpoint-every", "1", "--out", "r"]
    result = run_here(tmp_path, "train", *arguments, code=1)
    last = result.stderr.splitlines()[-1]
    assert re.match(r"parallel-lenet: step \d+, shard \d of \d: the loss is \S+, and ", last)
    arrays, _ = archive.load(tmp_path / "r" / "checkpoint.npz")
    assert np.isfinite(arrays["parameters"]).all()
    skipping = run_here(tmp_path, "train", *arguments[:-1], "s", "--on-nan", "skip", code=1)
    assert skipping.stderr.count("note: skipped images 1 to 10 of epoch 2: step ") == 1
    assert "every step was skipped" in skipping.stderr


def test_skipping_is_part_of_a_runs_configuration(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 40, 20)
    arguments = ["--data-dir", "data", "--kernel", "im2col", "--engine", "serial", "--epochs", "1", "--on-nan", "skip"]
    result = json.loads(run_here(tmp_path, "train", *arguments, "--json", "--out", "r").stdout)
    assert result["steps"] == 1
    assert 'on-nan = "skip"' in (tmp_path / "r" / "config.toml").read_text()


class Flaky(Fragile):
    """Gives NaN in the gradient of one sample the first time that any worker computes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        metrics = super().loss_and_gradient(parameters, inputs, targets, gradient)
        if gradient is not None and (targets == 1).any():
            done = self.folder / "done"
            if not done.exists():
                done.touch()
                (self.folder / "pid").write_text(str(os.getpid()))
                gradient[0] = math.nan
        return metrics


@pytest.mark.parametrize("engine", ["serial", "processes", "threading"])
def test_a_gradient_that_was_bad_only_once_is_said_to_be_irreproducible_with_the_worker_that_computed_it(
    engine: str, tmp_path: Path
) -> None:
    samples = data()
    targets = samples.targets.copy()
    targets[epoch_order(0, 0, 40)[13]] = 1
    model = Flaky(tmp_path)
    with (
        Coordinator(model, Adam(), batch_size=12, shard_size=3, engine=engine, n_workers=2) as c,
        pytest.raises(NonFiniteError) as error,
    ):
        c.fit(Dataset(samples.inputs, targets))
    message = str(error.value)
    assert message.startswith("step 2: the loss or a gradient from ")
    assert "but finite numbers when the same shards were computed again" in message
    pid = (tmp_path / "pid").read_text()
    blamed = message.partition(" from ")[2].partition(" held ")[0]
    if engine == "serial":
        assert blamed == "this process"
    else:
        assert re.search(rf"\b{pid}\b", blamed)
        assert " and " not in blamed  # Of the two workers, the one.
    assert c.step == 1


@pytest.mark.parametrize("engine", ["serial", "threading"])
def test_parameters_or_a_loss_that_hold_nan_are_an_error_not_an_accuracy(engine: str) -> None:
    parameters = np.ones(7, np.float32)
    parameters[5] = math.nan
    with coordinator(parameters=parameters, engine=engine, n_workers=2) as c:
        for call in (c.evaluate, lambda d: list(c.iterate_evaluation(d)), lambda d: c.predict(d.inputs)):
            with pytest.raises(NonFiniteError, match="hold NaN or infinity in second: no prediction is possible"):
                call(data())
    with coordinator(engine=engine, n_workers=2) as c:
        for call in (c.evaluate, lambda d: list(c.iterate_evaluation(d)), lambda d: c.fit(data(), 1, d)):
            with pytest.raises(NonFiniteError, match="the loss on the data to evaluate is nan"):
                call(data((3, NAN_LOSS)))
        assert c.evaluate(data()).count == 40
