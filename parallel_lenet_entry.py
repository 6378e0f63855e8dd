"""Where the command ``parallel-lenet`` starts: a signal while its modules are still being imported gets one line.

Outside the package, because importing anything of that imports all of it, which takes a few tenths of a second. Imports
nothing that a starting Python has not imported, except for `signal`.
"""

import os
import signal
import sys


def take_signals() -> None:
    """Until `main` has imported the command line, SIGINT and SIGTERM end the program at once: nothing has begun."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Not ignored, as under nohup.
        signal.signal(signal.SIGINT, _leave)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)


def _give_back() -> None:
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _leave:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: object) -> None:
    try:
        _say("interrupted" if number == signal.SIGINT else "terminated by SIGTERM")
    finally:
        os._exit(128 + number)


def _say(what: str) -> None:
    os.write(2, f"parallel-lenet: {what}\n".encode())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    take_signals()
    from parallel_lenet.cli import main as run  # Imported here: see above.

    try:
        _give_back()
        return run(arguments)
    except KeyboardInterrupt:  # Just before `run` takes the signals, or just after it has given them back.
        _say("interrupted")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
