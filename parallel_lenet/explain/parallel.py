"""The numbers of the chapter on parallel training: blocks, the tree, unequal shards, orders of addition, a death."""

import functools
import operator

import numpy as np

from parallel_lenet.explain.lesson import Array, Lesson
from parallel_lenet.parameters import Vector, sha256
from parallel_lenet.tree import TreeSum

BLOCK = 2  # Images per block in the figures.
SHOWN_OF_HASH = 16  # Hexadecimal digits.


def compute(lesson: Lesson) -> None:
    gradients = np.stack([block_gradient(lesson, i, i + 1) for i in range(len(lesson.images))])
    followed = gradients[:, lesson.weight_index]
    levels = tree_levels(followed)
    lesson.numbers.keep({f"tree{k}": level for k, level in enumerate(levels)})
    lesson.numbers.keep(
        {"batch.mean": levels[-1][0] / followed.dtype.type(len(followed)), "batch.labels": lesson.labels}
    )
    _unequal(lesson, followed)
    _orders(lesson, gradients)
    _death(lesson)


def block_gradient(lesson: Lesson, start: int, stop: int) -> Vector:
    """The summed gradient of some images of the batch, by the model."""
    gradient = np.empty_like(lesson.parameters)
    lesson.model.loss_and_gradient(lesson.parameters, lesson.images[start:stop], lesson.labels[start:stop], gradient)
    return gradient


def tree_sum(parts: Array) -> Array:
    """The sum over the first axis along the package's tree."""
    tree: TreeSum[Array] = TreeSum()
    for part in parts:
        tree.append(part)
    return tree.total()


def tree_levels(leaves: Array) -> list[Array]:
    """The leaves, the sums of two, of four and so on: each level of the tree."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        size = 2 ** len(levels)
        levels.append(np.array([tree_sum(leaves[i : i + size]) for i in range(0, len(leaves), size)]))
    return levels


def larger_shard(lesson: Lesson) -> int:
    """The number of images in the larger of two unequal shards: all but two."""
    return max(1, len(lesson.images) - 2)


def _unequal(lesson: Lesson, followed: Array) -> None:
    """The mean of two shards' means, beside the mean over all images."""
    first = followed[: larger_shard(lesson)]
    second = followed[larger_shard(lesson) :]
    kind = followed.dtype.type
    means = np.array([tree_sum(part) / kind(len(part)) for part in (first, second)])
    lesson.numbers.keep({"shard.means": means, "shard.wrong": (means[0] + means[1]) / kind(2)})


def _orders(lesson: Lesson, gradients: Array) -> None:
    """One weight's gradients added from left to right, from right to left, and along the tree."""
    sums = {
        "order.forward": functools.reduce(operator.add, gradients),
        "order.backward": functools.reduce(operator.add, gradients[::-1]),
        "order.tree": tree_sum(gradients),
    }
    forward, backward, tree = sums.values()
    differences = (forward != tree).astype(int) + (backward != tree) + (forward != backward)
    index = lesson.weight_index
    if differences[index] < differences.max():
        best = np.flatnonzero(differences == differences.max())
        index = int(best[np.abs(tree[best]).argmax()])
    lesson.numbers.keep({name: total[index] for name, total in sums.items()})
    lesson.numbers.keep(
        {
            "order.index": index,
            "order.leaves": gradients[:, index],
            "order.different": int(((forward != tree) | (backward != tree)).sum()),
            "order.weights": gradients.shape[1],
        }
    )


def blocks(lesson: Lesson) -> list[tuple[int, int]]:
    """First image, and the image after the last one, of each block."""
    n = len(lesson.images)
    return [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def lost_block(lesson: Lesson) -> int:
    """The number of the block whose worker dies."""
    return min(2, len(blocks(lesson)) - 1)


def _death(lesson: Lesson) -> None:
    """The lost block computed once more: the same function of the same arguments."""
    parts = [block_gradient(lesson, *block) for block in blocks(lesson)]
    again = [*parts]
    again[lost_block(lesson)] = block_gradient(lesson, *blocks(lesson)[lost_block(lesson)])
    n = parts[0].dtype.type(len(lesson.images))
    hashes = [sha256(tree_sum(np.stack(each)) / n)[:SHOWN_OF_HASH] for each in (parts, again)]
    index = lesson.weight_index
    lesson.numbers.keep(
        {
            "death.before": parts[lost_block(lesson)][index],
            "death.after": again[lost_block(lesson)][index],
            "death.hashes": np.array([int(text, 16) for text in hashes], np.uint64),
        }
    )
