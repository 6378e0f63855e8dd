"""The train command, called in this process: how runs end, continue and report, and what they leave in the process."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.programs import FILES, environment, write_idx

from parallel_lenet import SGD, Adam, AdamW, Coordinator, Dataset, archive, lenet5, load_dataset, load_model
from parallel_lenet.cli import _config, _preparation, _training, evaluate, main, train
from parallel_lenet.cli._interrupts import ENDING, Interrupts, OutOfTime
from parallel_lenet.cli._run_folder import RunFolder
from parallel_lenet.cli._training import Training

pytestmark = pytest.mark.slow

QUICK = ("--data-dir", "data", "--kernel", "im2col", "--batch-size", "10", "--engine", "serial")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors as POSIX has them")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to train in, with a few images."""
    write_idx(tmp_path / "data", 60, 30)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def result(capsys: pytest.CaptureFixture[str]) -> Any:
    """Train in this process, and return what --json prints."""

    def call(*arguments: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        returned = main(["train", "--json", *arguments])
        out, err = capsys.readouterr()
        assert returned == code, err
        return dict(json.loads(out)) if code == 0 else {"error": err}

    return call


def at_step(step: int, act: Any, patch: pytest.MonkeyPatch) -> None:
    """Have something happen after that step."""
    after = Training._after_step

    def and_act(self: Training, report: Any, progress: Any) -> None:
        if report.step == step:
            act()
        after(self, report, progress)

    patch.setattr(Training, "_after_step", and_act)


@posix
@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_every_signal_that_ends_programs_leaves_a_checkpoint_and_says_how_to_continue(
    number: signal.Signals, result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with monkeypatch.context() as patch:
            at_step(8, lambda: signal.raise_signal(number), patch)
            error = result(*QUICK, "--epochs", "3", "--out", "r", code=128 + number)["error"]
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    last = error.splitlines()[-1]
    assert "after 1 epoch and 20 images, step 8; the checkpoint is r/checkpoint.npz; continue with: " in last
    assert last.endswith(" train --resume r --engine serial")
    assert archive.load("r/checkpoint.npz")[1]["cursor"] == 20
    whole = result(*QUICK, "--epochs", "3", "--out", "whole")
    again = last.partition(" train ")[2].split()
    assert result(*again)["parameters_sha256"] == whole["parameters_sha256"]


@posix
def test_signals_that_the_program_was_started_to_ignore_stay_ignored(
    result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(2, lambda: signal.raise_signal(signal.SIGHUP), monkeypatch)
        assert result(*QUICK, "--epochs", "1")["steps"] == 6
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@posix
def test_repeated_signals_of_batch_systems_and_echoes_do_not_lose_the_checkpoint(
    result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signals() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGHUP):
            signal.raise_signal(number)

    at_step(2, signals, monkeypatch)
    result(*QUICK, "--out", "r", code=128 + signal.SIGUSR1)
    at_step(2, lambda: [signal.raise_signal(signal.SIGTERM), signal.raise_signal(signal.SIGTERM)], monkeypatch)
    result(*QUICK, "--out", "s", code=128 + signal.SIGTERM)
    assert archive.load("s/checkpoint.npz")[1]["step"] == 2


@posix
def test_an_alarm_of_somebody_else_ends_the_run_as_any_signal(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(2, lambda: signal.raise_signal(signal.SIGALRM), monkeypatch)
    error = result(*QUICK, "--out", "r", code=128 + signal.SIGALRM)["error"]
    assert "terminated by SIGALRM" in error


def test_max_time_stops_with_a_checkpoint_that_continues_to_the_same_bits(result: Any) -> None:
    options = (*QUICK, "--epochs", "9999", "--max-time", "2s", "--report")
    error = result(*options, "--out", "r", code=124)["error"]
    assert "--max-time has passed after" in error
    assert "no report: --max-time leaves no time for it. To write it: parallel-lenet report r\n" in error
    steps = str(archive.load("r/checkpoint.npz")[1]["step"] + 5)
    resumed = result("--resume", "r", "--engine", "serial", "--max-steps", steps)
    assert resumed["max_time"] is None
    whole = result(*QUICK, "--epochs", "9999", "--max-steps", steps, "--out", "whole")
    assert resumed["parameters_sha256"] == whole["parameters_sha256"]


def test_after_max_time_the_report_is_written_if_there_is_time(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_training, "CLOSING", -60)
    error = result(*QUICK, "--max-time", "0.5", "--epochs", "9999", "--report", "--out", "r", code=124)["error"]
    assert "no report" not in error
    assert Path("r/report.html").exists()


def swallow_and_raise() -> None:
    with suppress(OutOfTime):
        time.sleep(60)
    int("another error")


@posix
def test_a_time_limit_ends_the_block_even_if_it_catches_the_exception() -> None:
    with Interrupts() as interrupts:
        with interrupts.time_limit(None), interrupts.time_limit(time.monotonic() + 60):
            pass
        with pytest.raises(OutOfTime), interrupts.time_limit(time.monotonic() + 0.01):
            swallow_and_raise()
        with pytest.raises(OutOfTime), interrupts.time_limit(time.monotonic()):
            pytest.fail("no time is left")
        with pytest.raises(ValueError, match="itself"), interrupts.time_limit(time.monotonic() + 60):
            raise ValueError("an error in time is raised as itself")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_max_time_in_a_thread_needs_no_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    arguments = ["train", *QUICK, "--epochs", "9999", "--max-time", "0.4", "--out", "r"]
    thread = threading.Thread(target=lambda: codes.append(main(arguments)))
    thread.start()
    thread.join()
    assert codes == [124], capsys.readouterr().err


def state() -> tuple[Any, ...]:
    timer = signal.getitimer(signal.ITIMER_REAL) if hasattr(signal, "getitimer") else None
    return [signal.getsignal(n) for n in signal.valid_signals()], list(warnings.filters), warnings.showwarning, timer


def test_main_leaves_the_process_as_it_was_and_may_be_called_again_and_in_threads(result: Any) -> None:
    before = state()
    result(*QUICK, "--epochs", "1", "--out", "r")
    assert result("--resume", "r", "--epochs", "2", "--engine", "serial")["finished_epochs"] == 2
    codes: list[int] = []
    arguments = ["train", "--resume", "r", "--epochs", "3", "--engine", "serial", "--quiet"]
    thread = threading.Thread(target=lambda: codes.append(main(arguments)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert main(["train", "--resume", "r", "--seed", "1"]) == 2
    assert main(["--version"]) == 0
    RunFolder(Path("r")).close()  # The lock is free.
    assert state() == before


def test_one_command_line_begins_continues_and_reports_a_run(
    result: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = (*QUICK, "--epochs", "2", "--out", "job", "--continue")
    whole = result(*QUICK, "--epochs", "2", "--out", "whole")
    (Path("job") / "lost+found").mkdir(parents=True)
    (Path("job") / ".DS_Store").touch()
    (Path("job") / "config.toml").touch()  # As of a job that was killed before its first checkpoint.
    if os.name == "posix":
        with monkeypatch.context() as patch:
            at_step(8, lambda: signal.raise_signal(signal.SIGTERM), patch)
            result(*line, code=143)
    for _ in range(2):  # The rest, and once more when there is nothing left to do.
        done = result(*line)
        assert (done["parameters_sha256"], done["steps"]) == (whole["parameters_sha256"], 12)
    last = Path("job/checkpoint.npz")
    last.write_bytes(last.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["train", *line]) == 0  # From the checkpoint before.
    assert "checkpoint.npz: is damaged" in (errors := capsys.readouterr().err)
    assert "; continuing from job/checkpoint.previous.npz\n" in errors
    assert "--resume" not in errors
    assert result(*line)["parameters_sha256"] == whole["parameters_sha256"]
    assert "--continue needs --out FOLDER" in result("--continue", code=2)["error"]
    assert (
        "job exists already: name a new or empty folder, or continue with --resume job"
        in (result(*QUICK, "--out", "job", code=2)["error"])
    )
    Path("mine").mkdir()
    (Path("mine") / "thesis.tex").touch()
    assert "mine exists already" in result(*QUICK, "--out", "mine", "--continue", code=2)["error"]


PAGE = (Path(__file__).parents[1] / "docs" / "batch-systems.md").read_text(encoding="utf-8")


def test_the_line_for_batch_systems_runs_twice(result: Any) -> None:
    (line,) = re.findall(r"^parallel-lenet train (.*)$", PAGE.partition("```bash")[0], re.MULTILINE)
    for _ in range(2):
        words = line.replace("FOLDER", "job").split()
        assert result(*words, *QUICK, "--epochs", "1")["finished_epochs"] == 1


@posix
@pytest.mark.parametrize(("code", "again"), [(0, ""), (124, "requeue 7"), (138, "requeue 7"), (1, ""), (2, "")])
def test_the_job_for_slurm_asks_for_another_turn_when_it_was_stopped(code: int, again: str, place: Path) -> None:
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for name, body in (("scontrol", 'echo "$@"'), ("parallel-lenet", f"exit {code}")):
        (place / name).write_text(f"#!/bin/sh\n{body}\n")
        (place / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(place)}
    job = subprocess.run(["bash"], input=script, env=env, capture_output=True, text=True, timeout=100)
    assert (job.returncode, job.stdout.strip()) == (code, again)


def test_more_steps_on_resuming_give_the_bits_of_a_run_that_had_them_from_the_start(result: Any) -> None:
    options = (*QUICK, "--epochs", "3", "--schedule", "cosine", "--warmup", "4")
    whole = result(*options, "--max-steps", "16", "--out", "whole")
    assert result(*options, "--max-steps", "8", "--out", "r")["steps"] == 8
    assert (
        "--max-steps must be at least 8"
        in (result("--resume", "r", "--max-steps", "7", "--engine", "serial", code=2)["error"])
    )
    more = result("--resume", "r", "--max-steps", "16", "--engine", "serial")
    for name in ("parameters_sha256", "steps", "test_loss", "train_loss"):
        assert more[name] == whole[name]
    assert [json.loads(line)["step"] for line in Path("r/metrics.jsonl").read_text().splitlines()] == [6, 12, 16]


def test_more_epochs_do_so_with_a_constant_learning_rate_only_which_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for schedule in ("constant", "cosine"):
        options = ["train", *QUICK, "--schedule", schedule, "--warmup", "2", "--out"]
        main([*options, f"{schedule}-whole", "--epochs", "3"])
        main([*options, schedule, "--epochs", "2"])
        capsys.readouterr()
        main(["train", "--resume", schedule, "--epochs", "3", "--engine", "serial"])
        said = "result is not that of such a run" in capsys.readouterr().err
        bits = {np.load(f"{run}/checkpoint.npz")["parameters"].tobytes() for run in (schedule, f"{schedule}-whole")}
        assert (len(bits) > 1) == said == (schedule == "cosine")


def test_metrics_can_be_followed_and_are_repaired_on_resuming(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    file = tmp_path / "metrics.jsonl"
    folder.append_metrics({"epoch": 1, "loss": float("nan")})
    with file.open() as followed:
        assert followed.readline() == '{"epoch": 1, "loss": null}\n'
        folder.append_metrics({"epoch": 2, "loss": float("-inf")})
        assert followed.readline() == '{"epoch": 2, "loss": null}\n'
    lines = [{"epoch": 1, "loss": None}, {"epoch": 2, "loss": None}]
    before = file.stat()
    folder.write_metrics(lines)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    file.write_bytes(file.read_bytes()[:-3])
    folder.write_metrics(lines)
    assert [json.loads(line) for line in file.read_text().splitlines()] == lines
    folder.close()


@posix
def test_a_line_that_does_not_fit_the_disk_is_taken_back(tmp_path: Path) -> None:
    import resource

    folder = RunFolder(tmp_path)
    file = tmp_path / "metrics.jsonl"
    folder.append_metrics({"epoch": 1})
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 3, limits[1]))
    try:
        with pytest.raises(OSError, match=r"metrics\.jsonl"):
            folder.append_metrics({"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    folder.close()


def test_the_best_epoch_is_that_of_the_lowest_validation_loss_and_resuming_keeps_it(
    result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*QUICK, "--epochs", "4", "--learning-rate", "0.03", "--warmup", "0", "--validation", "0.25")
    whole = result(*options, "--out", "whole")
    lines = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines]
    best = losses.index(min(losses))
    assert whole["best"]["epoch"] == best + 1
    assert whole["best"]["test_loss"] == lines[best]["test_loss"]
    assert (whole["train_images"], whole["validation_images"], whole["test_images"]) == (45, 15, 30)
    assert tomllib.loads(Path("whole/config.toml").read_text())["validation"] == 0.25
    assert archive.load("whole/best.npz")[1]["epoch"] == best + 1
    if os.name == "posix":
        with monkeypatch.context() as patch:
            at_step(8, lambda: signal.raise_signal(signal.SIGTERM), patch)
            result(*options, "--out", "r", code=143)
        again = result("--resume", "r", "--engine", "serial")
        assert (again["parameters_sha256"], again["best"]) == (whole["parameters_sha256"], whole["best"])
        assert Path("r/best.npz").exists()
    assert "--validation 0.5 disagrees" in result("--resume", "whole", "--validation", "0.5", code=2)["error"]


def test_without_validation_nothing_is_chosen_and_the_last_checkpoint_is_the_result(result: Any) -> None:
    done = result(*QUICK, "--epochs", "2", "--out", "r")
    assert done["best"] is None
    assert "validation_loss" not in done
    assert {file.name for file in Path("r").iterdir()} == FILES
    assert "validation" not in Path("r/metrics.jsonl").read_text()


def test_a_run_interrupted_while_it_evaluates_measures_that_epoch_on_resuming(
    result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result(*QUICK, "--epochs", "2", "--out", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_evaluate", lambda *_: signal.raise_signal(signal.SIGINT) or (_[0].interrupts.check()))
        result(*QUICK, "--epochs", "2", "--out", "r", code=130)
    assert archive.load("r/checkpoint.npz")[1]["epoch"] == 1
    assert result("--resume", "r", "--engine", "serial")["test_loss"] == whole["test_loss"]
    names = ("epoch", "step", "train_loss", "test_loss", "test_images")
    both = [
        [[json.loads(line)[name] for name in names] for line in Path(f"{run}/metrics.jsonl").read_text().splitlines()]
        for run in ("r", "whole")
    ]
    assert both[0] == both[1]


def test_evaluation_may_be_on_fewer_images_or_none_and_figures_say_how_many(
    result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    few = result(*QUICK, "--max-steps", "2", "--evaluate-on", "7", "--out", "few")
    assert (few["test_images"], few["evaluate_on"]) == (7, 7)
    none = result("--resume", "few", "--max-steps", "3", "--evaluate-on", "0", "--engine", "serial")
    assert (none["test_loss"], none["test_accuracy"], none["test_images"]) == (None, None, 0)
    assert main(["train", *QUICK, "--max-steps", "1", "--evaluate-on", "0"]) == 0
    assert "not evaluated" in capsys.readouterr().out
    assert main(["train", *QUICK, "--max-steps", "1", "--evaluate-on", "7"]) == 0
    assert "% of 7 images" in capsys.readouterr().out
    assert main(["train", *QUICK, "--max-steps", "1", "--evaluate-on", "31"]) == 0
    out, err = capsys.readouterr()
    assert "note: --evaluate-on 31: all 30 test images are used" in err
    assert "1 step " in out


def test_json_tells_every_option_as_it_was_in_force(result: Any) -> None:
    done = result(*QUICK, "--max-steps", "1", "--optimizer", "nesterov", "--warmup", "2", "--clip-norm", "3")
    assert set(done) >= {option.replace("-", "_") for option in tomllib.loads(_preparation.TrainOptions().toml())}
    expected = {"optimizer": "nesterov", "learning_rate": 0.02, "schedule": "cosine", "warmup": 2, "weight_decay": 0.0}
    assert expected.items() <= done.items()


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    main(["train", *QUICK, "--max-steps", "1", "--out", "r"])
    arrays, metadata = archive.load("r/checkpoint.npz")
    archive.save("nan.npz", {**arrays, "parameters": np.full_like(arrays["parameters"], np.nan)}, metadata)
    capsys.readouterr()
    if main(["evaluate", "nan.npz", "--json", "--engine", "serial"]) == 0:
        assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["test_loss"] is None


def test_folders_named_by_a_relative_path_are_found_from_anywhere(
    result: Any, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result(*QUICK, "--epochs", "1", "--out", "r")
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert result("--resume", "../r", "--epochs", "2", "--engine", "serial")["finished_epochs"] == 2
    assert result("--config", "../r/config.toml", "--out", "again")["epochs"] == 2
    assert main(["evaluate", "../r/checkpoint.npz", "--engine", "serial", "--workers", "4"]) == 0
    errors = capsys.readouterr().err
    assert f"reading {place / 'data'}, which the checkpoint names" in errors
    assert "note: --workers 4 has no effect: --engine serial computes in this process" in errors
    (place / "data").rename(place / "moved")
    for command in (["train", "--resume", "../r"], ["evaluate", "../r/checkpoint.npz"]):
        assert main([*command, "--engine", "serial"]) == 1
        assert "does not exist: name the folder that has them now with --data-dir" in capsys.readouterr().err
    assert main(["train", "--resume", "../r", "--engine", "serial", "--data-dir", "../moved"]) == 0
    assert main(["train", "--config", "../r/config.toml", "--data-dir", "../gone"]) == 2
    assert "gone does not exist" in capsys.readouterr().err


def test_images_that_a_checkpoint_does_not_name_are_said_to_be_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    for size, code in ((28, 0), (12, 1)):
        with Coordinator(lenet5(image_size=(size, size), kernel="im2col"), SGD(), engine="serial") as coordinator:
            coordinator.save("own.npz")
        assert main(["evaluate", "own.npz", "--engine", "serial"]) == code
        errors = capsys.readouterr().err
        assert "the checkpoint names no images, so --dataset mnist-5k was assumed" in errors
        assert errors.count("\n") == 1


def test_a_word_of_the_command_line_goes_before_one_of_the_file_on_where_images_come_from() -> None:
    files = {"data_dir": "/old", "epochs": 3}
    assert _config.merge(files, {"dataset": "mnist"}) == {"dataset": "mnist", "epochs": 3}
    assert _config.merge({"dataset": "mnist"}, {"data_dir": "/new"}) == {"data_dir": "/new"}
    assert _config.merge(files, {"epochs": 4}) == {"data_dir": "/old", "epochs": 4}


@pytest.mark.parametrize("data_dir", ["//evil/share", "\\\\evil\\share", "data", 5, "/a\0b"])
def test_a_checkpoint_sends_nobody_to_other_machines(
    data_dir: Any, result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    result(*QUICK, "--max-steps", "1", "--out", "r")
    rewrite("r", lambda user: user | {"data_dir": data_dir, "options": user["options"] | {"data_dir": data_dir}})
    assert main(["evaluate", "r/checkpoint.npz"]) == 1
    assert main(["train", "--resume", "r"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line[:14] for line in errors] == ["parallel-lenet"] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda user: {"options": [1]}, "options are [1]"),
        (lambda user: {"options": user["options"] | {"magic": 1}}, "unknown option 'magic'"),
        (lambda user: {"data": 3}, "data is 3"),
        (lambda user: {"figures": 7}, "figures are 7"),
        (lambda user: {"figures": [7]}, "figures are 7"),
    ],
)
def test_a_wrong_part_of_a_checkpoint_is_named(change: Any, words: str, result: Any) -> None:
    result(*QUICK, "--max-steps", "1", "--evaluate-on", "0", "--out", "r")
    rewrite("r", lambda user: user | change(user))
    error = result("--resume", "r", code=1)["error"]
    assert f"checkpoint.npz: was not left by a training run of this program: {words}\n" in error


def test_a_checkpoint_does_not_decide_where_code_runs(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result(*QUICK, "--max-steps", "1", "--out", "r")
    evil = {"engine": "dask", "cluster_address": "tcp://evil:8786", "workers": 1024, "out": "/etc", "max_time": 1e-9}
    rewrite("r", lambda user: user | {"options": user["options"] | evil})
    asked: list[Any] = []
    serial = {"engine": "serial"}, "here"
    monkeypatch.setattr(_preparation._engines, "arguments", lambda *arguments: asked.append(arguments) or serial)
    done = result("--resume", "r", "--max-steps", "2")
    assert done["run_dir"] == "r"
    ((engine, address, workers, *_),) = asked
    assert (engine, address) == ("processes", None)
    assert workers.count < 1024
    assert not {"engine", "cluster-address"} & set(tomllib.loads(Path("r/config.toml").read_text()))


def rewrite(folder: str, change: Any) -> None:
    """Change what the command wrote into a checkpoint, and give it the right checksum again."""
    file = Path(folder, "checkpoint.npz")
    arrays, metadata = archive.load(file)
    archive.save(file, arrays, metadata | {"user": change(metadata["user"])})


def mutations(user: dict[str, Any]) -> Any:
    """The user part with each of its values, at any depth, replaced or left out."""
    odd = (None, [], {}, "", "x", -1, 0, 10**20, 10**400, 1.5, True, [1], {"a": 1}, math.nan, math.inf, "\0", 1e308)

    def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, each in items:
            yield from places(each, (*path, key))

    for path in places(user):
        for number, value in enumerate((*odd, "gone")):
            copy = json.loads(json.dumps(user))
            if not path:
                yield value if isinstance(value, dict) else {"user": value}
                continue
            inner = copy
            for key in path[:-1]:
                inner = inner[key]
            if number == len(odd):
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            yield copy


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_checkpoints_get_a_run_or_one_sentence(
    result: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result(*QUICK, "--max-steps", "8", "--validation", "0.2", "--out", "r")
    arrays, metadata = archive.load("r/checkpoint.npz")
    given: dict[str, Any] = {}
    monkeypatch.setattr(archive, "load", lambda _: (dict(arrays), json.loads(json.dumps(metadata)) | given))
    monkeypatch.setattr(RunFolder, "save", lambda *_: None)
    monkeypatch.setattr(RunFolder, "write_config", lambda *_: None)
    every = 1 if os.environ.get("FUZZ") else 17
    codes: dict[int, int] = {}
    for user in list(mutations(metadata["user"]))[::every]:
        given["user"] = user
        capsys.readouterr()
        for arguments in (
            ["train", "--resume", "r", "--engine", "serial", "--quiet", "--json"],
            ["evaluate", "r/checkpoint.npz", "--engine", "serial", "--json"],
        ):
            try:
                code = main(arguments)
            except BaseException as error:
                raise AssertionError(f"{arguments} {user}") from error
            assert code in (0, 1, 2), user
            codes[code] = codes.get(code, 0) + 1
        assert len(capsys.readouterr().err) < 3000, user
    assert codes[0] > 3
    assert codes[1] > 30


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_pixels_that_cannot_be_normalised_are_named(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset(np.full((20, 12, 12), 1e300) * np.linspace(0, 1, 20)[:, None, None], np.arange(20) % 4, "far")
    monkeypatch.setattr(_preparation, "load", lambda *_: _preparation.Images(data, data))
    assert "parallel-lenet: far: " in result(*QUICK, "--out", "r", code=1)["error"]


def test_too_little_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def allocate(*_: object) -> None:
        np.zeros(1 << 50, np.uint8)

    for command, name in ((train, "train"), (evaluate, "evaluate")):
        monkeypatch.setattr(command, "run", allocate)
        assert main([name, *(["x.npz"] if name == "evaluate" else [])]) == 1
        assert capsys.readouterr().err.startswith("parallel-lenet: not enough memory: Unable to allocate")


@posix
def test_training_needs_none_of_the_standard_streams(place: Path) -> None:
    quick = f"{sys.executable} -m parallel_lenet train {' '.join(QUICK)} --max-steps 1 --out"
    closed = ("a --json <&- 2>&- >json", "b >&- 2>&- <&-", "c >&- 2>notes")
    script = "".join(f"{quick} {each}; echo $?\n" for each in closed)
    shell = subprocess.run(["sh", "-c", script], env=environment(), capture_output=True, text=True, timeout=100)
    assert shell.stdout == "0\n0\n0\n"
    assert Path("json").read_text().count("\n") == 1
    assert json.loads(Path("json").read_text())["steps"] == 1
    assert "Traceback" not in Path("notes").read_text()
    assert len({np.load(f"{run}/checkpoint.npz")["parameters"].tobytes() for run in "abc"}) == 1


def test_streams_may_be_missing_closed_or_narrow(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["train", *QUICK, "--max-steps", "1"]) == 0
    assert main(["train", "--seed", "-1"]) == 2
    shutil.copytree("data", "d\u00fc[red]")
    with open("narrow", "w", encoding="ascii") as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        assert main(["train", *QUICK, "--data-dir", "d\u00fc[red]", "--max-steps", "1", "--out", "o\u00fc[red]"]) == 0
    assert "o\\xfc[red]" in Path("narrow").read_text(encoding="ascii")
    assert main(["train", *QUICK, "--max-steps", "1"]) == 0  # Closed by now.


def test_what_a_checkpoint_of_the_library_holds_is_no_run(result: Any) -> None:
    Path("api").mkdir()
    Coordinator(lenet5(kernel="im2col"), SGD(), engine="serial").save("api/checkpoint.npz")
    assert "was not left by a training run" in result("--resume", "api", code=1)["error"]


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("adam", Adam(0.01)),
        ("adamw", AdamW(0.01, weight_decay=0.2)),
        ("nesterov", SGD(0.01, momentum=0.9, nesterov=True)),
    ],
)
def test_a_program_gets_the_commands_bits_and_continues_its_run(result: Any, name: str, optimizer: Any) -> None:
    """How the command has Adam computed is not a setting of a checkpoint."""
    options = ("--optimizer", name, "--learning-rate", "0.01", "--schedule", "constant", "--warmup", "0")
    done = result(*QUICK, *options, "--max-steps", "4", "--out", "r")
    trained = load_model("r/checkpoint.npz", kernel="im2col")
    data, _ = load_dataset(data_dir="data")
    with Coordinator(trained.model, optimizer, engine="serial", batch_size=10) as coordinator:
        reports = coordinator.iterate(data)
        for _ in range(4):
            next(reports)
        assert coordinator.parameters_sha256() == done["parameters_sha256"]
    with Coordinator(trained.model, optimizer, engine="serial", batch_size=10) as coordinator:
        coordinator.load("r/checkpoint.npz")
        coordinator.fit(data)
        assert coordinator.step == 6
