"""The settings of a training that decide its result, checked, and as a checkpoint describes them."""

from dataclasses import dataclass
from typing import Any, Self

from parallel_lenet.batching import BlockSizes, default_shard_size, largest_block
from parallel_lenet.checks import ABOVE_ZERO, LEAST, InvalidValue, optional_number, whole_number
from parallel_lenet.jsonable import describe
from parallel_lenet.model import Model, leaf_of
from parallel_lenet.optimizers import Optimizer

PREFERRED_SHARD_SIZE = 32  # Samples, for a model that does not say what it prefers.
ON_NAN = ("stop", "skip")


@dataclass(frozen=True)
class Settings:
    """The settings that `Coordinator` documents."""

    batch_size: int
    shard_size: int
    leaf: int | None
    """The model's ``leaf``: see `Model`. If it is None, gradients are added shard by shard."""
    sizes: BlockSizes
    """How a batch may be cut into blocks."""
    seed: int
    clip_norm: float | None
    on_nan: str

    @classmethod
    def for_model(
        cls,
        model: Model,
        *,
        batch_size: int,
        shard_size: int | None,
        seed: int,
        clip_norm: float | None,
        on_nan: str,
    ) -> Self:
        """The settings for this model. Raises ValueError if one of them is out of its range."""
        batch_size = whole_number("batch_size", batch_size, LEAST["batch_size"])
        preferred_size = whole_number(
            "the model's preferred_shard_size", getattr(model, "preferred_shard_size", PREFERRED_SHARD_SIZE), 1
        )
        leaf = leaf_of(model)
        if shard_size is None:
            shard_size = default_shard_size(preferred_size, batch_size) if leaf is None else preferred_size
        shard_size = whole_number("shard_size", shard_size, LEAST["shard_size"])
        if leaf is not None:
            leaf = whole_number("the model's leaf", leaf, 1)
            shard_size = largest_block(shard_size, leaf)
        seed = whole_number("seed", seed, LEAST["seed"])
        if seed >= 2**64:
            raise InvalidValue("seed", "below 2**64", seed)
        if on_nan not in ON_NAN:
            raise InvalidValue("on_nan", " or ".join(ON_NAN), on_nan)
        return cls(
            batch_size,
            shard_size,
            leaf,
            BlockSizes.of(leaf, preferred_size, shard_size),
            seed,
            optional_number("clip_norm", clip_norm, ABOVE_ZERO),
            on_nan,
        )

    def description(self, optimizer: Optimizer, model: Model) -> dict[str, Any]:
        """What decides how training continues, as JSON."""
        return {
            "optimizer": describe(optimizer),
            "batch_size": self.batch_size,
            "shard_size": self.shard_size if self.leaf is None else None,  # With a leaf it decides no bit.
            "seed": self.seed,
            "clip_norm": describe(self.clip_norm),
            "kernel": describe(getattr(model, "kernel", None)),
            "augment": describe(getattr(model, "augment", None)),
            # None for 0, as in a checkpoint from before there was such a setting.
            "label_smoothing": describe(getattr(model, "label_smoothing", None)) or None,
        }
