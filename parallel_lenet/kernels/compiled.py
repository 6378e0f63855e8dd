"""The tutorial's nested loops, reordered for the machine and compiled by Numba.

The formulas are those of `naive`, and so are the loops; only their order differs, and each convolution says why its
own is what it is. Three things make the difference:

- With the batch last, (column, image) of one image row is one *run* of consecutive numbers, ``columns * n`` long. The
  innermost loop goes along a run, so the compiler turns it into vector instructions, eight float32 at a time.
- One such pass does ten multiply-adds for seven loads, by taking several taps of the kernel and two filters at once:
  loads, not arithmetic, are what a simpler loop waits for.
- Slices are taken before the innermost loop. Within it no index can then be negative, and Numba needn't check for
  Python's counting from the end, a check that alone keeps a loop from being vectorised.

With a stride above 1 there are no such runs, and convolutions are `im2col`'s.

A processor loads eight numbers fastest where they don't straddle two cache lines: arrays that start at a multiple of 64
bytes are faster by up to a fifth. The results are the same bits wherever they start.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from parallel_lenet.jit import compiled, own
from parallel_lenet.kernels import im2col
from parallel_lenet.kernels.im2col import dense_input_gradient, relu

__all__ = [
    "SHARD_SIZE",
    "avg_pool2d",
    "avg_pool2d_gradient",
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "dense",
    "dense_input_gradient",
    "dense_weight_gradient",
    "is_compiled",
    "max_pool2d",
    "max_pool2d_gradient",
    "prepare_images",
    "relu",
    "relu_gradient",
    "softmax_cross_entropy",
    "tanh",
    "tanh_gradient",
]

Array = NDArray[Any]

SHARD_SIZE = 32  # Fewer images make the runs short, more leave the cache.


def _padded(x: Array, padding: int) -> Array:
    """``x`` with ``padding`` zeros round each image, for loops that then need no borders."""
    if padding == 0:
        return own(x)
    channels, height, width, n = x.shape
    result = np.zeros((channels, height + 2 * padding, width + 2 * padding, n), x.dtype)
    result[:, padding:-padding, padding:-padding] = x
    return result


def prepare_images(images: Array, scale: float, shift: float, out: Array) -> None:
    """Every pixel to its place, scaled and shifted; the border is a pixel of 0, scaled and shifted."""
    _prepare_images(own(images), float(scale), float(shift), out)


@compiled
def _prepare_images(images: Array, scale: float, shift: float, out: Array) -> None:
    n, channels, height, width = images.shape
    factor, term = out.dtype.type(scale), out.dtype.type(shift)
    top, left = (out.shape[1] - height) // 2, (out.shape[2] - width) // 2
    out[:] = term
    for channel in range(channels):
        for r in range(height):
            for c in range(width):
                y = out[channel, top + r, left + c]
                for i in range(n):
                    y[i] = images[i, channel, r, c] * factor + term


@compiled
def _taps(channels: int, height: int, width: int, kh: int, kw: int, n: int) -> Array:
    """Where, in a flat ``x (channels, height, width, n)``, each tap of a kernel starts its run over the first row."""
    starts = np.empty(channels * kh * kw, np.int64)
    t = 0
    for channel in range(channels):
        for i in range(kh):
            for j in range(kw):
                starts[t] = ((channel * height + i) * width + j) * n
                t += 1
    return starts


def conv2d(x: Array, weight: Array, bias: Array, stride: int, padding: int, out: Array) -> None:
    """Forward: y[f, r, c] = sum(window at (r, c) * kernel f) + bias f."""
    if stride != 1:
        im2col.conv2d(x, weight, bias, stride, padding, out)
        return
    _conv2d(_padded(x, padding), own(weight), own(bias), out)


@compiled
def _conv2d(x: Array, weight: Array, bias: Array, out: Array) -> None:
    # Naive sums a window for each output value. Here the loop over the window's taps stands outside that over the
    # output row's values: one weight times a run of x is added to a run of y, so neighbours in memory are worked on
    # together. The output row stays in the nearest cache while all taps pass over it, so rows stand outside taps.
    # Five taps are summed before y is stored again, and two filters use each number of x that was loaded.
    filters, rows, columns, n = out.shape
    channels, height, width, _ = x.shape
    starts = _taps(channels, height, width, weight.shape[2], weight.shape[3], n)
    taps, run = len(starts), columns * n
    pixels, y, w = x.reshape(-1), out.reshape(filters, rows, run), weight.reshape(filters, taps)
    for pair in range(0, filters, 2):
        f = max(min(pair, filters - 2), 0)  # Odd: the last pair overlaps the one before; a lone one is both.
        g = min(f + 1, filters - 1)
        for r in range(rows):
            yf, yg, row = y[f, r], y[g, r], r * width * n
            yf[:] = bias[f]
            yg[:] = bias[g]
            for t in range(0, taps - 4, 5):
                s0, s1, s2 = row + starts[t], row + starts[t + 1], row + starts[t + 2]
                s3, s4 = row + starts[t + 3], row + starts[t + 4]
                x0, x1, x2 = pixels[s0 : s0 + run], pixels[s1 : s1 + run], pixels[s2 : s2 + run]
                x3, x4 = pixels[s3 : s3 + run], pixels[s4 : s4 + run]
                f0, f1, f2, f3, f4 = w[f, t], w[f, t + 1], w[f, t + 2], w[f, t + 3], w[f, t + 4]
                g0, g1, g2, g3, g4 = w[g, t], w[g, t + 1], w[g, t + 2], w[g, t + 3], w[g, t + 4]
                for p in range(run):
                    p0, p1, p2, p3, p4 = x0[p], x1[p], x2[p], x3[p], x4[p]
                    sum_f = yf[p] + f0 * p0 + f1 * p1 + f2 * p2 + f3 * p3 + f4 * p4
                    sum_g = yg[p] + g0 * p0 + g1 * p1 + g2 * p2 + g3 * p3 + g4 * p4
                    yf[p], yg[p] = sum_f, sum_g
            for t in range(taps - taps % 5, taps):
                s0 = row + starts[t]
                x0, f0, g0 = pixels[s0 : s0 + run], w[f, t], w[g, t]
                for p in range(run):
                    sum_f, sum_g = yf[p] + f0 * x0[p], yg[p] + g0 * x0[p]
                    yf[p], yg[p] = sum_f, sum_g


def conv2d_input_gradient(dy: Array, weight: Array, stride: int, padding: int, out: Array) -> None:
    """The layer gradient: each kernel, weighted by the output's error, is added into the input window it saw."""
    if stride != 1:
        im2col.conv2d_input_gradient(dy, weight, stride, padding, out)
    elif padding == 0:
        _conv2d_input_gradient(own(dy), own(weight), out)
    else:
        channels, height, width, n = out.shape
        dx = np.empty((channels, height + 2 * padding, width + 2 * padding, n), out.dtype)
        _conv2d_input_gradient(own(dy), own(weight), dx)
        out[:] = dx[:, padding:-padding, padding:-padding]


