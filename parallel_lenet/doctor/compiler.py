"""Checks Numba, which compiles the fast kernels, and the folder in which it keeps them."""

import json
import os
import re
import sys
from functools import cache
from typing import Any

from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.doctor.probe import Outcome, outcome_of
from parallel_lenet.doctor.requirements import requirements

CHECK = "numba"
SECONDS = 30.0
COMPILES_EACH_TIME = "each process compiles for ten seconds, workers too"

_PROGRAM = """
import logging

messages = []
class Handler(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
logging.getLogger("parallel_lenet").addHandler(Handler())

import numba
print(json.dumps({"numba": numba.__version__}), flush=True)
from parallel_lenet.kernels import compiled
from parallel_lenet.kernels.compiled import jit, jit_cache
import llvmlite, llvmlite.binding
print(json.dumps({
    "numba": numba.__version__,
    "llvmlite": llvmlite.__version__,
    "processor": llvmlite.binding.get_host_cpu_name(),
    "disabled": jit.DISABLED,
    "compiled": compiled.is_compiled(),
    "folders": jit_cache.folders(),
    "messages": messages,
}))
"""


def check(system: System) -> list[Finding]:
    """Whether numba works, tried in a separate process, and keeps the code that it compiles."""
    lines = " ".join(each.line for each in requirements() if each.extra == "fast") or "numba"
    outcome = _outcome_of(tuple(sys.path), tuple(sorted(os.environ.items())))
    last = outcome.output.strip().splitlines()[-1:]
    facts = json.loads(last[0]) if last else {}
    if outcome.failure:
        if re.search(r"No module named '?numba'?$", outcome.failure):
            text = (
                "numba is not installed: training uses the kernel im2col, which is several times slower than compiled"
            )
            return [Finding(CHECK, "slow", text, f"pip install {lines}")]
        stage = "kernel compiled" if facts else "numba"
        text = f"{stage} does not work ({outcome.failure}): training uses the kernel im2col, several times slower"
        return [Finding(CHECK, "broken", text, f"pip install --upgrade {lines}", facts)]
    found = [Finding(CHECK, "ok", _state(facts), facts=facts)]
    if facts["disabled"]:
        text = "NUMBA_DISABLE_JIT is set: kernel compiled runs as Python, hundreds of times slower"
        found.append(Finding(CHECK, "slow", text, "unset NUMBA_DISABLE_JIT"))
    return [*found, *(_of_cache(text) for text in facts["messages"])]


@cache
def _outcome_of(path: tuple[str, ...], variables: tuple[tuple[str, str], ...]) -> Outcome:
    """The outcome of the program with this path and environment. It is kept, since two checks need it."""
    return outcome_of(_PROGRAM, seconds=SECONDS)


def _state(facts: dict[str, Any]) -> str:
    text = f"numba {facts['numba']} and llvmlite {facts['llvmlite']} work, for {facts['processor']}"
    if facts["disabled"]:
        return text
    if facts["folders"]:
        text = f"{text}; compiled code is kept in {', '.join(facts['folders'])}"
    if not facts["compiled"]:
        text = f"{text}; nothing is kept there for this version and processor: the next training compiles once, 10 s"
    return text


def _of_cache(message: str) -> Finding:
    """A finding for what the cache logged."""
    if "is compiled anew" in message:
        return Finding(CHECK, "slow", f"{message}, once", "nothing: the damaged files have been removed")
    if os.environ.get("NUMBA_CACHE_DIR"):
        remedy = "unset NUMBA_CACHE_DIR, or set it to a folder that can be written"
    else:
        remedy = "export NUMBA_CACHE_DIR=FOLDER, a folder that can be written and has room"
    text = message if ", but is in" in message else f"{message.partition(';')[0]}: {COMPILES_EACH_TIME}"
    return Finding(CHECK, "slow", text, remedy)
