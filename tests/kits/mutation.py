"""Mutation testing with mutmut 3 of the modules that decide bits: ``python tests/kits/mutation.py [MODULE...]``.

Changes operators, numbers and names of one module at a time, in a temporary copy of the project, and counts the changes
that the module's fast tests notice. Prints the score and the changes that no test noticed. It takes minutes per module,
with one process at the lowest priority. ``pip install mutmut`` first.
"""

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
    "optimizers.py": ["test_optimizers.py"],
    "checkpoint.py": ["test_checkpoint.py", "test_archive.py"],
    "engines/processes/dispatcher.py": ["test_engine_states.py"],
    "coordinator.py": ["test_coordinator.py"],
}
SETTINGS = """
[tool.mutmut]
source_paths = ["parallel_lenet"]
only_mutate = ["parallel_lenet/{module}"]
pytest_add_cli_args = ["-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
pytest_add_cli_args_test_selection = {tests}
also_copy = ["tests", "scripts", "docs", "README.md", "pyproject.toml"]
"""


def run(module: str) -> None:
    """Print what mutmut finds out about a module."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for name in COPIED:
            source, copy = ROOT / name, Path(folder, name)
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
        with open(Path(folder, "pyproject.toml"), "a", encoding="utf-8") as file:
            file.write(SETTINGS.format(module=module, tests=[f"tests/{test}" for test in MODULES[module]]))
        mutmut = ["nice", "-n", "10", sys.executable, "-m", "mutmut"]
        Path(folder, "mutants").mkdir()  # Python forgets a folder of its path that is not there when it starts.
        environment = {**os.environ, "PYTHONPATH": str(Path(folder, "mutants"))}
        result = subprocess.run(
            [*mutmut, "run", "--max-children", "1"], cwd=folder, env=environment, capture_output=True, text=True
        )
        if result.returncode:
            raise SystemExit(result.stdout[-3000:] + result.stderr[-3000:])
        listed = subprocess.run([*mutmut, "results", "--all", "true"], cwd=folder, capture_output=True, text=True)
        states = dict(line.strip().rsplit(": ", 1) for line in listed.stdout.splitlines() if ": " in line)
        counted = [state for state in states.values() if state != "no tests"]
        noticed = len([state for state in counted if state != "survived"])
        print(
            f"{module}: {noticed} of {len(counted)} changes noticed, {len(states) - len(counted)} not run", flush=True
        )
        for name in (name for name, state in states.items() if state == "survived"):
            shown = subprocess.run([*mutmut, "show", name], cwd=folder, capture_output=True, text=True).stdout
            print("\n".join(line for line in shown.splitlines() if line.startswith(("#", "-", "+"))), flush=True)


def main(modules: Sequence[str]) -> None:
    """Try these modules, or all."""
    for module in modules or MODULES:
        run(module)


if __name__ == "__main__":
    main(sys.argv[1:])
