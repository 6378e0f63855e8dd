"""`Sequential`: layers in a row, from images to the gradient of all parameters.

The file has more than 300 lines: it is one class, with the contract of `Model`, the passes and the predictions.
"""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.augmentation import Augment
from parallel_lenet.checks import BELOW_ONE, InvalidValue, quoted, real_number
from parallel_lenet.display import Displayed, Row, Summary, Table, call, count, shorten
from parallel_lenet.jsonable import describe
from parallel_lenet.kernels import Kernels
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import takes
from parallel_lenet.network.buffers import Buffers
from parallel_lenet.network.images import Images
from parallel_lenet.network.layers import Layer, Shape, leaf_of, only_calls_kernels
from parallel_lenet.network.losses import CROSS_ENTROPY, LOSSES, Loss, SoftmaxCrossEntropy
from parallel_lenet.parameters import Layout, Vector
from parallel_lenet.sample_keys import SampleKeys

Array = NDArray[Any]

SIZES_KEPT = 6  # Numbers of images that buffers are kept for: shards, the rest of a batch or dataset, a prediction.
PREDICTED_AT_ONCE = 256  # Images: few enough to bound the memory, and enough to cost no time.


@dataclass(frozen=True, repr=False)
class Sequential(Displayed):
    """Layers in a row after `Images`, ending in class scores (logits) under softmax cross-entropy, or in numbers.

    ``kernel`` names the kernel module, "auto" the fastest one here. Each process loads it for itself. ``dtype`` is that
    of the parameters and all arithmetic: float32, or float64 to check gradients. ``loss`` is "softmax_cross_entropy",
    with labels ``(n,)`` for targets, or "squared_error", with numbers ``(n, k)`` for k outputs. Then `predict` gives
    the outputs. ``augment`` distorts the images in training: see `Augment`.

    ``label_smoothing`` s, from 0 to below 1, is for "softmax_cross_entropy". In training the target t of an image is
    then not certain, but a distribution over the k classes, ``q = (1 - s) * onehot(t) + s / k``. The loss is
    ``-sum_j q_j log(p_j)`` for the probabilities p, and the gradient of the scores is ``p - q``. The image's weight
    multiplies both. As with `Augment`, `loss_and_gradient` computes them if it gets ``keys``, with or without a buffer
    for the gradient. Without keys, as in an evaluation, loss and gradient are those of the plain cross-entropy.
    Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer Vision"
    (2016), section 7.

    Raises ValueError if the layers don't fit each other or a value is not allowed, and ExtraError if the kernel needs
    Numba and that is missing or does not work.

    >>> from parallel_lenet import Conv2d, Dense, Flatten, Images, ReLU
    >>> network = Sequential(Images((8, 8), size=8), (Conv2d(2, 3), ReLU(), Flatten(), Dense(3)), kernel="im2col")
    >>> network.shapes
    ((1, 8, 8), (2, 6, 6), (2, 6, 6), (72,), (3,))
    >>> network.layout.size
    239
    """

    images: Images
    layers: tuple[Layer, ...]
    kernel: str = "auto"
    dtype: str = "float32"
    loss: str = CROSS_ENTROPY
    augment: Augment | None = None
    label_smoothing: float = 0.0
    _local: threading.local = field(default_factory=threading.local, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", kernels.resolve(self.kernel))
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {quoted(self.loss)}")
        if not isinstance(self.augment, Augment | None):
            raise ValueError(f"augment must be an Augment, or None for no distortions, got {quoted(self.augment)}")
        if len(self.shapes[-1]) != 1:
            raise ValueError(f"the last layer must give class scores of shape (classes,), got {self.shapes[-1]}")
        object.__setattr__(self, "label_smoothing", real_number("label_smoothing", self.label_smoothing, BELOW_ONE))
        if self.label_smoothing > 0:
            self._require_smoothing()

    def _require_smoothing(self) -> None:
        """Raises InvalidValue unless the loss and the kernel can smooth labels."""
        if self.loss != CROSS_ENTROPY:
            raise InvalidValue("label_smoothing", f"0 with the loss {self.loss!r}", self.label_smoothing)
        if not takes(kernels.load(self.kernel).softmax_cross_entropy, "smoothing"):
            name = kernels.files.path_of(self.kernel)
            allowed = f"0 with the kernel {name}, whose softmax_cross_entropy has no parameter smoothing"
            raise InvalidValue("label_smoothing", allowed, self.label_smoothing)

    def __getstate__(self) -> dict[str, Any]:
        """Pickled with what a subclass adds, but without its buffers and what is computed from its fields.

        A worker cannot tell whether a layer's class says its leaf: cloudpickle leaves out what its base says too.
        """
        of_class = type(self)
        kept = {name: value for name, value in vars(self).items() if name != "_local"}
        state = {name: kept[name] for name in kept if not isinstance(getattr(of_class, name, None), cached_property)}
        return {**state, "_follows_the_tree": self._follows_the_tree}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    def _summary(self) -> Summary:
        height, width = self.images.height_and_width
        outputs = f"{self.classes:,} classes" if self.classifies else count(self.classes, "output")
        network = f"{height}x{width} images, {count(len(self.layers), 'layer')}, {outputs}"
        dtype = "" if self.dtype == "float32" else f", dtype={self.dtype!r}"
        loss = "" if self.loss == CROSS_ENTROPY else f", loss={self.loss!r}"
        augment = "" if self.augment is None else f", augment={self.augment!r}"
        smoothing = f", label_smoothing={self.label_smoothing!r}" if self.label_smoothing else ""
        settings = f"kernel={self.kernel!r}{dtype}{loss}{augment}{smoothing}"
        line = f"Sequential({network}, {self.layout.size:,} parameters, {settings})"
        sizes = {name: math.prod(shape) for name, shape in self.layout.entries}
        rows: list[Row] = [("", call(self.images), str(self.images.shape), "")]
        for layer, shape, names in zip(self.layers, self.shapes[1:], self._names, strict=True):
            own = sum(sizes[name] for name in names.values())
            label = next((name.partition(".")[0] for name in names.values()), "")
            rows.append((label, call(layer), str(shape), f"{own:,}" if own else ""))
        rows = [*shorten(rows), ("", "in all", "", f"{self.layout.size:,}")]
        return Summary(line, [Table(("name", "layer", "output shape", "parameters"), rows, texts=3)])

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of each layer's input, then that of the scores."""
        shapes = [self.images.shape]
        for layer in self.layers:
            shapes.append(layer.output_shape(shapes[-1]))
        return tuple(shapes)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.shapes[-1][0]

    @property
    def description(self) -> dict[str, Any]:
        """The layers, their settings and the dtype, as JSON: what decides the meaning of parameters, not the kernel."""
        description = {
            "images": describe(self.images),
            "layers": [describe(layer) for layer in self.layers],
            "dtype": self.dtype,
        }
        return description if self.loss == CROSS_ENTROPY else {**description, "loss": self.loss}

    @property
    def leaf(self) -> int | None:
        """The smallest number of images that the tree of sums holds for: the kernel's leaf, or None for the shard.

        It is also the shard if a layer of the user's does not say that its leaf is 1, or if a subclass of `Images`
        prepares the images.
        """
        return kernels.load(self.kernel).LEAF if self._follows_the_tree else None

    @cached_property
    def _follows_the_tree(self) -> bool:
        return type(self.images) is Images and all(leaf_of(layer) == 1 for layer in self.layers)

    @property
    def preferred_shard_size(self) -> int:
        """Images per shard by default: the number that the kernel is fastest with."""
        return kernels.load(self.kernel).SHARD_SIZE

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """A name for each layer: ``conv1``, ``tanh1``, ``avgpool1``, ``conv2``, ..., numbered per kind."""
        names = []
        counts = Counter[str]()
        for layer in self.layers:
            kind = type(layer).__name__.lower().removesuffix("2d")
            counts[kind] += 1
            names.append(f"{kind}{counts[kind]}")
        return tuple(names)

    @cached_property
    def _names(self) -> tuple[dict[str, str], ...]:
        """For each layer, its parameters' names in the layout by their own: ``{"weight": "conv1.weight", ...}``."""
        return tuple(
            {part: f"{name}.{part}" for part in layer.parameter_shapes(shape)}
            for layer, shape, name in zip(self.layers, self.shapes, self.layer_names, strict=False)
        )

    @cached_property
    def layout(self) -> Layout:
        """``conv1.weight``, ``conv1.bias``, ..., in the layers' order."""
        return Layout.of(
            {
                names[part]: part_shape
                for names, layer, shape in zip(self._names, self.layers, self.shapes, strict=False)
                for part, part_shape in layer.parameter_shapes(shape).items()
            }
        )

    def initial_parameters(self, rng: np.random.Generator) -> Vector:
        """Every layer's fresh parameters, drawn in order: a function of ``rng``, the same bits on every machine."""
        parameters = np.empty(self.layout.size, self.dtype)
        for layer, shape, views in zip(self.layers, self.shapes, self.layer_views(parameters), strict=False):
            for part, values in layer.initial(shape, rng).items():
                views[part][:] = values
        return parameters

    @property
    def classifies(self) -> bool:
        """Whether it predicts classes, so that there are correct predictions. If not, it predicts numbers."""
        return self.loss == CROSS_ENTROPY

    def check(self, inputs: Array, targets: Array) -> None:
        """Raises ValueError unless these are images of the network's size and unit, with targets for its loss."""
        self.check_images(inputs)
        LOSSES[self.loss].check(targets, self.classes, len(inputs))

    def check_images(self, inputs: Array) -> None:
        """Raises ValueError unless these are images of the network's size and unit."""
        self.images.check(inputs)

    @cached_property
    def _places(self) -> tuple[tuple[tuple[str, slice, Shape], ...], ...]:
        """For each layer, the names of its parameters, their slices of the vector and their shapes."""
        shapes = dict(self.layout.entries)
        slices = self.layout.slices
        return tuple(tuple((part, slices[name], shapes[name]) for part, name in names.items()) for names in self._names)

    def layer_views(self, vector: Vector) -> list[dict[str, Array]]:
        """Views of a parameter vector: for each layer, its arrays by their names in the layer, such as ``weight``."""
        self.layout.check(vector)
        return [{part: vector[place].reshape(shape) for part, place, shape in parts} for parts in self._places]

    def _buffers(self, n: int, dtype: np.dtype[Any]) -> Buffers:
        """Buffers that belong to this thread, so that threads can share a model."""
        kept: dict[Any, Buffers] = self._local.__dict__
        if (n, dtype) not in kept:
            if len(kept) == SIZES_KEPT:
                kept.clear()
            kept[n, dtype] = Buffers(self.layers, self.shapes, n, dtype)
        return kept[n, dtype]

    @cached_property
    def _methods_with_keys(self) -> frozenset[tuple[int, str]]:
        """The methods that take keys: number of the layer and name of the method."""
        names = ("forward", "input_gradient", "parameter_gradient")
        methods = ((i, name) for i in range(len(self.layers)) for name in names)
        return frozenset((i, name) for i, name in methods if takes(getattr(self.layers[i], name), "keys"))

    def _keys(self, layer: int, method: str, keys: SampleKeys | None) -> dict[str, SampleKeys | None]:
        """The layer's own keys, if the method takes keys."""
        if (layer, method) not in self._methods_with_keys:
            return {}
        return {"keys": None if keys is None else keys.stream(layer + 1)}

    def _forward(
        self,
        kernel: Kernels,
        buffers: Buffers,
        parameters: list[dict[str, Array]],
        pixels: Array,
        keys: SampleKeys | None = None,
    ) -> Array:
        """The scores ``(classes, n)``, one of the buffers."""
        outputs = buffers.outputs
        self.images.prepare(kernel, pixels, outputs[0])
        for i, (layer, views) in enumerate(zip(self.layers, parameters, strict=True)):
            layer.forward(kernel, views, outputs[i], outputs[i + 1], **self._keys(i, "forward", keys))
        return outputs[-1]

    def _pass(
        self,
        kernel: Kernels,
        buffers: Buffers,
        loss: Loss,
        parameters: Vector,
        pixels: Array,
        targets: Array,
        weights: Array,
        gradient: Vector | None = None,
        *,
        keys: SampleKeys | None = None,
    ) -> tuple[float, int]:
        """Forward, loss, and backward layer by layer. Returns the loss and the number of correct images."""
        views = self.layer_views(parameters)
        scores = self._forward(kernel, buffers, views, pixels, keys)
        outputs = buffers.outputs
        errors = buffers.errors
        sums = loss.compute(kernel, scores, targets, weights, errors[-1])
        if gradient is not None:
            gradients = self.layer_views(gradient)
            # No layer before the first one with parameters needs an error.
            first = next((i for i, arrays in enumerate(views) if arrays), len(views))
            for i in reversed(range(first, len(self.layers))):
                layer = self.layers[i]
                x = outputs[i]
                y = outputs[i + 1]
                dy = errors[i + 1]
                layer.parameter_gradient(kernel, x, dy, gradients[i], **self._keys(i, "parameter_gradient", keys))
                if i > first:
                    more = self._keys(i, "input_gradient", keys)
                    layer.input_gradient(kernel, views[i], x, y, dy, errors[i], **more)
        return sums

    def loss_and_gradient(
        self,
        parameters: Vector,
        inputs: Array,
        targets: Array,
        gradient: Vector | None,
        *,
        weights: Array | None = None,
        keys: SampleKeys | None = None,
    ) -> Metrics:
        """See `Model`. The first pass over arrays of some shapes may be recorded, and then the record is run."""
        if gradient is not None and not gradient.flags.c_contiguous:
            contiguous = np.empty(gradient.shape, gradient.dtype)
            metrics = self.loss_and_gradient(parameters, inputs, targets, contiguous, weights=weights, keys=keys)
            gradient[:] = contiguous
            return metrics
        kernel = kernels.load(self.kernel)
        buffers = self._buffers(len(inputs), parameters.dtype)
        loss = LOSSES[self.loss] if keys is None else self._training_loss
        loss.check(targets, self.classes, len(inputs))
        if keys is not None and self._methods_with_keys and self.kernel == "compiled":
            keys = keys.drawn_by(_compiled_random().words)
        if keys is not None and self.augment is not None:
            inputs = self._augment(self.augment, inputs, keys)
        pixels = self.images.pixels(inputs, parameters.dtype)
        weights = buffers.ones if weights is None else np.ascontiguousarray(weights, parameters.dtype)
        if weights.shape != (len(inputs),):
            raise ValueError(f"weights must have shape ({len(inputs)},), one per image, got {weights.shape}")
        arrays = [np.ascontiguousarray(parameters), pixels, loss.prepare(targets, parameters.dtype), weights]
        if gradient is not None:
            if gradient.dtype != parameters.dtype:
                raise ValueError(f"gradient must have the parameters' dtype, {parameters.dtype}, got {gradient.dtype}")
            arrays.append(gradient)
        kind = (loss, *((array.shape, array.dtype) for array in arrays))
        if kind not in buffers.programs:
            buffers.programs[kind] = self._record(kernel, buffers, loss, arrays)
        program = buffers.programs[kind]
        if program is not None:
            loss_sum, correct = program(*arrays)
        else:
            loss_sum, correct = self._pass(kernel, buffers, loss, *arrays, keys=keys)
        return Metrics(loss_sum, correct, len(inputs))

    @cached_property
    def _training_loss(self) -> Loss:
        """The loss of a pass that gets keys."""
        return SoftmaxCrossEntropy(self.label_smoothing) if self.label_smoothing else LOSSES[self.loss]

    def _augment(self, augment: Augment, inputs: Array, keys: SampleKeys) -> Array:
        """The images, distorted, for this epoch."""
        images = self.images.channels_first(inputs)
        return augment(images, keys, background=self.images.pixel_min, compiled=self.kernel == "compiled")

    def _record(self, kernel: Kernels, buffers: Buffers, loss: Loss, arrays: list[Array]) -> Any:
        """A function that runs a pass over such arrays with fewer calls, or None if the kernel can't record it."""
        record = getattr(kernel, "record", None)
        if (
            record is None
            or self.loss != CROSS_ENTROPY
            or not all(map(only_calls_kernels, (self.images, *self.layers)))
        ):
            return None
        return record(lambda recorder, *external: self._pass(recorder, buffers, loss, *external), arrays)

    def warm_up(self, parameters: Vector, inputs: Array, targets: Array) -> None:
        """Compile the kernel for this number of images, or load the compiled code. See `Model`."""
        if hasattr(kernels.load(self.kernel), "is_compiled"):
            keys = SampleKeys(0, 0, np.arange(len(inputs)))
            self.loss_and_gradient(parameters, inputs, targets, np.empty_like(parameters), keys=keys)

    def is_compiled(self, images: int) -> bool:
        """Whether the kernel needs no compiling for this number of images, or is compiled already."""
        is_compiled = getattr(kernels.load(self.kernel), "is_compiled", None)
        if is_compiled is None:
            return True
        if self._methods_with_keys and self.kernel == "compiled" and not _compiled_random().is_kept():
            return False
        return bool(is_compiled(images)) and (self.augment is None or self.augment.is_compiled())

    def scores(self, parameters: Vector, inputs: Array) -> Array:
        """The class scores (logits) of images, ``(n, classes)``. Raises ValueError if their size or unit is another."""
        scores = np.empty((len(inputs), self.classes), parameters.dtype)
        for images, logits in self._score_blocks(parameters, inputs):
            scores[images] = logits.T
        return scores

    def predict(self, parameters: Vector, inputs: Array) -> Array:
        """The class labels of images, ``(n,)``. For "squared_error" the outputs, ``(n, k)``, or ``(n,)`` for k = 1."""
        scores = self.scores(parameters, inputs)
        if not self.classifies:
            return scores[:, 0] if self.classes == 1 else scores
        labels: Array = scores.argmax(axis=1)
        return labels

    def predict_proba(self, parameters: Vector, inputs: Array) -> Array:
        """The probability of each class, float32 ``(n, classes)``: the kernel's softmax of the scores.

        The largest number of a row is at the class that `predict` gives: where rounding to float32 makes it equal to
        one before it, it becomes the next larger float32. Raises TypeError for another loss.
        """
        if not self.classifies:
            raise TypeError(f"a network with the loss {self.loss!r} has no probabilities: use predict")
        softmax = kernels.load(self.kernel).softmax
        result = np.empty((len(inputs), self.classes), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # Scores that overflow give NaN, which the caller notices.
            for images, logits in self._score_blocks(parameters, inputs):
                probabilities = np.empty_like(logits)
                softmax(logits, probabilities)
                block = result[images]
                labels = logits.argmax(axis=0)
                block[:] = probabilities.T
                (tied,) = np.nonzero(block.argmax(axis=1) != labels)
                block[tied, labels[tied]] = np.nextafter(block[tied].max(axis=1), np.float32(2))
        return result

    def _score_blocks(self, parameters: Vector, inputs: Array) -> Iterator[tuple[slice, Array]]:
        """For each block: which images, and their scores ``(classes, n)``, which the next block overwrites."""
        self.check_images(inputs)
        views = self.layer_views(np.ascontiguousarray(parameters))
        kernel = kernels.load(self.kernel)
        dtype = parameters.dtype
        for start in range(0, len(inputs), PREDICTED_AT_ONCE):
            images = slice(start, min(start + PREDICTED_AT_ONCE, len(inputs)))
            block = self.images.pixels(inputs[images], dtype)
            yield images, self._forward(kernel, self._buffers(len(block), dtype), views, block)


def _compiled_random() -> Any:
    """The compiled random numbers, imported lazily: an extra."""
    from parallel_lenet import random_compiled

    return random_compiled
