"""A run's settings for TensorBoard's HPARAMS page, which shows runs of many kinds in one table.

No `experiment` summary is written: TensorBoard would take the one of whichever run it reads first for the
columns of all. Without any it shows the settings and curves of all runs, each as a column of one type. So a
setting has the type of its annotation and not that of its value: a column of numbers in which one run had
text could neither be sorted nor filtered. What is null is left blank.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from gentrain.config import registry
from gentrain.config.schema import PLAIN_KEYS, data_schema, flat, model_schema, optimizer_schema, schema_of
from gentrain.config.settings import Device, Train

Column = type[bool] | type[float] | type[str]


def summaries(config: Mapping[str, Any]) -> list[Summary]:
    """What to write into a run's event file for it to be a row of the page."""
    start = SessionStartInfo()
    types_of = columns(config)
    for key, value in flat(config).items():
        column = types_of.get(key, str)
        if value is None or (column is float and abs(value) > sys.float_info.max):  # as a seed may be
            continue
        if column is bool:
            start.hparams[key].bool_value = value
        elif column is float:
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = value if isinstance(value, str) else str(value)
    of_session = {
        metadata.SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start),
        metadata.SESSION_END_INFO_TAG: HParamsPluginData(
            session_end_info=SessionEndInfo(status=STATUS_SUCCESS)
        ),
    }
    return [_summary(tag, content) for tag, content in of_session.items()]


def columns(config: Mapping[str, Any]) -> dict[str, Column]:
    """The type of the column of each setting of a run, by its dotted key."""
    sections = {
        "model": model_schema(registry.MODELS[config["model"]["name"]]),
        "data": data_schema(registry.DATA[config["data"]["name"]]),
        "optimizer": optimizer_schema(registry.OPTIMIZERS[config["optimizer"]["name"]]),
        "device": schema_of(Device),
        "train": schema_of(Train),
    }
    annotations = dict(PLAIN_KEYS) | {
        f"{section}.{key}": setting.annotation
        for section, schema in sections.items()
        for key, setting in schema.items()
    }
    return {key: column_of(annotation) for key, annotation in annotations.items()}


def column_of(annotation: Any) -> Column:
    """Numbers, truth values, or else text: what can be one of several is text."""
    kinds = _kinds(annotation)
    if kinds == {bool}:
        return bool
    return float if kinds and kinds <= {int, float} else str


def _kinds(annotation: Any) -> set[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(arguments[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds, arguments))
    if origin is Literal:
        return set(map(type, arguments))
    return set() if annotation is None or annotation is type(None) else {origin or annotation}


def _summary(tag: str, content: HParamsPluginData) -> Summary:
    content.version = metadata.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
