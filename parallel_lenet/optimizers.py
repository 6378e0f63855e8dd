"""Optimizers: from the parameters and their gradient to the next parameters, over one flat vector.

An optimizer is two functions. `init(parameters)` gives the state before the first step; `update(parameters, gradient,
state)` gives the next parameters and the next state. Nothing is changed in place: whoever interrupts an update still
holds the parameters and the state of the last finished step, and both together are all that a resumed run needs.

Every number is computed element by element, by NumPy's additions, multiplications, divisions and square roots and with
Python-float factors. So float32 stays float32, and the result has the same bits on every machine (see `arithmetic`).
`gradient` is the mean over the batch.

The `weight_decay` of SGD, Momentum, RMSprop and Adam is an L2 penalty, as in PyTorch: `weight_decay * parameters` is
added to the gradient first. That of AdamW, and of every optimizer in Keras, shrinks the parameters directly
("decoupled"). It acts on all parameters, biases included.
"""

import math
import operator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.arithmetic import power, sum_of_squares
from parallel_lenet.checks import ABOVE_ZERO, BELOW_ONE, NOT_NEGATIVE, POSITIVE, number
from parallel_lenet.schedules import Schedule, set_number
from parallel_lenet.slices import ALONE, Threads

Vector: TypeAlias = NDArray[np.floating[Any]]

