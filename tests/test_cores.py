"""How many workers: joblib's convention, over the cores that may be used."""

import math
import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from kits.programs import Run

from parallel_lenet import cores
from parallel_lenet.cores import WorkerCount, count_workers, usable_cores


def test_minus_one_is_all_usable_cores_as_joblib_counts_them() -> None:
    assert 1 <= usable_cores() <= joblib.cpu_count()
    usable = usable_cores()
    assert usable == 1 or count_workers(-1) == WorkerCount(usable, f"all {usable} usable cores", all=True)


def test_minus_two_is_all_but_one_and_never_none() -> None:
    assert count_workers(-2) == WorkerCount(
        usable_cores() - 1, f"{usable_cores() - 1} of {usable_cores()} usable cores"
    )
    assert count_workers(-1000).count == 1


def test_more_than_a_machine_can_have_is_a_slip() -> None:
    with pytest.raises(ValueError, match=r"the number of workers must be at most 1,024, got 1,025"):
        count_workers(1025)


@pytest.mark.parametrize("n", [1, 3, 1000, np.int64(2)])
def test_a_positive_number_is_taken_as_it_is(n: int) -> None:
    assert count_workers(n) == WorkerCount(n, "as asked")


def test_no_workers_is_an_error_that_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"must not be 0: use 1 or more, -1 for all usable cores, -2 for all but one"):
        count_workers(0)


@pytest.mark.parametrize("n", [True, False, 1.5, "2"])
def test_what_is_no_whole_number_is_named(n: Any) -> None:
    with pytest.raises(ValueError, match=f"the number of workers must be a whole number, got {n!r}"):
        count_workers(n)


@pytest.mark.parametrize(
    ("quota", "workers"), [(0.1, 1), (1.0, 1), (1.5, 2), (2.5, 3), (7.01, 8), (8.0, 8), (16.0, 8), (math.inf, 8)]
)
def test_a_quota_of_a_control_group_limits_the_cores_and_a_part_of_a_core_counts(
    quota: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert count_workers(-1).count == workers


PROGRAM = "from parallel_lenet.cores import count_workers as c; print(c(-1).count, c(-2).count, c(-1).origin)"


def test_the_environment_can_limit_the_cores(run: Run) -> None:
    assert run("-c", PROGRAM, env={"LOKY_MAX_CPU_COUNT": "1"}).stdout == "1 1 the only usable core\n"


def test_a_limit_in_the_environment_that_is_no_number_is_no_reason_to_fail(run: Run) -> None:
    assert run("-c", PROGRAM, env={"LOKY_MAX_CPU_COUNT": "many"}).stdout.endswith(" usable cores\n")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_affinity_limits_the_cores(run: Run) -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + PROGRAM
    assert run("-c", program).stdout == "1 1 the only usable core\n"


NESTED = """
import multiprocessing
from joblib import Parallel, cpu_count, delayed
from parallel_lenet.cores import count_workers, usable_cores

def here():
    return usable_cores(), count_workers(-1).count, count_workers(3).count

if __name__ == "__main__":
    print(set(Parallel(n_jobs=cpu_count())(delayed(here)() for _ in range(4))))
    with multiprocessing.Pool(1) as pool:
        print(pool.apply(here))
"""


@pytest.mark.slow
def test_one_of_several_parallel_jobs_has_its_share_of_the_cores(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "nested.py"
    program.write_text(NESTED)
    assert run(str(program), env={"LOKY_MAX_CPU_COUNT": "2"}).stdout == "{(1, 1, 3)}\n(1, 1, 3)\n"
