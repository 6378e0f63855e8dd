"""The examples in the docstrings of public classes run as they stand there."""

import doctest
import sys
from types import ModuleType

import pytest

import parallel_lenet

WITH_AN_EXAMPLE = (
    "Adam",
    "Cluster",
    "Coordinator",
    "Cosine",
    "Dataset",
    "InvalidValue",
    "Layout",
    "ProcessesEngine",
    "Sequential",
    "SerialEngine",
    "lenet5",
)


@pytest.mark.parametrize("name", WITH_AN_EXAMPLE)
def test_an_example_gives_what_it_says(name: str) -> None:
    public = getattr(parallel_lenet, name)
    module: ModuleType = sys.modules[public.__module__]
    found = [each for each in doctest.DocTestFinder(recurse=False).find(public, name, module) if each.examples]
    assert found, f"{name} has no example"
    for example in found:
        report: list[str] = []
        result = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
        assert result.failed == 0, "".join(report)
