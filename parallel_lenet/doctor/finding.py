"""What a check says: a state, a sentence, and what to do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from parallel_lenet.limits import ROOT

State = Literal["ok", "note", "slow", "broken"]
"""``note``: worth knowing, costs nothing. ``slow``: works, but takes longer than it could. ``broken``: fails."""


@dataclass(frozen=True)
class Finding:
    """One sentence of a check."""

    check: str
    state: State
    text: str
    remedy: str = ""
    """What to do; empty if there is nothing to do."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The facts, for programs that read the JSON."""


@dataclass(frozen=True)
class Here:
    """Where a check looks."""

    root: Path = ROOT
    """The folder that holds ``proc`` and ``sys``."""
    folder: Path = Path()
    """The current folder."""
