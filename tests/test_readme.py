"""The programs of the README and of docs/ run as they stand there, and what the texts name and command exists."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits.programs import PYTHON, run

from parallel_lenet.cli import COMMANDS, main
from parallel_lenet.cli._parser import parser, read

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
EXECUTED = ("export", "trackers", "command-line")
TEXTS = [pytest.param(page.read_text(encoding="utf-8"), id=page.relative_to(ROOT).as_posix()) for page in PAGES]
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
    for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        for name in re.findall(r"(?<![\w/.-])(?:parallel_lenet|scripts|tests|docs|notebooks)/[\w./-]+\.\w+", code):
            assert (ROOT / name).exists(), name
        if re.fullmatch(r"test_\w+\.py", code):
            assert (ROOT / "tests" / code).exists(), code


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of this package, in blocks and within sentences."""
    blocks = re.findall(r"^```(?:console|bash)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    for line in [line for block in blocks for line in block.splitlines()] + inline:
        for program, words in re.findall(
            r"(?:^|[ /(\"])(parallel-lenet|scripts/train\.py|-m parallel_lenet)((?: [^#|;&)\n]*)?)", line
        ):
            words = re.sub(r"\$\w+", "1", words).partition(" > ")[0]
            yield ["train"] * (program == "scripts/train.py") + shlex.split(words)


@pytest.mark.parametrize("text", TEXTS)
def test_the_commands_of_a_page_are_valid(text: str) -> None:
    for words in commands(text):
        if not {"--help", "--version", "help"} & {*words} and words:
            assert read(parser(COMMANDS), words).run, words


def test_commands_are_found_in_blocks_and_sentences() -> None:
    text = """Use `parallel-lenet runs x` or `python -m parallel_lenet verify`, not `--json`.
```console
for w in 1 2; do .venv/bin/python scripts/train.py --epochs 1 --workers $w --json; done | grep x
.venv/bin/parallel-lenet gradcheck     # all
```
"""
    found = [["train", "--epochs", "1", "--workers", "1", "--json"], ["gradcheck"], ["runs", "x"], ["verify"]]
    assert list(commands(text)) == found


@pytest.mark.parametrize("text", TEXTS)
def test_scripts_measurements_and_extras_that_a_page_names_exist(text: str) -> None:
    for name in re.findall(r"`(?:\.venv/bin/python )?(scripts/\w+\.py)", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"scripts/benchmark\.py ([a-z][a-z-]+)", text):
        assert (ROOT / "scripts" / "benchmarks" / f"{name.replace('-', '_')}.py").is_file(), name
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for group in re.findall(r"(?:parallel-lenet|\.)\[([\w,]+)\]", text):
        assert set(group.split(",")) <= extras.keys(), group


@pytest.mark.parametrize("text", TEXTS)
def test_lines_for_an_interpreter_are_python_and_their_imports_work(text: str) -> None:
    for block in re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        source = "\n".join(line[4:] for line in block.splitlines() if line.startswith((">>> ", "... ")))
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("parallel_lenet"):
                exec(compile(ast.Module([statement], []), "<page>", "exec"), {})


def test_the_index_names_every_page_once() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^- \[[^]]+\]\(([\w-]+\.md)\)", index, re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")


@pytest.mark.parametrize("page", EXECUTED)
def test_the_commands_of_a_page_work_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\.venv/bin/parallel-lenet ([^|>\n]*)", text, re.MULTILINE)
    assert lines
    for words in (shlex.split(line, comments=True) for line in lines):
        cheap = ["--engine", "serial", "--kernel", "im2col"] if words[0] == "train" and "--resume" not in words else []
        assert main([*words, *cheap]) == 0, words


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs(program: str, tmp_path: Path) -> None:
    one_core = {
        "LOKY_MAX_CPU_COUNT": "1"
    }  # Where a program does not say how many workers: each takes a second to start.
    result = run(tmp_path, "-W", "error", "-", command=PYTHON, stdin=program, env=one_core)
    assert result.stderr == ""
    accuracy = float(re.findall(r"accuracy=([0-9.]+)", result.stdout)[-1])
    assert accuracy > 0.85, result.stdout
