"""MLflow: a run in a local folder, or on the server that ``MLFLOW_TRACKING_URI`` names."""

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parallel_lenet import optional
from parallel_lenet.files import write_atomically
from parallel_lenet.runs import RunError, content
from parallel_lenet.trackers import Scalars, Tracker, tracker_settings

FILE = "mlflow.json"  # In the run's folder: the id of the run of MLflow.
FOLDER = "mlruns"
EXPERIMENT = "parallel_lenet"
MOST_NUMBERS = 1000  # That MLflow accepts in one call.
MOST_PARAMETERS = 100  # That MLflow accepts in one call.
LONGEST = 6000  # Characters of a parameter.
STATES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
# MLflow reads these variables, unless the user has set them. Without the first it sends usage statistics. Without the
# second it refuses to write to a folder. Without the others training waits minutes for a server that does not answer.
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def require() -> None:
    """Raises ExtraError if mlflow (extra ``mlflow``) is missing or does not work."""
    with _quiet():
        optional.load("mlflow", "mlflow", "logging to MLflow", "mlflow.tracking")


@contextmanager
def _quiet() -> Iterator[None]:
    """Set `VARIABLES` in this process's environment, from which MLflow reads them, and hide MLflow's warnings."""
    added = {name: value for name, value in VARIABLES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class MLflow(Tracker):
    """A run of the experiment parallel_lenet, in the folder ``mlruns`` here or as ``MLFLOW_TRACKING_URI`` says.

    ``settings`` become its parameters. ``deciding`` names those that decide the numbers (default: all). The file
    mlflow.json in ``folder`` has the run's id: after ``step`` finished steps, that run is continued. MLflow keeps every
    number, so those that it has already are not logged again. A new run begins if MLflow has later steps than ``step``
    and deciding settings have changed.

    Raises ExtraError if mlflow (extra ``mlflow``) is missing, and MLflow's own errors.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any] | None = None,
        step: int = 0,
        *,
        deciding: frozenset[str] | None = None,
    ) -> None:
        super().__init__(step)
        self._is_closed = False
        self._last = {"step": -1, "epoch": -1}
        """The last step that MLflow has numbers of, for steps and for epochs."""
        require()
        self._file = Path(folder) / FILE
        parameters = {name: str(value)[:LONGEST] for name, value in tracker_settings(settings or {}).items()}
        deciding_texts = {name: text for name, text in parameters.items() if deciding is None or name in deciding}
        with _quiet():
            from mlflow import MlflowClient, entities  # Imported lazily: an extra.

            self._entities = entities
            self.uri = os.environ.get("MLFLOW_TRACKING_URI") or Path(FOLDER).absolute().as_uri()
            self._client = MlflowClient(tracking_uri=self.uri)
            known = self._known_run(deciding_texts) if step else None
            if known is not None:
                self._client.update_run(known, status="RUNNING")
            self.run_id: str = known or self._begin(parameters, Path(folder).absolute().name)

    def _known_run(self, deciding_texts: Mapping[str, str]) -> str | None:
        """The id of the folder's run, if it can be continued. Sets the last steps that MLflow has of it."""
        try:
            known = json.loads(content(self._file, 2**16) or b"{}")
            run_id = known.get("run_id")
            if known.get("uri") != self.uri or not re.fullmatch(r"[0-9a-f]{32}", str(run_id)):
                return None
            before = self._client.get_run(run_id).data.params
        except (RunError, ValueError, AttributeError):
            return None
        except Exception as error:
            if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        last = {kind: self._last_step(run_id, name) for kind, name in (("step", "loss"), ("epoch", "train_loss"))}
        changed = any(before.get(name) != text for name, text in deciding_texts.items())
        if changed and max(last.values()) > self._step:
            return None
        self._last = last
        return str(run_id)

    def _last_step(self, run_id: str, name: str) -> int:
        kind = "epoch" if name == "train_loss" else "step"
        history = self._client.get_metric_history(run_id, f"{kind}/{name}")
        return max((metric.step for metric in history), default=-1)

    def _begin(self, parameters: Mapping[str, str], name: str) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = self._client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        run_id: str = self._client.create_run(experiment, run_name=name).info.run_id
        params = [self._entities.Param(key, text) for key, text in parameters.items()]
        for start in range(0, len(params), MOST_PARAMETERS):
            self._client.log_batch(run_id, params=params[start : start + MOST_PARAMETERS])
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps({"uri": self.uri, "run_id": run_id}).encode() + b"\n")
        return run_id

    def _store(self, scalars: list[Scalars]) -> None:
        metrics = [
            self._entities.Metric(tag, value, int(moment * 1000), step)
            for step, moment, numbers in scalars
            for tag, value in numbers.items()
            if step > self._last[tag.partition("/")[0]]
        ]
        with _quiet():
            for start in range(0, len(metrics), MOST_NUMBERS):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + MOST_NUMBERS])

    def end(self, state: str) -> None:
        """`flush`, and store the state."""
        if not self._is_closed:
            self._is_closed = True
            self.flush()
            with _quiet():
                self._client.set_terminated(self.run_id, STATES[state])
