"""The page about a run, and the commands report, runs and compare, on runs of every kind."""

import json
import math
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kits.browser import sticking_out
from kits.models import Softmax
from kits.programs import write_idx
from numpy.testing import assert_array_equal

from parallel_lenet import SGD, Coordinator, Dataset, StepReport, lenet5
from parallel_lenet.cli import main
from parallel_lenet.cli import report as report_command
from parallel_lenet.cli._console import Console
from parallel_lenet.report import charts, insides, make, page, summary
from parallel_lenet.report.series import curve
from parallel_lenet.report.timeline import Session, sessions
from parallel_lenet.runs import environment, events, predictions, steps
from parallel_lenet.runs.differences import compare
from parallel_lenet.runs.events import Event
from parallel_lenet.runs.run import Run

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

HOSTILE = "<script>document.title = 'taken'<"
FAST = ("--engine", "serial", "--kernel", "im2col", "--batch-size", "8", "--quiet", "--warmup", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs: ``first``, ``second`` with another seed, and one with colours, a hostile name and a report of its own."""
    folder = tmp_path_factory.mktemp("runs")
    write_idx(folder / "data", 60, 30)
    write_idx(folder / HOSTILE, 40, 30, shape=(12, 16, 3), classes=13)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["train", *FAST, "--epochs", "2", "--no-report"]
        assert main([*arguments, "--data-dir", "data", "--validation", "0.2", "--out", "first"]) == 0
        assert main([*arguments, "--data-dir", "data", "--validation", "0.2", "--seed", "1", "--out", "second"]) == 0
        assert main([*arguments[:-1], "--data-dir", HOSTILE, "--report", "--out", f"{HOSTILE} $x_1$ run"]) == 0
        yield folder


def copied(folder: Path, name: str, to: Path) -> Path:
    shutil.copytree(folder / name, to)
    return to


def test_the_page_of_a_run_in_the_browser(folder: Path, tmp_path: Path, open_page: Any) -> None:
    shown = open_page(folder / f"{HOSTILE} $x_1$ run" / "report.html", width=380, reduced_motion="reduce")
    drawn = set()
    for dark in (False, True):
        shown.emulate_media(color_scheme="dark" if dark else "light")
        for width in (380, 768, 1400):
            shown.set_viewport_size({"width": width, "height": 900})
            assert sticking_out(shown) == []
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
        style = "element => getComputedStyle(element).stroke"
        drawn.add(shown.eval_on_selector(".chart path[style*='stroke: var(--series-1)']", style))
    assert len(drawn) == 2
    shown.emulate_media(media="print")
    shown.set_viewport_size({"width": 670, "height": 900})  # What A4 leaves between its margins.
    assert sticking_out(shown) == []
    shown.emulate_media(media="screen")
    assert shown.title() == f"{HOSTILE} $x_1$ run: training report"
    titles = shown.eval_on_selector_all("h2", "all => all.map(each => each.textContent)")
    assert len(titles) == 7
    for picture in shown.query_selector_all("svg.chart, img"):
        assert (picture.get_attribute("aria-label") or picture.get_attribute("alt")) != ""
    ids = shown.eval_on_selector_all("[id]", "all => all.map(each => each.id)")
    assert len(ids) == len(set(ids))
    found = predictions.load(folder / f"{HOSTILE} $x_1$ run")
    assert found is not None
    cells = shown.eval_on_selector_all(".confusion td", "all => all.map(each => Number(each.textContent))")
    assert cells == found.confusion().ravel().tolist()
    assert len(shown.query_selector_all(".gallery > li")) == len(found.mistakes) > 0
    # The keyboard reaches every link, box that scrolls, and the pad.
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement.className") == "pad-canvas":
            break
    else:
        pytest.fail("the pad is out of reach")
    box = shown.query_selector(".pad-canvas").bounding_box()
    shown.mouse.move(box["x"] + 60, box["y"] + 60)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 90, box["y"] + 200, steps=4)
    shown.mouse.up()
    shown.locator(".pad-status", has_text="It is a ").wait_for()
    pdf = shown.pdf()
    assert pdf[:4] == b"%PDF"


def test_a_page_has_what_tells_one_run_from_another(folder: Path) -> None:
    text = make([Run(folder / "first")])
    run = Run(folder / "first")
    assert len(text.encode()) < page.LARGEST
    for shown in (run.sha256, run.sessions[0]["repeat"], run.sessions[0]["versions"]["numpy"], "validation"):
        assert shown in text.replace("&#34;", '"').replace("&#39;", "'")
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert text.count("<svg") == 8


@pytest.mark.parametrize(("recipe", "smoothing"), [("quick", 0.1), (["<b>"], "0.1"), (None, 0.0)])
def test_a_page_names_the_recipe_and_says_that_the_training_loss_is_smoothed(
    folder: Path, tmp_path: Path, recipe: Any, smoothing: Any
) -> None:
    file = copied(folder, "first", tmp_path / "run") / "environment.json"
    written = json.loads(file.read_text())
    written["sessions"][-1]["options"] |= {"recipe": recipe, "label_smoothing": smoothing}
    file.write_text(json.dumps(written))
    run = Run(tmp_path / "run")
    remarks = {name: remark for name, _, remark in summary.cards(run)}
    caption = charts.learning_curves([Run(folder / "first"), run], ("a", "b"))[0][2]
    shown = ("by the recipe quick" in summary.subtitle(run), summary.RECIPE_NOTE in summary.subtitle(run))
    assert shown == (recipe == "quick", recipe == "quick")
    assert ("smoothed labels" in remarks["Training loss"], charts.SMOOTHING in caption) == shown


def test_classes_are_called_by_their_names_which_are_only_text(folder: Path, tmp_path: Path, open_page: Any) -> None:
    names = ["cat", f"</script>{HOSTILE}/script>", "猫", "שלום", "$x$", "", "two\nlines\udcff", "y" * 400]
    names += [f"class {i}" for i in range(8, 20)]
    run = Run(folder / f"{HOSTILE} $x_1$ run")
    assert run.checkpoint is not None
    assert run.model is not None
    assert run.predictions is not None
    called = [*names[:5], "5", "two lines\\udcff", f"{'y' * 299}…", *names[8:]][: run.model.classes]
    run.checkpoint.metadata["class_names"] = names[: run.model.classes]
    (tmp_path / "page.html").write_text(make([run]), "utf-8")
    shown = open_page(tmp_path / "page.html", width=380)
    assert shown.title() == f"{HOSTILE} $x_1$ run: training report"
    assert shown.evaluate("document.documentElement.scrollWidth") <= 380
    texts = "all => all.map(each => each.textContent.trim())"
    assert shown.eval_on_selector_all(".confusion thead th", texts)[1:] == called
    assert shown.eval_on_selector_all(".confusion tbody th", texts) == called
    assert shown.eval_on_selector_all(".confusion thead bdi", "all => all.map(each => each.title)") == called
    wrong = [(called[each.label], called[each.predicted]) for each in run.predictions.mistakes]
    said = shown.eval_on_selector_all(".gallery p", "all => all.map(p => [...p.children].map(b => b.textContent))")
    assert [tuple(pair) for pair in said] == wrong
    alts = shown.eval_on_selector_all(".gallery img", "all => all.map(each => each.alt)")
    assert [alt.split(": ", 1)[1] for alt in alts] == [f"{label}, taken for {taken}" for label, taken in wrong]
    assert shown.eval_on_selector_all(".pad-bars li > :first-child", texts) == called[:10]
    caption = shown.locator("p.title", has_text="the image").inner_text()
    assert caption == f"the image, of class {called[run.predictions.example_label]}"


@given(hnp.arrays(np.float64, st.integers(0, 400), elements=st.floats(-1e6, 1e6)), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_a_curve_has_few_points_and_loses_no_extreme(y: Any, points: int) -> None:
    x = np.arange(len(y), dtype=float)
    found = curve(x, y, points)
    assert len(found.x) <= min(points, max(len(y), 1))
    if len(y):
        assert (found.least.min(), found.most.max()) == (y.min(), y.max())
        assert ((found.least <= found.mean + 1e-6) & (found.mean <= found.most + 1e-6)).all()
        assert (np.diff(found.x) > 0).all()
        if len(y) <= points:
            assert_array_equal(found.mean, y)


def test_numbers_that_are_not_finite_are_left_out_of_a_curve() -> None:
    found = curve(np.arange(5.0), np.array([1, np.nan, 3, np.inf, -np.inf]))
    assert_array_equal(found.mean, [1, 3])
    assert len(curve(np.arange(2.0), np.full(2, np.nan)).x) == 0


def write_steps(folder: Path, count: int, loss: Any, per_epoch: int = 1000) -> None:
    """A run of this number of steps. The program's own writer makes the header and the first of them."""
    folder.mkdir(exist_ok=True)
    log = steps.StepLog(folder, 2)
    log.begin(0, 0)
    log.append(StepReport(1, 1, loss(1), 0.5, 8, 1.0, 0.01, learning_rate=0.1), 8, np.zeros(3), last=False)
    log.close()
    first = (folder / steps.FILE).read_text().splitlines()[1].split(",")
    with (folder / steps.FILE).open("a") as file:
        for step in range(2, count + 1):
            epoch, place = divmod(step - 1, per_epoch)
            values = [str(step), str(epoch + 1), str(8 * (place + 1)), "8", repr(loss(step)), *first[5:]]
            file.write(",".join(values) + "\n")


@pytest.mark.slow
def test_a_very_long_run_makes_a_small_page(tmp_path: Path) -> None:
    write_steps(tmp_path / "long", 100_000, lambda step: 1 / step + (step % 7) / 10)
    text = make([Run(tmp_path / "long")])
    assert len(text.encode()) < 400_000
    assert "over 100 epochs" in text
    assert "Without a checkpoint there is nothing to show of the network." in text


def test_a_run_of_one_step_and_one_that_is_all_nan_have_a_page(tmp_path: Path) -> None:
    write_steps(tmp_path / "one", 1, lambda step: 2.5)
    assert "Loss over" in make([Run(tmp_path / "one")])
    write_steps(tmp_path / "nan", 30, lambda step: math.nan)
    assert "Loss over" not in make([Run(tmp_path / "nan")])
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "metrics.jsonl").write_text("")
    assert "there is nothing to draw" in make([Run(tmp_path / "nothing")])


