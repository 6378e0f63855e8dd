"""Checks of a user's own layers and kernels: what is right passes, and classic mistakes are named."""

import re
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.kernel_mistakes import HEAD, MISTAKES, Mistake
from kits.models import Array

from parallel_lenet import (
    SGD,
    Activation,
    CheckReport,
    Conv2d,
    Coordinator,
    Dense,
    Flatten,
    Images,
    Layer,
    Sequential,
    check_kernels,
    check_layer,
    kernels,
)
from parallel_lenet.checking.isolated import check_file
from parallel_lenet.checking.kernels import check_function
from parallel_lenet.kernels.files import FUNCTIONS
from parallel_lenet.network.gradcheck import LAYERS
from parallel_lenet.user_files import UserFileError

DOCS = Path(__file__).parents[1] / "docs"


def module(source: str, name: str = "user") -> types.ModuleType:
    made = types.ModuleType(name)
    exec(compile(HEAD + source, f"{name}.py", "exec"), made.__dict__)
    return made


def test_kernels_that_are_right_have_no_problems() -> None:
    report = check_kernels(kernels.load("im2col"))
    assert report.problems == ()
    assert report.ok
    assert max(report.errors.values()) < 1e-8
    assert len(report.errors) > 15


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_classic_mistake_is_named(mistake: Mistake) -> None:
    (function,) = re.findall(r"^def (\w+)", mistake.source, re.MULTILINE)
    problems = check_function(module(mistake.source), function)
    assert problems[0].startswith(mistake.says), problems


@pytest.mark.slow
def test_only_the_function_with_the_mistake_is_blamed() -> None:
    for mistake in MISTAKES[::9]:
        report = check_kernels(module(mistake.source))
        (function,) = re.findall(r"^def (\w+)", mistake.source, re.MULTILINE)
        assert not report.ok
        assert {sentence.partition(":")[0] for sentence in report.problems} == {function}


def test_thirty_mistakes_are_among_them_and_most_are_named_by_more_than_an_example() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 30
    assert sum("raises" not in mistake.says for mistake in MISTAKES) >= 25


def test_a_mistake_that_is_not_known_is_shown_by_its_place_and_an_example() -> None:
    source = """
def relu(x, out):
    np.maximum(x, 0, out=out)
    out[:, -1] = np.sqrt(out[:, -1])
"""
    (problem,) = check_kernels(module(source)).problems
    assert re.match(
        r"relu: the output out is wrong in the last row: for example out\[0, 3, \d, \d\] is .*, and must be", problem
    )


def test_missing_functions_and_wrong_constants() -> None:
    made = module("LEAF = 0\nSHARD_SIZE = 'many'\ndel conv2d\nrelu = 3\n")
    assert check_kernels(made).problems == (
        "LEAF must be None, or a whole number of at least 1, got 0",
        "SHARD_SIZE must be a whole number of at least 1, got 'many'",
        *(
            f"{name} is missing: define it, or take another kernel's with "
            f"`from parallel_lenet.kernels.im2col import {name}`"
            for name in ("conv2d", "relu")
        ),
    )
    assert len(check_kernels(types.ModuleType("empty")).problems) == len(FUNCTIONS)


def test_a_leaf_that_the_sums_do_not_have() -> None:
    source = """
LEAF = 1

def dense_weight_gradient(x, dy, dw, db):
    dw[:] = dy @ x.T
    db[:] = dy.sum(1) * (1 + 1e-6 * x.shape[1] * (x.dtype == np.float32))
"""
    problems = check_kernels(module(source)).problems
    sentence = "dense_weight_gradient: LEAF is 1, but the bias gradient db is not the sum of those for its halves"
    assert any(problem.startswith(sentence) for problem in problems), problems
    assert check_kernels(module(source.replace("LEAF = 1", "LEAF = None"))).ok


def test_the_check_leaves_random_numbers_alone() -> None:
    before = repr(np.random.get_state())  # noqa: NPY002
    check_kernels(module("def relu(x, out):\n    np.random.seed(3)\n    np.maximum(x, 0, out=out)\n"))
    assert repr(np.random.get_state()) == before  # noqa: NPY002


