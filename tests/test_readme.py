"""The README's programs run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_there_are_two_commands_to_set_up_with() -> None:
    assert len(re.findall(r"^python3 -m venv .* && .*pip install", README, re.MULTILINE)) == 2


def test_files_that_the_readme_names_exist() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parents[1] / name).exists(), name


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.splitlines()[0])
def test_a_program_of_the_readme_runs(program: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-"],
        input=program,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    accuracy = float(re.findall(r"accuracy=([0-9.]+)", result.stdout)[-1])
    assert accuracy > 0.85, result.stdout
