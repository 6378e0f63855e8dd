"""Fingerprints of data: sizes, dtypes and a hash of the content, to tell whether other arrays are the same data.

The order of the arrays in memory has no influence.
"""

import hashlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.display import count

HASH_CHUNK = 1 << 20  # Bytes that are hashed at a time: a complete dataset is never copied.


class Data(Protocol):
    """A `Dataset`, or an engine's copy of one."""

    @property
    def inputs(self) -> NDArray[Any]:
        """One row per sample."""

    @property
    def targets(self) -> NDArray[Any]:
        """One row per sample."""

    @property
    def weights(self) -> NDArray[Any] | None:
        """One per sample, or None if all are 1."""


def arrays_sha256(*arrays: NDArray[Any]) -> str:
    """The SHA-256 of the shapes, types and values of arrays: about 30 ms for MNIST."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        rows = max(1, HASH_CHUNK * len(array) // max(1, array.nbytes))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def fingerprint(data: Data) -> dict[str, Any]:
    """The fingerprint of data, for a checkpoint."""
    arrays = [data.inputs, data.targets, *([] if data.weights is None else [data.weights])]
    return {
        "samples": len(data.inputs),
        "shape": list(data.inputs.shape[1:]),
        "dtypes": [array.dtype.str for array in arrays],
        "sha256": arrays_sha256(*arrays),
    }


def data_text(values: dict[str, Any] | None) -> str:
    """A fingerprint as an error shows it."""
    if values is None:
        return "unknown data"
    shape = tuple(values.get("shape", ()))
    dtypes = values.get("dtypes")
    adjective = "weighted " if isinstance(dtypes, list) and len(dtypes) > 2 else ""
    samples = count(values["samples"], f"{adjective}sample")
    return f"{samples} of shape {shape} (SHA-256 {str(values.get('sha256'))[:12]}...)"


class EpochData:
    """The data of the last step: read-only copies, or only their fingerprint."""

    def __init__(self, data: Data | None, known: dict[str, Any] | None = None, holder: object = None) -> None:
        self._data = data
        self._known = known
        self._holder = holder  # An object that keeps the copies in memory.

    def fingerprint(self) -> dict[str, Any] | None:
        """The fingerprint, or None if the data are not known."""
        if self._known is None and self._data is not None:
            self._known = fingerprint(self._data)
        return self._known

    def release(self) -> None:
        """Free the copies, and keep the fingerprint."""
        self.fingerprint()
        self._data = None
        self._holder = None

    def has_same_content(self, other: "EpochData") -> bool:
        """Whether the other data have the same content. True also if these data are not known."""
        mine = self._data
        theirs = other._data
        if mine is not None and theirs is not None:
            pairs = ((mine.inputs, theirs.inputs), (mine.targets, theirs.targets), (mine.weights, theirs.weights))
            if all(one is other for one, other in pairs):
                return True
        return self.fingerprint() in (None, other.fingerprint())
