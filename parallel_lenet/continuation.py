"""Checks when training continues from a checkpoint: settings and data must be as before, unless they may differ."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from parallel_lenet.archive import CheckpointError
from parallel_lenet.checkpoint import TrainingState
from parallel_lenet.checks import quoted
from parallel_lenet.datasets import DatasetError
from parallel_lenet.descriptions import differences, first_sentences
from parallel_lenet.display import count
from parallel_lenet.fingerprint import EpochData, data_text
from parallel_lenet.optimizers import OptimizerState

SETTINGS = (
    "optimizer",
    "batch_size",
    "shard_size",
    "seed",
    "clip_norm",
    "kernel",
    "augment",
    "label_smoothing",
)
"""The settings that decide how training continues."""
DATA = "data"  # The data may differ too.


def names_that_may_differ(may_differ: Collection[str]) -> frozenset[str]:
    """The names as a set. Raises ValueError if one of them is not a setting that training depends on."""
    allowed = (*SETTINGS, DATA)
    is_list = isinstance(may_differ, Collection) and not isinstance(may_differ, str | bytes)
    if not is_list or not all(name in allowed for name in may_differ):
        example = may_differ if may_differ in allowed else "optimizer"
        raise ValueError(
            f'may_differ must be a list of settings, such as ["{example}"], got {quoted(may_differ)}; the settings '
            f"are {', '.join(allowed)}"
        )
    return frozenset(may_differ)


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a coordinator's state comes from."""

    path: str
    settings: dict[str, Any]
    """The settings it was trained with."""
    may_differ: frozenset[str]
    """Settings that may have changed when training continues."""

    def require_settings(
        self, present: dict[str, Any], kept_state: OptimizerState, needed_state: OptimizerState
    ) -> None:
        """Raises CheckpointError if training with the ``present`` settings would not continue as before."""
        sentences_by_name = {
            name: differences({name: self.settings.get(name)}, {name: present}, "this coordinator")
            for name, present in present.items()
            if self.settings.get(name) != present
        }
        kept_slots, needed_slots = (", ".join(sorted(state.slots)) or "nothing" for state in (kept_state, needed_state))
        refused_names = sentences_by_name.keys() - self.may_differ
        if kept_slots == needed_slots:
            remedy = f"To continue with this coordinator's: {_load_call(refused_names | self.may_differ)}"
        else:
            refused_names |= {"optimizer"}
            remedy = (
                f"This coordinator's optimizer keeps {needed_slots}, the checkpoint's {kept_slots}: it can't continue "
                "from that"
            )
        if refused_names:
            sentences = [
                sentence for name in sentences_by_name if name in refused_names for sentence in sentences_by_name[name]
            ]
            raise CheckpointError(
                f"{self.path}: training can't continue: {first_sentences(sentences)}. {remedy}. To begin a new "
                "training with the parameters that this coordinator has loaded: Coordinator(model, optimizer, "
                "parameters=coordinator.parameters)"
            )

    def require_data(self, before: EpochData, now: EpochData) -> None:
        """Raises CheckpointError if training would continue with other data."""
        if DATA not in self.may_differ and not before.has_same_content(now):
            raise CheckpointError(
                f"{self.path}: training can't continue: it was trained on {data_text(before.fingerprint())}, not on "
                f"{data_text(now.fingerprint())}. To continue with other data: "
                f"{_load_call(self.may_differ | {DATA})}"
            )


def require_same_data(state: TrainingState, before: EpochData, now: EpochData, origin: Origin | None) -> None:
    """Check that training may continue from the state, whose last step had the data ``before``, with the data ``now``.

    Raises DatasetError if an unfinished epoch was started with other data, CheckpointError if the state comes from a
    checkpoint (``origin``) that was trained on other data.
    """
    if state.cursor == 0 and origin is not None:
        origin.require_data(before, now)
    if state.cursor > 0 and not before.has_same_content(now):
        raise DatasetError(
            f"epoch {state.epoch + 1} is unfinished, with {count(state.cursor, 'sample')} done, and was started with "
            f"other data: {data_text(before.fingerprint())}, not {data_text(now.fingerprint())}; continue with those, "
            "or call restart_epoch() to start it again with these"
        )


def _load_call(may_differ: Collection[str]) -> str:
    """The call that lets these settings differ."""
    return f"load(path, may_differ={[name for name in (*SETTINGS, DATA) if name in may_differ]})".replace("'", '"')
