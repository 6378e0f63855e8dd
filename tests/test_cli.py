"""The command line, run as people run it: as a program, from outside."""

import json
import os
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from kits.models import Softmax
from kits.programs import FILES, PYTHON, run, run_here, start, train_here, write_idx

from parallel_lenet import SGD, Coordinator, archive, lenet5
from parallel_lenet.cli import main
from parallel_lenet.display import Table

pytestmark = pytest.mark.slow

SCRIPT = [*PYTHON, str(Path(__file__).parents[1] / "scripts" / "train.py")]
SMALL = ("--data-dir", "data", "--kernel", "im2col")
QUICK = (*SMALL, "--engine", "serial", "--epochs", "1")


def train(*arguments: str, cwd: Path, **env: str) -> dict[str, object]:
    """The JSON object of a run that succeeds, which is all that stands on standard output."""
    result = run(cwd, *arguments, "--json", command=SCRIPT, env=env)
    assert result.stdout.count("\n") == 1
    return dict(json.loads(result.stdout))


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """The same from this process, which saves the start of a program."""
    assert called("train", *arguments, "--json") == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few images, that of SMALL."""
    folder = tmp_path_factory.mktemp("cli") / "data"
    write_idx(folder, 128, 20, shape=(28, 28))
    return folder


@pytest.fixture
def place(data: Path, tmp_path: Path) -> Path:
    """A folder to train in, with the data beside it."""
    (tmp_path / "data").symlink_to(data)
    return tmp_path


@pytest.fixture(scope="module")
def shown(data: Path) -> subprocess.CompletedProcess[str]:
    """A run, as people see it: of three workers, for which there are two shards a step."""
    arguments = (*SMALL, "--epochs", "2", "--workers", "3", "--shard-size", "64", "--out", "mine")
    return run(data.parent, "train", *arguments)


@pytest.fixture(scope="module")
def told(data: Path) -> dict[str, object]:
    """A run on the bundled digits, as programs see it."""
    arguments = ("--kernel", "im2col", "--epochs", "1", "--max-steps", "3", "--workers", "2", "--seed", "5")
    return train(*arguments, cwd=data.parent)


def test_training_leaves_a_run_folder_and_prints_its_results(
    data: Path, shown: subprocess.CompletedProcess[str]
) -> None:
    assert "test accuracy" in shown.stdout
    assert "epoch 2/2" in shown.stdout
    assert "; 2 of 3 workers; " in shown.stderr
    assert "kernel im2col" in shown.stderr
    folder = data.parent / "mine"
    assert {path.name for path in folder.iterdir()} == FILES
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert tomllib.loads((folder / "config.toml").read_text())["epochs"] == 2
    with np.load(folder / "checkpoint.npz", allow_pickle=False) as arrays:
        assert arrays["parameters"].shape == (lenet5(classes=4).layout.size,)


def test_fewer_shards_than_workers_is_said_with_the_option(shown: subprocess.CompletedProcess[str]) -> None:
    remedy = "a smaller --shard-size or a larger --batch-size makes more"
    assert f"note: 2 of 3 workers run: a batch of 128 makes 2 shards of 64; {remedy}\n" in shown.stderr
    assert shown.stderr.count("2 of 3 workers run") == 1


def test_json_names_everything_there_is_to_know(data: Path, told: dict[str, object]) -> None:
    wanted = {"dataset": "mnist-5k", "engine": "processes", "workers": 2, "steps": 3, "batch_size": 128, "seed": 5}
    assert wanted.items() <= told.items()
    assert set(told) >= {
        *("kernel", "epochs", "shard_size", "epoch_seconds", "train_images_per_second", "train_loss", "test_loss"),
        *("test_accuracy", "parameters_sha256", "run_dir"),
    }
    assert len(told["epoch_seconds"]) == 1
    assert (data.parent / str(told["run_dir"]) / "checkpoint.npz").exists()


def test_parameters_do_not_depend_on_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the default kernel. The library's own tests use the others."""
    write_idx(tmp_path / "data", 10, 10, shape=(28, 28), classes=10)  # For the network that other tests compile.
    monkeypatch.chdir(tmp_path)
    options = ("--data-dir", "data", "--batch-size", "6", "--shard-size", "1", "--epochs", "1")
    expected = here(capsys, *options, "--engine", "serial")["parameters_sha256"]
    assert train(*options, "--workers", "2", cwd=tmp_path)["parameters_sha256"] == expected


