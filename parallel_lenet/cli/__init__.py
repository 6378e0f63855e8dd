"""The command line: ``parallel-lenet train | evaluate | gradcheck | verify``.

Results go to standard output, everything else to standard error. Exit codes:

- 0: done
- 1: something failed
- 2: a mistake in the call
- 124: ``--max-time`` ended the run, which can be continued
- 128 + n: signal n ended the program (130: Ctrl-C, 143: SIGTERM), as in shells
- 141: nobody reads the output any more (128 + SIGPIPE)
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import parallel_lenet
from parallel_lenet.checkpoint import CheckpointError
from parallel_lenet.cli import evaluate, gradcheck, train, verify
from parallel_lenet.cli.console import drop_unread_output, open_standard_descriptors, write
from parallel_lenet.cli.interrupts import Ended, ending_signals_raise
from parallel_lenet.cli.options import UsageError
from parallel_lenet.datasets import DatasetError
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster_ray import Ray
from parallel_lenet.finite import NonFiniteError
from parallel_lenet.optional import ExtraError

BROKEN_PIPE = 141
EXIT_CODES = (
    "exit codes: 0 done; 1 something failed; 2 a mistake in the call; 124 --max-time ended the run, which can be "
    "continued; 128 + n signal n ended the program (130 Ctrl-C, 143 SIGTERM); 141 nobody reads the output any more"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, not the whole usage."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="parallel-lenet", description=parallel_lenet.__doc__, epilog=EXIT_CODES, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"parallel-lenet {parallel_lenet.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (train, evaluate, gradcheck, verify):
        name = command.__name__.rpartition(".")[2]
        assert command.__doc__ is not None
        sub = commands.add_parser(
            name, description=command.__doc__, help=command.HELP, epilog=EXIT_CODES, allow_abbrev=False
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (by default that of this process) and return its exit code.

    May be called repeatedly, and in a thread: signal handlers, warning filters and locks are as before when it returns.
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
    if Ray.hung:  # Everything is closed but for Ray, which would crash the interpreter at its end.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        try:
            options = _parser().parse_args(arguments)
        except SystemExit:  # After --help and --version.
            return 0
        code: int = options.run(options)
        return code
    except UsageError as error:
        return _failed(str(error), 2)
    except BrokenPipeError:
        raise
    except (CheckpointError, DatasetError, WorkerError, NonFiniteError, ExtraError) as error:
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
