"""A Dask cluster, through joblib: a running one, or one of our own on this machine that starts and ends with us."""

import logging
import re
import tempfile
import time
from typing import Any

from parallel_lenet import optional
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster.backends import Backend, joined
from parallel_lenet.engines.cluster.guard import Guard, holders, kill, remove
from parallel_lenet.engines.cluster.limits import (
    CONNECT,
    LOOK_EVERY,
    SILENT,
    START,
    Watch,
    left,
)
from parallel_lenet.engines.cluster.task import forget
from parallel_lenet.engines.cluster.versions import difference, versions

HEARTBEAT = 10.0  # Seconds: every worker of up to 2,000 sends one at least so often.
GUARD = (
    ". A program that starts one begins again in each of its workers: what starts it must stand under "
    '`if __name__ == "__main__":`'
)


class Dask(Backend):
    """A Dask cluster. Whoever can reach an unprotected one can run programs there, so ours has certificates."""

    name = "dask"
    module = "distributed"
    remote = True
    addresses, example = re.compile(r"(\w+://)?[^/]+:\d+"), "tcp://HOST:8786"

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self._cluster: Any = None
        self._client: Any = None
        self._watch = Watch()
        self._folder = ""
        self._guard: Guard | None = None
        self._workers: dict[str, tuple[float, int]] = {}  # By address: the last sign of life, and the threads.
        self._quiet: dict[str, float] = {}  # By address: the seconds without a new sign of life.

    def start(self, n_workers: int | None) -> int:
        """Of one thread each where we start them; where we don't, every thread is a worker."""
        if self._client is None:
            if self.address is None:
                optional.load("dask", "cryptography", "a Dask cluster of our own")
            self._watch, self._workers, self._quiet = Watch(), {}, {}

            def join() -> None:
                if self.address is None:
                    self._local(n_workers)
                self._join()

            limit = START if self.address is None else CONNECT
            joined(self, lambda: self._watch.begin(join, self._ask, self.stop, limit), GUARD)
        return n_workers or self.count()

    def _local(self, n_workers: int | None) -> None:
        """Start a cluster of this machine: on the loopback interface, with TLS certificates made for it alone."""
        from dask import config  # Late: an extra.
        from dask.distributed import LocalCluster, Security

        self._folder = tempfile.mkdtemp(prefix="parallel-lenet-dask-")
        self._guard = Guard(self.name, self._folder)
        own = {
            # Dask's own changes of the environment would reach this program too, and have every large array take new
            # pages from the system: im2col takes three times as long so.
            "distributed.nanny.pre-spawn-environ": {},
            "temporary-directory": self._folder,
            # Dask always starts HTTP servers, which know no certificates: these have no pages.
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
        }
        with config.set(own):
            self._cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                host="127.0.0.1",
                protocol="tls://",
                security=Security.temporary(),  # In memory: each side proves that it has the run's key.
                dashboard_address=None,
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # 8787 may be taken.
                silence_logs=logging.CRITICAL,
            )

    def _join(self) -> None:
        from dask.distributed import Client  # Late: an extra.

        self._client = Client(self._cluster or self.address, timeout=CONNECT, set_as_default=False)
        self._client.wait_for_workers(1, timeout=CONNECT)
        # An error of a task that its worker or the scheduler can't even read never gets through joblib; these do.
        self._ask()
        ages = self._client.run_on_scheduler(_ages)
        awake = [address for address, age in ages.items() if age < HEARTBEAT]  # A stopped one would never answer.
        for address, theirs in self._client.run(versions, workers=awake).items() if awake else ():
            other = difference(f"{address} of the dask cluster", theirs)
            if other is not None:
                raise WorkerError(other)

    def _ask(self) -> None:
        """Ask the scheduler for its workers, and give up those that have been silent for too long."""
        before, self._workers = self._workers, self._client.run_on_scheduler(_workers)
        for address, (seen, _) in self._workers.items():
            known = before.get(address, (0.0, 0))[0]
            self._quiet[address] = self._quiet.get(address, 0.0) + LOOK_EVERY if seen == known else 0.0
            if self._quiet[address] > SILENT:
                self._give_up(address)

    def _give_up(self, address: str) -> None:
        """Have Dask hand a stopped worker's tasks to the others: its own time limit is 5 minutes."""
        self._quiet[address] = 0.0
        if self._cluster is None:
            self._client.run_on_scheduler(_remove, address)
        else:  # Its nanny starts another.
            kill(nanny.pid for nanny in self._cluster.workers.values() if nanny.worker_address == address)
        self.lost.append(f"the Dask worker {address} has given no sign of life for {SILENT:g} s")

    def stop(self) -> None:
        """The client first: it would try to find the scheduler again."""
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        folder, guard, self._folder, self._guard = self._folder, self._guard, "", None
        self._watch.leave()
        ours = holders(folder)
        if client is not None:
            left(client.close)
        if cluster is not None:
            ours.update(nanny.pid for nanny in cluster.workers.values() if nanny.pid is not None)
            if not left(cluster.close):
                kill(ours)
                left(cluster.close)
        kill(ours | holders(folder))
        remove(folder)
        if guard is not None:
            guard.dismiss()

    def count(self) -> int:
        """All threads of all workers."""
        return max(1, sum(threads for _, threads in self._workers.values()))

    def running(self) -> bool:
        """Whether the scheduler answers."""
        return self._client is not None and self._client.status == "running" and self._watch.silent < SILENT

    def gone(self) -> bool:
        """As far as is known: a client that has lost its connection may find it again."""
        return self._client is None or self._watch.silent >= SILENT

    def forget(self, key: str) -> None:
        """On the workers of a cluster that isn't ours."""
        client = self._client
        if self._cluster is None and self.running():
            left(lambda: client.run(forget, key, on_error="ignore"))

    def arguments(self) -> dict[str, Any]:
        """Our client, and how long to wait if all workers are gone."""
        return {"client": self._client, "wait_for_workers_timeout": CONNECT}


def _workers(dask_scheduler: Any) -> dict[str, tuple[float, int]]:
    """On the scheduler: when each worker last gave a sign of life, and how many threads it has."""
    return {worker.address: (worker.last_seen, worker.nthreads) for worker in dask_scheduler.workers.values()}


def _ages(dask_scheduler: Any) -> dict[str, float]:
    """On the scheduler: the seconds since each worker's last sign of life."""
    return {worker.address: time.time() - worker.last_seen for worker in dask_scheduler.workers.values()}


async def _remove(address: str, dask_scheduler: Any) -> None:
    """On the scheduler: count a worker as lost. One that wakes up again registers again."""
    await dask_scheduler.remove_worker(address, stimulus_id="silent", close=False)
