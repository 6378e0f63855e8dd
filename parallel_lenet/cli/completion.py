"""Print a script with which a shell completes the commands, options and choices of parallel-lenet.

bash: put the line

  eval "$(parallel-lenet completion bash)"

into ~/.bashrc. zsh: write what this prints into a file _parallel-lenet in a folder of $fpath. tcsh: write it into a
file, and put "source FILE" into ~/.tcshrc.
"""

import argparse
from typing import Any

from parallel_lenet import optional
from parallel_lenet.cli._console import Console

HELP = "print a script that completes commands and options in a shell"
EXAMPLES = (
    ("have this bash complete parallel-lenet", "completion bash"),
    ("the same for zsh, in a folder of $fpath", "completion zsh"),
)
SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or tcsh")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    shtab = optional.load("completion", "shtab", "shell completion")
    for action in _actions(arguments.program):
        if not action.choices and (action.nargs != 0):
            name = str(action.metavar)
            if name in ("FOLDER", "RUN"):
                action.complete = shtab.DIRECTORY
            elif name in ("FILE", "IMAGE", "CHECKPOINT"):
                action.complete = shtab.FILE
    Console().line(shtab.complete(arguments.program, arguments.shell).rstrip("\n"))
    return 0


def _actions(parser: Any) -> list[Any]:
    """All options and arguments of a parser and of its commands."""
    actions = list(parser._actions)
    commands = [action.choices for action in actions if isinstance(action, argparse._SubParsersAction)]
    return actions + [action for choices in commands for each in choices.values() for action in _actions(each)]
