"""A Ray cluster, through joblib. A program can have only one, so all its engines that use Ray share it."""

import atexit
import logging
import os
import re
import secrets
import socket
import sys
import tempfile
from typing import Any, ClassVar

from parallel_lenet.display import count
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster.backends import Backend, start_or_join
from parallel_lenet.engines.cluster.guard import Guard, is_stopped, kill, processes_using, remove, wake
from parallel_lenet.engines.cluster.limits import CONNECT_LIMIT, POLL_INTERVAL, START_LIMIT, Watch, call_to_leave

STOPPED_INTERVAL = 10.0  # Seconds between two searches for stopped processes.
SILENCE_LIMIT = 8.0  # Seconds without an answer. After a minute without its control service, Ray ends the program.


class Ray(Backend):
    """A user of Ray. The class itself has what all users share: their number, and the cluster."""

    name = "ray"
    module = "ray"
    remote = True
    return_as = "list"  # The only choice of its joblib backend. A call that fails has no results.
    address_form = re.compile(r"auto|(ray://)?[^/]+:\d+")
    example_address = "HOST:6379"
    _is_used = False
    _users: ClassVar[int] = 0
    _is_ours: ClassVar[bool] = False
    _joined_address: ClassVar[str | None] = None
    _folder: ClassVar[str] = ""
    _guard: ClassVar[Guard | None] = None
    _watch: ClassVar[Watch] = Watch()
    _polls: ClassVar[int] = 0
    _stopped_pids: ClassVar[set[int]] = set()
    """Processes of a new cluster that both of the last two searches found stopped."""
    _stopped_before: ClassVar[set[int]] = set()
    """Processes that the last search found stopped."""
    _cpus: ClassVar[int] = 1
    hung: ClassVar[bool] = False
    """Whether a thread that leaves Ray never returned. Then the interpreter would crash at its end."""
    _variables_before: ClassVar[dict[str, str | None]] = {}
    """The environment variables that a new cluster changes, with their earlier values."""

    def start(self, n_workers: int | None) -> int:
        """Use a Ray that runs in this program already, or start or join one."""
        import ray  # Imported lazily: an extra.
        from ray.util.joblib import register_ray

        if not self._is_used:
            register_ray()
            # Ray warns about joblib's calls, and that only the main thread could handle SIGTERM.
            for name in ("ray.util.multiprocessing.pool", "ray._private.worker"):
                logging.getLogger(name).setLevel(logging.ERROR)
            if not ray.is_initialized():
                Ray._is_ours = True
                Ray._joined_address = self.address
                limit = START_LIMIT if self.address is None else CONNECT_LIMIT
                start_or_join(self, lambda: self._begin(n_workers, limit))
            elif self.address not in (None, "auto", Ray._joined_address, ray.get_runtime_context().gcs_address):
                raise WorkerError(
                    f"this program uses a Ray at {ray.get_runtime_context().gcs_address} already, and can't join "
                    f"another at {self.address}: end that first, with ray.shutdown()"
                )
            elif Ray._users == 0:
                start_or_join(self, lambda: self._begin(n_workers, CONNECT_LIMIT))
            Ray._users += 1
            self._is_used = True
        cpus = self.count()
        if n_workers is not None and n_workers > cpus:
            self.stop()
            raise WorkerError(f"the ray cluster has {count(cpus, 'CPU')}, too few for {n_workers} workers")
        return n_workers or cpus

    def _begin(self, n_workers: int | None, limit: float) -> None:
        """Start or join Ray if nothing in this program has done so, and watch it.

        It starts in the watch's thread, where Ray does not change the program's signal handlers.
        """

        def join() -> None:
            if not Ray._is_ours:
                return
            if self.address is None:
                # Its mode is 0700. Ray's own folder has 0777.
                Ray._folder = tempfile.mkdtemp(prefix="lenet-ray-", dir=short_folder())
            Ray._guard = Guard(self.name, Ray._folder)
            if self.address is None:
                self._start_local(n_workers)
            else:
                self._join(self.address)

        Ray._watch = Watch()
        Ray._polls = 0
        Ray._stopped_pids = set()
        Ray._stopped_before = set()
        Ray._watch.begin(join, _poll, self.stop, limit)

    def _start_local(self, n_workers: int | None) -> None:
        """Start Ray on this machine: on the loopback interface, protected by a token."""
        import ray
        from ray._private import ray_constants

        token = os.path.join(Ray._folder, "token")
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        _set_variables({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": token})
        _read_variables()
        clusters = ray_constants.ENABLE_RAY_CLUSTER
        ray_constants.ENABLE_RAY_CLUSTER = False  # Only the loopback interface is used.
        try:
            ray.init(
                "local",  # Even if RAY_ADDRESS names another one.
                num_cpus=n_workers,
                # Workers find the same modules as this program.
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

        if address != "auto":  # "auto" is any cluster of this machine.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            # Ray itself would try for minutes if nothing listens there.
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_LIMIT).close()
        ray.init(address, log_to_driver=False, configure_logging=False)

    def stop(self) -> None:
        """Leave Ray with the last user. A Ray that ran before the first user stays."""
        if self._is_used:
            self._is_used = False
            Ray._users -= 1
        if Ray._users == 0:
            if Ray._is_ours:
                _shutdown()
            Ray._watch.stop()  # Last: when the watch's thread ends, Linux kills the cluster.
            Ray._is_ours = False
            Ray._joined_address = None

    def count(self) -> int:
        """The CPUs of all nodes."""
        return Ray._cpus

    def is_gone(self) -> bool:
        return not self.is_running()

    def stuck_reason(self) -> str:
        """Names a process of a new cluster that is stopped."""
        return f"process {min(Ray._stopped_pids)} of it is stopped" if Ray._stopped_pids else ""

    def is_running(self) -> bool:
        """Whether it answered in the last `SILENCE_LIMIT` seconds."""
        import ray

        return ray.is_initialized() and Ray._watch.silence < SILENCE_LIMIT


def _poll() -> None:
    """Count the cluster's CPUs, and look for stopped processes. Hangs if Ray's control service has ended."""
    import ray

    Ray._cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    Ray._polls += 1
    if Ray._folder and Ray._polls % (STOPPED_INTERVAL // POLL_INTERVAL) == 0:
        stopped = {pid for pid in processes_using(Ray._folder) if is_stopped(pid)}
        Ray._stopped_pids = stopped & Ray._stopped_before
        Ray._stopped_before = stopped


def _shutdown() -> None:
    """Leave Ray, and end all processes of a new cluster."""
    import ray

    folder = Ray._folder
    guard = Ray._guard
    Ray._folder = ""
    Ray._guard = None
    wake(processes_using(folder))  # If they were killed now, Ray's process on this machine would end this program.
    has_left = call_to_leave(ray.shutdown)
    kill(processes_using(folder))
    if not has_left and not call_to_leave(ray.shutdown):
        # The abandoned thread has a lock that Ray's exit handler would wait for.
        atexit.unregister(ray.shutdown)
        Ray.hung = True
    remove(folder)
    if folder:
        _set_variables(Ray._variables_before)
        Ray._variables_before = {}
        _read_variables()
    if guard is not None:
        guard.dismiss()


def _set_variables(variables: dict[str, str | None]) -> None:
    """Set environment variables, or remove them if the value is None, and keep their earlier values."""
    for name, value in variables.items():
        Ray._variables_before.setdefault(name, os.environ.get(name))
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _read_variables() -> None:
    """Let Ray read the environment again, which it read when it was imported."""
    from ray import _raylet

    raylet: Any = _raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def short_folder() -> str:
    """A folder for Ray's sockets, whose paths must not be longer than 107 bytes."""
    folder = tempfile.gettempdir()
    return "/tmp" if len(folder) > 18 and os.path.isdir("/tmp") else folder
