"""The benchmark runs and reports what it names; what it finds is for people to judge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kits.programs import environment

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[1] / "scripts"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=110)


def test_engines_reports_the_overhead_of_each() -> None:
    result = benchmark("engines", "--rounds", "1", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert set(report["ms_a_step"]) == {"serial", "processes, 1 worker", "processes, 2 workers"}
    assert all(value > 0 for value in report["ms_a_step"].values())
    assert {"cpu", "python", "numpy"} <= set(report["machine"])


def test_kernels_prints_a_table_with_the_machine() -> None:
    result = benchmark("kernels", "--rounds", "1")
    assert result.returncode == 0, result.stderr
    for words in ("naive, shards of 1", "im2col, shards of 32", "sgemm", "numpy"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["brakes"], "brakes"),
        (["kernels", "--rounds", "0"], "--rounds"),
        (["kernels", "--picture", "x.png"], "--picture draws peers, scaling, simulation, not kernels"),
        (["simulation", "--gbit", "0"], "--gbit"),
        (["simulation", "--picture", "x.foo"], "--picture must end in .png or .svg, not x.foo"),
        (["simulation", "--picture", "nowhere/x.png"], "--picture nowhere/x.png: there is no such folder"),
        (["simulation", "--latency-ms", "-1"], "--latency-ms"),
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


def test_the_simulation_agrees_with_sums_done_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from benchmarks.simulation import Costs, Place, predict

    free = Costs(shard=1.0, add=0.0, optimizer=0.0, call=0.0, task=0.0, take=0.0, gradient_bytes=100)
    here = Place()
    # 8 shards are 4 pairs; with 3 workers a pair each, then the two halves of the last one; with 8 halves only.
    assert [predict(free, w, 8, here) for w in (1, 2, 3, 4, 8, 1000)] == [8, 4, 3, 2, 1, 1]
    # 4 gradients of 100 bytes at 10 bytes a second, which is more than they take to compute; and two ways of 3 s each.
    assert predict(free, 4, 8, Place(latency=3.0, bandwidth=10.0)) == 4 * 10 + 2 * 3
    # What the coordinator does alone: the optimizer, a call, 4 tasks, 4 additions; and one addition in the worker.
    costly = Costs(shard=1.0, add=0.5, optimizer=7.0, call=11.0, task=13.0, take=0.0, gradient_bytes=100)
    assert predict(costly, 4, 8, here) == 2 * 1.0 + 0.5 + 7 + 11 + 4 * 13 + 4 * 0.5
    # On one machine with 2 cores, four workers are no more than two.
    assert predict(free, 4, 8, Place(cores=2)) == 4


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
found = {"step_ms": {"1": 5.0, "2": 3.0}, "predicted_ms": {"1": 5.0, "2": 2.9, "4": 1.6}}
speedups = {128: [1.0, 1.9], 512: [1.0, 2.0]}
simulated = {"workers": [1, 2], "backend": "dask", "latency_ms": 0.2, "gbit": 10.0, "naive": {"speedups": speedups}}
DRAWN["simulation"](simulated, machine, "simulation.png")
DRAWN["scaling"]({"batch_size": 128, "naive": found, "compiled": found}, machine, "scaling.svg")
"""
    subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONPATH=os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])),
        cwd=tmp_path,
        check=True,
        timeout=100,
    )
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "scaling.svg").read_text()