TINY = 1e-30  # A sum of float32 squares below this may lack many that vanished.


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """What an optimizer remembers: the number of finished steps, and named vectors as long as the parameters."""

    step: int = 0
    slots: dict[str, Vector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the step and make it a Python int: a NumPy one would make float64 scalars of Adam's factors."""
        step = operator.index(self.step)
        if step < 0:
            raise ValueError(f"step must be at least 0, not {step}")
        object.__setattr__(self, "step", step)


class Optimizer(Protocol):
    """The contract of an optimizer; any object with these three members is one.

    ``elementwise`` is optional: a class that sets it to True beside its ``update`` declares that the update of a slice
    is that slice of the whole update, whatever the other numbers are. Then `updates` may give it slices of long
    vectors, several at a time from several threads. Otherwise ``update`` gets whole vectors.
    """

    @property
    def learning_rate(self) -> float | Schedule:
        """The size of a step: one number, or a schedule that is asked with the number of finished steps."""
        ...

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step; ValueError unless `parameters` is a flat float32 or float64 one."""
        ...

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        """Return new parameters and a new state, both in fresh arrays, and leave the three arguments as they are.

        ValueError if the gradient or the state does not belong to these parameters or to this optimizer.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent.

        p <- p - lr * (g + weight_decay * p)

    Source: Robbins & Monro 1951. The same in PyTorch and Keras.
    """

    elementwise: ClassVar[bool] = True
    learning_rate: float | Schedule = 0.01
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        _set_learning_rate(self)
        set_number(self, "weight_decay", NOT_NEGATIVE)

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step, without vectors."""
        return _zeros(parameters)

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        """Return the parameters and the state after one step."""
        _check(parameters, gradient, state)
        rate = _rate(self.learning_rate, state.step)
        gradient = _with_penalty(gradient, parameters, self.weight_decay)
        updated = gradient * -rate
        updated += parameters
        return updated, OptimizerState(state.step + 1)


@dataclass(frozen=True)
class Momentum:
    """Gradient descent along a running sum of the past gradients, the velocity.

        g <- g + weight_decay * p
        u <- momentum * u + g
        p <- p - lr * u                      or, with nesterov,  p <- p - lr * (g + momentum * u)

    Source: Polyak 1964; Sutskever et al. 2013, equations 1-2, and 3-4 for Nesterov's. As in PyTorch, the learning rate
    stands outside the velocity. The paper and Keras put it inside (`u <- momentum * u - lr * g; p <- p + u`): the same
    while the rate is constant, but there a new rate acts only on the gradients still to come. The paper takes
    Nesterov's gradient at a point ahead of the parameters; PyTorch, Keras and this class keep that point itself as the
    parameters.
    """

    elementwise: ClassVar[bool] = True
    learning_rate: float | Schedule = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        _set_learning_rate(self)
        set_number(self, "momentum", BELOW_ONE)
        # Checked because PyTorch's third argument is a number, the dampening, which would count as True here.
        if not isinstance(self.nesterov, bool):
            raise ValueError(f"nesterov must be True or False, not {self.nesterov!r}")
        set_number(self, "weight_decay", NOT_NEGATIVE)

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step: a velocity of zero."""
        return _zeros(parameters, "velocity")

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        """Return the parameters and the state after one step."""
        _check(parameters, gradient, state, "velocity")
        rate = _rate(self.learning_rate, state.step)
        gradient = _with_penalty(gradient, parameters, self.weight_decay)
        velocity = state.slots["velocity"] * self.momentum
        velocity += gradient
        if self.nesterov:
            updated = velocity * self.momentum
            updated += gradient
            updated *= -rate
        else:
            updated = velocity * -rate
        updated += parameters
        return updated, OptimizerState(state.step + 1, {"velocity": velocity})


@dataclass(frozen=True)
class RMSprop:
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
        """Check the values."""
        _set_learning_rate(self)
        set_number(self, "decay", BELOW_ONE)
        set_number(self, "epsilon", POSITIVE)
        set_number(self, "weight_decay", NOT_NEGATIVE)

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step: a mean square of zero."""
        return _zeros(parameters, "mean_square")

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        """Return the parameters and the state after one step."""
        _check(parameters, gradient, state, "mean_square")
        rate = _rate(self.learning_rate, state.step)
        gradient = _with_penalty(gradient, parameters, self.weight_decay)
        mean_square = state.slots["mean_square"] * self.decay
        updated = gradient * gradient
        updated *= 1 - self.decay
        mean_square += updated
        np.sqrt(mean_square, out=updated)
        updated += self.epsilon
        np.divide(gradient, updated, out=updated)
        updated *= -rate
        updated += parameters
        return updated, OptimizerState(state.step + 1, {"mean_square": mean_square})


@dataclass(frozen=True)
class Adam:
    """A running mean of the gradient divided by the root of its running mean square, both freed of their bias to zero.

        g <- g + weight_decay * p
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g^2
        p <- p - lr * m' / (sqrt(v') + epsilon)    with m' = m / (1 - beta1^t), v' = v / (1 - beta2^t), t = 1, 2, ...

    Source: Kingma & Ba 2015, algorithm 1; the same in PyTorch. Keras follows the paper's reordered form (end of section
    2) in which epsilon is added to `sqrt(v)` before the correction, so that it weighs more in the first steps; its
    epsilon is 1e-7.

    ``compiled`` computes the same bits in one pass compiled by Numba (extra ``fast``), several times as fast. If Numba
    is missing or does not work, NumPy computes the step and the reason is logged as a warning.
    """

    elementwise: ClassVar[bool] = True
    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    compiled: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        _set_learning_rate(self)
        set_number(self, "beta1", BELOW_ONE)
        set_number(self, "beta2", BELOW_ONE)
        set_number(self, "epsilon", POSITIVE)
        set_number(self, "weight_decay", NOT_NEGATIVE)

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step: both moments zero."""
        return _zeros(parameters, "first_moment", "second_moment")

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        """Return the parameters and the state after one step."""
        _check(parameters, gradient, state, "first_moment", "second_moment")
        rate = _rate(self.learning_rate, state.step)
        gradient = _with_penalty(gradient, parameters, self.weight_decay)
        return _adam_step(self, parameters, gradient, state, rate, keep=1.0)


@dataclass(frozen=True)
class AdamW:
    """Adam whose weight decay shrinks the parameters directly instead of passing through the moments.

        p <- p - lr * weight_decay * p - lr * m' / (sqrt(v') + epsilon)    with Adam's m' and v'

    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2. The paper multiplies the
    decay by the schedule's factor only; PyTorch, Keras and this class by the whole learning rate, so the paper's weight
    decay is `lr * weight_decay` here. The default decay is PyTorch's; Keras's is 0.004. ``compiled`` as in Adam.
    """

    elementwise: ClassVar[bool] = True
    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    compiled: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        _set_learning_rate(self)
        set_number(self, "beta1", BELOW_ONE)
        set_number(self, "beta2", BELOW_ONE)
        set_number(self, "epsilon", POSITIVE)
        set_number(self, "weight_decay", NOT_NEGATIVE)

    def init(self, parameters: Vector) -> OptimizerState:
        """Return the state before the first step: both moments zero."""
        return _zeros(parameters, "first_moment", "second_moment")

    def update(self, parameters: Vector, gradient: Vector, state: OptimizerState) -> tuple[Vector, OptimizerState]:
        """Return the parameters and the state after one step."""
        _check(parameters, gradient, state, "first_moment", "second_moment")
        rate = _rate(self.learning_rate, state.step)
        return _adam_step(self, parameters, gradient, state, rate, keep=1 - rate * self.weight_decay)


def is_elementwise(optimizer: Optimizer) -> bool:
    """Whether the class that defines ``update`` declares it: a subclass with an ``update`` of its own has to, again."""
    defining = next((kind for kind in type(optimizer).__mro__ if "update" in vars(kind)), None)
    return defining is not None and vars(defining).get("elementwise") is True


def global_norm(gradient: Vector, threads: Threads = ALONE) -> float:
    """Return the Euclidean norm of a vector, with a relative error of about 1e-6: to show, in 10 us for LeNet-5.

    If it is finite, so is every number of the vector. Squares that would overflow or vanish are added in float64, as in
    `clip_by_global_norm`.
    """

    def one(part: slice) -> float:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return float(np.add.reduce(np.square(gradient[part])))

    total = 0.0
    for squares in threads.map(one, gradient.size):
        total += squares
    if TINY < total < math.inf or math.isnan(total):
        return math.sqrt(total)
    return math.sqrt(sum_of_squares(gradient, threads))


def clip_by_global_norm(gradient: Vector, max_norm: float, threads: Threads = ALONE) -> tuple[Vector, float]:
    """Return the gradient, scaled down to the Euclidean norm `max_norm` if its own is larger, and its norm before that.

        g <- g * max_norm / |g|    if |g| > max_norm

    A gradient that is short enough is returned itself, not a copy. So is one whose norm is NaN or infinite: scaling it
    would only hide the trouble, and the returned norm tells of it. ValueError unless `max_norm` is above 0; infinity
    never clips.

    Source: Pascanu et al. 2013, algorithm 1. PyTorch's `clip_grad_norm_` divides by `|g| + 1e-6`, so it stays slightly
    below; TensorFlow's `clip_by_global_norm` and Keras's `global_clipnorm` agree with the paper. Keras's `clipnorm` is
    something else, a limit for each variable alone.
    """
    max_norm = number("max_norm", max_norm, ABOVE_ZERO)
    # In float64 the squares of float32 numbers neither overflow nor vanish; those of float64 numbers may overflow, and
    # the norm is then infinite.
    norm = math.sqrt(sum_of_squares(gradient, threads))
    if not max_norm < norm < math.inf:
        return gradient, norm
    # The factor can be too small for float32 even if the products are not, so each is computed in float64 and rounded
    # once.
    clipped = np.empty_like(gradient)

    def one(part: slice) -> None:
        np.multiply(gradient[part], max_norm / norm, out=clipped[part], dtype=np.float64, casting="same_kind")

    threads.map(one, gradient.size)
    return clipped, norm


def _adam_step(
    optimizer: "Adam | AdamW", parameters: Vector, gradient: Vector, state: OptimizerState, rate: float, keep: float
) -> tuple[Vector, OptimizerState]:
    """Return ``keep * parameters`` plus Adam's change, and the state with the new moments."""
    step, beta1, beta2 = state.step + 1, optimizer.beta1, optimizer.beta2
    # Both corrections are factors of the whole vector, so they are moved into the two scalars, which saves a pass:
    # rate * (m / c1) / (sqrt(v) / c2 + epsilon) = (rate * c2 / c1) * m / (sqrt(v) + epsilon * c2).
    correction1 = 1 - power(beta1, step)
    correction2 = math.sqrt(1 - power(beta2, step))
    size, epsilon = rate * correction2 / correction1, optimizer.epsilon * correction2
    old1, old2 = state.slots["first_moment"], state.slots["second_moment"]
    # One block of memory, not three: freed again, three would be given back to the system, and fetched anew each step.
    updated, first_moment, second_moment = np.empty((3, parameters.size), parameters.dtype)
    compiled_adam = _compiled_adam() if optimizer.compiled else None
    if compiled_adam is not None:
        factors = (beta1, 1 - beta1, beta2, 1 - beta2, size, epsilon, keep)
        compiled_adam.update((parameters, gradient, old1, old2), factors, (updated, first_moment, second_moment))
    else:
        # In place, with the result as the scratch vector: two thirds of the time of the formulas written out. Blocks
        # that fit the cache were slower, since each NumPy call costs more than the cache saves.
        np.multiply(old1, beta1, out=first_moment)
        np.multiply(gradient, 1 - beta1, out=updated)
        first_moment += updated
        np.multiply(old2, beta2, out=second_moment)
        np.multiply(gradient, gradient, out=updated)
        updated *= 1 - beta2
        second_moment += updated
        np.sqrt(second_moment, out=updated)
        updated += epsilon
        np.divide(first_moment, updated, out=updated)
        updated *= -size
        updated += parameters if keep == 1 else parameters * keep
    return updated, OptimizerState(step, {"first_moment": first_moment, "second_moment": second_moment})


