"""Configuration files: files that runs write can be read back, and any file gets a run or one sentence."""

import os
import random
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest

from parallel_lenet import Dataset
from parallel_lenet.cli import _config, _preparation, main
from parallel_lenet.cli._options import OPTIONS, TrainOptions, UsageError, seconds, worker_count
from parallel_lenet.cli._sources import Images
from parallel_lenet.cores import usable_cores

STRINGS = (
    *("data", "d😀", "donn\u00e9es", 'a "b" \\ c', "tab\tnewline\nreturn\rdelete\x7f", "bad\udcff", "'''", "#"),
    "\x85\u2028",
)


@pytest.mark.parametrize("string", STRINGS)
def test_any_string_and_infinity_can_be_read_back(string: str, tmp_path: Path) -> None:
    options = TrainOptions(data_dir=f"/{string}", clip_norm=float("inf"), step_timeout=1e-300, seed=2**64 - 1)
    text = options.toml()
    found = {key.replace("-", "_"): value for key, value in tomllib.loads(text).items()}
    assert TrainOptions(**found) == options
    (tmp_path / "config.toml").write_bytes(_config.encode(text))
    assert TrainOptions(**_config.read(str(tmp_path / "config.toml"))) == options


def test_where_code_runs_and_what_is_written_is_not_in_a_runs_configuration() -> None:
    text = TrainOptions(engine="dask", cluster_address="tcp://there:1", out="x").toml()
    assert not {"engine", "cluster-address", "out"} & set(tomllib.loads(text))


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\r\n"], ids=["byte order mark", "CRLF"])
def test_files_as_windows_saves_them_are_read(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(start + b"epochs = 1\r\nlearning_rate = 1\r\n")
    assert _config.read(str(tmp_path / "c.toml")) == {"epochs": 1, "learning_rate": 1.0}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe with a name")
def test_a_pipe_is_read_once_and_all_of_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("workers = 3\nepochs = 2\n",), daemon=True)
    writer.start()
    monkeypatch.setattr(_preparation, "load", _small)
    monkeypatch.setattr(_preparation, "RunFolder", _stop)
    made = []
    make = _preparation.Coordinator
    monkeypatch.setattr(_preparation, "Coordinator", lambda *a, **k: made.append(k["n_workers"]) or make(*a, **k))
    assert main(["train", "--config", str(pipe), "--kernel", "im2col", "--out", str(tmp_path / "r")]) == 2
    writer.join()
    assert made == [3]
    assert "the fuzz stops here" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe with a name")
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_config, "PATIENCE", 0.01)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"pipe: can't be read: the pipe sent nothing for 0\.01 seconds"):
        _config.read(str(tmp_path / "pipe"))
    with pytest.raises(UsageError, match=r"/dev/zero: is longer than 1,048,576 bytes"):
        _config.read("/dev/zero")


def test_a_thousand_workers_need_more_than_a_files_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text("workers = 1024")
    monkeypatch.delenv("PARALLEL_LENET_WORKERS", raising=False)
    assert worker_count(None, 1024).count == usable_cores()
    assert "not the 1024 of --config: to use that number, give --workers" in worker_count(None, 1024).origin
    assert worker_count(1024, 1).count == 1024


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"epochs = " + b"9" * 5000, "is not TOML"),
        (b"epochs = " + b"9" * 400, "--epochs must be at most 1,000,000,000,000, got 999"),
        (b"learning-rate = " + b"9" * 400, "learning-rate is too large"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
        (b"x = [" * 300, "is not TOML"),
        (b"\xff\xfee\x00p\x00", "is not TOML"),
        (b"data-dir = 'a\\u0000'\nout = \"a\\u0000b\"", "out must be a path, got 'a\\x00b'"),
        (b"epochs = 1\nepochs = 2", "is not TOML"),
        (b"batch-size = 1\nbatch_size = 2", "names batch-size twice"),
        (b"cluster-address = 'tcp://evil:1'", "cluster-address is not taken from a file"),
        (b"max-time = 'soon'", "MM:SS, HH:MM:SS or D-HH:MM:SS, got 'soon'"),
        (b"max-time = inf", "--max-time must be positive and at most 1,000,000,000 seconds, got inf"),
        (b"data-dir = 'x'\ndataset = 'mnist'", "dataset and data-dir both name the images"),
        (b"data-dir = '/missing'\ndataset = 'mnist-5k'", "--data-dir /missing does not exist"),
        (b"max-time = '0:5'", "got '0:5'"),
        (b"validation = 1", "--validation must be a fraction above 0 and below 1, got 1.0"),
        (b"evaluate-on = -1", "--evaluate-on must be a whole number of at least 0, got -1"),
        (b"seed = 1979-05-27", "seed must be a whole number, got datetime.date"),
        (b"# " + bytes(2 << 20), "is longer than 1,048,576 bytes"),
    ],
    ids=lambda value: value[:24].decode("latin1") if isinstance(value, bytes) else "",
)
def test_a_mistake_in_a_file_gets_one_sentence(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    assert main(["train", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "r")]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert len(errors) < 700 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("90", 90), ("1.5", 1.5), ("90s", 90), ("90m", 5400), ("2h", 7200), ("1d", 86400), ("1h30m", 5400)),
        *(("01:30:00", 5400), ("05:00", 300), ("2-01:00:00", 176_400)),
    ],
)
def test_a_duration_is_read_as_people_and_batch_systems_write_it(text: str, value: float) -> None:
    assert seconds(text) == value