@pytest.mark.parametrize(("what", "layer", "shape"), LAYERS, ids=[what for what, *_ in LAYERS])
def test_the_layers_of_the_package_pass(what: str, layer: Layer, shape: tuple[int, ...]) -> None:
    report = check_layer(layer, shape, kernel="im2col")
    assert report.ok, report.problems


class Scale(Layer):
    """A layer that is right: each channel times a number."""

    def output_shape(self, shape: Any) -> Any:
        return shape

    def parameter_shapes(self, shape: Any) -> Any:
        return {"scale": (shape[0], 1, 1, 1)}

    def initial(self, shape: Any, rng: np.random.Generator) -> Any:
        return {"scale": np.ones((shape[0], 1, 1, 1))}

    def forward(self, kernels: Any, parameters: Any, x: Array, y: Array) -> None:
        np.multiply(x, parameters["scale"], out=y)

    def input_gradient(self, kernels: Any, parameters: Any, x: Array, y: Array, dy: Array, dx: Array) -> None:
        np.multiply(dy, parameters["scale"], out=dx)

    def parameter_gradient(self, kernels: Any, x: Array, dy: Array, gradients: Any) -> None:
        gradients["scale"][:] = (x * dy).sum(axis=(1, 2, 3), keepdims=True)


def changed(**methods: Any) -> Layer:
    return type("Scale", (Scale,), methods)()  # type: ignore[no-any-return]


def square(self: Any, kernels: Any, parameters: Any, x: Array, y: Array, dy: Array, dx: Array) -> None:
    dx[:] = dy


def averaged(self: Any, kernels: Any, x: Array, dy: Array, gradients: Any) -> None:
    gradients["scale"][:] = (x * dy).sum(axis=(1, 2, 3), keepdims=True) / x.shape[3]


def added(self: Any, kernels: Any, x: Array, dy: Array, gradients: Any) -> None:
    gradients["scale"] += (x * dy).sum(axis=(1, 2, 3), keepdims=True)


def nothing(self: Any, kernels: Any, x: Array, dy: Array, gradients: Any) -> None:
    pass


def negative(self: Any, kernels: Any, parameters: Any, x: Array, y: Array, dy: Array, dx: Array) -> None:
    dx[:] = -dy * parameters["scale"]


def normalised(self: Any, kernels: Any, parameters: Any, x: Array, y: Array) -> None:
    y[:] = x * parameters["scale"] / x.shape[3]


def first_row(self: Any, kernels: Any, parameters: Any, x: Array, y: Array) -> None:
    y[:, 0] = (x * parameters["scale"])[:, 0]


def into_x(self: Any, kernels: Any, parameters: Any, x: Array, y: Array) -> None:
    x *= parameters["scale"]
    y[:] = x


def by_chance(self: Any, kernels: Any, parameters: Any, x: Array, y: Array) -> None:
    y[:] = x * parameters["scale"] * np.random.default_rng().random()


def global_chance(self: Any, kernels: Any, parameters: Any, x: Array, y: Array) -> None:
    y[:] = x * parameters["scale"]
    np.random.random()  # noqa: NPY002


