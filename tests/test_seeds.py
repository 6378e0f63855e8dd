"""The same training with several seeds: statistics, one page, and runs that continue."""

import json
import math
import statistics as standard
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kits.browser import sticking_out
from kits.programs import PYTHON, run, run_here, train_here, write_idx

from parallel_lenet import Coordinator, StepReport, WorkerWarning
from parallel_lenet.cli import main
from parallel_lenet.runs.statistics import statistics

OPTIONS = ("--data-dir", "data", "--kernel", "im2col", "--engine", "serial", "--batch-size", "20", "--epochs", "2")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_statistics_are_those_of_pythons_library(numbers: list[float]) -> None:
    found = statistics(numbers)
    assert math.isclose(found.mean, standard.fmean(numbers), abs_tol=1e-6)
    assert (found.least, found.largest) == (min(numbers), max(numbers))
    if len(numbers) > 1:
        assert math.isclose(found.deviation, standard.stdev(numbers), rel_tol=1e-6, abs_tol=1e-6)
    else:
        assert math.isnan(found.deviation)


@pytest.mark.slow
def test_each_seed_has_a_run_and_all_have_statistics_and_a_page(tmp_path: Path, open_page: Any) -> None:
    write_idx(tmp_path / "data", 60, 20)
    options = (*OPTIONS, "--seed", "5")
    single = train_here(tmp_path, *OPTIONS, "--seed", "6", "--out", "single")
    # Stopped by a signal within the second seed, then continued.
    stop = (
        "import os, signal, sys\nfrom parallel_lenet.cli import main, _training\n"
        "after = _training.Training._after_step\n"
        "def interrupt(self, report, progress):\n"
        "    after(self, report, progress)\n"
        "    if self.options.seed == 6 and report.step == 4: os.kill(os.getpid(), signal.SIGTERM)\n"
        "_training.Training._after_step = interrupt\nsys.exit(main(sys.argv[1:]))"
    )
    arguments = ["train", *options, "--seeds", "3", "--out", "all"]
    stopped = run(tmp_path, "-c", stop, *arguments, command=PYTHON, code=143)
    assert "1 of 3 seeds are finished; continue with: " in stopped.stderr
    assert stopped.stderr.rstrip().endswith("--seeds 3 --out all --continue")
    again = run(tmp_path, *arguments, "--continue", "--json", env={"PARALLEL_LENET_REPORT": "1"})
    result = json.loads(again.stdout)
    assert result["report_file"] == "all/seeds.html"
    assert not (tmp_path / "all" / "seed-5" / "report.html").exists()
    assert result["seeds"] == [5, 6, 7]
    accuracies = [each["test_accuracy"] for each in result["runs"]]
    found = result["statistics"]["test_accuracy"]
    assert math.isclose(found["mean"], standard.fmean(accuracies))
    assert math.isclose(found["deviation"], standard.stdev(accuracies), abs_tol=1e-12)
    assert (found["least"], found["largest"]) == (min(accuracies), max(accuracies))
    assert result["runs"][1]["parameters_sha256"] == single["parameters_sha256"]
    assert len({each["parameters_sha256"] for each in result["runs"]}) == 3
    seconds = [sum(each["epoch_seconds"]) for each in result["runs"]]
    assert math.isclose(result["statistics"]["seconds"]["mean"], standard.fmean(seconds), abs_tol=1e-3)
    for width, dark in ((1400, False), (380, True)):
        page = open_page(tmp_path / "all" / "seeds.html", width=width, dark=dark)
        assert sticking_out(page) == []
        text = page.inner_text("body")
        assert f"{found['mean']:.3%}" in text
        assert all(each["parameters_sha256"][:16] in text for each in result["runs"])
    assert (tmp_path / "all" / "seeds.html").stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "0"), "--seeds must be from 1 to 1,000, got 0"),
        (("--seeds", "2", "--resume", "x"), "--resume is for a single run: leave it out, or leave out --seeds"),
        (("--seeds", "2", "--max-time", "9"), "--max-time limits a single run: leave it out, or leave out --seeds"),
        (("--seeds", "2", "--continue"), "--continue needs --out FOLDER"),
        (("--seeds", "2", "--out", "full"), "--out full exists already"),
        (("--seeds", "2", "--epochs", "0"), "--epochs must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert message in run_here(tmp_path, "train", *options, code=2).stderr
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == '["full"]'


@pytest.mark.slow
def test_a_mistake_that_only_the_first_run_notices_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 20, 10)
    (tmp_path / "c.toml").write_text("max-time = 60.0\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "checkpoint.npz").write_bytes(b"a run's")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        (("--data-dir", "none", "--out", "new"), "none does not exist"),
        (("--data-dir", "none", "--out", "mine"), "none does not exist"),
        (("--class-weights", "77=2", "--out", "new"), "--class-weights names class 77, which does not occur"),
        (("--seed", str(2**64 - 1), "--out", "new"), f"--seed must be below 2**64, got {2**64} as the last of 2 seeds"),
        (("--config", "c.toml", "--out", "new"), "--max-time limits a single run: leave it out, or leave out --seeds"),
        (("--out", "one", "--continue"), "--out one holds a single run: name another folder"),
        (("--out", "full", "--continue"), "--out full exists already: name a new or empty folder"),
    ):
        data = () if "--data-dir" in arguments else ("--data-dir", "data")
        assert main(["train", "--seeds", "2", *data, *arguments]) == 2
        assert message in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_seed_that_fails_is_named_and_an_example_of_a_checkpoint_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 40, 10)
    train_them = ("train", *OPTIONS, "--optimizer", "sgd", "--learning-rate", "1e30", "--seed", "7", "--seeds", "2")
    assert main([*train_them, "--schedule", "constant", "--warmup", "0", "--out", "all"]) == 1
    error = capsys.readouterr().err
    assert "parallel-lenet: seed 7 failed; 0 of 2 seeds are finished, in all\n" in error
    assert error.count("holds NaN or infinity") == 1
    assert main(["evaluate", "all"]) == 2
    assert capsys.readouterr().err.endswith("name a checkpoint, such as all/seed-7/checkpoint.npz\n")


@pytest.mark.slow
def test_notes_that_differ_from_those_of_seeds_before_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 60, 10)
    step = Coordinator._step

    def warning(coordinator: Coordinator, *arguments: Any) -> StepReport:
        if coordinator.seed == 8 and coordinator.step == 0:
            warnings.warn("worker 0 was lost", WorkerWarning, stacklevel=2)
        return step(coordinator, *arguments)

    monkeypatch.setattr(Coordinator, "_step", warning)
    stopping = ("--early-stopping", "--patience", "1", "--learning-rate", "0.3", "--seed", "7", "--seeds", "2")
    for quiet in ((), ("--quiet",)):
        assert main(["train", *OPTIONS[:-1], "20", *stopping, *quiet]) == 0
        out, err = capsys.readouterr()
        notes = err.splitlines()
        if quiet:
            assert notes == []
            continue
        assert sum("held out for validation" in line for line in notes) == 1
        assert [line.partition(":")[0] for line in notes if "stopped early: " in line] == ["seed 7", "seed 8"]
        assert "seed 8: note: worker 0 was lost" in notes
        assert "epoch 1/" not in out
