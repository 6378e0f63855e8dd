"""A fast part of the attack with hostile files. ``fuzzing.attack(kind, 20_000, seed)`` is the whole."""

import os
import sys
from pathlib import Path

import pytest
from kits.programs import PYTHON, environment, run

pytestmark = pytest.mark.slow

PROGRAM = """
import os, resource, sys
from kits.fuzzing import attack

with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * os.sysconf("SC_PAGE_SIZE") + 600_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
faults = attack(sys.argv[1], int(sys.argv[2]), seed=1)
print(*faults, sep="\\n")
sys.exit(bool(faults))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize(("kind", "number"), [("idx", 100), ("config", 60), ("checkpoint", 60), ("metrics", 10)])
def test_hostile_files_are_refused_with_a_sentence_and_take_little_memory(
    kind: str, number: int, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), environment()["PYTHONPATH"]])
    run(tmp_path, "-W", "error", "-c", PROGRAM, kind, str(number), command=PYTHON, env={"PYTHONPATH": path})
    assert os.listdir(tmp_path) == []
