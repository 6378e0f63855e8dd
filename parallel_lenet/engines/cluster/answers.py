"""Checks of what a cluster returns, before it is used. A wrong answer is an error that names the worker."""

import math
from collections.abc import Sequence

import numpy as np

from parallel_lenet.batching import Block
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster.task import GroupAnswer, GroupTask, Result
from parallel_lenet.engines.cluster.versions import difference
from parallel_lenet.metrics import Metrics


def check(answer: object, tasks: Sequence[GroupTask], *, had_setup: bool, cluster: str) -> GroupAnswer:
    """The answer, which must fit one of the tasks of a call, or be a late one to an earlier step.

    Losses and gradients may hold NaN and infinity: a model that diverges returns them, and the coordinator checks the
    sums. Raises WorkerError if a version that decides bits differs, or if anything else is wrong.
    """
    if type(answer) is not GroupAnswer:
        raise WorkerError(f"a worker of the {cluster} cluster returned {_kind(answer)}, not a GroupAnswer")
    worker = getattr(answer, "worker", "(without a name)")
    other = difference(f"{worker} of the {cluster} cluster", getattr(answer, "versions", None))
    problem = other or _problem(answer, tasks, had_setup)
    if problem is not None:
        raise WorkerError(problem if other else f"worker {worker} of the {cluster} cluster returned {problem}")
    return answer


def _problem(answer: GroupAnswer, tasks: Sequence[GroupTask], had_setup: bool) -> str | None:
    """What is wrong with an answer, or None if nothing is."""
    if type(answer.worker) is not str:
        return f"{_kind(answer.worker)} as its name, not a string"
    if type(answer.seconds) is not float or not 0 <= answer.seconds < math.inf:
        return f"{answer.seconds!r} as the seconds it took"
    if type(answer.results) is not list or not all(type(result) is Result for result in answer.results):
        return "results that are not a list of Result"
    if not answer.results:
        return "no results, although it was sent the model and the data" if had_setup else None
    first = answer.results[0]
    version = tasks[0].version
    if not all(type(result.version) is int and result.version == first.version for result in answer.results):
        return f"results of the steps {[result.version for result in answer.results]} in one answer"
    if first.version < version:
        return None  # A late answer, which is not used.
    task = next((task for task in tasks if task.blocks[0][0] == first.block), None)
    if task is None or first.version > version:
        return f"a result of step {first.version!r}, block {first.block!r}, for which it was not asked"
    numbers = [number for number, _ in task.blocks]
    got = [result.block for result in answer.results]
    if got != (numbers[: len(got)] if answer.results[-1].failure else numbers):
        return f"results of the blocks {got}, not of {numbers}"
    for result, (number, block) in zip(answer.results, task.blocks, strict=False):
        last = result is answer.results[-1]
        problem = _result_problem(result, block, task) if not result.failure else _failure_problem(result, last)
        if problem is not None:
            return f"for block {number} {problem}"
    return None


def _result_problem(result: Result, block: Block, task: GroupTask) -> str | None:
    metrics = result.metrics
    gradient = result.gradient
    n = len(block.rows)
    if type(metrics) is not Metrics:
        return f"metrics that are {_kind(metrics)}"
    if type(metrics.loss_sum) is not float:
        return f"a loss that is {_kind(metrics.loss_sum)}, not a float"
    if type(metrics.count) is not int or metrics.count != n:
        return f"a count of {metrics.count!r}, not {n}"
    if type(metrics.weight) is not float or not 0 <= metrics.weight < math.inf:
        return f"a weight of {metrics.weight!r}, not a finite number of at least 0"
    if type(metrics.correct) is not int or not 0 <= metrics.correct <= n:
        return f"{metrics.correct!r} correct answers, not 0 to {n}"
    if type(result.finite) is not bool:
        return f"{result.finite!r} as whether it is finite"
    if not task.gradients:
        return None if gradient is None else "a gradient, for which it was not asked"
    if type(gradient) is not np.ndarray:
        return f"{_kind(gradient)} as its gradient, not an array"
    if gradient.dtype != task.parameters.dtype or gradient.shape != task.parameters.shape:
        return (
            f"a gradient of {gradient.dtype} and shape {gradient.shape}, not of {task.parameters.dtype} and shape "
            f"{task.parameters.shape}"
        )
    return None


def _failure_problem(result: Result, last: bool) -> str | None:
    if type(result.failure) is not bytes:
        return f"{_kind(result.failure)} as its exception, not bytes"
    return None if last else "an exception, and results after it"


def _kind(value: object) -> str:
    return f"an object of type {type(value).__name__}"
