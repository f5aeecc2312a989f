"""What a run takes over from another or from its own past, and what it writes before its first step."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

from rich.console import Console
from torch import nn

from gentrain.data.build import Packed
from gentrain.data.dataset import ImageSplit
from gentrain.data.fingerprints import difference, parts_of
from gentrain.errors import UserError
from gentrain.runs import checkpoint as checkpoints
from gentrain.runs.checkpoint import Checkpoint
from gentrain.runs.records import METRICS, read_metrics
from gentrain.runs.rundir import RunDir, what_changed
from gentrain.runs.stored import check_weights, load_asked, load_parts, not_finite, run_of, weights_of
from gentrain.runs.stored_config import as_yaml
from gentrain.runs.tracking import Tracker
from gentrain.runtime import collectives, distributed
from gentrain.runtime.console import say
from gentrain.runtime.device import Compute
from gentrain.runtime.ranks import world_size
from gentrain.training.data_dependent import init_from_data, refit_buffers
from gentrain.training.learner import Learner
from gentrain.training.resume import Plan
from gentrain.training.state import State


def take_over(
    command: Plan, learner: Learner, data: Packed, stored: Checkpoint | None, console: Console
) -> State:
    """Load what the command goes on from into the learner; the state to start in."""
    if command.weights_from is not None:
        begun = checkpoints.from_main(partial(_weights_to_start_from, command, console))
        assert begun is not None
        weights = weights_of(begun)
        said = check_weights(command.weights_from, weights, cast(nn.Module, learner.parts["model"]))
        if said:
            raise UserError(f"init_from={command.config['init_from']}: {said}")
        learner.parts["model"].load_state_dict(weights)
    if stored is None:
        return State()
    changed = difference(stored.data_fingerprint, data.fingerprint) is not None
    if changed:
        _accept_change(command, data, stored, console)
    load_parts(learner.parts, stored, command.start_from or cast(Path, command.run_dir))
    _refuse_diverged(command, learner, stored)
    # A best figure of other validation pictures, or of another run, is none of this one.
    best = None if command.start_from or changed else stored.best
    return State(stored.step, best, stored.pending, stored.rollbacks)


def _refuse_diverged(command: Plan, learner: Learner, stored: Checkpoint) -> None:
    """UserError if what is gone on from, an average included, is not finite: no step would mend it."""
    run = command.run_dir
    file = command.start_from or cast(Path, run) / "checkpoints" / checkpoints.file_name(stored.step)
    for part in learner.parts.values():
        if isinstance(part, nn.Module) and (said := not_finite(file, part.state_dict())):
            raise UserError(f"{said}; go on from an earlier checkpoint file, if there is one, with resume=")


def init_weights(command: Plan, learner: Learner, images: ImageSplit, stored: Checkpoint | None) -> None:
    """The first weights of a new run, and all that follows from them: before anything of it is written."""
    network, seed = cast(nn.Module, learner.parts["model"]), command.config["seed"]
    if stored is None and command.weights_from is None:
        collectives.broadcast_from_main(partial(init_from_data, network, images, seed))
    distributed.broadcast_weights(network)
    if stored is None:
        learner.weights_replaced()
    # What was taken over is saved before the first step, and may have been refitted on other pictures.
    if command.start_from is not None or command.weights_from is not None:
        for each in learner.networks():
            refit_buffers(each, images, seed)


def _weights_to_start_from(command: Plan, console: Console) -> Checkpoint:
    found, complaints = load_asked(command.config["init_from"], command.config["checkpoint"])
    for complaint in complaints:
        say(console, complaint)
    return found


def _accept_change(command: Plan, data: Packed, stored: Checkpoint, console: Console) -> None:
    """Pictures or labels are not those of the checkpoint: say so; UserError unless that is allowed."""
    came_from = run_of(command.start_from) if command.start_from else command.run_dir
    assert came_from is not None
    changed = what_changed(came_from, command.config["data"]["name"], stored.data_fingerprint, data)
    said = f"{changed} since step {stored.step}"
    if not command.allow_changed:
        raise UserError(f"{said}; to go on with them add data.allow_changed=true")
    say(console, f"{said}; going on with them, the best figure is sought anew")


def record_start(
    command: Plan,
    directory: RunDir,
    data: Packed,
    learner: Learner,
    compute: Compute,
    state: State,
    console: Console,
) -> Tracker:
    """Write what starts, and open the curves where they go on."""
    config = command.config
    before = directory.processes_before()
    if before != world_size():
        say(
            console,
            f"going on with {world_size()} process{'es' * (world_size() > 1)}, where the last session had "
            f"{before}: sums are added in another order, so weights will not be equal bit for bit",
        )
    if command.resumes:
        directory.write_config(config)
        (directory.path / "result.json").unlink(missing_ok=True)  # the last process's word, no longer true
    else:
        directory.begin(config)
    if command.start_from is not None or command.weights_from is not None:
        parts = {name: part.state_dict() for name, part in learner.parts.items()}
        begun = Checkpoint(
            state.step, as_yaml(config), parts, state.best, state.pending, data.fingerprint, state.rollbacks
        )
        checkpoints.save(directory.checkpoints / checkpoints.file_name(state.step), begun)
    tracker = Tracker(directory.path, state.step if command.resumes else 0)
    if command.start_from is not None:
        parent = run_of(command.start_from)
        tracker.replay(read_metrics(parent / METRICS, state.step))
    if not command.resumes or state.step == 0:  # once more, where it may have been killed before it was
        tracker.hparams(config)
    # Figures of runs on the same pictures are comparable, whatever their labels are.
    pictures, labels = parts_of(data.fingerprint)
    facts = {
        "name": config["data"]["name"],
        "fingerprint": pictures,
        "labels_fingerprint": labels,
        "images": data.counts,
    }
    directory.record_images(data)
    parameters = sum(p.numel() for p in learner.model.parameters())
    directory.record_session(state.step, compute.describe(), parameters, facts | data.facts)
    if not command.resumes:
        tracker.flush()
        directory.begun()
    return tracker