@compiled
def _conv2d_input_gradient(dy: Array, weight: Array, out: Array) -> None:
    # A row of errors times one tap's weight is added to the run of dx that this tap saw: always whole runs, whereas
    # summing taps first, as in the forward pass, would leave incomplete sums at both ends of each row. What is summed
    # before dx is stored again is therefore the same tap of four filters, and two input channels use each number of dy
    # that was loaded. Channels stand outermost, so that their two planes of dx stay in the cache until finished.
    filters, rows, columns, n = dy.shape
    channels, height, width, _ = out.shape
    kh, kw = weight.shape[2:]
    run = columns * n
    errors, dx = dy.reshape(filters, rows, run), out.reshape(channels, height * width * n)
    for pair in range(0, channels, 2):
        c = max(min(pair, channels - 2), 0)  # Odd: the last pair overlaps the one before; a lone one is both.
        d = min(c + 1, channels - 1)
        dx[c], dx[d] = 0, 0
        for f in range(0, filters - 3, 4):
            for r in range(rows):
                e0, e1, e2, e3 = errors[f, r], errors[f + 1, r], errors[f + 2, r], errors[f + 3, r]
                for i in range(kh):
                    for j in range(kw):
                        s = ((r + i) * width + j) * n
                        dc, dd = dx[c, s : s + run], dx[d, s : s + run]
                        c0, c1 = weight[f, c, i, j], weight[f + 1, c, i, j]
                        c2, c3 = weight[f + 2, c, i, j], weight[f + 3, c, i, j]
                        d0, d1 = weight[f, d, i, j], weight[f + 1, d, i, j]
                        d2, d3 = weight[f + 2, d, i, j], weight[f + 3, d, i, j]
                        for p in range(run):
                            p0, p1, p2, p3 = e0[p], e1[p], e2[p], e3[p]
                            sum_c = dc[p] + c0 * p0 + c1 * p1 + c2 * p2 + c3 * p3
                            sum_d = dd[p] + d0 * p0 + d1 * p1 + d2 * p2 + d3 * p3
                            dc[p], dd[p] = sum_c, sum_d
        for f in range(filters - filters % 4, filters):
            for r in range(rows):
                e0 = errors[f, r]
                for i in range(kh):
                    for j in range(kw):
                        s = ((r + i) * width + j) * n
                        dc, dd = dx[c, s : s + run], dx[d, s : s + run]
                        c0, d0 = weight[f, c, i, j], weight[f, d, i, j]
                        for p in range(run):
                            sum_c, sum_d = dc[p] + c0 * e0[p], dd[p] + d0 * e0[p]
                            dc[p], dd[p] = sum_c, sum_d


