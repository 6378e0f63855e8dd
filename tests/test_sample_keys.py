"""Random numbers by (seed, epoch, sample): dropout, and augmentation in a model of one's own."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import Array, Softmax
from numpy.testing import assert_array_equal

from parallel_lenet import (
    SGD,
    AvgPool2d,
    Cluster,
    Conv2d,
    Coordinator,
    Dataset,
    Dense,
    Dropout,
    Flatten,
    Images,
    Metrics,
    Model,
    ReLU,
    SampleKeys,
    Sequential,
    StepReport,
    load_model,
)
from parallel_lenet.explain import explain
from parallel_lenet.random import words

rng = np.random.default_rng(2)
DATA = Dataset(rng.integers(0, 256, (60, 6, 6), np.uint8), rng.integers(0, 3, 60))
BIG = 2**40


def dropping(rate: float = 0.5, kernel: str = "naive") -> Sequential:
    layers = (Flatten(), Dropout(rate), Dense(8), ReLU(), Dropout(rate), Dense(3))
    return Sequential(Images(6, size=6), layers, kernel=kernel)


class Shifted(Softmax):
    """Softmax regression on images that are moved by up to two pixels while it is trained."""

    def loss_and_gradient(
        self,
        parameters: Array,
        inputs: Array,
        targets: Array,
        gradient: Array | None,
        keys: SampleKeys | None = None,
    ) -> Metrics:
        images = inputs.reshape(-1, 28, 28)
        if keys is not None:
            images = np.stack(
                [np.roll(image, move, (0, 1)) for image, move in zip(images, keys.integers(-2, 3, (2,)), strict=True)]
            )
        return super().loss_and_gradient(parameters, images.reshape(inputs.shape), targets, gradient)


def trained(model: Model, data: Dataset, each: Callable[[Coordinator], object] | None = None, **settings: Any) -> str:
    with Coordinator(model, SGD(0.05), **({"batch_size": 16, "engine": "serial"} | settings)) as coordinator:
        for _ in coordinator.iterate(data):
            if each is not None:
                each(coordinator)
        return coordinator.parameters_sha256()


def kill(coordinator: Coordinator) -> None:
    if coordinator.step == 2:
        os.kill(coordinator.worker_pids()[0], signal.SIGKILL)


@pytest.mark.parametrize(
    ("seed", "epoch", "sample", "stream"), [(0, 0, 0, 0), (7, 3, 12345, 2), (2**64 - 1, BIG, BIG, BIG)]
)
def test_the_words_are_those_of_numpys_philox(seed: int, epoch: int, sample: int, stream: int) -> None:
    found = SampleKeys(seed, epoch, np.array([sample])).stream(stream).words(12)
    key = np.array([seed, epoch], np.uint64)
    counter = np.array([0, sample, stream, 1], np.uint64)
    oracle = np.random.Philox(key=key, counter=counter).random_raw(8)  # It counts up before it draws.
    assert_array_equal(found[4:, 0], oracle)


def test_a_samples_numbers_depend_on_nothing_but_their_key() -> None:
    samples = np.array([4, 9, 2, 30])
    keys = SampleKeys(1, 2, samples)
    assert_array_equal(keys.words(3), keys.words(11)[:3])
    for i, sample in enumerate(samples):
        alone = SampleKeys(1, 2, np.array([sample]))
        assert_array_equal(alone.words(5)[:, 0], keys.words(5)[:, i])
        assert_array_equal(alone.uniform(2, 4, (3, 2))[0], keys.uniform(2, 4, (3, 2))[i])
        assert_array_equal(alone.stream(3).integers(0, 9, (4,))[0], keys.stream(3).integers(0, 9, (4,))[i])
    others = [
        SampleKeys(2, 2, samples).words(8),
        SampleKeys(1, 3, samples).words(8),
        SampleKeys(1, 2, samples + 1).words(8),
        keys.stream(1).words(8),
        words((1, 2), 32),
        keys.words(8),
    ]
    assert len(np.unique(np.concatenate([each.ravel() for each in others]))) == 6 * 32


def test_compiled_numbers_have_the_same_bits() -> None:
    random_compiled = pytest.importorskip("parallel_lenet.random_compiled")
    keys = SampleKeys(2**64 - 1, 5, np.array([9, 0, 2**40]), 2**63)
    for count in (0, 1, 7, 64):
        fast = SampleKeys(keys.seed, 5, keys.samples, keys.number).drawn_by(random_compiled.words)
        assert_array_equal(fast.words(count), keys.words(count))
        assert_array_equal(fast.stream(3).words(count), keys.stream(3).words(count))
    assert random_compiled.is_kept()
    some = SampleKeys(1, 2, np.arange(8))
    losses = []
    for kernel in ("im2col", "compiled"):
        model = dropping(kernel=kernel)
        parameters = model.initial_parameters(np.random.default_rng(0))
        metrics = model.loss_and_gradient(parameters, DATA.inputs[:8], DATA.targets[:8], None, keys=some)
        losses.append(metrics.loss_sum)
    assert abs(losses[0] - losses[1]) < 1e-4


def test_the_numbers_are_evenly_spread() -> None:
    keys = SampleKeys(0, 0, np.arange(500))
    uniform = keys.uniform(-1, 3, (20,))
    assert uniform.shape == (500, 20)
    assert -1 <= uniform.min() < -0.99
    assert 2.99 < uniform.max() < 3
    assert abs(uniform.mean() - 1) < 0.05
    whole = keys.integers(-2, 3, (20,))
    counts = np.unique(whole, return_counts=True)
    assert_array_equal(counts[0], [-2, -1, 0, 1, 2])
    assert abs(counts[1] / 2000 - 1).max() < 0.1
    assert keys.integers(5, 6).tolist() == [5] * 500
    for low, high in ((0, 0), (3, 2), (0, 2**32 + 1)):
        with pytest.raises(ValueError, match=f"high must be above low, {low}, and at most 2\\^32 more, got {high}"):
            keys.integers(low, high)


def test_dropout_keeps_each_number_with_its_probability_and_the_mean() -> None:
    keys = SampleKeys(0, 0, np.arange(100))
    x = np.ones((200, 100), np.float32)
    y, dx = np.empty_like(x), np.empty_like(x)
    for rate in (0.0, 0.2, 0.75):
        layer = Dropout(rate)
        layer.forward(None, {}, x, y, keys=keys)  # type: ignore[arg-type]
        layer.input_gradient(None, {}, x, y, 2 * x, dx, keys=keys)  # type: ignore[arg-type]
        assert set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - rate))}
        assert abs((y == 0).mean() - rate) < 0.02
        assert_array_equal(dx, 2 * y)
        layer.forward(None, {}, x, y)  # type: ignore[arg-type]
        assert_array_equal(y, x)
    for wrong in (1, -0.1, float("nan"), "half"):
        with pytest.raises(ValueError, match="Dropout: rate must be a number of at least 0 and below 1, got"):
            Dropout(wrong)  # type: ignore[arg-type]


def test_dropout_is_off_in_evaluation_and_differs_from_layer_to_layer_and_epoch_to_epoch() -> None:
    network, plain = dropping(), dropping(0)
    parameters = network.initial_parameters(np.random.default_rng(0))
    assert_array_equal(network.scores(parameters, DATA.inputs), plain.scores(parameters, DATA.inputs))
    arguments = (parameters, DATA.inputs, DATA.targets, None)
    off = network.loss_and_gradient(*arguments)
    assert off == plain.loss_and_gradient(*arguments)
    losses = {network.loss_and_gradient(*arguments, keys=SampleKeys(0, e, np.arange(60))).loss_sum for e in (0, 1)}
    assert len(losses | {off.loss_sum}) == 3
    x = np.ones((40, 3))
    keys = SampleKeys(0, 0, np.arange(3))
    masks = [np.empty_like(x), np.empty_like(x)]
    for stream, mask in enumerate(masks):
        Dropout().forward(None, {}, x, mask, keys=keys.stream(stream))  # type: ignore[arg-type]
    assert (masks[0] != masks[1]).any()


@pytest.mark.parametrize("model", [dropping(), Shifted()], ids=["dropout", "augmentation"])
def test_no_bit_depends_on_workers_engines_or_deaths(model: Model) -> None:
    data = DATA
    shard_size = 8
    if isinstance(model, Shifted):
        data = Dataset(rng.integers(0, 256, (60, 784), np.uint8), rng.integers(0, 10, 60))
    wanted = trained(model, data, shard_size=shard_size)
    with pytest.warns(match="another has taken its place"):
        assert trained(model, data, kill, n_workers=2, engine="processes", shard_size=shard_size) == wanted
    with Cluster("threading", n_workers=2) as cluster:
        assert trained(model, data, engine=cluster, shard_size=shard_size) == wanted
    assert trained(model, data, shard_size=shard_size, seed=1) != wanted
    if getattr(model, "leaf", None) == 1:
        assert trained(model, data, shard_size=2) == wanted


def test_a_resumed_training_draws_the_same_numbers(tmp_path: Path) -> None:
    def coordinator() -> Coordinator:
        return Coordinator(dropping(kernel="im2col"), SGD(0.05), engine="serial", batch_size=16)

    whole = coordinator()
    first = coordinator()
    second = coordinator()
    whole.fit(DATA, epochs=2)
    for report in first.iterate(DATA, epochs=2):
        if isinstance(report, StepReport) and report.step == 6:
            break
    first.save(tmp_path / "c.npz")
    second.load(tmp_path / "c.npz")
    second.fit(DATA)
    assert second.parameters_sha256() == whole.parameters_sha256()
    trained = load_model(tmp_path / "c.npz")
    assert trained.model.layers[1] == Dropout(0.5)
    assert_array_equal(trained.predict(DATA.inputs), first.predict(DATA.inputs))


def test_a_lesson_leaves_dropout_out() -> None:
    layers = (Conv2d(2, 3), ReLU(), AvgPool2d(2), Flatten(), Dropout(), Dense(4), ReLU(), Dense(3))
    network = Sequential(Images(8, size=8), layers, kernel="naive")
    images, labels = rng.integers(0, 256, (4, 8, 8), np.uint8), rng.integers(0, 3, 4)
    parameters = network.initial_parameters(np.random.default_rng(0))
    lesson = explain(network, parameters, images[0], None, images[1:], labels[1:])
    assert lesson.trace.steps[-1].y.argmax() == network.predict(parameters, images[:1])[0]
    assert "Dropout" not in {type(step.layer).__name__ for step in lesson.trace.steps}
    regression = Sequential(Images(8, size=8), layers, kernel="naive", loss="squared_error")
    with pytest.raises(ValueError, match="a network with classes, and the loss of this one is squared_error"):
        explain(regression, parameters, images[0], None, images[1:], labels[1:])
