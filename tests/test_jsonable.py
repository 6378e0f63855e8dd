"""Values and objects as JSON: plain, complete, and refused early where that can't be."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from parallel_lenet import SGD, AdamW, Cosine, Warmup
from parallel_lenet.jsonable import describe, json_value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.uint8(7), 7),
        (np.bool_(True), True),
        (np.array(3), 3),
        (np.array(0.25, np.float16), 0.25),
        (np.longdouble(0.5), 0.5),
        (np.str_("a"), "a"),
        ((1, (2, [3])), [1, [2, [3]]]),
        ({"a": {np.int64(1): np.float64(2)}, 3: None}, {"a": {"1": 2.0}, "3": None}),
        ([float("nan"), np.float32("inf"), -np.inf], ["nan", "inf", "-inf"]),
        (2**128, 2**128),
        ("ü\ud800", "ü\ud800"),
    ],
    ids=str,
)
def test_a_value_becomes_plain_json(value: Any, plain: Any) -> None:
    found = json_value("metadata", value)
    assert found == plain
    assert json.loads(json.dumps(found, allow_nan=False)) == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            np.arange(3),
            r"metadata\['x'\]\[1\] is an array of shape \(3,\), which JSON does not have: use its .tolist",
        ),
        (object(), r"metadata\['x'\]\[1\] is of type object, which JSON does not have"),
        ({1, 2}, r"metadata\['x'\]\[1\] is of type set"),
        (b"a", r"metadata\['x'\]\[1\] is of type bytes"),
        (1j, r"metadata\['x'\]\[1\] is of type complex"),
        ({(1, 2): 3}, r"metadata\['x'\]\[1\] has the key \(1, 2\), but JSON's keys are strings"),
        pytest.param(10**5000, r"metadata\['x'\]\[1\] is an integer of more than 4,096 bits", id="large"),
    ],
)
def test_what_json_does_not_have_is_refused_by_its_place(value: Any, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{sentence}"):
        json_value("metadata", {"x": [0, value]})


def test_what_contains_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["again"] = value
    with pytest.raises(ValueError, match=r"^metadata is nested more than 50 deep, or contains itself$"):
        json_value("metadata", value)


def test_an_object_is_described_by_its_class_and_all_its_settings() -> None:
    warm = {"class": "Warmup", "schedule": {"class": "Cosine", "learning_rate": 0.1, "total_steps": 9, "minimum": 0.0}}
    assert describe(SGD(Warmup(Cosine(0.1, 9), 2), 0.5)) == {
        "class": "SGD",
        "learning_rate": {**warm, "steps": 2},
        "momentum": 0.5,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    assert describe(AdamW(0.1)) != describe(AdamW(0.1, beta1=0.8))


def test_objects_of_other_programs_are_described_as_well_as_can_be() -> None:
    class Plain:
        def __init__(self) -> None:
            self.rate = 0.5
            self._cache = object()
            self.other = self
            self.weights = np.arange(3)

    @dataclass
    class Own:
        schedule: Any
        description = "not used: a dataclass has fields"

    class Saying:
        description = ("mine", 1)

    one, other = describe(Plain()), describe(Plain())
    assert one == other
    assert (one["class"], one["rate"], one["weights"]["shape"]) == ("Plain", 0.5, [3])
    assert "_cache" not in one
    assert describe(Own(json.dumps)) == {"class": "Own", "schedule": {"function": "dumps"}}
    assert describe(Saying()) == {"class": "Saying", "description": ["mine", 1]}
    json.dumps(one)