def conv2d_weight_gradient(x: Array, dy: Array, stride: int, padding: int, dw: Array, db: Array) -> None:
    """The kernel gradient: each input window, weighted by the output's error, is added up; the bias adds the errors."""
    if stride != 1:
        im2col.conv2d_weight_gradient(x, dy, stride, padding, dw, db)
        return
    _conv2d_weight_gradient(_padded(x, padding), own(dy), dw, db)


@compiled
def _conv2d_weight_gradient(x: Array, dy: Array, dw: Array, db: Array) -> None:
    # The gradient of one weight is a dot product: the errors of its filter times the inputs that its tap met. Naive
    # adds to all weights for each error; here each weight is finished in turn, its sum in a register, so nothing is
    # stored in the innermost loop. Five taps and two filters at once: ten sums from seven loads.
    filters, rows, columns, n = dy.shape
    channels, height, width, _ = x.shape
    starts = _taps(channels, height, width, dw.shape[2], dw.shape[3], n)
    taps, run = len(starts), columns * n
    zero = x.dtype.type(0)
    pixels, errors, w = x.reshape(-1), dy.reshape(filters, rows, run), dw.reshape(filters, taps)
    for pair in range(0, filters, 2):
        f = max(min(pair, filters - 2), 0)  # Odd: the last pair overlaps the one before; a lone one is both.
        g = min(f + 1, filters - 1)
        f0 = g0 = zero
        for r in range(rows):
            ef, eg = errors[f, r], errors[g, r]
            for p in range(run):
                f0 += ef[p]
                g0 += eg[p]
        db[f], db[g] = f0, g0
        for t in range(0, taps - 4, 5):
            f0 = f1 = f2 = f3 = f4 = g0 = g1 = g2 = g3 = g4 = zero
            for r in range(rows):
                ef, eg, row = errors[f, r], errors[g, r], r * width * n
                s0, s1, s2 = row + starts[t], row + starts[t + 1], row + starts[t + 2]
                s3, s4 = row + starts[t + 3], row + starts[t + 4]
                x0, x1, x2 = pixels[s0 : s0 + run], pixels[s1 : s1 + run], pixels[s2 : s2 + run]
                x3, x4 = pixels[s3 : s3 + run], pixels[s4 : s4 + run]
                for p in range(run):
                    f0 += ef[p] * x0[p]
                    f1 += ef[p] * x1[p]
                    f2 += ef[p] * x2[p]
                    f3 += ef[p] * x3[p]
                    f4 += ef[p] * x4[p]
                    g0 += eg[p] * x0[p]
                    g1 += eg[p] * x1[p]
                    g2 += eg[p] * x2[p]
                    g3 += eg[p] * x3[p]
                    g4 += eg[p] * x4[p]
            w[f, t], w[f, t + 1], w[f, t + 2], w[f, t + 3], w[f, t + 4] = f0, f1, f2, f3, f4
            w[g, t], w[g, t + 1], w[g, t + 2], w[g, t + 3], w[g, t + 4] = g0, g1, g2, g3, g4
        for t in range(taps - taps % 5, taps):
            f0 = g0 = zero
            for r in range(rows):
                ef, eg, s0 = errors[f, r], errors[g, r], r * width * n + starts[t]
                x0 = pixels[s0 : s0 + run]
                for p in range(run):
                    f0 += ef[p] * x0[p]
                    g0 += eg[p] * x0[p]
            w[f, t], w[g, t] = f0, g0


