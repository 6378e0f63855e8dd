"""Makes engines by their names. It is the only module that knows all of them."""

from parallel_lenet.checks import quoted
from parallel_lenet.engines import Engine
from parallel_lenet.engines.cluster.engine import BACKENDS, Cluster
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.serial import SerialEngine

NAMES = ("processes", "serial", *BACKENDS)


def make(
    name: str,
    n_workers: int | None,
    *,
    cluster_address: str | None = None,
    step_timeout: float | None = None,
    max_tries: int = 3,
) -> Engine:
    """Create the engine with this name. The caller closes it.

    ``n_workers`` may be None at a ``cluster_address``, for all workers of the cluster. The serial engine always has one
    worker, and uses neither ``step_timeout`` nor ``max_tries``. Raises ValueError if there is no engine with this name,
    or if it takes no address.
    """
    if name not in NAMES:
        raise ValueError(f"engine must be {', '.join(NAMES[:-1])} or {NAMES[-1]}, got {quoted(name)}")
    if name in BACKENDS:
        return Cluster(
            name, address=cluster_address, n_workers=n_workers, step_timeout=step_timeout, max_tries=max_tries
        )
    if cluster_address is not None:
        raise ValueError(f"cluster_address goes with the engines dask and ray, not with {name}")
    if name == "serial":
        return SerialEngine()
    if n_workers is None:
        raise ValueError("n_workers can be None only at a cluster_address")
    return ProcessesEngine(n_workers, step_timeout=step_timeout, max_tries=max_tries)