def test_a_model_of_the_users_own_has_a_page_without_what_cannot_be_shown(tmp_path: Path, digits: Dataset) -> None:
    (tmp_path / "own").mkdir()
    with Coordinator(Softmax(), SGD(0.1), engine="serial", batch_size=50) as coordinator:
        coordinator.fit(digits, 2)
        coordinator.save(tmp_path / "own" / "checkpoint.npz")
    text = make([Run(tmp_path / "own")])
    assert "A model of your own, with 7,850 parameters" in text
    assert text.count("The model is not made of this package&#39;s layers") == 2
    assert "Training loss" in text


def test_a_page_that_would_be_too_large_leaves_out_the_pad(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "LARGEST", 200_000)
    text = make([Run(folder / "first")])
    assert "<canvas" not in text
    assert "With the pad to draw on, the page would be too large" in text


def test_the_filters_before_training_are_those_that_the_seed_gives(folder: Path) -> None:
    run = Run(folder / "first")
    assert run.model is not None
    assert run.checkpoint is not None
    maps = insides.feature_maps(run.model, run.checkpoint.state.parameters, np.zeros((1, 1, 12, 12), np.uint8))
    assert [each.layer for each in maps][:3] == ["Conv2d: 6 x 28 x 28", "Tanh: 6 x 28 x 28", "AvgPool2d: 6 x 14 x 14"]
    shown = insides.filters(run.model, None, run.checkpoint.state.parameters)
    assert shown is not None
    assert (len(shown.before), len(shown.after), shown.more) == (0, 6, 0)
    colours = insides.colours(np.array([[-2.0, 0, 2.0, np.nan]]), 2.0)
    assert colours[0, 1].tolist() == [247, 247, 247] == colours[0, 3].tolist()
    assert colours[0, 0, 2] > colours[0, 0, 0]
    assert colours[0, 2, 0] > colours[0, 2, 2]
    assert insides.filters(lenet5(channels=3), None, lenet5(channels=3).initial_parameters(np.random.default_rng(0)))


