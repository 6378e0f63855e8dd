"""The parameter layout, the image layer, `Sequential` and LeNet-5, and a training run that follows PyTorch's."""

import hashlib
import pickle
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits.models import ByImage, Softmax
from kits.oracle import pytorch
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.batching import batches, epoch_order
from parallel_lenet.coordinator import Coordinator, StepReport
from parallel_lenet.datasets import Dataset
from parallel_lenet.engines.serial import blas
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import leaf_of
from parallel_lenet.network.images import Images
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, Layer, MaxPool2d, ReLU, Tanh
from parallel_lenet.network.lenet5 import lenet5
from parallel_lenet.network.sequential import PREDICTED_AT_ONCE, Sequential
from parallel_lenet.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from parallel_lenet.parameters import Layout, sha256
from parallel_lenet.random import generator
from parallel_lenet.settings import Settings
from parallel_lenet.tree import TreeSum

Array = NDArray[Any]

RNG_SEED = 5


def images(n: int, *shape: int) -> Array:
    """Random pixels, read-only."""
    result = np.random.default_rng(RNG_SEED).integers(0, 256, (n, *(shape or (28, 28))), np.uint8)
    result.setflags(write=False)
    return result


def labels(n: int, classes: int = 10) -> Array:
    result = np.random.default_rng(RNG_SEED + 1).integers(0, classes, n)
    result.setflags(write=False)
    return result


def fresh(model: Sequential) -> Array:
    """Initial parameters with biases that aren't 0, read-only."""
    rng = np.random.default_rng(RNG_SEED + 2)
    parameters = model.initial_parameters(rng)
    parameters += (0.01 * rng.standard_normal(parameters.size)).astype(parameters.dtype)
    parameters.setflags(write=False)
    return parameters


def gradient_of(model: Sequential, inputs: Array, targets: Array) -> tuple[Metrics, Array]:
    """Metrics and gradient, the latter in a buffer that held NaN."""
    parameters = fresh(model)
    gradient = np.full_like(parameters, np.nan)
    return model.loss_and_gradient(parameters, inputs, targets, gradient), gradient


@pytest.fixture(scope="module")
def lenet() -> Sequential:
    return lenet5(kernel="im2col", dtype="float64")


# Layout


def test_views_alias_the_vector() -> None:
    layout = Layout.of({"weight": (2, 3), "bias": (2,), "scale": ()})
    assert layout.size == 9
    assert layout.slices == {"weight": slice(0, 6), "bias": slice(6, 8), "scale": slice(8, 9)}
    vector = np.arange(9.0)
    views = layout.views(vector)
    assert {name: view.shape for name, view in views.items()} == {"weight": (2, 3), "bias": (2,), "scale": ()}
    np.testing.assert_array_equal(views["weight"], [[0, 1, 2], [3, 4, 5]])
    views["weight"][1, 2] = 50
    views["scale"][...] = 80
    np.testing.assert_array_equal(vector, [0, 1, 2, 3, 4, 50, 6, 7, 80])


def test_views_of_a_read_only_vector_are_read_only() -> None:
    vector = np.zeros(4)
    vector.setflags(write=False)
    assert not Layout.of({"weight": (2, 2)}).views(vector)["weight"].flags.writeable


@given(shapes=st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), max_size=6))
@settings(deadline=None)
def test_the_arrays_fill_the_vector_in_order(shapes: list[tuple[int, ...]]) -> None:
    layout = Layout.of({f"p{i}": shape for i, shape in enumerate(shapes)})
    vector = np.arange(float(layout.size))
    parts = [view.ravel() for view in layout.views(vector).values()]
    np.testing.assert_array_equal(np.concatenate([*parts, []]), vector)


def test_layouts_are_values() -> None:
    layout = Layout.of({"weight": (2, 3)})
    assert layout == Layout.of({"weight": (2, 3)}) == pickle.loads(pickle.dumps(layout))
    assert layout != Layout.of({"weight": (3, 2)})


@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, -1), (True,), (2.0,)])
def test_layout_without_room(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"^a length of parameter 'bias' must be a whole number of at least 1, got (0|-1|True|2.0)$"
    ):
        Layout.of({"weight": (2, 2), "bias": shape})


