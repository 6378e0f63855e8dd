"""The notebooks run, every claim in them holds, and the outputs that are stored in them are what they give now.

``python tests/test_notebooks.py`` runs them and stores their outputs.
"""

import base64
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kits import programs
from kits.programs import environment

pytest.importorskip("numba")  # The notebooks compare with compiled loops.
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
jupyter_client = pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SECONDS = 120  # For a cell, on a machine that has other things to do.


def run(notebook: Any) -> Any:
    """A copy with new outputs, run in a process and an empty folder of its own. Raises its errors."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    with tempfile.TemporaryDirectory(prefix="notebook-", ignore_cleanup_errors=True) as folder:
        # Sockets in the folder: no port that others of this machine could connect to.
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"} if hasattr(socket, "AF_UNIX") else {}
        client = nbclient.NotebookClient(
            copy,
            km=jupyter_client.AsyncKernelManager(kernel_name="python3", **sockets),
            timeout=SECONDS,
            record_timing=False,
            coalesce_streams=True,  # Else it depends on the machine's load how a cell's lines are cut.
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment())
    copy.metadata.language_info = {"name": "python"}  # Without the version that happened to run it.
    return copy


def code_cells(notebook: Any) -> Iterator[Any]:
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def shape(cell: Any) -> list[tuple[str, ...]]:
    """What a cell's outputs look like: their kinds, and their texts with # for each number."""
    found = []
    for output in cell.outputs:
        texts = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        if "varies" in cell.metadata.get("tags", []):
            texts = ""
        texts = re.sub(r"\x1b\[[\d;]*m", "", texts)
        texts = re.sub(r"\b[0-9a-f]{12}\b|[+-]?\d[\d,.]*(e[+-]\d+)?", "#", texts)
        found.append((output.output_type, *sorted(output.get("data", {})), re.sub(r"\s+", " ", texts)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_claim_holds_and_the_stored_outputs_are_those_of_now(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    # In a process of its own, which takes the threads and sockets of Jupyter's client with it.
    programs.run(tmp_path, __file__, str(copy), command=programs.PYTHON)
    stored, found = nbformat.read(path, 4), nbformat.read(copy, 4)
    for then, now in zip(code_cells(stored), code_cells(found), strict=True):
        assert [output for output in now.outputs if output.get("name") == "stderr"] == []
        assert shape(then) == shape(now), (
            f"run `python {Path(__file__).name}`: this cell gives something else:\n{now.source}"
        )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_complete_small_and_nobodys(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 500_000
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == [
        *range(1, sum(1 for _ in code_cells(notebook)) + 1)
    ]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert len(outputs) > 10
    for output in outputs:
        assert output.output_type in ("stream", "display_data", "execute_result")
        for kind, data in output.get("data", {}).items():
            if kind.startswith("image/"):
                assert len(base64.b64decode(data)) < 300_000
            assert "ipywidgets" not in data
            assert "<script" not in data


def test_the_first_shows_a_bar_and_the_second_a_death() -> None:
    first, second = (nbformat.read(path, 4) for path in NOTEBOOKS)
    pages = [
        output.data.get("text/html", "") for cell in code_cells(first) for output in cell.outputs if "data" in output
    ]
    assert sum("epoch 6/6" in page and "100%" in page for page in pages) == 2
    texts = [output.get("text", "") for cell in code_cells(second) for output in cell.outputs]
    assert any("was killed by SIGKILL" in text for text in texts)


if __name__ == "__main__":
    for name in sys.argv[1:] or NOTEBOOKS:
        done = run(nbformat.read(name, 4))
        Path(name).write_text(nbformat.writes(done) + "\n", encoding="utf-8")
