"""The programs of the README and of docs/ run as they stand there, and what the texts name exists."""

import re
import shlex
from pathlib import Path

import pytest
from kits.programs import PYTHON, run

from parallel_lenet.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = [
    pytest.param(program, id=f"{page.stem}: {program.strip().splitlines()[0]}")
    for page in PAGES
    for program in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


def test_there_are_two_commands_to_set_up_with() -> None:
    assert len(re.findall(r"^python3 -m venv .* && .*pip install -e", README, re.MULTILINE)) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / name).exists(), name


@pytest.mark.parametrize("page", ["export", "trackers"])
def test_the_commands_of_a_page_work_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\.venv/bin/parallel-lenet (.*)$", text, re.MULTILINE)
    assert commands
    for command in map(shlex.split, commands):
        cheap = (
            ["--engine", "serial", "--kernel", "im2col"] if command[0] == "train" and "--resume" not in command else []
        )
        assert main([*command, *cheap]) == 0, command


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs(program: str, tmp_path: Path) -> None:
    result = run(tmp_path, "-W", "error", "-", command=PYTHON, stdin=program)
    assert result.stderr == ""
    accuracy = float(re.findall(r"accuracy=([0-9.]+)", result.stdout)[-1])
    assert accuracy > 0.85, result.stdout
