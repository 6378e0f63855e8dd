"""Makes optimizers and schedules from their names, with defaults that suit LeNet-5."""

from dataclasses import replace

from parallel_lenet.cli._options import TrainOptions
from parallel_lenet.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from parallel_lenet.schedules import Cosine, Schedule, StepDecay, Warmup

LEARNING_RATES = {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "rmsprop": 0.001, "adam": 0.002, "adamw": 0.004}
MOMENTUM = 0.9
HELD_OUT = 0.1
"""The fraction of the training images that early stopping holds out if the user names none."""


def with_defaults(options: TrainOptions) -> TrainOptions:
    """The options with the numbers that follow from others, such as the optimizer's name."""
    rate = options.learning_rate
    decay = options.weight_decay
    validation = options.validation
    return replace(
        options,
        validation=HELD_OUT if validation is None and options.early_stopping else validation,
        learning_rate=LEARNING_RATES[options.optimizer] if rate is None else rate,
        weight_decay=(0.2 if options.optimizer == "adamw" else 0.0) if decay is None else decay,
    )


def total_steps(options: TrainOptions, samples: int) -> int:
    """The steps of all epochs, which a schedule spans. ``--max-steps`` ends a run and does not change its schedule."""
    return -(-samples // options.batch_size) * options.epochs


def schedule(options: TrainOptions, steps: int) -> Schedule | float:
    """The learning rates for ``steps`` steps, by options with defaults. Raises ValueError if one is out of range."""
    rate = options.learning_rate
    assert rate is not None
    after_warmup = max(1, steps - options.warmup)
    schedules: dict[str, Schedule | float] = {
        "constant": rate,
        "step": StepDecay(rate, every=-(-after_warmup // 3)),
        "cosine": Cosine(rate, after_warmup),
    }
    rates = schedules[options.schedule]
    return Warmup(rates, options.warmup) if options.warmup else rates


def optimizer(options: TrainOptions, steps: int) -> Optimizer:
    """The optimizer that the options name for ``steps`` steps. Raises ValueError if a number is out of its range."""
    rates = schedule(options, steps)
    decay = options.weight_decay
    assert decay is not None
    fused = options.kernel == "compiled"  # With other kernels it would be the only part that loads Numba.
    optimizers: dict[str, Optimizer] = {
        "sgd": SGD(rates, weight_decay=decay),
        "momentum": SGD(rates, momentum=MOMENTUM, weight_decay=decay),
        "nesterov": SGD(rates, momentum=MOMENTUM, nesterov=True, weight_decay=decay),
        "rmsprop": RMSprop(rates, weight_decay=decay),
        "adam": Adam(rates, weight_decay=decay, fused=fused),
        "adamw": AdamW(rates, weight_decay=decay, fused=fused),
    }
    return optimizers[options.optimizer]
