"""Pairs of shards: given to one worker while there is one for each, and else to two.

Where a pair was computed doesn't show in its result: the second shard's gradient is added to the first's either way.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from parallel_lenet.batching import Shard
from parallel_lenet.engines import ShardGradient
from parallel_lenet.engines.memory import read_only


def spread(pairs: Sequence[Shard], n_workers: int) -> list[Shard]:
    """What to hand out so that all workers finish together: pairs while each gets one, halves in the last round."""
    rounds = len(pairs) // n_workers * n_workers
    return [*pairs[:rounds], *(half for pair in pairs[rounds:] for half in pair.halves())]


def join(pairs: Sequence[Shard], work: Sequence[Shard], results: Iterator[ShardGradient]) -> Iterator[ShardGradient]:
    """From the results of ``work``, as ``spread`` made it of ``pairs``, one result for each pair."""
    pieces = iter(work)
    for pair in pairs:
        result = next(results)
        if next(pieces) is not pair:
            metrics, gradient = result.metrics, result.gradient.copy()
            next(pieces)
            second = next(results)
            with np.errstate(over="ignore", invalid="ignore"):  # The coordinator checks the sum, and tells more.
                gradient += second.gradient
            result = ShardGradient(metrics + second.metrics, read_only(gradient))
        yield result
    next(results, None)  # Let them finish.
