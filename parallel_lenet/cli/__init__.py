"""The command line: ``parallel-lenet train | evaluate | gradcheck | verify``.

Results go to standard output, everything else to standard error. Exit code 0; 1 when something failed; 2 for a mistake
in the call; 130 after Ctrl-C and 143 after SIGTERM, as shells have it.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import parallel_lenet
from parallel_lenet.checkpoint import CheckpointError
from parallel_lenet.cli import evaluate, gradcheck, train, verify
from parallel_lenet.cli.options import UsageError
from parallel_lenet.datasets import DatasetError
from parallel_lenet.engines import WorkerError
from parallel_lenet.finite import NonFiniteError
from parallel_lenet.optional import ExtraError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, not the whole usage."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="parallel-lenet", description=parallel_lenet.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"parallel-lenet {parallel_lenet.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (train, evaluate, gradcheck, verify):
        name = command.__name__.rpartition(".")[2]
        assert command.__doc__ is not None
        sub = commands.add_parser(name, description=command.__doc__, help=command.HELP, allow_abbrev=False)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (by default that of this process) and return its exit code."""
    signal.signal(signal.SIGTERM, _terminate)  # An exception, so that everything is closed on the way out.
    try:
        options = _parser().parse_args(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"parallel-lenet: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # The reader of our output has enough; Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CheckpointError, DatasetError, WorkerError, NonFiniteError, ExtraError) as error:
        print(f"parallel-lenet: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"parallel-lenet: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("parallel-lenet: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
