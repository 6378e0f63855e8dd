"""Keeps descriptors 0 to 2 for the standard streams, also if a program was started with some of them closed.

Otherwise the next file that is opened gets such a number, and printed text is written into it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

STANDARD = 3  # Standard input, output and error: the descriptors below this number.


@contextmanager
def above_standard() -> Iterator[None]:
    """Inside the block every new descriptor is at least 3: the null device takes the numbers that are free below."""
    taken: list[int] = []
    try:
        while not taken or taken[-1] < STANDARD:
            taken.append(os.open(os.devnull, os.O_RDWR))
        os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
