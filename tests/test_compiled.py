"""What is particular to the compiled kernels. test_kernels.py tests that they keep the contract."""

import io
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from parallel_lenet.kernels import im2col, naive

pytest.importorskip("numba")

from parallel_lenet.kernels import compiled
from parallel_lenet.kernels.compiled.tile_type import exact_fma

Array = NDArray[Any]
PACKAGE = Path(compiled.__file__).resolve().parents[2]

# A few calls whose results don't depend on how many images or filters there are: for processes of their own.
PROGRAM = """
import numpy as np
from parallel_lenet.kernels import compiled
y, dy = np.linspace(-2, 9, 1000, dtype=np.float32), np.ones(1000, np.float32)
compiled.tanh(y, 1.7159, y)
compiled.tanh_gradient(y, dy, 1.7159, dy)
loop = compiled.elementwise._tanh_gradient
print(loop.stats.cache_path if hasattr(loop, "stats") else None)
print((y.astype(float) * dy).sum())
"""


@pytest.fixture(scope="module")
def expected() -> float:
    """What PROGRAM prints last."""
    y = 1.7159 * np.tanh(np.linspace(-2, 9, 1000))
    return float((y * (1.7159 - y * y / 1.7159)).sum())


def environment(cache: Path, **changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "NUMBA_CACHE_DIR": str(cache), **changes}


