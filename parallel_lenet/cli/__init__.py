"""The command line, ``parallel-lenet COMMAND``: train, evaluate, predict, explain, report, runs, export, and so on.

Results go to standard output, everything else to standard error. Exit codes:

- 0: done
- 1: something failed
- 2: a mistake in the call, such as the name of a file or folder that does not exist
- 124: ``--max-time`` ended the run, which can be continued
- 128 + n: signal n ended the program (130: Ctrl-C, 143: SIGTERM), as in shells
- 141: the reader of the output closed it (128 + SIGPIPE)
"""

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import parallel_lenet
from parallel_lenet.archive import CheckpointError
from parallel_lenet.cli import compare, evaluate, explain, export, gradcheck, predict, report, runs, train, verify
from parallel_lenet.cli._console import drop_unread_output, open_standard_descriptors, write
from parallel_lenet.cli._interrupts import Ended, ending_signals_raise
from parallel_lenet.cli._options import UsageError
from parallel_lenet.datasets import DatasetError
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster.ray import Ray
from parallel_lenet.finite import NonFiniteError
from parallel_lenet.optional import ExtraError
from parallel_lenet.weights import WeightsError

BROKEN_PIPE = 141
EXIT_CODES = (
    "exit codes: 0 done; 1 something failed; 2 a mistake in the call, such as the name of a file or folder that does "
    "not exist; {timeout}128 + n signal n ended the program (130 Ctrl-C, 143 SIGTERM); 141 the reader of the output "
    "closed it"
)
TIMEOUT_CODE = "124 --max-time ended the run, which can be continued; "  # Of train alone.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises UsageError: one sentence in place of argparse's usage text."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Raises UsageError for arguments that are not known, with the option that the first one may stand for."""
        names = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        first = words[0].partition("=")[0]
        meant = _meant(first.lstrip("-"), names) if first.startswith("-") else None
        self.error(f"unrecognized arguments: {' '.join(words)}{f'; did you mean --{meant}?' if meant else ''}")


def _meant(word: str, names: Sequence[str]) -> str | None:
    """The option that was probably meant, by its initials, its beginning, or similar spelling."""
    initials = [name for name in names if "".join(part[0] for part in name.split("-")) == word]
    beginnings = [name for name in names if len(word) > 1 and name.startswith(word)]
    return next(iter([*initials, *beginnings, *difflib.get_close_matches(word, names, 1)]), None)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="parallel-lenet",
        description=parallel_lenet.__doc__,
        epilog=EXIT_CODES.format(timeout=TIMEOUT_CODE),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"parallel-lenet {parallel_lenet.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (train, evaluate, predict, explain, report, runs, compare, export, gradcheck, verify):
        name = command.__name__.rpartition(".")[2]
        assert command.__doc__ is not None
        sub = commands.add_parser(
            name,
            description=command.__doc__,
            help=command.HELP,
            epilog=EXIT_CODES.format(timeout=TIMEOUT_CODE if command is train else ""),
            allow_abbrev=False,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, parser=sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (by default that of this process) and return its exit code.

    It may be called repeatedly, and in a thread. Afterwards signal handlers, warning filters and locks are as before.
    """
    open_standard_descriptors()
    try:
        with ending_signals_raise():
            code = _run(arguments)
    except Ended as ended:
        code = _failed(f"terminated by {signal.Signals(ended.number).name}", 128 + ended.number)
    except BrokenPipeError:
        drop_unread_output()
        code = BROKEN_PIPE
    if Ray.hung:  # Everything else is closed; Ray would crash the interpreter at its end.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        try:
            options, unknown = _parser().parse_known_args(arguments)
        except SystemExit:  # After --help and --version.
            return 0
        if unknown:
            options.parser.unknown(unknown)
        options.words = list(sys.argv[1:] if arguments is None else arguments)
        code: int = options.run(options)
        return code
    except UsageError as error:
        return _failed(str(error), 2)
    except BrokenPipeError:
        raise
    except (CheckpointError, DatasetError, WeightsError, WorkerError, NonFiniteError, ExtraError) as error:
        return _failed(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _failed(f"{where}{error.strerror or error}")
    except MemoryError as error:
        return _failed(f"not enough memory: {error}" if str(error) else "not enough memory")
    except KeyboardInterrupt:
        return _failed("interrupted", 128 + signal.SIGINT)


def _failed(sentence: str, code: int = 1) -> int:
    write(sys.stderr, f"parallel-lenet: {sentence}")
    return code
