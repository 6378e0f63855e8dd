"""What a run's folder keeps: every step exactly once however the program ends, events, environments, predictions."""

import csv
import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits.programs import run_here, start, write_idx

from parallel_lenet import Dataset, StepReport, StepTimes, archive, lenet5, load_dataset, load_model
from parallel_lenet.cli import main
from parallel_lenet.runs import BEST, LAST, METRICS, PREVIOUS, RunError, environment, events, predictions, steps
from parallel_lenet.runs.run import Run

PARAMETERS = np.arange(4, dtype=np.float32)
DIVERGES = ("--optimizer", "sgd", "--warmup", "0", "--learning-rate", "1e30")
FAST = ("--engine", "serial", "--kernel", "im2col", "--batch-size", "8", "--quiet")


def report(step: int, loss: float = 0.5, epoch: int = 1, **more: Any) -> StepReport:
    times = StepTimes(0.1, 0.2, 0.3, computing={"worker 0 (pid 7)": 0.25, "worker 1 (pid 8)": 0.5})
    return StepReport(epoch, step, loss, 0.75, 8, 1.5, 0.7, **{"learning_rate": 0.1, "times": times, **more})


def made(digits: Dataset, count: int = 150) -> predictions.Predictions:
    """Of a network that has learned nothing."""
    model = lenet5()
    few = Dataset(digits.inputs[:count], digits.targets[:count])
    return predictions.predict(model, model.initial_parameters(np.random.default_rng(0)), 0, few)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[steps.StepLog]:
    made = steps.StepLog(tmp_path, 2)
    yield made
    made.close()


def rows(folder: Path) -> list[dict[str, str]]:
    """The file as any program reads it."""
    with (folder / steps.FILE).open(newline="") as file:
        return list(csv.DictReader(file))


