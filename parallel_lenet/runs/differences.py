"""Finds the differences of two runs: settings, versions, machine, data, the first differing step, and results."""

from typing import Any, NamedTuple

from parallel_lenet.runs.environment import Session
from parallel_lenet.runs.run import Run
from parallel_lenet.runs.steps import Steps

# Settings that do not decide the numbers of a run.
INCIDENTAL = ("out", "config", "resume", "continue", "report", "max_time", "log", "trace")


class Difference(NamedTuple):
    """A value that two runs do not share."""

    part: str
    """settings, versions, machine, variables, data, steps or results."""
    name: str
    left: Any
    right: Any


class Comparison(NamedTuple):
    """The result of a comparison of two runs."""

    differences: list[Difference]
    """In the order of cause and effect. A value that only one run has is None in the other."""
    equal_steps: int
    """The number of steps from the first on that both runs have with the same losses, or 0 if either has no steps."""


def compare(left: Run, right: Run) -> Comparison:
    """Find what differs between two runs, and how many steps are equal."""
    found = _setting_differences("settings", _settings(left), _settings(right))
    sessions = [run.sessions[-1] if run.sessions else None for run in (left, right)]
    for part in ("versions", "machine", "variables"):
        found += _setting_differences(part, *(_part(session, part) for session in sessions))
    found += _setting_differences("data", left.data, right.data)
    equal_steps = 0
    if left.steps is not None and right.steps is not None:
        rows = (_rows(left.steps), _rows(right.steps))
        found += _step_differences(*rows)
        equal_steps = _equal_steps(*rows)
    found += _setting_differences("results", _results(left), _results(right))
    return Comparison(found, equal_steps)


def _setting_differences(part: str, left: dict[str, Any], right: dict[str, Any]) -> list[Difference]:
    return [
        Difference(part, name, left.get(name), right.get(name))
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]


def _part(session: Session | None, part: str) -> dict[str, Any]:
    return {} if session is None else dict(session[part])


def _settings(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.options.items() if name not in INCIDENTAL}


Rows = dict[tuple[int, int], tuple[str, str]]
"""By step and the number of skipped steps before it: the loss with all digits, and the hash of the parameters."""


def _step_differences(left: Rows, right: Rows) -> list[Difference]:
    """The first steps with another loss and with other parameters, and the first step that only one run has."""
    found = []
    common = [key for key in left if key in right]
    for name, index in (("first step with another loss", 0), ("first step with other parameters", 1)):
        for key in common:
            values = (left[key][index], right[key][index])
            if values[0] != values[1] and "" not in values:
                found.append(Difference("steps", name, *(f"step {key[0]:,}: {value}" for value in values)))
                break
    if len(left) != len(right):
        found.append(Difference("steps", "number of steps", len(left), len(right)))
    elif left.keys() != right.keys():
        first_keys = [min(one.keys() - other.keys(), default=None) for one, other in ((left, right), (right, left))]
        texts = [None if key is None else f"step {key[0]:,}" for key in first_keys]
        found.append(Difference("steps", "first step that the other has not", *texts))
    return found


def _equal_steps(left: Rows, right: Rows) -> int:
    equal = 0
    for key, (loss, _) in left.items():
        if key not in right or loss != right[key][0]:
            break
        equal += 1
    return equal


def _rows(steps: Steps) -> Rows:
    found: Rows = {}
    before = -1
    times = 0
    for step, loss, digest in zip(steps["step"].tolist(), steps["loss"].tolist(), steps.parameters, strict=True):
        times = times + 1 if step == before else 0
        before = step
        found[int(step), times] = repr(loss), digest
    return found


def _results(run: Run) -> dict[str, Any]:
    """The measurements of the last epoch, without times, and the parameters' hash."""
    found = {
        name: value
        for name, value in (run.epochs[-1] if run.epochs else {}).items()
        if name.partition("_")[0] in ("epoch", "step", "train", "validation", "test")
    }
    found = {name: None if value != value else value for name, value in found.items()}  # NaN differs from itself.
    if run.sha256:
        found["parameters_sha256"] = run.sha256
    return found
