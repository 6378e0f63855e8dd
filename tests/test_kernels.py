"""Every kernel obeys the contract: the functions with their arguments, and the specification's numbers."""

import inspect
from types import ModuleType

import pytest
from kits.kernel_contract import *  # noqa: F403

from parallel_lenet import kernels

FUNCTIONS = [name for name in vars(kernels.Kernels) if not name.startswith("_") and name not in ("SHARD_SIZE", "LEAF")]


@pytest.fixture(params=[name for name in kernels.NAMES if name != "naive"], scope="module")
def kernel(request: pytest.FixtureRequest) -> kernels.Kernels:
    if request.param == "compiled":
        pytest.importorskip("numba")
    return kernels.load(request.param)


@pytest.mark.parametrize("name", kernels.NAMES)
def test_a_kernel_is_a_module_with_the_contracts_functions(name: str) -> None:
    if name == "compiled":
        pytest.importorskip("numba")
    module = kernels.load(name)
    assert isinstance(module, ModuleType)
    assert isinstance(module.SHARD_SIZE, int)
    assert module.SHARD_SIZE >= 1
    assert (None if name == "im2col" else 1) == module.LEAF
    for function in FUNCTIONS:
        wanted = list(inspect.signature(getattr(kernels.Kernels, function)).parameters)[1:]
        found = getattr(module, function)
        assert list(inspect.signature(getattr(found, "py_func", found)).parameters) == wanted, function


@pytest.mark.parametrize("name", ["cuda", "", "Naive", "__init__"])
def test_unknown_kernel(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"^unknown kernel '{name}': choose one of auto, naive, im2col, compiled, or a Python file$"
    ):
        kernels.load(name)
