"""A Ray cluster, through joblib. Ray itself is one a program, so all engines of the program that use it share it."""

import logging
import os
import re
import socket
import sys
import tempfile
import threading
import time
from typing import ClassVar

from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster_backends import CONNECT, Backend, joined, remove

LOOK_EVERY, GONE_AFTER = 1.0, 8.0  # Seconds: between looks at the cluster, and without an answer.


class Ray(Backend):
    """What all its objects share: how many use Ray, and where it is if it was one of them that started or joined it."""

    name = "ray"
    module = "ray"
    returns = "list"  # All its joblib backend can: a call that fails has no results.
    addresses, example = re.compile(r"auto|(ray://)?[^/]+:\d+"), "HOST:6379"
    _using = False
    _users: ClassVar[int] = 0
    _ours: ClassVar[bool] = False
    _where: ClassVar[str | None] = None
    _folder: ClassVar[str] = ""
    _left: ClassVar[threading.Event] = threading.Event()
    _seen: ClassVar[tuple[float, int]] = (0.0, 0)
    """When the cluster last answered, and how many CPUs it had."""

    def start(self, n_workers: int | None) -> int:
        """A Ray that this program has started itself is used, and left, like one at an address."""
        import ray  # Late: an extra.
        from ray.util.joblib import register_ray

        if not self._using:
            register_ray()
            # It warns of how joblib calls it.
            logging.getLogger("ray.util.multiprocessing.pool").setLevel(logging.ERROR)
            if not ray.is_initialized():
                Ray._ours, Ray._where = True, self.address
                joined(self, lambda: self._local(n_workers) if self.address is None else self._join(self.address))
            elif self.address not in (None, "auto", Ray._where, ray.get_runtime_context().gcs_address):
                raise WorkerError(
                    f"this program uses a Ray at {ray.get_runtime_context().gcs_address} already, and can't join "
                    f"another at {self.address}: end that first, with ray.shutdown()"
                )
            if Ray._users == 0:
                Ray._seen, Ray._left = (time.monotonic(), _cpus()), threading.Event()
                threading.Thread(target=_look, args=(Ray._left,), daemon=True).start()
            Ray._users += 1
            self._using = True
        cpus = self.count()
        if n_workers is not None and n_workers > cpus:
            self.stop()
            raise WorkerError(f"the ray cluster has {cpus} CPUs, too few for {n_workers} workers")
        return n_workers or cpus

    def _local(self, n_workers: int | None) -> None:
        """One of our own on this machine."""
        import ray

        Ray._folder = tempfile.mkdtemp(prefix="lenet-ray-", dir=short_folder())
        ray.init(
            "local",  # Even where RAY_ADDRESS names another.
            num_cpus=n_workers,
            # Workers find the modules that we do.
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
            _temp_dir=Ray._folder,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )

    def _join(self, address: str) -> None:
        import ray

        if address != "auto":  # Which is any cluster of this machine.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            # Ray itself would go on for minutes where nothing listens.
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
        ray.init(address, log_to_driver=False, configure_logging=False)

    def stop(self) -> None:
        """What was there before us stays."""
        if self._using:
            self._using = False
            Ray._users -= 1
        if Ray._users == 0:
            Ray._left.set()
            if Ray._ours:
                import ray

                Ray._ours, Ray._where = False, None
                ray.shutdown()
            remove(Ray)

    def count(self) -> int:
        """All CPUs of all nodes."""
        return Ray._seen[1]

    def gone(self) -> bool:
        """As far as is known."""
        return not self.running()

    def running(self) -> bool:
        """Whether it has answered of late."""
        import ray

        return ray.is_initialized() and time.monotonic() < Ray._seen[0] + GONE_AFTER


def _cpus() -> int:
    """All of the cluster; it hangs where the cluster's control service is gone."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _look(left: threading.Event) -> None:
    """Ask again and again, in a thread that may hang.

    Without its control service Ray goes on for a minute, in which every question hangs, and then ends the program.
    """
    while not left.wait(LOOK_EVERY):
        try:
            cpus = _cpus()
        except Exception:  # Which, depends on what is gone.
            continue
        if not left.is_set():
            Ray._seen = time.monotonic(), cpus


def short_folder() -> str:
    """Where Ray may put its sockets, whose names with all their folders must not be longer than 107 bytes."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > 20 and os.path.isdir("/tmp") else usual
