"""The clusters that joblib can use: how each is started or joined, and left."""

import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster_task import forget

CONNECT = 30.0  # Seconds to find a scheduler, and a first worker there.
LEAVE = 5.0  # Seconds for a cluster's last files to go.
KNOCK_EVERY, KNOCK_WAIT = 1.0, 5.0  # Seconds.
KNOCKS = 3  # Without an answer, and a Ray cluster counts as gone.


class Backend(ABC):
    """One of joblib's backends, and the cluster behind it."""

    name: str
    module = ""
    """What an extra installs."""
    returns = "generator_unordered"
    """What ``joblib.Parallel`` is asked to return: a generator gives what was done before a failure."""
    addresses, example = re.compile("(?!)"), ""
    """What an address looks like; none does where there is no cluster to join."""
    gone = False
    """Known to be no more: a call would only hang."""

    def __init__(self, address: str | None = None) -> None:
        if address is not None and not self.example:
            raise ValueError(f"{self.name} runs on this machine and takes no address, such as {address!r}")
        if address is not None and not (isinstance(address, str) and self.addresses.fullmatch(address)):
            raise ValueError(f"a {self.name} cluster's address is one like {self.example}, not {address!r}")
        self.address = address

    def require(self) -> None:
        """ModuleNotFoundError without the extra."""
        if self.module and find_spec(self.module) is None:
            raise ModuleNotFoundError(
                f"the {self.name} engine needs {self.name}: pip install 'parallel-lenet[{self.name}]'", name=self.module
            )

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
    """Processes of this machine, started by joblib."""

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
        from dask.distributed import Client  # Late: an extra.

        if self._client is None:
            if self.address is None:
                self._cluster = self._local(n_workers)
            self._client = _joined(
                self, lambda: Client(self._cluster or self.address, timeout=CONNECT, set_as_default=False)
            )
            _joined(self, lambda: self._client.wait_for_workers(1, timeout=CONNECT))
            # An error of a task that can't even be read by its worker never gets through joblib; this one does.
            self._client.run(forget, "")
        return n_workers or self.count()

    def _local(self, n_workers: int | None) -> Any:
        """A cluster of this machine."""
        from dask import config  # Late: an extra.
        from dask.distributed import LocalCluster

        self._folder = tempfile.mkdtemp(prefix="parallel-lenet-dask-")
        # Dask's own changes of the environment would reach this program too, and have every large array take new pages
        # from the system: im2col takes three times as long so.
        own = {"distributed.nanny.pre-spawn-environ": {}, "temporary-directory": self._folder}
        try:
            with config.set(own):
                return LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    host="127.0.0.1",  # Whoever can reach a scheduler can run programs there.
                    dashboard_address=None,
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # Any free port: 8787 may be taken.
                )
        except Exception as error:
            self.stop()
            raise WorkerError(
                f"a Dask cluster of our own couldn't start: {str(error).rstrip('.')}. A program that starts one begins "
                'again in each of its workers: what starts it must stand under `if __name__ == "__main__":`'
            ) from error

    def stop(self) -> None:
        """The client first: it would try to find the scheduler again."""
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        if client is not None:
            client.close()
        if cluster is not None:
            cluster.close()
        _remove(self)

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


class Ray(Backend):
    """A Ray cluster."""

    name = "ray"
    module = "ray"
    returns = "list"  # All its joblib backend can: a call that fails has no results.
    addresses, example = re.compile(r"auto|(ray://)?[^/]+:\d+"), "HOST:6379"
    _ours = False
    _folder = ""
    _left: threading.Event | None = None
    _service: tuple[str, str] | None = None

    def start(self, n_workers: int | None) -> int:
        """A Ray that this program has started itself is used, and left, like one at an address."""
        import ray  # Late: an extra.
        from ray.util.joblib import register_ray

        register_ray()
        logging.getLogger("ray.util.multiprocessing.pool").setLevel(logging.ERROR)  # It warns of how joblib calls it.
        if not ray.is_initialized():
            self._ours = True
            if self.address is None:
                self._folder = tempfile.mkdtemp(prefix="lenet-ray-", dir=short_folder())
                path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # Workers find the modules that we do.
                ray.init(
                    num_cpus=n_workers,
                    runtime_env={"env_vars": path},
                    _temp_dir=self._folder,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
            else:
                if self.address != "auto":  # Which is any cluster of this machine.
                    host, _, port = self.address.removeprefix("ray://").rpartition(":")
                    _joined(self, lambda: _knock(host, port))  # Ray itself would go on for minutes where no one opens.
                _joined(self, lambda: ray.init(self.address, log_to_driver=False, configure_logging=False))
        self._watch()
        return n_workers or self.count()

    def _watch(self) -> None:
        """Notice when the cluster's control service ends: Ray goes on without it for a minute, then ends our program.

        Through a client (``ray://``) there is nothing to watch.
        """
        import ray

        address = getattr(ray.get_runtime_context(), "gcs_address", "")
        if self._left is None and address:
            self.gone, self._left = False, threading.Event()
            self._service = address.rpartition(":")[::2]
            threading.Thread(target=self._look, args=(self._left,), daemon=True).start()

    def _look(self, left: threading.Event) -> None:
        missed = 0
        while missed < KNOCKS:
            if left.wait(KNOCK_EVERY):
                return
            missed = 0 if self._answers() else missed + 1
        self.gone = True

    def stop(self) -> None:
        """What was there before us stays."""
        if self._left is not None:
            self._left.set()
        self._left = None
        if self._ours:
            import ray

            self._ours = False
            ray.shutdown()
        _remove(self)

    def count(self) -> int:
        """All CPUs of all nodes."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _answers(self) -> bool:
        if self._service is not None:
            try:
                _knock(*self._service)
            except OSError:
                return False
        return not self.gone

    def running(self) -> bool:
        """Whether its control service answers; it is never asked for anything before that is known."""
        import ray

        try:
            return self._answers() and bool(ray.is_initialized() and ray.cluster_resources())
        except Exception:  # Which, depends on what is gone.
            return False


def _knock(host: str, port: str) -> None:
    """OSError where nothing listens."""
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_WAIT).close()


BACKENDS: dict[str, type[Backend]] = {kind.name: kind for kind in (Dask, Ray, Loky, Threads)}


def short_folder() -> str:
    """Where Ray may put its sockets, whose names with all their folders must not be longer than 107 bytes."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > 20 and os.path.isdir("/tmp") else usual


def _joined(backend: Backend, join: Callable[[], Any]) -> Any:
    """What ``join`` gives; WorkerError, and nothing left running, where there is no cluster."""
    try:
        return join()
    except Exception as error:
        address = backend.address
        backend.stop()
        raise WorkerError(f"no {backend.name} cluster with a worker at {address}: {error}") from error


def _remove(backend: Any) -> None:
    """Again and again for a while: processes that are about to end may still write there."""
    folder, backend._folder = backend._folder, ""
    end = time.monotonic() + LEAVE
    while os.path.isdir(folder) and time.monotonic() < end:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
