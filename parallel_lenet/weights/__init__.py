"""Weights from files of other programs, and of this one: safetensors, ``.npz`` and checkpoints."""

import os

import numpy as np

from parallel_lenet.checks import quoted
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector
from parallel_lenet.weights.convention import named_weights
from parallel_lenet.weights.files import WeightsError, open_weights
from parallel_lenet.weights.matching import match

__all__ = ["WeightsError", "load_weights", "named_weights"]


def load_weights(model: Model, path: str | os.PathLike[str]) -> Vector:
    """The weights in a file as a parameter vector of ``model``, to train or predict with.

    The file is a safetensors file, an ``.npz`` file of arrays by name, or a checkpoint of this package. For a PyTorch
    ``state_dict``, ``safetensors.torch.save_file`` writes one. Arrays with the model's own names are matched by name.
    Otherwise layers are matched by the shapes of their arrays. Layers of equal shapes are matched by the numbers in
    their names (``fc2`` before ``fc10``). float16, float32 and float64 become the model's dtype.

    Raises WeightsError if names and shapes don't fit, if a number is NaN or infinite, or if the file is damaged. Its
    message names the first disagreement. Raises ExtraError if it is a safetensors file and the library is missing. The
    file is not trusted: sizes are compared before memory is allocated, and nothing in it is executed.

    >>> import numpy as np, pathlib, tempfile
    >>> from parallel_lenet import lenet5
    >>> network = lenet5(kernel="im2col")
    >>> parameters = network.initial_parameters(np.random.default_rng(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "weights.npz"
    ...     np.savez(file, **network.layout.views(parameters))
    ...     print(np.array_equal(load_weights(network, file), parameters))
    True
    """
    vector = np.empty(model.layout.size, getattr(model, "dtype", "float32"))
    with open_weights(path) as file:
        places = match(file.path, model.layout.entries, file.shapes)
        for name, view in named_weights(model, vector).items():
            with np.errstate(over="ignore"):  # What overflows becomes infinity, which is refused.
                view[...] = file.read(places[name])
            if not np.isfinite(view).all():
                raise WeightsError(
                    f"{file.path}: {quoted(places[name])} holds NaN, infinity or a number too large for {vector.dtype}"
                )
    return vector
