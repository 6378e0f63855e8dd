"""The contract of engines as tests: what every engine does once it is open, and what tests of engines share.

A test file runs the contract over its engines with ``from kits.engine_contract import *`` and a fixture ``opened``: an
`Opened` of ``Scripted()`` with ``DATASETS``, which many tests may share.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from kits import models
from kits.models import Array, ModelError, Scripted
from parallel_lenet import Dataset, Engine, Model
from parallel_lenet.batching import Block, BlockSizes, blocks, shards
from parallel_lenet.engines import BlockGradient
from parallel_lenet.engines.processes.dispatcher import ROWS
from parallel_lenet.engines.serial import SerialEngine, one_blas_thread
from parallel_lenet.metrics import Metrics
from parallel_lenet.tree import TreeSum
from parallel_lenet.worker import block_gradient


def plain(samples: int, seed: int = 0) -> Dataset:
    """Inputs that ask for nothing, with a value that the result depends on."""
    rng = np.random.default_rng(seed)
    inputs = np.column_stack([np.zeros(samples), rng.standard_normal(samples)]).astype(np.float32)
    return Dataset(inputs, rng.integers(-2, 3, samples))


def scripted(*actions: tuple[int, float]) -> Dataset:
    """One sample an action."""
    return Dataset(np.array(actions, np.float32), np.arange(len(actions)))


def one_each(data: Dataset, dataset: int = 0) -> list[Block]:
    return shards(np.arange(len(data)), 1, dataset)


def at(step: int, model: Scripted | None = None) -> Array:
    return (model or Scripted()).initial_parameters(np.random.default_rng(step))


Result = tuple[Metrics, bytes]


class Opened:
    """An engine, and one context of it."""

    def __init__(self, engine: Engine, model: Model, datasets: Sequence[Dataset], parameters: Array) -> None:
        self.engine = engine
        self.datasets = datasets
        self.context = engine.open(model, datasets, parameters)
        engine.start(self.context)

    def gradients(self, parameters: Array, work: Sequence[Block]) -> Iterator[BlockGradient]:
        return self.engine.gradients(self.context, parameters, work)

    def metrics(self, parameters: Array, work: Sequence[Block]) -> Iterator[Metrics]:
        return self.engine.metrics(self.context, parameters, work)


def computed(opened: Opened, parameters: Array, work: Sequence[Block]) -> list[Result]:
    return [(result.metrics, result.gradient.tobytes()) for result in opened.gradients(parameters, work)]


def expected(model: Model, datasets: Sequence[Dataset], parameters: Array, work: Sequence[Block]) -> list[Result]:
    """What the worker's function gives, called right here."""
    results = []
    for block in work:
        gradient = np.full_like(parameters, np.nan)
        with one_blas_thread():
            sums = block_gradient(model, datasets, parameters, block, gradient, [])
        results.append((sums.metrics, gradient.tobytes()))
    return results


FEW, MANY = plain(7), plain(64, seed=1)
SLOW_FIRST = scripted((models.SLEEP, 60), *[(models.NOTHING, i) for i in range(ROWS * 3 + 10)])
UNEVEN = scripted(*[(models.SLEEP, value) for value in (30, 0, 20, 0, 0, 15, 1, 25, 0, 0, 5, 0)])
TROUBLE = scripted(
    (models.NOTHING, 1),
    (models.SLEEP, 30),
    (models.RAISE, 1),
    (models.RAISE, 2),
    (models.WRITE_PARAMETERS, 0),
    (models.WRITE_INPUTS, 0),
    (models.UNPICKLABLE, 0),
    (models.ONE_WAY, 0),
)
DATASETS = (FEW, MANY, SLOW_FIRST, UNEVEN, TROUBLE)


