"""The engine of a coordinator: made from a name, with ``step_timeout`` and ``max_tries``, or passed in.

A batch has work for all of its workers.
"""

import logging

from parallel_lenet.checks import ABOVE_ZERO, LEAST, optional_number, quoted, whole_number
from parallel_lenet.cores import count_workers
from parallel_lenet.engines import Engine
from parallel_lenet.engines.make import make
from parallel_lenet.settings import Settings

MAX_TRIES = 3

_log = logging.getLogger("parallel_lenet.workforce")


class Workforce:
    """The ``engine`` of a coordinator, and why it has fewer workers than requested.

    The arguments are those of `Coordinator`. Raises TypeError if one that belongs to the engine comes with an engine
    that exists already, or if ``engine`` is neither a name nor an engine.
    """

    def __init__(
        self,
        engine: str | Engine,
        settings: Settings,
        *,
        n_workers: int | None,
        cluster_address: str | None,
        step_timeout: float | None,
        max_tries: int | None,
    ) -> None:
        self._settings = settings
        self._owns_engine = isinstance(engine, str)
        self._starts_workers = isinstance(engine, str) and cluster_address is None
        self.note: str | None = None
        """Why some of the requested workers do not run or have no work. None if all of them work."""
        if isinstance(engine, str):
            self.engine = self._make(engine, n_workers, cluster_address, step_timeout, max_tries)
        else:
            _require_existing(
                engine,
                n_workers=n_workers,
                cluster_address=cluster_address,
                step_timeout=step_timeout,
                max_tries=max_tries,
            )
            self.engine = engine
            self._limit(engine.n_workers)

    def _make(
        self,
        name: str,
        n_workers: int | None,
        cluster_address: str | None,
        step_timeout: float | None,
        max_tries: int | None,
    ) -> Engine:
        request = count_workers(n_workers)
        all_of_cluster = cluster_address is not None and request.all
        engine = make(
            name,
            None if all_of_cluster else self._limit(request.count),
            cluster_address=cluster_address,
            step_timeout=optional_number("step_timeout", step_timeout, ABOVE_ZERO),
            max_tries=MAX_TRIES if max_tries is None else whole_number("max_tries", max_tries, LEAST["max_tries"]),
        )
        if all_of_cluster:
            self._limit(engine.n_workers)
        return engine

    def _limit(self, n_workers: int) -> int:
        """How many of the ``n_workers`` workers to start. Sets `note` if they are fewer, or if some have no work."""
        settings = self._settings
        busy_workers = settings.sizes.workers(settings.batch_size)
        self.note = None
        if busy_workers < n_workers:
            verb = "run" if self._starts_workers else "have work"
            part = "block"
            remedy = "a larger batch_size"
            if settings.leaf is None:
                part = "shard"
                remedy = f"a smaller shard_size or {remedy}"
            self.note = (
                f"{busy_workers} of {n_workers} workers {verb}: a batch of {settings.batch_size} makes {busy_workers} "
                f"{part}{'s' * (busy_workers > 1)} of {settings.sizes.least}; {remedy} makes more"
            )
            _log.info(self.note)
        return min(n_workers, busy_workers) if self._starts_workers else n_workers

    def limit(self, n_workers: int) -> int:
        """The number of workers for `Coordinator.resize`, counted as in the constructor. Sets `note`."""
        return self._limit(count_workers(n_workers).count)

    def close(self) -> None:
        """Close the engine if it was made from a name. Any other is closed by the caller who created it."""
        if self._owns_engine:
            self.engine.close()


def _require_existing(engine: object, **arguments: object) -> None:
    """Raises TypeError unless this is an engine, and none of the other arguments is set."""
    if not isinstance(engine, Engine):
        raise TypeError(f"engine must be a name or an Engine, got {quoted(engine)}")
    for name, value in arguments.items():
        if value is not None:
            raise TypeError(
                f"{name} has no effect on an engine that exists already: give it to {type(engine).__name__}(...), "
                "or give the engine's name"
            )
