"""The finding of a check: a state, a sentence, and a remedy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from parallel_lenet.limits import ROOT

State = Literal["ok", "note", "slow", "broken"]
"""``note`` has no cost. ``slow`` works, but takes longer than it could. ``broken`` fails."""


@dataclass(frozen=True)
class Finding:
    """One sentence of a check."""

    check: str
    state: State
    text: str
    remedy: str = ""
    """What to do about it. Empty if there is nothing to do."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The facts, for programs that read the JSON."""


@dataclass(frozen=True)
class System:
    """The system that a check looks at."""

    root: Path = ROOT
    """The folder that holds ``proc`` and ``sys``."""
    folder: Path = Path()
    """The current folder."""
