"""What a worker computes of a block: the same bits however it is cut, in little memory, and whether it is finite."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits.models import Array, ByImage, Softmax
from numpy.testing import assert_array_equal

from parallel_lenet import Dataset, Metrics, load_dataset
from parallel_lenet.batching import Block
from parallel_lenet.tree import TreeSum
from parallel_lenet.worker import Samples, block_gradient, block_metrics

DIGITS = load_dataset()[0]
DATA = (Samples(DIGITS.inputs, DIGITS.targets),)
PARAMETERS = np.linspace(-0.01, 0.01, ByImage.layout.size).astype(np.float32)


def computed(model: Softmax, block: Block, spare: list[Array]) -> tuple[Metrics, Array]:
    gradient = np.full_like(PARAMETERS, np.nan)
    sums = block_gradient(model, DATA, PARAMETERS, block, gradient, spare)
    assert sums.finite
    assert block_metrics(model, DATA, PARAMETERS, block) == sums.metrics
    return sums.metrics, gradient


@settings(max_examples=25)
@given(st.integers(1, 40), st.lists(st.integers(0, 5), min_size=2, max_size=2), st.data())
def test_a_block_has_the_same_bits_whatever_the_model_gets_at_a_time(
    samples: int, powers: list[int], data: st.DataObject
) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, 3999), min_size=samples, max_size=samples)))
    spare: list[Array] = []
    (some, first), (others, second) = (computed(ByImage(), Block(rows, 0, 2**power), spare) for power in powers)
    assert some == others
    assert_array_equal(first, second)
    assert len(spare) <= (max(1, -(-samples // 2 ** min(powers))) - 1).bit_length()


@given(st.integers(1, 9), st.integers(1, 9))
def test_shards_of_a_model_without_a_leaf_are_added_along_the_tree(shards: int, size: int) -> None:
    block = Block(np.arange(shards * size), 0, size)
    tree = TreeSum[Array]()
    for shard in block.shards():
        tree.append(computed(Softmax(), Block(shard), [])[1])
    assert_array_equal(computed(Softmax(), block, [])[1], tree.total())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_or_a_gradient_that_is_not_finite_is_noticed_in_any_shard(bad: float) -> None:
    class Bad(Softmax):
        def loss_and_gradient(
            self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None
        ) -> Metrics:
            metrics = super().loss_and_gradient(parameters, inputs, targets, gradient)
            if 7 in targets and gradient is not None:
                gradient[-1] = bad
            return Metrics(bad if 8 in targets else metrics.loss_sum, 0, len(inputs))

    data = Dataset(np.zeros((12, 28, 28), np.uint8), np.arange(12) % 10)
    for rows, finite in [([0, 1, 2, 3], True), ([0, 1, 2, 7], False), ([8, 1, 2, 3], False)]:
        sums = block_gradient(
            Bad(),
            (Samples(data.inputs, data.targets),),
            PARAMETERS,
            Block(np.array(rows), 0, 1),
            np.empty_like(PARAMETERS),
            [],
        )
        assert sums.finite == finite


class Sparse(Softmax):
    """Writes the gradient of the classes that it gets, and no other numbers. Gives the arrays other shapes."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        whole = np.empty_like(parameters)
        metrics = super().loss_and_gradient(parameters, inputs, targets, whole)
        parameters.shape = (10, -1)
        if gradient is not None:
            gradient.shape = (-1, 10)
            gradient[:, targets] = whole.reshape(-1, 10)[:, targets]
        return metrics


def test_numbers_that_a_model_leaves_out_are_noticed_though_it_wrote_them_before() -> None:
    data = (Samples(DIGITS.inputs, np.arange(len(DIGITS)) % 10),)
    gradient = np.empty_like(PARAMETERS)
    spare: list[Array] = []
    for rows, finite in [(40, True), (38, False), (20, True), (5, False)]:
        assert (
            block_gradient(Sparse(), data, PARAMETERS, Block(np.arange(rows), 0, 10), gradient, spare).finite == finite
        )
    assert PARAMETERS.shape == gradient.shape == (ByImage.layout.size,)
