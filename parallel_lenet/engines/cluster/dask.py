"""A Dask cluster, through joblib: a running one, or a new one on this machine that ends with the engine."""

import logging
import re
import tempfile
import time
from typing import Any

from parallel_lenet import optional
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster.backends import Backend, start_or_join
from parallel_lenet.engines.cluster.guard import Guard, kill, processes_using, remove
from parallel_lenet.engines.cluster.limits import (
    CONNECT_LIMIT,
    POLL_INTERVAL,
    SILENCE_LIMIT,
    START_LIMIT,
    Watch,
    call_to_leave,
)
from parallel_lenet.engines.cluster.task import forget
from parallel_lenet.engines.cluster.versions import difference, versions

HEARTBEAT = 10.0  # Seconds at most between two heartbeats of a worker, in a cluster of up to 2,000 workers.
MAIN_GUARD_HINT = (
    ". Dask imports your script again in each worker: put the code that starts the cluster under "
    '`if __name__ == "__main__":`'
)


class Dask(Backend):
    """A Dask cluster. Anybody who reaches an unprotected one can run programs there, so a new one has certificates."""

    name = "dask"
    module = "distributed"
    remote = True
    address_form = re.compile(r"(\w+://)?[^/]+:\d+")
    example_address = "tcp://HOST:8786"

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self._cluster: Any = None
        self._client: Any = None
        self._watch = Watch()
        self._folder = ""
        self._guard: Guard | None = None
        self._workers: dict[str, tuple[float, int]] = {}  # By address: the time of the last heartbeat, and the threads.
        self._silence: dict[str, float] = {}  # By address: the seconds without a new heartbeat.

    def start(self, n_workers: int | None) -> int:
        """New workers have one thread each. In a joined cluster each thread counts as a worker."""
        if self._client is None:
            if self.address is None:
                optional.load("dask", "cryptography", "starting a Dask cluster")
            self._watch = Watch()
            self._workers = {}
            self._silence = {}

            def join() -> None:
                if self.address is None:
                    self._start_local(n_workers)
                self._join()

            limit = START_LIMIT if self.address is None else CONNECT_LIMIT
            start_or_join(self, lambda: self._watch.begin(join, self._poll, self.stop, limit), MAIN_GUARD_HINT)
        return n_workers or self.count()

    def _start_local(self, n_workers: int | None) -> None:
        """Start a cluster of this machine: on the loopback interface, with TLS certificates made only for it."""
        from dask import config  # Imported lazily: an extra.
        from dask.distributed import LocalCluster, Security

        self._folder = tempfile.mkdtemp(prefix="parallel-lenet-dask-")
        self._guard = Guard(self.name, self._folder)
        settings = {
            # Dask's changes of the environment would reach this program too. Each large array would then take new pages
            # from the system, and im2col three times as long.
            "distributed.nanny.pre-spawn-environ": {},
            "temporary-directory": self._folder,
            # Dask always starts HTTP servers, without certificates. These have no pages.
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
        }
        with config.set(settings):
            self._cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                host="127.0.0.1",
                protocol="tls://",
                security=Security.temporary(),  # In memory. Each side must prove that it has the key.
                dashboard_address=None,
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # 8787 may be taken.
                silence_logs=logging.CRITICAL,
            )

    def _join(self) -> None:
        from dask.distributed import Client  # Imported lazily: an extra.

        self._client = Client(self._cluster or self.address, timeout=CONNECT_LIMIT, set_as_default=False)
        self._client.wait_for_workers(1, timeout=CONNECT_LIMIT)
        # If a worker or the scheduler cannot read a task, joblib never reports it. These calls raise an error.
        self._poll()
        ages = self._client.run_on_scheduler(_ages)
        responsive = [address for address, age in ages.items() if age < HEARTBEAT]  # A stopped worker never answers.
        for address, theirs in self._client.run(versions, workers=responsive).items() if responsive else ():
            other = difference(f"{address} of the dask cluster", theirs)
            if other is not None:
                raise WorkerError(other)

    def _poll(self) -> None:
        """Ask the scheduler for its workers, and replace those that were silent for too long."""
        before = self._workers
        self._workers = self._client.run_on_scheduler(_workers)
        for address, (seen, _) in self._workers.items():
            known = before.get(address, (0.0, 0))[0]
            self._silence[address] = self._silence.get(address, 0.0) + POLL_INTERVAL if seen == known else 0.0
            if self._silence[address] > SILENCE_LIMIT:
                self._replace_silent(address)

    def _replace_silent(self, address: str) -> None:
        """Let Dask give a stopped worker's tasks to others. Dask's own time limit is 5 minutes."""
        self._silence[address] = 0.0
        if self._cluster is None:
            self._client.run_on_scheduler(_remove, address)
        else:  # The worker's nanny starts another worker.
            kill(nanny.pid for nanny in self._cluster.workers.values() if nanny.worker_address == address)
        self.lost_workers.append(f"the Dask worker {address} sent no heartbeat for {SILENCE_LIMIT:g} s")

    def stop(self) -> None:
        """Close the client, then the cluster: otherwise the client would look for the scheduler."""
        client = self._client
        cluster = self._cluster
        folder = self._folder
        guard = self._guard
        self._client = None
        self._cluster = None
        self._folder = ""
        self._guard = None
        self._watch.stop()
        pids = processes_using(folder)
        if client is not None:
            call_to_leave(client.close)
        if cluster is not None:
            pids.update(nanny.pid for nanny in cluster.workers.values() if nanny.pid is not None)
            if not call_to_leave(cluster.close):
                kill(pids)
                call_to_leave(cluster.close)
        kill(pids | processes_using(folder))
        remove(folder)
        if guard is not None:
            guard.dismiss()

    def count(self) -> int:
        """The threads of all workers."""
        return max(1, sum(threads for _, threads in self._workers.values()))

    def is_running(self) -> bool:
        """Whether the scheduler answers."""
        return self._client is not None and self._client.status == "running" and self._watch.silence < SILENCE_LIMIT

    def is_gone(self) -> bool:
        """Whether the scheduler is silent. A client that has lost its connection may still find it again."""
        return self._client is None or self._watch.silence >= SILENCE_LIMIT

    def forget(self, key: str) -> None:
        """A new cluster has nothing to do: its workers end."""
        client = self._client
        if self._cluster is None and self.is_running():
            call_to_leave(lambda: client.run(forget, key, on_error="ignore"))

    def arguments(self) -> dict[str, Any]:
        """The client, and how long to wait if all workers are lost."""
        return {"client": self._client, "wait_for_workers_timeout": CONNECT_LIMIT}


def _workers(dask_scheduler: Any) -> dict[str, tuple[float, int]]:
    """Runs on the scheduler: the time of each worker's last heartbeat, and its number of threads, by address."""
    return {worker.address: (worker.last_seen, worker.nthreads) for worker in dask_scheduler.workers.values()}


def _ages(dask_scheduler: Any) -> dict[str, float]:
    """Runs on the scheduler: the seconds since each worker's last heartbeat, by address."""
    return {worker.address: time.time() - worker.last_seen for worker in dask_scheduler.workers.values()}


async def _remove(address: str, dask_scheduler: Any) -> None:
    """Runs on the scheduler: count a worker as lost. If it wakes up again, it registers again."""
    await dask_scheduler.remove_worker(address, stimulus_id="silent", close=False)
