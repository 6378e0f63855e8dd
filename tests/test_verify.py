"""The commands that prove the promise: ``verify``, ``train --chaos``, and the soak."""

import json
import sys
from pathlib import Path

import pytest
from kits.programs import PYTHON, run, run_here, write_idx

from parallel_lenet.cli import main, verify
from parallel_lenet.cli._chaos import Chaos
from parallel_lenet.cli._options import UsageError

pytestmark = pytest.mark.slow

SOAK = Path(__file__).parents[1] / "scripts" / "soak.py"


def test_every_way_gives_the_same_hash(tmp_path: Path, leaves_nothing: None) -> None:
    result = json.loads(
        run(tmp_path, "verify", "--kernel", "im2col", "--workers", "2", "--steps", "3", "--json").stdout
    )
    assert result["passed"]
    assert len(result["runs"]) == 8
    assert len({entry["sha256"] for entry in result["runs"]}) == 1
    assert any("killed" in entry["what"] for entry in result["runs"])


def test_a_way_that_differs_is_shown_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        verify.Proof, "ways", lambda self: {"one": lambda: "a" * 64, "two": lambda: "b" * 64, "three": lambda: "a" * 64}
    )
    assert main(["verify", "--kernel", "im2col"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("DIFFERENT") == 1
    assert "2 of 3 ways" in shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "1"], "--steps must be a whole number of at least 2, got 1"),
        (["--workers", "0"], "--workers"),
        (["--seed", "1"], "seed"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert words in errors


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_chaos_kills_and_stops_workers_and_changes_no_bit(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 205, 64)
    options = ("--data-dir", "data", "--kernel", "im2col", "--batch-size", "10", "--shard-size", "5", "--epochs", "2")
    plan = "kill:every=15, stop:every=20,seed=3"
    quiet = run_here(tmp_path, "train", *options, "--engine", "serial", "--out", "quiet", "--json", "--quiet")
    assert quiet.stderr == ""
    result = run(tmp_path, "train", *options, "--workers", "2", "--chaos", plan, "--out", "wild", "--json")
    assert json.loads(result.stdout)["parameters_sha256"] == json.loads(quiet.stdout)["parameters_sha256"]
    assert "was killed by SIGKILL" in result.stderr
    assert "the result is not affected" in result.stderr


@pytest.mark.parametrize(
    "plan", ["", "kill", "kill:every=", "kill:every=-1", "stop:every=1.5", "seed=x", "kill:every=2;"]
)
def test_a_plan_of_another_form_is_refused(plan: str) -> None:
    with pytest.raises(UsageError, match="--chaos"):
        Chaos(plan)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_the_soak_runs_and_sums_up(tmp_path: Path) -> None:
    result = run(
        *(tmp_path, str(SOAK), "--minutes", "0.001", "--epochs", "1", "--seed", "1408"),
        *("--kernel", "im2col", "--json"),
        command=PYTHON,
    )
    summary = json.loads(result.stdout)
    assert summary["runs"] >= 1
    assert summary["problems"] == []
    assert list(tmp_path.iterdir()) == []
