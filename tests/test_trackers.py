"""Trackers, read back with their own libraries."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kits import programs

from parallel_lenet import SGD, Coordinator, Dataset, EpochReport, StepReport
from parallel_lenet.cli import main
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._trackers import Trackers
from parallel_lenet.network.lenet5 import lenet5
from parallel_lenet.runs import steps
from parallel_lenet.trackers.mlflow import MLflow
from parallel_lenet.trackers.tensorboard import TensorBoard

EPOCH = EpochReport(1, 9, 0.5, 0.75, 2.0, 100.0)


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: steps and values by tag."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(each.step, each.value) for each in accumulator.Scalars(tag)] for tag in tags}


def hyperparameters(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client of the folder mlruns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    MLflow(tmp_path / "first").close()  # Imports the library with what it needs.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())


@pytest.mark.slow
def test_a_run_that_is_resumed_is_one_run_with_each_step_once(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.write_idx(tmp_path / "data", 60, 10)
    common = ["--engine", "serial", "--kernel", "im2col", "--no-report", "--json", "--log", "tensorboard"]
    common += ["--log", "mlflow", "--log", "tensorboard"]
    new = ["--data-dir", "data", "--batch-size", "10", "--max-steps", "9", "--checkpoint-every", "2", "--out", "run"]
    assert main(["train", *new, *common]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["log"] == ["tensorboard", "mlflow"]
    known = json.loads((tmp_path / "run" / "mlflow.json").read_text())
    shutil.copy("run/checkpoint.previous.npz", "run/best.npz")
    # From step 8. Step 9 and what was measured after it were logged before.
    assert main(["train", "--resume", "run/checkpoint.previous.npz", "--max-steps", "14", *common]) == 0
    capsys.readouterr()
    assert json.loads((tmp_path / "run" / "mlflow.json").read_text()) == known
    log = steps.read(tmp_path / "run")
    assert log is not None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    scalars = shown(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in scalars["step/loss"]] == list(range(1, 15))
    assert [value for _, value in scalars["step/loss"]] == pytest.approx(log["loss"], rel=1e-6)
    assert [value for _, value in scalars["step/learning_rate"]] == pytest.approx(log["learning_rate"], rel=1e-6)
    assert [step for step, _ in scalars["epoch/test_loss"]] == [6, 12, 14]
    assert [value for _, value in scalars["epoch/test_loss"]] == pytest.approx([line["test_loss"] for line in lines])
    assert hyperparameters(tmp_path / "run" / "tensorboard")["batch_size"] == 10

    run = client.get_run(known["run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert (run.data.params["batch_size"], run.data.params["optimizer"]) == ("10", "adamw")
    history = client.get_metric_history(known["run_id"], "step/loss")
    assert sorted(metric.step for metric in history) == list(range(1, 15))
    assert [each.value for each in sorted(history, key=lambda each: each.step)] == list(log["loss"])
    history = client.get_metric_history(known["run_id"], "epoch/test_accuracy")
    # MLflow forgets nothing: the first start ended after step 9.
    assert sorted(metric.step for metric in history) == [6, 9, 12, 14]
    assert len(client.search_runs([run.info.experiment_id])) == 2

    # Another schedule gives other numbers, which have no place in a run that has them already.
    longer = ["--resume", "run/best.npz", "--epochs", "3", "--log", "mlflow", *common[:6]]
    assert main(["train", *longer]) == 0
    assert json.loads((tmp_path / "run" / "mlflow.json").read_text()) != known


def test_a_loop_of_ones_own_logs_reports(client: Any, tmp_path: Path, digits: Dataset) -> None:
    reports = []
    model = lenet5(kernel="im2col")
    with (
        Coordinator(model, SGD(0.1), engine="serial", batch_size=50) as coordinator,
        TensorBoard("logs", {"rate": 0.1, "name": "a", "none": None, "list": [1], "bad": math.nan}) as board,
        MLflow("logs") as runs,
    ):
        for report in coordinator.iterate(digits, 2):
            board.log(report)
            runs.log(report)
            reports.append(report)
    scalars = shown(tmp_path / "logs")
    of_steps = [each for each in reports if isinstance(each, StepReport)]
    assert [step for step, _ in scalars["step/gradient_norm"]] == [each.step for each in of_steps]
    assert [step for step, _ in scalars["epoch/train_loss"]] == [3, 6]
    assert "epoch/validation_loss" not in scalars
    assert hyperparameters(tmp_path / "logs") == {"rate": 0.1, "name": "a", "list": "[1]", "bad": "nan"}
    assert len(client.get_metric_history(runs.run_id, "step/accuracy")) == len(of_steps)
    again = MLflow("logs", step=3)
    with pytest.raises(ZeroDivisionError), again:
        again.log(replace(EPOCH, step=1 // 0))
    assert again.run_id == runs.run_id
    assert client.get_run(again.run_id).info.status == "FAILED"
    (tmp_path / "logs" / "mlflow.json").write_text('{"uri": "x", "run_id": "../../etc"}')
    with MLflow("logs", step=3) as other:
        assert other.run_id != runs.run_id
    assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_tracker_that_fails_is_noted_once_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    trackers = Trackers(["tensorboard", "mlflow"], tmp_path, Console())
    trackers.begin({}, 0)
    told = capsys.readouterr().err
    assert told.count("note: --log mlflow failed: ") == 1
    assert "Training continues without it" in told
    tracker: Any = trackers._trackers["tensorboard"]
    with open("/dev/full", "wb", buffering=0) as full:
        file = tracker._file
        tracker._file = full
        for _ in range(3):
            trackers.epoch(vars(EPOCH))
        trackers.end("finished")
    file.close()
    told = capsys.readouterr().err
    error = "OSError: [Errno 28] No space left on device"
    assert told == f"note: --log tensorboard failed: {error}. Training continues without it\n"
    assert shown(tmp_path / "tensorboard") == {}


def test_a_tracker_without_its_library_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['tensorboardX'] = None; from parallel_lenet.cli import main; "
    blocked += "sys.exit(main(['train', '--log', 'tensorboard', '--out', 'run']))"
    done = programs.run(tmp_path, "-c", blocked, command=programs.PYTHON, code=1)
    assert "logging to TensorBoard needs tensorboardX, which" in done.stderr
    assert "pip install" in done.stderr
    assert not (tmp_path / "run").exists()
