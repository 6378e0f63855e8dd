"""Writes a trained network for other programs: ONNX to run it, safetensors and ``.npz`` for its weights.

The ONNX graph takes pixels as they are stored: padding and normalisation are part of it. The other two formats hold
weights by layer, as PyTorch has them (see `weights.convention`). `load_weights` reads both again.
"""

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parallel_lenet import optional
from parallel_lenet.archive import path_string
from parallel_lenet.checks import quoted
from parallel_lenet.descriptions import of_model
from parallel_lenet.export.graph import onnx_model
from parallel_lenet.files import write_atomically
from parallel_lenet.jsonable import json_value
from parallel_lenet.model import Model
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector, sha256
from parallel_lenet.weights import named_weights

__all__ = ["FORMATS", "export", "to_npz", "to_onnx", "to_safetensors"]

Metadata = Mapping[str, Any]


def to_onnx(model: Sequential, parameters: Vector, metadata: Metadata | None = None) -> bytes:
    """The network as an ONNX model, float32, checked with ``onnx.checker``.

    The input ``images`` is float32 ``(batch, channels, height, width)``: pixels as they are stored, in the network's
    unit, such as 0 to 255. The outputs are ``scores`` (logits) and ``probabilities``, ``(batch, classes)``. A network
    with another loss than cross-entropy has no probabilities. Nodes and weights have the layers' names. ``metadata``,
    JSON, is stored beside the package's own.

    Raises ValueError if a layer has no counterpart in ONNX or the vector has another size. Raises TypeError if the
    model is not a `Sequential`, and ExtraError if onnx (extra ``export``) is missing.
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"only a Sequential can be exported to ONNX, got {type(model).__name__}")
    return onnx_model(model, named_weights(model, parameters), _version(), _file_metadata(model, parameters, metadata))


def to_safetensors(model: Model, parameters: Vector, metadata: Metadata | None = None) -> bytes:
    """The weights as a safetensors file: arrays by name, and the metadata as JSON under the key ``parallel_lenet``.

    Raises ValueError if the vector has another size, and ExtraError if safetensors (extra ``export``) is missing.
    """
    library = optional.load("export", "safetensors", "writing safetensors files", "safetensors.numpy")
    arrays = {name: np.ascontiguousarray(array) for name, array in named_weights(model, parameters).items()}
    # Under one key: the library writes several keys in any order, and equal networks would give different files.
    text = json.dumps(_file_metadata(model, parameters, metadata), sort_keys=True)
    content: bytes = library.save(arrays, metadata={"parallel_lenet": text})
    return content


def to_npz(model: Model, parameters: Vector, metadata: Metadata | None = None) -> bytes:
    """The weights as an ``.npz`` file of plain arrays by name, which `numpy.load` opens. It has no room for metadata.

    Raises ValueError if the vector has another size.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **named_weights(model, parameters))
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Any, Vector, Metadata | None], bytes]] = {
    "onnx": to_onnx,
    "safetensors": to_safetensors,
    "npz": to_npz,
}


def export(
    path: str | os.PathLike[str],
    model: Model,
    parameters: Vector,
    *,
    format: str | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write a network to a file in one of `FORMATS`, by default the one that the file's name ends with.

    The file is replaced completely or not at all. Raises ValueError if the format is unknown, OSError if the file can't
    be written, and as `to_onnx`, `to_safetensors` and `to_npz` do.

    >>> import tempfile
    >>> from parallel_lenet import lenet5
    >>> network = lenet5(kernel="im2col")
    >>> parameters = network.initial_parameters(np.random.default_rng(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(f"{folder}/weights.npz", network, parameters)
    ...     print(sorted(np.load(f"{folder}/weights.npz"))[:3])
    ['conv1.bias', 'conv1.weight', 'conv2.bias']
    """
    path = Path(path_string(path))
    name = path.suffix.removeprefix(".").lower() if format is None else format
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {quoted(name)}")
    write_atomically(path, FORMATS[name](model, parameters, metadata))


def file_sha256(content: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _version() -> str:
    """The version of this package."""
    version: str = sys.modules["parallel_lenet"].__version__
    return version


def _file_metadata(model: Model, parameters: Vector, metadata: Metadata | None) -> dict[str, Any]:
    """The metadata of a file, as JSON: the network's description, its parameters' hash, and the user's metadata."""
    return {
        **json_value("metadata", metadata or {}),
        "version": _version(),
        "network": of_model(model),
        "parameters_sha256": sha256(parameters),
    }