def run(program: str, env: dict[str, str]) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program], env=env, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split("\n")[:-1]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def placed(array: Array, offset: int) -> Array:
    """A copy that starts ``offset`` bytes after a multiple of 64."""
    buffer = np.empty(array.nbytes + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    copy: Array = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def convolutions(
    kernel: Any, x: Array, weight: Array, bias: Array, dy: Array, stride: int, padding: int
) -> list[Array]:
    """All results of a convolution's three functions."""
    y, dx, dw, db = (np.full_like(shape, np.nan) for shape in (dy, x, weight, bias))
    kernel.conv2d(x, weight, bias, stride, padding, y)
    kernel.conv2d_input_gradient(dy, weight, stride, padding, dx)
    kernel.conv2d_weight_gradient(x, dy, stride, padding, dw, db)
    return [y, dx, dw, db]


def draw(rng: np.random.Generator, dtype: str, *shapes: tuple[int, ...]) -> Iterator[Array]:
    for shape in shapes:
        yield rng.standard_normal(shape).astype(dtype)


@pytest.mark.slow
@given(
    # Each width of filters and of vectors is compiled for: with 3 and 25 images narrow and wide vectors.
    kind=st.sampled_from([((2, 5), "float32", 3), ((2, 5), "float32", 25), ((3, 2), "float64", 5)]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 3),
    extra=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=25)
def test_convolutions_agree_with_naive_for_any_shape(
    kind: tuple[tuple[int, int], str, int],
    stride: int,
    padding: int,
    extra: tuple[int, int],
    seed: int,
) -> None:
    """Tiles, and what is left over by them."""
    kernel_size, dtype, n = kind
    rng = np.random.default_rng(seed)
    channels = 4
    filters = 7
    kh, kw = kernel_size
    height, width = (max(1, k - 2 * padding) + more for k, more in zip(kernel_size, extra, strict=True))
    rows, columns = ((size + 2 * padding - k) // stride + 1 for size, k in ((height, kh), (width, kw)))
    shapes = (channels, height, width, n), (filters, channels, kh, kw), (filters,), (filters, rows, columns, n)
    arguments = list(draw(rng, dtype, *shapes))
    found = convolutions(compiled, *arguments, stride=stride, padding=padding)
    wanted = convolutions(naive, *arguments, stride=stride, padding=padding)
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    for ours, specified in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, specified, rtol=tolerance, atol=tolerance)


def test_a_shard_of_lenet5(rng: np.random.Generator) -> None:
    """The shapes that are trained, against the products of im2col in float64."""
    for x_shape, weight_shape, y_shape in (
        ((1, 32, 32, 32), (6, 1, 5, 5), (6, 28, 28, 32)),
        ((6, 14, 14, 32), (16, 6, 5, 5), (16, 10, 10, 32)),
    ):
        arguments = list(draw(rng, "float32", x_shape, weight_shape, weight_shape[:1], y_shape))
        found = convolutions(compiled, *arguments, stride=1, padding=0)
        wanted = convolutions(im2col, *(argument.astype(float) for argument in arguments), stride=1, padding=0)
        for ours, exact in zip(found, wanted, strict=True):
            assert np.abs(ours - exact).max() < 1e-6 * np.abs(exact).max() * np.sqrt(25 * 784)


@pytest.mark.parametrize(("features", "n"), [(5, 3), (20, 8), (37, 11), (37, 24), (20, 40), (20, 85), (5, 33)])
def test_dense_weight_gradients_are_added_along_the_tree(features: int, n: int, rng: np.random.Generator) -> None:
    """Every bit of them, for any rest of images in the last group and of features in the last vector."""
    x, dy = draw(rng, "float32", (features, n), (7, n))
    parts = [dy[:, None, image] * x[None, :, image] for image in range(n)]
    while len(parts) > 1:
        pairs = [first + second for first, second in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    dw, db = np.full((7, features), np.nan, "float32"), np.full(7, np.nan, "float32")
    compiled.dense_weight_gradient(x, dy, dw, db)
    np.testing.assert_array_equal(dw, parts[0])
    np.testing.assert_allclose(db, dy.sum(axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "width", "stored"), [(3, 9, "uint8"), (11, 10, "uint8"), (37, 30, "uint8"), (16, 21, "f")]
)
def test_prepared_images(n: int, width: int, stored: str, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (n, 2, 7, width)).astype(stored)
    out = np.full((2, 10, width + 3, n), np.nan, "float32")
    compiled.prepare_images(images, 0.3, -0.1, out)
    wanted = np.full_like(out, -0.1)
    pixels = images.transpose(1, 2, 3, 0).astype("float32")
    wanted[:, 1:8, 1 : width + 1] = exact_fma(pixels, np.float32(0.3), np.float32(-0.1))
    np.testing.assert_array_equal(out, wanted)


def test_where_arrays_start_makes_no_difference(rng: np.random.Generator) -> None:
    x, weight, bias, dy = draw(rng, "float32", (3, 11, 9, 7), (5, 3, 5, 5), (5,), (5, 7, 5, 7))
    logits = rng.standard_normal((10, 7)).astype("float32")
    targets = rng.integers(0, 10, 7)

    def results(offset: int) -> list[bytes]:
        arrays = [placed(array, offset) for array in (x, weight, bias, dy)]
        results = convolutions(compiled, *arrays, stride=1, padding=0)
        y = placed(dy, offset)
        compiled.tanh(y, 1.7159, y)
        slope = placed(dy, offset)
        compiled.tanh_gradient(y, slope, 1.7159, slope)
        spread = placed(np.zeros((3, 10, 8, 7), "float32"), offset)
        pooled = placed(np.zeros((3, 5, 4, 7), "float32"), offset)
        compiled.avg_pool2d(placed(x[:, :10, :8].copy(), offset), 2, 2, pooled)
        compiled.avg_pool2d_gradient(pooled, 2, 2, spread)
        loss = compiled.softmax_cross_entropy(
            placed(logits, offset), targets, np.ones(len(targets), logits.dtype), error := placed(logits, offset)
        )
        return [str(loss).encode(), *(array.tobytes() for array in (*results, y, slope, pooled, spread, error))]

    first = results(0)
    for offset in (0, 4, 16, 32, 60):
        assert results(offset) == first


def test_read_only_arrays_are_not_compiled_for_again(rng: np.random.Generator) -> None:
    x, weight, bias, dy = draw(rng, "float32", (2, 6, 6, 3), (4, 2, 3, 3), (4,), (4, 4, 4, 3))
    wanted = convolutions(compiled, x, weight, bias, dy, stride=1, padding=0)
    functions: list[Any] = [
        compiled.products._loop(4, 1, 8),
        compiled.convolution._input_gradient_loop(1, 3, 8),
        compiled.convolution.weight_gradient_loop(2, 3, 8),
    ]
    before = [len(function.signatures) for function in functions]
    for array in (x, weight, bias, dy):
        array.setflags(write=False)
    found = convolutions(compiled, x, weight, bias, dy, stride=1, padding=0)
    assert [len(function.signatures) for function in functions] == before
    assert 0 not in before
    assert [array.tobytes() for array in found] == [array.tobytes() for array in wanted]


def test_tanh_over_all_of_float32() -> None:
    """Every 251st number, so of each exponent from the subnormals to the largest: to 4 units in the last place."""
    x = np.arange(0, 0x7F80_0000, 251, dtype=np.uint32).view(np.float32)
    y, negative = np.empty_like(x), np.empty_like(x)
    compiled.tanh(x, 1.0, y)
    compiled.tanh(-x, 1.0, negative)
    exact = np.tanh(x.astype(np.float64))
    units = np.abs(y - exact) / np.spacing(exact.astype(np.float32))
    assert units.max() <= 4, f"{units.max()} units at {x[units.argmax()]}"
    assert np.abs(y).max() == 1
    np.testing.assert_array_equal(negative, -y)


def test_tanh_where_it_is_steep_and_where_it_saturates() -> None:
    for low, high in ((0.5, 2.0), (8.5, 9.5)):
        x = np.arange(*np.array([low, high], np.float32).view(np.uint32), 3, dtype=np.uint32).view(np.float32)
        y = np.empty_like(x)
        compiled.tanh(x, 1.0, y)
        exact = np.tanh(x.astype(np.float64))
        assert (np.abs(y - exact) / np.spacing(exact.astype(np.float32))).max() <= 4
        assert y.max() <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("amplitude", [1.0, 1.7159])
def test_tanh_of_what_is_no_ordinary_number(dtype: str, amplitude: float) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0], dtype)
    y = np.empty_like(x)
    compiled.tanh(x, amplitude, y)
    top = np.array(amplitude, dtype)
    np.testing.assert_array_equal(y, np.array([np.nan, top, -top, top, -top, 0, 0], dtype))
    assert list(np.signbit(y[-2:])) == [False, True]


