"""Parses the command line, and lays out its help."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import parallel_lenet
from parallel_lenet.cli._console import write
from parallel_lenet.cli._options import UsageError
from parallel_lenet.cli._suggestions import did_you_mean

PROGRAM = "parallel-lenet"
EXIT_CODES = (
    "exit codes: 0 done; 1 something failed; 2 a mistake in the call, such as the name of a file or folder that does "
    "not exist; {timeout}128 + n signal n ended the program (130 Ctrl-C, 143 SIGTERM); 141 the reader of the output "
    "closed it"
)
TIMEOUT_CODE = "124 --max-time ended the run, which can be continued; "


class Command(Protocol):
    """A module with one command, called like the module. Its docstring is the description of ``--help``."""

    @property
    def HELP(self) -> str:  # noqa: N802, a constant of the module
        """A few words, for the list of commands."""

    @property
    def EXAMPLES(self) -> Sequence[tuple[str, str]]:  # noqa: N802
        """What an example does, and its words after ``parallel-lenet``."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run it, and return the exit code."""


Commands = Mapping[str, Sequence[Command]]
"""The commands under the titles of their groups."""


class _Formatter(argparse.HelpFormatter):
    """Wraps paragraph by paragraph. Paragraphs whose lines are indented stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = re.split(r"\n[ \t]*\n", text.strip("\n"))
        return "\n\n".join(
            part if re.search(r"^  ", part, re.MULTILINE) else super(_Formatter, self)._fill_text(part, width, indent)
            for part in parts
        )


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, and suggests the word that was probably meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """One sentence, not the whole usage."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """Raises UsageError, which names these arguments and the option that the first may stand for."""
        names = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        first = words[0].partition("=")[0]
        hint = did_you_mean(first.lstrip("-"), names, "--") if first.startswith("-") else ""
        self.error(f"unrecognized arguments: {' '.join(words)}{hint}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value != [] and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), choices)
            message = f"invalid choice: {value!r}{hint} (choose from {', '.join(choices)})"
            raise argparse.ArgumentError(action, message)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print as `write` does: it handles a closed pipe, a full disk and other encodings."""
        write(sys.stdout if file is None else file, message.rstrip("\n"))


class _Overview(Parser):
    """The parser of the whole program, whose help lists the commands in their groups."""

    def __init__(self, commands: Commands) -> None:
        super().__init__(prog=PROGRAM, description=parallel_lenet.__doc__)
        self.commands = commands

    def format_help(self) -> str:
        """What the program can do, in a screenful."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_text(f"usage: {PROGRAM} COMMAND [OPTION ...]")
        width = max(len(name_of(command)) for group in self.commands.values() for command in group)
        for title, group in self.commands.items():
            lines = [f"  {name_of(command):{width}}  {command.HELP}" for command in group]
            formatter.add_text("\n".join([f"{title}:", *lines]))
        formatter.add_text(_examples([group[0].EXAMPLES[0] for group in list(self.commands.values())[:3]]))
        formatter.add_text(
            f"{PROGRAM} COMMAND --help lists the options of a command, with examples. --version prints the version."
        )
        return formatter.format_help()


def name_of(command: Command) -> str:
    """The name of a command: that of its module."""
    return str(command.__name__).rpartition(".")[2]  # type: ignore[attr-defined]


def _word(action: argparse.Action) -> str:
    return {"?": "[{}]", "*": "[{} ...]", "+": "{0} [{0} ...]"}.get(str(action.nargs), "{}").format(action.metavar)


def _examples(examples: Sequence[tuple[str, str]]) -> str:
    lines = [f"  {purpose}:\n    {PROGRAM} {words}" for purpose, words in examples]
    return "\n".join(["examples:", *lines])


def parser(commands: Commands) -> Parser:
    """The parser of all commands. The options that it returns have the command's function as ``run``."""
    program = _Overview(commands)
    program.add_argument("--version", action="version", version=f"{PROGRAM} {parallel_lenet.__version__}")
    subparsers = program.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for command in [command for group in commands.values() for command in group]:
        assert command.__doc__ is not None
        sub = subparsers.add_parser(
            name_of(command),
            description=command.__doc__,
            help=command.HELP,
        )
        command.add_arguments(sub)
        timeout = TIMEOUT_CODE if "--max-time" in sub._option_string_actions else ""
        sub.epilog = f"{_examples(command.EXAMPLES)}\n\n{EXIT_CODES.format(timeout=timeout)}"
        # Not argparse's, which repeats all options in twenty lines.
        sub.usage = " ".join([sub.prog, "[OPTION ...]", *map(_word, sub._get_positional_actions())])
        sub.set_defaults(run=command.run, parser=sub, program=program)
    return program


def read(program: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse these words. Raises UsageError for a mistake, SystemExit after ``--help``.

    No words ask for the list of commands, and ``help COMMAND`` for the command's help.
    """
    if not words or words[0] == "help":
        words = [*words[1:2], "--help"]
    first = words[0]
    if first.startswith("-") and first not in program._option_string_actions:
        program.error(f"the command comes first, and options such as {first} after it")
    options, unknown = program.parse_known_args(words)
    if unknown:
        options.parser.refuse_unknown(unknown)
    return options
