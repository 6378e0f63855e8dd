"""Classic mistakes in kernels: each as a user's file that redefines one function, and what the check must say about it.

The files are written in different styles, so that the diagnosis can't rely on one: loops over images, windows taken at
once, `numpy.einsum`.
"""

from typing import NamedTuple

HEAD = """\
import numpy as np
from parallel_lenet.kernels.im2col import *


def windows(x, kh, kw, stride, padding):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), (1, 2))
    return view[:, ::stride, ::stride]  # (c, oh, ow, n, kh, kw)


"""


class Mistake(NamedTuple):
    """A wrong function, and words that the sentence about it has."""

    name: str
    source: str
    says: str


def loops(
    window: str = "top : top + kh, left : left + kw",
    value: str = "(part * weight[f][..., None]).sum((0, 1, 2)) + bias[f]",
    top: str = "row * stride",
    left: str = "col * stride",
    before: str = "",
    pad: str = "padding",
    op: str = "=",
) -> str:
    """A convolution by loops, with a part of it replaced."""
    return f"""
def conv2d(x, weight, bias, stride, padding, out):
    kh, kw = weight.shape[2:]
    p = {pad}
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    {before or "pass"}
    for f in range(out.shape[0]):
        for row in range(out.shape[1]):
            for col in range(out.shape[2]):
                top, left = {top}, {left}
                part = padded[:, {window}]
                out[f, row, col] {op} {value}
"""


PLAIN = "(part * weight[f][..., None]).sum((0, 1, 2))"

