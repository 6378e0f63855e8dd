"""The published bits: recomputed, and what `verify` says of others."""

import re
from pathlib import Path

import pytest

from parallel_lenet import kernels
from parallel_lenet.cli import published
from parallel_lenet.cli.options import TrainOptions
from parallel_lenet.optional import ExtraError

README = Path(__file__).parents[1] / "README.md"
SIZE = TrainOptions().batch_size


def test_the_readme_states_the_published_bits() -> None:
    assert f"    {published.SHA256}\n" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kernel", "steps", "size", "sha256", "same", "words"),
    [
        ("compiled", published.STEPS, SIZE, published.SHA256, True, "the same bits as published"),
        ("compiled", published.STEPS, SIZE, "f" * 64, False, "here: NumPy .*, numba .*; published: NumPy "),
        ("im2col", published.STEPS, SIZE, "f" * 64, None, "which are of kernel compiled, not im2col$"),
        ("compiled", 7, SIZE, "f" * 64, None, f"which are of {published.STEPS} steps of {SIZE}$"),
        ("compiled", published.STEPS, 7, "f" * 64, None, f"which are of {published.STEPS} steps of {SIZE}$"),
    ],
)
def test_a_run_is_compared_with_the_published_bits(
    kernel: str, steps: int, size: int, sha256: str, same: bool | None, words: str
) -> None:
    pytest.importorskip("numba")
    verdict, sentence = published.compare(kernel, steps, size, sha256)
    assert verdict is same
    assert re.search(words, sentence)


def test_without_numba_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ExtraError("kernel 'compiled' needs numba, which is not installed: pip install 'numba>=0.61'")

    monkeypatch.setattr(kernels, "load", missing)
    verdict, sentence = published.compare("im2col", published.STEPS, SIZE, "f" * 64)
    assert verdict is None
    assert sentence.endswith(
        "not im2col: kernel 'compiled' needs numba, which is not installed: pip install 'numba>=0.61'"
    )
