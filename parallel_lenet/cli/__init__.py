"""The command line, ``parallel-lenet COMMAND``: `COMMANDS` has them all. Without a command it lists them.

Results go to standard output, everything else to standard error. Exit codes:

- 0: done
- 1: something failed
- 2: a mistake in the call, such as the name of a file or folder that does not exist
- 124: ``--max-time`` ended the run, which can be continued
- 128 + n: signal n ended the program (130: Ctrl-C, 143: SIGTERM), as in shells
- 141: the reader of the output closed it (128 + SIGPIPE)
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from parallel_lenet.archive import CheckpointError
from parallel_lenet.cli import (
    _user_model,
    check,
    compare,
    completion,
    doctor,
    evaluate,
    explain,
    export,
    gradcheck,
    predict,
    report,
    runs,
    train,
    verify,
)
from parallel_lenet.cli._console import drop_unread_output, open_standard_descriptors, printable, write
from parallel_lenet.cli._interrupts import EndingSignal, ending_signals_raise
from parallel_lenet.cli._options import UsageError
from parallel_lenet.cli._parser import Commands, parser, read
from parallel_lenet.datasets import DatasetError
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.cluster.ray import Ray
from parallel_lenet.finite import NonFiniteError
from parallel_lenet.optional import ExtraError
from parallel_lenet.user_files import UserFileError, error_text
from parallel_lenet.weights import WeightsError

BROKEN_PIPE = 141
FAILURES = (
    CheckpointError,
    DatasetError,
    WeightsError,
    WorkerError,
    NonFiniteError,
    ExtraError,
    UserFileError,
)
"""Errors whose text is a sentence for the user."""
COMMANDS: Commands = {
    "train": (train,),
    "use a trained network": (predict, evaluate, explain, export),
    "look at runs": (runs, report, compare),
    "check": (doctor, gradcheck, check, verify),
    "set up": (completion,),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (by default that of this process) and return its exit code.

    It may be called repeatedly, and in a thread. Afterwards signal handlers, warning filters and locks are as they
    were.
    """
    open_standard_descriptors()
    try:
        with ending_signals_raise():
            code = _run(arguments)
    except EndingSignal as ending:
        code = _fail(f"terminated by {signal.Signals(ending.number).name}", 128 + ending.number)
    except BrokenPipeError:
        drop_unread_output()
        code = BROKEN_PIPE
    if Ray.hung:  # Everything else is closed. Ray would crash the interpreter at its exit.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        try:
            words = list(sys.argv[1:] if arguments is None else arguments)
            options = read(parser(COMMANDS), words)
        except SystemExit:  # After --help and --version.
            return 0
        options.words = words
        try:
            code: int = options.run(options)
        except Exception as error:
            file = _user_model.file_behind(options, error)
            if file is None or isinstance(error, OSError | UserFileError | CheckpointError | NonFiniteError):
                raise
            return _fail(error_text(file, error))
        return code
    except UsageError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:
        raise
    except DatasetError as error:
        return _fail(printable(str(error)))  # It names files of a folder, which may be called anything.
    except (CheckpointError, WeightsError, WorkerError, NonFiniteError, ExtraError, UserFileError) as error:
        return _fail(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{where}{error.strerror or error}")
    except MemoryError as error:
        return _fail(f"not enough memory: {error}" if str(error) else "not enough memory")
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)


def _fail(sentence: str, code: int = 1) -> int:
    write(sys.stderr, f"parallel-lenet: {sentence}")
    return code
