"""Optimizers: they compute the next parameters from the parameters and their gradient, over one flat vector.

An optimizer is two functions. `init(parameters)` gives the state before the first step. `update(parameters, gradient,
state)` gives the next parameters and the next state. Nothing is changed in place. So after an interrupted update the
caller still has the parameters and the state of the last finished step. A resumed run needs no more.

Every number is computed element by element, by NumPy's additions, multiplications, divisions and square roots and with
Python-float factors. So float32 stays float32, and the result has the same bits on every machine (see `arithmetic`).
`gradient` is the mean over the batch.

The `weight_decay` of SGD, RMSprop and Adam is an L2 penalty, as in PyTorch: `weight_decay * parameters` is
added to the gradient first. That of AdamW, and of every optimizer in Keras, shrinks the parameters directly
("decoupled"). It acts on all parameters, biases included.

This file has more than 300 lines: each class states its formula, its sources, and where PyTorch and Keras differ.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.arithmetic import power
from parallel_lenet.checks import BELOW_ONE, NOT_NEGATIVE, POSITIVE
from parallel_lenet.display import Settings
from parallel_lenet.schedules import Schedule, rate_at, set_number

Vector: TypeAlias = NDArray[np.floating[Any]]

Out: TypeAlias = tuple[Vector, Vector, Vector]
"""The vectors that Adam writes the next parameters and moments into."""


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """The state of an optimizer: the number of finished steps, and named vectors as long as the parameters.

    Raises TypeError if ``step`` is not a whole number, and ValueError if it is negative.
    """

    step: int = 0
    slots: dict[str, Vector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A Python int, because a NumPy one would make float64 scalars of Adam's factors.
        step = operator.index(self.step)
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        object.__setattr__(self, "step", step)


class Optimizer(Protocol):
    """The contract of an optimizer. Any object with these three members is one.

    ``elementwise`` is optional. A class sets it to True beside its ``update`` if the update of a slice is that slice of
    the whole update, for any values of the other numbers. Then `updates` may give it slices of long vectors, several at
    a time from several threads. Otherwise ``update`` gets whole vectors.
    """

    @property
    def learning_rate(self) -> float | Schedule:
        """The size of a step: one number, or a schedule, a function of the number of finished steps."""
        ...

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step.

        Raises ValueError unless `parameters` is a vector of float32 or float64.
        """
        ...

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        """Return new parameters and a new state, both in new arrays, and leave the three arguments unchanged.

        All vectors have the parameters' shape and dtype. Raises ValueError if the gradient or the state does not belong
        to these parameters or to this optimizer.
        """
        ...


@dataclass(frozen=True, repr=False)
class SGD(Settings):
    """Stochastic gradient descent. With ``momentum`` it follows a running sum of the past gradients, the velocity u.

        g <- g + weight_decay * p
        u <- momentum * u + g
        p <- p - lr * u                      or, with nesterov,  p <- p - lr * (g + momentum * u)

    Without momentum, u is g. PyTorch does the same if its ``dampening`` is 0.

    Source: Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013, equations 1-2, and 3-4 for Nesterov's. As in
    PyTorch, the learning rate is outside the velocity. The paper and Keras put it inside: `u <- momentum * u - lr * g`
    and `p <- p + u`. That is the same while the rate is constant, but a new rate then acts only on later gradients. The
    paper takes Nesterov's gradient at a point ahead of the parameters. PyTorch, Keras and this class keep that point
    itself as the parameters.
    """

    elementwise: ClassVar[bool] = True
    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _set_learning_rate(self)
        set_number(self, "momentum", BELOW_ONE)
        # Checked because PyTorch's third argument is a number, the dampening, which would count as True here.
        if not isinstance(self.nesterov, bool | np.bool_):
            raise ValueError(f"nesterov must be True or False, got {self.nesterov!r}")
        object.__setattr__(self, "nesterov", bool(self.nesterov))
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0, such as momentum=0.9")
        set_number(self, "weight_decay", NOT_NEGATIVE)

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step: a velocity of zero, or no vector without momentum."""
        return _zeros(parameters, *self._slots)

    @property
    def _slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        _check(parameters, gradient, state, *self._slots)
        rate = rate_at(self.learning_rate, state.step)
        g = _with_penalty(gradient, parameters, self.weight_decay)
        if not self.momentum:
            return parameters - rate * g, OptimizerState(state.step + 1)
        u = self.momentum * state.slots["velocity"] + g
        direction = g + self.momentum * u if self.nesterov else u
        return parameters - rate * direction, OptimizerState(state.step + 1, {"velocity": u})


@dataclass(frozen=True, repr=False)
class RMSprop(Settings):
    """Each parameter's gradient is divided by the root of its running mean square.

        g <- g + weight_decay * p
        v <- decay * v + (1 - decay) * g^2
        p <- p - lr * g / (sqrt(v) + epsilon)

    Source: Hinton, Srivastava & Swersky 2012, "Neural networks for machine learning", lecture 6e, with a decay of 0.9.
    PyTorch, followed here, calls it `alpha` and takes 0.99. Keras calls it `rho`, takes 0.9 and an epsilon of 1e-7, and
    adds epsilon under the root: `sqrt(v + epsilon)`.
    """

    elementwise: ClassVar[bool] = True
    learning_rate: float | Schedule = 0.01
    decay: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _set_learning_rate(self)
        set_number(self, "decay", BELOW_ONE)
        set_number(self, "epsilon", POSITIVE)
        set_number(self, "weight_decay", NOT_NEGATIVE)

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step: a mean square of zero."""
        return _zeros(parameters, "mean_square")

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        _check(parameters, gradient, state, "mean_square")
        rate = rate_at(self.learning_rate, state.step)
        g = _with_penalty(gradient, parameters, self.weight_decay)
        v = self.decay * state.slots["mean_square"] + (1 - self.decay) * (g * g)
        p = parameters - rate * (g / (np.sqrt(v) + self.epsilon))
        return p, OptimizerState(state.step + 1, {"mean_square": v})


