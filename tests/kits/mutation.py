"""Mutation testing with mutmut 3 of the modules that decide bits: ``python tests/kits/mutation.py [MODULE...]``.

Changes operators, numbers and names of one module at a time, in a temporary copy of the project, and counts the changes
that the module's fast tests notice. Prints the score and the changes that no test noticed. It takes minutes per module,
with one process at a low priority. ``--minutes`` ends each module after that time, and counts what was tried until
then. ``--tenths`` tries only some of the changes, always the same ones. ``pip install mutmut`` first.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mutants import COPIED, ROOT

# A module, and the tests that run in one process and are about it.
MODULES = {
    "batching.py": ["test_batching.py"],
    "tree.py": ["test_tree.py"],
    "optimizers.py": ["test_optimizers.py", "test_updates.py"],
    "clipping.py": ["test_optimizers.py", "test_updates.py"],
    "checkpoint.py": ["test_checkpoint.py"],
    "engines/processes/dispatcher.py": ["test_dispatcher.py"],  # test_engine_states.py takes seconds per change.
    "averaging.py": ["test_averaging.py"],
    "settings.py": ["test_settings.py"],
    "coordinator.py": [
        *("test_coordinator.py", "test_coordinator_arguments.py", "test_coordinator_checkpoints.py"),
        *("test_coordinator_reports.py", "test_finite.py", "test_stopping.py"),
        "test_display.py::test_a_coordinator_in_every_state",
        "test_sample_weights.py::test_a_batch_without_weight_is_skipped",
        "test_probabilities.py::test_errors_are_those_of_predict",
        "test_probabilities.py::test_a_model_of_ones_own_tells_them",
        "test_probabilities.py::test_a_model_without_them_is_named",
        "test_snapshots.py::test_a_coordinator_or_an_engine_cannot_be_copied_and_says_what_to_do",
        "test_turns.py::test_a_loop_that_another_thread_left_refuses_nothing",
        "test_tracing.py::test_a_trace_shows_the_times_of_the_reports",
        "test_updates.py::test_a_long_model_trains_to_the_same_bits_for_any_number_of_workers",
    ],
}
# Tests of seconds, each of which would be repeated for every change that no test notices.
LONG = " or ".join(
    [
        *("against_torch", "compiled", "slow_kernel", "users_own", "command", "configuration", "identical"),
        *("obeys_the_law", "counts_every_sample", "global_random", "callers_arrays", "how_a_dataset", "taken_over"),
        *("far_above", "every_position"),
    ]
)
# At the end of conftest.py, in the copy: a test ends as skipped at its first worker process.
NO_PROCESSES = """
from parallel_lenet.engines.processes.engine import ProcessesEngine

ProcessesEngine.start = lambda *_: pytest.skip("starts a process")
"""
DIGITS = "3705819264"  # Last digits of a change's number: the first of them are the first tenth, and so on.
TIMED_OUT = 124  # The exit code of timeout(1).
SETTINGS = """
[tool.mutmut]
source_paths = ["parallel_lenet"]
only_mutate = ["parallel_lenet/{module}"]
pytest_add_cli_args = ["-n", "0", "-p", "no:cacheprovider", "-m", "not slow", "-k", "not ({long})"]
pytest_add_cli_args_test_selection = {tests}
timeout_constant = 4.0  # Seconds, times 15: for a busy machine.
also_copy = ["tests", "scripts", "docs", "README.md", "pyproject.toml"]
"""


def run(module: str, minutes: float | None, tenths: int) -> None:
    """Print what mutmut finds out about some tenths of a module's changes, within this number of minutes, if given."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for name in COPIED:
            source = ROOT / name
            copy = Path(folder, name)
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
        undecorate(Path(folder, "parallel_lenet", module))
        with open(Path(folder, "tests", "conftest.py"), "a", encoding="utf-8") as file:
            file.write(NO_PROCESSES)
        with open(Path(folder, "pyproject.toml"), "a", encoding="utf-8") as file:
            tests = [f"tests/{test}" for test in MODULES[module]]
            file.write(SETTINGS.format(module=module, long=LONG, tests=tests))
        mutmut = ["nice", "-n", "10", sys.executable, "-m", "mutmut"]
        Path(folder, "mutants").mkdir()  # Python forgets a folder of its path that is not there when it starts.
        environment = {**os.environ, "PYTHONPATH": str(Path(folder, "mutants"))}
        limit = [] if minutes is None else ["timeout", "--signal=INT", f"{minutes}m"]
        chosen = [] if tenths == len(DIGITS) else [f"*{digit}" for digit in DIGITS[:tenths]]
        command = [*limit, *mutmut, "run", "--max-children", "1", *chosen]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if result.returncode not in (0, TIMED_OUT):
            raise SystemExit(result.stdout[-3000:] + result.stderr[-3000:])
        listed = subprocess.run([*mutmut, "results", "--all", "true"], cwd=folder, capture_output=True, text=True)
        states = dict(line.strip().rsplit(": ", 1) for line in listed.stdout.splitlines() if ": " in line)
        counted = [state for state in states.values() if state not in ("no tests", "not checked")]
        noticed = len([state for state in counted if state != "survived"])
        left = len(states) - len(counted)
        print(f"{module}: {noticed} of {len(counted)} changes noticed, {left} not tried", flush=True)
        for name in (name for name, state in states.items() if state == "survived"):
            shown = subprocess.run([*mutmut, "show", name], cwd=folder, capture_output=True, text=True).stdout
            print("\n".join(line for line in shown.splitlines() if line.startswith(("#", "-", "+"))), flush=True)


def undecorate(path: Path) -> None:
    """Replace ``@name`` above functions by ``function = name(function)`` below: mutmut leaves out what is decorated."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for function in sorted(functions, key=lambda function: function.lineno, reverse=True):
        match function.decorator_list:
            case [ast.Name(name) as decorator] if name not in ("classmethod", "staticmethod"):
                call = f"{function.name} = {name}({function.name})"
                lines.insert(function.end_lineno or 0, " " * function.col_offset + call)
                lines[decorator.lineno - 1] = ""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Try the modules that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"any of {', '.join(MODULES)}")
    parser.add_argument("--minutes", type=float, help="end each module after this time (default: when all are tried)")
    parser.add_argument("--tenths", type=int, choices=range(1, 11), default=10, help="the part to try (default: all)")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.modules) - set(MODULES):
        parser.error(f"unknown module {sorted(unknown)[0]!r}: choose from {', '.join(MODULES)}")
    for module in arguments.modules or MODULES:
        run(module, arguments.minutes, arguments.tenths)


if __name__ == "__main__":
    main()
