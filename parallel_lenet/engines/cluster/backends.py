"""The contract of joblib's backends: how to start or join a cluster, and leave it. Two need no cluster library."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from parallel_lenet import optional
from parallel_lenet.engines import WorkerError


class Backend(ABC):
    """One of joblib's backends, and its cluster."""

    name: str
    module = ""
    """The library that an extra installs."""
    return_as = "generator_unordered"
    """The ``return_as`` of ``joblib.Parallel``. A generator gives the results that came before a failure."""
    remote = False
    """Whether a call may hang, since the cluster may have ended or stopped."""
    address_form = re.compile("(?!)")
    """The form of an address. No text has it if there is no cluster to join."""
    example_address = ""
    """An address for error messages. Empty if there is no cluster to join."""

    def __init__(self, address: str | None = None) -> None:
        if address is not None and not self.example_address:
            raise ValueError(f"{self.name} runs on this machine and takes no address, such as {address!r}")
        if address is not None and not (isinstance(address, str) and self.address_form.fullmatch(address)):
            raise ValueError(f"a {self.name} cluster's address is one like {self.example_address}, got {address!r}")
        self.address = address
        self.lost_workers: list[str] = []
        """A sentence about each worker that was lost and not reported yet."""

    def require_library(self) -> None:
        """Raises ExtraError if the library is missing or does not work."""
        if self.module:
            optional.load(self.name, self.module, f"the {self.name} engine")

    @abstractmethod
    def start(self, n_workers: int | None) -> int:
        """Start a cluster of this number of workers, or join the one at the address. Returns how many to use."""

    @abstractmethod
    def stop(self) -> None:
        """End the cluster that ``start`` started, or leave the one that it joined. A second call does nothing."""

    def count(self) -> int:
        """How many workers a joined cluster has now."""
        raise NotImplementedError

    def is_running(self) -> bool:
        """Whether there is a cluster that can compute."""
        return True

    def is_gone(self) -> bool:
        """Whether a call would hang."""
        return False

    def stuck_reason(self) -> str:
        """Why the present call will never return, or "" if it may. If it never returns, the cluster starts again."""
        return ""

    def forget(self, key: str) -> None:
        """Let the workers that continue to run free the setups whose keys start with ``key``."""

    def parallel(self, n_workers: int, timeout: float) -> Any:
        """A new ``joblib.Parallel``, which waits at most ``timeout`` seconds for the next result."""
        from joblib import Parallel, parallel_config  # Imported lazily: it takes 0.1 s.

        with parallel_config(self.name, **self.arguments()):
            return Parallel(
                n_jobs=n_workers,
                return_as=self.return_as,
                # joblib runs a single job in this thread, where a time limit only makes it warn.
                timeout=timeout if n_workers > 1 or self.name == "dask" else None,
                batch_size=1,  # A task is a group of blocks already.
                pre_dispatch="all",
                max_nbytes=None,  # No memory-mapped copies in files, which are outdated when an array changes in place.
            )

    def arguments(self) -> dict[str, Any]:
        """Further arguments of joblib's backend."""
        return {}


class Threading(Backend):
    """Threads of this process, for kernels that release the interpreter's lock, and for debugging."""

    name = "threading"

    def start(self, n_workers: int | None) -> int:
        return n_workers or 1

    def stop(self) -> None:
        """Nothing to do: joblib ends the threads."""


class Loky(Threading):
    """Processes of this machine, started by joblib. A program has one pool of them, and the first `stop` ends it."""

    name = "loky"

    def stop(self) -> None:
        """End the processes, and joblib's folder. Otherwise they wait minutes for work, and it stays until the exit."""
        from joblib.externals.loky import get_reusable_executor

        executor = get_reusable_executor(reuse=True)  # One per program. This creates an idle one if there is none.
        getattr(executor, "terminate", executor.shutdown)(kill_workers=True)


def start_or_join(backend: Backend, join: Callable[[], None], hint: str = "") -> None:
    """Start or join a cluster. If that fails, stop it, and raise WorkerError with a ``hint``."""
    try:
        join()
    except Exception as error:
        backend.stop()
        if isinstance(error, WorkerError):
            raise
        if backend.address is None:
            failure = f"can't start a {backend.name.capitalize()} cluster"
        else:
            failure = f"no {backend.name} cluster with a worker at {backend.address}"
            hint = ""
        raise WorkerError(f"{failure}: {str(error).rstrip('.')}{hint}") from error