class MeanUpdate(NamedTuple):
    """The result of `Adam.update_by_mean`."""

    parameters: Vector
    state: OptimizerState
    squares: float
    """The sum of the mean gradient's squares, with a relative error of about 1e-6 for float32. It is NaN or infinity
    if the gradient holds one, or if a square overflows."""
    finite: bool
    """Whether the parameters are finite."""


@dataclass(frozen=True, repr=False)
class Adam(Settings):
    """A running mean of the gradient divided by the root of its running mean square, both bias-corrected.

        g <- g + weight_decay * p
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g^2
        p <- p - lr * m' / (sqrt(v') + epsilon)    with m' = m / (1 - beta1^t), v' = v / (1 - beta2^t), t = 1, 2, ...

    Source: Kingma & Ba 2015, algorithm 1, as in PyTorch. Keras follows the paper's reordered form (end of section 2),
    which adds epsilon to `sqrt(v)` before the correction, so that it weighs more in the first steps. Its epsilon is
    1e-7.

    ``fused`` decides how a step is computed. True is one pass over the vectors, compiled by Numba (extra ``fast``).
    False is NumPy, which takes several times as long. None is the compiled pass if Numba is installed and works. The
    bits are the same, so neither a comparison of optimizers nor a checkpoint includes it. With True, raises ExtraError
    if Numba is missing or does not work.

    >>> import numpy as np
    >>> adam = Adam(0.1)
    >>> parameters = np.array([1.0, -2.0])
    >>> parameters, state = adam.update(parameters, np.array([0.5, 0.5]), adam.init(parameters))
    >>> parameters.round(3), state.step
    (array([ 0.9, -2.1]), 1)
    """

    elementwise: ClassVar[bool] = True
    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    fused: bool | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _set_learning_rate(self)
        set_number(self, "beta1", BELOW_ONE)
        set_number(self, "beta2", BELOW_ONE)
        set_number(self, "epsilon", POSITIVE)
        set_number(self, "weight_decay", NOT_NEGATIVE)
        if not isinstance(self.fused, bool | None):
            raise ValueError(f"fused must be True, False or None, got {self.fused!r}")
        if self.fused:
            _load_fused()

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step: both moments zero."""
        return _zeros(parameters, "first_moment", "second_moment")

    def update(
        self, parameters: Vector, gradient: Vector, state: OptimizerState, *, out: Out | None = None
    ) -> tuple[Vector, OptimizerState]:
        """The update of `Optimizer`. The result is also written into the vectors of ``out`` if they are given."""
        _check(parameters, gradient, state, "first_moment", "second_moment")
        if self.is_compiled:
            step = self.update_by_mean(parameters, (gradient,), 1.0, state, out=out)
            return step.parameters, step.state
        beta1, rest1, beta2, rest2, size, epsilon, penalty, shrink = self._factors(state.step)
        g = _with_penalty(gradient, parameters, penalty)
        m = beta1 * state.slots["first_moment"] + rest1 * g
        v = beta2 * state.slots["second_moment"] + rest2 * (g * g)
        p = shrink * parameters - size * (m / (np.sqrt(v) + epsilon))
        for target, result in zip(out or (), (p, m, v), strict=False):
            target[:] = result
        return p, OptimizerState(state.step + 1, {"first_moment": m, "second_moment": v})

    @property
    def is_compiled(self) -> bool:
        """Whether a step is one compiled pass over the vectors."""
        return self.fused is not False and _fused_module() is not None

    def update_by_mean(
        self,
        parameters: Vector,
        sums: Sequence[Vector],
        weight: float,
        state: OptimizerState,
        *,
        out: Out | None = None,
    ) -> MeanUpdate:
        """The update by a mean gradient: the sum of the one or two vectors in ``sums``, divided by ``weight``.

        It is one pass over the vectors, and needs `is_compiled`. The arguments are not checked.
        """
        vectors = (parameters, state.slots["first_moment"], state.slots["second_moment"])
        p, m, v, squares, finite = _fused_module().update(sums, weight, vectors, self._factors(state.step), out)
        return MeanUpdate(p, OptimizerState(state.step + 1, {"first_moment": m, "second_moment": v}), squares, finite)

    def _factors(self, step: int) -> tuple[float, ...]:
        """The numbers of a step: beta1, 1 - beta1, beta2, 1 - beta2, size, epsilon, penalty and shrink.

        The corrections are in size and epsilon. With c1 = 1 - beta1^t and c2 = sqrt(1 - beta2^t), the formula of the
        class is

            lr * (m / c1) / (sqrt(v) / c2 + epsilon)  =  (lr * c2 / c1) * m / (sqrt(v) + epsilon * c2)

        The right side saves two passes over the vectors.
        """
        rate = rate_at(self.learning_rate, step)
        t = step + 1
        correction1 = 1 - power(self.beta1, t)
        correction2 = math.sqrt(1 - power(self.beta2, t))
        size = rate * correction2 / correction1
        betas = (self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2)
        return (*betas, size, self.epsilon * correction2, *self._decay(rate))

    def _decay(self, rate: float) -> tuple[float, float]:
        """The L2 penalty, and the factor of the old parameters."""
        return self.weight_decay, 1.0


@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters directly instead of passing through the moments.

        p <- p - lr * weight_decay * p
        p <- p - lr * m' / (sqrt(v') + epsilon)    with Adam's m' and v'

    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2. The paper multiplies the
    decay only by the schedule's factor. PyTorch, Keras and this class multiply it by the learning rate, so the paper's
    weight decay is `lr * weight_decay` here. The default decay is PyTorch's. That of Keras is 0.004.
    """

    weight_decay: float = 0.01

    def _decay(self, rate: float) -> tuple[float, float]:
        return 0.0, 1 - rate * self.weight_decay