MISTAKES = [
    # Convolution, forward.
    Mistake(
        "flipped filters",
        loops(value="(part * weight[f][:, ::-1, ::-1, None]).sum((0, 1, 2)) + bias[f]"),
        "conv2d: the output out is a true convolution, with filters turned by 180 degrees",
    ),
    Mistake(
        "swapped rows and columns of the filters",
        loops(value="(part * np.swapaxes(weight[f], 1, 2)[..., None]).sum((0, 1, 2)) + bias[f]"),
        "conv2d: the output out is computed with rows and columns of the filters swapped",
    ),
    Mistake(
        "swapped channels",
        loops(value="(part[::-1] * weight[f][..., None]).sum((0, 1, 2)) + bias[f]"),
        "conv2d: the output out is computed with the channels in reverse order",
    ),
    Mistake(
        "mean for sum",
        loops(value="(part * weight[f][..., None]).mean((0, 1, 2)) + bias[f]"),
        "conv2d: the output out is the mean of the products instead of their sum",
    ),
    Mistake("missing bias", loops(value=PLAIN), "conv2d: the output out lacks the bias"),
    Mistake(
        "bias with the wrong sign",
        loops(value=f"{PLAIN} - bias[f]"),
        "conv2d: the output out has the bias subtracted instead of added",
    ),
    Mistake(
        "bias in each channel",
        loops(value="((part * weight[f][..., None]).sum((1, 2)) + bias[f]).sum(0)"),
        "conv2d: the output out has the bias added once per channel",
    ),
    Mistake(
        "ignores the stride", loops(top="row", left="col"), "conv2d: the output out ignores the stride with stride 2"
    ),
    Mistake("ignores the padding", loops(pad="0"), "conv2d: raises ValueError with padding 1"),
    Mistake(
        "off by one",
        loops(before="padded = np.roll(padded, (-1, -1), (1, 2))"),
        "conv2d: the output out takes windows that begin one row and one column too late",
    ),
    Mistake(
        "last row forgotten",
        loops().replace("range(out.shape[1])", "range(out.shape[1] - 1)"),
        "conv2d: the output out is not written in the last row",
    ),
    Mistake("accumulates", loops(op="+="), "conv2d: the output out is added to what the array held before"),
    Mistake(
        "only the first image",
        loops(value="0", before="out[:] = 0")
        + "                out[f, row, col, 0] = (part[..., 0] * weight[f]).sum() + bias[f]\n",
        "conv2d: the output out is 0 for all images but the first",
    ),
    Mistake(
        "channels overwrite each other",
        loops(value="bias[f]")
        + """\
                for c in range(len(x)):
                    out[f, row, col] = (part[c] * weight[f, c, ..., None]).sum((0, 1)) + bias[f]
""",
        "conv2d: the output out counts only the last channel",
    ),
    Mistake("writes into its input", loops() + "    x[:] = np.maximum(x, 0)\n", "conv2d: writes into its input x"),
    Mistake(
        "returns a float64 array",
        """
def conv2d(x, weight, bias, stride, padding, out):
    parts = windows(x, *weight.shape[2:], stride, padding)
    return np.einsum("crsnij,fcij->frsn", parts, weight).astype(np.float64) + bias[:, None, None, None]
""",
        "conv2d: the output out is not written: the function returns an array of float64 instead of writing into out",
    ),
    Mistake(
        "writes into a copy",
        """
def conv2d(x, weight, bias, stride, padding, out):
    parts = windows(x, *weight.shape[2:], stride, padding)
    result = np.einsum("crsnij,fcij->fsrn", parts, weight) + bias[:, None, None, None]
    out.swapaxes(1, 2).reshape(len(out), -1)[:] = result.reshape(len(out), -1)
""",
        "conv2d: the output out is not written: what is written may be a copy",
    ),
    Mistake(
        "wrong shape",
        """
def conv2d(x, weight, bias, stride, padding, out):
    parts = windows(x, *weight.shape[2:], stride, padding)
    out[:] = np.einsum("crsnij,fcij->nfrs", parts, weight) + bias[:, None, None]
""",
        "conv2d: raises ValueError",
    ),
    Mistake(
        "keeps data of an earlier call",
        """
cache = {}

def conv2d(x, weight, bias, stride, padding, out):
    key = x.shape, weight.shape, stride, padding, x.dtype
    if key not in cache:
        cache[key] = windows(x, *weight.shape[2:], stride, padding)
    out[:] = np.einsum("crsnij,fcij->frsn", cache[key], weight) + bias[:, None, None, None]
""",
        "conv2d: keeps data of an earlier call",
    ),
    Mistake(
        "keeps a reference to its buffer",
        """
results = []

def conv2d(x, weight, bias, stride, padding, out):
    parts = windows(x, *weight.shape[2:], stride, padding)
    out[:] = np.einsum("crsnij,fcij->frsn", parts, weight) + bias[:, None, None, None]
    for result in results:
        if result.shape == out.shape and result.dtype == out.dtype:
            result[:] = out
    results.append(out)
""",
        "conv2d: keeps a reference to the arrays of an earlier call, and writes into them later",
    ),
    # Convolution, backward.
    Mistake(
        "transposed kernel gradient",
        """
def conv2d_weight_gradient(x, dy, stride, padding, dw, db):
    parts = windows(x, *dw.shape[2:], stride, padding)[:, : dy.shape[1], : dy.shape[2]]
    dw[:] = np.einsum("crsnij,frsn->fcji", parts, dy).reshape(dw.shape)
    db[:] = dy.sum((1, 2, 3))
""",
        "conv2d_weight_gradient: the kernel gradient dw has rows and columns swapped",
    ),
    Mistake(
        "flipped kernel gradient",
        """
def conv2d_weight_gradient(x, dy, stride, padding, dw, db):
    parts = windows(x, *dw.shape[2:], stride, padding)[:, : dy.shape[1], : dy.shape[2]]
    dw[:] = np.einsum("crsnij,frsn->fcij", parts, dy)[:, :, ::-1, ::-1]
    db[:] = dy.sum((1, 2, 3))
""",
        "conv2d_weight_gradient: the kernel gradient dw is turned by 180 degrees",
    ),
    Mistake(
        "averaged kernel gradient, depends on the batch size",
        """
def conv2d_weight_gradient(x, dy, stride, padding, dw, db):
    parts = windows(x, *dw.shape[2:], stride, padding)[:, : dy.shape[1], : dy.shape[2]]
    dw[:] = np.einsum("crsnij,frsn->fcij", parts, dy) / x.shape[3]
    db[:] = dy.sum((1, 2, 3))
""",
        "conv2d_weight_gradient: the kernel gradient dw is averaged over the images, but must be summed",
    ),
    Mistake(
        "averaged bias gradient",
        """
def conv2d_weight_gradient(x, dy, stride, padding, dw, db):
    parts = windows(x, *dw.shape[2:], stride, padding)[:, : dy.shape[1], : dy.shape[2]]
    dw[:] = np.einsum("crsnij,frsn->fcij", parts, dy)
    db[:] = dy.sum((1, 2)).mean(1)
""",
        "conv2d_weight_gradient: the bias gradient db is averaged over the images, but must be summed",
    ),
    Mistake(
        "missing bias gradient",
        """
def conv2d_weight_gradient(x, dy, stride, padding, dw, db):
    parts = windows(x, *dw.shape[2:], stride, padding)[:, : dy.shape[1], : dy.shape[2]]
    dw[:] = np.einsum("crsnij,frsn->fcij", parts, dy)
""",
        "conv2d_weight_gradient: the bias gradient db is not written",
    ),
    Mistake(
        "kernel gradient of the last image",
        """
def conv2d_weight_gradient(x, dy, stride, padding, dw, db):
    parts = windows(x, *dw.shape[2:], stride, padding)[:, : dy.shape[1], : dy.shape[2]]
    for i in range(x.shape[3]):
        dw[:] = np.einsum("crsij,frs->fcij", parts[:, :, :, i], dy[..., i])
    db[:] = dy.sum((1, 2, 3))
""",
        "conv2d_weight_gradient: the kernel gradient dw counts only the last image",
    ),
    Mistake(
        "input gradient with flipped filters",
        """
def conv2d_input_gradient(dy, weight, stride, padding, out, flip=(slice(None), slice(None), slice(None, None, -1))):
    from parallel_lenet.kernels import im2col
    turned = np.ascontiguousarray(weight[:, :, ::-1, ::-1])
    im2col.conv2d_input_gradient(dy, turned, stride, padding, out)
""",
        "conv2d_input_gradient: the input gradient out is computed with the filters turned by 180 degrees",
    ),
    Mistake(
        "windows overwrite each other",
        """
def conv2d_input_gradient(dy, weight, stride, padding, out):
    (c, h, w, n), (kh, kw), p = out.shape, weight.shape[2:], padding
    dx = np.zeros((c, h + 2 * p, w + 2 * p, n))
    for row in range(dy.shape[1]):
        for col in range(dy.shape[2]):
            top, left = row * stride, col * stride
            dx[:, top : top + kh, left : left + kw] = np.einsum("fn,fcij->cijn", dy[:, row, col], weight)
    out[:] = dx[:, p : p + h, p : p + w]
""",
        "conv2d_input_gradient: the input gradient out has overlapping windows that overwrite each other",
    ),
    Mistake(
        "input gradient ignores the padding",
        """
def conv2d_input_gradient(dy, weight, stride, padding, out):
    (c, h, w, n), (kh, kw), p = out.shape, weight.shape[2:], padding
    dx = np.zeros((c, h + 2 * p, w + 2 * p, n))
    for row in range(dy.shape[1]):
        for col in range(dy.shape[2]):
            top, left = row * stride, col * stride
            dx[:, top : top + kh, left : left + kw] += np.einsum("fn,fcij->cijn", dy[:, row, col], weight)
    out[:] = dx[:, :h, :w]
""",
        "conv2d_input_gradient: the input gradient out ignores the padding with padding 1",
    ),
    # Pooling.
    Mistake(
        "sum for mean in pooling",
        """
def avg_pool2d(x, size, stride, out):
    parts = windows(x, size, size, stride, 0)
    out[:] = parts.sum((-1, -2))
""",
        "avg_pool2d: the output out is the sum of each window instead of its mean",
    ),
    Mistake(
        "pooling gradient not divided",
        """
def avg_pool2d_gradient(dy, size, stride, out):
    out[:] = 0
    for row in range(dy.shape[1]):
        for col in range(dy.shape[2]):
            top, left = row * stride, col * stride
            out[:, top : top + size, left : left + size] += dy[:, row : row + 1, col : col + 1]
""",
        "avg_pool2d_gradient: the input gradient out is not divided by the size of the window",
    ),
    Mistake(
        "max pooling that begins with 0",
        """
def max_pool2d(x, size, stride, out):
    out[:] = np.maximum(windows(x, size, size, stride, 0).max((-1, -2)), 0)
""",
        "max_pool2d: the output out begins with 0",
    ),
    Mistake(
        "gradient to every maximum",
        """
def max_pool2d_gradient(x, dy, size, stride, out):
    out[:] = 0
    for row in range(dy.shape[1]):
        for col in range(dy.shape[2]):
            place = slice(None), slice(row * stride, row * stride + size), slice(col * stride, col * stride + size)
            part = x[place]
            out[place] += (part == part.max((1, 2), keepdims=True)) * dy[:, row : row + 1, col : col + 1]
""",
        "max_pool2d_gradient: the input gradient out goes to every one of equal maxima",
    ),
    Mistake(
        "max gradient is not masked",
        """
def max_pool2d_gradient(x, dy, size, stride, out):
    out[:] = 0
    for row in range(dy.shape[1]):
        for col in range(dy.shape[2]):
            place = slice(None), slice(row * stride, row * stride + size), slice(col * stride, col * stride + size)
            out[place] += dy[:, row : row + 1, col : col + 1]
""",
        "max_pool2d_gradient: the input gradient out goes to the whole window",
    ),
    # Activations.
    Mistake(
        "gradient not masked in ReLU",
        "def relu_gradient(y, dy, out):\n    out[:] = dy\n",
        "relu_gradient: the input gradient out is not masked",
    ),
    Mistake(
        "leaky ReLU",
        "def relu(x, out):\n    out[:] = np.where(x > 0, x, 0.01 * x)\n",
        "relu: the output out multiplies negative numbers by 0.01 instead of 0",
    ),
    Mistake(
        "tanh derivative from x",
        "def tanh_gradient(y, dy, amplitude, out):\n    out[:] = dy * amplitude * (1 - np.tanh(y) ** 2)\n",
        "tanh_gradient: the input gradient out treats y as the input x",
    ),
    Mistake(
        "tanh without amplitude",
        "def tanh(x, amplitude, out):\n    np.tanh(x, out=out)\n",
        "tanh: the output out lacks the amplitude",
    ),
    Mistake(
        "NaN for large input",
        """
def tanh(x, amplitude, out):
    e = np.exp(2 * x)
    out[:] = amplitude * (e - 1) / (e + 1)
""",
        "tanh: the output out is NaN or infinite for large inputs",
    ),
    Mistake(
        "changes global random state",
        """
def relu(x, out):
    np.random.seed(0)
    np.maximum(x, 0, out=out)
""",
        "relu: changes the global state of random numbers",
    ),
    Mistake(
        "not deterministic",
        """
generator = np.random.default_rng()

def relu(x, out):
    np.maximum(x, 0, out=out)
    out *= 1 + 1e-12 * generator.random()
""",
        "relu: two calls with the same arguments have different results",
    ),
    Mistake(
        "wrong where out is x",
        """
def tanh(x, amplitude, out):
    out[:] = 0
    out += amplitude * np.tanh(x)
""",
        "tanh: is wrong if out is x",
    ),
    # Dense layers and the loss.
    Mistake(
        "wrong sign",
        "def dense_input_gradient(dy, weight, out):\n    out[:] = -(weight.T @ dy)\n",
        "dense_input_gradient: the input gradient out has the wrong sign",
    ),
    Mistake(
        "input gradient of the wrong layer",
        "def dense_input_gradient(dy, weight, out):\n    out[:] = weight @ dy\n",
        "dense_input_gradient: raises ValueError",
    ),
    Mistake(
        "averaged weight gradient",
        """
def dense_weight_gradient(x, dy, dw, db):
    dw[:] = dy @ x.T / x.shape[1]
    db[:] = dy.sum(1)
""",
        "dense_weight_gradient: the weight gradient dw is averaged over the images",
    ),
    Mistake(
        "softmax without max subtraction",
        """
def softmax(logits, out):
    np.exp(logits, out=out)
    out /= out.sum(axis=0)
""",
        "softmax: the output out is NaN or infinite for large inputs: take the largest logit off before exp",
    ),
    Mistake(
        "softmax over the images",
        """
def softmax(logits, out):
    e = np.exp(logits - logits.max())
    out[:] = e / e.sum(axis=1, keepdims=True)
""",
        "softmax: the output out is divided by the sum over the images instead of the classes",
    ),
    Mistake(
        "1 not subtracted at the target",
        """
def softmax_cross_entropy(logits, targets, weights, d_logits):
    e = np.exp(logits - logits.max(0))
    p = e / e.sum(0)
    d_logits[:] = weights * p
    each = np.arange(len(targets))
    return float((weights * -np.log(p[targets, each])).sum()), int((p.argmax(0) == targets).sum())
""",
        "softmax_cross_entropy: the gradient d_logits is only the softmax: 1 must be subtracted at the target",
    ),
    Mistake(
        "mean loss",
        """
def softmax_cross_entropy(logits, targets, weights, d_logits):
    e = np.exp(logits - logits.max(0))
    p = e / e.sum(0)
    each = np.arange(len(targets))
    d_logits[:] = p
    d_logits[targets, each] -= 1
    d_logits *= weights
    shifted = logits - logits.max(0)
    losses = np.log(np.exp(shifted).sum(0)) - shifted[targets, each]
    return float((weights * losses).mean()), int((p.argmax(0) == targets).sum())
""",
        "softmax_cross_entropy: the loss is the mean over the images, but must be their sum",
    ),
    Mistake(
        "ignores the smoothing",
        """
def softmax_cross_entropy(logits, targets, weights, d_logits, smoothing=0.0):
    shifted = logits - logits.max(0)
    each = np.arange(len(targets))
    d_logits[:] = np.exp(shifted) / np.exp(shifted).sum(0)
    d_logits[targets, each] -= 1
    d_logits *= weights
    losses = np.log(np.exp(shifted).sum(0)) - shifted[targets, each]
    return float((weights * losses).sum()), int((logits.argmax(0) == targets).sum())
""",
        "softmax_cross_entropy: the gradient d_logits ignores the smoothing with a smoothing of 0.2",
    ),
    Mistake(
        "ignores the weights",
        """
def softmax_cross_entropy(logits, targets, weights, d_logits):
    shifted = logits - logits.max(0)
    each = np.arange(len(targets))
    d_logits[:] = np.exp(shifted) / np.exp(shifted).sum(0)
    d_logits[targets, each] -= 1
    losses = np.log(np.exp(shifted).sum(0)) - shifted[targets, each]
    return float(losses.sum()), int((logits.argmax(0) == targets).sum())
""",
        "softmax_cross_entropy: the gradient d_logits ignores the weights with weights other than 1",
    ),
    Mistake(
        "tanh derivative without amplitude",
        """
def tanh_gradient(y, dy, amplitude, out):
    out[:] = dy * (1 - (y / amplitude) ** 2)
""",
        "tanh_gradient: the input gradient out is divided by the amplitude",
    ),
    Mistake(
        "padding on one side",
        loops().replace("((0, 0), (p, p), (p, p), (0, 0))", "((0, 0), (0, 2 * p), (0, 2 * p), (0, 0))"),
        "conv2d: the output out has all padding after the last row and column",
    ),
    # Right for small numbers of images or features, or for one layout.
    Mistake(
        "rest of the images forgotten",
        """
def relu(x, out):
    whole = max(8, x.shape[-1] // 8 * 8)
    np.maximum(x[..., :whole], 0, out=out[..., :whole])
""",
        "relu: the output out is not written in images 64, 65, 66 with 67 images",
    ),
    Mistake(
        "indices in one byte",
        """
def dense(x, weight, bias, out):
    inputs = np.arange(x.shape[0]).astype(np.uint8)
    out[:] = weight @ x[inputs] + bias[:, None]
""",
        "dense: the output out is wrong with 300 inputs",
    ),
    Mistake(
        "filters kept by the address of their array",
        """
kept = {}

def dense(x, weight, bias, out):
    _, mine = kept.setdefault(id(weight), (weight, weight.copy()))
    out[:] = mine @ x + bias[:, None]
""",
        "dense: keeps data of an earlier call: a call with the same arrays",
    ),
    Mistake(
        "ends the program",
        """
def relu(x, out):
    raise SystemExit("no vectors")
""",
        "relu: raises SystemExit in user.py",
    ),
    # Images.
    Mistake(
        "border cut off by its width",
        """
def prepare_images(images, scale, shift, out):
    out[:] = np.reshape(shift, (-1, 1, 1, 1))
    top, left = ((out.shape[1 + i] - images.shape[2 + i]) // 2 for i in (0, 1))
    inside = out[:, top:-top, left:-left] if out.shape[1] % 2 == 0 else out[:, top : -top - 1, left : -left - 1]
    inside[:] = images.transpose(1, 2, 3, 0) * np.reshape(scale, (-1, 1, 1, 1)) + np.reshape(shift, (-1, 1, 1, 1))
""",
        "prepare_images: raises ValueError with no border",
    ),
    Mistake(
        "centred by rounding up",
        """
def prepare_images(images, scale, shift, out):
    out[:] = np.reshape(shift, (-1, 1, 1, 1))
    h, w = images.shape[2:]
    top, left = (out.shape[1] - h + 1) // 2, (out.shape[2] - w + 1) // 2
    inside = out[:, top : top + h, left : left + w]
    inside[:] = images.transpose(1, 2, 3, 0) * np.reshape(scale, (-1, 1, 1, 1)) + np.reshape(shift, (-1, 1, 1, 1))
""",
        "prepare_images: the output out has the wider border at the beginning: it belongs at the end with a border",
    ),
    Mistake(
        "pixels cut to bytes",
        """
def prepare_images(images, scale, shift, out):
    import parallel_lenet.kernels.im2col as right
    right.prepare_images(images.astype(np.uint8), scale, shift, out)
""",
        "prepare_images: the output out is wrong in rows 2 to 5 of columns 2, 3, 4 with pixels that are floats",
    ),
    Mistake(
        "border of 0",
        """
def prepare_images(images, scale, shift, out):
    out[:] = 0
    n, c, h, w = images.shape
    top, left = (out.shape[1] - h) // 2, (out.shape[2] - w) // 2
    out[:, top : top + h, left : left + w] = images.transpose(1, 2, 3, 0) * scale + shift
""",
        "prepare_images: the output out has a border of 0",
    ),
    Mistake(
        "first channel's scale",
        """
def prepare_images(images, scale, shift, out):
    scale, shift = np.ravel(scale)[0], np.ravel(shift)[0]
    out[:] = shift
    n, c, h, w = images.shape
    top, left = (out.shape[1] - h) // 2, (out.shape[2] - w) // 2
    out[:, top : top + h, left : left + w] = images.transpose(1, 2, 3, 0) * scale + shift
""",
        "prepare_images: the output out has the scale and the shift of the first channel in all channels with a scale",
    ),
    Mistake(
        "images not centred",
        """
def prepare_images(images, scale, shift, out):
    out[:] = shift
    n, c, h, w = images.shape
    out[:, :h, :w] = images.transpose(1, 2, 3, 0) * scale + shift
""",
        "prepare_images: the output out has the images at the upper left instead of in the centre",
    ),
]