def test_tanh_never_leaves_its_amplitude() -> None:
    """At each number from 2 on that is not yet clamped."""
    for start in range(*np.array([2, 9.1], np.float32).view(np.uint32), 2**20):
        y = np.arange(start, start + 2**20, dtype=np.uint32).view(np.float32)
        compiled.tanh(y, 1.7159, y)
        assert y.max() <= np.float32(1.7159)
    y = np.linspace(-20, 20, 300_001, dtype=np.float32)
    compiled.tanh(y, 1.7159, y)
    assert np.abs(y).max() == np.float32(1.7159)


@given(
    classes=st.integers(1, 12),
    n=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=30)
def test_softmax_cross_entropy(classes: int, n: int, scale: float, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((classes, n)) * scale).astype(dtype)
    targets = rng.integers(0, classes, n)
    logits.setflags(write=False)
    targets.setflags(write=False)
    error = np.full_like(logits, np.nan)
    loss, correct = compiled.softmax_cross_entropy(logits, targets, np.ones(n, dtype), error)
    shifted = logits.astype(float) - logits.max(axis=0)
    exponentials = np.exp(shifted)
    losses = np.log(exponentials.sum(axis=0)) - shifted[targets, np.arange(n)]
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(loss, losses.sum(), rtol=tolerance, atol=tolerance)
    wanted = exponentials / exponentials.sum(axis=0) - (targets == np.arange(classes)[:, None])
    np.testing.assert_allclose(error, wanted, rtol=tolerance, atol=tolerance)
    assert isinstance(loss, float)
    assert isinstance(correct, int)
    assert correct == np.count_nonzero(logits.argmax(axis=0) == targets)


def test_ties_and_nan_among_logits() -> None:
    nan = np.nan
    logits = np.array([[1, 1, nan, 5, 0], [1, 1, 0, nan, 3], [0, 1, 0, 0, 3]], np.float32)
    error = np.empty_like(logits)
    for targets, wanted in (([0, 0, 0, 0, 1], 3), ([1, 1, 1, 1, 2], 0), ([2, 2, 2, 2, 0], 0)):
        loss, correct = compiled.softmax_cross_entropy(logits, np.array(targets), np.ones(5, logits.dtype), error)
        assert correct == wanted
        assert np.isnan(loss)
    np.testing.assert_array_equal(np.isnan(error).all(axis=0), [False, False, True, True, False])


