"""The published hash of the parameters after the first steps of ``parallel-lenet train``, on every machine."""

import platform
from importlib import metadata

import numpy as np

from parallel_lenet import __version__, kernels
from parallel_lenet.cli import _optimizer
from parallel_lenet.cli._options import TrainOptions
from parallel_lenet.datasets import Dataset
from parallel_lenet.network.fitted import lenet5_for
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.optimizers import Optimizer
from parallel_lenet.optional import ExtraError

SHA256 = "c5a992b9903940739a9be0e3b8a55931b58ff2b2486cc7426aa84b334ef556c5"
"""The hash of the parameters after `STEPS` steps on the bundled digits, with kernel compiled and defaults for the rest.

A change that is meant to change bits replaces it, here and in the README: see CONTRIBUTING.
"""

STEPS = 50
MADE_WITH = "NumPy 2.4.6, numba 0.68.1, x86_64"


def network_and_optimizer(train: Dataset, kernel: str, batch_size: int) -> tuple[Sequential, Optimizer]:
    """The network that ``parallel-lenet train`` trains on these images, and the optimizer."""
    model = lenet5_for(train, kernel=kernel)
    options = _optimizer.with_defaults(TrainOptions(kernel=model.kernel, batch_size=batch_size))
    return model, _optimizer.optimizer(options, _optimizer.total_steps(options, len(train)))


def compare(kernel: str, steps: int, batch_size: int, sha256: str) -> tuple[bool | None, str]:
    """Whether a run has the published bits (None if its settings are others), and a sentence that says so."""
    if (steps, batch_size) != (STEPS, TrainOptions().batch_size):
        return None, f"not compared with the published bits, which are of {STEPS} steps of {TrainOptions().batch_size}"
    if kernel != "compiled":
        text = f"not compared with the published bits, which are of kernel compiled, not {kernel}{_compiled_error()}"
        return None, text
    if sha256 == SHA256:
        return True, f"the same bits as published for version {__version__}: SHA-256 {SHA256[:16]}..."
    local = f"NumPy {np.__version__}, numba {metadata.version('numba')}, {platform.machine()}"
    return False, (
        f"not the bits published for version {__version__}: SHA-256 {sha256[:16]}... instead of {SHA256[:16]}...; "
        f"here: {local}; published: {MADE_WITH}"
    )


def _compiled_error() -> str:
    """Why the compiled kernel does not work here, after a colon. Empty if it works."""
    try:
        kernels.load("compiled")
    except ExtraError as error:
        return f": {error}"
    return ""