def holding(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.holds")]


def usable(engine: Engine) -> bool:
    """Whether it computes."""
    opened = Opened(engine, Scripted(), [FEW], at(0))
    work = one_each(FEW)
    return computed(opened, at(1), work) == expected(Scripted(), [FEW], at(1), work)


def test_a_context_has_copies_of_the_data_which_are_read_only_and_those_of_all_with_equal_data(opened: Opened) -> None:
    assert len(opened.context.datasets) == len(DATASETS)
    again = opened.engine.open(Scripted(), DATASETS[::-1], at(0)).datasets[::-1]
    for mine, second, theirs in zip(opened.context.datasets, again, DATASETS, strict=True):
        assert_array_equal(mine.inputs, theirs.inputs)
        assert_array_equal(mine.targets, theirs.targets)
        assert not np.shares_memory(mine.inputs, theirs.inputs)
        assert not mine.inputs.flags.writeable
        assert mine.inputs is second.inputs
        assert mine.targets is second.targets


@pytest.mark.parametrize("size", [1, 3, 5, 64])
def test_gradients_and_metrics_are_those_of_the_workers_function(opened: Opened, size: int) -> None:
    work = shards(np.arange(64)[::-1], size, 1)
    wanted = expected(Scripted(), DATASETS, at(size), work)
    assert computed(opened, at(size), work) == wanted
    assert list(opened.metrics(at(size), work)) == [metrics for metrics, _ in wanted]


@pytest.mark.parametrize(("samples", "size", "workers"), [(1, 1, 1), (50, 1, 3), (64, 4, 5), (50, 4, 1), (64, 30, 2)])
def test_the_gradient_of_a_block_is_that_of_its_shards_added_along_the_tree(
    opened: Opened, samples: int, size: int, workers: int
) -> None:
    rows = np.arange(64)[::-1][:samples]
    single = iter(expected(Scripted(), DATASETS, at(3), shards(rows, size, 1)))
    wanted = []
    work = blocks(rows, BlockSizes.of(None, 32, size), workers, 1)
    assert sum(len(block.rows) for block in work) == samples
    for block in work:
        sums = TreeSum[Any](lambda a, b: (a[0] + b[0], a[1] + b[1]))
        for _ in block.shards():
            metrics, gradient = next(single)
            sums.append((metrics, np.frombuffer(gradient, np.float32)))
        metrics, total = sums.total()
        wanted.append((metrics, total.tobytes()))
    assert computed(opened, at(3), work) == wanted
    assert list(opened.metrics(at(3), work)) == [metrics for metrics, _ in wanted]


@pytest.mark.parametrize("dataset", [2, 3], ids=["the first is slowest", "all differ"])
def test_results_come_in_block_order_whatever_was_done_first(opened: Opened, dataset: int) -> None:
    work = one_each(DATASETS[dataset], dataset)
    assert len(DATASETS[2]) > ROWS * 3
    assert computed(opened, at(1), work) == expected(Scripted(), DATASETS, at(1), work)


def test_one_step_may_use_several_datasets(opened: Opened) -> None:
    work = [block for pair in zip(one_each(FEW, 0), shards(np.arange(64), 9, 1), strict=False) for block in pair]
    assert computed(opened, at(2), work) == expected(Scripted(), DATASETS, at(2), work)


def test_no_blocks_give_no_results(opened: Opened) -> None:
    assert list(opened.gradients(at(0), [])) == []
    assert list(opened.metrics(at(0), [])) == []


def test_results_are_lazy_and_valid_until_the_next_is_asked_for(opened: Opened) -> None:
    work = one_each(FEW)
    wanted = expected(Scripted(), DATASETS, at(3), work)
    results = opened.gradients(at(3), work)
    assert iter(results) is results
    for metrics, gradient in wanted:
        result = next(results)
        time.sleep(0.01)  # Time for workers to run ahead.
        assert (result.metrics, result.gradient.tobytes()) == (metrics, gradient)
    assert next(results, None) is None


def test_a_result_stays_valid_while_those_that_follow_are_ready(opened: Opened) -> None:
    work = one_each(MANY, 1)
    wanted = expected(Scripted(), DATASETS, at(3), work)
    together: list[Array] = []
    ready = 0
    for number, result in enumerate(opened.gradients(at(3), work)):
        assert result.ready == ready - 1 or ready == 0
        ready = result.ready
        together.append(result.gradient)
        if not ready:
            first = number + 1 - len(together)
            assert [each.tobytes() for each in together] == [gradient for _, gradient in wanted[first : number + 1]]
            together.clear()
        time.sleep(0.001)  # Time for workers to run ahead.
    assert not together


def test_the_last_results_stay_valid_until_the_engine_is_used_again(opened: Opened) -> None:
    work = one_each(FEW)
    results = list(opened.gradients(at(3), work))
    time.sleep(0.01)
    assert results[-1].gradient.tobytes() == expected(Scripted(), DATASETS, at(3), work)[-1][1]


def test_a_gradient_is_read_only(opened: Opened) -> None:
    for result in opened.gradients(at(0), one_each(FEW)):
        with pytest.raises(ValueError, match="read-only"):
            result.gradient[0] = 0


def test_steps_dropped_half_way_leave_nothing_in_the_next(opened: Opened) -> None:
    rng = np.random.default_rng(5)
    for step in range(40):
        dataset = int(rng.choice([0, 1, 1, 1, 2]))
        work = one_each(DATASETS[dataset], dataset)
        wanted = expected(Scripted(), DATASETS, at(step), work) if dataset < 2 else []
        results = (opened.gradients if step % 3 else opened.metrics)(at(step), work)
        for index in range(int(rng.integers(0, 6))):
            result = next(results)
            if wanted:
                assert getattr(result, "metrics", result) == wanted[index][0]
        del results
    work = one_each(MANY, 1)
    assert computed(opened, at(1000), work) == expected(Scripted(), DATASETS, at(1000), work)


def test_iterators_left_alive_neither_block_later_steps_nor_mix_with_them(opened: Opened) -> None:
    work = one_each(MANY, 1)
    alive = []
    for step in range(ROWS * 3 + 1):  # More than there are rows to hold on to.
        results = opened.gradients(at(step), work)
        next(results)
        alive.append(results)
    assert computed(opened, at(1000), work) == expected(Scripted(), DATASETS, at(1000), work)
    for step, results in enumerate(alive):
        try:
            late = next(results)
        except RuntimeError as error:
            assert "started another step" in str(error)  # noqa: PT017
        else:
            assert late.gradient.tobytes() == expected(Scripted(), DATASETS, at(step), work[1:2])[0][1]


def test_an_exception_of_the_model_is_raised_as_itself_and_the_engine_stays_usable(opened: Opened) -> None:
    for ask in (opened.gradients, opened.metrics):
        for _ in range(ROWS + 1):  # A row lost each time would be noticed.
            with pytest.raises(ModelError) as caught:
                list(ask(at(0), one_each(TROUBLE, 4)[:4]))
            assert str(caught.value) == "value 1"
            samples, *others = caught.value.__notes__
            assert samples == "On sample 2 of dataset 4."
            if not isinstance(opened.engine, SerialEngine):
                (note,) = others
                assert note.startswith(("In worker ", "In a worker of the cluster:"))
                assert 'raise ModelError(f"value {value:g}")' in note
        work = one_each(FEW)
        assert computed(opened, at(4), work) == expected(Scripted(), DATASETS, at(4), work)


def test_the_exception_is_that_of_the_first_block_that_fails_and_comes_in_its_turn(opened: Opened) -> None:
    for _ in range(5):
        results = opened.metrics(at(0), one_each(TROUBLE, 4)[1:4])  # Slow, fails, fails.
        next(results)
        with pytest.raises(ModelError, match="value 1"):
            next(results)


@pytest.mark.parametrize(("row", "kind"), [(6, models.UnpicklableError), (7, models.OneWayError)])
def test_an_exception_that_cannot_travel_is_raised_as_an_error_that_names_it(
    opened: Opened, row: int, kind: type[Exception]
) -> None:
    with pytest.raises((kind, RuntimeError)) as caught:
        list(opened.metrics(at(0), [Block(np.array([row]), 4)]))
    assert type(caught.value) is kind or kind.__name__ in str(caught.value)
    work = one_each(FEW)
    assert computed(opened, at(4), work) == expected(Scripted(), DATASETS, at(4), work)


def test_a_model_that_writes_to_the_parameters_is_refused(opened: Opened) -> None:
    parameters = at(0)
    with pytest.raises(ValueError, match="read-only"):
        list(opened.metrics(parameters, [Block(np.array([4]), 4)]))
    assert_array_equal(parameters, at(0))
    assert parameters.flags.writeable


def test_a_model_that_writes_to_its_inputs_does_not_change_the_data(opened: Opened) -> None:
    before = TROUBLE.inputs.copy()
    work = [Block(np.array([5, 0]), 4)]
    first, second = list(opened.metrics(at(0), work)), list(opened.metrics(at(0), work))
    assert first == second
    assert_array_equal(TROUBLE.inputs, before)


@pytest.mark.parametrize("block", [Block(np.array([7])), Block(np.array([0]), 5)], ids=["sample", "dataset"])
def test_a_block_of_samples_that_do_not_exist_is_an_index_error(opened: Opened, block: Block) -> None:
    with pytest.raises(IndexError):
        list(opened.metrics(at(0), [block]))


__all__ = ["DATASETS", "Opened", *(name for name in dir() if name.startswith("test_"))]
