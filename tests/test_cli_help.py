"""The command line's comfort: help in groups, examples that run, guesses after typing errors, pipes, completion."""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kits.programs import COMMAND, environment, run, start, write_idx

from parallel_lenet import PictureError, load_dataset, png, read_digit
from parallel_lenet.cli import COMMANDS, main
from parallel_lenet.cli._options import OPTIONS, UsageError
from parallel_lenet.cli._parser import name_of, parser, read
from parallel_lenet.cli._suggestions import closest_name

ALL = [command for group in COMMANDS.values() for command in group]
NAMES = [name_of(command) for command in ALL]
EXAMPLES = [(name_of(command), words) for command in ALL for _, words in command.EXAMPLES]
# These options keep an example short. The last of two equal options counts.
SHORTER = {
    "train": "--max-steps 2 --epochs 1 --evaluate-on 10 --workers 1 --kernel im2col",
    "gradcheck": "--kernel im2col",
    "evaluate": "--engine serial --kernel im2col",
}
SLOW = (
    "explain",
    "export",
    "verify",
    "report",
    "check",
)  # These are read only: each has a test file that runs the command.


def called(words: str) -> int:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return main(shlex.split(words))
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name: two runs, images, pictures."""
    folder = tmp_path_factory.mktemp("examples")
    write_idx(folder / "FOLDER", 40, 10, shape=(28, 28), classes=10)
    _, test = load_dataset()
    for name in ("photo.jpg", "one.png", "two.png"):
        (folder / name).write_bytes(png.encode(test.inputs[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("mine", "other"):
            assert called(f"train --quiet {SHORTER['train']} --out runs/{name}") == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), EXAMPLES, ids=[words for _, words in EXAMPLES])
def test_an_example_of_help_runs(
    name: str,
    words: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path / "here"
    shutil.copytree(place, here)
    if name == "train" and "--resume" not in words:
        shutil.rmtree(here / "runs")
    monkeypatch.chdir(here)
    command, _, standard_input = words.partition(" < ")
    if name in SLOW or words == "doctor":
        assert read(parser(COMMANDS), shlex.split(command)).program
        return
    with open(standard_input or os.devnull) as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert called(f"{command} {SHORTER.get(name, '')}") == 0, capsys.readouterr().err


def test_there_is_an_example_of_every_command() -> None:
    assert {name for name, _ in EXAMPLES} == set(NAMES)
    for name, words in EXAMPLES:
        assert words.split()[0] == name


def test_every_option_of_training_has_a_titled_group() -> None:
    (train,) = [each for each in ALL if name_of(each) == "train"]
    made = argparse.ArgumentParser()
    train.add_arguments(made)
    titles = {action.dest: group.title for group in made._action_groups for action in group._group_actions}
    assert {titles[name] for name in OPTIONS} == {option.metadata["group"] for option in OPTIONS.values()}
    assert "options" not in {titles[name] for name in OPTIONS}


@pytest.mark.parametrize("words", ["", "help", "--help", "-h"])
def test_alone_the_program_lists_all_commands_in_their_groups(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(words) == 0
    shown, error = capsys.readouterr()
    assert error == ""
    places = [shown.index(f"\n{title}:\n") for title in COMMANDS]
    assert places == sorted(places)
    for command in ALL:
        assert re.search(rf"^  {name_of(command)} +{re.escape(command.HELP)}$", shown, re.MULTILINE)
    assert shown.count("\n    parallel-lenet ") == 3
    assert max(map(len, shown.splitlines())) <= 80


def test_help_of_a_command_shows_its_description_groups_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ALL:
        assert called(f"help {name_of(command)}") == 0
        shown = capsys.readouterr().out
        assert " ".join(str(command.__doc__).split())[:60] in " ".join(shown.split())
        for what, words in command.EXAMPLES:
            assert f"  {what}:\n    parallel-lenet {words}\n" in shown
        assert "exit codes: 0 done;" in shown
    assert called("train -h") == 0
    shown = capsys.readouterr().out
    for title in ("images", "network", "where it runs", "training", "length and failures", "output"):
        assert f"\n{title}:\n  --" in shown


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        ("trian", "train"),
        ("eval", "evaluate"),
        ("Predict x", "predict"),
        ("grad-check", "gradcheck"),
        ("help tarin", "train"),
        ("train --kernel compild", "compiled"),
        ("train --engine proceses", "processes"),
        ("train --dataset fashion_mnist", "fashion-mnist"),
        ("train --optimizer Adam", "adam"),
        ("train --learnign-rate 3", "--learning-rate"),
        ("train --bs=3", "--batch-size"),
        ("train --epoch 3", "--epochs"),
        ("compare a b --jsn", "--json"),
        ("completion zhs", "zsh"),
    ],
)
def test_a_typing_error_is_guessed(words: str, guess: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"did you mean {guess}?" in err


@pytest.mark.parametrize("words", ["xyzzy", "train --kernel 7", "train --qqq 3", "completion klingon"])
def test_what_resembles_nothing_is_not_guessed(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(words) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_an_option_before_the_command_is_explained() -> None:
    with pytest.raises(UsageError, match="the command comes first, and options such as --kernel after it"):
        read(parser(COMMANDS), ["--kernel", "im2col", "train"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kernel = "compild"', "got 'compild'; did you mean compiled?"),
        ("batch_sise = 3", "unknown option 'batch_sise'; did you mean batch-size?"),
    ],
)
def test_a_configuration_file_is_guessed_too_and_may_be_standard_input(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    for source in (str(file), "-"):
        with open(file) as stream:
            monkeypatch.setattr("sys.stdin", stream)
            assert called(f"train --config {source}") == 2
        error = capsys.readouterr().err
        assert f"--config {source}: " in error
        assert words in error


def test_meant_prefers_initials_then_beginnings() -> None:
    names = ["learning-rate", "lru", "long-run"]
    assert closest_name("lr", names) == "learning-rate"
    assert closest_name("lo", names) == "long-run"
    assert closest_name("LEARNING_RATE", names) == "learning-rate"
    assert closest_name("", names) is None


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a pipe that closes early")
def test_a_reader_that_has_left_is_not_a_traceback_in_help_either(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with start(tmp_path, "train", "--help", stdout=write_end) as process:
        os.close(write_end)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 141
    assert errors == ""


@pytest.mark.slow
def test_predict_reads_standard_input_as_it_reads_the_file(place: Path) -> None:
    words = ["predict", "--json", "--checkpoint", "runs/mine", "-", "one.png", "-"]
    result = subprocess.run(
        [*COMMAND, *words], cwd=place, env=environment(), input=(place / "one.png").read_bytes(), capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == b"parallel-lenet: <stdin>: can't be read: it is empty\n"
    piped, named, second = json.loads(result.stdout)["images"]
    assert (piped["image"], second["image"]) == ("-", "-")
    assert piped["probabilities"] == named["probabilities"]
    assert "error" in second


BASH = shutil.which("bash")


@pytest.mark.slow
@pytest.mark.skipif(BASH is None, reason="no bash")
def test_bash_completes_commands_options_choices_and_files(place: Path) -> None:
    pytest.importorskip("shtab")
    script = run(place, "completion", "bash").stdout
    program = (
        script
        + """
