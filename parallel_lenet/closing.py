"""`Closeable`, the base class of objects that have to be closed after use: it makes them context managers."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closeable(ABC):
    """An object whose ``close`` is called at the end of a ``with`` block."""

    @abstractmethod
    def close(self) -> None:
        """End and free what the object uses. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
