"""The Model contract: what a model of your own must provide."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.metrics import Metrics
from parallel_lenet.parameters import Layout, Vector

Array = NDArray[Any]


class Model(Protocol):
    """What the coordinator trains: any picklable object with these members.

    A model has no parameters: it gets them with each call. For each call of the coordinator's ``fit``, ``iterate`` or
    ``evaluate``, each worker gets a copy of the model, by pickling (in the coordinator's process by ``copy.deepcopy``).
    So the attributes at the beginning of the call count. What a copy writes to its own attributes lasts until the end
    of the call at most, and reaches no other worker. The same holds for a class of a script or notebook. A module that
    workers import has the global variables of its file there. All workers hash strings alike, by ``PYTHONHASHSEED`` or,
    if that is not set, by the seed 0. This process then has another seed. So a result that depends on ``hash`` or on
    the order of a set is the same for any number of workers, but not with the engine "serial".

    ``loss_and_gradient`` may have two more parameters, each of which it gets by name if it has it:

    - ``weights``: the samples' weights, float32 ``(n,)``, or None if all are 1. The loss and the gradient are then sums
      over ``weight * loss``. The number of correct predictions is counted without weights. A model without the
      parameter cannot be trained or evaluated on a `Dataset` with weights.
    - ``keys``: a `SampleKeys` in training, and None in an evaluation. Its default must be None. It gives random numbers
      for each sample that depend only on the seed, the epoch and the sample, as for dropout and augmentation. So they
      are the same for any number of workers, and after a resume.

    Seven members are optional:

    - ``check(inputs, targets)`` is called with all data of a ``fit``, ``iterate`` or ``evaluate`` before any worker
      starts, in the coordinator's process. It raises ValueError if the model cannot use such data.
    - ``description``: JSON values that decide what the parameters mean, such as the layers' settings. A checkpoint
      holds it, and `Coordinator.load` refuses a checkpoint with another one. Without it only the layout is compared.
    - ``predict_proba(parameters, inputs)``: for a classifier the probability of each class, ``(n, classes)``. Without
      it `Coordinator.predict_proba` raises TypeError.
    - ``classifies``: False for a model that predicts no classes. Then ``fit(best_by="accuracy")`` is an error.
    - ``preferred_shard_size``: samples per shard unless the user sets it.
    - ``leaf``: the smallest number of samples whose sums follow the tree (see `tree`). On ``leaf * 2^k`` samples, or on
      fewer, ``loss_and_gradient`` then gives bit by bit the sum of its results along the tree. So no bit depends on how
      many samples it gets, and many workers share a batch in smaller parts, down to a quarter of
      ``preferred_shard_size``. Without it, or if it is None, each shard is a leaf. A subclass that has a
      ``loss_and_gradient`` of its own does not inherit it, and may define it again: what the subclass adds, such as a
      penalty, is usually rounded once per call.
    - ``warm_up(parameters, inputs, targets)`` is for models that compile. It is called before training and any
      measurement of time begin, once for each number of samples that ``loss_and_gradient`` will get. Each worker
      process calls it. So does the coordinator's process, unless ``is_compiled(samples)`` (optional too) is true for
      that number. Compiled code that is kept on disk is then compiled once.
    """

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""

    def initial_parameters(self, rng: np.random.Generator) -> Vector:
        """A fresh parameter vector, float32 or float64, of ``layout.size`` numbers, drawn from ``rng``.

        The coordinator gives NumPy's Philox generator keyed by its seed. What its ``standard_normal`` or ``uniform``
        draws may change with NumPy's version. `random.uniform` always gives the same numbers.
        """

    def loss_and_gradient(self, parameters: Vector, inputs: Array, targets: Array, gradient: Vector | None) -> Metrics:
        """The loss and its gradient, both summed (not averaged) over the samples.

        ``inputs`` and ``targets`` are rows of the dataset as it is stored. ``gradient`` is the caller's buffer, to be
        overwritten completely (it may hold NaN), or None if only metrics are wanted. The result is a pure function of
        the arguments, which are not written to.
        """

    def predict(self, parameters: Vector, inputs: Array) -> Array:
        """One prediction per row of ``inputs``. A classifier returns the class labels ``(n,)``."""


def leaf_of(model: object) -> Any:
    """The model's ``leaf``, or None if it has none, or inherits one for another ``loss_and_gradient``.

    Only the coordinator's process can tell: cloudpickle leaves out what a class defines as its base does.
    """
    if "leaf" not in getattr(model, "__dict__", {}):
        for kind in type(model).__mro__:
            if "leaf" in vars(kind):
                break
            if "loss_and_gradient" in vars(kind):
                return None
    return getattr(model, "leaf", None)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a keyword parameter of this name."""
    try:
        parameter = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