VALUES = (
    *("0", "1", "-1", "3", "128", "1e400", "-inf", "nan", "inf", "0.5", "1e-320", "9" * 30, "9" * 400, "9" * 5000),
    *("-9223372036854775809", "0x7fffffffffffffff", "true", "''", "'x'", '"\\u0000"', '"\\U0001F600"', "[]", "{}"),
    *("[" * 50 + "]" * 50, "1979-05-27", "07:32:00", "{a = 1}", "'adamw'", "'processes'", "'serial'", "'dask '"),
    *("'none'", "'/dev/null'", "'90m'", "'01:00:00'", "'" + "x" * 3000 + "'"),
)
VALID = """\
dataset = 'mnist-5k'
data-dir = 'data'
validation = 0.1
evaluate-on = 10
kernel = 'im2col'
workers = 2
engine = 'serial'
epochs = 3
batch-size = 16
shard-size = 8
optimizer = 'adam'
learning-rate = 0.01
schedule = 'cosine'
warmup = 5
weight-decay = 0.1
clip-norm = 1.0
seed = 7
on-nan = 'stop'
max-steps = 9
max-time = 60
checkpoint-every = 5
step-timeout = 30.0
max-tries = 3
"""


def mutated(rng: random.Random) -> bytes:
    """A configuration file with some values, keys, lines or bytes changed."""
    lines = VALID.splitlines()
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(lines))
        key = lines[place].partition("=")[0]
        kind = rng.randrange(10)
        if kind < 6:
            lines[place] = f"{key}= {rng.choice(VALUES)}"
        elif kind == 6:
            lines[place] = f"{rng.choice(list(OPTIONS))} = {rng.choice(VALUES)}"
        elif kind == 7:
            lines.insert(
                place, rng.choice(["[table]", "[[array]]", "a.b = 1", "=", '"" = 1', "\x00", "﻿", lines[place]])
            )
        else:
            del lines[place]
            lines = lines or [""]
    content = bytearray("\n".join(lines).encode())
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        place = rng.randrange(len(content) + 1)
        content[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
    return bytes(content)


def _small(*_: object) -> Images:
    data = Dataset(np.zeros((60, 12, 12), np.uint8), np.arange(60) % 10)
    return Images(data, data)


def _stop(*_: object, **__: object) -> None:
    raise UsageError("the fuzz stops here")


def fuzz(times: int, seed: int, folder: Path, patch: pytest.MonkeyPatch) -> int:
    """Have the command read this number of mutated files. Returns with how many it would have trained."""
    rng = random.Random(seed)
    file = folder / "c.toml"
    whole = 0
    patch.setattr(_preparation, "load", _small)
    patch.setattr(_preparation, "RunFolder", _stop)
    patch.setattr(_preparation, "new_folder", _stop)
    for _ in range(times):
        content = mutated(rng)
        file.write_bytes(content)
        said: list[str] = []
        patch.setattr("parallel_lenet.cli._fail", lambda text, code=1, said=said: said.append(text) or code)
        try:
            code = main(["train", "--config", str(file), "--quiet"])
        except BaseException as error:
            raise AssertionError(f"{content!r}") from error
        assert code in (1, 2, 124), content  # 124: a --max-time too short for anything.
        assert len(said) == (code != 124)
        assert all(len(text) < 1500 for text in said), said
        whole += said == ["the fuzz stops here"]
    return whole


@pytest.mark.slow
def test_mutated_configurations_get_a_run_or_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10 < fuzz(200, 1, tmp_path, monkeypatch) < 190


if __name__ == "__main__":  # python tests/test_config.py TIMES SEED: more of it.
    import resource
    import tempfile

    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patched:
        began = fuzz(int(sys.argv[1]), int(sys.argv[2]), Path(place), patched)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(  # noqa: T201
            f"{sys.argv[1]} files, {began} would have trained, 0 tracebacks, {peak} MB at most"
        )
