"""Train LeNet-5: workers compute the gradients of parts of a batch, a coordinator averages them and takes the step.

Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT and SIGXCPU end a run with a checkpoint. A line then says how to
continue. A second Ctrl-C, SIGTERM or SIGQUIT ends it at once. The test images decide nothing. With --validation,
best.npz is the epoch with the lowest loss on images held out of training. Without it, the last epoch is the result.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from typing import Any

from parallel_lenet.cli import _chaos, _seeds, _trackers
from parallel_lenet.cli._console import Console, write
from parallel_lenet.cli._interrupts import Interrupted, Interrupts
from parallel_lenet.cli._options import LENGTH, OUTPUT, add_train_options, option_group
from parallel_lenet.cli._preparation import prepare
from parallel_lenet.cli._results import REPORT_VARIABLE, results, show
from parallel_lenet.cli._training import TIMED_OUT, Training, reason
from parallel_lenet.engines import WorkerError
from parallel_lenet.finite import NonFiniteError
from parallel_lenet.runs import REPORT

HELP = "train LeNet-5 on all cores"
EXAMPLES = (
    ("all usable cores, the bundled digits", "train"),
    ("the most accurate recipe", "train --recipe best"),
    ("two workers, images of your own", "train --data-dir FOLDER --epochs 10 --workers 2"),
    ("the loops of the tutorial, for two steps", "train --kernel naive --max-steps 2 --evaluate-on 20"),
    ("hold out a tenth of the training images, and keep the best epoch", "train --validation 0.1 --out runs/mine"),
    ("images that are shifted, turned, scaled and bent at random", "train --augment default"),
    ("stop when three epochs in a row are no better", "train --early-stopping --patience 3"),
    ("how much the seed matters", "train --epochs 5 --seeds 3"),
    ("continue a run that was stopped", "train --resume runs/mine"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_train_options(parser)
    length = option_group(parser, LENGTH)
    output = option_group(parser, OUTPUT)
    length.add_argument(
        "--resume", metavar="FOLDER", help="continue the run in this folder, or from one of its checkpoints"
    )
    length.add_argument(
        "--continue",
        dest="continues",
        action="store_true",
        help="with --out: start a run there, or continue the run that is there (for jobs that restart)",
    )
    length.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="train N times, with the seeds from --seed on, each in a folder within --out, and report mean, standard "
        "deviation, least and largest result",
    )
    length.add_argument("--chaos", metavar="PLAN", help=_chaos.HELP)
    parser.add_argument(
        "--config", metavar="FILE", help="a TOML file of these options, such as a run's config.toml (-: standard input)"
    )
    output.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=None,
        help=f"write {REPORT}, a page about the run, at its end (default: yes, unless {REPORT_VARIABLE}=0)",
    )
    output.add_argument(
        "--log",
        action="append",
        default=[],
        choices=_trackers.NAMES,
        help="also log to this tracker (may be repeated): tensorboard writes into the run's folder, mlflow into the "
        "folder mlruns or where MLFLOW_TRACKING_URI says",
    )
    output.add_argument(
        "--trace",
        metavar="FILE",
        help="write when each phase of each step began and ended in each process, for https://ui.perfetto.dev and "
        "chrome://tracing (compressed if the name ends with .gz)",
    )
    output.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")
    output.add_argument("--quiet", action="store_true", help="no progress and no notes, only the results")


def run(arguments: argparse.Namespace) -> int:
    if arguments.seeds is not None:
        return _seeds.run(arguments, _train)
    console = Console(json=arguments.json, quiet=arguments.quiet)
    code, result = _train(arguments, console)
    if result is not None and arguments.json:
        console.result(result)
    elif result is not None:
        show(result, console)
    return code


def _train(arguments: argparse.Namespace, console: Console) -> tuple[int, dict[str, Any] | None]:
    """Train, and leave a run folder. Returns the exit code, and the results unless the run was stopped."""
    start = time.monotonic()
    with Interrupts() as interrupts, console.warnings_as_notes(), ExitStack() as stack:
        training: Training | None = None
        stack.callback(interrupts.stop_raising)
        try:
            training = prepare(arguments, console, interrupts, start, stack)
            lines = training.run()
            interrupts.check()
            interrupts.stop_raising()
            training.write_report()
        except Interrupted:
            interrupts.stop_raising()
            if training is not None:
                code = training.stop()
                training.write_report()
                return code, None
            number = interrupts.number
            write(sys.stderr, f"parallel-lenet: {reason(number)} before the run began")
            return TIMED_OUT if number is None else 128 + number, None
        except (NonFiniteError, WorkerError) as error:
            interrupts.stop_raising()
            if training is not None:
                training.recorder.event("failed", str(error))
                training.write_report()
            raise
        finally:
            interrupts.stop_raising()
            stack.close()
        return 0, results(training, lines)
