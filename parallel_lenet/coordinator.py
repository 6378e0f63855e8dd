"""The coordinator: the training loop. It hands out batches, averages gradients, and owns weights and optimizer state.

One step cuts the batch into blocks for the workers, adds the gradients they return along a balanced binary tree and
divides the sum by the number of samples (`averaging`), then updates the parameters (`updates`). The tree depends on the
batch alone, so neither the workers nor the sizes of blocks change a bit of the result.

The file is longer than others because the class is the public interface, and each method is documented here. Neighbours
have the rest: `settings` and `arguments` check, `workforce` has the engine, `evaluation` evaluates and predicts,
`calls` and `turns` keep threads apart, `continuation` compares with a checkpoint.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import finite
from parallel_lenet.arguments import (
    Data,
    as_dataset,
    dataset_for,
    initial_parameters,
    number_of_epochs,
    require_members,
    takes_a_pair,
    training_data,
)
from parallel_lenet.averaging import BatchSum, batch_sum, mean
from parallel_lenet.batching import Block, blocks, call_sizes, shards
from parallel_lenet.calls import Call, Calls
from parallel_lenet.checkpoint import Checkpoint, TrainingState
from parallel_lenet.checks import numeric_array, quoted, whole_number
from parallel_lenet.closing import Closeable
from parallel_lenet.continuation import Origin, names_that_may_differ, require_same_data
from parallel_lenet.cores import usable_cores
from parallel_lenet.descriptions import of_model
from parallel_lenet.display import Displayed, Summary, Table, count
from parallel_lenet.display.progress import require_rich, with_bar
from parallel_lenet.engines import Context, Engine
from parallel_lenet.evaluation import Evaluator, predictions
from parallel_lenet.finite import NonFiniteError
from parallel_lenet.jsonable import json_value
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model, takes
from parallel_lenet.optimizers import Optimizer
from parallel_lenet.parameters import Vector, sha256
from parallel_lenet.read_only import ReadOnly, names_unknown_settings
from parallel_lenet.reports import EpochReport, History, StepReport, StepTimes
from parallel_lenet.settings import Settings
from parallel_lenet.slices import LONG, ONE_THREAD, Threads
from parallel_lenet.step_end import finish
from parallel_lenet.stopping import best_epoch, check_best_by, figures, is_enough
from parallel_lenet.tracing import Trace
from parallel_lenet.turns import turns_of
from parallel_lenet.updates import VectorPool, initial_state
from parallel_lenet.warming import WarmUp
from parallel_lenet.worker import Samples
from parallel_lenet.workforce import Workforce

Array = NDArray[Any]

_log = logging.getLogger("parallel_lenet")

LARGE_BATCH = 1 << 16  # Samples.


class Coordinator(Displayed, Closeable, ReadOnly):
    """Trains ``model`` with ``optimizer`` on ``n_workers`` workers. The result is the same for any number.

    - ``n_workers``: 1 or more, -1 for all usable cores, -2 for all but one, as in joblib. The default is the value of
      the environment variable ``PARALLEL_LENET_WORKERS``, or -1. No more workers start than a batch has work for:
      `n_workers` is their number, and `workers_note` says why there are fewer.
    - ``batch_size``: samples per step, over all workers together.
    - ``shard_size``: samples that the model gets at a time. If the model has a ``leaf`` (see `Model`), as with the
      kernels compiled and naive, this is the most it gets, and it gets fewer if more workers then have work. No bit of
      the result depends on it, and the default is what the model prefers. Without a leaf, gradients are added shard by
      shard. Then results depend on ``shard_size`` in their last bits, a batch has work for one worker per shard, and
      the default is what the model prefers, or half a batch if that is less.
    - ``engine``: "processes"; "serial" (one worker, in this process); "dask", "ray", "loky" or "threading" for a
      `Cluster`; or an `Engine`, which several coordinators may use. `close` closes an engine that was created from a
      name. An engine that was passed in has to be closed by the code that created it.
    - ``cluster_address``: the address of a running cluster to join with "dask" or "ray", as in `Cluster`. Then
      ``n_workers=-1`` uses all its workers. By default a cluster on this machine starts and ends with the workers.
    - ``seed``: decides the initial parameters and the order of each epoch; from 0 to 2^64 - 1.
    - ``clip_norm``: the largest norm of the averaged gradient; None for any.
    - ``parameters``: the vector to start from; by default the model's initial parameters.
    - ``on_nan``: if a loss or a gradient holds NaN or infinity, "stop" raises NonFiniteError, and "skip" leaves out the
      step, with parameters and optimizer as they were.
    - ``step_timeout``: seconds without any answer after which a worker is replaced. The default is never, on a cluster
      300 s. A worker has at least ten seconds for its first block of each size and kind, since it may compile.
    - ``max_tries``: how many workers may be lost over one block, the part of a batch that a worker gets at a time,
      before WorkerError is raised; 3 by default.
    - ``trace``: a `Trace`, which records when each phase of each step starts and ends. Its creator closes it.

    Workers start with the first call that needs them, and stay until `close` or the end of the ``with`` block. After
    that the coordinator keeps its state: `predict` and `save` work, and `fit`, `iterate` and `evaluate` start new
    workers, which another `close` ends.

    Each call of `fit`, `iterate` and `evaluate` uses the model and the data as they are when it is called, with each
    engine. Later changes have no effect on the call.

    Several threads may use one coordinator. While one trains, `evaluate`, `predict`, `save` and `resize` of others run
    between two steps, with the parameters of the last finished step. Calls that would disturb the training (another
    `fit` or `iterate`, `load`, `restart_epoch`, `close`) raise RuntimeError at once. Loops over `iterate` in one thread
    may alternate: each step continues from the present state.

    All attributes are read-only: assigning one raises AttributeError. `resize` changes the number of workers. For
    another model, optimizer or setting, create another coordinator. ``load(path, may_differ=[...])`` continues with it.

    Raises ValueError (`InvalidValue`) if a value is out of its range. Raises TypeError if ``model``, ``optimizer`` or
    ``engine`` is something else, if there is no such argument, or if ``n_workers``, ``cluster_address``,
    ``step_timeout`` or ``max_tries`` comes with an engine that exists already.

    >>> import numpy as np
    >>> from parallel_lenet import SGD, lenet5
    >>> images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20) % 10
    >>> with Coordinator(lenet5(kernel="im2col"), SGD(0.1), engine="serial", batch_size=10) as coordinator:
    ...     history = coordinator.fit((images, labels), epochs=2)
    >>> coordinator.step, len(history), history[-1].epoch
    (4, 2, 2)
    """

    @names_unknown_settings
    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        *,
        n_workers: int | None = None,
        batch_size: int = 128,
        shard_size: int | None = None,
        engine: str | Engine = "processes",
        cluster_address: str | None = None,
        seed: int = 0,
        clip_norm: float | None = None,
        parameters: Vector | None = None,
        on_nan: str = "stop",
        step_timeout: float | None = None,
        max_tries: int | None = None,
        trace: Trace | None = None,
    ) -> None:
        require_members("model", model, ("layout", "initial_parameters", "loss_and_gradient", "predict"))
        require_members("optimizer", optimizer, ("init", "update"))
        settings = Settings.for_model(
            model, batch_size=batch_size, shard_size=shard_size, seed=seed, clip_norm=clip_norm, on_nan=on_nan
        )
        self.model = model
        self.optimizer = optimizer
        self.batch_size = settings.batch_size
        self.shard_size = settings.shard_size
        self.leaf = settings.leaf
        """The model's: see `Model`. None: gradients are added shard by shard."""
        self.seed = settings.seed
        self.clip_norm = settings.clip_norm
        self.on_nan = settings.on_nan
        if not isinstance(trace, Trace | None):
            raise TypeError(f"trace must be a Trace or None, got {quoted(trace)}: Trace(path) creates one")
        self.trace = trace
        self._settings = settings
        self._random = parameters is None  # Whether to warn that predictions are those of random parameters.
        parameters = initial_parameters(model, parameters, self.seed)
        self._state = TrainingState(parameters, initial_state(optimizer, parameters))
        self._origin: Origin | None = None  # The checkpoint that the state comes from, until training continues.
        self._workforce = Workforce(
            engine,
            settings,
            n_workers=n_workers,
            cluster_address=cluster_address,
            step_timeout=step_timeout,
            max_tries=max_tries,
        )
        self.engine = self._workforce.engine
        self._warming = WarmUp(model, optimizer)
        self._draws = takes(model.loss_and_gradient, "keys")
        self._memory = VectorPool()  # For the vectors of the next state, and for sums.
        self._team = 1, ONE_THREAD  # The number of workers, and the threads of this process for it.
        self._turns = turns_of(self.engine)
        self._calls = Calls()
        self._evaluator = Evaluator(model, self.engine, self._turns, settings.sizes)
        self._freeze()

    @property
    def workers_note(self) -> str | None:
        """Why some of the requested workers do not run, or have no work; None if all have."""
        return self._workforce.note

    @property
    def n_workers(self) -> int:
        """How many workers there are: the requested number, but no more than a batch has work for."""
        return self.engine.n_workers

    @property
    def call_sizes(self) -> tuple[int, ...]:
        """The numbers of samples that the model gets at a time in training, each once, largest first."""
        return self._call_sizes(self.batch_size)

    def _call_sizes(self, samples: int) -> tuple[int, ...]:
        """The same for ``samples`` in all. No batch has more, and to cut a batch of a billion takes minutes."""
        most = max(samples, LARGE_BATCH)
        return call_sizes(min(self.batch_size, most), self._settings.sizes, self.n_workers)

    @property
    def parameters(self) -> Vector:
        """The current parameters, ``(size,)``, read-only. After an interrupt those of the last finished step."""
        return self._state.parameters

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return self._state.epoch

    @property
    def step(self) -> int:
        """How many optimizer steps are finished."""
        return self._state.optimizer.step

    @property
    def cursor(self) -> int:
        """How many samples of the current epoch are done."""
        return self._state.cursor

    @property
    def history(self) -> History:
        """The reports of the finished epochs."""
        return History(self._state.history)

    def _summary(self) -> Summary:
        """Shows the last finished step. Starts no workers and does not wait for other threads."""
        state = self._state
        pids = self.worker_pids()
        names = f"{type(self.model).__name__}, {type(self.optimizer).__name__}"
        where = f"n_workers={self.n_workers}, engine={type(self.engine).__name__}, batch_size={self.batch_size}"
        done = f"epoch={state.epoch}, step={state.optimizer.step}"
        running = f", processes {', '.join(map(str, pids))}" if pids else ""
        rows = [
            ("model", quoted(self.model)),
            ("optimizer", quoted(self.optimizer)),
            ("workers", f"{self.n_workers} of {quoted(self.engine)}{running}"),
            *((name, str(getattr(self, name))) for name in ("batch_size", "shard_size", "seed", "clip_norm", "on_nan")),
            ("finished", f"{count(state.epoch, 'epoch')}, {count(state.optimizer.step, 'step')}"),
            ("unfinished epoch", count(state.cursor, "sample") if state.cursor else "none"),
        ]
        history = History(state.history)._summary().parts
        return Summary(f"Coordinator({names}, {where}, {done})", [Table((), rows, texts=2), *history])

    def parameters_sha256(self) -> str:
        """The SHA-256 of the parameters' little-endian bytes, to compare runs with."""
        return sha256(self.parameters)

    @takes_a_pair
    def fit(
        self,
        train: Data,
        epochs: int = 1,
        validation: Data | float | None = None,
        *,
        keep_best: bool = False,
        best_by: str = "loss",
        patience: int | None = None,
        progress: bool = False,
    ) -> History:
        """Train for ``epochs`` more epochs (an unfinished one counts), and return the reports of all epochs so far.

        ``validation`` is evaluated after each epoch. It is data, or a fraction of ``train`` such as 0.1, which is then
        not used for training. ``seed`` decides which samples those are, so they are the same in each call with the same
        data.

        With ``keep_best`` the coordinator ends in the state after the best epoch of this call, the first one of equals:
        ``parameters``, optimizer, ``epoch`` and ``history`` are those of that epoch, and a later ``fit`` continues from
        there. The returned history has all epochs. An interrupted call keeps its last state. The best epoch has the
        lowest validation loss, or with ``best_by="accuracy"`` the highest validation accuracy.

        With ``patience`` training stops early: after this number of epochs in a row of which none is better than the
        best one before them. All epochs in ``history`` count. So a call that continues a checkpoint stops after the
        same epoch as a single call, and trains nothing if that epoch is done already.

        ``progress`` shows a bar: on standard error if that is a terminal, or in a notebook's cell. Nothing is written
        to a pipe or a file.

        Raises DatasetError if an unfinished epoch, also of a loaded checkpoint, was started with other data: continue
        with those, or call `restart_epoch` first. Raises RuntimeError while another thread trains, ValueError for
        ``keep_best`` or ``patience`` without validation data and for ``best_by="accuracy"`` with a model that predicts
        no classes, and ExtraError, a ModuleNotFoundError, if ``progress`` needs rich (extra ``cli``) and it is missing
        or broken.
        """
        if progress:
            require_rich("fit(progress=True)")
        check_best_by(best_by, self.model)
        patience = None if patience is None else whole_number("patience", patience, 1)
        if validation is None and (keep_best or patience is not None):
            name = "keep_best" if keep_best else "patience"
            raise ValueError(f"{name} needs validation data: validation must be data, or a fraction such as 0.1")
        best = self._state
        first = self.epoch
        cursor = self.cursor
        last, call = self._begin(train, epochs, validation)
        reports = self._iterate(last, call)
        if progress and last > first:
            samples = len(call.context.datasets[0].inputs)
            reports = with_bar(reports, range(first, last), samples, cursor, self.epoch_report)
        with closing(reports):  # Ends the call also if an interrupt leaves the loop.
            while not self._is_enough(best_by, patience):
                report = next(reports, None)
                if report is None:
                    break
                if keep_best and isinstance(report, EpochReport):
                    done = figures(self.history[first:], best_by)
                    if best_epoch(done, best_by) in (None, len(done)):
                        best = self._state
        history = self.history
        if keep_best and self.epoch > first:
            self._state = best
        return history

    def _is_enough(self, best_by: str, patience: int | None) -> bool:
        """Whether training stops early before the next step."""
        if patience is None or self.cursor:
            return False
        return is_enough(figures(self.history, best_by), best_by, patience)

    @takes_a_pair
    def iterate(
        self, train: Data, epochs: int = 1, validation: Data | float | None = None
    ) -> Iterator[StepReport | EpochReport]:
        """Train as `fit` does, and yield a report after each step and each epoch. The loop may be left at any time."""
        return self._iterate(*self._begin(train, epochs, validation))

    def _begin(self, train: Data, epochs: int, validation: Data | float | None) -> tuple[int, Call]:
        """Check the arguments of `fit` or `iterate`, and open the data: the last epoch to train, and the call."""
        epochs = number_of_epochs(epochs)
        data = training_data(self.model, train, validation, self.seed)
        if epochs and self._origin is not None:
            needed = self.optimizer.init(self.parameters)
            self._origin.require_settings(self._settings_description(), self._state.optimizer, needed)
        call = self._calls.begin("train")
        try:
            context = self._turns.run(
                "fit or iterate",
                lambda: self.engine.open(self.model, data, self.parameters, self._call_sizes(len(data[0]))),
            )
            call.begin(context)
            if epochs:
                self._use_data(call)
                self._origin = None
        except BaseException:
            self._calls.end(call)
            raise
        return self.epoch + epochs, call

    def _iterate(self, last: int, call: Call) -> Generator[StepReport | EpochReport, None, None]:
        try:
            while self.epoch < last:
                call.thread = threading.current_thread()
                yield self._turns.run("a step", lambda: self._advance(call))
        finally:
            self._calls.end(call)
            self._memory.clear()

    def _advance(self, call: Call) -> StepReport | EpochReport:
        """Make the next step from the present state, which other calls may have changed, or end the epoch."""
        if self._warming.n_workers != self.n_workers and not call.context.closed:  # If it is, `start` raises.
            train = call.context.datasets[0]
            self._warming.run(self.parameters, train, self._call_sizes(len(train)), self.n_workers)
        self.engine.start(call.context)
        self._use_data(call)
        order = call.order(self.seed, self.epoch)
        rows = order[self.cursor : self.cursor + self.batch_size]
        report = self._step(call, rows) if len(rows) else self._finish_epoch(call)
        if self.trace is not None:
            self.trace.report(report)
        return report

    def _use_data(self, call: Call) -> None:
        """Note which data the current epoch is trained on. Raises as `require_same_data` does."""
        before = self._state.data
        if before is not None and before is not call.data:
            require_same_data(self._state, before, call.data, self._origin)
            self._state = replace(self._state, data=call.data)

    def restart_epoch(self) -> None:
        """Start the current epoch again, so that it may have other data: forget which samples of it are done.

        Parameters and optimizer stay as they are. The figures of the unfinished epoch are forgotten.
        """
        with self._calls.exclusive("start the epoch again"):
            state = self._state
            self._state = TrainingState(state.parameters, state.optimizer, epoch=state.epoch, history=state.history)

    def _step(self, call: Call, rows: NDArray[np.int64]) -> StepReport:
        """One optimizer step on the samples at ``rows`` of the training data."""
        start = time.perf_counter()
        before = self._state
        weights = call.context.datasets[0].weights
        if weights is not None and not weights[rows].any():
            return self._without_weight(call, rows)
        work = blocks(rows, self._settings.sizes, self.n_workers, key=self._key())
        batch = self._batch_sum(call.context, work)
        metrics = batch.metrics
        summed = time.perf_counter()
        end = finish(
            self.optimizer,
            (before.parameters, before.optimizer),
            metrics,
            batch.vectors,
            self.clip_norm,
            self._memory,
            self._threads(),
        )
        problem: NonFiniteError | None = None
        if not end.gradient_finite:
            problem = self._trace(call.context, rows, work, batch.suspects)
        elif not end.finite:
            problem = finite.update_error(end.state.step, self.model.layout, end.parameters)
        if problem is not None and self.on_nan == "stop":
            raise problem
        skipped = problem is not None
        parameters = before.parameters if skipped else end.parameters
        optimizer = before.optimizer if skipped else end.state
        sums = before.sums if skipped else before.sums + metrics
        seconds = time.perf_counter() - start
        self._state = TrainingState(
            parameters,
            optimizer,
            before.epoch,
            before.cursor + len(rows),
            sums,
            before.seconds + seconds,
            before.history,
            call.data,
        )
        return StepReport(
            epoch=before.epoch + 1,
            step=optimizer.step,
            loss=metrics.loss,
            accuracy=metrics.accuracy,
            count=metrics.count,
            gradient_norm=end.norm,
            seconds=seconds,
            skipped=str(problem) if skipped else None,
            learning_rate=_learning_rate(self.optimizer, before.step),
            times=StepTimes(
                batch.waiting,
                batch.adding,
                updating=start + seconds - summed,
                clipping=end.clipped - summed if end.clipped else 0.0,
                computing=batch.computing,
            ),
        )

    def _key(self) -> tuple[int, int] | None:
        """The key of the epoch's random numbers, with which each sample has its own, for a model that takes keys."""
        return (self.seed, self.epoch) if self._draws else None

    def _batch_sum(self, context: Context, work: list[Block]) -> BatchSum:
        """Hand out the blocks, and add their gradients along the tree, except the sums that need the last block."""
        results = self.engine.gradients(context, self.parameters, work)
        if self.trace is not None:
            results = self.trace.record_arrivals(results)
        return batch_sum(results, work, self._settings.sizes, self._memory)

    def _without_weight(self, call: Call, rows: NDArray[np.int64]) -> StepReport:
        """Skip a batch whose weights are all 0: its mean loss does not exist."""
        state = self._state
        self._state = replace(state, cursor=state.cursor + len(rows), data=call.data)
        return StepReport(
            epoch=state.epoch + 1,
            step=self.step,
            loss=math.nan,
            accuracy=math.nan,
            count=len(rows),
            gradient_norm=math.nan,
            seconds=0.0,
            skipped="all weights of the batch are 0",
            learning_rate=_learning_rate(self.optimizer, self.step),
        )

    def _trace(
        self, context: Context, rows: NDArray[np.int64], work: list[Block], suspects: list[str]
    ) -> NonFiniteError:
        """The reason why the sum of a step is not finite. Computes the step again, shard by shard."""
        step = self.step + 1
        parts = shards(rows, self.shard_size, key=self._key())
        results = self.engine.gradients(context, self.parameters, parts)
        problem = finite.traced_error(step, self.model.layout, results, len(parts))
        if problem is not None:
            return problem
        batch = self._batch_sum(context, work)
        gradient = mean(batch.vectors, batch.metrics.weight, self._memory, ONE_THREAD)
        if finite.is_finite(batch.metrics.loss_sum, gradient):
            return finite.irreproducible_error(step, suspects)
        return finite.overflow_error(step)

    def _threads(self) -> Threads:
        """The threads for this process's work on long vectors: as many as workers, but no more than cores."""
        if self.parameters.size <= LONG:
            return ONE_THREAD
        if self._team[0] != self.n_workers:
            self._team = self.n_workers, Threads(min(self.n_workers, usable_cores()))
        return self._team[1]

    def _finish_epoch(self, call: Call) -> EpochReport:
        state = self._state
        if not state.sums.count:
            raise NonFiniteError(f"epoch {state.epoch + 1}: every step was skipped for NaN or infinity", self.step)
        report = self.epoch_report()
        if len(call.context.datasets) > 1:
            result = self._evaluator.metrics(call.context, state, 1)
            report = replace(report, validation_loss=result.loss, validation_accuracy=result.accuracy)
        self._state = TrainingState(
            state.parameters, state.optimizer, epoch=state.epoch + 1, history=(*state.history, report), data=call.data
        )
        return report

    def epoch_report(self) -> EpochReport:
        """A report of the current epoch so far, without validation. Its means are NaN before the first step."""
        state = self._state
        sums = state.sums
        return EpochReport(
            epoch=state.epoch + 1,
            step=state.optimizer.step,
            train_loss=sums.loss,
            train_accuracy=sums.accuracy,
            seconds=state.seconds,
            images_per_second=sums.count / state.seconds if state.seconds else 0.0,
        )

    @takes_a_pair
    def evaluate(self, data: Data) -> Metrics:
        """Loss and accuracy on all samples of ``data``, computed by the workers, which start if they do not run.

        If the data have weights, the loss is ``sum(weight * loss) / sum(weight)``. The accuracy is not weighted.

        Raises NonFiniteError if the parameters or the loss hold NaN or infinity: an accuracy would be meaningless.
        """
        dataset = dataset_for(self.model, data)
        return self._turns.run("evaluate", lambda: self._evaluator.evaluate(self._state, dataset))

    @takes_a_pair
    def iterate_evaluation(self, data: Data) -> Iterator[Metrics]:
        """Evaluate as `evaluate` does, and yield the metrics so far about ten times a second. The last are the result.

        All are those of the parameters at the time of the call.
        """
        return self._evaluator.iterate(self._state, dataset_for(self.model, data))

    @takes_a_pair
    def warm_up(self, data: Data) -> None:
        """Compile in this process what training on such data needs, before workers need it.

        `fit` and `iterate` do this first, so that the seconds they report are those of training. For each of the
        `call_sizes` this calls the model's optional ``warm_up(parameters, inputs, targets)`` with this number of
        samples, unless its ``is_compiled(samples)`` is true.
        """
        dataset = as_dataset(data)
        warm = self._warming.run
        samples = Samples(dataset.inputs, dataset.targets)
        self._turns.run(
            "warm_up", lambda: warm(self.parameters, samples, self._call_sizes(len(samples)), self.n_workers)
        )

    def predict(self, inputs: Array) -> Array:
        """The model's predictions, one per row of ``inputs``: for a classifier the class labels, ``(n,)``.

        The calling thread computes them, without workers. Before any training they are those of random parameters,
        unless the coordinator got ``parameters``. The logger ``parallel_lenet`` then warns once.

        Raises ValueError if images have another size or unit than a `Sequential` needs, TypeError if ``inputs`` is not
        an array of numbers, NonFiniteError if the parameters hold NaN or infinity.
        """
        return self._predictions(self.model.predict, "predict", inputs)

    def predict_proba(self, inputs: Array) -> Array:
        """The probability of each class, ``(n, classes)``: for a `Sequential` float32 rows that sum to 1.

        The calling thread computes them, as with `predict`. The largest number of a row is at the class that `predict`
        returns.

        Raises as `predict` does, TypeError if the model has no method ``predict_proba(parameters, inputs)``, and
        NonFiniteError if scores overflow.
        """
        method = getattr(self.model, "predict_proba", None)
        if not callable(method):
            raise TypeError(
                f"{type(self.model).__name__} has no probabilities: it lacks the method "
                "predict_proba(parameters, inputs)"
            )
        probabilities = self._predictions(method, "predict_proba", inputs)
        finite.require_finite_probabilities(self.step, probabilities)
        return probabilities

    def _predictions(self, method: Callable[[Vector, Array], Array], name: str, inputs: Array) -> Array:
        """What a method of the model returns for the inputs."""
        inputs = numeric_array("inputs", inputs)
        if self._random and self.step == 0:
            self._random = False  # Warn once.
            _log.warning(f"{name} before any training: the parameters are the random initial ones")
        state = self._state  # One state, even if another thread trains.
        return predictions(method, self.model.layout, state.parameters, inputs, state.step)

    def resize(self, n_workers: int) -> None:
        """Continue with another number of workers from the next step on, counted as in the constructor.

        The result stays the same. Raises ValueError if the engine cannot have this number.
        """
        count = self._workforce.limit(n_workers)
        self._turns.run("resize", lambda: self.engine.resize(count))

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that run now; empty if the engine has no processes of its own."""
        return self.engine.worker_pids()

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint: parameters, optimizer state, position, history, and ``metadata`` of your own.

        ``metadata`` is JSON. NumPy's scalars become Python's, NaN and infinity the strings "nan", "inf" and "-inf".
        The file is replaced completely or not at all. If ``path`` is a symbolic link, its target is replaced.

        Raises TypeError or ValueError if ``metadata`` holds anything else, such as an array, and OSError if the file
        can't be written. Then the old file is left as it was.
        """
        if not isinstance(metadata, Mapping | None):
            raise TypeError(f"metadata must be a dict, got {type(metadata).__name__}")
        user = json_value("metadata", metadata or {}, depth=1)
        settings = self._settings_description() if self._origin is None else self._origin.settings
        Checkpoint(self._state, self.model.layout, of_model(self.model), settings, user).save(path)

    def load(self, path: str | os.PathLike[str], *, may_differ: Collection[str] = ()) -> dict[str, Any]:
        """Continue from a checkpoint: load everything that ``save`` wrote, and return its ``metadata``.

        The model must be the one that was saved: its layout and its description are compared. Settings of the training
        (optimizer, batch_size, shard_size, seed, clip_norm, kernel, augment and label_smoothing) are compared when
        training continues, so that ``predict``, ``evaluate`` and ``save`` work with any. The first ``fit`` or
        ``iterate`` after ``load`` raises CheckpointError if one of them differs, unless ``may_differ`` names it. The
        optimizer may then have other settings, such as another learning rate, but must keep the same vectors.
        ``shard_size`` may differ if it decides no bit. An unfinished epoch continues only with the data that it started
        with.

        To train the parameters in any other way, start a new training with them, after ``load``:
        ``Coordinator(model, optimizer, parameters=coordinator.parameters)``.

        Raises CheckpointError if the file is damaged or belongs to another model. Then the coordinator is left as it
        was.
        """
        allowed = names_that_may_differ(may_differ)
        checkpoint = Checkpoint.load(path)
        checkpoint.require_model(self.model)
        checkpoint.require_dtype(self.parameters.dtype)
        if checkpoint.settings.get("optimizer") == self._settings_description()["optimizer"]:
            checkpoint.require_slots(self.optimizer.init(checkpoint.state.parameters))
        origin = Origin(checkpoint.path, checkpoint.settings, allowed)
        with self._calls.exclusive("load"):
            self._state = checkpoint.state
            self._origin = origin
        return checkpoint.metadata

    def _settings_description(self) -> dict[str, Any]:
        return self._settings.description(self.optimizer, self.model)

    def close(self) -> None:
        """End the workers, and the loops over ``iterate`` that have not ended. The state stays.

        A later `fit`, `iterate` or `evaluate` starts new workers, which another ``close`` ends. The workers of an
        engine that was passed to the constructor stay until its creator closes it. Raises RuntimeError while another
        thread trains.
        """
        with self._calls.exclusive("close"):
            if self._state.data is not None:
                self._state.data.release()
            self._turns.run("close", self._close)

    def _close(self) -> None:
        self._calls.close()
        self._workforce.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Coordinator cannot be copied or pickled, since it holds workers: save(path) writes its state, and load("
            "path) of another Coordinator takes it over"
        )


def _learning_rate(optimizer: Optimizer, step: int) -> float | None:
    """The learning rate after ``step`` finished steps; None if the optimizer has none."""
    rate = getattr(optimizer, "learning_rate", None)
    rate = rate(step) if callable(rate) else rate
    return float(rate) if isinstance(rate, int | float | np.number) else None
