"""Removes names of users, machines and home folders from text that others will see."""

import getpass
import os
import re
import socket
from contextlib import suppress
from pathlib import Path

_COMMON = {"root", "user", "users", "home", "localhost", "admin"}  # They identify nobody, and are ordinary words.
_SHORTEST = 3  # Letters of a name that is replaced. Shorter names are parts of other words.


def redact(text: str) -> str:
    """``text`` with ``~`` for the home folder, USER for the user's name and HOST for the machine's."""
    for home in sorted(_homes(), key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w-]|\.\w)", "~", text)
    for word, names in (("USER", _users()), ("HOST", _hosts())):
        for name in sorted(names, key=len, reverse=True):
            if len(name) >= _SHORTEST and name.lower() not in _COMMON:
                text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", word, text)
    # Another user's home folder names that user.
    return re.sub(r"(/home/|/Users/|\\Users\\)[^/\\\s:'\"]+", r"\1USER", text)


def _homes() -> set[str]:
    found = {os.environ.get("HOME", ""), os.environ.get("USERPROFILE", "")}
    with suppress(RuntimeError, OSError):
        found |= {str(Path.home()), str(Path.home().resolve())}
    return {home.rstrip("/\\") for home in found if len(home.rstrip("/\\")) > 1}


def _users() -> set[str]:
    found = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME")}
    found |= {Path(home).name for home in _homes()}
    with suppress(Exception):  # No such user in the system's table: containers.
        found.add(getpass.getuser())
    return found


def _hosts() -> set[str]:
    with suppress(OSError):
        name = socket.gethostname()
        return {name, name.partition(".")[0]}
    return set()
