"""What a training run says at its beginning and its end."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from rich.console import Console

from gentrain.config.overrides import quoted
from gentrain.config.settings import Preprocessing
from gentrain.data.build import Packed, image_shape, preprocessing_of
from gentrain.errors import few
from gentrain.runs import checkpoint as checkpoints
from gentrain.runs.rundir import RunDir
from gentrain.runtime.console import say
from gentrain.runtime.device import Compute
from gentrain.runtime.ranks import world_size
from gentrain.training.learner import Learner
from gentrain.training.optimizers import optimizer_settings
from gentrain.training.resume import Plan
from gentrain.training.state import State


def as_typed(key: str, path: Path) -> str:
    """key=path, quoted for Hydra and for the shell where it needs to be."""
    if re.fullmatch(r"[\w./~+-]+", str(path)):
        return f"{key}={path}"
    return shlex.quote(f"{key}={quoted(path)}")


def started_by() -> str:
    """What a training command begins with."""
    return "gentrain" if world_size() == 1 else "torchrun ... -m gentrain"


def say_start(
    command: Plan,
    directory: Path,
    data: Packed,
    learner: Learner,
    compute: Compute,
    state: State,
    console: Console,
) -> None:
    config, shape, view = (
        command.config,
        image_shape(command.config["data"]),
        preprocessing_of(command.config["data"]),
    )
    parameters = sum(p.numel() for p in learner.model.parameters())
    where = compute.describe() + (f", in each of {world_size()} processes" if world_size() > 1 else "")
    say(
        console,
        f"{command.name}: {parameters / 1e6:.2f} M parameters; {data.counts['train']} training images "
        f"{shape.width}x{shape.height}x{shape.channels} at {view.description}; {where}",
    )
    for text in remarks(data, view):
        say(console, text)
    if command.resumes or command.start_from:
        say(console, f"going on from step {state.step} in {directory}")
    else:
        say(console, f"run directory: {directory}")
    for change in command.changes:
        say(console, f"changed: {change}")
    if state.step and any(change.startswith("train.max_steps") for change in command.changes):
        optimizer = optimizer_settings(config["optimizer"], config["train"]["max_steps"])
        kind, lr = config["optimizer"]["schedule"], optimizer.lr_at(state.step)
        say(
            console,
            f"the {kind} schedule now ends at step {config['train']['max_steps']}: "
            f"the learning rate at step {state.step} is {lr:.3g}",
        )


def remarks(data: Packed, view: Preprocessing) -> list[str]:
    """What a person should know of the pictures before training on them."""
    said = []
    if data.bad:
        first = data.bad[0]
        said.append(f"left out: {len(data.bad)} bad pictures, the first {first.name} ({first.reason})")
    if data.facts.get("ignored"):
        others = few([f"{count} {suffix}" for suffix, count in data.facts["ignored"].items()])
        said.append(f"not looked at: {others}")
    if not data.counts["valid"]:
        without = (
            "neither a validation nor a test split" if not data.counts["test"] else "no validation split"
        )
        said.append(
            f"{without} (data.held_out=0): there will be no validation figures and no best.pt"
            + ("" if data.counts["test"] else ", and task=evaluate has nothing to measure on")
        )
    if data.facts.get("remarks"):
        said.append(few(data.facts["remarks"], between="; "))
    if data.facts.get("duplicates"):
        said.append(f"{data.facts['duplicates']} pictures equal another one; equal ones are in one split")
    if data.facts.get("left_out"):
        said.append(f"left out: {data.facts['left_out']} pictures that are held out too")
    moved = ["mirrored"] * view.flip + [f"moved by up to {view.shift} pixels"] * (view.shift > 0)
    if moved:
        said.append(f"training pictures are {' and '.join(moved)} at random, but not when measured")
    return said


def say_end(run_dir: RunDir, status: str, state: State, console: Console) -> None:
    run = run_dir.path
    saved = checkpoints.newest_first(run_dir.checkpoints)
    at = f"last checkpoint {saved[0].name}" if saved else "nothing saved yet"
    say(console, f"{status} at step {state.step} ({at}): {run}")
    if status != "finished":
        say(console, f"  go on:   {started_by()} {as_typed('resume', run)}")
        return
    say(console, f"  look:    tensorboard --logdir {shlex.quote(str(run))}   pictures: {run / 'samples'}")
    say(console, f"  sample:  gentrain task=sample {as_typed('run', run)}")
    say(console, f"  measure: gentrain task=evaluate {as_typed('run', run)}")
    say(console, f"  go on:   {started_by()} {as_typed('resume', run)} train.max_steps={2 * state.step}")