def test_a_run_can_be_repeated_from_its_configuration(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    options = ("--batch-size", "16", "--optimizer", "nesterov", "--warmup", "2", "--clip-norm", "1")
    first = here(capsys, *QUICK, *options, "--out", "a")
    assert "dataset" not in tomllib.loads((place / "a" / "config.toml").read_text())
    again = train("--config", "a/config.toml", cwd=place)
    assert again["run_dir"].startswith("runs/")
    assert again["parameters_sha256"] == first["parameters_sha256"]


def test_flag_beats_environment_beats_file_beats_default(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "c.toml").write_text("workers = 3\nbatch-size = 100\nlearning_rate = 1\n")
    quick = (*SMALL, "--epochs", "1", "--config", "c.toml")
    result = train(*quick, cwd=place, PARALLEL_LENET_WORKERS="2")
    assert (result["workers"], result["batch_size"]) == (2, 100)
    monkeypatch.setenv("PARALLEL_LENET_WORKERS", "2")
    assert here(capsys, *quick, "--workers", "1")["workers"] == 1


def test_evaluate_measures_what_training_measured(data: Path, told: dict[str, object]) -> None:
    file = f"{told['run_dir']}/checkpoint.npz"
    result = run(data.parent, "evaluate", file, "--json", "--workers", "3")
    evaluated = json.loads(result.stdout)
    for name in ("test_accuracy", "parameters_sha256"):
        assert evaluated[name] == told[name]
    assert evaluated["test_loss"] == pytest.approx(told["test_loss"])
    assert evaluated["images"] == 1000
    table = run_here(data.parent, "evaluate", file, "--engine", "serial")
    assert f"{told['test_accuracy']:.2%}" in table.stdout


def test_three_channels_and_other_sizes_train(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 40, 40, shape=(20, 36, 3), classes=13)
    result = train_here(tmp_path, *QUICK, "--batch-size", "16", "--out", "r")
    assert result["dataset"] == str(tmp_path / "data")
    run(tmp_path, "evaluate", "r/checkpoint.npz", "--workers", "1")


def test_gradcheck_prints_every_layer(tmp_path: Path) -> None:
    result = run(tmp_path, "gradcheck", "--kernel", "im2col", "--json")
    report = json.loads(result.stdout)
    assert report["passed"]
    assert {check["what"] for check in report["checks"]} >= {
        "Conv2d",
        "AvgPool2d",
        "MaxPool2d",
        "Tanh",
        "ReLU",
        "Dense",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--dataset", "cats"], 2, "cats"),
        (["train", "--batch-size", "0"], 2, "--batch-size must be a whole number of at least 1, got 0"),
        (["train", "--batch-size", "x"], 2, "'x'"),
        (["train", "--workers", "0"], 2, "--workers"),
        (["train", "--epochs", "0"], 2, "--epochs must be a whole number of at least 1, got 0"),
        (["train", "--max-steps", "0"], 2, "--max-steps"),
        (["train", "--shard-size", "-3"], 2, "--shard-size"),
        (["train", "--learning-rate", "nan"], 2, "--learning-rate must be a finite number above 0, got nan"),
        (["train", "--clip-norm", "0"], 2, "--clip-norm must be a number above 0, got 0.0"),
        (["train", "--weight-decay", "-1"], 2, "--weight-decay must be"),
        (["train", "--seed", "-1"], 2, "--seed must be a whole number of at least 0, got -1"),
        (["train", "--workers", "99999999999"], 2, "at most 1,024, got 99,999,999,999"),
        (["train", "--out", ""], 2, "--out must name a folder, got ''"),
        (["train", "--out", "full/thesis.tex/run"], 1, "--out full/thesis.tex/run can't be made: Not a directory"),
        (["train", "--resume", ""], 2, "--resume '': name a run's folder"),
        (["train", "--resume", "full"], 2, "--resume full: name a run's folder"),
        (["train", "--config", "missing.toml"], 2, "missing.toml"),
        (["train", "--config", "bad.toml"], 2, "bad.toml"),
        (["train", "--config", "unknown.toml"], 2, "colour"),
        (["train", "--config", "type.toml"], 2, "epochs must be a whole number, got 'many'"),
        (["train", "--config", "choice.toml"], 2, "kernel must be one of"),
        (["train", "--data-dir", "missing"], 2, "missing does not exist"),
        (
            ["train", "--data-dir", "full/thesis.tex"],
            1,
            "full/thesis.tex: is a file; allowed are",
        ),
        (["train", "--data-dir", "table.csv"], 1, "'table.csv' is a table of text, which is not read: save"),
        (["train", "--data-dir", "full", "--dataset", "mnist"], 2, "both name the images: leave one out"),
        (["train", "--bs", "3"], 2, "did you mean --batch-size? (see parallel-lenet train --help)"),
        (["train", "--batch_size=3"], 2, "did you mean --batch-size?"),
        (["evaluate", "x", "--lr"], 2, "unrecognized arguments: --lr (see parallel-lenet evaluate --help)"),
        (["train", "--step-timeout", "0"], 2, "--step-timeout must be a number above 0, got 0.0"),
        (["train", "--out", "full"], 2, "full exists already"),
        (["evaluate", "missing.npz"], 2, "missing.npz does not exist"),
        (["evaluate", "damaged.npz"], 1, "damaged.npz"),
        (["evaluate", "foreign.npz"], 1, "foreign.npz"),
        (
            ["evaluate", "program.npz"],
            1,
            "program.npz: can't make its model: it does not describe a network of this package's layers",
        ),
        (["evaluate", "user.npz"], 1, "user.npz: its metadata is incomplete: user is [1]"),
        (["train", "--chaos", "kill:every=2", "--engine", "serial"], 2, "of --engine processes, not of serial"),
        (["evaluate", "full"], 2, "full is a folder: name a checkpoint, such as full/checkpoint.npz"),
        (["evaluate"], 2, "there is no run in the folder runs: train a network with parallel-lenet train, or name"),
        (["bake"], 2, "bake"),
        (["gradcheck", "--kernel", "steam"], 2, "steam"),
        (["gradcheck", "--seed", "-1"], 2, "--seed must be a whole number of at least 0, got -1"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    (tmp_path / "table.csv").write_text("3,0,255")
    (tmp_path / "unknown.toml").write_text("colour = 3")
    (tmp_path / "type.toml").write_text('epochs = "many"')
    (tmp_path / "choice.toml").write_text('kernel = "steam"')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    (tmp_path / "damaged.npz").write_bytes(b"PK" + bytes(200))
    archive.save(tmp_path / "foreign.npz", {"parameters": np.zeros(3)}, {"format": 2, "layout": []})
    network = lenet5(kernel="naive")
    Coordinator(network, SGD(), n_workers=1).save(tmp_path / "user.npz")
    arrays, metadata = archive.load(tmp_path / "user.npz")
    archive.save(tmp_path / "user.npz", arrays, {**metadata, "user": [1]})
    Coordinator(Softmax(), SGD(), n_workers=1).save(tmp_path / "program.npz")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert called(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before


def called(*arguments: str) -> int:
    """What the command line returns when it is called in this process."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return main(arguments)
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(("arguments", "code"), [(["train", "--batch-size", "0"], 2), (["evaluate", "none.npz"], 2)])
def test_after_a_mistake_the_program_ends_with_a_code_and_one_sentence(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    result = run(tmp_path, *arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["many", "0"])
def test_a_bad_number_of_workers_in_the_environment_is_named(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARALLEL_LENET_WORKERS", value)
    assert called("train") == 2
    assert "PARALLEL_LENET_WORKERS" in capsys.readouterr().err


def test_a_network_with_too_few_classes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_idx(tmp_path / "data", 8, 8, shape=(28, 28), classes=2)
    write_idx(tmp_path / "six", 8, 8, shape=(28, 28), classes=6)
    write_idx(tmp_path / "large", 8, 8, shape=(40, 40), classes=2)
    train_here(tmp_path, *QUICK, "--batch-size", "4", "--out", "r")
    monkeypatch.chdir(tmp_path)
    for data, words in (("six", "is out of range: this network has 2 classes"), ("large", "(8, 40, 40)")):
        assert called("evaluate", "r/checkpoint.npz", "--data-dir", data) == 1
        assert words in capsys.readouterr().err


def test_quiet_prints_the_results_only(place: Path) -> None:
    result = run(place, "train", *QUICK, "--quiet")
    assert result.stderr == ""
    assert "epoch" not in result.stdout
    assert "test accuracy" in result.stdout


@pytest.mark.skipif(os.name != "posix", reason="a pipe that closes early")
def test_a_reader_that_leaves_early_causes_no_traceback(place: Path) -> None:
    with start(place, "train", *SMALL, "--workers", "1", "--epochs", "3") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in errors


def test_help_names_every_option(tmp_path: Path) -> None:
    result = run(tmp_path, "train", "--help")
    flags = ("--dataset", "--data-dir", "--kernel", "--workers", "--engine", "--warmup", "--max-steps", "--config")
    safety = ("--resume", "--checkpoint-every", "--on-nan", "--step-timeout", "--max-tries", "--chaos", "kill:every=N")
    for flag in (*flags, *safety):
        assert flag in result.stdout


def test_version(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout.startswith("parallel-lenet 0.")


def test_plain_tables_are_aligned() -> None:
    text = Table(("name", "ms"), [("serial", "0.1"), ("processes", "12.0")]).text()
    assert text.splitlines() == ["name         ms", "---------  ----", "serial      0.1", "processes  12.0"]


def test_progress_shows_on_a_terminal_only(place: Path) -> None:
    pty = pytest.importorskip("pty")
    pytest.importorskip("rich")
    leader, follower = pty.openpty()
    terminal = {"TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
    options = {"stdout": subprocess.DEVNULL, "stderr": follower}
    process = start(place, "train", *QUICK, "--epochs", "2", env=terminal, **options)
    os.close(follower)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            block = os.read(leader, 65536)
        except OSError:  # The program's end of the terminal has closed.
            break
        if not block:
            break
        shown += block
    os.close(leader)
    assert process.wait(timeout=60) == 0
    assert b"images/s" in shown
    assert b"epoch 1/2" in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_notes_that_cannot_be_written_change_neither_result_nor_exit_code(tmp_path: Path) -> None:
    options = ("train", "--max-steps", "1", "--kernel", "im2col", "--engine", "serial", "--evaluate-on", "10")
    with open("/dev/full", "w") as full:
        for arguments, code in ((options, 0), (("train", "--nonsense"), 2)):
            process = start(tmp_path, *arguments, stderr=full)
            out, _ = process.communicate(timeout=100)
            assert process.returncode == code
            assert ("test accuracy" in out) == (code == 0)
