"""A model that cannot be copied for the workers is named, with the attribute that cannot."""

import copy
import threading
from typing import Any

import numpy as np
import pytest
from kits.models import Softmax

from parallel_lenet import SGD, Coordinator
from parallel_lenet.engines.copying import copy_model
from parallel_lenet.engines.imports import pickle_model


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


class InSlots(Softmax):
    __slots__ = ("guard",)


SCRIPT = """
from kits.models import Softmax
from threading import Lock

lock = Lock()

class UsesGlobal(Softmax):
    def locked(self):
        return lock.locked()
"""


class Refuses(Softmax):
    def __getstate__(self) -> Any:
        raise OSError("no state\nfor you")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (threading.Lock(), r"Softmax\.attribute, an object of type lock, cannot be pickled \(cannot pickle '_thread"),
        (Holder([1, {"a": threading.Lock()}]), r"Softmax\.attribute\.value\[1\]\['a'\], an object of type lock,"),
        ((i for i in "ab"), r"Softmax\.attribute, an object of type generator,"),
    ],
)
@pytest.mark.parametrize("engine", ["serial", "processes", "threading"])
def test_the_attribute_that_cannot_be_copied_is_named(engine: str, value: Any, what: str) -> None:
    model: Any = Softmax()
    model.attribute = value
    data = np.zeros((4, 28, 28), np.uint8), np.zeros(4, int)
    with (
        Coordinator(model, SGD(), engine=engine, n_workers=1, batch_size=2) as coordinator,
        pytest.raises(TypeError, match=f"^the model, an object of type Softmax, cannot be copied .*: {what}") as caught,
    ):
        coordinator.fit(data)
    assert str(caught.value).endswith("; create it when it is first used, or leave it out with __getstate__")


def test_slots_a_state_that_fails_and_a_global_variable_are_named() -> None:
    slots: Any = InSlots()
    slots.guard = threading.Lock()
    with pytest.raises(TypeError, match=r"InSlots\.guard, an object of type lock, cannot be pickled"):
        copy_model(slots, copy.deepcopy)
    with pytest.raises(TypeError, match=r"workers: it cannot be pickled \(no state for you\); create"):
        pickle_model(Refuses())
    script: dict[str, Any] = {"__name__": "__main__"}  # Its classes travel whole.
    exec(SCRIPT, script)
    with pytest.raises(TypeError, match=r"the global variable lock, which UsesGlobal\.locked uses, cannot be pickled"):
        pickle_model(script["UsesGlobal"]())
