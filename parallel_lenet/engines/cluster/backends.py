"""How a cluster that joblib can use is started or joined, and left; and the two that need no cluster library."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from parallel_lenet import optional
from parallel_lenet.engines import WorkerError


class Backend(ABC):
    """One of joblib's backends, and the cluster behind it."""

    name: str
    module = ""
    """What an extra installs."""
    returns = "generator_unordered"
    """What ``joblib.Parallel`` is asked to return: a generator gives what was done before a failure."""
    remote = False
    """Whether a call may hang, for a cluster that is gone or stopped."""
    addresses, example = re.compile("(?!)"), ""
    """What an address looks like; none does where there is no cluster to join."""

    def __init__(self, address: str | None = None) -> None:
        if address is not None and not self.example:
            raise ValueError(f"{self.name} runs on this machine and takes no address, such as {address!r}")
        if address is not None and not (isinstance(address, str) and self.addresses.fullmatch(address)):
            raise ValueError(f"a {self.name} cluster's address is one like {self.example}, got {address!r}")
        self.address = address
        self.lost: list[str] = []
        """Workers that were given up since someone looked, each as a sentence."""

    def require(self) -> None:
        """Raises ExtraError if the library is missing or does not work."""
        if self.module:
            optional.load(self.name, self.module, f"the {self.name} engine")

    @abstractmethod
    def start(self, n_workers: int | None) -> int:
        """Start a cluster of so many workers, or join the one at the address; how many there are to use."""

    @abstractmethod
    def stop(self) -> None:
        """End what ``start`` started; leave what it joined. Twice does nothing."""

    def count(self) -> int:
        """How many workers a cluster that isn't ours has now."""
        raise NotImplementedError

    def running(self) -> bool:
        """Whether there still is a cluster that could compute anything."""
        return True

    def gone(self) -> bool:
        """Whether a call would only hang."""
        return False

    def stuck(self) -> str:
        """Why the call under way will never end, "" as far as is known: the cluster is to be started anew."""
        return ""

    def forget(self, key: str) -> None:
        """Have no worker that goes on after us hold this setup."""

    def parallel(self, n_workers: int, timeout: float) -> Any:
        """A fresh ``joblib.Parallel``, which waits no longer than ``timeout`` for the next result."""
        from joblib import Parallel, parallel_config  # Late: 0.1 s.

        with parallel_config(self.name, **self.arguments()):
            return Parallel(
                n_jobs=n_workers,
                return_as=self.returns,
                # Of one job joblib makes none: it runs right here, where a time limit only makes it warn.
                timeout=timeout if n_workers > 1 or self.name == "dask" else None,
                batch_size=1,  # A task is a group of blocks already.
                pre_dispatch="all",
                max_nbytes=None,  # No memory-mapped copies in files, which go stale when an array changes in place.
            )

    def arguments(self) -> dict[str, Any]:
        """What joblib's backend needs to know."""
        return {}


class Threads(Backend):
    """Threads of this process: for kernels that release the interpreter's lock, and to debug with."""

    name = "threading"

    def start(self, n_workers: int | None) -> int:
        """The pool starts with the first call."""
        return n_workers or 1

    def stop(self) -> None:
        """It ended with its ``Parallel``."""


class Loky(Threads):
    """Processes of this machine, started by joblib, which has one pool of them a program: the first stop ends it."""

    name = "loky"

    def stop(self) -> None:
        """The processes would wait for more work for minutes, and joblib's temporary folder for the program's end."""
        from joblib.externals.loky import get_reusable_executor

        executor = get_reusable_executor(reuse=True)  # Loky has one a program; without one this makes an idle one.
        getattr(executor, "terminate", executor.shutdown)(kill_workers=True)


def joined(backend: Backend, join: Callable[[], None], hint: str = "") -> None:
    """Start or join a cluster; WorkerError, with a ``hint``, and nothing left running, if that fails."""
    try:
        join()
    except Exception as error:
        backend.stop()
        if isinstance(error, WorkerError):
            raise
        if backend.address is None:
            failed = f"a {backend.name.capitalize()} cluster of our own couldn't start"
        else:
            failed = f"no {backend.name} cluster with a worker at {backend.address}"
            hint = ""
        raise WorkerError(f"{failed}: {str(error).rstrip('.')}{hint}") from error