complete_line() {
    COMP_LINE="$1"; COMP_POINT=${#1}; read -ra COMP_WORDS <<<"$1"; [[ "$1" == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    function_name=$(complete -p parallel-lenet | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    $function_name parallel-lenet "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    echo "${COMPREPLY[@]}"
}
complete_line "parallel-lenet "
complete_line "parallel-lenet ev"
complete_line "parallel-lenet train --lea"
complete_line "parallel-lenet train --kernel c"
complete_line "parallel-lenet predict pho"
complete_line "parallel-lenet train --resume ru"
"""
    )
    result = subprocess.run(
        [str(BASH), "--norc", "-c", program], cwd=place, capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    commands, *others = result.stdout.splitlines()
    assert set(NAMES) <= set(commands.split())
    assert others == ["evaluate", "--learning-rate", "compiled", "photo.jpg", "runs"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_each_shells_script_names_all_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert called(f"completion {shell}") == 0
    script = capsys.readouterr().out
    for name in NAMES:
        assert name in script


def test_without_shtab_the_line_that_installs_it_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert called("completion bash") == 1
    wanted = r"shell completion needs shtab, which is not installed: pip install '?shtab"
    assert re.search(wanted, capsys.readouterr().err)


def test_a_stream_is_read_as_its_file_is(place: Path) -> None:
    with open(place / "one.png", "rb") as stream:
        assert (read_digit(stream) == read_digit(place / "one.png")).all()
    with (
        open(place / "FOLDER" / "train-labels-idx1-ubyte", "rb") as stream,
        pytest.raises(PictureError, match="labels-idx1-ubyte: is not"),
    ):
        read_digit(stream)
    with open(place / "one.png", encoding="latin-1") as text, pytest.raises(TypeError, match="binary stream"):
        read_digit(text)
