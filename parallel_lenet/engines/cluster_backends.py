"""The clusters that joblib can use: how each is started or joined, and left."""

import os
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from parallel_lenet import optional
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster_task import forget

CONNECT = 30.0  # Seconds to find a scheduler, and a first worker there.
LEAVE = 5.0  # Seconds for a cluster's last files to go.


class Backend(ABC):
    """One of joblib's backends, and the cluster behind it."""

    name: str
    module = ""
    """What an extra installs."""
    returns = "generator_unordered"
    """What ``joblib.Parallel`` is asked to return: a generator gives what was done before a failure."""
    addresses, example = re.compile("(?!)"), ""
    """What an address looks like; none does where there is no cluster to join."""

    def __init__(self, address: str | None = None) -> None:
        if address is not None and not self.example:
            raise ValueError(f"{self.name} runs on this machine and takes no address, such as {address!r}")
        if address is not None and not (isinstance(address, str) and self.addresses.fullmatch(address)):
            raise ValueError(f"a {self.name} cluster's address is one like {self.example}, not {address!r}")
        self.address = address

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
                batch_size=1,  # A task is a group of shards already.
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


class Dask(Backend):
    """A Dask cluster."""

    name = "dask"
    module = "distributed"
    addresses, example = re.compile(r"(\w+://)?[^/]+:\d+"), "tcp://HOST:8786"
    _cluster: Any = None
    _client: Any = None
    _folder = ""

    def start(self, n_workers: int | None) -> int:
        """Of one thread each where we start them; where we don't, every thread is a worker."""
        if self._client is None:
            if self.address is None:
                hint = (
                    ". A program that starts one begins again in each of its workers: what starts it must stand under "
                    '`if __name__ == "__main__":`'
                )
                joined(self, lambda: self._local(n_workers), hint)
            joined(self, self._join)
        return n_workers or self.count()

    def _local(self, n_workers: int | None) -> None:
        """Start a cluster of this machine."""
        from dask import config  # Late: an extra.
        from dask.distributed import LocalCluster

        self._folder = tempfile.mkdtemp(prefix="parallel-lenet-dask-")
        # Dask's own changes of the environment would reach this program too, and have every large array take new pages
        # from the system: im2col takes three times as long so.
        own = {"distributed.nanny.pre-spawn-environ": {}, "temporary-directory": self._folder}
        with config.set(own):
            self._cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                host="127.0.0.1",  # Whoever can reach a scheduler can run programs there.
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # Any free port: 8787 may be taken.
            )

    def _join(self) -> None:
        from dask.distributed import Client  # Late: an extra.

        self._client = Client(self._cluster or self.address, timeout=CONNECT, set_as_default=False)
        self._client.wait_for_workers(1, timeout=CONNECT)
        # An error of a task that its worker or the scheduler can't even read never gets through joblib; these do.
        self._client.run(forget, "")
        self._client.run_on_scheduler(forget, "")

    def stop(self) -> None:
        """The client first: it would try to find the scheduler again."""
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        if client is not None:
            client.close()
        if cluster is not None:
            cluster.close()
        remove(self)

    def count(self) -> int:
        """All threads of all workers."""
        return max(1, sum(map(int, self._client.nthreads().values())))

    def running(self) -> bool:
        """Whether the scheduler answers."""
        return self._client is not None and self._client.status == "running"

    def forget(self, key: str) -> None:
        """On the workers of a cluster that isn't ours."""
        if self._cluster is None and self.running():
            self._client.run(forget, key, on_error="ignore")

    def arguments(self) -> dict[str, Any]:
        """Our client, and how long to wait if all workers are gone."""
        return {"client": self._client, "wait_for_workers_timeout": CONNECT}


def joined(backend: Backend, join: Callable[[], None], hint: str = "") -> None:
    """Start or join a cluster; WorkerError, with a ``hint``, and nothing left running, where that fails."""
    try:
        join()
    except Exception as error:
        address = backend.address
        backend.stop()
        if address is None:
            failed = f"a {backend.name.capitalize()} cluster of our own couldn't start"
        else:
            failed = f"no {backend.name} cluster with a worker at {address}"
        raise WorkerError(f"{failed}: {str(error).rstrip('.')}{hint}") from error


def remove(backend: Any) -> None:
    """Again and again for a while: processes that are about to end may still write there."""
    folder, backend._folder = backend._folder, ""
    end = time.monotonic() + LEAVE
    while os.path.isdir(folder) and time.monotonic() < end:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
