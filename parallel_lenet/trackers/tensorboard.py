"""TensorBoard: an event file of the numbers of steps and epochs, written without TensorFlow and PyTorch."""

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parallel_lenet import optional
from parallel_lenet.trackers import Scalars, Tracker, tracker_settings

FOLDER = "tensorboard"  # Of a run.
PURPOSE = "logging to TensorBoard"


def require() -> None:
    """Raises ExtraError if tensorboardX (extra ``tensorboard``) is missing or does not work."""
    _module("record_writer")


def _module(name: str) -> Any:
    return optional.load("tensorboard", "tensorboardX", PURPOSE, f"tensorboardX.{name}")


class TensorBoard(Tracker):
    """Writes a new file for each start to ``folder``, which ``tensorboard --logdir`` shows.

    ``settings`` become hyper-parameters. ``step`` is the number of finished steps. TensorBoard drops later ones, which
    an earlier start logged.

    Raises ExtraError if tensorboardX (extra ``tensorboard``) is missing, OSError if the file can't be written.

    For example, with `iterate`::

        with TensorBoard("logs/first", {"learning_rate": 0.1}) as tracker:
            for report in coordinator.iterate(train, 10):
                tracker.log(report)
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: Mapping[str, Any] | None = None, step: int = 0
    ) -> None:  # fmt: skip
        super().__init__(step)
        self._crc = _module("record_writer").masked_crc32c
        self._event = _module("proto.event_pb2")
        self._summary = _module("proto.summary_pb2").Summary
        Path(folder).mkdir(parents=True, exist_ok=True)
        now = time.time()
        # TensorBoard reads the files in the order of their names.
        name = f"events.out.tfevents.{now:.6f}.parallel_lenet"
        self._file = open(Path(folder) / name, "xb", buffering=0)  # noqa: SIM115, `end` closes it.
        try:
            events = [self._event.Event(wall_time=now, file_version="brain.Event:2")]
            if step:
                start = self._event.SessionLog(status=self._event.SessionLog.START)
                events.append(self._event.Event(wall_time=now, step=step + 1, session_log=start))
            for summary in _module("summary").hparams(tracker_settings(settings or {}), {})[:2]:
                events.append(self._event.Event(wall_time=now, summary=summary))
            self._write(events)
        except BaseException:
            self._file.close()
            raise

    def _store(self, scalars: list[Scalars]) -> None:
        self._write(
            [
                self._event.Event(
                    wall_time=moment,
                    step=step,
                    summary=self._summary(
                        value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
                    ),
                )
                for step, moment, numbers in scalars
            ]
        )

    def _write(self, events: list[Any]) -> None:
        """Write records of TensorFlow: a length, data, and the checksum of each. One write keeps each record whole."""
        content = b""
        for event in events:
            data = event.SerializeToString()
            length = struct.pack("<Q", len(data))
            content += length + struct.pack("<I", self._crc(length)) + data + struct.pack("<I", self._crc(data))
        while content:
            content = content[self._file.write(content) :]

    def end(self, state: str) -> None:
        """`flush`, and close the file. TensorBoard has no place for the state."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()
