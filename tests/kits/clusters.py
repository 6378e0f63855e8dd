"""What the tests of clusters share: the backends, a time limit, a deadline for each test, and warnings to expect."""

import signal
from collections.abc import Iterator

import pytest

MARKS = [
    # Small steps on a local cluster never pay. One test looks for the warning.
    pytest.mark.filterwarnings("ignore::parallel_lenet.engines.cluster.engine.ClusterWarning"),
    # Ray and Dask leave sockets, pipes and processes to the garbage collector when a cluster ends or a worker dies.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # Ray announces a change of its own defaults.
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]

SECONDS = 20.0  # Time limit of a call here: not reached unless a test says so.
RUNNING = [pytest.mark.cluster, pytest.mark.slow]
LOKY = pytest.param("loky", marks=pytest.mark.slow)
BACKENDS = ("threading", LOKY, pytest.param("dask", marks=RUNNING), pytest.param("ray", marks=RUNNING))


@pytest.fixture(autouse=True)
def own_deadline() -> Iterator[None]:
    """A hang fails the test, not the run."""

    def late(number: int, frame: object) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
