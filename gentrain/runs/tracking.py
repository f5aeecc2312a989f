"""What a run says while it runs: TensorBoard, metrics.jsonl, sample grids, and the lines of the terminal."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from gentrain.runs import hparams
from gentrain.runs.records import read_metrics
from gentrain.runs.step_names import file_name
from gentrain.runtime.files import naming, write_atomically
from gentrain.runtime.stored_files import dump_json
from gentrain.viz.grids import columns, png_bytes

_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d{1,18})\.", re.ASCII)


class Tracker:
    """Writes the scalars and pictures of one run, going on after `start_step`.

    What an earlier process wrote for later steps is cut from metrics.jsonl and purged from TensorBoard.
    """

    def __init__(self, directory: Path, start_step: int) -> None:
        self.directory = directory
        self.path = directory / "metrics.jsonl"
        threading.excepthook = _say_unless_raised_again
        self._open(start_step)

    def _open(self, start_step: int) -> None:
        self.latest: dict[str, float] = {}
        for line in cut_back(self.path, start_step):
            self.latest |= {key: value for key, value in line.items() if key != "step"}
        self._lines = self.path.open("a")
        earlier = _seconds_of_event_files(self.directory)
        if earlier:
            _wait_until_after(max(earlier))
        self._writer = SummaryWriter(str(self.directory), purge_step=start_step + 1 if earlier else None)

    def rewind(self, step: int) -> None:
        """Cut off what was logged after `step`, to go on from there."""
        self.close()
        self._open(step)

    def replay(self, lines: list[dict[str, Any]]) -> None:
        """Take over the curves of another run, so that a run branched off it begins where it left."""
        for line in lines:
            scalars = {key: value for key, value in line.items() if key != "step"}
            self.scalars(line["step"], scalars)

    def hparams(self, config: Mapping[str, Any]) -> None:
        """The settings for TensorBoard's HPARAMS page, in this run's own event file."""
        for summary in hparams.summaries(config):
            self._writer._get_file_writer().add_summary(summary)  # add_hparams would open a second event file

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.latest |= values
        with naming(self.path):
            self._lines.write(dump_json({"step": step} | dict(values)) + "\n")
            self._lines.flush()
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def pictures(self, step: int, tag: str, images_NCHW: Tensor) -> Path:
        """A grid of bytes (N, C, H, W), as <tag>/step_<step>.png and in TensorBoard."""
        grid_CHW = make_grid(images_NCHW, nrow=columns(len(images_NCHW)), padding=2, pad_value=255)
        path = self.directory / tag / file_name(step, ".png")
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, png_bytes(grid_CHW))
        self._writer.add_image(tag, grid_CHW, step)
        return path

    def flush(self) -> None:
        """Put all on disk: a checkpoint must never be ahead of the curves that lead to it."""
        with naming(self.path):
            self._lines.flush()
            os.fsync(self._lines.fileno())
        self._writer.flush()

    def close(self) -> None:
        self._lines.close()
        self._writer.close()


class NoTracker:
    """A Tracker of a process that is not the one to write: only its last figures are kept."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}

    def rewind(self, step: int) -> None:
        pass

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.latest |= values

    def pictures(self, step: int, tag: str, images_NCHW: Tensor) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _say_unless_raised_again(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread keeps what it fails of, and the next one to write an event raises it."""
    if not isinstance(failure.thread, _AsyncWriterThread):
        threading.__excepthook__(failure)


def _seconds_of_event_files(directory: Path) -> list[int]:
    """The second in which each of TensorBoard's files was made, as its name says; other names are not its."""
    names = (path.name for path in directory.glob("events.out.tfevents.*"))
    return [int(found[1]) for name in names if (found := _EVENT_FILE.match(name))]


def _wait_until_after(second: int) -> None:
    """TensorBoard reads event files in the order of their names, which begin with the second of their making.

    So a process that goes on within the same second would be read before the one that it goes on from.
    """
    patience = time.monotonic() + 2  # a clock that was set back is not waited for
    while int(time.time()) <= second and time.monotonic() < patience:
        time.sleep(0.02)


def cut_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop what was logged after `step`; returns what is left."""
    lines = read_metrics(path, step)
    if path.exists():
        write_atomically(path, "".join(dump_json(line) + "\n" for line in lines).encode())
    return lines
