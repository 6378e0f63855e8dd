"""LeNet-5, and NumPy models of your own, trained on all cores with bit-identical results for any number of workers."""

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
