"""The benchmark runs and reports what it names. No test judges what it finds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kits.programs import PYTHON, run

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[1] / "scripts"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(SCRIPTS, "benchmark.py", *arguments, command=PYTHON)


def test_engines_reports_the_overhead_of_each() -> None:
    result = benchmark("engines", "--rounds", "1", "--json")
    report = json.loads(result.stdout)
    assert set(report["ms_a_step"]) == {"serial", "processes, 1 worker", "processes, 2 workers"}
    assert all(value > 0 for value in report["ms_a_step"].values())
    assert {"cpu", "python", "numpy"} <= set(report["machine"])


def test_kernels_prints_a_table_with_the_machine() -> None:
    result = benchmark("kernels", "--rounds", "1")
    for words in ("naive, shards of 1", "im2col, shards of 32", "sgemm", "numpy"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["brakes"], "brakes"),
        (["kernels", "--rounds", "0"], "--rounds"),
        (["kernels", "--picture", "x.png"], "unrecognized arguments: --picture x.png"),
        (["scaling", "--picture", "x.foo"], "argument --picture: must end in .png or .svg, got x.foo"),
        (["scaling", "--picture", "nowhere/x.png"], "argument --picture: nowhere/x.png: there is no such folder"),
        (["scaling", "--out", "x.json"], "unrecognized arguments: --out x.json"),
        (["many-cores", "--out", "nowhere/x.json"], "argument --out: nowhere/x.json: there is no such folder"),
        (["peers", "--batch-size", "1"], "argument --batch-size: must be a whole number of at least 2, got 1"),
        (["epoch", "--batch-size", "64"], "unrecognized arguments: --batch-size 64"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistake_is_named(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from benchmark import main

    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert words in capsys.readouterr().err


def test_the_parts_of_a_step_add_up_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from benchmarks.common import PARTS, counts, parts

    from parallel_lenet import StepReport, StepTimes

    def step(seconds: float, adding: float = 0.5, **computing: float) -> StepReport:
        times = StepTimes(waiting=4.0, adding=adding, updating=1.0, computing=computing)
        return StepReport(1, 1, 2.3, 0.1, 128, 1.0, seconds, times=times)

    one = parts([step(7.0, a=3.0, b=5.0)], workers=2)
    assert one == {"computing": 4.0, "waiting": 1.0, "adding": 0.5, "optimizer": 1.0, "messages": 0.5}
    # Two of these 2.5 s of adding took place while the workers computed. One of the three workers had nothing to do.
    overlapping = parts([step(6.5, adding=2.5, a=3.0, b=5.0)], workers=3)
    assert overlapping == {
        "computing": pytest.approx(8 / 3),
        "waiting": pytest.approx(7 / 3),
        "adding": 0.5,
        "optimizer": 1.0,
        "messages": 0.0,
    }
    # Of four steps the fastest and the slowest, which something else held up, don't count.
    several = parts([step(99.0, a=1.0), step(8.0, a=5.0), step(0.1, a=0.0), step(9.0, a=6.0)], workers=1)
    assert sum(several.values()) == pytest.approx(8.5)
    assert several["computing"] == pytest.approx(5.5)
    assert tuple(several) == PARTS
    assert [counts(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


def test_many_cores_stops_if_results_differ_and_writes_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from benchmark import main
    from benchmarks import many_cores
    from benchmarks.common import Report

    file = tmp_path / "found.json"

    def second(arguments: Any) -> Report:
        assert json.loads(file.read_text())["first"]["x"] == 1  # Written before the next part begins.
        return Report("two", ("",), [("b",)], {"y": 2})

    parts = {"first": lambda arguments: Report("one", ("",), [("a",)], {"x": 1}), "second": second}
    monkeypatch.setattr(many_cores, "MEASURED", parts)
    assert main(["many-cores", "--json", "--out", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["second"]["y"] == json.loads(file.read_text())["second"]["y"] == 2

    class Wrong:
        """Each number of workers trains to other parameters."""

        def __init__(self, batch_size: int, n_workers: int) -> None:
            self.n_workers = n_workers

        def __enter__(self) -> "Wrong":
            return self

        def __exit__(self, *error: object) -> None: ...

        def parameters_sha256(self) -> str:
            return str(self.n_workers)

    monkeypatch.setattr(many_cores, "MEASURED", {"hashes": many_cores.hashes})
    monkeypatch.setattr(many_cores, "reports", lambda *arguments: [])
    monkeypatch.setattr(many_cores.scaling, "coordinator", Wrong)
    with pytest.raises(SystemExit, match=r"^batches of 128: the workers' results differ: {'1 \(1 run\)': '1', "):
        main(["many-cores"])


def test_a_picture_that_cannot_be_drawn_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from benchmark import main

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match=r"^--picture needs matplotlib, which is installed but does not work"):
        main(["peers", "--picture", str(tmp_path / "x.png")])


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    program = """
from benchmarks.picture import DRAWN
machine = {"cpu": "abacus", "numpy": "2.0"}
DRAWN["peers"]({"batch_size": 128, "epoch_seconds": {"compiled": 1.5, "PyTorch eager": 5.0}}, machine, "peers.png")
parts = {"computing": 3.0, "waiting": 0.1, "adding": 0.2, "optimizer": 0.1, "messages": 0.3}
row = {"step_ms": 3.7, "speedup": 1.0, "hardware": 1.0, "parts_ms": parts}
rows = [{**row, "workers": workers} for workers in (1, 2)]
DRAWN["scaling"]({"kernel": "compiled", "batches": {"128": rows, "512": rows}}, machine, "scaling.svg")
"""
    run(
        tmp_path,
        "-c",
        program,
        command=PYTHON,
        env={"PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])},
    )
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "scaling.svg").read_text()