BITS = """
import hashlib
import numpy as np
from parallel_lenet.kernels import compiled
rng = np.random.default_rng(0)
draw = lambda *shape: (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 2, shape)).astype(np.float32)
hashed = hashlib.sha256()
x, weight, bias, dy = draw(3, 9, 9, 17), draw(5, 3, 3, 3), draw(5), draw(5, 7, 7, 17)
y, dx, dw, db = (np.empty_like(array) for array in (dy, x, weight, bias))
compiled.conv2d(x, weight, bias, 1, 0, y)
compiled.conv2d_input_gradient(dy, weight, 1, 0, dx)
compiled.conv2d_weight_gradient(x, dy, 1, 0, dw, db)
units, d_units = draw(5, 63), draw(5)
compiled.dense_weight_gradient(draw(63, 17), np.ascontiguousarray(dy[:, 0, 0]), units, d_units)
compiled.tanh(y, 1.7159, y)
logits = np.ascontiguousarray(y[:, 3, 3])
weights = np.ones(17, logits.dtype)
targets, error, smooth_error = rng.integers(0, 5, 17), np.empty_like(logits), np.empty_like(logits)
loss, _ = compiled.softmax_cross_entropy(logits, targets, weights, error)
smooth_loss, _ = compiled.softmax_cross_entropy(logits, targets, weights, smooth_error, smoothing=0.1)
assert smooth_loss != loss
for array in (y, dx, dw, db, units, d_units, error, np.float64(loss), smooth_error, np.float64(smooth_loss)):
    hashed.update(array.tobytes())
from numba.core.registry import cpu_target
print(hashed.hexdigest(), cpu_target.target_context.codegen().magic_tuple()[1])
"""
NEHALEM = "+64bit,+cx16,+popcnt,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2"


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiles for a processor of this kind")
def test_the_bits_are_the_same_on_a_processor_with_narrower_vectors_and_no_fused_multiply_adds(tmp_path: Path) -> None:
    """Other tiles, too. test_published has one between this and the host."""
    with redirect_stdout(io.StringIO()) as printed:
        exec(BITS, {})
    wanted, host = printed.getvalue().split()
    changes = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": NEHALEM}
    found, compiled_for = run(BITS, environment(tmp_path, **changes))[0].split()
    assert compiled_for == "nehalem"
    assert found == wanted, f"nehalem differs from {host}"


def test_without_the_compiler_the_same_code_gives_the_same_results(tmp_path: Path) -> None:
    """NUMBA_DISABLE_JIT runs the loops as the Python they are."""
    run(
        """
import numpy as np
from parallel_lenet.kernels import compiled, naive
from parallel_lenet.kernels.compiled.softmax import _softmax_cross_entropy
assert not hasattr(_softmax_cross_entropy, "signatures") and compiled.is_compiled()
rng = np.random.default_rng(0)
array = lambda *shape: rng.standard_normal(shape).astype(np.float32)
results = {}
x, weight, bias, dy, small = array(3, 6, 7, 2), array(5, 3, 3, 3), array(5), array(5, 6, 7, 2), array(3, 3, 3, 2)
images, inputs, matrix, error = rng.integers(0, 255, (2, 1, 4, 5)), array(4, 3), array(5, 4), array(5, 3)
for kernel in (naive, compiled):
    results[kernel] = outs = []
    def call(function, *arguments, shapes):
        buffers = [np.full(shape, np.nan, np.float32) for shape in shapes]
        getattr(kernel, function)(*arguments, *buffers)
        outs.extend(buffers)
    call("prepare_images", images, 0.01, -0.4, shapes=[(1, 6, 6, 2)])
    call("conv2d", x, weight, bias, 1, 1, shapes=[dy.shape])
    call("conv2d_input_gradient", dy, weight, 1, 1, shapes=[x.shape])
    call("conv2d_weight_gradient", x, dy, 1, 1, shapes=[weight.shape, (5,)])
    for pool in ("avg_pool2d", "max_pool2d"):
        call(pool, x, 2, 2, shapes=[(3, 3, 3, 2)])
    call("avg_pool2d_gradient", small, 2, 2, shapes=[x.shape])
    call("max_pool2d_gradient", x, small, 2, 2, shapes=[x.shape])
    call("tanh", x, 1.7159, shapes=[x.shape])
    call("tanh_gradient", x, x, 1.7159, shapes=[x.shape])
    call("relu", x, shapes=[x.shape])
    call("relu_gradient", x, x, shapes=[x.shape])
    call("dense", inputs, matrix, bias, shapes=[(5, 3)])
    call("dense_input_gradient", error, matrix, shapes=[(4, 3)])
    call("dense_weight_gradient", inputs, error, shapes=[(5, 4), (5,)])
    call("softmax", error, shapes=[error.shape])
for wanted, found in zip(results[naive], results[compiled], strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
loss, correct = compiled.softmax_cross_entropy(error, np.array([0, 1, 2]), np.ones(3), np.empty_like(error))
assert 0 < loss < 20 and 0 <= correct <= 3
""",
        environment(tmp_path, NUMBA_DISABLE_JIT="1"),
    )