def test_the_timeline_knows_when_the_program_ran() -> None:
    told = [
        Event("started", 10.0),
        Event("epoch", 15.0),
        Event("worker", 18.0),  # And then it was killed.
        Event("resumed", 100.0),
        Event("interrupted", 120.0),
        Event("resumed", 200.0),
    ]
    assert sessions(told, 230.0) == [Session(10, 18), Session(100, 120), Session(200, 230)]
    assert sessions([], None) == []


def test_a_label_cannot_be_a_formula_or_hide(tmp_path: Path) -> None:
    write_steps(tmp_path / "_$x_1$", 3, float)
    write_steps(tmp_path / "b", 3, float)
    text = make([Run(tmp_path / "_$x_1$"), Run(tmp_path / "b")])
    assert text.count("> _$x_1$<") > 0
    assert len(charts._legend_label("x" * 100)) == 32


def test_a_run_that_was_continued_with_other_epochs_is_repeated_by_two_commands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", *FAST, "--data-dir", str(folder / "data"), "--evaluate-on", "0"]
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--epochs", "3", "--max-steps", "11", "--out", "r"]) == 0
    assert main(["train", "--resume", "r", "--epochs", "4", "--max-steps", "99", "--engine", "serial", "--quiet"]) == 0
    commands = summary.commands(Run(tmp_path / "r"))
    assert len(commands) == 2
    for command in commands:
        assert main([*shlex.split(command)[1:], "--engine", "serial", "--quiet"]) == 0
    assert Run(tmp_path / "again").sha256 == Run(tmp_path / "r").sha256


