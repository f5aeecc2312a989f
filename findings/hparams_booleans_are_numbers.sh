#!/usr/bin/env bash
# torch's hparams summary: a boolean hyperparameter is stored as the number 1.0, in a column of numbers.
#
# Version: torch 2.14.1, tensorboard 2.21.0. Behaviour: torch.utils.tensorboard.summary.hparams asks isinstance(v, (int,
# float)) before isinstance(v, bool), and a bool is an int, so the branch that writes bool_value and DATA_TYPE_BOOL is never
# reached. TensorBoard's HPARAMS page then shows 1 and 0 with a range to filter by, not true and false; and a setting that
# is `false` in one run and a word such as "auto" in another makes a column of mixed types.
#
# Output seen:
#   {"flip": True} is stored as number_value: 1.0, column DATA_TYPE_FLOAT64
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "tensorboard==2.21.0"
"$folder/venv/bin/python" - <<'PYTHON'
from tensorboard.plugins.hparams.api_pb2 import DataType
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

experiment, start, _ = (
    HParamsPluginData.FromString(summary.value[0].metadata.plugin_data.content)
    for summary in hparams({"flip": True}, {})
)
stored = start.session_start_info.hparams["flip"]
column = DataType.Name(experiment.experiment.hparam_infos[0].type)
print(f'{{"flip": True}} is stored as {stored.WhichOneof("kind")}: {stored.number_value}, column {column}')
assert stored.WhichOneof("kind") == "number_value" and column == "DATA_TYPE_FLOAT64", "this finding is no longer true"
PYTHON