@cache
def _compiled_adam() -> Any:
    """The module of the compiled update, or None, with a warning in the log, if Numba is missing or does not work."""
    try:
        return optional.load("fast", "numba", "Adam's compiled step", "parallel_lenet.kernels.compiled.adam")
    except optional.ExtraError as error:
        optional.note_once(f"{error}; until then NumPy computes the step")
        return None


def _with_penalty(gradient: Vector, parameters: Vector, weight_decay: float) -> Vector:
    """Return the gradient of the loss plus `weight_decay / 2 * |parameters|^2`."""
    if weight_decay == 0:
        return gradient
    penalised = parameters * weight_decay
    penalised += gradient
    return penalised


def _set_learning_rate(optimizer: Optimizer) -> None:
    if not callable(optimizer.learning_rate):
        set_number(optimizer, "learning_rate", POSITIVE)


def _rate(learning_rate: float | Schedule, step: int) -> float:
    if not callable(learning_rate):
        return learning_rate
    # float() because a schedule of NumPy scalars would turn a float32 vector into a float64 one.
    rate = float(learning_rate(step))
    if not 0 <= rate < math.inf:
        raise ValueError(f"a schedule must return a finite number of at least 0, not {rate!r} as it did at step {step}")
    return rate


def _zeros(parameters: Vector, *slots: str) -> OptimizerState:
    _check_vector(parameters)
    return OptimizerState(0, {name: np.zeros_like(parameters) for name in slots})


def _check_vector(parameters: Vector) -> None:
    if parameters.ndim != 1 or parameters.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"parameters must be a float32 or float64 vector, not {parameters.dtype} of shape {parameters.shape}"
        )


def _check(parameters: Vector, gradient: Vector, state: OptimizerState, *slots: str) -> None:
    """Refuse what NumPy would quietly broadcast or convert, and a state that another kind of optimizer has left."""
    _check_vector(parameters)
    if set(state.slots) != set(slots):
        raise ValueError(f"the state of this optimizer must hold {list(slots)}, not {list(state.slots)}")
    for name, vector in (("gradient", gradient), *state.slots.items()):
        if vector.shape != parameters.shape or vector.dtype != parameters.dtype:
            raise ValueError(
                f"{name} must be {parameters.dtype} of shape {parameters.shape} like the parameters, "
                f"not {vector.dtype} of shape {vector.shape}"
            )
