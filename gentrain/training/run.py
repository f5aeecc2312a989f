"""task=train: a new run, or one that goes on."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from gentrain.config.settings import Train
from gentrain.data.batches import Batches
from gentrain.data.build import Packed, open_data, preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.errors import Interrupted, RunFailed
from gentrain.metrics.extractors import make_extractor
from gentrain.metrics.validation import TAG, ValidationDistance, too_few
from gentrain.runs import checkpoint as checkpoints
from gentrain.runs.capacity import check_fits
from gentrain.runs.checkpoint import Checkpoint
from gentrain.runs.records import METRICS, check_records, read_metrics
from gentrain.runs.rundir import RunDir
from gentrain.runs.stored_config import as_yaml
from gentrain.runs.tracking import NoTracker, Tracker
from gentrain.runtime import collectives
from gentrain.runtime.console import Display, console_of_rank, preparing, say
from gentrain.runtime.device import Compute, resolve, set_up
from gentrain.runtime.files import of_the_machine
from gentrain.runtime.ranks import is_main
from gentrain.runtime.signals import StopRequest
from gentrain.training.begin import init_weights, record_start, take_over
from gentrain.training.build import make_learner
from gentrain.training.failures import failures_explained, files_explained
from gentrain.training.in_common import check_same_command, check_same_pictures
from gentrain.training.learner import Learner
from gentrain.training.messages import as_typed, say_end, say_start, started_by
from gentrain.training.resume import Plan, plan
from gentrain.training.state import State
from gentrain.training.trainer import ShouldPrune, Trainer

SECTIONS = ("train", "data", "model", "optimizer")


def check(config: dict[str, Any], overrides: list[str]) -> None:
    """Raise UserError if the command cannot be carried out. Writes nothing."""
    plan(config, overrides)


def run(config: dict[str, Any], overrides: list[str], should_prune: ShouldPrune | None = None) -> None:
    """Train to the end, or to where `should_prune` ends it.

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
        state = take_over(command, learner, data, stored, console)
        check_same_pictures(command, data)
        train_images = ImageSplit(
            data.split("train"), preprocessing_of(command.config["data"]), compute.device
        )
        init_weights(command, learner, train_images, stored)
        if not command.resumes:  # only now: what cannot begin leaves no empty run behind
            directory = _new_directory(command, held)
        with directory.checked():
            tracker = (
                record_start(command, directory, data, learner, compute, state, console)
                if is_main()
                else NoTracker()
            )
            with files_explained(_how_to_go_on(directory, should_prune)):
                say_start(command, directory.path, data, learner, compute, state, console)
                trainer = _make_trainer(
                    command, directory, data, train_images, learner, compute, state, tracker, stop, console
                )
                trainer.should_prune = should_prune
                _train(trainer, console)
    if stop.requested:  # only now: all processes have stopped at one step, and part as after any other end
        raise Interrupted(stop.exit_status)


def _how_to_go_on(directory: RunDir, should_prune: ShouldPrune | None) -> str:
    if should_prune is not None:  # a search goes on with its own command
        return "give the same command"
    return f"{started_by()} {as_typed('resume', directory.path)}"


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


def _make_trainer(
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
) -> Trainer:
    settings, seed = Train(**command.config["train"]), command.config["seed"]
    valid = ImageSplit(data.split("valid"), preprocessing_of(command.config["data"]), compute.device)
    distance = _distance(settings, valid, compute, console)
    if distance is not None and is_main():
        directory.record_measure(TAG, distance.measured)
    return Trainer(
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
        state,
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


def _train(trainer: Trainer, console: Console) -> None:
    """Run the loop, and end with result.json and words on what to do next, however it ends."""
    status, state = "failed", trainer.state
    try:
        with trainer.display:
            trainer.stop.graceful = True
            trainer.fit()
            trainer.stop.agree()
        finished = state.step >= trainer.settings.max_steps and not state.pending
        status = "finished" if finished else "pruned" if state.pruned else "interrupted"
    except Interrupted:
        status = "interrupted"
        raise
    except collectives.Lost as error:
        status = "interrupted"  # no failure of the run: a sweep goes on with it, and does not begin anew
        again = _how_to_go_on(trainer.run, None)
        raise RunFailed(f"{error}; to go on from the last checkpoint: {again}") from error
    except (RunFailed, OSError) as error:
        if of_the_machine(error):
            status = "interrupted"
        raise
    finally:
        trainer.stop.graceful = False
        if is_main():
            with suppress(OSError):  # on a full disk these fail too, and would hide why the run did
                trainer.tracker.close()
            trainer.run.check()
            with suppress(OSError):
                trainer.run.write_result(status, state.step, trainer.tracker.latest)
        say_end(trainer.run, status, state, console)
    collectives.barrier()  # else who ends first has others killed while they write
