"""Keeps descriptors 0 to 2 for the standard streams, also if a program was started with some of them closed.

Otherwise the next open file gets such a number, and printed text is written into it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

STANDARD = 3  # Standard input, output and error: the descriptors below this number.


@contextmanager
def above_standard() -> Iterator[None]:
    """Inside the block each new descriptor is at least 3: the null device takes the free numbers below."""
    placeholders: list[int] = []
    try:
        while not placeholders or placeholders[-1] < STANDARD:
            placeholders.append(os.open(os.devnull, os.O_RDWR))
        os.close(placeholders.pop())
        yield
    finally:
        for descriptor in placeholders:
            os.close(descriptor)
