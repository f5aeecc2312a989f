"""The curves: complete, not doubled by a resume, and readable by TensorBoard itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import Command
from families import FAMILIES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from gentrain.tracking import Tracker, columns, cut_back, read_metrics


def tensorboard(run: Path) -> EventAccumulator:
    read = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return read


def test_points_are_not_doubled_by_a_kill_and_resume(tmp_path: Path) -> None:
    """A process logs to step 6, is killed, and a second one goes on from the checkpoint of step 4."""
    first = Tracker(tmp_path, 0)
    for step in range(1, 7):
        first.scalars(step, {"train/loss": float(step)})
    first.close()
    second = Tracker(tmp_path, 4)
    assert second.latest == {"train/loss": 4.0}
    for step in range(5, 9):
        second.scalars(step, {"train/loss": 10.0 * step})
    second.close()
    points = [(event.step, event.value) for event in tensorboard(tmp_path).Scalars("train/loss")]
    assert points == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 60), (7, 70), (8, 80)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == points


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"')
    assert read_metrics(path, 9) == [{"step": 1, "a": 1}, {"step": 2, "a": 2}]
    cut_back(path, 1)
    assert path.read_text() == '{"step": 1, "a": 1}\n'


def test_a_run_in_tensorboard(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES["vae"], "run_dir=run")
    gentrain("resume=run", "train.max_steps=9")
    read = tensorboard(Path("run"))
    scalars = set(read.Tags()["scalars"])
    assert {
        "train/loss", "train/bits_per_dim", "train/grad_norm", "train/lr", "perf/images_per_second",
        "valid/bits_per_dim", "valid/mse", "valid/kl_nats",
    } <= scalars  # fmt: skip
    assert [event.step for event in read.Scalars("train/loss")] == list(range(1, 10))
    assert [event.step for event in read.Scalars("valid/bits_per_dim")] == [3, 6, 9]
    assert [event.step for event in read.Images("samples")] == [3, 6, 9]
    assert set(read.Tags()["images"]) == {"samples", "reconstructions"}
    settings = read.SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    hparams = metadata.parse_session_start_info_plugin_data(settings.plugin_data.content).hparams
    assert hparams["model.latent_dim"].number_value == 3


def test_a_grid_is_about_square() -> None:
    assert [columns(count) for count in (1, 2, 4, 5, 64)] == [1, 2, 2, 3, 8]


def test_pictures_are_written_whole(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    path = tracker.pictures(3, "samples", torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    tracker.close()
    assert path == tmp_path / "samples/step_00000003.png"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
