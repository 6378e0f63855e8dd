"""Kernels in files: the command that checks them, and training with them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.kernel_mistakes import HEAD, MISTAKES
from kits.programs import write_idx

from parallel_lenet import SGD, Coordinator, kernels, lenet5, load_model
from parallel_lenet.cli import main
from parallel_lenet.kernels import files
from parallel_lenet.user_files import UserFileError

pytestmark = pytest.mark.slow

OWN = """
from parallel_lenet.kernels.im2col import *


def tanh(x, amplitude, out):
    np.tanh(x, out=out)
    out *= amplitude
"""
QUICK = ("--data-dir", "data", "--batch-size", "10", "--no-report", "--quiet")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few images and a kernel."""
    write_idx(tmp_path / "data", 40, 10)
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        return code, *capsys.readouterr()

    return run


def result(call: Any, *arguments: str) -> dict[str, Any]:
    code, out, err = call("train", *arguments, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def test_a_kernel_that_is_right(call: Any) -> None:
    code, out, err = call("check", "own.py", "--json")
    assert code == 0, out + err
    found = json.loads(out)
    assert found["ok"]
    assert found["problems"] == []
    assert found["functions"].keys() == set(files.FUNCTIONS)
    assert max(found["finite_differences"].values()) < 1e-8
    assert all(row["microseconds_per_image"] > 0 for row in found["speed"])
    assert {"conv2d", "tanh_gradient", "max_pool2d_gradient"} <= {row["function"] for row in found["speed"]}
    assert found["sha256_begins"] == kernels.resolve("own.py").partition("@")[2]


def test_a_mistake_a_crash_and_an_endless_loop_are_one_sentence_each(call: Any) -> None:
    (unmasked,) = [mistake for mistake in MISTAKES if mistake.name == "gradient not masked in ReLU"]
    loops = "def relu(x, out):\n    while True:\n        pass\n"
    leaves = "def softmax(logits, out):\n    import os\n    os._exit(3)\n"
    crashes = "def tanh(x, amplitude, out):\n    import os\n    os.abort()\n"
    Path("bad.py").write_text("\n".join([HEAD, unmasked.source, loops, leaves, crashes, "print('not a result')"]))
    code, out, _ = call("check", "bad.py", "--time-limit", "1.5")
    assert code == 1
    sentences = [line for line in out.splitlines() if ": " in line]
    assert [sentence for sentence in sentences if not sentence.startswith(unmasked.says)] == [
        "tanh: crashed the process: SIGABRT",
        "relu: did not end within 1.5 s",
        "softmax: ended the process with exit code 3",
    ]
    assert len(sentences) == 4
    assert "not a result" not in out


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def conv2d(x):\n    return (\n", "line 2: SyntaxError: '(' was never closed"),
        ("import numpy\n\nnumpy.nothing\n", "line 3: AttributeError: module 'numpy' has no attribute 'nothing'"),
        ("import sys\nsys.exit(4)\n", "line 2: SystemExit: 4"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_sentence_with_its_line(call: Any, source: str, sentence: str) -> None:
    Path("wrong.py").write_text(source)
    expected = f"parallel-lenet: {os.path.abspath('wrong.py')}, {sentence}\n"
    commands = [("train", "--kernel", "wrong.py"), *([("check", "wrong.py")] if "Syntax" in sentence else [])]
    for arguments in commands:
        code, out, err = call(*arguments)
        assert (code, out) == (1, "")
        assert err.endswith(expected)


def test_mistakes_in_the_call(call: Any) -> None:
    for arguments, sentence in (
        (("check", "none.py"), "the file 'none.py' does not exist"),
        (("check", "data"), "'data' is a folder: name a file"),
        (("check", "own.py", "--time-limit", "0"), "--time-limit must be a finite number above 0, got 0.0"),
        (("train", "--kernel", "none.py"), "--kernel: the file 'none.py' does not exist"),
        (("train", "--config", "c.toml"), "--config c.toml: kernel can't be a Python file: give --kernel on the"),
    ):
        Path("c.toml").write_text('kernel = "own.py"\n')
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert sentence in err
    Path("few.py").write_text("def relu(x, out):\n    pass\n")
    code, _, err = call("train", "--kernel", "few.py")
    assert code == 1
    assert "lacks prepare_images, conv2d, conv2d_input_gradient and 13 more functions: to take them from" in err


def test_a_run_with_a_kernel_file_resumes_with_the_same_file_only(call: Any) -> None:
    own = ("--kernel", "own.py")
    steps = ("--max-steps", "4", "--engine", "serial")
    whole = result(call, *QUICK, *own, *steps)
    assert whole["parameters_sha256"] == result(call, *QUICK, "--kernel", "im2col", *steps)["parameters_sha256"]
    first = result(call, *QUICK, *own, "--max-steps", "2", "--workers", "2", "--out", "r")
    assert (
        first["kernel"] == kernels.resolve("own.py") == f"{os.path.abspath('own.py')}@{files.resolve('own.py')[-16:]}"
    )
    assert "kernel =" not in Path("r/config.toml").read_text()
    more = ("--resume", "r", "--max-steps", "4", "--no-report", "--engine", "serial")
    code, _, err = call("train", *more)
    assert code == 2
    assert "a checkpoint does not decide which code runs: give --kernel " in err
    shutil.copy("own.py", "other.py")
    for kernel in ("other.py", "im2col"):
        code, _, err = call("train", *more, "--kernel", kernel)
        assert code == 2
        assert "disagrees with the run in r, which has " in err
    Path("own.py").write_text(OWN + "# Changed.\n")
    code, _, err = call("train", *more, *own)
    assert code == 2
    assert "own.py has changed since the run in r began" in err
    Path("own.py").write_text(OWN)
    assert result(call, *more, *own)["parameters_sha256"] == whole["parameters_sha256"]
    code, out, _ = call("evaluate", "r", *own, "--json")
    assert json.loads(out)["kernel"] == first["kernel"]
    assert load_model("r/checkpoint.npz", "own.py").model.kernel == first["kernel"]


def test_a_run_does_not_execute_a_file_that_only_a_checkpoint_names(call: Any) -> None:
    marking = OWN + "\nimport pathlib\n\npathlib.Path('executed').touch()\n"
    Path("marking.py").write_text(marking)
    result(call, *QUICK, "--kernel", "marking.py", "--max-steps", "1", "--engine", "serial", "--out", "r")
    os.remove("executed")
    for arguments in (("train", "--resume", "r"), ("train", "--resume", "r", "--kernel", "im2col"), ("evaluate", "r")):
        call(*arguments)
        assert not os.path.exists("executed")


def test_workers_compute_with_the_file_that_the_model_was_made_with() -> None:
    images = np.zeros((8, 28, 28), np.uint8)
    labels = np.arange(8)
    network = lenet5(kernel="own.py")
    assert network.kernel == kernels.resolve("own.py")
    with Coordinator(network, SGD(0.1), n_workers=1, batch_size=8) as coordinator:
        Path("own.py").write_text(OWN.replace("out *= amplitude", "out *= 2 * amplitude"))
        with pytest.raises(UserFileError, match=r"own\.py has changed: its SHA-256 begins with"):
            coordinator.fit((images, labels))
    assert lenet5(kernel="own.py").kernel != network.kernel


def test_what_a_kernel_file_prints_is_not_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 20, 10)
    (tmp_path / "mine.py").write_text(OWN + "\nprint('not the result')\n")
    options = ("--data-dir", "data", "--kernel", "mine.py", "--engine", "serial", "--max-steps", "1", "--no-report")
    assert main(["train", *options, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["steps"] == 1
    assert err.count("not the result") == 1