# The commands.


@pytest.mark.slow
def test_report_writes_where_it_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = copied(folder, "first", tmp_path / "first")
    assert main(["report", str(first), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(first / "report.html")
    assert told["bytes"] == (first / "report.html").stat().st_size
    text = " ".join((first / "report.html").read_text().split())
    assert "of 30 test images are right" in text  # It looked at them now.
    assert not (first / predictions.FILE).exists()
    second = copied(folder, "second", tmp_path / "second")
    assert main(["report", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(tmp_path / "report.html")
    assert "2 runs compared" in (tmp_path / "report.html").read_text()
    assert main(["report", str(first), str(folder / "second"), "--out", str(tmp_path / "two.html")]) == 0
    assert "2 runs compared" in (tmp_path / "two.html").read_text()
    shutil.move(folder / "data", folder / "elsewhere")
    try:
        capsys.readouterr()
        assert main(["report", str(first)]) == 0
    finally:
        shutil.move(folder / "elsewhere", folder / "data")
    assert "no mistakes of" in capsys.readouterr().err
    for wrong, sentence in (
        ([str(tmp_path / "none")], "none does not exist: name the folder of a run"),
        ([str(tmp_path)], "is not the folder of a run"),
        ([str(first), "--out", str(tmp_path)], "--out must name a file"),
        ([str(first)] * 13, "a report is about 1 to 12 runs, got 13"),
    ):
        assert main(["report", *wrong]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1


def test_a_library_that_is_missing_or_broken_never_makes_a_training_fail(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    arguments = ["train", *FAST, "--data-dir", str(folder / "data"), "--max-steps", "1", "--report", "--out"]
    arguments.remove("--quiet")
    assert main([*arguments, str(tmp_path / "r")]) == 0
    noted = [line for line in capsys.readouterr().err.splitlines() if "no report" in line]
    assert len(noted) == 1
    assert "needs jinja2, which is not installed: pip install" in noted[0]
    assert (tmp_path / "r" / predictions.FILE).exists()
    assert main(["report", str(tmp_path / "r")]) == 1
    assert "pip install" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(page, "svg", lambda *_: 1 / 0)
    assert main([*arguments, str(tmp_path / "s")]) == 0
    assert "no report" in capsys.readouterr().err
    assert not (tmp_path / "s" / "report.html").exists()


def test_runs_lists_what_differs_and_fits_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(each["run"]).name for each in told["runs"]] == ["first", "second", f"{HOSTILE} $x_1$ run"]
    for each in told["runs"]:
        run = Run(Path(each["run"]))
        assert each["state"] == "finished"
        assert each["options"] == run.options
        assert each["parameters_sha256"] == run.sha256
        assert each["test_accuracy"] == run.epochs[-1]["test_accuracy"]
    from parallel_lenet.cli import runs

    for width in (40, 80, 250, None):
        header, rows, left_out = runs.table(told["runs"], width)
        assert header[0] == "run"
        taken = 1 + sum(max(len(cell) for cell in column) + 3 for column in zip(header, *rows, strict=True))
        assert width is None or taken <= width
        assert bool(left_out) == (width is not None and width < 250)
    assert {"seed", "data dir"} <= set(header)
    assert not {"batch size", "out"} & set(header)
    assert main(["runs", str(folder)]) == 0
    assert "3 runs in" in capsys.readouterr().out
    for wrong, sentence in ((str(folder / "data"), "holds no runs"), (str(folder / "none"), "does not exist")):
        assert main(["runs", wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_compare_says_nothing_of_steps_that_are_not_known(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(path.parent for path in folder.rglob("steps.csv"))
    lines = (run / "steps.csv").read_text().splitlines(keepends=True)
    cells = lines[3].split(",")
    for name, text, words in (
        ("same", "".join(lines), "every step and the result are the same"),
        ("empty", "", "the steps were not recorded"),
        ("huge", "".join([*lines[:3], ",".join(["9" * 5000, *cells[1:]]), *lines[4:]]), "number of steps"),
        ("other", "".join([*lines[:3], ",".join(["77777", *cells[1:]]), *lines[4:]]), "first step that the other has"),
    ):
        shutil.copytree(run, tmp_path / name)
        (tmp_path / name / "steps.csv").write_text(text)
        assert main(["compare", str(run), str(tmp_path / name)]) == 0
        assert words in " ".join(capsys.readouterr().out.split())


def test_compare_names_what_differs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = str(folder / "first"), str(folder / "second")
    assert main(["compare", first, first]) == 0
    assert "nothing differs" in capsys.readouterr().out
    assert main(["compare", first, second, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same"] is False
    assert told["equal_steps"] == 0
    assert told["differences"]["settings"] == [{"name": "seed", "left": 0, "right": 1}]
    assert told["left"]["options"]["seed"] == 0
    assert told["differences"]["steps"][0]["name"] == "first step with another loss"
    assert told["differences"]["steps"][0]["left"].startswith("step 1: ")
    other = copied(folder, "first", tmp_path / "other")
    lines = (other / steps.FILE).read_text().splitlines()
    loss = lines[5].split(",")[4]
    changed = repr(math.nextafter(float(loss), 9))  # One bit.
    (other / steps.FILE).write_text("\n".join([*lines[:5], lines[5].replace(loss, changed), *lines[6:]]) + "\n")
    said = json.loads((other / environment.FILE).read_text())
    said["sessions"][0]["versions"]["numpy"] = "0.0\x1b[31m"
    (other / environment.FILE).write_text(json.dumps(said))
    found = [(each.part, each.name) for each in compare(Run(Path(first)), Run(other)).differences]
    assert found == [("versions", "numpy"), ("steps", "first step with another loss")]
    assert main(["compare", first, str(other)]) == 0
    out = capsys.readouterr().out
    assert f"step 5: {changed}" in out
    assert "\x1b" not in out
    assert main(["compare", first, str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_every_file_damaged_still_makes_a_page(folder: Path, tmp_path: Path) -> None:
    run = copied(folder, f"{HOSTILE} $x_1$ run", tmp_path / "r")
    for file in run.iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    text = make([Run(run)])
    for name in (environment.FILE, events.FILE, predictions.FILE, "checkpoint.npz", "metrics.jsonl"):
        assert text.count(f"{name}: ") >= 1, name


def test_a_checkpoint_that_names_its_data_by_a_number_gives_no_mistakes(folder: Path) -> None:
    run = Run(folder / "second")
    assert run.checkpoint is not None
    run.checkpoint.metadata.update(data_dir=5, dataset="mnist-5k")
    run.predictions = None
    report_command._predict_if_missing(run, Console(quiet=True))
    assert run.predictions is None
