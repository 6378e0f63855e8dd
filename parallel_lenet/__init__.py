"""LeNet-5, and NumPy models of your own, trained on all cores with bit-identical results for any number of workers.

Names are imported when they are first used: a worker process needs few of them, and importing all of them takes a third
of the time in which it starts.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parallel_lenet.archive import CheckpointError
    from parallel_lenet.augmentation import Augment
    from parallel_lenet.checking.kernels import check_kernels
    from parallel_lenet.checking.layers import check_layer
    from parallel_lenet.checking.report import CheckReport
    from parallel_lenet.checkpoint import Checkpoint
    from parallel_lenet.checks import InvalidValue
    from parallel_lenet.coordinator import Coordinator
    from parallel_lenet.datasets import Dataset, DatasetError, load_folder, sample_weights
    from parallel_lenet.datasets import load as load_dataset
    from parallel_lenet.engines import Engine, WorkerError, WorkerWarning
    from parallel_lenet.engines.cluster.engine import Cluster, ClusterWarning
    from parallel_lenet.engines.processes.engine import ProcessesEngine
    from parallel_lenet.engines.serial import SerialEngine
    from parallel_lenet.finite import NonFiniteError
    from parallel_lenet.image_files import PictureError
    from parallel_lenet.metrics import Metrics
    from parallel_lenet.model import Model
    from parallel_lenet.network.fitted import lenet5_for
    from parallel_lenet.network.images import Images
    from parallel_lenet.network.layers import (
        Activation,
        AvgPool2d,
        Conv2d,
        Dense,
        Dropout,
        Flatten,
        Layer,
        MaxPool2d,
        ReLU,
        Tanh,
    )
    from parallel_lenet.network.lenet5 import lenet5
    from parallel_lenet.network.sequential import Sequential
    from parallel_lenet.optimizers import SGD, Adam, AdamW, RMSprop
    from parallel_lenet.parameters import Layout
    from parallel_lenet.pictures import read_digit
    from parallel_lenet.pictures.prediction import Prediction, predict_image
    from parallel_lenet.reports import EpochReport, History, StepReport, StepTimes
    from parallel_lenet.sample_keys import SampleKeys
    from parallel_lenet.schedules import Cosine, StepDecay, Warmup
    from parallel_lenet.tracing import Trace
    from parallel_lenet.trained import TrainedModel, load_model
    from parallel_lenet.weights import WeightsError, load_weights

__all__ = [
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "Augment",
    "AvgPool2d",
    "CheckReport",
    "Checkpoint",
    "CheckpointError",
    "Cluster",
    "ClusterWarning",
    "Conv2d",
    "Coordinator",
    "Cosine",
    "Dataset",
    "DatasetError",
    "Dense",
    "Dropout",
    "Engine",
    "EpochReport",
    "Flatten",
    "History",
    "Images",
    "InvalidValue",
    "Layer",
    "Layout",
    "MaxPool2d",
    "Metrics",
    "Model",
    "NonFiniteError",
    "PictureError",
    "Prediction",
    "ProcessesEngine",
    "RMSprop",
    "ReLU",
    "SampleKeys",
    "Sequential",
    "SerialEngine",
    "StepDecay",
    "StepReport",
    "StepTimes",
    "Tanh",
    "Trace",
    "TrainedModel",
    "Warmup",
    "WeightsError",
    "WorkerError",
    "WorkerWarning",
    "__version__",
    "check_kernels",
    "check_layer",
    "lenet5",
    "lenet5_for",
    "load_dataset",
    "load_folder",
    "load_model",
    "load_weights",
    "predict_image",
    "read_digit",
    "sample_weights",
]

__version__ = "0.1.0"

_NAMES = {
    "archive": ("CheckpointError",),
    "augmentation": ("Augment",),
    "checking.kernels": ("check_kernels",),
    "checking.layers": ("check_layer",),
    "checking.report": ("CheckReport",),
    "checkpoint": ("Checkpoint",),
    "checks": ("InvalidValue",),
    "coordinator": ("Coordinator",),
    "datasets": ("Dataset", "DatasetError", "load_dataset", "load_folder", "sample_weights"),
    "engines": ("Engine", "WorkerError", "WorkerWarning"),
    "engines.cluster.engine": ("Cluster", "ClusterWarning"),
    "engines.processes.engine": ("ProcessesEngine",),
    "engines.serial": ("SerialEngine",),
    "finite": ("NonFiniteError",),
    "image_files": ("PictureError",),
    "metrics": ("Metrics",),
    "model": ("Model",),
    "network.fitted": ("lenet5_for",),
    "network.images": ("Images",),
    "network.layers": (
        "Activation",
        "AvgPool2d",
        "Conv2d",
        "Dense",
        "Dropout",
        "Flatten",
        "Layer",
        "MaxPool2d",
        "ReLU",
        "Tanh",
    ),
    "network.lenet5": ("lenet5",),
    "network.sequential": ("Sequential",),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSprop"),
    "parameters": ("Layout",),
    "pictures": ("read_digit",),
    "pictures.prediction": ("Prediction", "predict_image"),
    "reports": ("EpochReport", "History", "StepReport", "StepTimes"),
    "sample_keys": ("SampleKeys",),
    "schedules": ("Cosine", "StepDecay", "Warmup"),
    "tracing": ("Trace",),
    "trained": ("TrainedModel", "load_model"),
    "weights": ("WeightsError", "load_weights"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # Type checkers would take any name for one of the package.

    def __getattr__(name: str) -> object:
        """Import the public name that a program asks for, or the module, such as ``parallel_lenet.kernels``."""
        if name in _MODULES:
            module = import_module(f"{__name__}.{_MODULES[name]}")
            value = getattr(module, {"load_dataset": "load"}.get(name, name))
            globals()[name] = value
            return value
        if name.isidentifier() and not name.startswith("_"):
            try:
                return import_module(f"{__name__}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":  # The module exists, but one that it imports does not.
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
