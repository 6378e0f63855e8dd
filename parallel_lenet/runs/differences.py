"""What differs between two runs: settings, versions, machine, data, the first step with another result, and results."""

from typing import Any, NamedTuple

from parallel_lenet.runs.environment import Session
from parallel_lenet.runs.run import Run
from parallel_lenet.runs.steps import Steps

# Settings that decide where a run is written or how its numbers are computed, not which numbers result.
INCIDENTAL = ("out", "config", "resume", "continue", "report", "max_time", "log", "trace")


class Difference(NamedTuple):
    """One thing that differs."""

    part: str
    """settings, versions, machine, variables, data, steps or results."""
    name: str
    left: Any
    right: Any


class Comparison(NamedTuple):
    """Two runs compared."""

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
        rows = (_by_step(left.steps), _by_step(right.steps))
        found += _differing_steps(*rows)
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
"""The loss with all digits and the hash of the parameters, by step; a number counts the skipped steps before it."""


def _differing_steps(left: Rows, right: Rows) -> list[Difference]:
    """The first step with another loss, the first one with other parameters, and the first one that one run lacks."""
    found = []
    common = [place for place in left if place in right]
    for name, index in (("first step with another loss", 0), ("first step with other parameters", 1)):
        for place in common:
            values = (left[place][index], right[place][index])
            if values[0] != values[1] and "" not in values:
                found.append(Difference("steps", name, *(f"step {place[0]:,}: {value}" for value in values)))
                break
    if len(left) != len(right):
        found.append(Difference("steps", "number of steps", len(left), len(right)))
    elif left.keys() != right.keys():
        alone = [min(one.keys() - other.keys(), default=None) for one, other in ((left, right), (right, left))]
        said = [None if place is None else f"step {place[0]:,}" for place in alone]
        found.append(Difference("steps", "first step that the other has not", *said))
    return found


def _equal_steps(left: Rows, right: Rows) -> int:
    equal = 0
    for place, (loss, _) in left.items():
        if place not in right or loss != right[place][0]:
            break
        equal += 1
    return equal


def _by_step(steps: Steps) -> Rows:
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
