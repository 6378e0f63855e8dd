"""What tests of the coordinator share: settings with uneven batches, and coordinators without worker processes."""

from typing import Any

from kits.models import Softmax
from parallel_lenet import Adam, Coordinator, Dataset, StepReport
from parallel_lenet.engines.serial import SerialEngine

# 150 digits in batches of 56, so the last batch is not full. 56 in shards of 10, so the last shard is not full.
UNEVEN: dict[str, Any] = {"batch_size": 56, "shard_size": 10, "seed": 3}


def serial(model: Any = None, optimizer: Any = None, **changes: Any) -> Coordinator:
    return Coordinator(model or Softmax(), optimizer or Adam(), **{**UNEVEN, "engine": "serial", **changes})


class SeveralSerial(SerialEngine):
    """Computes here what is given out as if there were several workers."""

    def __init__(self, n_workers: int) -> None:
        super().__init__()
        self.n_workers = n_workers


def small(data: Dataset, n: int) -> Dataset:
    return Dataset(data.inputs[:n], data.targets[:n])


def losses(reports: Any) -> list[float]:
    return [report.loss for report in reports if isinstance(report, StepReport)]
