"""Finds the array of a file for each parameter: by its name, or else by shapes and the numbers in names."""

import re
from collections.abc import Mapping, Sequence

from parallel_lenet.checks import quoted
from parallel_lenet.weights.files import WeightsError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Unit = tuple[str, ...]  # Names that belong together: those of one layer.


def match(path: str, wanted: Sequence[tuple[str, Shape]], found: Shapes) -> dict[str, str]:
    """The name in the file of each parameter. Raises WeightsError, which names the first disagreement."""
    ours = dict(wanted)
    if ours.keys() == found.keys():
        for name, shape in ours.items():
            if found[name] != shape:
                raise _disagreement(path, name, found[name], name, shape)
        return {name: name for name in ours}
    theirs = sorted(found, key=_sort_key)
    units = _units(list(ours))
    candidates = _units(theirs)
    if len(units) != len(candidates):  # Names that do not tell which arrays belong to one layer.
        units = [(name,) for name in ours]
        candidates = [(name,) for name in theirs]
    places: dict[str, str] = {}
    matches: dict[tuple[Shape, ...], list[Unit]] = {}
    free_units = list(candidates)
    for unit in units:
        shapes = _signature(unit, ours)
        fitting = [each for each in free_units if _signature(each, found) == shapes]
        if not fitting:
            raise _first_disagreement(path, ours, found, theirs)
        partner = fitting[0]
        free_units.remove(partner)
        matches.setdefault(shapes, []).append(partner)
        by_shape = sorted(partner, key=lambda name: _order(name, found))
        places |= dict(zip(sorted(unit, key=lambda name: _order(name, ours)), by_shape, strict=True))
    if free_units:
        name = free_units[0][0]
        raise WeightsError(
            f"{path}: holds {quoted(name)} of shape {found[name]}, for which this network, with {len(ours)} arrays, "
            "has no place"
        )
    for units_of_one_shape in matches.values():
        _require_order(path, units_of_one_shape)
    return places


def _units(names: Sequence[str]) -> list[Unit]:
    """The names in groups: those with the same text before their last dot."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return [tuple(group) for group in groups.values()]


def _signature(unit: Unit, shapes: Shapes) -> tuple[Shape, ...]:
    return tuple(sorted(shapes[name] for name in unit))


def _order(name: str, shapes: Shapes) -> tuple[int, Shape, bool]:
    """A key that sorts the arrays of a layer: weights before biases, also if their shapes are the same."""
    return -len(shapes[name]), shapes[name], "bias" in name


def _sort_key(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts ``fc2`` before ``fc10``, and weights as their layers are numbered."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in _parts(name)]


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"([0-9]{1,18})", name) if part]


def _require_order(path: str, units_of_one_shape: Sequence[Unit]) -> None:
    """Raises WeightsError if layers of equal shapes have names whose numbers don't say which comes first."""
    first = units_of_one_shape[0]
    for other in units_of_one_shape[1:]:
        if re.sub(r"[0-9]+", "", first[0]) != re.sub(r"[0-9]+", "", other[0]):
            raise WeightsError(
                f"{path}: {quoted(first[0])} and {quoted(other[0])} have the same shape, and their names do not say "
                "which comes first: give the arrays this network's names"
            )


def _first_disagreement(path: str, ours: Shapes, found: Shapes, theirs: Sequence[str]) -> WeightsError:
    """The error for the first two arrays that differ: compared by name if half of the names agree, else in order."""
    common = ours.keys() & found.keys()
    if len(common) * 2 >= len(ours):
        for name, shape in ours.items():
            if name not in found:
                return WeightsError(f"{path}: {quoted(name)} of shape {shape} is missing")
            if found[name] != shape:
                return _disagreement(path, name, found[name], name, shape)
    used_names: list[str] = []
    for name, shape in ours.items():
        fitting = [each for each in theirs if each not in used_names and found[each] == shape]
        if not fitting:
            similar = [each for each in theirs if each not in used_names and len(found[each]) == len(shape)]
            if not similar:
                break
            return _disagreement(path, similar[0], found[similar[0]], name, shape)
        used_names.append(fitting[0])
    else:  # All shapes are there, but not together in layers.
        name, shape = next(iter(ours.items()))
    return WeightsError(
        f"{path}: no array fits {name} of shape {shape}: its {len(found):,} arrays are "
        f"{', '.join(f'{quoted(each)} {found[each]}' for each in theirs[:8])}{', ...' * (len(theirs) > 8)}"
    )


def _disagreement(path: str, name: str, found: Shape, ours: str, wanted: Shape) -> WeightsError:
    return WeightsError(f"{path}: {quoted(name)} has shape {found}, but this network's {ours} has {wanted}")