def failing(self: Any, kernels: Any, parameters: Any, x: Array, y: Array) -> None:
    y[:] = x @ parameters["scale"]


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (
            changed(parameter_gradient=averaged),
            "the gradient of the scale is averaged over the images",
        ),
        (changed(parameter_gradient=added), "the gradient of the scale is added to what the array held before"),
        (changed(parameter_gradient=nothing), "the gradient of the scale is missing: it is not written"),
        (changed(input_gradient=square), "the gradient of the input is dy itself: it must be multiplied by the slope"),
        (changed(input_gradient=negative), "the gradient of the input has the wrong sign"),
        (changed(forward=normalised), "the output for an image depends on the images beside it, or on their number"),
        (changed(forward=first_row), "Scale.forward does not write its whole output y"),
        (changed(forward=into_x), "Scale.forward writes into its input x"),
        (
            changed(forward=by_chance),
            "two calls with the same arguments have different outputs: random",
        ),
        (changed(forward=global_chance), "Scale.forward changes the global state of random numbers: use keys"),
        (changed(forward=failing), "Scale.forward raises ValueError in .*test_checking.py, line \\d+: "),
        (changed(output_shape=lambda self, shape: [1]), "Scale.output_shape must return a tuple of whole numbers"),
        (changed(initial=lambda self, shape, rng: {}), "Scale.initial must return arrays for \\['scale'\\]"),
        (
            changed(initial=lambda self, shape, rng: {"scale": np.ones(3)}),
            "scale must have shape \\(2, 1, 1, 1\\), got \\(3,\\)",
        ),
        (Conv2d, "has no method output_shape: derive the class from Layer"),
        (3, "3 has no method output_shape: derive the class from Layer"),
    ],
)
def test_mistakes_in_a_layer_are_named(layer: Any, sentence: str) -> None:
    report = check_layer(layer, (2, 4, 3), kernel="im2col")
    assert not report.ok
    assert any(re.search(sentence, problem) for problem in report.problems), report.problems
    assert sentence.split("\\")[0].split(".*")[0] in repr(report)


def test_reports() -> None:
    assert check_layer(Scale(), (2, 4, 3), kernel="im2col").ok
    assert repr(CheckReport("x", ())) == "CheckReport(x: ok)"
    assert repr(CheckReport("x", ("one", "two"))) == "CheckReport(x: 2 problems; one; two)"
    assert not replace(CheckReport("x", ()), problems=("one",)).ok
    with pytest.raises(ValueError, match="kernel must be the name of a kernel, or a Python file, got None"):
        kernels.resolve(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown kernel 'fast'"):
        check_layer(Scale(), (2, 4, 3), kernel="fast")


def test_a_network_with_a_layer_of_ones_own_has_the_same_bits_for_any_number_of_workers() -> None:
    class Alone(Activation):
        leaf = 1

        def forward(self, kernels: Any, parameters: Any, x: Array, y: Array) -> None:
            np.abs(x, out=y)

        def input_gradient(self, kernels: Any, parameters: Any, x: Array, y: Array, dy: Array, dx: Array) -> None:
            raise NotImplementedError

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (48, 6, 6), np.uint8), rng.integers(0, 3, 48)
    network = Sequential(Images(6, size=6), (Conv2d(2, 3), Scale(), Flatten(), Dense(3)), kernel="naive")
    assert network.leaf is None
    assert Sequential(Images(6, size=6), (Alone(), Flatten(), Dense(3)), kernel="naive").leaf == 1
    hashes = set()
    for n_workers in (1, 3):
        with Coordinator(network, SGD(0.1), n_workers=n_workers, batch_size=16, shard_size=4) as coordinator:
            coordinator.fit((images, labels))
            hashes.add(coordinator.parameters_sha256())
    assert len(hashes) == 1


def test_the_page_on_layers_of_ones_own() -> None:
    """Its program, which trains, is run by `test_readme`. Here are the parts of programs."""
    source = (DOCS / "own-layers.md").read_text()
    noise, kernel = re.findall(r"```py\n(.*?)```", source, re.DOTALL)
    exec(compile(noise, "own-layers.md", "exec"), {"__name__": "page"})
    made = types.ModuleType("my_kernel")
    exec(compile(kernel, "own-layers.md", "exec"), made.__dict__)
    assert made.tanh is not kernels.load("im2col").tanh
    assert check_kernels(made).ok
    (lines,) = re.findall(r"(class Scale.*?)\n\n\n", source, re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) <= 20


def test_a_file_whose_process_would_not_end(tmp_path: Path) -> None:
    file = tmp_path / "kernel.py"
    waits = "import atexit, threading, time\natexit.register(time.sleep, 9999)\n"  # Longer than a test may take.
    file.write_text(waits + "threading.Thread(target=time.sleep, args=(9999,)).start()\n1 / 0\n", encoding="utf-8")
    with pytest.raises(UserFileError, match=r"line 4: ZeroDivisionError"):
        check_file(str(file), 50)
