"""Write a checkpoint's network for other programs: ONNX to run it, safetensors or .npz for its weights.

The ONNX model takes pixels as they are stored, float32 (batch, channels, height, width), and gives scores and
probabilities. The other formats hold the weights of each layer as PyTorch has them. An existing file is replaced.
"""

import argparse
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from parallel_lenet.archive import CheckpointError
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.cli import _checkpoints
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import UsageError
from parallel_lenet.export import FORMATS, file_sha256
from parallel_lenet.files import write_atomically
from parallel_lenet.parameters import sha256
from parallel_lenet.trained import from_checkpoint

HELP = "write a network as ONNX, safetensors or .npz"
EXAMPLES = (
    ("the newest run, as ONNX beside its checkpoint", "export"),
    ("weights that PyTorch reads", "export runs/mine --format safetensors --out weights.safetensors"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="a run's checkpoint.npz or its folder (default: that of the newest run in the folder runs)",
    )
    parser.add_argument(
        "--format", choices=tuple(FORMATS), help="what to write (default: what the name of --out ends with, or onnx)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="the file to write (default: beside the checkpoint, such as checkpoint.onnx)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, which names the file")


def run(arguments: argparse.Namespace) -> int:
    """Convert, then write the file in one step."""
    console = Console(json=arguments.json)
    file = _checkpoints.find(arguments.checkpoint, console)
    _checkpoints.require(file)
    format_name = _format(arguments)
    out = _output_file(arguments.out, file, format_name)
    checkpoint = Checkpoint.load(file)
    model = _model(checkpoint, format_name)
    parameters = checkpoint.state.parameters
    try:
        content = FORMATS[format_name](model, parameters, _metadata(checkpoint))
    except ValueError as error:
        raise CheckpointError(f"{file}: can't be exported: {error}") from error
    write_atomically(out, content)
    if arguments.json:
        console.result(
            {
                "checkpoint": file,
                "format": format_name,
                "file": str(out),
                "bytes": len(content),
                "file_sha256": file_sha256(content),
                "parameters": model.layout.size,
                "parameters_sha256": sha256(parameters),
            }
        )
    else:
        console.line(str(out))
    return 0


def _model(checkpoint: Checkpoint, format_name: str) -> Any:
    """The checkpoint's network, or the layout of a user's own model: only its weights can be written."""
    try:
        return from_checkpoint(checkpoint, "naive").model  # The kernel does not matter: nothing is computed.
    except CheckpointError as error:
        if format_name == "onnx":
            words = _checkpoints.model_reference(checkpoint)
            if words is None:
                raise
            raise CheckpointError(
                f"{checkpoint.path}: its run trained {words}, and only networks of this package's layers can be "
                "written as ONNX: --format safetensors and --format npz write its weights"
            ) from error
        return SimpleNamespace(layout=checkpoint.layout, description=checkpoint.description)


def _format(arguments: argparse.Namespace) -> str:
    """The format by --format, else by the ending of --out. Raises UsageError for another ending."""
    if arguments.format is not None:
        return str(arguments.format)
    if arguments.out is None:
        return "onnx"
    ending = Path(arguments.out).suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise UsageError(f"--out {arguments.out} doesn't end with a format: add --format, one of {', '.join(FORMATS)}")
    return ending


def _output_file(out: str | None, file: str, format_name: str) -> Path:
    """The file to write. Raises UsageError if it is a folder or the checkpoint itself."""
    if out is None:
        stem = Path(file).stem
        return Path(file).with_name(f"{stem}.weights.npz" if format_name == "npz" else f"{stem}.{format_name}")
    path = Path(out)
    if out == "" or "\0" in out or path.is_dir():
        raise UsageError(f"--out must name a file, got {'a folder: ' if path.is_dir() and out else ''}{out!r}")
    if path.exists() and os.path.samefile(path, file):
        raise UsageError(f"--out {out} is the checkpoint itself: name another file")
    return path


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """How far the network was trained, and on what."""
    dataset = checkpoint.metadata.get("dataset")
    state = checkpoint.state
    known = {"dataset": dataset} if isinstance(dataset, str) and not checkpoint.metadata.get("data_dir") else {}
    return {"epoch": state.epoch, "step": state.step, **known}
