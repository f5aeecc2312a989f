#!/usr/bin/env bash
# torch's SummaryWriter without TensorFlow: the curve of a folder that is moved goes on in whatever lies at the old path.
#
# Versions: torch 2.14.1, tensorboard 2.21.0 (its own file layer, no TensorFlow installed). Valid use: a run is renamed
# to keep it, and another folder is made where it was, while its writer is still open. Behaviour: the writer holds no open
# file; it opens its file anew by path for each write, "ab". So no error is raised, the renamed run's curve ends at the
# move, and the new folder gets an event file without the version record that begins every other one, which TensorBoard
# reads without a word and shows as points of the new run.
#
# Output seen:
#   the moved run has steps [1], the folder in its place has steps [2]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "tensorboard==2.21.0"
cd "$folder"
venv/bin/python - <<'PYTHON'
import os

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter


def steps(run):
    events = EventAccumulator(run)
    events.Reload()
    return [event.step for event in events.Scalars("loss")]


writer = SummaryWriter("run")
writer.add_scalar("loss", 1.0, 1)
writer.flush()
os.rename("run", "kept")
os.mkdir("run")
writer.add_scalar("loss", 0.5, 2)
writer.close()
print(f"the moved run has steps {steps('kept')}, the folder in its place has steps {steps('run')}")
assert (steps("kept"), steps("run")) == ([1], [2]), "this finding is no longer true"
PYTHON
