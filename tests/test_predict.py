"""``parallel-lenet predict``, run as people run it: in a pipe, on a terminal, with images that can't be used."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.programs import COMMAND, environment, run, run_here

from parallel_lenet import Adam, Coordinator, lenet5, load_dataset, load_model
from parallel_lenet.cli import main
from parallel_lenet.cli._blocks import image_lines

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, the newer of which is in runs/2, and images."""
    folder = tmp_path_factory.mktemp("predict")
    for name, seed in (("1", 1), ("2", 2)):
        (folder / "runs" / name).mkdir(parents=True)
        with Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial", seed=seed) as coordinator:
            coordinator.save(folder / "runs" / name / "checkpoint.npz", {})
    os.utime(folder / "runs" / "1" / "checkpoint.npz", (1, 1))
    _, test = load_dataset()
    for i in range(3):
        Image.fromarray(test.inputs[i]).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"bad")
    Image.new("L", (40, 40), 255).save(folder / "blank.png")
    return folder


def expected(folder: Path, run_name: str) -> list[list[tuple[int, float]]]:
    """The three most probable classes of each image."""
    _, test = load_dataset()
    probabilities = load_model(folder / "runs" / run_name / "checkpoint.npz").predict_proba(test.inputs[:3])
    return [sorted(enumerate(row.tolist()), key=lambda pair: -pair[1])[:3] for row in probabilities]


def test_each_image_gets_a_line(folder: Path) -> None:
    out = run(folder, "predict", "0.png", "1.png", "2.png").stdout.splitlines()
    lines = [
        f"{i}.png: {a} ({p:.1%}; {b} {q:.1%}, {c} {r:.1%})"
        for i, ((a, p), (b, q), (c, r)) in enumerate(expected(folder, "2"))
    ]
    assert out == lines


def test_the_checkpoint_is_a_file_a_runs_folder_or_the_newest(folder: Path) -> None:
    for checkpoint in ("runs/1", "runs/1/checkpoint.npz"):
        told = json.loads(run_here(folder, "predict", "0.png", "--json", "--checkpoint", checkpoint).stdout)
        assert told["checkpoint"] == "runs/1/checkpoint.npz"
        assert told["kernel"] == "im2col"
        (image,) = told["images"]
        for each, (label, probability) in zip(image["top"], expected(folder, "1")[0], strict=True):
            assert each["class"] == label
            assert each["probability"] == pytest.approx(probability, rel=1e-5)
        assert image["class"] == image["top"][0]["class"]
        assert image["probability"] == max(image["probabilities"])
        assert len(image["probabilities"]) == 10


def test_bad_images_get_a_sentence_and_the_others_an_answer(folder: Path) -> None:
    done = run_here(folder, "predict", "bad.png", "0.png", "blank.png", ".", "1.png", code=1)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["0.png", "1.png"]
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["note", "using the newest run, runs/2"],
        *(["parallel-lenet", name] for name in ("bad.png", "blank.png", ".")),
    ]
    done = run_here(folder, "predict", "none\x1b.png", "bad.png", "0.png", "--json", code=2)  # It does not exist.
    images = json.loads(done.stdout)["images"]
    assert ["error" in image for image in images] == [True, True, False]
    assert images[0]["image"] == "none\x1b.png"
    assert "\x1b" not in done.stderr


def test_mistakes_in_the_call(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for arguments, code, sentence in [
        ([], 2, "the following arguments are required: IMAGE"),
        (["0.png", "--checkpoint", "none"], 2, "none does not exist"),
        (["0.png", "--checkpoint", "0.png"], 1, "is damaged, or not a checkpoint"),
        (["0.png", "--kernel", "fast"], 2, "invalid choice: 'fast'"),
    ]:
        assert main(["predict", *arguments]) == code
        assert sentence in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "0.png"]) == 2
    assert "there is no run in the folder runs" in capsys.readouterr().err


def test_without_pillow_the_sentence_names_what_to_install(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "PIL").mkdir()
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    (tmp_path / "PIL" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'PIL'\", name='PIL')")
    done = run(folder, "predict", "0.png", code=1, env={"PYTHONPATH": path})
    assert re.search("reading images needs PIL, which is not installed: pip install 'pillow", done.stderr)


def on_terminal(folder: Path, columns: int, **variables: str) -> str:
    """What the command shows on a terminal of that width."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    import struct

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        env = {name: value for name, value in environment().items() if name not in ("NO_COLOR", "COLUMNS", "COLORTERM")}
        os.execvpe(sys.executable, [*COMMAND, "predict", "0.png", "--checkpoint", "runs/2"], {**env, **variables})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # The other end is closed.
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return shown.decode()


def test_a_terminal_shows_what_the_network_sees(folder: Path) -> None:
    shown = on_terminal(folder, 80, TERM="xterm-256color", PYTHONUTF8="1").splitlines()
    assert shown[0].startswith("0.png: ")
    assert len(shown) == 15
    rows = list[list[int]]()
    for line in shown[1:]:
        cells = re.findall(r"\x1b\[38;5;(\d+);48;5;(\d+)m(▀+)", line)
        rows += [[int(cell[half]) for cell in cells for _ in cell[2]] for half in (0, 1)]
    _, test = load_dataset()
    light = np.rint(test.inputs[0] / 255 * 24).astype(int)
    assert rows == np.where(light == 0, 16, 231 + light).tolist()


def test_a_terminal_without_colours_gets_none(folder: Path) -> None:
    for variables in ({"TERM": "dumb"}, {"TERM": "xterm-256color", "NO_COLOR": "1"}):
        shown = on_terminal(folder, 20, PYTHONUTF8="1", **variables)
        assert "\x1b" not in shown
        lines = shown.splitlines()[1:]
        assert "█" in shown
        assert len(lines) == 10
        assert max(map(len, lines)) <= 20


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("size", [(28, 28), (1, 1), (3, 100), (64, 5)])
def test_blocks_show_the_image(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    image = np.zeros(size)
    image[: size[0] // 2] = 1
    stream: Any = Terminal("utf-8")
    lines = image_lines(image, stream)
    assert max(map(len, lines)) <= min(60, size[1])
    if size == (28, 28):
        assert lines == ["█" * 28] * 7 + [""] * 7
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    for line in image_lines(image, stream):
        assert len(re.sub(r"\x1b\[[0-9;]*m", "", line)) == min(60, size[1])
        assert line.endswith("\x1b[0m")
    ascii_stream: Any = Terminal("ascii")
    assert all(line.isascii() for line in image_lines(image, ascii_stream))
    assert image_lines(image, None) == []
