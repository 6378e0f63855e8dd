"""Weights of samples and classes: what they do to losses and gradients, on every engine and from the command line."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import Array, Softmax
from kits.programs import write_idx

from parallel_lenet import (
    SGD,
    Cluster,
    Conv2d,
    Coordinator,
    Dataset,
    DatasetError,
    Dense,
    Flatten,
    Images,
    Metrics,
    ReLU,
    Sequential,
    StepReport,
    kernels,
    sample_weights,
)
from parallel_lenet.cli import main
from parallel_lenet.tree import TreeSum, tree_total

rng = np.random.default_rng(5)
IMAGES, LABELS = rng.integers(0, 256, (60, 6, 6), np.uint8), rng.integers(0, 3, 60)
WEIGHTS = rng.uniform(0, 3, 60).astype(np.float32)
WEIGHTS[7:11] = 0
DATA = Dataset(IMAGES, LABELS, weights=WEIGHTS)


def network(kernel: str, dtype: str = "float32") -> Sequential:
    return Sequential(Images(6, size=6), (Conv2d(2, 3), ReLU(), Flatten(), Dense(3)), kernel=kernel, dtype=dtype)


def trained(data: Dataset, kernel: str, each: Callable[[Coordinator], object] | None = None, **settings: Any) -> str:
    settings = {"batch_size": 16, "engine": "serial"} | settings
    with Coordinator(network(kernel), SGD(0.1, momentum=0.9), **settings) as coordinator:
        for _ in coordinator.iterate(data):
            if each is not None:
                each(coordinator)
        return coordinator.parameters_sha256()


def sums(model: Sequential, data: Dataset) -> tuple[Metrics, Array]:
    parameters = model.initial_parameters(np.random.default_rng(1))
    gradient = np.full_like(parameters, np.nan)
    metrics = model.loss_and_gradient(parameters, data.inputs, data.targets, gradient, weights=data.weights)
    return metrics, gradient


@pytest.mark.parametrize("kernel", kernels.available())
def test_weights_of_one_change_no_bit(kernel: str) -> None:
    plain, ones = Dataset(IMAGES, LABELS), Dataset(IMAGES, LABELS, weights=np.ones(60))
    assert trained(plain, kernel) == trained(ones, kernel)
    assert trained(plain, kernel) != trained(DATA, kernel)
    metrics, gradient = sums(network(kernel), plain)
    found, weighted = sums(network(kernel), ones)
    assert (metrics, gradient.tobytes()) == (found, weighted.tobytes())


@pytest.mark.parametrize("kernel", kernels.available())
def test_a_weight_counts_as_that_many_samples(kernel: str) -> None:
    counts = rng.integers(0, 4, 60)
    model = network(kernel, "float64")
    _, gradient = sums(model, Dataset(IMAGES, LABELS, weights=counts))
    repeated = np.repeat(np.arange(60), counts)
    metrics, wanted = sums(model, Dataset(IMAGES[repeated], LABELS[repeated]))
    np.testing.assert_allclose(gradient, wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())
    with Coordinator(model, SGD(0.1), engine="serial", batch_size=60) as coordinator:
        found = coordinator.evaluate(Dataset(IMAGES, LABELS, weights=counts))
        assert found.loss == pytest.approx(coordinator.evaluate((IMAGES[repeated], LABELS[repeated])).loss, rel=1e-12)
        assert (found.weight, found.count) == (counts.sum(), 60)
        assert found.accuracy == coordinator.evaluate((IMAGES, LABELS)).accuracy  # Not weighted.
    assert metrics.count == counts.sum()


def test_no_bit_depends_on_workers_shards_engines_or_deaths() -> None:
    def kill(coordinator: Coordinator) -> None:
        if coordinator.step == 2:
            os.kill(coordinator.worker_pids()[0], signal.SIGKILL)

    kernel = "naive"  # With im2col the shard size decides bits.
    wanted = trained(DATA, kernel, shard_size=16)
    assert trained(DATA, kernel, shard_size=4) == wanted
    with pytest.warns(match="another has taken its place"):
        assert trained(DATA, kernel, kill, n_workers=3, engine="processes") == wanted
    with Cluster("threading", n_workers=2) as cluster:
        assert trained(DATA, kernel, engine=cluster) == wanted


@pytest.mark.cluster
@pytest.mark.slow
def test_workers_of_a_cluster_get_the_weights() -> None:
    with Cluster("loky", n_workers=2) as cluster:
        assert trained(DATA, "im2col", engine=cluster, shard_size=8) == trained(DATA, "im2col", shard_size=8)


def test_a_batch_without_weight_is_skipped() -> None:
    weights = np.zeros(60)
    weights[17] = 0.5
    with Coordinator(network("im2col"), SGD(0.1, momentum=0.9), engine="serial", batch_size=10) as coordinator:
        *steps, epoch = coordinator.iterate(Dataset(IMAGES, LABELS, weights=weights))
        assert coordinator.step == 1
        assert [getattr(step, "skipped", "") for step in steps].count("all weights of the batch are 0") == 5
        (done,) = (step for step in steps if isinstance(step, StepReport) and step.skipped is None)
        assert not isinstance(epoch, StepReport)
        assert epoch.train_loss == done.loss > 0


def test_training_continues_from_a_file_with_the_same_weights_only(tmp_path: Path) -> None:
    def coordinator() -> Coordinator:
        return Coordinator(network("im2col"), SGD(0.1), engine="serial", batch_size=16)

    whole = coordinator()
    first = coordinator()
    second = coordinator()
    history = whole.fit(DATA, epochs=2)
    for report in first.iterate(DATA, epochs=2):
        if isinstance(report, StepReport) and report.step == 2:
            break
    first.save(tmp_path / "c.npz")
    second.load(tmp_path / "c.npz")
    other = replace(DATA, weights=WEIGHTS + 1)
    for data in (other, Dataset(IMAGES, LABELS)):
        with pytest.raises(DatasetError, match="60 weighted samples"):
            second.fit(data, epochs=2)
    assert second.fit(DATA, epochs=2)[0].train_loss == history[0].train_loss
    assert second.parameters_sha256() == whole.parameters_sha256()


def test_validation_keeps_its_samples_weights() -> None:
    from parallel_lenet.batching import split

    train, validation = split(DATA, 0.25, 3)
    for part in (train, validation):
        assert part.weights is not None
        for image, weight in zip(part.inputs, part.weights, strict=True):
            assert weight in WEIGHTS[(image == IMAGES).all(axis=(1, 2))]


def test_a_model_of_ones_own_takes_weights_if_it_names_them() -> None:
    class Weighted(Softmax):
        def loss_and_gradient(  # type: ignore[override]
            self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None, weights: Array | None = None
        ) -> Metrics:
            assert weights is not None
            seen.append(len(weights))
            return super().loss_and_gradient(parameters, inputs, targets, gradient)

    seen: list[int] = []
    data = Dataset(rng.standard_normal((20, 784)).astype(np.float32), rng.integers(0, 10, 20), weights=np.ones(20))
    with pytest.raises(DatasetError, match="Softmax has no parameter weights"):
        Coordinator(Softmax(), SGD(0.1), engine="serial").fit(data)
    with Coordinator(Weighted(), SGD(0.1), engine="serial", batch_size=20, shard_size=20) as coordinator:
        assert coordinator.evaluate(data).count == 20
    assert seen == [20]


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1.0] * 60, "weights must be a NumPy array of numbers, got"),
        (np.ones((60, 1)), r"weights must have shape \(60,\), one per sample, got \(60, 1\)"),
        (np.ones(59), r"weights must have shape \(60,\), one per sample, got \(59,\)"),
        (np.r_[np.ones(59), -1], "finite numbers of at least 0, got -1.0 for sample 59"),
        (np.r_[np.ones(59), np.nan], "finite numbers of at least 0, got nan for sample 59"),
        (np.r_[np.ones(59), 1e300], "finite numbers of at least 0, got 1e[+]300 for sample 59"),
        (np.zeros(60), "weights are all 0"),
    ],
)
def test_weights_that_are_not_allowed(weights: Any, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        Dataset(IMAGES, LABELS, weights=weights)


def test_class_weights() -> None:
    weights = sample_weights(LABELS)
    totals = [weights[label == LABELS].sum() for label in range(3)]
    np.testing.assert_allclose(totals, 20, rtol=1e-6)
    assert weights.dtype == np.float32
    given = sample_weights(LABELS, {np.int64(1): 2, 2: 0})
    assert [given[label == LABELS].min() for label in range(3)] == [1, 2, 0]
    sample_weights(LABELS[LABELS == 1], {0: 1, 1: 1, 2: 1})  # A part may lack classes.
    for wrong, sentence in (
        ("even", 'must be "balanced" or a mapping'),
        ([1, 2], 'must be "balanced" or a mapping'),
        ({0: -1}, "the weight of class 0 must be a finite number of at least 0, got -1"),
        ({"a": 1}, "a class of class_weights must be a whole number, got 'a'"),
        ({0: 1, 5: 1}, "names class 5, which does not occur, and leaves out class 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            sample_weights(LABELS, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels must be a NumPy array of whole numbers"):
        sample_weights(LABELS.astype(float))


@pytest.mark.parametrize("leaf", [1, 3])
def test_the_sum_of_weights_follows_the_tree(leaf: int) -> None:
    for n in (1, 2, 7, 24, 31):
        numbers = rng.standard_normal(n).astype(np.float32)
        tree = TreeSum[float]()
        for start in range(0, n, leaf):
            total = 0.0
            for number in numbers[start : start + leaf].tolist():
                total += number
            tree.append(total)
        assert tree_total(numbers, leaf) == tree.total()


def test_class_weights_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["train", "--json", "--engine", "serial", "--kernel", "im2col", "--no-report", *arguments]) == 0
        return dict(json.loads(capsys.readouterr().out))

    write_idx(tmp_path / "data", 60, 10)
    monkeypatch.chdir(tmp_path)
    few = ("--data-dir", "data", "--batch-size", "20", "--max-steps", "3", "--validation", "0.2")
    plain, balanced = call(*few), call(*few, "--class-weights", "balanced", "--out", "r")
    ones = call(*few, "--class-weights", "0=1,3=1.0")
    assert plain["parameters_sha256"] == ones["parameters_sha256"] != balanced["parameters_sha256"]
    assert balanced["class_weights"] == "balanced"
    again = call("--resume", "r", "--max-steps", "4")
    assert (
        again["parameters_sha256"]
        == call(*few[:4], *few[6:], "--class-weights", "balanced", "--max-steps", "4")["parameters_sha256"]
    )
    skipping = call(
        "--data-dir", "data", "--batch-size", "1", "--max-steps", "3", "--class-weights", "0=0,1=0", "--out", "s"
    )
    assert skipping["steps"] == 3
    assert "all weights of the batch are 0" in Path("s/events.jsonl").read_text()
    for wrong in ("even", "0=-1", "0=1,0=2", "a=1", "0=nan", ""):
        assert main(["train", *few, "--class-weights", wrong]) == 2
        assert "--class-weights must be balanced, or a finite weight of at least 0" in capsys.readouterr().err
    assert main(["train", "--resume", "r", "--class-weights", "0=2"]) == 2
    assert "--class-weights 0=2 disagrees with the run in r, which has balanced" in capsys.readouterr().err