def avg_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward: y[channel, r, c] = mean(window at (r, c))."""
    _avg_pool2d(own(x), size, stride, out)


@compiled
def _avg_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    channels, rows, columns, n = out.shape
    share = out.dtype.type(1 / (size * size))
    for channel in range(channels):
        for r in range(rows):
            for c in range(columns):
                y, top, left = out[channel, r, c], r * stride, c * stride
                if size == 2:  # By far the most common size: four loads, one store, twice as fast.
                    x0, x1 = x[channel, top, left], x[channel, top, left + 1]
                    x2, x3 = x[channel, top + 1, left], x[channel, top + 1, left + 1]
                    for v in range(n):
                        y[v] = share * (x0[v] + x1[v] + x2[v] + x3[v])
                    continue
                y[:] = 0
                for i in range(size):
                    for j in range(size):
                        x0 = x[channel, top + i, left + j]
                        for v in range(n):
                            y[v] += share * x0[v]


def avg_pool2d_gradient(dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward: the error of a mean is spread evenly over the window it was the mean of."""
    _avg_pool2d_gradient(own(dy), size, stride, out)


@compiled
def _avg_pool2d_gradient(dy: Array, size: int, stride: int, out: Array) -> None:
    channels, rows, columns, n = dy.shape
    _, height, width, _ = out.shape
    dx_rows = out.reshape(channels, height, width * n)
    share = out.dtype.type(1 / (size * size))
    if stride != size or rows * size != height or columns * size != width:
        out[:] = 0
    for channel in range(channels):
        for r in range(rows):
            if stride != size:  # Windows overlap or leave gaps: add up what each place gets.
                for c in range(columns):
                    error = dy[channel, r, c]
                    for i in range(size):
                        for j in range(size):
                            dx = out[channel, r * stride + i, c * stride + j]
                            for v in range(n):
                                dx[v] += share * error[v]
                continue
            for c in range(columns):  # Side by side: write the first row of windows, then copy it as one long run.
                error = dy[channel, r, c]
                for j in range(size):
                    dx = out[channel, r * size, c * size + j]
                    for v in range(n):
                        dx[v] = share * error[v]
            first = dx_rows[channel, r * size]
            for i in range(1, size):
                copy = dx_rows[channel, r * size + i]
                for p in range(width * n):
                    copy[p] = first[p]


def max_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward: y[channel, r, c] = max(window at (r, c)); NaN where there is one."""
    _max_pool2d(own(x), size, stride, out)


@compiled
def _largest(x: Array, channel: int, top: int, left: int, size: int, out: Array) -> None:
    """The largest of each image's window, NaN where it holds one."""
    n, first = len(out), x[channel, top, left]
    for v in range(n):
        out[v] = first[v]
    for i in range(top, top + size):
        for j in range(left, left + size):
            pixels = x[channel, i, j]
            for v in range(n):
                larger = pixels[v] > out[v] or pixels[v] != pixels[v]
                out[v] = pixels[v] if larger else out[v]


@compiled
def _max_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    channels, rows, columns, _ = out.shape
    for channel in range(channels):
        for r in range(rows):
            for c in range(columns):
                _largest(x, channel, r * stride, c * stride, size, out[channel, r, c])


def max_pool2d_gradient(x: Array, dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward: the error of a maximum goes, whole, to the place the maximum came from."""
    _max_pool2d_gradient(own(x), own(dy), size, stride, out)


@compiled
def _max_pool2d_gradient(x: Array, dy: Array, size: int, stride: int, out: Array) -> None:
    # The images side by side look for their own places: each one's error waits for the first place that holds the
    # maximum (or NaN), and is 0 from then on.
    channels, rows, columns, n = dy.shape
    zero = x.dtype.type(0)
    largest, waiting = np.empty(n, x.dtype), np.empty(n, x.dtype)
    out[:] = 0
    for channel in range(channels):
        for r in range(rows):
            for c in range(columns):
                top, left, error = r * stride, c * stride, dy[channel, r, c]
                _largest(x, channel, top, left, size, largest)
                for v in range(n):
                    waiting[v] = error[v]
                for i in range(top, top + size):
                    for j in range(left, left + size):
                        pixels, dx = x[channel, i, j], out[channel, i, j]
                        for v in range(n):
                            here = pixels[v] == largest[v] or pixels[v] != pixels[v]
                            dx[v] += waiting[v] if here else zero
                            waiting[v] = zero if here else waiting[v]


def tanh(x: Array, amplitude: float, out: Array) -> None:
    """Forward: y = amplitude * tanh(x), to 4 units in the last place."""
    if out.dtype != np.float32:
        np.tanh(x, out=out)
        out *= amplitude
        return
    if out is not x:
        out[:] = x
    _tanh(out.reshape(-1), float(amplitude))


# With t = tanh(x / 2), tanh(x) = 2t / (1 + t^2). A fraction of two short polynomials in x^2 gives t; errors in t vanish
# where |t| is near 1, which is why the detour by x / 2 is worth it. The coefficients are a least-maximum fit to 8e-9
# for |x| < 9.03; beyond, tanh(x) is 1 in float32. All are scaled by 1.796875, so that on [1/16, 1/2] the intermediate
# results lie just below a power of two, where float32 is finest.
_N0, _N1, _N2 = np.float32(1.796875), np.float32(0.0535002173), np.float32(0.000205308423)
_D0, _D1 = np.float32(1.796875), np.float32(0.203239738)
_D2, _D3 = np.float32(0.0021680608), np.float32(2.2085278e-06)
_ONE, _QUARTER, _SATURATED = np.float32(1), np.float32(0.25), np.float32(9.03)


@compiled
def _tanh(y: Array, amplitude: float) -> None:
    scale = np.float32(amplitude)
    for p in range(len(y)):
        x = min(max(y[p], -_SATURATED), _SATURATED)
        u = x * x
        numerator = x * ((_N2 * u + _N1) * u + _N0)
        denominator = ((_D3 * u + _D2) * u + _D1) * u + _D0
        t = numerator * denominator / (denominator * denominator + _QUARTER * numerator * numerator)
        y[p] = scale * min(max(t, -_ONE), _ONE)


def tanh_gradient(y: Array, dy: Array, amplitude: float, out: Array) -> None:
    """Backward: amplitude * (1 - tanh(x)^2) = amplitude - y^2 / amplitude, times the error."""
    if out is not dy:
        out[:] = dy
    _tanh_gradient(own(y).reshape(-1), float(amplitude), out.reshape(-1))


@compiled
def _tanh_gradient(y: Array, amplitude: float, out: Array) -> None:
    a, b = y.dtype.type(amplitude), y.dtype.type(1 / amplitude)
    for p in range(len(y)):
        out[p] *= a - b * (y[p] * y[p])


def relu_gradient(y: Array, dy: Array, out: Array) -> None:
    """Backward: the error passes where the output is positive."""
    if out is not dy:
        out[:] = dy
    _relu_gradient(own(y).reshape(-1), out.reshape(-1))


@compiled
def _relu_gradient(y: Array, out: Array) -> None:
    zero = y.dtype.type(0)
    for p in range(len(y)):
        out[p] = out[p] if y[p] > zero else zero


# A dense layer is one matrix product, and nobody orders the loops of that better than the BLAS behind NumPy. For the
# bias, NumPy's calls would cost more than the arithmetic does.


def dense(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """Forward: y = W x + b."""
    np.matmul(weight, x, out=out)
    _add_bias(own(bias), out)


@compiled
def _add_bias(bias: Array, out: Array) -> None:
    units, n = out.shape
    for u in range(units):
        y = out[u]
        for v in range(n):
            y[v] += bias[u]


def dense_weight_gradient(x: Array, dy: Array, dw: Array, db: Array) -> None:
    """Backward to the parameters: dy x^T, and dy summed over the images."""
    np.matmul(dy, x.T, out=dw)
    _bias_gradient(own(dy), db)


@compiled
def _bias_gradient(dy: Array, db: Array) -> None:
    units, n = dy.shape
    for u in range(units):
        error, total = dy[u], dy.dtype.type(0)
        for v in range(n):
            total += error[v]
        db[u] = total


def softmax_cross_entropy(logits: Array, targets: Array, d_logits: Array) -> tuple[float, int]:
    """The loss summed over the images, and how many have their target as the first largest logit.

    ``logits (k, n)``, ``targets (n,)`` int64, each 0 to k - 1. ``d_logits (k, n)`` is overwritten with
    softmax(logits) - onehot(targets). An image with NaN among its logits counts as wrong.
    """
    loss_sum, correct = _softmax_cross_entropy(own(logits), own(targets), d_logits)
    return float(loss_sum), int(correct)


@compiled
def _softmax_cross_entropy(logits: Array, targets: Array, d_logits: Array) -> tuple[float, int]:
    classes, n = logits.shape
    loss_sum, correct = 0.0, 0
    for i in range(n):
        best, largest, valid = 0, logits[0, i], True
        for k in range(classes):
            valid = valid and logits[k, i] == logits[k, i]
            if logits[k, i] > largest:
                best, largest = k, logits[k, i]
        total = logits.dtype.type(0)
        for k in range(classes):
            d_logits[k, i] = math.exp(logits[k, i] - largest)
            total += d_logits[k, i]
        for k in range(classes):
            d_logits[k, i] /= total
        target = targets[i]
        loss_sum += math.log(total) - (logits[target, i] - largest)
        d_logits[target, i] -= logits.dtype.type(1)
        correct += valid and best == target
    return loss_sum, correct


def is_compiled() -> bool:
    """False where the first float32 training step will have to compile, which takes ten seconds or so.

    Asks for the weight gradient of convolution, one of the last that a step needs. Compiles nothing, and never raises.
    """
    function: Any = _conv2d_weight_gradient
    if not hasattr(function, "signatures"):  # NUMBA_DISABLE_JIT is set: nothing ever is.
        return True
    try:
        processor = function.targetctx.codegen().magic_tuple()
        index = function._cache._cache_file._load_index()
        cached = [types for types, compiled_for, _ in index if compiled_for == processor]
        return any(types[0].dtype == numba.float32 for types in [*function.signatures, *cached])
    except Exception:  # No cache, a damaged one, or a Numba that keeps it otherwise: take it that it has to compile.
        return False
