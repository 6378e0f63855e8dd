"""Optional libraries that are missing, or installed and do not work: one sentence with the reason, or a fallback."""

import logging
import os
import pickle
import sys
from pathlib import Path

import pytest
from kits.programs import PACKAGE_FOLDER, Run

from parallel_lenet import kernels, lenet5, optional
from parallel_lenet.optional import ExtraError

FAULTS = {
    "numba": 'raise ImportError("Numba needs NumPy 2.3 or less. Got NumPy 2.4.")',
    "rich": 'raise AttributeError("no attribute\\nof that name")',
    "pooch": 'raise SystemError("initialization failed")',
    "requests": 'raise ImportError("broken")',
    "matplotlib": 'raise RuntimeError("built for another NumPy")',
    "distributed": 'raise OSError(28, "No space left on device")',
    "ray": 'raise ImportError("libray.so: cannot open shared object file")',
}


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the path in which every optional library fails when it is imported."""
    folder = tmp_path / "broken"
    for name, fault in FAULTS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(fault)
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.mark.parametrize(
    ("extra", "library", "reason", "line"),
    [
        ("fast", "numba", "ImportError: Numba needs NumPy 2.3 or less. Got NumPy 2.4", "'numba>=0.61'"),
        ("cli", "rich", "AttributeError: no attribute", "'rich>=13.7'"),
        ("data", "pooch", "SystemError: initialization failed", "'pooch>=1.8' 'requests>=2.31'"),
        (
            "report",
            "matplotlib",
            "RuntimeError: built for another NumPy",
            "'jinja2>=3.1' 'matplotlib>=3.8'",
        ),
        (
            "dask",
            "distributed",
            "OSError: [Errno 28] No space left on device",
            "'cryptography>=42' 'dask>=2024.8' 'distributed>=2024.8'",
        ),
        ("ray", "ray", "ImportError: libray.so: cannot open shared object file", "'ray>=2.52'"),
    ],
)
@pytest.mark.usefixtures("broken")
def test_a_library_that_fails_at_import_is_explained(extra: str, library: str, reason: str, line: str) -> None:
    with pytest.raises(ExtraError) as caught:
        optional.load(extra, library, "this")
    assert str(caught.value) == (
        f"this needs {library}, which is installed but does not work ({reason}): pip install --upgrade {line}"
    )
    assert caught.value.installed
    assert caught.value.name == library
    assert pickle.loads(pickle.dumps(caught.value)).installed


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^this needs numba, which is not installed: pip install 'numba>=0.61'$"
    ):
        optional.load("fast", "numba", "this")


def test_a_folder_without_code_is_not_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left_by_uninstall").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExtraError, match=r"left_by_uninstall, which is not installed: pip install left_by_uninstall$"):
        optional.load("other", "left_by_uninstall", "this")


def test_a_clone_that_is_not_installed_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: missing(name))
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ExtraError, match=r"pip install numba$"):
        optional.load("fast", "numba", "this")


def missing(name: str) -> None:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


@pytest.mark.usefixtures("broken")
def test_auto_is_im2col_if_numba_does_not_work_and_says_why_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "parallel_lenet.kernels.compiled", raising=False)
    monkeypatch.delitem(sys.modules, "parallel_lenet.kernels.compiled.jit", raising=False)
    kernels._load.cache_clear()
    optional.note_once.cache_clear()
    with caplog.at_level(logging.WARNING, "parallel_lenet"):
        assert [lenet5().kernel, lenet5().kernel] == ["im2col", "im2col"]
    assert caplog.messages == [
        "kernel 'compiled' needs numba, which is installed but does not work (ImportError: Numba needs NumPy 2.3 or "
        "less. Got NumPy 2.4): pip install --upgrade 'numba>=0.61'; until then the im2col kernel is used"
    ]
    with pytest.raises(ExtraError, match=r"^kernel 'compiled' needs numba, which is installed but does not work"):
        lenet5(kernel="compiled")
    assert lenet5(kernel="im2col").kernel == "im2col"


PROGRAM = """
import sys
from parallel_lenet import Adam, Coordinator, Dataset, lenet5, load_dataset
from parallel_lenet.cli import main
from parallel_lenet.engines.cluster.engine import Cluster
from parallel_lenet.datasets import load

train, test = load_dataset()
few = Dataset(train.inputs[:64], train.targets[:64])
with Coordinator(lenet5(kernel="im2col"), Adam(fused=False), n_workers=1, batch_size=64) as coordinator:
    coordinator.fit(few)
assert not [name for name in sys.modules if name.startswith("numba")], "numba is not needed"
for fused in (None, False):
    with Coordinator(lenet5(kernel="im2col"), Adam(fused=fused), engine="serial", batch_size=64) as coordinator:
        coordinator.fit(few)
        print(coordinator.parameters_sha256())
for arguments in (
    ["train", "--max-steps", "1", "--batch-size", "32", "--workers", "1", "--out", "a"],
    ["train", "--max-steps", "1", "--kernel", "compiled", "--out", "b"],
    ["train", "--max-steps", "1", "--dataset", "mnist", "--out", "c"],
    ["train", "--max-steps", "1", "--engine", "dask", "--out", "d"],
    ["evaluate", "a/checkpoint.npz", "--kernel", "auto", "--workers", "1"],
):
    print("exit", main(arguments))
"""


@pytest.mark.slow
def test_a_program_and_the_commands_meet_broken_libraries_with_a_sentence(run: Run, broken: Path) -> None:
    path = os.pathsep.join([str(broken), PACKAGE_FOLDER])
    result = run("-W", "error", "-c", PROGRAM, env={"PYTHONPATH": path})
    lines = result.stdout.splitlines()
    assert lines[0] == lines[1]
    assert [line for line in lines if line.startswith("exit")] == ["exit 0", "exit 1", "exit 1", "exit 1", "exit 0"]
    assert "Traceback" not in result.stderr
    assert "Adam's compiled step needs numba" in result.stderr
    assert result.stderr.count("until then the im2col kernel is used") == 1
    assert "note: kernel 'compiled' needs numba" in result.stderr
    assert "parallel-lenet: kernel 'compiled' needs numba, which is installed but does not work" in result.stderr
    assert "parallel-lenet: downloading mnist needs pooch, which is installed but does not work" in result.stderr
    assert "parallel-lenet: the dask engine needs distributed, which is installed but does not work" in result.stderr
    assert result.stderr.count("note: output with colours and bars needs rich") == 2  # One for each command.
    assert sorted(path.name for path in broken.parent.iterdir()) == ["a", "broken"]