def _load_fused() -> Any:
    return optional.load("fast", "numba", "Adam's compiled step", "parallel_lenet.kernels.compiled.adam")


@cache
def _fused_module() -> Any:
    """The module of the compiled step, or None if Numba is missing or switched off, or does not work (logged once)."""
    try:
        module = _load_fused()
    except optional.ExtraError as error:
        if error.installed:
            optional.note_once(f"{error}; until then NumPy computes the step")
        return None
    return None if module.DISABLED else module


def _with_penalty(gradient: Vector, parameters: Vector, weight_decay: float) -> Vector:
    """Return the gradient of the loss plus `weight_decay / 2 * |parameters|^2`."""
    if weight_decay == 0:
        return gradient
    total: Vector = gradient + weight_decay * parameters
    return total


def _set_learning_rate(optimizer: Optimizer) -> None:
    if not callable(optimizer.learning_rate):
        set_number(optimizer, "learning_rate", POSITIVE)


def _zeros(parameters: Vector, *slots: str) -> OptimizerState:
    _check_vector(parameters)
    return OptimizerState(0, {name: np.zeros_like(parameters) for name in slots})


def _check_vector(parameters: Vector) -> None:
    if parameters.ndim != 1 or parameters.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"parameters must be a float32 or float64 vector, got {parameters.dtype} of shape {parameters.shape}"
        )


def _check(parameters: Vector, gradient: Vector, state: OptimizerState, *slots: str) -> None:
    """Raises ValueError for vectors that NumPy would broadcast or convert, and for another optimizer's state."""
    _check_vector(parameters)
    if set(state.slots) != set(slots):
        raise ValueError(f"the state of this optimizer must hold {list(slots)}, got {list(state.slots)}")
    for name, vector in (("gradient", gradient), *state.slots.items()):
        if vector.shape != parameters.shape or vector.dtype != parameters.dtype:
            raise ValueError(
                f"{name} must be {parameters.dtype} of shape {parameters.shape} like the parameters, "
                f"got {vector.dtype} of shape {vector.shape}"
            )
