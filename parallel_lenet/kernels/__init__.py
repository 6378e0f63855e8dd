"""The contract of kernels: the computations of layers, on plain arrays. Implemented by `naive`, `im2col`, `compiled`.

A kernel module is any module with the functions of `Kernels`. All of them share these rules:

- *Batch last.* An image batch is ``(channels, height, width, n)``, features are ``(features, n)``.
- Arrays are C-contiguous and all of one dtype, float32 or float64, except the stored images. Inputs are never written
  to.
- Results go to ``out`` (or ``dw`` and ``db``), which the caller allocates with the result's shape. All of it is
  overwritten. ``out`` shares no memory with the inputs, except that ``tanh`` and ``relu`` may get ``x`` as ``out``,
  and their gradients ``dy``.
- A gradient is that of the summed loss, not the mean: only the coordinator divides.
- NaN and infinity are treated as in IEEE arithmetic.
- Functions are pure: equal inputs give equal bits, whichever process computes them.

**What decides bits.** Sums over images (gradients of parameters, the loss) add blocks of `LEAF` images along a balanced
binary tree over their positions: ``(0 + 1) + (2 + 3)`` and so on. A missing right half is left out. With a leaf of 1
the results for the two halves of a block of 2^k images add up to the block's, bit by bit. The result for one image then
does not depend on the images beside it, so the number of images per call decides no bit. That holds for `naive` and for
`compiled`. `compiled` also gives the same bits on every machine: it uses IEEE arithmetic in a fixed order, and
functions of its own. `im2col` leaves the order to BLAS: its leaf is the shard, and its bits depend on the shard size
and on the BLAS.

Convolution is cross-correlation, as everywhere in this field: the window is not flipped (`layers.Conv2d(flip=True)`
turns the filters for the true convolution). Its output has ``floor((size + 2 * padding - k) / stride) + 1`` rows.
"""

from functools import cache
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.checks import InvalidValue
from parallel_lenet.kernels import files

Array = NDArray[Any]
Factor: TypeAlias = float | Array
"""A number, or one for each channel."""

NAMES = ("naive", "im2col", "compiled")


