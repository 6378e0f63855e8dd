"""What comes back from a cluster: a wrong answer, or one from another version, is an error that names the worker."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.engine_contract import FEW, Opened, at, one_each
from kits.models import Scripted

import parallel_lenet
from parallel_lenet import Metrics, WorkerError
from parallel_lenet.engines.cluster import engine as cluster_engine
from parallel_lenet.engines.cluster import versions as cluster_versions
from parallel_lenet.engines.cluster.answers import check
from parallel_lenet.engines.cluster.engine import Cluster
from parallel_lenet.engines.cluster.task import GroupAnswer, GroupTask, Result, compute
from parallel_lenet.engines.cluster.versions import versions

GRADIENT = np.zeros(3, np.float32)
SHARDS = list(enumerate(one_each(FEW)[:4]))
TASKS = [
    GroupTask(7, "key", "context", GRADIENT, SHARDS[:2], True),
    GroupTask(7, "key", "context", GRADIENT, SHARDS[2:], True),
]
METRICS = Metrics(1.0, 0, 1)


def good(**changes: Any) -> GroupAnswer:
    """The answer to the first task, whose second result is changed."""
    first, second = (Result(7, number, METRICS, GRADIENT) for number in (0, 1))
    return GroupAnswer("host:1:2", 0.5, [first, second._replace(**changes)])


def raised(answer: object, had_setup: bool = True, tasks: list[GroupTask] = TASKS) -> str:
    with pytest.raises(WorkerError) as error:
        check(answer, tasks, had_setup=had_setup, cluster="dask")
    return str(error.value)


def test_a_right_answer_passes_also_with_nan_an_exception_at_its_end_or_no_results_for_want_of_the_setup() -> None:
    right = [
        good(),
        good(metrics=Metrics(math.nan, 0, 1), gradient=np.full(3, np.nan, np.float32)),
        good(metrics=Metrics(), gradient=None, failure=b"pickled"),
        GroupAnswer("host:1:2", 0.0, []),
        replace(good(), results=[result._replace(version=6) for result in good().results]),  # It comes late.
    ]
    for answer in right:
        assert check(answer, TASKS, had_setup=False, cluster="dask") is answer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gradient": np.zeros(4, np.float32)}, "a gradient of float32 and shape (4,), not of float32 and shape (3,)"),
        ({"gradient": np.zeros(3)}, "a gradient of float64 and shape (3,), not of float32"),
        ({"gradient": None}, "an object of type NoneType as its gradient"),
        ({"gradient": [0.0] * 3}, "an object of type list as its gradient"),
        ({"gradient": GRADIENT.view(np.recarray)}, "an object of type recarray as its gradient"),
        ({"metrics": (1.0, 0, 1)}, "metrics that are an object of type tuple"),
        ({"metrics": Metrics(np.float32(1), 0, 1)}, "a loss that is an object of type float32"),
        ({"metrics": Metrics(1.0, 0, 2)}, "a count of 2, not 1"),
        ({"metrics": Metrics(1.0, 2, 1)}, "2 correct answers, not 0 to 1"),
        ({"metrics": Metrics(1.0, True, 1)}, "True correct answers"),
        ({"failure": "text"}, "an object of type str as its exception"),
    ],
)
def test_a_wrong_result_is_an_error_that_names_the_worker_and_the_block(changes: dict[str, Any], words: str) -> None:
    assert f"worker host:1:2 of the dask cluster returned for block 1 {words}" in raised(good(**changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda answer: {"loss": 1.0},
            "a worker of the dask cluster returned an object of type dict, not a GroupAnswer",
        ),
        (lambda answer: replace(answer, seconds=math.nan), "nan as the seconds it took"),
        (lambda answer: replace(answer, seconds=-1.0), "-1.0 as the seconds it took"),
        (lambda answer: replace(answer, worker=3), "an object of type int as its name"),
        (lambda answer: replace(answer, results=tuple(answer.results)), "results that are not a list"),
        (lambda answer: replace(answer, results=[None]), "results that are not a list of Result"),
        (lambda answer: replace(answer, results=[]), "no results, although it was sent the model and the data"),
        (lambda answer: replace(answer, results=answer.results[:1]), "results of the blocks [0], not of [0, 1]"),
        (lambda answer: replace(answer, results=answer.results[::-1]), "block 1, for which it was not asked"),
        (lambda answer: replace(answer, results=answer.results[:1] * 2), "results of the blocks [0, 0]"),
        (lambda answer: replace(answer, results=[r._replace(block=9) for r in answer.results]), "step 7, block 9"),
        (lambda answer: replace(answer, results=[r._replace(version=8) for r in answer.results]), "step 8, block 0"),
        (lambda answer: replace(answer, results=[answer.results[0], answer.results[1]._replace(version=6)]), "[7, 6]"),
        (
            lambda answer: replace(answer, results=[answer.results[0]._replace(failure=b"x"), answer.results[1]]),
            "an exception, and results after it",
        ),
    ],
)
def test_an_answer_to_something_else_is_an_error(change: Callable[[GroupAnswer], object], words: str) -> None:
    assert words in raised(change(good()))


def test_a_gradient_that_nobody_asked_for_is_an_error() -> None:
    assert "a gradient, for which it was not asked" in raised(
        good(), tasks=[replace(task, gradients=False) for task in TASKS]
    )


@pytest.mark.parametrize("name", ["Python", "NumPy", "Numba", "parallel_lenet", "the source of parallel_lenet"])
def test_another_version_on_either_side_is_refused_and_both_are_named(name: str) -> None:
    assert name in versions()
    theirs = {**versions(), name: "0.0"}
    message = raised(replace(good(), versions=theirs))
    assert f"worker host:1:2 of the dask cluster has {name} 0.0, and the coordinator {versions()[name]}" in message
    answer = compute(replace(TASKS[0], versions=theirs), np.frombuffer(b"not to be unpickled", np.uint8))
    assert answer.results == []
    assert answer.versions == versions()


def test_an_answer_from_before_there_was_a_check_is_another_version() -> None:
    answer = good()
    object.__delattr__(answer, "versions")
    assert "has another version of parallel_lenet" in raised(answer)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of two files."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_bytes(b"one\ntwo\n")
    (tmp_path / "inner" / "b.py").write_bytes(b"")
    monkeypatch.setattr(cluster_versions, "PACKAGE", tmp_path)
    versions.cache_clear()
    yield tmp_path
    versions.cache_clear()


def test_other_source_with_the_same_version_is_another_version_but_line_ends_of_windows_are_not(source: Path) -> None:
    before = versions()
    changes: list[tuple[str, bytes, bool]] = [
        ("a.py", b"one\r\ntwo\r\n", True),
        ("a.py", b"one\ntwO\n", False),
        ("inner/c.py", b"", False),
    ]
    for name, text, same in changes:
        file = source / name
        kept = file.read_bytes() if file.exists() else None
        file.write_bytes(text)
        versions.cache_clear()
        assert (versions() == before) == same
        file.unlink() if kept is None else file.write_bytes(kept)


def test_the_hash_is_that_of_the_whole_package() -> None:
    assert Path(parallel_lenet.__file__).parent == cluster_versions.PACKAGE


def test_the_engine_ends_with_the_error_and_takes_nothing_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(task: GroupTask, blob: Any) -> GroupAnswer:
        answer = compute(task, blob)
        return replace(answer, results=[result._replace(gradient=np.zeros(1)) for result in answer.results])

    monkeypatch.setattr(cluster_engine, "compute", wrong)
    with Cluster("threading", n_workers=2) as engine:
        opened = Opened(engine, Scripted(), (FEW,), at(0))
        with pytest.raises(
            WorkerError, match=r"worker \S+ of the threading cluster returned for block \d a gradient of"
        ):
            list(opened.gradients(at(0), one_each(FEW)))