@pytest.mark.slow
def test_the_cache_goes_elsewhere_where_the_package_cannot_be_written(tmp_path: Path, expected: float) -> None:
    copy = tmp_path / "installed" / "parallel_lenet"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "kernels" / "compiled" / "__pycache__").touch()  # A file of this name keeps even root from writing there.
    home = tmp_path / "home"
    env = environment(tmp_path, PYTHONPATH=str(copy.parent), NUMBA_CACHE_DIR="", HOME=str(home))
    env.pop("XDG_CACHE_HOME", None)
    folder, result = run(PROGRAM, env)
    assert not folder.startswith((str(copy), str(PACKAGE)))
    assert list(Path(folder).glob("*.nbi"))
    assert float(result) == pytest.approx(expected, rel=1e-5)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_code_is_compiled_again_if_any_file_of_the_package_changes(tmp_path: Path, expected: float) -> None:
    """Numba looks at the file of the function that is called. The one of tanh itself is another."""
    copy = tmp_path / "installed" / "parallel_lenet"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    env = environment(tmp_path / "cache", PYTHONPATH=str(copy.parent))
    assert float(run(PROGRAM, env)[1]) == pytest.approx(expected, rel=1e-5)
    changed = copy / "kernels" / "compiled" / "functions.py"
    changed.write_text(changed.read_text().replace("return with_sign(n * d", "return with_sign(0 * d"))
    assert float(run(PROGRAM, env)[1]) == 0


@pytest.mark.slow
def test_without_any_cache_it_compiles_each_time(tmp_path: Path, expected: float) -> None:
    (tmp_path / "file").touch()
    env = environment(tmp_path / "file", NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator")
    folder, result, is_compiled = run(PROGRAM + "print(compiled.is_compiled())", env)
    assert folder == "None"
    assert float(result) == pytest.approx(expected, rel=1e-5)
    assert is_compiled == "False"


@pytest.mark.slow
def test_processes_may_compile_at_once(tmp_path: Path, expected: float) -> None:
    """They find an empty cache at the same moment. Each computes the right thing, and leaves a good cache."""
    wait = """
import pathlib, time
ready = pathlib.Path("ready")
with ready.open("a") as file:
    file.write("x")
end = time.monotonic() + 60
while ready.stat().st_size < 2 and time.monotonic() < end:
    time.sleep(0.01)
"""
    waiting = PROGRAM.replace("y, dy =", wait + "y, dy =", 1)
    env = environment(tmp_path)
    command = [sys.executable, "-P", "-W", "error", "-c", waiting]
    processes = [
        subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 2, outputs
    results = {output.split("\n")[1] for output, _ in outputs}
    afterwards = run(PROGRAM + "print(loop.stats.cache_hits)", env)
    assert results == {afterwards[1]}
    assert float(afterwards[1]) == pytest.approx(expected, rel=1e-5)
    assert afterwards[2].count(": 1") == 1
    assert not list(tmp_path.rglob("*.tmp.*"))


@pytest.mark.slow
def test_is_compiled(tmp_path: Path) -> None:
    """Asking compiles nothing. True once the last kernel of a step has been compiled, and in the next process too."""
    asking = "from parallel_lenet.kernels import compiled\nprint(compiled.is_compiled())\n"
    step = f"""
from pathlib import Path
import numpy as np
print(list(Path({str(tmp_path)!r}).rglob("*.nb?")))
x, dy, dw, db = (np.zeros(shape, np.float32) for shape in ((1, 5, 5, 32), (6, 1, 1, 32), (6, 1, 5, 5), (6,)))
compiled.conv2d_weight_gradient(x, dy, 1, 0, dw, db)
print(compiled.is_compiled())
"""
    env = environment(tmp_path)
    assert run(asking + step, env) == ["False", "[]", "True"]
    assert run(asking, env) == ["True"]
    for index in tmp_path.rglob("*.nbi"):
        index.write_bytes(b"damaged")
    assert run(asking, env) == ["False"]
