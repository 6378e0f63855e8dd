"""The best epoch and early stopping: by the figures of the epochs alone, in the API and on the command line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kits.programs import run_here, train_here, write_idx

from parallel_lenet import SGD, Coordinator, Dataset, Dense, Flatten, Images, Sequential, lenet5
from parallel_lenet.cli import main
from parallel_lenet.cli._training import Training
from parallel_lenet.stopping import best_epoch, is_enough

VALUES = st.lists(st.none() | st.just(math.nan) | st.sampled_from([0.1, 0.2, 0.3, 0.4, math.inf]), max_size=12)
OPTIONS = ("--data-dir", "data", "--kernel", "im2col", "--engine", "serial", "--batch-size", "20", "--epochs", "9")
STOPPING = (*OPTIONS, "--early-stopping", "--patience", "2", "--learning-rate", "0.02", "--schedule", "constant")


@given(VALUES, st.integers(1, 4))
def test_training_stops_at_the_first_epoch_that_ends_a_run_of_worse_ones(
    values: list[float | None], patience: int
) -> None:
    best = math.inf
    worse = 0
    for done, value in enumerate(values, 1):
        if value is not None:
            worse = 0 if value < best else worse + 1
            best = min(best, math.inf if math.isnan(value) else value)
        assert is_enough(values[:done], "loss", patience) == (worse >= patience)


@given(VALUES)
def test_the_best_epoch_is_the_first_with_the_best_number(values: list[float | None]) -> None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    by_loss, by_accuracy = best_epoch(values, "loss"), best_epoch(values, "accuracy")
    assert (by_loss is None) == (not known)
    if by_loss is not None:
        assert by_loss == values.index(min(known)) + 1
    if known and math.inf not in values:
        assert by_accuracy == values.index(max(known)) + 1


def rising() -> Coordinator:
    """Its learning rate rises at the third epoch to one that spoils everything."""
    optimizer = SGD(lambda step: 0.02 if step < 6 else 3.0)
    return Coordinator(lenet5(kernel="im2col"), optimizer, batch_size=56, engine="serial")


def test_fit_stops_after_epochs_that_are_no_better_also_when_it_continues(digits: Dataset, tmp_path: Path) -> None:
    once = rising()
    twice = rising()
    kept = rising()
    assert [report.epoch for report in once.fit(digits, 9, digits, patience=2)] == [1, 2, 3, 4]
    twice.fit(digits, 3, digits, patience=2)
    twice.save(tmp_path / "checkpoint")
    continued = rising()
    continued.load(tmp_path / "checkpoint")
    continued.fit(digits, 6, digits, patience=2)
    assert continued.parameters_sha256() == once.parameters_sha256()
    continued.fit(digits, 6, digits, patience=2)
    assert continued.epoch == 4
    kept.fit(digits, 9, digits, patience=1, keep_best=True)
    assert kept.epoch == 2
    assert len(once.fit(digits, 1, digits, patience=3)) == 5


def test_fit_stops_by_accuracy_as_well(digits: Dataset) -> None:
    coordinator = rising()
    history = coordinator.fit(digits, 9, digits, patience=2, keep_best=True, best_by="accuracy")
    accuracies = [report.validation_accuracy for report in history]
    assert is_enough(accuracies, "accuracy", 2)
    assert not is_enough(accuracies[:-1], "accuracy", 2)
    assert coordinator.epoch == best_epoch(accuracies, "accuracy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
        ({"patience": 1, "validation": None}, "patience needs validation data"),
        ({"best_by": "size"}, "best_by must be 'loss' or 'accuracy', got 'size'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str, digits: Dataset) -> None:
    with pytest.raises(ValueError, match=message):
        rising().fit(digits, **{"validation": 0.2, **arguments})


def test_a_regression_has_no_accuracy_to_choose_by(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Sequential(Images((28, 28), size=28), (Flatten(), Dense(1)), kernel="im2col", loss="squared_error")
    coordinator = Coordinator(model, SGD(0.01), engine="serial")
    with pytest.raises(ValueError, match="best_by must be loss for a model that predicts no classes"):
        coordinator.fit(digits, 1, 0.2, best_by="accuracy")
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 20, 10)
    (tmp_path / "mine.py").write_text(
        "from parallel_lenet import Dense, Flatten, Images, Sequential\n"
        'model = Sequential(Images((12, 12), size=12), (Flatten(), Dense(1)), kernel="im2col", loss="squared_error")\n'
    )
    arguments = ["train", "--data-dir", "data", "--model", "mine.py:model", "--validation", "0.2"]
    assert main([*arguments, "--best-by", "accuracy"]) == 2
    assert "--best-by must be loss for a model that predicts no classes" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_stops_early_and_a_resumed_run_where_it_would_have(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 200, 20)  # Random images: what is learned soon makes the validation loss worse.
    whole = train_here(tmp_path, *STOPPING, "--out", "whole")
    assert whole["validation"] == 0.1
    assert whole["stopped_early"]
    assert whole["finished_epochs"] == whole["best"]["epoch"] + 2 < 9
    events = [json.loads(line) for line in (tmp_path / "whole" / "events.jsonl").read_text().splitlines()]
    best = whole["best"]["epoch"]
    assert events[-1]["text"] == (
        f"stopped early: none of the 2 epochs since epoch {best} has a lower validation loss (--patience 2)"
    )
    half = train_here(tmp_path, *STOPPING, "--out", "half", "--max-steps", "13")
    assert not half["stopped_early"]
    resumed = train_here(tmp_path, "--resume", "half", "--max-steps", "1000", "--engine", "serial")
    assert resumed["parameters_sha256"] == whole["parameters_sha256"]
    assert (tmp_path / "half" / "best.npz").exists()
    again = run_here(tmp_path, "train", "--resume", "half", "--patience", "1").stderr  # Fewer epochs than have passed.
    assert "is finished: nothing is left to train (to train longer, give a larger --patience)" in again
    assert f"none of the 2 epochs since epoch {best} has a lower validation loss (--patience 1)" in again
    longer = train_here(
        tmp_path, "--resume", "half", "--no-early-stopping", "--epochs", str(best + 3), "--engine", "serial"
    )
    assert longer["finished_epochs"] == best + 3
    repeated = train_here(tmp_path, "--config", "whole/config.toml", "--engine", "serial", "--out", "repeated")
    assert repeated["parameters_sha256"] == whole["parameters_sha256"]


@pytest.mark.slow
def test_options_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 40, 20)
    assert "--patience 3 goes with --early-stopping" in run_here(tmp_path, "train", "--patience", "3", code=2).stderr
    train_here(tmp_path, *OPTIONS, "--max-steps", "1", "--out", "run")
    stderr = run_here(tmp_path, "train", "--resume", "run", "--early-stopping", code=2).stderr
    assert "--early-stopping needs images held out, and the run in run has none" in stderr


@pytest.mark.slow
def test_a_validation_loss_that_is_not_finite_is_not_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 40, 10)
    measure = Training._evaluate

    def overflowing(training: Training, name: str, data: Dataset) -> dict[str, Any]:
        found: dict[str, Any] = measure(training, name, data)
        return found | ({"validation_loss": None} if name == "validation" else {})

    monkeypatch.setattr(Training, "_evaluate", overflowing)
    assert main(["train", *STOPPING, "--no-report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished_epochs"] == 2


@pytest.mark.slow
def test_an_option_without_images_held_out_has_no_effect_and_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data", 20, 10)
    note = "note: --best-by accuracy has no effect"
    one = ("train", *OPTIONS[:-2], "--epochs", "1", "--no-report")
    for arguments, expected in ((("--best-by", "accuracy"), 1), (("--best-by", "accuracy", "--validation", "0.05"), 0)):
        assert main([*one, *arguments]) == 0
        said = capsys.readouterr().err
        assert said.count(note) == expected
    assert "\n1 image held out for validation, to decide which epoch is best\n" in said
