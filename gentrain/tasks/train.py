"""task=train: a new run, or one that goes on."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from rich.console import Console

from gentrain import checkpoint as checkpoints
from gentrain.build import make_learner
from gentrain.checkpoint import Checkpoint
from gentrain.data import Packed, open_data
from gentrain.data.batches import Batches, Images
from gentrain.device import Place, set_up
from gentrain.errors import Interrupted, RunFailed, UserError
from gentrain.learners import Learner
from gentrain.loop import Fit, State, fit
from gentrain.progress import Display, preparing, say
from gentrain.rundir import RunDir
from gentrain.settings import Train
from gentrain.signals import StopRequest
from gentrain.tasks.plan import Plan, plan
from gentrain.tasks.words import say_end, say_start
from gentrain.tracking import Tracker, read_metrics
from gentrain.trained import weights_of


def check(config: dict[str, Any], overrides: list[str]) -> None:
    """Raise UserError if the command cannot be carried out. Writes nothing."""
    plan(config, overrides)


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Train to the end. Raises UserError, RunFailed, or, once the run is saved, Interrupted."""
    command, console = plan(config, overrides), Console()
    with StopRequest() as stop, ExitStack() as held:
        stored = None
        if command.resumes:
            assert command.run_dir is not None
            directory = RunDir(command.run_dir)
            directory.lock()
            held.callback(directory.unlock)
            stored = _newest(directory, console)
            if _already_finished(stored, command, directory, console):
                return
        elif command.start_from is not None:
            stored = checkpoints.load_or_explain(command.start_from)
        with preparing(console) as progress:
            data = open_data(command.config["data"], progress)
        if not command.resumes:  # only now: data that cannot be read leave no empty run behind
            directory = RunDir.create(command.run_dir, command.name)
            held.callback(directory.unlock)
        _train(*_begin(command, directory, data, stored, stop, console), console)


def _newest(directory: RunDir, console: Console) -> Checkpoint | None:
    stored, complaints = checkpoints.load_newest(directory.checkpoints)
    for complaint in complaints:
        say(console, complaint)
    return stored


def _already_finished(stored: Checkpoint | None, command: Plan, directory: RunDir, console: Console) -> bool:
    max_steps = command.config["train"]["max_steps"]
    if stored is None or stored.step < max_steps or stored.pending:
        return False
    more = f"gentrain resume={directory.path} train.max_steps={2 * stored.step}"
    say(console, f"{directory.path} is already finished, at step {stored.step}; to go on: {more}")
    return True


def _begin(
    command: Plan,
    directory: RunDir,
    data: Packed,
    stored: Checkpoint | None,
    stop: StopRequest,
    console: Console,
) -> tuple[Fit, State]:
    """Build everything, take over the state of a checkpoint, and write down what starts."""
    config, settings = command.config, Train(**command.config["train"])
    place = set_up(config["device"])
    learner = make_learner(config, place)
    state = _take_over(command, learner, data, stored)
    tracker = _record(command, directory, data, learner, place, state)
    say_start(command, directory.path, data, learner, place, state, console)
    levels = config["data"]["levels"]
    fit_with = Fit(
        learner,
        Batches(Images(data.split("train"), levels, place.device), settings.batch_size, config["seed"]),
        Images(data.split("valid"), levels, place.device),
        settings,
        config["seed"],
        directory,
        (directory.path / "config.yaml").read_text(),
        data.fingerprint,
        tracker,
        Display(state.step, settings.max_steps, console),
        stop,
    )
    return fit_with, state


def _take_over(command: Plan, learner: Learner, data: Packed, stored: Checkpoint | None) -> State:
    """Load what the command goes on from into the learner; the state to start in."""
    if command.weights_from is not None:
        weights = weights_of(checkpoints.load_or_explain(command.weights_from))
        try:
            learner.parts["model"].load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"init_from={command.weights_from} has the weights of another model: {reason}"
            ) from error
    if stored is None:
        return State()
    if stored.data_fingerprint != data.fingerprint:
        name = command.config["data"]["name"]
        raise UserError(f"the pictures of data={name} are not those that the run was trained on")
    for name, part in learner.parts.items():
        part.load_state_dict(stored.parts[name])
    return State(stored.step, None if command.start_from else stored.best, stored.pending)


def _record(
    command: Plan, directory: RunDir, data: Packed, learner: Learner, place: Place, state: State
) -> Tracker:
    """Write config.yaml and meta.json, and open the curves where they go on."""
    config = command.config
    directory.write_config(config)
    (directory.path / "result.json").unlink(missing_ok=True)  # the last process's word, no longer true
    tracker = Tracker(directory.path, state.step if command.resumes else 0)
    if command.start_from is not None:
        parent = command.start_from.resolve().parent.parent
        tracker.replay(read_metrics(parent / "metrics.jsonl", state.step))
    if not command.resumes:
        tracker.hparams(config, {"train/loss": 0.0, f"valid/{learner.headline()}": 0.0})
    facts = {"name": config["data"]["name"], "fingerprint": data.fingerprint, "images": data.counts}
    directory.record_session(state.step, place.describe(), facts | data.facts)
    return tracker


def _train(this: Fit, state: State, console: Console) -> None:
    """Run the loop, and end with result.json and words on what to do next, however it ends."""
    status = "failed"
    try:
        with this.display:
            this.stop.graceful = True
            state = fit(this, state)
        finished = state.step >= this.settings.max_steps and not state.pending
        status = "finished" if finished else "interrupted"
    except Interrupted:
        status = "interrupted"
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(this.settings) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise _out_of_memory(this.settings) from error
    finally:
        this.stop.graceful = False
        this.tracker.close()
        this.run.write_result(status, state.step, this.tracker.latest)
        say_end(this.run, status, state, console)
    if this.stop.requested:
        raise Interrupted(this.stop.exit_status)


def _out_of_memory(settings: Train) -> RunFailed:
    half = max(1, settings.batch_size // 2)
    parts = 2 * settings.accumulate_steps
    return RunFailed(
        f"out of memory with train.batch_size={settings.batch_size}: try train.batch_size={half}, or "
        f"train.accumulate_steps={parts}, which takes the same steps in less memory"
    )
