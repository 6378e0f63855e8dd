"""What differs between two runs: settings, versions, machine, data, and from which step on the results do."""

from typing import Any, NamedTuple

from parallel_lenet.runs.environment import Session
from parallel_lenet.runs.run import Run
from parallel_lenet.runs.steps import Steps

# Where a run was written, and how its numbers were computed, not which numbers result.
INCIDENTAL = ("out", "config", "resume", "continue", "report", "max_time", "log", "trace")


class Difference(NamedTuple):
    """One thing that differs."""

    part: str
    """settings, versions, machine, variables, data, steps or results."""
    name: str
    left: Any
    right: Any


def differences(left: Run, right: Run) -> list[Difference]:
    """All that differs, in the order of what decides what; what only one of them tells is None in the other."""
    found = _differing("settings", *(_without(run.options, INCIDENTAL) for run in (left, right)))
    sessions = [run.sessions[-1] if run.sessions else None for run in (left, right)]
    for part in ("versions", "machine", "variables"):
        found += _differing(part, *(_part(session, part) for session in sessions))
    found += _differing("data", left.data, right.data)
    return [*found, *_steps(left, right), *_differing("results", _results(left), _results(right))]


def _differing(part: str, left: dict[str, Any], right: dict[str, Any]) -> list[Difference]:
    return [
        Difference(part, name, left.get(name), right.get(name))
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]


def _part(session: Session | None, part: str) -> dict[str, Any]:
    return {} if session is None else dict(session[part])


def _without(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _steps(left: Run, right: Run) -> list[Difference]:
    """The first step with another loss, and the first one after which the parameters are known to be others."""
    if left.steps is None or right.steps is None:
        return []
    found = []
    rows = [_by_step(left.steps), _by_step(right.steps)]
    both = [place for place in rows[0] if place in rows[1]]
    for name, index in (("first step with another loss", 0), ("first step with other parameters", 1)):
        for place in both:
            one, other = (each[place][index] for each in rows)
            if one != other and one != "" and other != "":
                found.append(Difference("steps", name, *(f"step {place[0]:,}: {each}" for each in (one, other))))
                break
    lengths = [len(each) for each in rows]
    if lengths[0] != lengths[1]:
        found.append(Difference("steps", "number of steps", *lengths))
    elif rows[0].keys() != rows[1].keys():
        alone = [min(set(one) - set(other), default=None) for one, other in (rows, rows[::-1])]
        said = [None if place is None else f"step {place[0]:,}" for place in alone]
        found.append(Difference("steps", "first step that the other has not", *said))
    return found


def common_steps(left: Run, right: Run) -> int:
    """The number of steps that both runs have in common and that agree, from the first on; 0 if either has none."""
    if left.steps is None or right.steps is None:
        return 0
    one, other = _by_step(left.steps), _by_step(right.steps)
    agreeing = 0
    for place in one:
        if place not in other or one[place][0] != other[place][0]:
            break
        agreeing += 1
    return agreeing


def _by_step(steps: Steps) -> dict[tuple[int, int], tuple[str, str]]:
    """For each step, and each skipped one before it, the loss with all digits, and the hash of the parameters."""
    found: dict[tuple[int, int], tuple[str, str]] = {}
    before, times = -1, 0
    for step, loss, digest in zip(steps["step"].tolist(), steps["loss"].tolist(), steps.parameters, strict=True):
        times = times + 1 if step == before else 0
        before = step
        found[int(step), times] = repr(loss), digest
    return found


def _results(run: Run) -> dict[str, Any]:
    """What the last epoch measured, without times, and the parameters' hash."""
    found = {
        name: value
        for name, value in (run.epochs[-1] if run.epochs else {}).items()
        if name.partition("_")[0] in ("epoch", "step", "train", "validation", "test")
    }
    found = {name: None if value != value else value for name, value in found.items()}  # NaN differs from itself.
    if run.sha256:
        found["parameters_sha256"] = run.sha256
    return found
