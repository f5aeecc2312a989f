"""What the tasks on a trained run share: which run, and that nothing else is asked of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from gentrain.data.build import Packed, open_data
from gentrain.data.fingerprints import difference
from gentrain.data.packed import Progress
from gentrain.errors import UserError
from gentrain.runs.rundir import what_changed
from gentrain.runs.stored import find_checkpoint, run_of
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.console import say
from gentrain.runtime.device import check_device
from gentrain.training.resume import absolute

WHERE = (
    "data.root",
    "data.repo",
    "data.follow_links",
)  # of pictures that were moved: that they are the same is checked
OF_THE_RUN = ("model", "data", "optimizer", "train", "seed", "experiment", "resume", "init_from", "run_dir")


def check_on_run(config: Mapping[str, Any], overrides: list[str], may_set: tuple[str, ...] = ()) -> None:
    """Raise UserError if there is no such run, or if the command also sets what the run has already set."""
    task = config["task"]
    if config["run"] is None:
        raise UserError(f"task={task} needs run=...: a run directory or one checkpoint file in it")
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in OF_THE_RUN and key not in may_set:
            raise UserError(
                f"{override} has no meaning for task={task}: the run has its own {key.partition('.')[0]}"
            )
    find_checkpoint(config["run"], config["checkpoint"])
    directory = run_of(config["run"])
    if not os.access(directory, os.W_OK):
        raise UserError(
            f"{directory} cannot be written, and task={task} leaves there what it makes; make it writable, "
            "or copy the run"
        )
    check_device(config["device"])


def open_run(config: Mapping[str, Any], average: bool = True) -> TrainedRun:
    """Says what is odd about the run's files, and sets the whole process up as `device` says."""
    trained = TrainedRun.open(
        config["run"], checkpoint=config["checkpoint"], device=config["device"], average=average
    )
    trained.compute.apply()
    for remark in trained.remarks:
        say(Console(), remark)
    return trained


def open_data_of(trained: TrainedRun, config: Mapping[str, Any], split: str, progress: Progress) -> Packed:
    """The pictures that the run was trained on, wherever they are now; UserError if they have changed.

    UserError too if `split`, of which the task takes pictures, has none. Labels may have changed: what asks
    for them asks for today's.
    """
    section = dict(trained.config["data"])
    moved = {
        key: config["data"][key]
        for key in ("root", "repo", "follow_links")
        if key in section and config["data"].get(key)
    }
    packed = open_data(section | absolute(moved), progress)
    if difference(trained.data_fingerprint, packed.fingerprint) == "pictures":
        changed = what_changed(trained.path, trained.config["data"]["name"], trained.data_fingerprint, packed)
        raise UserError(f"{changed} since the run was trained")
    if not packed.counts[split]:
        others = " and ".join(name for name in ("valid", "test") if packed.counts[name])
        raise UserError(
            f"task={config['task']} takes pictures of the {split} split, and the run's data has none "
            f"(data.held_out=0{f'; it has {others}' if others else ''}); train with data.held_out above 0"
        )
    return packed
