"""The requirements of this package, by its own metadata."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import NamedTuple

PACKAGE = "parallel-lenet"
AGGREGATES = ("full", "test", "dev")  # Extras that combine others, or are for developers.


class Requirement(NamedTuple):
    """A distribution that is needed, its least version, and the extra that needs it, which is empty for the core."""

    name: str
    least: str
    extra: str

    @property
    def line(self) -> str:
        """The requirement as pip reads it, such as ``numpy>=2.0``."""
        return f"'{self.name}>={self.least}'" if self.least else self.name


def requirements() -> list[Requirement]:
    """All requirements. Empty if the package runs from a folder and is not installed."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    return list(_parse(lines))


def _parse(lines: list[str]) -> Iterator[Requirement]:
    for line in lines:
        found = re.match(r"\s*([A-Za-z0-9._-]+)[^;]*", line)
        if not found or found[1].lower() == PACKAGE:
            continue
        least = re.search(r">=\s*([0-9][^\s,;)]*)", found[0])
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)
        yield Requirement(found[1], least[1] if least else "", extra[1] if extra else "")


def is_older(version: str, least: str) -> bool:
    """Whether a version is lower than another, by its numbers."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", re.split(r"[a-z+-]", text.lower())[0])]

    return bool(least) and numbers(version) < numbers(least)


def modules(name: str) -> list[str]:
    """The modules of a distribution, or only the one with its name if there is one. Empty if it is not installed."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return []
    found = {file.parts[0].removesuffix(".py") for file in files if file.suffix in (".py", ".so", ".pyd")}
    public = sorted(module for module in found if module.isidentifier() and not module.startswith("_"))
    distribution_name = re.sub(r"[-_.]+", "_", name).lower()
    return [module for module in public if module.lower() == distribution_name] or public[:3]