@given(losses=st.lists(st.floats(), min_size=1, max_size=5), rate=st.floats(min_value=0, allow_infinity=False))
@settings(max_examples=30, deadline=None)
def test_losses_and_rates_are_read_back_with_the_same_bits(
    losses: list[float], rate: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    log = steps.StepLog(folder, 1)
    log.begin(0, 0)
    for i, loss in enumerate(losses, 1):
        log.append(report(i, loss, learning_rate=rate), 8 * i, PARAMETERS, last=False)
    log.close()
    found = steps.read(folder)
    assert found is not None
    assert found["loss"].tobytes() == np.array([x if x == x else np.nan for x in losses]).tobytes()
    assert (found["learning_rate"] == rate).all()


def test_a_step_is_a_line_that_any_program_reads(tmp_path: Path, log: steps.StepLog) -> None:
    log.begin(0, 0)
    before = time.time()
    log.append(report(1, 2.5), 8, PARAMETERS, last=False)
    log.append(report(1, float("nan"), skipped="step 2: NaN", learning_rate=None), 16, PARAMETERS, last=True)
    first, second = rows(tmp_path)  # Written already: nothing is buffered.
    assert set(first) == {*steps.COLUMNS, "worker 0", "worker 1"}
    expected = {"step": 1, "epoch": 1, "done": 8, "images": 8, "loss": 2.5, "correct": 6, "learning_rate": 0.1}
    expected |= {"gradient_norm": 1.5, "seconds": 0.7, "waiting": 0.1, "adding": 0.2, "updating": 0.3}
    expected |= {"worker 0": 0.25, "worker 1": 0.5, "skipped": 0}
    assert {name: float(first[name]) for name in expected} == expected
    assert before - 1 < float(first["time"]) < time.time() + 1
    assert (first["parameters"], second["parameters"]) == ("", steps.sha256(PARAMETERS)[:16])
    assert (second["skipped"], second["loss"], second["learning_rate"]) == ("1", "nan", "nan")


def test_workers_without_numbers_take_the_columns_in_turn_and_no_second_is_lost(tmp_path: Path) -> None:
    log = steps.StepLog(tmp_path, 2)
    log.begin(0, 0)
    for step, computing in enumerate(({"worker a": 1.0, "worker b": 2.0}, {"worker b": 3.0, "worker c": 4.0}), 1):
        log.append(report(step, times=StepTimes(computing=computing)), 8 * step, PARAMETERS, last=False)
    log.append(report(3, times=StepTimes(computing=dict.fromkeys("xyz", 1.0))), 24, PARAMETERS, last=False)
    log.close()
    found = steps.read(tmp_path)
    assert found is not None
    assert found.workers.sum(axis=1).tolist() == [3, 7, 3]
    assert found.workers[0].tolist() == [1, 2]
    assert found.workers[1].tolist() == [4, 3]  # b keeps its column, c takes that of a.


@pytest.mark.parametrize(("epoch", "done", "kept"), [(0, 0, 0), (0, 16, 2), (1, 0, 3), (1, 8, 4), (2, 0, 6)])
def test_continuing_cuts_off_the_steps_after_the_checkpoint(epoch: int, done: int, kept: int, tmp_path: Path) -> None:
    log = steps.StepLog(tmp_path, 1)
    log.begin(0, 0)
    for i in range(6):
        log.append(report(i + 1, epoch=1 + i // 3), 8 * (i % 3 + 1), PARAMETERS, last=False)
    log.close()
    with (tmp_path / steps.FILE).open("a") as file:
        file.write("7,3,8,8,0.1")  # A program was killed while it wrote this.
    before = (tmp_path / steps.FILE).stat().st_ino
    again = steps.StepLog(tmp_path, 3)  # With more workers.
    again.begin(epoch, done)
    again.append(report(kept + 1, epoch=epoch + 1), done + 8, PARAMETERS, last=False)
    again.close()
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(1, kept + 2))
    assert {len(row) for row in rows(tmp_path)} == {len(steps.COLUMNS) + 3}
    found = steps.read(tmp_path)
    assert found is not None
    assert np.isnan(found.workers[:kept, 2]).all()
    once_more = steps.StepLog(tmp_path, 3)
    ours = (tmp_path / steps.FILE).stat().st_ino
    assert ours != before
    once_more.begin(epoch, done + 8)  # Nothing to cut off: those who follow the file can continue to.
    once_more.close()
    assert (tmp_path / steps.FILE).stat().st_ino == ours


def test_a_full_disk_costs_no_line(tmp_path: Path, log: steps.StepLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.begin(0, 0)
    write = os.write
    room = [300]

    def full(file: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, content[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", full)
    failed = 0
    names = set[str]()
    for step in range(1, 8):
        try:
            log.append(report(step), 8 * step, PARAMETERS, last=False)
        except OSError as error:
            names.add(error.filename)
            assert (tmp_path / steps.FILE).read_bytes().endswith(b"\n")
            failed += 1
        if step == 6:
            room[0] = 10**6
    assert failed > 1
    assert names == {str(tmp_path / steps.FILE)}
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(1, 8))


def test_lines_that_are_damaged_are_counted_and_another_file_is_refused(tmp_path: Path, log: steps.StepLog) -> None:
    log.begin(0, 0)
    for step in (1, 2, 3):
        log.append(report(step), 8 * step, PARAMETERS, last=False)
    text = (tmp_path / steps.FILE).read_text()
    for wrong in ("x" * 20, "1,2,3", "\0\0"):
        lines = text.splitlines(keepends=True)
        (tmp_path / steps.FILE).write_text("".join([*lines[:2], f"{wrong}\n", *lines[3:]]))
        found = steps.read(tmp_path)
        assert found is not None
        assert (len(found), found.damaged_lines, found["step"].tolist()) == (2, 1, [1, 3])
    (tmp_path / steps.FILE).write_bytes(b"\x89PNG\n\n")
    with pytest.raises(RunError, match=r"steps.csv: is damaged, or was not written by a training run"):
        steps.read(tmp_path)


# Real programs.


def cut(data: Path, *more: str) -> list[str]:
    return ["train", "--data-dir", str(data), *FAST, "--evaluate-on", "4", *more]


@pytest.mark.slow
def test_after_a_kill_and_a_resume_each_step_stands_there_once(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 100, 10)  # 13 steps per epoch, and enough epochs that a busy machine kills it in time.
    arguments = cut(tmp_path / "data", "--epochs", "15", "--checkpoint-every", "7")
    kept = []
    for wait in (0, 30):
        with start(tmp_path, *arguments, *(["--resume", "r"] if wait else ["--out", "r"]), stderr=None) as process:
            file = tmp_path / "r" / steps.FILE
            while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < 10 + wait):
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        found = steps.read(tmp_path / "r")
        assert found is not None
        kept.append(len(found))
        assert found["step"].tolist() == list(range(1, len(found) + 1))
    run_here(tmp_path, *arguments, "--resume", "r")
    run_here(tmp_path, *arguments, "--out", "whole")
    resumed, whole = (steps.read(tmp_path / name) for name in ("r", "whole"))
    assert resumed is not None
    assert whole is not None
    assert kept[0] < kept[1] <= len(whole) == 15 * 13
    for column in ("step", "epoch", "done", "images", "loss", "correct", "learning_rate", "gradient_norm", "skipped"):
        assert resumed[column].tobytes() == whole[column].tobytes(), column
    assert resumed.parameters == whole.parameters
    assert [i for i, digest in enumerate(whole.parameters, 1) if digest] == sorted({*range(13, 196, 13), 50, 100, 150})
    kinds = [event.kind for event in events.read(tmp_path / "r")[0] if event.kind != "epoch"]
    assert kinds == ["started", "resumed", "resumed", "finished"]
    assert len(environment.read(tmp_path / "r")) == 3


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("example")
    write_idx(folder / "data", 40, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = ["--data-dir", "data", "--validation", "0.4", "--epochs", "2", "--seed", "3"]
        assert main(["train", *data, *FAST, "--out", "run", "--no-report"]) == 0
    return folder / "run"


def test_the_environment_tells_what_a_run_was_computed_with(example: Path) -> None:
    (session,) = environment.read(example)
    assert session["versions"]["numpy"] == np.__version__
    assert session["machine"]["cores"] == os.cpu_count()
    assert session["options"]["seed"] == 3
    assert session["options"]["chaos"] is None
    assert session["options"]["report"] is False
    assert session["data"]["train"] == 40
    assert session["command"].endswith("--out run --no-report")
    assert set(session["machine"]) == {"system", "processor", "cores", "usable_cores", "memory_bytes", "blas"}
    for number in range(environment.MOST + 5):
        environment.add(example.parent, {**session, "started": str(number)})
    sessions = environment.read(example.parent)
    assert [each["started"] for each in (sessions[0], sessions[-1])] == ["5", "104"]
    assert len(sessions) == environment.MOST


def test_the_command_that_repeats_a_run_does(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = environment.read(example)[0]["repeat"].split()
    assert words[:2] == ["parallel-lenet", "train"]
    assert main([*words[1:], "--out", "again", "--engine", "serial", "--quiet", "--no-report"]) == 0
    assert Run(tmp_path / "again").sha256 == Run(example).sha256


@pytest.mark.slow
def test_events_tell_of_lost_and_hung_workers_and_of_what_ended_the_program(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 200, 10)
    arguments = ["train", "--data-dir", "data", "--kernel", "im2col", "--batch-size", "8", "--epochs", "100000"]
    with start(tmp_path, *arguments, "--workers", "2", "--chaos", "kill:every=30", "--out", "r") as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and b'"worker"' not in _bytes(tmp_path / "r" / events.FILE):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    found, damaged = events.read(tmp_path / "r")
    kinds = [event.kind for event in found]
    assert damaged == 0
    assert (kinds[0], kinds[-1]) == ("started", "interrupted")
    lost = next(event for event in found if event.kind == "worker")
    assert "was killed by SIGKILL" in lost.text
    assert found[0].time <= lost.time <= found[-1].time
    assert found[-1].text == "terminated by SIGTERM"
    computed = steps.read(tmp_path / "r")
    assert computed is not None
    assert (computed.workers.sum(axis=0) > 0).all()
    assert found[-1].step == computed["step"][-1]


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def test_a_diverged_run_tells_of_it(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 40, 10)
    arguments = cut(
        tmp_path / "data", "--epochs", "1", "--optimizer", "sgd", "--warmup", "0", "--learning-rate", "1e30"
    )
    message = run_here(tmp_path, *arguments, "--out", "r", code=1).stderr
    failed = events.read(tmp_path / "r")[0][-1]
    assert failed.kind == "failed"
    assert failed.text in message
    assert Run(tmp_path / "r").state == "failed"
    run_here(tmp_path, *arguments, "--on-nan", "skip", "--max-steps", "3", "--out", "skip")
    skipped = steps.read(tmp_path / "skip")
    assert skipped is not None
    told = [event for event in events.read(tmp_path / "skip")[0] if event.kind == "skipped"]
    assert len(told) == skipped["skipped"].sum() > 0


def test_a_record_that_cannot_be_written_is_noted_once_and_does_not_end_the_run(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 40, 10)
    (tmp_path / "r").mkdir()
    arguments = [word for word in cut(tmp_path / "data", "--epochs", "2") if word != "--quiet"]
    with start(tmp_path, *arguments, "--out", "r") as process:  # Its folder is taken before anything is in it.
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    for name in (events.FILE, steps.FILE, environment.FILE):
        (tmp_path / "r" / name).unlink()
        (tmp_path / "r" / name).mkdir()
    again = run_here(tmp_path, *arguments[:-1], "4", "--resume", "r")
    assert again.stderr.count("the run's record will be incomplete") == 1
    assert "epoch 4/4" in again.stdout
    notes = Run(tmp_path / "r")
    assert (notes.steps, notes.events, notes.sessions) == (None, [], [])
    assert [note.count("is not a regular file") for note in notes.notes] == [1, 1, 1]


# Predictions.


def test_predictions_are_what_the_network_says(digits: Dataset, tmp_path: Path) -> None:
    model = lenet5()
    parameters = model.initial_parameters(np.random.default_rng(0))
    predictions.save(tmp_path, predictions.predict(model, parameters, 7, digits))
    found = predictions.load(tmp_path)
    assert found is not None
    scores = model.scores(parameters, digits.inputs).astype(np.float64)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert (found.step, found.images, found.classes) == (7, 150, 10)
    np.testing.assert_array_equal(found.predicted, scores.argmax(axis=1))
    np.testing.assert_array_equal(found.labels, digits.targets)
    assert found.correct == (scores.argmax(axis=1) == digits.targets).sum()
    wrong = [i for i in range(150) if scores[i].argmax() != digits.targets[i]]
    worst = sorted(wrong, key=lambda i: probabilities[i, digits.targets[i]])[: predictions.MOST_MISTAKES]
    assert [each.row for each in found.mistakes] == worst
    for each in found.mistakes:
        np.testing.assert_allclose(each.probabilities, probabilities[each.row], rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(each.picture, digits.inputs[each.row])
    table = [
        [
            sum(1 for i in range(150) if digits.targets[i] == row and scores[i].argmax() == column)
            for column in range(10)
        ]
        for row in range(10)
    ]
    assert found.confusion().tolist() == table
    right = next((i for i in range(150) if i not in wrong), 0)
    np.testing.assert_array_equal(found.example[0, 0], digits.inputs[right])


def test_if_there_is_no_time_for_all_images_those_looked_at_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    _, test = load_dataset()
    model = lenet5()
    monkeypatch.setattr(predictions, "MOST_IMAGES", 50)
    found = predictions.predict(model, model.initial_parameters(np.random.default_rng(0)), 0, test, 0.0)
    assert 50 <= len(found.labels) < 1000
    assert found.images == 1000
    counts = np.bincount(found.labels, minlength=10)
    assert counts.min() > 0
    for count in (1, 2, 10, 997, 1000):
        assert sorted(predictions._spread(count)) == list(range(count))


@pytest.mark.parametrize("shape", [(3, 100, 70), (1, 5, 200), (2, 48, 48), (1, 49, 49), (3, 1, 1)])
def test_a_picture_is_small_and_as_bright_as_the_image(shape: tuple[int, int, int]) -> None:
    model = lenet5(image_size=shape[1:], channels=shape[0])
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = predictions.picture(image, model)
    assert predictions.is_picture(found)
    assert max(found.shape[:2]) <= predictions.SIDE
    assert abs(found.mean() - image.mean()) < 3
    if max(shape[1:]) <= predictions.SIDE and shape[0] == 3:
        np.testing.assert_array_equal(found, image.transpose(1, 2, 0))


def test_standardised_images_can_be_shown() -> None:
    model = lenet5(pixel_max=None, mean=0, std=1)
    image = np.linspace(-2, 3, 784).reshape(1, 28, 28)
    found = predictions.picture(image, model)
    assert (found.min(), found.max()) == (0, 255)
    assert predictions.picture(np.full((1, 28, 28), np.nan), model).max() == 0


# Folders with files that are missing or damaged.

ASKED = (
    "checkpoint",
    "steps",
    "events",
    "sessions",
    "predictions",
    "epochs",
    "options",
    "data",
    "state",
    "model",
    "sha256",
)


def asked(folder: Path) -> Run:
    found = Run(folder)
    for name in ASKED:
        getattr(found, name)
    return found


@pytest.mark.parametrize("name", [LAST, METRICS, steps.FILE, events.FILE, environment.FILE, predictions.FILE])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "folder", "pipe", "deep"])
def test_a_damaged_file_is_one_sentence(name: str, damage: str, example: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(example), str(tmp_path / "r")], check=True)
    file = tmp_path / "r" / name
    if name == predictions.FILE:
        digits = load_dataset()[1]
        model = lenet5()
        few = Dataset(digits.inputs[:9], digits.targets[:9])
        predictions.save(
            file.parent, predictions.predict(model, model.initial_parameters(np.random.default_rng(0)), 0, few)
        )
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "pipe":
        os.mkfifo(file)
    else:
        garbage = np.random.default_rng(0).integers(0, 256, 999).astype(np.uint8).tobytes()
        damaged = {
            "cut": content[: len(content) // 2 - 3],
            "garbage": garbage,
            "empty": b"",
            "deep": b"[" * 100_000 + b"\n",
        }
        file.write_bytes(damaged[damage])
    for other in (PREVIOUS, BEST):
        (tmp_path / "r" / other).unlink(missing_ok=True)
    found = asked(tmp_path / "r")
    expected = 0 if damage == "empty" and name in (METRICS, events.FILE) else 1
    if damage == "cut" and name == steps.FILE:
        expected = 0  # A line that was being written.
    assert len(found.notes) == expected, found.notes
    assert all(note.count("\n") == 0 and note.endswith(".") and name in note for note in found.notes)


def test_hostile_numbers_in_predictions_are_refused(tmp_path: Path, digits: Dataset) -> None:
    predictions.save(tmp_path, made(digits))
    arrays, said = archive.load(tmp_path / predictions.FILE)
    changes: list[dict[str, Any]] = [
        {"classes": 10**12},
        {"classes": 3},
        {"picture_shape": [28, 14, 2]},
        {"mistakes": said["mistakes"] * 3},
        {"mistakes": [["a", 1, 2]]},
        {"example_shape": [9, 9]},
        {"example_label": -1},
        {"images": "many"},
        {"mistakes": 7},
        {"picture_shape": "x"},
        {"classes": []},
    ]
    for change in changes:
        archive.save(tmp_path / predictions.FILE, arrays, {**said, **change})
        with pytest.raises(RunError, match=r"predictions.npz: is damaged"):
            predictions.load(tmp_path)
    for name, wrong in (
        ("labels", np.full(150, np.nan)),
        ("predicted", np.zeros(3)),
        ("probabilities", arrays["labels"]),
    ):
        archive.save(tmp_path / predictions.FILE, {**arrays, name: wrong}, said)
        with pytest.raises(RunError, match=r"predictions.npz: is damaged"):
            predictions.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "it must hold an object with a list of sessions, got \\[1\\]"),
        ('{"sessions": 3}', "it must hold an object with a list of sessions"),
        ('{"sessions": [3]}', "session 1 must be an object, got 3"),
        ('{"sessions": [{"options": []}]}', "options of session 1 must be an object, got \\[\\]"),
        ('{"sessions": [{"options": {}}]}', "data of session 1 must be an object, got nothing"),
        ("{", "it is not JSON: Expecting"),
        ("[" * 100_000, "it is nested too deeply|it is not JSON"),
    ],
)
def test_a_damaged_environment_is_described_in_terms_of_the_file(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / environment.FILE).write_text(text)
    with pytest.raises(RunError, match=rf"environment.json: is damaged: {words}"):
        environment.read(tmp_path)


def test_an_old_folder_and_a_model_of_the_users_own_have_less_to_tell(tmp_path: Path, example: Path) -> None:
    subprocess.run(["cp", "-r", str(example), str(tmp_path / "r")], check=True)
    for name in (steps.FILE, events.FILE, environment.FILE, METRICS):
        (tmp_path / "r" / name).unlink()
    found = asked(tmp_path / "r")
    assert [note.partition(",")[0] for note in found.notes] == [
        "The run has no steps.csv",
        "The run has no environment.json",
    ]
    assert [line["epoch"] for line in found.epochs] == [1, 2]
    assert (found.state, found.options["seed"]) == ("finished", 3)
    assert found.model == load_model(tmp_path / "r" / LAST).model
    with pytest.raises(RunError, match="does not exist: name the folder of a run"):
        Run(tmp_path / "none")
    with pytest.raises(RunError, match="is not the folder of a run"):
        Run(tmp_path)
