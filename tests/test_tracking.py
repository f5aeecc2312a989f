"""The curves: complete, not doubled by a resume, and readable by TensorBoard itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import hydra
import pytest
import torch
from conftest import Command
from families import FAMILIES
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
    metadata,
)

from gentrain.config import compose, registry
from gentrain.config.ranges import AtLeast
from gentrain.config.schema import flat
from gentrain.runs import hparams
from gentrain.runs.tracking import Tracker, cut_back, read_metrics
from gentrain.viz.grids import columns


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
    shown = metadata.parse_session_start_info_plugin_data(settings.plugin_data.content).hparams
    assert shown["model.latent_dim"].number_value == 3


def hparams_page(folder: Path, columns: list[str] | None = None) -> tuple[Any, Any]:
    """What TensorBoard's own backend says of a folder of runs: its columns, and its rows sorted by `columns`."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = backend_context.Context(TBContext(logdir=str(folder), data_provider=provider))
    experiment = get_experiment.Handler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        col_params=[api_pb2.ColParams(hparam=name, order=api_pb2.ORDER_ASC) for name in columns or []],
    )
    return experiment, list_session_groups.Handler(RequestContext(), context, "", asked).run().session_groups


def composed(*overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(compose.CONFIG_DIR), version_base="1.3"):
        return compose.plain(hydra.compose("config", list(overrides)))


VARIANTS = (
    ["train.grad_clip=null", "device.threads=3", "data.flip=true", "device.channels_last=true"],
    ["model.loss=hinge", "data=folder", "data.root=x", "data.size=28"],
)


def test_the_hparams_page_of_a_folder_of_different_runs_shows_what_each_has(tmp_path: Path) -> None:
    """All families, and values of settings that may be several things: a column each, of one type."""
    configs = [composed(f"model={family}") for family in FAMILIES]
    configs += [composed("model=gan", *changes) for changes in VARIANTS]
    configs += [composed("model=vae", f"optimizer={name}") for name in ("sgd", "rmsprop")]
    for number, config in enumerate(configs):
        (tmp_path / f"run{number}").mkdir()
        tracker = Tracker(tmp_path / f"run{number}", 0)
        tracker.hparams(config)
        tracker.scalars(1, {"train/loss": 1.0, f"train/{config['model']['name']}": 2.0})
        tracker.close()
    settings = {key for config in configs for key, value in flat(config).items() if value is not None}
    experiment, rows = hparams_page(tmp_path, sorted(settings))  # sorting by text and numbers would fail
    assert {column.name for column in experiment.hparam_infos} == settings
    metrics = {metric.name.tag for metric in experiment.metric_infos}
    assert metrics == {"train/loss", *(f"train/{family}" for family in FAMILIES)}
    assert len(rows) == len(configs)
    fields = {
        api_pb2.DATA_TYPE_FLOAT64: "number_value",
        api_pb2.DATA_TYPE_STRING: "string_value",
        api_pb2.DATA_TYPE_BOOL: "bool_value",
    }
    for column in experiment.hparam_infos:
        values = [row.hparams[column.name] for row in rows if column.name in row.hparams]
        assert {value.WhichOneof("kind") for value in values} == {fields[column.type]}, column.name
    types = {column.name: fields[column.type] for column in experiment.hparam_infos}
    assert types["data.flip"] == "bool_value"
    assert types["train.grad_clip"] == types["model.gamma"] == "number_value"
    assert types["device.channels_last"] == types["model.widths"] == "string_value"


def test_the_hparams_page_of_two_families_as_trained(gentrain: Command, tiny: list[str]) -> None:
    for family in ("vae", "pixelcnn"):
        assert gentrain(*tiny, *FAMILIES[family], f"run_dir=runs/{family}").status == 0
    experiment, rows = hparams_page(Path("runs"))
    shown = {column.name for column in experiment.hparam_infos}
    assert {"model.latent_dim", "model.beta", "model.first_kernel", "model.head_width"} <= shown
    assert {row.name: row.hparams["model.width"].number_value for row in rows} == {"vae": 4, "pixelcnn": 4}
    assert {"valid/bits_per_dim", "valid/mse"} <= {metric.name.tag for metric in experiment.metric_infos}


def test_settings_of_one_name_are_of_one_type_in_all_choices() -> None:
    """Else a folder with both would have a column of two types."""
    kinds: dict[str, set[type]] = {}
    for kind, table in (
        ("model", registry.MODELS),
        ("data", registry.DATA),
        ("optimizer", registry.OPTIMIZERS),
    ):
        for name in table:
            config = composed("model=vae", "data=moons")
            config[kind] = {"name": name}
            for key, column in hparams.columns(config).items():
                kinds.setdefault(key, set()).add(column)
    assert {key for key, found in kinds.items() if len(found) > 1} == set()


@pytest.mark.parametrize(
    ("annotation", "column"),
    [
        (bool, bool), (int, float), (float | None, float), (Annotated[int, AtLeast(1)] | None, float),
        (bool | Literal["auto"], str), (list[int], str), (tuple[float, float] | None, str), (Literal[1, 2], float),
    ],
)  # fmt: skip
def test_the_type_of_a_column(annotation: Any, column: type) -> None:
    assert hparams.column_of(annotation) is column


def test_a_grid_is_about_square() -> None:
    assert [columns(count) for count in (1, 2, 4, 5, 64)] == [1, 2, 2, 3, 8]


def test_pictures_are_written_whole(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    path = tracker.pictures(3, "samples", torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    tracker.close()
    assert path == tmp_path / "samples/step_00000003.png"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
