"""What has to be closed after use: `Closeable` makes it a context manager."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closeable(ABC):
    """Has ``close``, which the end of a ``with`` block calls."""

    @abstractmethod
    def close(self) -> None:
        """Free what this object holds. A second call does nothing."""

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, also after an exception."""
        self.close()
