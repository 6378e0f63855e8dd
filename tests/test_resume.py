"""A run that was stopped in any way continues to the same bits. Files that don't belong to it are refused."""

import json
import math
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kits.processes import wait_until
from kits.programs import FILES, PYTHON, numbers, run, run_here, start, train, train_here, write_idx

from parallel_lenet import SGD, Coordinator, archive, lenet5
from parallel_lenet.cli import _resume, main

pytestmark = pytest.mark.slow

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills, and looks into /proc")
OPTIONS = ("--data-dir", "data", "--kernel", "im2col", "--batch-size", "10", "--epochs", "3", "--checkpoint-every", "3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an undisturbed run, and its results."""
    folder = tmp_path_factory.mktemp("resume")
    write_idx(folder / "data", 205, 64)
    result = train_here(folder, *OPTIONS, "--engine", "serial", "--out", "whole")
    (folder / "result.json").write_text(json.dumps(result))
    # The same run, stopped in its second epoch, as a kill would leave it: after step 33 of 21 an epoch.
    stop = (
        "import sys\nfrom parallel_lenet.cli import main, _training\nsave = _training.Training.save\n"
        "def stop(self):\n    save(self)\n    if self.coordinator.step == 33: raise SystemExit(9)\n"
        "_training.Training.save = stop\nmain(sys.argv[1:])"
    )
    arguments = ["train", *OPTIONS, "--engine", "serial", "--out", "half"]
    run(folder, "-c", stop, *arguments, command=PYTHON, code=9)
    return folder


@pytest.fixture
def half(place: Path, tmp_path: Path) -> Path:
    """The stopped run once more, with its data beside it."""
    shutil.copytree(place / "half", tmp_path / "half")
    (tmp_path / "data").symlink_to(place / "data")
    return tmp_path


def whole(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / "result.json").read_text()))


def same(result: dict[str, Any], reference: dict[str, Any]) -> bool:
    names = ("parameters_sha256", "test_loss", "train_loss", "steps", "epochs")
    return all(result[name] == reference[name] for name in names)


def test_another_shard_size_may_continue_a_run_if_it_decides_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("numba")
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 40, 10, shape=(28, 28), classes=10)
    settings = ("--data-dir", "data", "--batch-size", "16", "--epochs", "1", "--engine", "serial")

    def trained(*arguments: str) -> str:
        assert main(["train", *arguments, "--json", "--quiet"]) == 0
        return str(json.loads(capsys.readouterr().out)["parameters_sha256"])

    straight = trained(*settings, "--kernel", "compiled", "--out", "straight")
    trained(*settings, "--kernel", "compiled", "--shard-size", "4", "--max-steps", "2", "--out", "stopped")
    assert trained("--resume", "stopped", "--shard-size", "2", "--max-steps", "9") == straight
    trained(*settings, "--kernel", "im2col", "--shard-size", "4", "--max-steps", "2", "--out", "other")
    assert main(["train", "--resume", "other", "--shard-size", "2"]) == 2
    assert "--shard-size 2 disagrees with the run in other, which has 4" in capsys.readouterr().err


@pytest.mark.parametrize("how", [("--engine", "serial"), ("--engine", "processes", "--workers", "3")], ids=" ".join)
def test_it_continues_within_an_epoch_with_other_workers(place: Path, half: Path, how: tuple[str, ...]) -> None:
    assert archive.load(half / "half" / "checkpoint.npz")[1]["cursor"] == 120
    result = train(half, "--resume", "half", *how)  # A new program, as after a crash.
    assert same(result, whole(place))
    assert numbers(half / "half") == numbers(place / "whole")
    assert {file.name for file in (half / "half").iterdir()} == FILES


def test_it_continues_from_the_checkpoint_before_and_a_third_run_from_there(place: Path, half: Path) -> None:
    last = half / "half" / "checkpoint.npz"
    previous = half / "half" / "checkpoint.previous.npz"
    last.write_bytes(last.read_bytes()[:-1])
    result = run_here(half, "train", "--resume", "half", "--engine", "serial", code=1)
    assert "checkpoint.npz: is damaged" in result.stderr
    assert ". To continue from another one: --resume half/checkpoint.previous.npz" in result.stderr
    kept = archive.load(previous)[1]["step"]
    assert kept == 30
    assert same(train_here(half, "--resume", "half/checkpoint.previous.npz", "--engine", "serial"), whole(place))
    assert numbers(half / "half") == numbers(place / "whole")


