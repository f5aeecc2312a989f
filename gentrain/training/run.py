"""task=train: a new run, or one that goes on."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from torch import nn

from gentrain.config.settings import Train
from gentrain.data.batches import Batches
from gentrain.data.build import Packed, open_data, preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.fingerprints import difference, parts_of
from gentrain.errors import Interrupted, RunFailed, UserError
from gentrain.metrics.extractors import make_extractor
from gentrain.metrics.validation import TAG, ValidationDistance, too_few
from gentrain.runs import checkpoint as checkpoints
from gentrain.runs.capacity import check_fits
from gentrain.runs.checkpoint import Checkpoint
from gentrain.runs.records import METRICS, check_records, read_metrics
from gentrain.runs.rundir import RunDir, what_changed
from gentrain.runs.stored import check_weights, load_asked, load_parts, not_finite, run_of, weights_of
from gentrain.runs.stored_config import as_yaml
from gentrain.runs.tracking import NoTracker, Tracker
from gentrain.runtime import collectives, distributed
from gentrain.runtime.console import Display, console_of_rank, preparing, say
from gentrain.runtime.device import Compute, resolve, set_up
from gentrain.runtime.files import of_the_machine
from gentrain.runtime.ranks import is_main, world_size
from gentrain.runtime.signals import StopRequest
from gentrain.training.build import make_learner
from gentrain.training.data_dependent import init_from_data, refit_buffers
from gentrain.training.failures import failures_explained, files_explained
from gentrain.training.in_common import check_same_command, check_same_pictures
from gentrain.training.learner import Learner
from gentrain.training.messages import as_typed, say_end, say_start, started_by
from gentrain.training.resume import Plan, plan
from gentrain.training.trainer import Fit, Judge, State, fit

SECTIONS = ("train", "data", "model", "optimizer")


def check(config: dict[str, Any], overrides: list[str]) -> None:
    """Raise UserError if the command cannot be carried out. Writes nothing."""
    plan(config, overrides)


def run(config: dict[str, Any], overrides: list[str], judge: Judge | None = None) -> None:
    """Train to the end, or to where `judge` ends it.

    Raises UserError, RunFailed, or, once the run is saved, Interrupted.
    """
    command, console = plan(config, overrides), console_of_rank()
    check_fits(command.config)
    with (
        collectives.process_group(resolve(command.config["device"]["name"])),
        StopRequest() as stop,
        ExitStack() as held,
        failures_explained(command.config),
    ):
        check_same_command(command)
        stored = None
        if command.resumes:
            assert command.run_dir is not None
            directory = RunDir(command.run_dir)
            stored = checkpoints.from_main(partial(_last_checkpoint, directory, held, console))
            if _already_finished(stored, command, directory, console):
                return
        elif command.start_from is not None:
            stored = checkpoints.from_main(partial(checkpoints.load_or_explain, command.start_from))
        with preparing(console) as progress:
            data = collectives.main_first(partial(open_data, command.config["data"], progress))
        compute = set_up(command.config["device"])
        learner = make_learner(command.config, compute)
        state = _take_over(command, learner, data, stored, console)
        check_same_pictures(command, data)
        train_images = ImageSplit(
            data.split("train"), preprocessing_of(command.config["data"]), compute.device
        )
        _begin(command, learner, train_images, stored)
        if not command.resumes:  # only now: what cannot begin leaves no empty run behind
            directory = _new_directory(command, held)
        with directory.checked():
            tracker = (
                _record(command, directory, data, learner, compute, state, console)
                if is_main()
                else NoTracker()
            )
            again = f"{started_by()} {as_typed('resume', directory.path)}"
            if judge is not None:  # a search goes on with its own command
                again = "give the same command"
            with files_explained(again):
                say_start(command, directory.path, data, learner, compute, state, console)
                fit_with = _fit_with(
                    command, directory, data, train_images, learner, compute, state, tracker, stop, console
                )
                _train(replace(fit_with, judge=judge), state, console)


def _new_directory(command: Plan, held: ExitStack) -> RunDir:
    """Made and locked by rank 0, where the one that is returned holds the lock."""
    made: list[RunDir] = []

    def make() -> str:
        made.append(RunDir.create(command.run_dir, command.name))
        held.callback(made[0].unlock)
        return str(made[0].path)

    path = Path(collectives.broadcast_from_main(make))
    return made[0] if made else RunDir(path)


def _last_checkpoint(directory: RunDir, held: ExitStack, console: Console) -> Checkpoint | None:
    """Locks the directory for good, and reads what is newest in it."""
    directory.lock()
    held.callback(directory.unlock)
    check_records(directory.path)
    stored, complaints = checkpoints.load_to_go_on(directory.checkpoints)
    for complaint in complaints:
        say(console, f"{complaint}; going on from the one before it")
    return stored


def _already_finished(stored: Checkpoint | None, command: Plan, directory: RunDir, console: Console) -> bool:
    max_steps = command.config["train"]["max_steps"]
    if stored is None or stored.step < max_steps or stored.pending:
        return False
    if is_main() and not directory.read_result():  # killed between its last checkpoint and its last word
        lines = read_metrics(directory.path / METRICS, stored.step)
        latest = {key: value for line in lines for key, value in line.items() if key != "step"}
        directory.write_result("finished", stored.step, latest)
    more = f"{started_by()} {as_typed('resume', directory.path)} train.max_steps={2 * stored.step}"
    say(console, f"{directory.path} is already finished, at step {stored.step}; to go on: {more}")
    return True


def _take_over(
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


def _begin(command: Plan, learner: Learner, images: ImageSplit, stored: Checkpoint | None) -> None:
    """The first weights of a new run, and all that follows from them: before anything of it is written."""
    network, seed = cast(nn.Module, learner.parts["model"]), command.config["seed"]
    if stored is None and command.weights_from is None:
        collectives.broadcast_from_main(partial(init_from_data, network, images, seed))
    distributed.broadcast_weights(network)
    if stored is None:
        learner.weights_replaced()
    # What was taken over is saved before the first step, and may have been settled on other pictures.
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


def _record(
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


def _fit_with(
    command: Plan,
    directory: RunDir,
    data: Packed,
    train: ImageSplit,
    learner: Learner,
    compute: Compute,
    state: State,
    tracker: Tracker | NoTracker,
    stop: StopRequest,
    console: Console,
) -> Fit:
    settings, seed = Train(**command.config["train"]), command.config["seed"]
    valid = ImageSplit(data.split("valid"), preprocessing_of(command.config["data"]), compute.device)
    distance = _distance(settings, valid, compute, console)
    if distance is not None and is_main():
        directory.record_measure(TAG, distance.measured)
    return Fit(
        learner,
        Batches(train, settings.batch_size, seed, settings.accumulate_steps),
        valid,
        settings,
        seed,
        directory,
        as_yaml(command.config),
        data.fingerprint,
        tracker,
        Display(state.step, settings.max_steps, console),
        stop,
        distance,
    )


def _distance(
    settings: Train, valid: ImageSplit, compute: Compute, console: Console
) -> ValidationDistance | None:
    """What measures valid/frechet_distance, if it is asked for and there are pictures enough."""
    if settings.frechet_samples is None:
        return None
    extractor = make_extractor("domain", compute.device)
    reason = too_few(valid, extractor)
    if reason is not None:
        say(console, reason)
        return None
    return ValidationDistance(extractor, valid, settings.frechet_samples)


def _train(this: Fit, state: State, console: Console) -> None:
    """Run the loop, and end with result.json and words on what to do next, however it ends."""
    status = "failed"
    try:
        with this.display:
            this.stop.graceful = True
            fit(this, state)
            this.stop.agree()
        finished = state.step >= this.settings.max_steps and not state.pending
        status = "finished" if finished else "pruned" if state.pruned else "interrupted"
    except Interrupted:
        status = "interrupted"
        raise
    except collectives.Lost as error:
        status = "interrupted"  # no failure of the run: a sweep goes on with it, and does not begin anew
        again = f"{started_by()} {as_typed('resume', this.run.path)}"
        raise RunFailed(f"{error}; to go on from the last checkpoint: {again}") from error
    except (RunFailed, OSError) as error:
        if of_the_machine(error):
            status = "interrupted"
        raise
    finally:
        this.stop.graceful = False
        if is_main():
            with suppress(OSError):  # on a full disk these fail too, and would hide why the run did
                this.tracker.close()
            this.run.check()
            with suppress(OSError):
                this.run.write_result(status, state.step, this.tracker.latest)
        say_end(this.run, status, state, console)
    collectives.barrier()  # else who ends first has others killed while they write
    if this.stop.requested:
        raise Interrupted(this.stop.exit_status)