class Kernels(Protocol):
    """The functions of a kernel module, for ``f`` filters of ``(c, kh, kw)`` and images ``(c, h, w, n)``."""

    LEAF: int | None
    """The number of images in a leaf of the tree of sums, or None for the whole shard."""

    SHARD_SIZE: int
    """Images per shard by default: the number per call that these kernels are fastest with."""

    def prepare_images(self, images: Array, scale: Factor, shift: Factor, out: Array) -> None:
        """Stored images ``(n, c, h, w)``, centred on a border of 0, times scale, plus shift -> ``out (c, H, W, n)``.

        ``scale`` and ``shift`` are numbers, or arrays ``(c,)`` with one for each channel.
        """

    def conv2d(self, x: Array, weight: Array, bias: Array, stride: int, padding: int, out: Array) -> None:
        """``x (c, h, w, n)``, ``weight (f, c, kh, kw)``, ``bias (f,)`` -> ``out (f, oh, ow, n)``. The border is 0."""

    def conv2d_input_gradient(self, dy: Array, weight: Array, stride: int, padding: int, out: Array) -> None:
        """The layer gradient: the error ``dy (f, oh, ow, n)``, spread over the windows -> ``out (c, h, w, n)``."""

    def conv2d_weight_gradient(self, x: Array, dy: Array, stride: int, padding: int, dw: Array, db: Array) -> None:
        """Kernel gradient: windows of ``x``, weighted by ``dy`` -> ``dw (f, c, kh, kw)``, its sum -> ``db (f,)``."""

    def avg_pool2d(self, x: Array, size: int, stride: int, out: Array) -> None:
        """The mean of each ``size`` x ``size`` window: ``x (c, h, w, n)`` -> ``out (c, oh, ow, n)``."""

    def avg_pool2d_gradient(self, dy: Array, size: int, stride: int, out: Array) -> None:
        """Each error spread evenly over its window -> ``out (c, h, w, n)``."""

    def max_pool2d(self, x: Array, size: int, stride: int, out: Array) -> None:
        """The largest value of each window, NaN if it holds one -> ``out (c, oh, ow, n)``."""

    def max_pool2d_gradient(self, x: Array, dy: Array, size: int, stride: int, out: Array) -> None:
        """Each error added at its window's largest value or NaN: the first in row order -> ``out (c, h, w, n)``."""

    def tanh(self, x: Array, amplitude: float, out: Array) -> None:
        """``amplitude * tanh(x)``, any shape."""

    def tanh_gradient(self, y: Array, dy: Array, amplitude: float, out: Array) -> None:
        """From the result ``y``: ``dy * (amplitude - y * y / amplitude)``."""

    def relu(self, x: Array, out: Array) -> None:
        """``max(x, 0)``, any shape. NaN stays NaN."""

    def relu_gradient(self, y: Array, dy: Array, out: Array) -> None:
        """From the result ``y``: ``dy`` if ``y > 0``, else 0."""

    def dense(self, x: Array, weight: Array, bias: Array, out: Array) -> None:
        """``W x + b``: ``x (i, n)``, ``weight (o, i)``, ``bias (o,)`` -> ``out (o, n)``."""

    def dense_input_gradient(self, dy: Array, weight: Array, out: Array) -> None:
        """``W^T dy``: ``dy (o, n)`` -> ``out (i, n)``."""

    def dense_weight_gradient(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        """``dy x^T`` -> ``dw (o, i)``, ``dy`` summed over the images -> ``db (o,)``."""

    def softmax(self, logits: Array, out: Array) -> None:
        """The probability of each class: ``exp(logits (k, n))``, divided by their sum -> ``out (k, n)``."""

    def softmax_cross_entropy(
        self, logits: Array, targets: Array, weights: Array, d_logits: Array, smoothing: float = 0.0
    ) -> tuple[float, int]:
        """The loss of ``logits (k, n)`` for ``targets (n,)``, int64 from 0 to k - 1, and how many were right.

        Each image's loss counts ``weights (n,)`` times, and so does its gradient, which goes to ``d_logits (k, n)``.
        The loss is summed in float64. Weights of 1 change no bit.

        ``smoothing`` is that of the labels, from 0 to below 1: see `Sequential`. It is given by name, and only if it is
        above 0. A kernel of your own that leaves the parameter out can't train with label smoothing.
        """


def available() -> tuple[str, ...]:
    """The kernels that can be loaded here: all, or all but `compiled` if numba is missing or does not work.

    In the second case the reason is logged as a warning, once per process.
    """
    try:
        load("compiled")
    except optional.ExtraError as error:
        if error.installed:
            optional.note_once(f"{error}; until then the im2col kernel is used")
        return NAMES[:-1]
    return NAMES


def resolve(name: str) -> str:
    """The kernel that ``name`` stands for: "auto" is `compiled` if numba works here, else `im2col`.

    A Python file's name stands for the kernel that it defines: see `files`.

    Raises ValueError if there is no such kernel, and ExtraError, a ModuleNotFoundError, if it needs numba and that is
    missing or does not work.
    """
    if name == "auto":
        return available()[-1]
    if not isinstance(name, str):
        raise InvalidValue("kernel", "the name of a kernel, or a Python file", name)
    if files.is_file(name):
        return files.resolve(name)
    if name not in NAMES:
        raise ValueError(f"unknown kernel {name!r}: choose one of auto, {', '.join(NAMES)}, or a Python file")
    if name == "compiled":
        load(name)
    return name


def load(name: str) -> Kernels:
    """The kernel module called ``name``, or "auto". Raises as `resolve` does, and UserFileError if a file fails."""
    return _load(resolve(name) if name.endswith(".py") else name)


@cache
def _load(name: str) -> Kernels:
    if files.is_file(name):
        return cast(Kernels, files.load(name))
    if name == "compiled":
        return cast(Kernels, optional.load("fast", "numba", f"kernel {name!r}", f"parallel_lenet.kernels.{name}"))
    return cast(Kernels, import_module(f"parallel_lenet.kernels.{resolve(name)}"))
