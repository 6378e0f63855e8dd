"""The settings of a training: their defaults, the model's share in them, what is refused, and their description."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parallel_lenet import SGD
from parallel_lenet.batching import BlockSizes
from parallel_lenet.checks import InvalidValue
from parallel_lenet.settings import Settings

GIVEN = {"batch_size": 128, "shard_size": None, "seed": 0, "clip_norm": None, "on_nan": "stop"}


def checked(model: Any = None, **changed: Any) -> Settings:
    return Settings.for_model(model or SimpleNamespace(), **{**GIVEN, **changed})


@pytest.mark.parametrize(
    ("members", "arguments", "shard_size"),
    [
        ({}, {}, 32),
        ({"preferred_shard_size": 1}, {}, 1),
        ({"preferred_shard_size": 48}, {"batch_size": 64}, 32),  # Half a batch: two workers have work.
        ({"preferred_shard_size": 48}, {"batch_size": 65}, 33),
        ({"preferred_shard_size": 48}, {"batch_size": 1}, 1),
        ({"preferred_shard_size": 48}, {"shard_size": 100}, 100),
        ({"leaf": 1}, {"batch_size": 8}, 32),  # With a leaf a shard may be larger than the batch.
        ({"leaf": 1, "preferred_shard_size": 24}, {}, 16),  # Leaves times a power of two.
        ({"leaf": 3}, {"shard_size": 13}, 12),
        ({"leaf": 3}, {"shard_size": 2}, 3),
    ],
)
def test_the_shard_size_is_the_given_or_the_models_or_half_a_batch(
    members: dict[str, int], arguments: dict[str, int], shard_size: int
) -> None:
    settings = checked(SimpleNamespace(**members), **arguments)
    assert settings.shard_size == shard_size
    assert settings.leaf == members.get("leaf")
    assert settings.sizes == BlockSizes.of(settings.leaf, members.get("preferred_shard_size", 32), shard_size)


def test_settings_are_kept_and_numpys_numbers_are_pythons() -> None:
    settings = checked(
        SimpleNamespace(leaf=np.int64(2), preferred_shard_size=np.int32(8)),
        batch_size=np.int64(10),
        shard_size=np.uint8(4),
        seed=np.uint64(2**64 - 1),
        clip_norm=np.float32(0.5),
        on_nan="skip",
    )
    assert settings == Settings(10, 4, 2, BlockSizes(2, 2, 32, 4), 2**64 - 1, 0.5, "skip")
    values = (settings.batch_size, settings.shard_size, settings.leaf, settings.seed, settings.clip_norm)
    assert [type(value) for value in values] == [int, int, int, int, float]


@pytest.mark.parametrize(
    ("members", "arguments", "message"),
    [
        ({}, {"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({}, {"shard_size": 0}, "shard_size must be a whole number of at least 1, got 0"),
        (
            {"preferred_shard_size": 0},
            {},
            "the model's preferred_shard_size must be a whole number of at least 1, got 0",
        ),
        ({"leaf": 0}, {}, "the model's leaf must be a whole number of at least 1, got 0"),
        ({}, {"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({}, {"seed": 2**64}, f"seed must be below 2**64, got {2**64}"),
        ({}, {"clip_norm": 0.0}, "clip_norm must be a number above 0, or None, got 0.0"),
        ({}, {"on_nan": "ignore"}, "on_nan must be stop or skip, got 'ignore'"),
    ],
)
def test_a_value_out_of_range_is_named(members: dict[str, int], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        checked(SimpleNamespace(**members), **arguments)
    assert str(caught.value) == message


def test_the_description_has_all_that_decides_how_training_continues() -> None:
    plain = checked(seed=7, clip_norm=2.5).description(SGD(0.5), SimpleNamespace())  # type: ignore[arg-type]
    optimizer = plain.pop("optimizer")
    assert (optimizer["class"], optimizer["learning_rate"]) == ("SGD", 0.5)
    others = {"kernel": None, "augment": None, "label_smoothing": None}
    assert plain == {"batch_size": 128, "shard_size": 32, "seed": 7, "clip_norm": 2.5, **others}
    model: Any = SimpleNamespace(leaf=1, kernel="naive", augment="none")
    with_leaf = checked(model).description(SGD(), model)
    assert with_leaf["shard_size"] is None  # With a leaf it decides no bit.
    assert (with_leaf["kernel"], with_leaf["augment"], with_leaf["clip_norm"]) == ("naive", "none", None)
