"""An unfinished epoch belongs to its data: other data are an error, never silently nothing or too little."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import Softmax

from parallel_lenet import SGD, Coordinator, Dataset, DatasetError
from parallel_lenet.fingerprint import HASH_CHUNK, arrays_sha256, fingerprint

OTHER = r"^epoch 1 is unfinished, with 40 samples done, and was started with other data: 150 samples of shape \(28,"


def serial(**changes: Any) -> Coordinator:
    return Coordinator(
        Softmax(), SGD(0.02, momentum=0.9), **{"engine": "serial", "batch_size": 20, "shard_size": 10, **changes}
    )


def two_steps(coordinator: Coordinator, data: Any) -> Coordinator:
    for _ in itertools.islice(coordinator.iterate(data), 2):
        pass
    return coordinator


def kept(coordinator: Coordinator, folder: Path) -> Coordinator:
    return coordinator


def closed(coordinator: Coordinator, folder: Path) -> Coordinator:
    coordinator.close()
    return coordinator


def loaded(coordinator: Coordinator, folder: Path) -> Coordinator:
    coordinator.save(folder / "middle.npz")
    fresh = serial()
    fresh.load(folder / "middle.npz")
    return fresh


@pytest.fixture(params=[kept, closed, loaded])
def again(request: pytest.FixtureRequest, digits: Dataset, tmp_path: Path) -> Coordinator:
    """A coordinator two steps into an epoch of the digits, closed since, or another one that has loaded it."""
    how: Callable[[Coordinator, Path], Coordinator] = request.param
    return how(two_steps(serial(), digits), tmp_path)


@pytest.mark.parametrize("what", ["fewer", "more", "another label", "another pixel", "another type"])
def test_other_data_are_refused_and_named_and_change_nothing(again: Coordinator, digits: Dataset, what: str) -> None:
    inputs = digits.inputs.copy()
    targets = digits.targets.copy()
    if what == "fewer":
        inputs, targets = inputs[:140], targets[:140]
    elif what == "more":
        inputs = np.concatenate([inputs, inputs[:3]])
        targets = np.concatenate([targets, targets[:3]])
    elif what == "another label":
        targets[77] = 9 - targets[77]
    elif what == "another pixel":
        inputs[149, 27, 27] ^= 1
    else:
        targets = targets.astype(np.int32)
    before = again.parameters_sha256()
    for begin in (again.fit, again.iterate):
        with pytest.raises(DatasetError, match=OTHER + r".*call restart_epoch\(\) to start it again with these$"):
            begin((inputs, targets))
    assert (again.parameters_sha256(), again.step, again.cursor) == (before, 2, 40)
    again.fit((inputs, targets), 0)  # No epoch, no question.
    again.evaluate((inputs, targets))


def test_the_same_data_wherever_they_lie_continue_with_the_same_bits(again: Coordinator, digits: Dataset) -> None:
    whole = serial()
    whole.fit(digits)
    again.fit((np.asfortranarray(digits.inputs), digits.targets.copy()))
    assert again.parameters_sha256() == whole.parameters_sha256()
    assert again.step == 8


def test_an_epoch_begun_again_trains_on_all_of_the_new_data(again: Coordinator, digits: Dataset) -> None:
    new = Dataset(digits.inputs[::-1][:100].copy(), digits.targets[::-1][:100].copy())
    parameters = again.parameters
    again.restart_epoch()
    assert (again.epoch, again.step, again.cursor) == (0, 2, 0)
    assert again.parameters is parameters
    (report,) = again.fit(new)
    assert (report.step, again.step, again.epoch) == (7, 7, 1)
    again.restart_epoch()  # Between epochs there is nothing to forget.
    assert (again.epoch, len(again.history)) == (1, 1)


def test_loops_over_the_same_data_that_alternate_do_each_step_once(digits: Dataset) -> None:
    whole, both = serial(), serial()
    whole.fit(digits, 2)
    for pair in zip(both.iterate(digits, 2), both.iterate((digits.inputs.copy(), digits.targets), 2), strict=False):
        assert pair[1].step - pair[0].step in (0, 1)
    assert both.parameters_sha256() == whole.parameters_sha256()


def test_a_loop_whose_epoch_another_has_taken_over_ends_with_an_error(digits: Dataset) -> None:
    other = Dataset(digits.inputs[:90], digits.targets[:90])
    coordinator = serial()
    first = coordinator.iterate(digits)
    next(first)
    coordinator.restart_epoch()
    second = coordinator.iterate(other)
    next(second)
    with pytest.raises(DatasetError, match="was started with other data: 90 samples"):
        next(first)


def test_a_loop_continues_from_what_is_loaded_in_it(digits: Dataset, tmp_path: Path) -> None:
    whole, coordinator = serial(), serial()
    whole.fit(digits)
    coordinator.save(tmp_path / "start.npz")
    for step, _ in enumerate(coordinator.iterate(digits)):
        if step == 4:
            coordinator.load(tmp_path / "start.npz")
            assert coordinator.step == 0
    assert coordinator.parameters_sha256() == whole.parameters_sha256()


def test_a_hash_is_of_shape_type_and_every_value() -> None:
    array = np.arange(3 * HASH_CHUNK // 8).reshape(3, -1)
    hashes = {arrays_sha256(array), arrays_sha256(array.T), arrays_sha256(array.reshape(-1)), arrays_sha256(-array)}
    changed = array.copy()
    changed[2, -1] += 1
    hashes |= {arrays_sha256(changed), arrays_sha256(array.astype(">i8")), arrays_sha256(array, array)}
    assert len(hashes) == 7
    assert arrays_sha256(np.asfortranarray(array)) == arrays_sha256(array)
    assert arrays_sha256(np.zeros((2, 0))) != arrays_sha256(np.zeros((3, 0)))
    described = fingerprint(Dataset(array, np.zeros(3)))
    assert described.items() >= {"samples": 3, "shape": [array.shape[1]], "dtypes": ["<i8", "<f8"]}.items()
