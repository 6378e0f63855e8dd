"""The table of faults put in by hand stays true: each text is in the package once, and each test exists."""

import re
from pathlib import Path

import pytest
from kits.mutants import MUTANTS, Mutant, place


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_names_a_text_of_the_package_and_a_test(mutant: Mutant) -> None:
    assert place(mutant).suffix == ".py"
    assert mutant.new not in (mutant.old, "# " + mutant.old)
    file, _, function = mutant.test.partition("::")
    assert re.search(rf"^def {function}\(", (Path(__file__).parent / file).read_text(encoding="utf-8"), re.MULTILINE)
