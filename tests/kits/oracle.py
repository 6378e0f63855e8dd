"""PyTorch, which computes what many tests compare with."""

from typing import Any

import pytest


def pytorch() -> Any:
    """The module ``torch``, with one thread. The test skips without it.

    Arrays here are small: two threads mostly wait for each other in busy loops, and take longer than one.
    """
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch
