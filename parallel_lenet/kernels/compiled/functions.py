"""exp, log and tanh of this package: the same bits on every machine, unlike those of C libraries.

Fixed polynomials, Horner's rule, fused multiply-adds, no branch: loops over them become vector instructions.
"""

from typing import Any

import numpy as np

from parallel_lenet.kernels.compiled.jit import compiled
from parallel_lenet.kernels.compiled.scalars import bits, fma, from_bits, with_sign

LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453  # The float64 nearest to log(2), and the rest of log(2).
LN2_REST = 2.3190468138462996e-17
ROUNDER = 1.5 * 2.0**52  # Added to a number below 2^51, it leaves the nearest integer in the last bits.
ROUNDER_BITS = int(np.float64(ROUNDER).view(np.int64))
SQRT_2 = 1.4142135623730951


@compiled
def exp(x: float) -> float:
    """e^x in float64, to 1 unit in the last place.

    x = k log(2) + r with |r| < 0.35. e^r is its Taylor polynomial of degree 13, whose error is below 5e-18. Then the
    exponent grows by k, in two steps, so that results below 2^-1022 are rounded once.
    """
    y = 710.0 if x > 710.0 else x  # e^710 is infinity,
    y = -746.0 if y < -746.0 else y  # and e^-746 is 0.
    rounded = fma(y, LOG2_E, ROUNDER)
    k = rounded - ROUNDER
    r = fma(-k, LN2, y)
    r = fma(-k, LN2_REST, r)
    p = fma(r, 1.6059043836821613e-10, 2.08767569878681e-09)
    p = fma(r, p, 2.505210838544172e-08)
    p = fma(r, p, 2.755731922398589e-07)
    p = fma(r, p, 2.7557319223985893e-06)
    p = fma(r, p, 2.48015873015873e-05)
    p = fma(r, p, 0.0001984126984126984)
    p = fma(r, p, 0.001388888888888889)
    p = fma(r, p, 0.008333333333333333)
    p = fma(r, p, 0.041666666666666664)
    p = fma(r, p, 0.16666666666666666)
    p = fma(r, p, 0.5)
    p = fma(r * r, p, r) + 1.0
    power = bits(rounded) - ROUNDER_BITS
    half = power >> 1
    result = p * from_bits((half + 1023) << 52) * from_bits((power - half + 1023) << 52)
    return x if x != x else result


@compiled
def log(x: float) -> float:
    """The natural logarithm in float64, to 2 units in the last place.

    x = 2^k m with m between sqrt(1/2) and sqrt(2). Then log(m) = 2 atanh(f) with f = (m - 1) / (m + 1). Its series in
    f^2 is cut off when the rest is below 1e-18.
    """
    small = x < 2.2250738585072014e-308
    y = x * 18014398509481984.0 if small else x  # Subnormal: times 2^54.
    b = bits(y)
    k = float((b >> 52) - 1023) - (54.0 if small else 0.0)
    m = from_bits((b & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000)
    large = m > SQRT_2
    k = k + 1.0 if large else k
    m = 0.5 * m if large else m
    f = (m - 1.0) / (m + 1.0)
    s = f * f
    p = fma(s, 0.08695652173913043, 0.09523809523809523)
    p = fma(s, p, 0.10526315789473684)
    p = fma(s, p, 0.11764705882352941)
    p = fma(s, p, 0.13333333333333333)
    p = fma(s, p, 0.15384615384615385)
    p = fma(s, p, 0.18181818181818182)
    p = fma(s, p, 0.2222222222222222)
    p = fma(s, p, 0.2857142857142857)
    p = fma(s, p, 0.4)
    p = fma(s, p, 0.6666666666666666)
    rest = fma(k, LN2_REST, f * (s * p))
    result = fma(k, LN2, fma(2.0, f, rest))
    result = -np.inf if x == 0.0 else result
    result = np.inf if x == np.inf else result
    return np.nan if x < 0.0 or x != x else result


# With t = tanh(x / 2), tanh(x) / 2 = t / (1 + t^2). A fraction n / d of two short polynomials in x^2 gives t. It is
# computed first because errors in t vanish if t is near 1. The coefficients are a least-maximum fit to 8e-9 for
# |x| < 9.03. For a larger |x|, tanh(x) is 1 in float32. All are scaled by 1.796875, so that on [1/16, 1/2] the
# intermediate results lie just below a power of two, at which float32 is finest.
_N0 = np.float32(0.8984375)
_N1 = np.float32(0.02675010865)
_N2 = np.float32(0.0001026542115)
_D0 = np.float32(1.796875)
_D1 = np.float32(0.203239738)
_D2 = np.float32(0.0021680608)
_D3 = np.float32(2.2085278e-06)
_SATURATED = np.float32(9.03)


@compiled
def half_tanh32(x: Any) -> Any:
    """Half the hyperbolic tangent in float32, to 4 units in the last place. Doubling it is exact."""
    size = abs(x)
    size = _SATURATED if size > _SATURATED else size
    u = size * size
    n = size * fma(fma(_N2, u, _N1), u, _N0)
    d = fma(fma(fma(_D3, u, _D2), u, _D1), u, _D0)
    return with_sign(n * d / fma(d, d, n * n), x)  # Never above 1/2.


@compiled
def tanh64(x: float) -> float:
    """The hyperbolic tangent in float64, to 3 units in the last place.

    Below 0.625 it is a fraction of polynomials in x^2 (Moshier's Cephes library, tanh.c), above 1 - 2 / (e^(2x) + 1).
    """
    size = -x if x < 0.0 else x
    far = 1.0 - 2.0 / (exp(2.0 * size) + 1.0)
    far = -far if x < 0.0 else far
    u = x * x
    p = fma(fma(-0.964399179425052238628, u, -99.2877231001918586564), u, -1614.68768441708447952)
    q = fma(fma(u + 112.811678491632931402, u, 2235.48839060100448583), u, 4844.06305325125486048)
    near = fma(x * u, p / q, x)
    result = near if size < 0.625 else far
    return x if x != x or size < 1e-10 else result  # NaN, -0, and where the cubic term is below the last bit.
