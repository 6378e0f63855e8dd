"""Weights of samples that follow from their classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import NOT_NEGATIVE, quoted, real_number, require_unmasked, whole_number


def sample_weights(labels: NDArray[Any], class_weights: str | Mapping[int, float] = "balanced") -> NDArray[np.float32]:
    """Weights of samples from weights of their classes: ``(n,)`` labels -> ``(n,)`` float32, for ``Dataset(weights=)``.

    With "balanced" every class that occurs has the same total weight, and all together have n: a sample of class c has
    the weight ``n / (classes * samples of c)``. A mapping gives the weight of each class. Classes that it leaves out
    have 1.

    Raises ValueError if a weight is not a finite number of at least 0, or if the mapping names a class that does not
    occur and leaves out one that does.

    >>> import numpy as np
    >>> sample_weights(np.array([0, 0, 0, 1]))
    array([0.6666667, 0.6666667, 0.6666667, 2.       ], dtype=float32)
    >>> sample_weights(np.array([0, 0, 0, 1]), {1: 5})
    array([1., 1., 1., 5.], dtype=float32)
    """
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise ValueError(f"labels must be a NumPy array of whole numbers with shape (n,), got {quoted(labels)}")
    require_unmasked("labels", labels)
    classes, rows, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise ValueError(f'class_weights must be "balanced" or a mapping, got {quoted(class_weights)}')
        values = len(labels) / (len(classes) * counts)
    elif isinstance(class_weights, Mapping):
        weight_of = {
            whole_number("a class of class_weights", label): real_number(
                f"the weight of class {label}", weight, NOT_NEGATIVE
            )
            for label, weight in class_weights.items()
        }
        absent = weight_of.keys() - set(classes.tolist())
        left_out = set(classes.tolist()) - weight_of.keys()
        if absent and left_out:
            raise ValueError(
                f"class_weights names class {min(absent)}, which does not occur, and leaves out class {min(left_out)}"
            )
        values = np.array([weight_of.get(label, 1.0) for label in classes.tolist()])
    else:
        raise ValueError(f'class_weights must be "balanced" or a mapping, got {quoted(class_weights)}')
    weights: NDArray[np.float32] = values.astype(np.float32)[rows]
    return weights
