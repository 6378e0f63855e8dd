"""The published bits: recomputed, and what `verify` says of others."""

import platform
import re
from pathlib import Path

import numpy as np
import pytest
from kits.programs import PYTHON, run

from parallel_lenet import Coordinator, kernels, load_dataset
from parallel_lenet.cli import _published
from parallel_lenet.cli._options import TrainOptions
from parallel_lenet.optional import ExtraError

README = Path(__file__).parents[1] / "README.md"
SAME_BITS = Path(__file__).parents[1] / "scripts" / "same_bits.py"
SIZE = TrainOptions().batch_size


def after(steps: int) -> str:
    """The SHA-256 of the default run's parameters after this number of steps, by the kernel compiled."""
    pytest.importorskip("numba")
    train, _ = load_dataset()
    model, optimizer = _published.network_and_optimizer(train, "compiled", SIZE)
    with Coordinator(model, optimizer, engine="serial", batch_size=SIZE, seed=TrainOptions().seed) as coordinator:
        next(report for report in coordinator.iterate(train, 2) if report.step == steps)
        return coordinator.parameters_sha256()


def test_the_default_run_gives_the_published_bits() -> None:
    # If this fails because bits were meant to change: CONTRIBUTING says where to write the new hash.
    assert after(_published.STEPS) == _published.SHA256


@pytest.mark.slow
def test_code_for_another_processor_gives_the_same_bits(tmp_path: Path) -> None:
    # The rest of what same_bits.py shows takes minutes.
    expected = after(1)
    here = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the names of processors are those of x86-64")
    name = "haswell" if any(level.startswith(("AVX512", "X86_V4")) for level in here) else "nehalem"
    other = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
    program = run(tmp_path, str(SAME_BITS), "--print", "--steps", "1", command=PYTHON, env=other)
    assert program.stdout == f"{expected}\n"


def test_the_readme_states_the_published_bits() -> None:
    assert f"`{_published.SHA256}`\n" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kernel", "steps", "size", "sha256", "same", "words"),
    [
        ("compiled", _published.STEPS, SIZE, _published.SHA256, True, "the same bits as published"),
        ("compiled", _published.STEPS, SIZE, "f" * 64, False, "here: NumPy .*, numba .*; published: NumPy "),
        ("im2col", _published.STEPS, SIZE, "f" * 64, None, "which are of kernel compiled, not im2col$"),
        ("compiled", 7, SIZE, "f" * 64, None, f"which are of {_published.STEPS} steps of {SIZE}$"),
        ("compiled", _published.STEPS, 7, "f" * 64, None, f"which are of {_published.STEPS} steps of {SIZE}$"),
    ],
)
def test_a_run_is_compared_with_the_published_bits(
    kernel: str, steps: int, size: int, sha256: str, same: bool | None, words: str
) -> None:
    pytest.importorskip("numba")
    verdict, sentence = _published.compare(kernel, steps, size, sha256)
    assert verdict is same
    assert re.search(words, sentence)


def test_without_numba_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ExtraError("kernel 'compiled' needs numba, which is not installed: pip install 'numba>=0.61'")

    monkeypatch.setattr(kernels, "load", missing)
    verdict, sentence = _published.compare("im2col", _published.STEPS, SIZE, "f" * 64)
    assert verdict is None
    assert sentence.endswith(
        "not im2col: kernel 'compiled' needs numba, which is not installed: pip install 'numba>=0.61'"
    )
