"""The result of a check of kernels or layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from parallel_lenet.display import Displayed, Summary, Table, count


@dataclass(frozen=True, repr=False)
class CheckReport(Displayed):
    """The result of `check_layer` or `check_kernels`.

    >>> from parallel_lenet import Dense, check_layer
    >>> report = check_layer(Dense(3), (4,))
    >>> report.ok, report.problems
    (True, ())
    """

    subject: str
    """What was checked."""
    problems: tuple[str, ...]
    """A sentence for each mistake."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """The largest relative differences between gradients and finite differences, by layer and array."""

    @property
    def ok(self) -> bool:
        """Whether the check found no problem."""
        return not self.problems

    def _summary(self) -> Summary:
        found = "ok" if self.ok else "; ".join([count(len(self.problems), "problem"), *self.problems])
        rows = [("problem", sentence) for sentence in self.problems] or [("result", "ok")]
        return Summary(f"CheckReport({self.subject}: {found})", [Table((), rows, texts=2)])

    __str__ = Displayed.__repr__