def test_what_a_kill_left_half_written_goes_away(half: Path, place: Path) -> None:
    (half / "half" / ".checkpoint.npz.0123456789abcdef").write_bytes(b"PK")
    (half / "half" / ".my.own").write_bytes(b"")
    with (half / "half" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')  # As a program would that appends.
    assert same(train_here(half, "--resume", "half", "--engine", "serial"), whole(place))
    assert {file.name for file in (half / "half").iterdir()} == FILES | {".my.own"}
    assert numbers(half / "half") == numbers(place / "whole")


def test_a_finished_run_says_so_and_gives_its_results_again(place: Path) -> None:
    before = (place / "whole" / "metrics.jsonl").read_bytes()
    result = run_here(place, "train", "--resume", "whole", "--json")
    assert "whole is finished: nothing is left to train (to train longer, give a larger --epochs)\n" in result.stderr
    assert same(json.loads(result.stdout), whole(place))
    assert (place / "whole" / "metrics.jsonl").read_bytes() == before


def test_so_does_one_that_max_steps_cut_short(place: Path) -> None:
    first = train_here(place, *OPTIONS, "--engine", "serial", "--max-steps", "25", "--out", "cut")
    before = numbers(place / "cut")
    result = run_here(place, "train", "--resume", "cut", "--json")
    assert "cut is finished: nothing is left to train (to train longer, give a larger --max-steps)" in result.stderr
    assert same(json.loads(result.stdout), first)
    assert numbers(place / "cut") == before
    assert [row[:2] for row in before] == [[1, 21], [2, 25]]


def test_more_epochs_within_the_warm_up_need_no_word(half: Path) -> None:
    result = run_here(half, "train", "--resume", "half", "--epochs", "4", "--engine", "serial", "--json")
    assert "schedule" not in result.stderr
    assert json.loads(result.stdout)["steps"] == 84
    assert [row[0] for row in numbers(half / "half")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["half", "--seed", "1"], 2, "--seed 1 disagrees with the run in half, which has 0"),
        (["half", "--batch-size", "11"], 2, "--batch-size 11 disagrees with the run in half, which has 10"),
        (["half", "--kernel", "naive"], 2, "--kernel naive disagrees with the run in half, which has im2col"),
        (["half", "--clip-norm", "1"], 2, "--clip-norm 1.0 disagrees with the run in half, which has none"),
        (["half", "--config", "c.toml"], 2, "--warmup 3 disagrees with the run in half, which has 100"),
        (["half", "--max-steps", "9"], 2, "--max-steps"),
        (["half", "--on-nan", "skip"], 2, "--on-nan"),
        (["half", "--out", "other"], 2, "--out other disagrees with --resume, which continues in half"),
        (["half", "--epochs", "0"], 2, "--epochs must be a whole number of at least 1, got 0"),
        (["whole", "--epochs", "2"], 2, "--epochs must be at least 3, which the run in whole has reached, got 2"),
        (["half", "--data-dir", "others"], 1, "205 training and 64 test images with the SHA-256"),
        (["half", "--chaos", "kill:every=0"], 2, "--chaos kill:every=0: kill:every must be at least 1, got 0"),
        (["half", "--chaos", "burn"], 2, "'burn' is not one of kill:every=N, stop:every=N and seed=N"),
        (["missing"], 2, "--resume missing does not exist: name a run's folder"),
        (
            ["half", "--dataset", "mnist-5k"],
            2,
            "disagrees with the run in half, which has --data-dir",
        ),
        (["data"], 2, "--resume data: name a run's folder"),
        (["half/best.npz"], 2, "No such file or directory. To continue from another one: --resume half/checkpoint.npz"),
        (["half/config.toml"], 2, "--resume half/config.toml: name a run's folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_disagrees_is_named_and_changes_nothing(
    place: Path,
    arguments: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "c.toml").write_text("warmup = 3\n")
    if not (place / "others").exists():
        write_idx(place / "others", 205, 64, seed=1)
    before = {file: file.read_bytes() for name in ("half", "whole") for file in (place / name).iterdir()}
    monkeypatch.chdir(place)
    handler = signal.getsignal(signal.SIGTERM)
    assert main(["train", "--resume", *arguments]) == code
    signal.signal(signal.SIGTERM, handler)
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert words in errors
    assert {file: file.read_bytes() for name in ("half", "whole") for file in (place / name).iterdir()} == before


def test_options_that_agree_may_be_given_again(half: Path, place: Path) -> None:
    again = (*OPTIONS, "--out", "half", "--kernel", "auto", "--learning-rate", "0.004", "--engine", "serial")
    assert same(train_here(half, "--resume", "half", *again), whole(place))


def test_a_checkpoint_of_the_library_is_no_run(place: Path) -> None:
    (place / "api").mkdir()
    Coordinator(lenet5(kernel="naive"), SGD(), engine="serial").save(place / "api" / "checkpoint.npz")
    result = run_here(place, "train", "--resume", "api", code=1)
    assert "was not left by a training run" in result.stderr


@linux
def test_two_programs_do_not_write_one_run(half: Path) -> None:
    process = start(half, "train", "--resume", "half", "--epochs", "100000", "--engine", "serial")
    try:
        assert process.stdout is not None
        process.stdout.readline()
        result = run_here(half, "train", "--resume", "half", code=2)
        assert "half is being written by another training run" in result.stderr
    finally:
        process.kill()
        process.communicate()


@linux
def test_ten_kills_at_random_moments_lose_no_bit(place: Path) -> None:
    rng = random.Random(7)
    arguments = [*OPTIONS, "--out", "killed"]
    folder = place / "killed"
    kills = 0
    while kills < 10:
        how = ["--engine", "serial"] if kills % 3 else ["--workers", str(rng.randint(1, 3))]
        process = start(place, "train", *arguments, *how)
        # From the first checkpoint on, and mostly while it trains: that takes it about half a second.
        began = wait_until(lambda p=process: folder.exists() or p.poll() is not None, 30)  # type: ignore[misc]
        assert began
        time.sleep(rng.uniform(0, 0.3))
        finished = process.poll() is not None
        process.kill()
        _, errors = process.communicate()
        assert "Traceback" not in errors
        for file in folder.glob("*.npz"):
            archive.load(file)
        if finished:
            break
        kills += 1
        if (folder / "checkpoint.npz").exists():
            arguments = ["--resume", "killed"]
        else:
            shutil.rmtree(folder)
    assert same(train_here(place, *arguments, "--engine", "serial"), whole(place))
    assert numbers(folder) == numbers(place / "whole")
    assert {file.name for file in folder.iterdir()} == FILES


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"test_images": None},
        {"test_images": -1},
        {"test_loss": 10**400},
        {"test_accuracy": True},
        {"best": 1.0},
        "x",
    ],
    ids=str,
)
def test_figures_of_a_foreign_file_are_checked(wrong: Any) -> None:
    figures = {"test_loss": "nan", "test_accuracy": 0.5, "test_images": 6}
    assert math.isnan(_resume._figures(figures)["test_loss"])
    with pytest.raises((TypeError, ValueError, OverflowError)):
        _resume._figures({**figures, **wrong} if wrong and isinstance(wrong, dict) else wrong)


@pytest.mark.slow
def test_a_run_within_an_epoch_is_not_continued_to_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 40, 10)
    quick = ("--engine", "serial", "--no-report")
    new = ("--data-dir", "data", "--kernel", "im2col", "--batch-size", "10", "--epochs", "3", "--out", "part")
    assert main(["train", *new, *quick, "--max-steps", "5"]) == 0  # One step of the second epoch.
    files = {file: file.read_bytes() for file in Path("part").iterdir()}
    capsys.readouterr()
    assert main(["train", "--resume", "part", *quick, "--max-steps", "9", "--epochs", "1"]) == 2
    assert "--epochs must be at least 2, which the run in part has reached, got 1" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in Path("part").iterdir()} == files
    assert main(["train", "--resume", "part", *quick, "--max-steps", "9", "--epochs", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["finished_epochs"], found["steps"]) == (2, 8)