@pytest.mark.parametrize("shape", [(5,), (7,), (6, 1), (2, 3), ()])
def test_vector_of_another_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^a parameter vector of this layout has shape \(6,\), got \("):
        Layout.of({"weight": (2, 3)}).views(np.zeros(shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sha256_is_of_the_little_endian_bytes(dtype: str) -> None:
    vector = np.random.default_rng(0).standard_normal(10).astype(dtype)
    wanted = hashlib.sha256(vector.astype("<" + vector.dtype.str[1:]).tobytes()).hexdigest()
    assert sha256(vector) == wanted
    assert sha256(vector.astype(">" + vector.dtype.str[1:])) == wanted
    assert sha256(np.repeat(vector, 2)[::2]) == wanted
    assert sha256(np.nextafter(vector, np.inf, dtype=dtype)) != wanted
    assert sha256(-np.zeros(1)) != sha256(np.zeros(1))


# Images


def prepared(layer: Images, stored: Array) -> Array:
    y = np.full((*layer.shape, len(stored)), np.nan)
    layer.prepare(kernels.load("im2col"), layer.pixels(stored, y.dtype), y)
    return y


@pytest.mark.parametrize(
    ("image_size", "corner"), [((28, 28), (2, 2)), ((8, 8), (12, 12)), ((32, 32), (0, 0)), ((27, 64), (2, 0))]
)
def test_images_are_centred_and_normalised(image_size: tuple[int, int], corner: tuple[int, int]) -> None:
    stored = images(3, *image_size)
    layer = Images(image_size, mean=0.2, std=0.5)
    field = np.zeros((3, *layer.shape[1:]))
    (top, left), (height, width) = corner, image_size
    field[:, top : top + height, left : left + width] = stored
    wanted = (field / 255 - 0.2) / 0.5
    np.testing.assert_allclose(prepared(layer, stored), wanted.transpose(1, 2, 0)[None], rtol=1e-12, atol=1e-12)


def test_channels_stay_apart() -> None:
    stored = images(2, 3, 28, 28)
    y = prepared(Images(channels=3), stored)
    for channel in range(3):
        np.testing.assert_array_equal(y[channel], prepared(Images(), stored[:, channel])[0])


def test_one_channel_may_be_left_out() -> None:
    np.testing.assert_array_equal(prepared(Images(), images(2)), prepared(Images(), images(2)[:, None]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16"])
def test_other_types_mean_the_same_pixels(dtype: str) -> None:
    np.testing.assert_allclose(prepared(Images(), images(2).astype(dtype)), prepared(Images(), images(2)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 27, 28), (4, 3, 28, 28), (28, 28), (784,), (4, 1, 1, 28, 28)])
def test_images_of_another_shape(shape: tuple[int, ...], lenet: Sequential) -> None:
    sentence = r"^this network takes images of shape \(n, 28, 28\) or \(n, 1, 28, 28\) or \(n, 28, 28, 1\), got \("
    with pytest.raises(ValueError, match=sentence):
        lenet.predict(fresh(lenet), np.zeros(shape, np.uint8))


def test_colour_images_of_another_shape() -> None:
    model = lenet5(channels=3, image_size=(32, 30), kernel="im2col")
    shapes = r"\(n, 3, 32, 30\) or \(n, 32, 30, 3\)"
    with pytest.raises(ValueError, match=rf"^this network takes images of shape {shapes}, got \(4, 32, 30\): build"):
        model.predict(fresh(model), np.zeros((4, 32, 30), np.uint8))


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((4, 32, 32), r": build it with lenet5\(channels=1, image_size=\(32, 32\)\) for such images"),
        ((4, 28, 28, 3), r": build it with lenet5\(channels=3, image_size=\(28, 28\)\) for such images"),
        ((4, 3, 28, 20), r": build it with lenet5\(channels=3, image_size=\(28, 20\)\) for such images"),
        ((4, 28, 28, 9), r": channels come first, \(n, c, h, w\)"),
        ((4, 784), r": reshape flat images with images\.reshape\(-1, 1, 28, 28\)"),
        ((28, 28), r": for a single image, pass image\[np\.newaxis\]"),
        ((1, 28, 28, 28), r": channels come first, \(n, c, h, w\)"),
        ((784,), ""),
        ((4, 0, 28), ""),
    ],
)
def test_images_of_another_shape_are_refused_with_the_network_that_takes_them(
    shape: tuple[int, ...], hint: str, lenet: Sequential
) -> None:
    with pytest.raises(ValueError, match=rf"got {re.escape(str(shape))}{hint}$"):
        lenet.predict(fresh(lenet), np.zeros(shape, np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_images_with_their_channels_last_give_the_same_bits(channels: int, dtype: str) -> None:
    model = lenet5(channels=channels, image_size=(12, 9), kernel="im2col")
    first = images(40, channels, 12, 9).astype(dtype)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    labels = np.arange(40) % 10
    hashes = []
    for data in (first, last):
        with Coordinator(model, SGD(), engine="serial", batch_size=16) as coordinator:
            coordinator.fit((data, labels))
            hashes.append((coordinator.parameters_sha256(), coordinator.evaluate((data, labels)).loss))
    assert hashes[0] == hashes[1]
    np.testing.assert_array_equal(*(model.scores(coordinator.parameters, data) for data in (first, last)))


def test_channels_last_are_refused_if_they_could_be_channels_first_of_another_size() -> None:
    model = lenet5(channels=3, image_size=(3, 8), kernel="im2col")
    model.predict(fresh(model), np.zeros((2, 3, 3, 8), np.uint8))
    with pytest.raises(ValueError, match=r"takes images of shape \(n, 3, 3, 8\), got \(2, 3, 8, 3\)"):
        model.predict(fresh(model), np.zeros((2, 3, 8, 3), np.uint8))


# LeNet-5


def test_lenet5_has_the_papers_layers() -> None:
    model = lenet5()
    # C1, S2, C3, S4, C5, F6, output. Each activation keeps its layer's shape.
    assert list(dict.fromkeys(model.shapes)) == [
        *((1, 32, 32), (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)),
        *((400,), (120,), (84,), (10,)),
    ]
    assert model.layout.size == 61_706
    assert dict(model.layout.entries) == {
        "conv1.weight": (6, 1, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "dense1.weight": (120, 400),
        "dense1.bias": (120,),
        "dense2.weight": (84, 120),
        "dense2.bias": (84,),
        "dense3.weight": (10, 84),
        "dense3.bias": (10,),
    }
    assert model.classes == 10


VARIANTS: list[dict[str, Any]] = [
    {"channels": 3},
    {"classes": 2},
    {"classes": 47},
    {"image_size": (8, 8)},
    {"image_size": (32, 32)},
    {"image_size": (64, 48)},
    {"activation": "relu"},
    {"pooling": "max"},
    {"channels": 3, "classes": 4, "image_size": (33, 20), "activation": "relu", "pooling": "max"},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_variants_run_forward_and_backward(options: dict[str, Any], dtype: str) -> None:
    model = lenet5(**options, kernel="im2col", dtype=dtype)
    height, width = options.get("image_size", (28, 28))
    classes = options.get("classes", 10)
    inputs = images(5, options.get("channels", 1), height, width)
    metrics, gradient = gradient_of(model, inputs, labels(5, classes))
    assert metrics.count == 5
    # Before training the loss is about that of guessing.
    assert 0.2 * np.log(classes) < metrics.loss_sum / 5 < 5 * np.log(classes)
    assert gradient.dtype == dtype
    assert np.isfinite(gradient).all()
    # Some filters and units may be dead under ReLU, but no whole array is.
    assert all(np.abs(array).max() > 0 for array in model.layout.views(gradient).values())
    scores = model.scores(fresh(model), inputs)
    assert scores.shape == (5, classes)
    assert scores.dtype == dtype


def test_a_larger_image_only_makes_the_first_dense_layer_larger() -> None:
    model = lenet5(image_size=(64, 48))
    assert model.shapes[0] == (1, 64, 48)
    assert dict(model.layout.entries)["dense1.weight"] == (120, 16 * 13 * 9)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"activation": "gelu"}, "unknown activation 'gelu': choose one of tanh, relu"),
        ({"pooling": "min"}, "unknown pooling 'min': choose one of avg, max"),
        ({"classes": 1}, "classes must be a whole number of at least 2, got 1"),
        ({"classes": 10.0}, "classes must be a whole number of at least 2, got 10.0"),
        ({"kernel": "cuda"}, "unknown kernel 'cuda': choose one of auto, naive, im2col, compiled, or a Python file"),
        ({"dtype": "float16"}, "dtype must be float32 or float64, got 'float16'"),
        ({"channels": 0}, "Images: channels must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        lenet5(**options)


# Sequential


def test_a_model_is_a_value_that_pickles(lenet: Sequential) -> None:
    before = gradient_of(lenet, images(3), labels(3))  # So that it holds buffers.
    copy = pickle.loads(pickle.dumps(lenet))
    assert len(pickle.dumps(lenet)) < 2000
    assert copy == lenet
    assert hash(copy) == hash(lenet)
    assert copy.layout == lenet.layout
    after = gradient_of(copy, images(3), labels(3))
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])


class Scaled(Sequential):
    """Has a loss and a gradient of its own, and an attribute that is not a field."""

    def loss_and_gradient(self, *arguments: Any, **options: Any) -> Metrics:
        metrics = super().loss_and_gradient(*arguments, **options)
        if arguments[3] is not None:
            arguments[3][:] *= vars(self)["factor"]
        return metrics


def test_a_subclass_trains_with_its_own_gradient() -> None:
    """The engine gets a pickled copy."""
    found = []
    for kind, factor, rate in ((Sequential, 1, 0.1), (Scaled, 2, 0.1), (Sequential, 1, 0.2)):
        model = kind(Images((8, 8), size=8), (Flatten(), Dense(3)), kernel="naive")
        vars(model)["factor"] = factor
        with Coordinator(model, SGD(rate), engine="serial", batch_size=4) as coordinator:
            coordinator.fit(Dataset(images(4, 8, 8), labels(4, 3)), 1)
            found.append(coordinator.parameters_sha256())
    assert found[0] != found[1] == found[2]


class Penalty(Sequential):
    """Adds a penalty to the gradient, rounded once per call."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        metrics = super().loss_and_gradient(parameters, inputs, targets, gradient)
        if gradient is not None:
            gradient += np.float32(0.01) * len(inputs) * parameters
        return metrics


class Centred(Images):
    """Subtracts the mean over all images of the call."""

    def prepare(self, kernels: Any, pixels: Array, y: Array) -> None:
        super().prepare(kernels, pixels, y)
        y -= y.mean()


class Declared(Penalty):
    leaf = 1


class Inherited(Declared):
    """The gradient that `Declared` declares."""


def test_a_subclass_with_its_own_gradient_or_images_does_not_inherit_the_leaf() -> None:
    def model(kind: type[Sequential], first: type[Images] = Images) -> Sequential:
        return kind(first((8, 8), size=8), (Flatten(), Dense(3)), kernel="naive")

    defaults: dict[str, Any] = {"batch_size": 32, "shard_size": None, "seed": 0, "clip_norm": None, "on_nan": "stop"}

    for kind, leaf in ((Sequential, 1), (Penalty, None), (Declared, 1), (Inherited, 1)):
        assert Settings.for_model(model(kind), **defaults).leaf == leaf_of(model(kind)) == leaf
    assert leaf_of(model(Sequential, Centred)) is None
    assert leaf_of(ByImage()) == 1
    assert leaf_of(type("Changed", (ByImage,), {"loss_and_gradient": Softmax.loss_and_gradient})()) is None
    assert leaf_of(SimpleNamespace(leaf=4)) == 4
    hashes = set()
    for n_workers in (1, 3):
        with Coordinator(
            model(Penalty), SGD(0.1), engine="threading", n_workers=n_workers, batch_size=32
        ) as coordinator:
            coordinator.fit(Dataset(images(64, 8, 8), labels(64, 3)), 2)
            hashes.add(coordinator.parameters_sha256())
    assert len(hashes) == 1


def test_a_worker_has_the_leaf_though_pickling_drops_what_a_layers_class_says_as_its_base_does() -> None:
    class First(ReLU):
        leaf = 1

    class Second(First):
        leaf = 1

    model = Sequential(Images((8, 8), size=8), (Flatten(), Second(), Dense(3)), kernel="naive")
    state = model.__getstate__()
    del Second.leaf  # As in a worker.
    copy = object.__new__(Sequential)
    copy.__setstate__(state)
    assert copy.leaf == 1


SMALL = (Conv2d(2, 3), Tanh(), AvgPool2d(), Flatten(), Dense(3))


@pytest.mark.parametrize("name", ["naive", "compiled"])
@given(n=st.integers(1, 40), size=st.sampled_from([1, 2, 4, 8, 16, 32]))
@settings(max_examples=10, deadline=None)
def test_a_batch_is_the_sum_of_its_blocks_along_the_tree_bit_by_bit(name: str, n: int, size: int) -> None:
    if name == "compiled":
        pytest.importorskip("numba")
        model = lenet5(kernel=name)
    else:
        model = Sequential(Images(image_size=(6, 6), size=6), SMALL, kernel=name)
        n = min(n, 11)
    assert model.leaf == 1
    x = images(n, *model.images.image_size)
    t = labels(n, model.classes)
    parameters = fresh(model)
    whole = np.empty_like(parameters)
    metrics = model.loss_and_gradient(parameters, x, t, whole)
    losses = TreeSum[Metrics]()
    gradients = TreeSum[Array]()
    for start in range(0, n, size):
        part = np.empty_like(parameters)
        losses.append(model.loss_and_gradient(parameters, x[start : start + size], t[start : start + size], part))
        gradients.append(part)
    assert losses.total() == metrics
    assert gradients.total().tobytes() == whole.tobytes()


def test_initial_parameters_follow_the_generator(lenet: Sequential) -> None:
    first, again, other = (lenet.initial_parameters(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    single = lenet5().initial_parameters(np.random.default_rng(1))
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, first.astype(np.float32))
    views = lenet.layout.views(first)
    assert all(views[name].any() == name.endswith("weight") for name in views)


def test_initial_parameters_are_the_same_on_every_machine() -> None:
    # Written down once. LeNet-5's bits start here.
    assert sha256(lenet5(kernel="naive").initial_parameters(generator(0))).startswith(
        "d03474c8a856e5afb27d5e96bb0c83f1"
    )


@pytest.mark.parametrize("n", [0, 1, PREDICTED_AT_ONCE, PREDICTED_AT_ONCE + 3])
def test_predictions_are_the_largest_scores(n: int) -> None:
    model = lenet5()
    scores = model.scores(fresh(model), images(n))
    predictions = model.predict(fresh(model), images(n))
    assert scores.shape == (n, 10)
    assert scores.dtype == np.float32
    assert predictions.shape == (n,)
    np.testing.assert_array_equal(predictions, scores.argmax(axis=1))
    if n:
        np.testing.assert_allclose(scores[-1:], model.scores(fresh(model), images(n)[-1:]), rtol=1e-4, atol=1e-5)


def test_scores_are_the_callers_to_keep(lenet: Sequential) -> None:
    scores = lenet.scores(fresh(lenet), images(4))
    kept = scores.copy()
    lenet.scores(fresh(lenet), images(8)[4:])
    np.testing.assert_array_equal(scores, kept)


def test_metrics_agree_with_the_scores(lenet: Sequential) -> None:
    metrics = lenet.loss_and_gradient(fresh(lenet), images(9), labels(9), None)
    scores = lenet.scores(fresh(lenet), images(9))
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(9), labels(9)]
    assert metrics.loss_sum == pytest.approx(losses.sum())
    assert metrics.correct == (scores.argmax(axis=1) == labels(9)).sum()
    assert metrics.count == 9


@pytest.mark.parametrize("kernel", kernels.NAMES)
def test_metrics_are_the_same_without_a_gradient(kernel: str) -> None:
    if kernel == "compiled":
        pytest.importorskip("numba")
    model = lenet5(kernel=kernel)
    with_gradient, _ = gradient_of(model, images(3), labels(3))
    assert model.loss_and_gradient(fresh(model), images(3), labels(3), None) == with_gradient


@pytest.mark.parametrize("options", [{}, {"activation": "relu", "pooling": "max"}], ids=str)
def test_loss_and_gradient_are_sums_not_means(options: dict[str, Any]) -> None:
    model = lenet5(**options, kernel="im2col", dtype="float64")
    inputs = images(8)
    targets = labels(8)
    whole, gradient = gradient_of(model, inputs, targets)
    parts = [gradient_of(model, inputs[half], targets[half]) for half in (slice(0, 4), slice(4, 8))]
    added = parts[0][0] + parts[1][0]
    assert whole.loss_sum == pytest.approx(added.loss_sum, rel=1e-12)
    assert (whole.correct, whole.count) == (added.correct, added.count)
    np.testing.assert_allclose(gradient, parts[0][1] + parts[1][1], rtol=1e-9, atol=1e-12)


def test_the_same_call_gives_the_same_bits_after_any_other_call(lenet: Sequential) -> None:
    first = gradient_of(lenet, images(7), labels(7))
    gradient_of(lenet, images(14)[7:], labels(14)[7:])
    lenet.predict(fresh(lenet), images(3))
    again = gradient_of(lenet, images(7), labels(7))
    assert first[0] == again[0]
    assert first[1].tobytes() == again[1].tobytes()


def test_the_kernels_give_one_network() -> None:
    wanted_metrics, wanted = gradient_of(lenet5(kernel="naive", dtype="float64"), images(3), labels(3))
    for kernel in kernels.NAMES[1:]:
        if kernel == "compiled":
            pytest.importorskip("numba")
        metrics, gradient = gradient_of(lenet5(kernel=kernel, dtype="float64"), images(3), labels(3))
        assert metrics.loss_sum == pytest.approx(wanted_metrics.loss_sum, rel=1e-12)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("bad", "targets"), [(10, [3, 10]), (-1, [-1, 3])])
def test_labels_out_of_range(bad: int, targets: list[int], lenet: Sequential) -> None:
    sentence = f"^label {bad} is out of range: this network has 10 classes, 0 to 9$"
    with pytest.raises(ValueError, match=sentence):
        lenet.loss_and_gradient(fresh(lenet), images(2), np.array(targets), None)


def test_threads_can_share_a_model() -> None:
    model = lenet5()
    work = [slice(start, start + 4 + start % 3) for start in range(0, 80, 4)]
    inputs = images(100)
    targets = labels(100)
    # One BLAS thread a product: two can change its last bits, and four times two would mostly wait for each other.
    with blas().limit(limits=1), ThreadPoolExecutor(4) as threads:
        wanted = [gradient_of(model, inputs[part], targets[part]) for part in work]
        found = list(threads.map(lambda part: gradient_of(model, inputs[part], targets[part]), work * 3))
    for (metrics, gradient), (wanted_metrics, wanted_gradient) in zip(found, wanted * 3, strict=True):
        assert metrics == wanted_metrics
        np.testing.assert_array_equal(gradient, wanted_gradient)


def test_buffers_are_not_kept_for_every_size() -> None:
    model = lenet5()
    parameters = fresh(model)
    tracemalloc.start()
    try:
        for n in range(100, 140, 2):
            model.predict(parameters, images(n))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Buffers for one size of these take 10 MB.
    assert held < 50e6


ORDERS: list[tuple[Layer, ...]] = [
    (Flatten(), Dense(3)),
    (Flatten(), Tanh(), Dense(3)),
    (Tanh(), ReLU(), Flatten(), Dense(3)),
    (AvgPool2d(), Flatten(), Dense(3)),
    (Conv2d(3, 3), Tanh(), Tanh(0.7), Flatten(), Dense(3)),
    (Conv2d(3, 3), Tanh(), ReLU(), Tanh(), Flatten(), Dense(3)),
    (Conv2d(3, 3), Tanh(), Flatten(), Tanh(), Tanh(), Dense(3)),
    (Conv2d(3, 3), Flatten(), Flatten(), Tanh(), Flatten(), Dense(3), Tanh()),
    (Conv2d(3, 3), MaxPool2d(), Tanh(), Conv2d(2, 2), Flatten()),
    (Conv2d(3, 3), Tanh(), MaxPool2d(2, 1), AvgPool2d(2, 1), Flatten(), Dense(4), Dense(3)),
    (AvgPool2d(), Flatten()),
]


@pytest.mark.parametrize(
    ("layers", "kernel"),
    [*((layers, "im2col") for layers in ORDERS), *((layers, "auto") for layers in (ORDERS[6], ORDERS[9]))],
    ids=str,
)
def test_layers_in_any_order(layers: tuple[Layer, ...], kernel: str) -> None:
    """Activations work in place. None may overwrite what another one, or the backward pass, still needs."""
    model = Sequential(Images((6, 6), size=6), layers, kernel, "float64")
    inputs = images(4, 6, 6)
    targets = labels(4, model.classes)
    parameters = fresh(model)
    _, gradient = gradient_of(model, inputs, targets)
    direction = np.copysign(np.random.default_rng(0).standard_normal(gradient.size), gradient)
    direction *= 1e-5 / max(np.linalg.norm(direction), 1)
    losses = [
        model.loss_and_gradient(p, inputs, targets, None).loss_sum
        for p in (parameters + direction, parameters - direction)
    ]
    assert (losses[0] - losses[1]) / 2 == pytest.approx(gradient @ direction, rel=1e-6)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((Dense(3),), r"Dense takes features of shape \(features,\), got \(1, 6, 6\): put Flatten\(\) before it"),
        ((Flatten(), Conv2d(3, 3)), r"Conv2d takes images of shape \(c, h, w\), got \(36,\)"),
        ((Conv2d(3, 3),), r"the last layer must give class scores of shape \(classes,\), got \(3, 4, 4\)"),
        ((Conv2d(3, 7),), r"Conv2d: a window of 7 doesn't fit into 6 \+ 2 \* 0 pixels"),
        ((), r"the last layer must give class scores of shape \(classes,\), got \(1, 6, 6\)"),
    ],
)
def test_layers_that_do_not_fit(layers: tuple[Layer, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Sequential(Images((6, 6), size=6), layers)


# A training run beside PyTorch's

STEPS = 50
PAIRS: list[tuple[Optimizer, str, dict[str, Any]]] = [
    (SGD(0.05), "SGD", {"lr": 0.05}),
    (SGD(0.02, 0.9, weight_decay=1e-3), "SGD", {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3}),
    (SGD(0.02, 0.9, nesterov=True), "SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    (RMSprop(1e-3), "RMSprop", {"lr": 1e-3}),
    (Adam(1e-3), "Adam", {"lr": 1e-3}),
    (AdamW(1e-3), "AdamW", {"lr": 1e-3}),
]


def torch_lenet(parameters: dict[str, Array], torch: Any) -> Any:
    """The same layers, and these parameters, in PyTorch."""
    nn = torch.nn

    class ScaledTanh(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return 1.7159 * torch.tanh(x)

    pool = nn.AvgPool2d(2)
    convolutions = (nn.Conv2d(1, 6, 5), ScaledTanh(), pool, nn.Conv2d(6, 16, 5), ScaledTanh(), pool, nn.Flatten())
    dense = (nn.Linear(400, 120), ScaledTanh(), nn.Linear(120, 84), ScaledTanh(), nn.Linear(84, 10))
    network = nn.Sequential(*convolutions, *dense).double()
    with torch.no_grad():
        for theirs, ours in zip(network.parameters(), parameters.values(), strict=True):
            theirs.copy_(torch.tensor(ours))
    return network


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "name", "options"), PAIRS, ids=[repr(optimizer) for optimizer, *_ in PAIRS])
def test_training_follows_torch(optimizer: Optimizer, name: str, options: dict[str, Any], digits: Dataset) -> None:
    torch = pytorch()
    model = lenet5(kernel="im2col", dtype="float64")
    batch_size, epochs = 12, 4  # 150 digits: 12 full batches and one of 6 an epoch.
    with Coordinator(model, optimizer, batch_size=batch_size, engine="serial", seed=3) as coordinator:
        network = torch_lenet(model.layout.views(coordinator.parameters), torch)
        theirs = getattr(torch.optim, name)(network.parameters(), **options)
        orders = [rows for epoch in range(epochs) for rows in batches(epoch_order(3, epoch, len(digits)), batch_size)]
        assert len(orders) >= STEPS
        padded = np.pad(digits.inputs, ((0, 0), (2, 2), (2, 2)))
        x = torch.tensor((padded / 255 - 0.1307) / 0.3081)[:, None]
        targets = torch.tensor(digits.targets)
        reports = (report for report in coordinator.iterate(digits, epochs) if isinstance(report, StepReport))
        for report, rows in zip(reports, orders, strict=True):
            loss = torch.nn.functional.cross_entropy(network(x[rows]), targets[rows])
            theirs.zero_grad()
            loss.backward()
            theirs.step()
            assert report.loss == pytest.approx(loss.item(), rel=1e-8), report.step
        trained = torch.cat([array.detach().reshape(-1) for array in network.parameters()]).numpy()
        np.testing.assert_allclose(coordinator.parameters, trained, rtol=0, atol=1e-8)
        assert coordinator.step == len(orders)
        assert coordinator.history[-1].train_loss < 0.5 * coordinator.history[0].train_loss
