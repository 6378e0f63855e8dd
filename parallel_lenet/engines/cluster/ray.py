"""A Ray cluster, through joblib. Ray itself is one a program, so all engines of the program that use it share it."""

import atexit
import logging
import os
import re
import secrets
import socket
import sys
import tempfile
from typing import Any, ClassVar

from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster.backends import Backend, joined
from parallel_lenet.engines.cluster.guard import Guard, holders, kill, remove, stopped, wake
from parallel_lenet.engines.cluster.limits import CONNECT, LOOK_EVERY, START, Watch, left

STOPPED = 10.0  # Seconds between two looks for stopped processes.
GONE_AFTER = 8.0  # Seconds without an answer: after a minute without its control service Ray ends the program.


class Ray(Backend):
    """What all its objects share: how many use Ray, and where it is if it was one of them that started or joined it."""

    name = "ray"
    module = "ray"
    remote = True
    returns = "list"  # All its joblib backend can: a call that fails has no results.
    addresses, example = re.compile(r"auto|(ray://)?[^/]+:\d+"), "HOST:6379"
    _using = False
    _users: ClassVar[int] = 0
    _ours: ClassVar[bool] = False
    _where: ClassVar[str | None] = None
    _folder: ClassVar[str] = ""
    _guard: ClassVar[Guard | None] = None
    _watch: ClassVar[Watch] = Watch()
    _looks: ClassVar[int] = 0
    _stopped: ClassVar[set[int]] = set()
    """Processes of our own cluster that were stopped in the last two looks at them."""
    _seen_stopped: ClassVar[set[int]] = set()
    """In the last one."""
    _cpus: ClassVar[int] = 1
    hung: ClassVar[bool] = False
    """Whether a thread that leaves Ray never came back. The interpreter would crash at its end."""
    _before: ClassVar[dict[str, str | None]] = {}
    """The environment variables that a cluster of our own changes."""

    def start(self, n_workers: int | None) -> int:
        """A Ray that this program has started itself is used, and left, like one at an address."""
        import ray  # Late: an extra.
        from ray.util.joblib import register_ray

        if not self._using:
            register_ray()
            # It warns of how joblib calls it, and that a thread that isn't the main one cannot take SIGTERM from us.
            for name in ("ray.util.multiprocessing.pool", "ray._private.worker"):
                logging.getLogger(name).setLevel(logging.ERROR)
            if not ray.is_initialized():
                Ray._ours, Ray._where = True, self.address
                limit = START if self.address is None else CONNECT
                joined(self, lambda: self._begin(n_workers, limit))
            elif self.address not in (None, "auto", Ray._where, ray.get_runtime_context().gcs_address):
                raise WorkerError(
                    f"this program uses a Ray at {ray.get_runtime_context().gcs_address} already, and can't join "
                    f"another at {self.address}: end that first, with ray.shutdown()"
                )
            elif Ray._users == 0:
                joined(self, lambda: self._begin(n_workers, CONNECT))
            Ray._users += 1
            self._using = True
        cpus = self.count()
        if n_workers is not None and n_workers > cpus:
            self.stop()
            raise WorkerError(f"the ray cluster has {cpus} CPUs, too few for {n_workers} workers")
        return n_workers or cpus

    def _begin(self, n_workers: int | None, limit: float) -> None:
        """Start or join it, if no one has, and ask it again and again.

        In the watch's thread, where Ray leaves the program's handlers of signals alone.
        """

        def join() -> None:
            if not Ray._ours:
                return
            if self.address is None:
                Ray._folder = tempfile.mkdtemp(prefix="lenet-ray-", dir=short_folder())  # Mode 0700; Ray's own is 0777.
            Ray._guard = Guard(self.name, Ray._folder)
            if self.address is None:
                self._local(n_workers)
            else:
                self._join(self.address)

        Ray._watch, Ray._looks = Watch(), 0
        Ray._stopped, Ray._seen_stopped = set(), set()
        Ray._watch.begin(join, _ask, self.stop, limit)

    def _local(self, n_workers: int | None) -> None:
        """One of our own on this machine: on the loopback interface, for who has its token."""
        import ray
        from ray._private import ray_constants

        token = os.path.join(Ray._folder, "token")
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        _set({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": token})
        _read_variables()
        clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # Loopback only.
        try:
            ray.init(
                "local",  # Even where RAY_ADDRESS names another.
                num_cpus=n_workers,
                # Workers find the modules that we do.
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
                _temp_dir=os.path.join(Ray._folder, "r"),
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = clusters

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
            if Ray._ours:
                _shutdown()
            Ray._watch.leave()  # After it: with the watch's thread the kernel would kill the cluster.
            Ray._ours, Ray._where = False, None

    def count(self) -> int:
        """All CPUs of all nodes."""
        return Ray._cpus

    def gone(self) -> bool:
        """As far as is known."""
        return not self.running()

    def stuck(self) -> str:
        """Which processes of our own are stopped."""
        return f"process {min(Ray._stopped)} of it is stopped" if Ray._stopped else ""

    def running(self) -> bool:
        """Whether it has answered of late."""
        import ray

        return ray.is_initialized() and Ray._watch.silent < GONE_AFTER


def _ask() -> None:
    """Count the cluster's CPUs, which hangs if its control service is gone, and look for stopped processes of ours."""
    import ray

    Ray._cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    Ray._looks += 1
    if Ray._folder and Ray._looks % (STOPPED // LOOK_EVERY) == 0:
        now = {pid for pid in holders(Ray._folder) if stopped(pid)}
        Ray._stopped, Ray._seen_stopped = now & Ray._seen_stopped, now


def _shutdown() -> None:
    """Leave Ray, and end all processes of a cluster of our own, whatever they are doing."""
    import ray

    folder, guard, Ray._folder, Ray._guard = Ray._folder, Ray._guard, "", None
    wake(holders(folder))  # Killed, Ray's process on this machine would take this program along.
    ended = left(ray.shutdown)
    kill(holders(folder))
    if not ended and not left(ray.shutdown):
        # The thread that is left behind holds a lock for which Ray's own handler would wait at the program's end.
        atexit.unregister(ray.shutdown)
        Ray.hung = True
    remove(folder)
    if folder:
        _set(Ray._before)
        Ray._before = {}
        _read_variables()
    if guard is not None:
        guard.dismiss()


def _set(variables: dict[str, str | None]) -> None:
    """Change environment variables, of which None removes one, and remember what they were."""
    for name, value in variables.items():
        Ray._before.setdefault(name, os.environ.get(name))
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _read_variables() -> None:
    """Have Ray read the environment again: it has done so when it was imported."""
    from ray import _raylet

    raylet: Any = _raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def short_folder() -> str:
    """Where Ray may put its sockets, whose names with all their folders must not be longer than 107 bytes."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > 18 and os.path.isdir("/tmp") else usual
