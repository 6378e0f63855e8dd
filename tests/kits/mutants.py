"""Faults put into the package by hand, and the test that notices each: ``python tests/kits/mutants.py [WORD...]``.

Every mutant is a text of the package that occurs once, and what takes its place. The script copies the project to a
temporary folder, checks that the tests pass there, makes one change at a time and runs the mutant's test, which must
fail. With words it takes only the mutants whose names contain one of them. The exit code is the number of mutants that
no test noticed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COPIED = ("parallel_lenet", "scripts", "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md")


class Mutant(NamedTuple):
    """A fault."""

    name: str
    old: str
    new: str
    test: str
    """FILE::FUNCTION, in the folder tests. All its parameters are run."""


MUTANTS = [
    Mutant(
        "the mean is taken over batch_size, not over the samples of a short last batch",
        "gradient = mean(sums, metrics.weight, memory, threads)",
        "gradient = mean(sums, 56, memory, threads)",  # The batch_size of the test.
        "test_coordinator.py::test_every_batch_counts_by_its_samples_and_every_epoch_has_an_order_of_its_own",
    ),
    Mutant(
        "the reported loss of a step is divided by batch_size",
        "loss=metrics.loss,",
        "loss=metrics.loss_sum / self.batch_size,",
        "test_coordinator.py::test_every_batch_counts_by_its_samples_and_every_epoch_has_an_order_of_its_own",
    ),
    Mutant(
        "every epoch has the same order",
        "self._order = epoch, epoch_order(seed, epoch,",
        "self._order = epoch, epoch_order(seed, 0,",
        "test_coordinator.py::test_every_batch_counts_by_its_samples_and_every_epoch_has_an_order_of_its_own",
    ),
    Mutant(
        "the order ignores the epoch",
        "return permutation((seed, epoch), samples)",
        "return permutation((seed, 0), samples)",
        "test_batching.py::test_epochs_and_seeds_differ",
    ),
    Mutant(
        "Adam's first correction is off by one step",
        "1 - power(self.beta1, t)",
        "1 - power(self.beta1, t + 1)",
        "test_optimizers.py::test_long_runs_follow_the_formulas",
    ),
    Mutant(
        "Adam's second correction is off by one step",
        "1 - power(self.beta2, t)",
        "1 - power(self.beta2, t + 1)",
        "test_optimizers.py::test_long_runs_follow_the_formulas",
    ),
    Mutant(
        "AdamW's decay is applied twice after 2,000 steps",
        "*self._decay(rate))",
        "*self._decay(rate * (2 if step > 2000 else 1)))",
        "test_optimizers.py::test_long_runs_follow_the_formulas",
    ),
    Mutant(
        "a file is renamed before its content is on the disk",
        "_flush_to_disk(file.fileno())",
        "file.fileno()",
        "test_files.py::test_the_content_is_on_the_disk_before_the_name_and_then_the_name_is",
    ),
    Mutant(
        "a folder is not flushed after a rename",
        "_flush_to_disk(folder)",
        "pass",
        "test_files.py::test_the_content_is_on_the_disk_before_the_name_and_then_the_name_is",
    ),
    Mutant(
        "the name of a temporary file can be foreseen",
        'f".{secrets.token_hex(8)}"',
        'f".{os.getpid():016x}"',
        "test_files.py::test_nobody_can_foresee_the_temporary_name_and_a_link_there_is_not_followed",
    ),
    Mutant(
        "a link in the place of a temporary file is followed",
        '"xb", opener=lambda name, flags: os.open(name, flags, before or 0o666)',
        '"wb"',
        "test_files.py::test_nobody_can_foresee_the_temporary_name_and_a_link_there_is_not_followed",
    ),
    Mutant(
        "workers do not ask for the parent-death signal",
        "_request_death_signal(int(parent), int(thread))",
        "pass",
        "test_worker_death.py::test_workers_end_with_a_killed_coordinator",
    ),
    Mutant(
        "workers do not watch their parent",
        "threading.Thread(target=_exit_after_parent, args=(int(parent),), daemon=True).start()",
        "pass",
        "test_worker_death.py::test_workers_end_with_a_killed_coordinator",
    ),
    Mutant(
        "workers are in the process group of the program",
        "process_group=0,",
        "",
        "test_start.py::test_workers_hash_alike_have_a_group_of_their_own_and_hand_down_no_descriptor",
    ),
    Mutant(
        "workers import from the current folder first",
        '"-P", *_flags()',
        "*_flags()",
        "test_imports.py::test_files_with_names_of_the_standard_library_beside_the_program_are_not_taken_for_it",
    ),
    Mutant(
        "the program's path comes before the standard library",
        "sys.path[max(library, default=-1) + 1:0]",
        "sys.path[0:0]",
        "test_imports.py::test_files_with_names_of_the_standard_library_beside_the_program_are_not_taken_for_it",
    ),
    Mutant(
        "shared memory is not reserved",
        "os.posix_fallocate(file.fileno(), 0, size)",
        "pass",
        "test_memory.py::test_memory_is_reserved_when_a_block_is_made",
    ),
    Mutant(
        "a worker of a cluster may have another NumPy",
        '"NumPy": np.__version__,',
        "",
        "test_cluster_answers.py::test_another_version_on_either_side_is_refused_and_both_are_named",
    ),
    Mutant(
        "the coordinator takes an answer of another version",
        "if theirs.get(name) != value:",
        "if False:",
        "test_cluster_answers.py::test_another_version_on_either_side_is_refused_and_both_are_named",
    ),
    Mutant(
        "a worker of a cluster computes for a coordinator of another version",
        "if task.versions != versions():",
        "if False:",
        "test_cluster_answers.py::test_another_version_on_either_side_is_refused_and_both_are_named",
    ),
]


def place(mutant: Mutant, root: Path = ROOT) -> Path:
    """The file that holds the mutant's text. Raises ValueError unless it occurs exactly once in the package."""
    files = [file for file in sorted((root / "parallel_lenet").rglob("*.py")) if mutant.old in file.read_text()]
    if len(files) != 1 or files[0].read_text().count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} must occur once in the package, not in {files}")
    return files[0]


def passes(root: Path, tests: Sequence[str]) -> bool:
    """Whether these tests of the copy pass. A worker of a hung test ends with the test's deadline."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-x", *(f"tests/{test}" for test in tests)]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if result.returncode not in (0, 1):  # Anything else is a mistake in the mutant, or in how the test is called.
        raise RuntimeError(result.stdout + result.stderr)
    return result.returncode == 0


def main(words: Sequence[str]) -> int:
    """Try the mutants whose names contain one of the words, or all."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    if not chosen:
        raise SystemExit(f"the name of no fault contains {' or '.join(words)}")
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in COPIED:
            source = ROOT / name
            copy = Path(folder, name)
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
        if not passes(Path(folder), sorted({mutant.test for mutant in chosen})):
            raise SystemExit("the tests must pass before anything is changed")
        for mutant in chosen:
            file = place(mutant, Path(folder))
            text = file.read_text()
            file.write_text(text.replace(mutant.old, mutant.new))
            noticed = not passes(Path(folder), [mutant.test])
            file.write_text(text)
            unnoticed += not noticed
            print("noticed  " if noticed else "UNNOTICED", mutant.name, f"({mutant.test})", flush=True)
    return unnoticed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
