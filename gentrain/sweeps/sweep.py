"""A sweep from its jobs to its table: what is finished is left alone, Hydra's launchers take the rest."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from gentrain.config.overrides import is_hydras, key_of, quoted
from gentrain.errors import Interrupted, RunFailed, UserError
from gentrain.runtime.files import expanded, still_there
from gentrain.runtime.signals import StopRequest
from gentrain.sweeps import state as states
from gentrain.sweeps.jobs import Launch, Run, in_a_process, in_this_process, stop_file, under_submitit
from gentrain.sweeps.naming import Job, digest, identity, job_directory, job_name, sweep_folder
from gentrain.sweeps.report import print_table, write_report

SUBMITIT = "hydra_plugins.hydra_submitit_launcher."
EXTRAS = {  # of launchers whose configs are ours and whose code is not: what to install
    "hydra_plugins.hydra_joblib_launcher": "pip install 'gentrain[parallel]'",
    "hydra_plugins.hydra_submitit_launcher": "pip install 'gentrain[slurm]'",
}


@dataclass(frozen=True)
class Sweep:
    """What a command with -m asks for."""

    folder: Path
    jobs: tuple[Job, ...]
    flags: tuple[str, ...]  # that a job in a process of its own needs, to find the same configs
    fixed: tuple[str, ...]  # what it overrides for all jobs, Hydra's included
    launcher: Mapping[str, Any]  # the composed config of the launcher


def plan_sweep(
    jobs: Sequence[tuple[Sequence[str], Mapping[str, Any]]],
    varied: Sequence[str],
    flags: Sequence[str],
    fixed: Sequence[str],
    launcher: Mapping[str, Any],
) -> Sweep:
    """From each job's overrides and composed config. Raises UserError; writes nothing.

    `varied`: the keys that have several values; `flags`: of each job's own process; `fixed`: the overrides
    that are the same for every job, those of Hydra itself included; `launcher` is composed of them.
    """
    codes = [digest(identity(config, varied)) for _, config in jobs]
    folder = sweep_folder(jobs[0][1]["sweep_dir"], varied, codes)
    made: list[Job] = []
    for code, (overrides, config) in zip(codes, jobs, strict=True):
        settings = _settings(overrides, varied)
        if code in codes[: len(made)]:
            words = ", ".join(f"{key}={value}" for key, value in settings.items()) or "all the same settings"
            raise UserError(f"two jobs of this sweep are the same ({words}); leave one of them away")
        own = [text for text in overrides if not is_hydras(text) and key_of(text) != "sweep_dir"]
        directory, owned = _directory(config, folder, job_name(settings, code), code)
        name = directory.name if owned and directory else job_name(settings, code)
        if owned and directory:
            own.append(f"run_dir={quoted(directory)}")
        run_dir = str(directory) if owned else config["run_dir"]
        run = {**config, "run_dir": run_dir, "sweep_dir": None}
        made.append(Job(name, tuple(own), settings, directory, owned, run))
    return Sweep(folder, tuple(made), tuple(flags), tuple(fixed), launcher)


def _settings(overrides: Sequence[str], varied: Sequence[str]) -> dict[str, str]:
    texts = {key_of(text): text.partition("=")[2] for text in overrides}
    return {key: texts[key] for key in varied}


def _directory(config: Mapping[str, Any], folder: Path, name: str, code: str) -> tuple[Path | None, bool]:
    """Where a job trains, and whether that directory is the sweep's own.

    It is not for tasks on runs that are there, and for runs whose place was typed.
    """
    if config["task"] != "train":
        return None, False
    if config["run_dir"] is not None:
        return expanded(config["run_dir"]), False
    if config["resume"] is not None and not config["resume"].endswith(".pt"):
        return expanded(config["resume"]), False
    return job_directory(folder, name, code), True


def check_launcher(launcher: Any) -> None:
    """UserError if it is none, if what it needs is not installed, or it would run no jobs."""
    if not isinstance(launcher, Mapping | DictConfig) or "_target_" not in launcher:
        raise UserError(f"hydra.launcher={launcher} is no launcher; choose one with hydra/launcher=")
    package = ".".join(str(launcher["_target_"]).split(".")[:2])
    if package in EXTRAS and not _installed(package):
        raise UserError(f"this launcher needs {package.partition('.')[2]}: {EXTRAS[package]}")
    if launcher["_target_"] not in {
        f"{c.__module__}.{c.__name__}" for c in Plugins.instance().discover(Launcher)
    }:
        raise UserError(
            f"hydra/launcher: {launcher['_target_']} is no launcher that is installed here; choose another"
        )
    if str(launcher["_target_"]).endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise UserError("hydra/launcher=slurm finds no srun here; start the command where SLURM is")
    at_once = launcher.get("n_jobs", 1)
    if type(at_once) is not int or at_once == 0:
        raise UserError(
            f"hydra.launcher.n_jobs={at_once} is not possible; it must be how many jobs run at a time, "
            "or -1 for as many as there are processors"
        )


def _installed(package: str) -> bool:
    return (
        importlib.util.find_spec("hydra_plugins") is not None
        and importlib.util.find_spec(package) is not None
    )


# ---- carrying it out ---------------------------------------------------------------------------------------


def run_sweep(sweep: Sweep, run: Run) -> int:
    """Carry out what is left to do, print the table, write sweep.json; the exit status.

    `run` carries out one job in this process. In an `engine` of compose.py.
    """
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"sweep_dir={sweep.folder} cannot be made: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise UserError(f"sweep_dir={sweep.folder} cannot be made: {error}") from error
    with still_there(sweep.folder):
        return _carried_out(sweep, run)


def _carried_out(sweep: Sweep, run: Run) -> int:
    print(f"sweep of {len(sweep.jobs)} jobs: {sweep.folder}")
    left = [job for job in sweep.jobs if _is_left(sweep.folder, job)]
    write_report(sweep.folder, sweep.jobs)
    status = 0
    if left:
        try:
            _launch(sweep, left, run)
        except Interrupted as error:
            status = error.exit_status
        except KeyboardInterrupt:
            status = 130
        except RunFailed as error:
            print(f"gentrain: {error}", file=sys.stderr)
            status = 1
    found = write_report(sweep.folder, sweep.jobs)
    print_table(sweep.folder, sweep.jobs, found)
    healthy = all(state.status in (states.FINISHED, states.RUNNING) for state in found)
    return status or (0 if healthy else 1)


def _is_left(folder: Path, job: Job) -> bool:
    """Whether to launch it. Says why not in one line; what has failed is put aside and begins anew."""
    if not job.owned:
        return True
    state = states.read_state(folder, job)
    if state.status == states.FINISHED:
        figure = "" if state.figure is None else f", {state.figure[0]} {state.figure[1]:.4g}"
        print(f"{job.name}: already finished at step {state.step}{figure}")
        return False
    if state.spent:
        put = states.set_aside(folder, job)
        if put is not None:
            print(f"{job.name}: had failed at step {state.step}, begins anew; the failed attempt is in {put}")
    return True


def _launch(sweep: Sweep, jobs: Sequence[Job], run: Run) -> None:
    """Hand the jobs to the launcher of the config. Raises Interrupted."""
    target = str(sweep.launcher["_target_"])
    if target.endswith(".BasicLauncher"):
        with StopRequest():
            launch = Launch(sweep.folder, tuple(jobs))
            _with_hydra(sweep, jobs, partial(in_this_process, launch, run))
        return
    if target.startswith(SUBMITIT):
        launch = Launch(sweep.folder, tuple(jobs), sweep.flags)
        print(f"{len(jobs)} jobs are queued; Ctrl-C stops waiting for them, not them", flush=True)
        with StopRequest():
            _with_hydra(sweep, jobs, partial(under_submitit, launch))
        return
    with ExitStack() as held:
        stop = held.enter_context(stop_file())
        request = held.enter_context(StopRequest("jobs finish their step and save", stop.touch))
        request.graceful = True
        launch = Launch(
            sweep.folder, tuple(jobs), sweep.flags, stop, _threads(sweep.launcher, len(sweep.jobs))
        )
        _with_hydra(sweep, jobs, partial(in_a_process, launch))
        if request.requested:
            raise Interrupted(request.exit_status)


def _threads(launcher: Mapping[str, Any], jobs: int) -> dict[str, str]:
    """Environment variables that give each of the jobs that run at once its share of the processors.

    `jobs`: of the whole sweep, not only those left: what goes on has the threads that it had, and its bits.
    """
    if "OMP_NUM_THREADS" in os.environ or "n_jobs" not in launcher:
        return {}
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = launcher["n_jobs"]
    at_once = min(jobs, asked if asked > 0 else max(1, processors + 1 + asked))
    share = max(1, processors // at_once)
    print(
        f"at most {at_once} jobs at a time on {processors} processors, each with {share} threads "
        "unless device.threads is set"
    )
    return {"OMP_NUM_THREADS": str(share), "MKL_NUM_THREADS": str(share)}


def _with_hydra(sweep: Sweep, jobs: Sequence[Job], function: Callable[[DictConfig], None]) -> None:
    """What Hydra's own sweeper does, which cannot leave jobs out and raises at the first failure."""
    engine = GlobalHydra.instance().hydra
    assert engine is not None
    overrides = [*sweep.fixed, f"hydra.sweep.dir={quoted(sweep.folder.absolute())}"]
    config = engine.compose_config("config", overrides, RunMode.MULTIRUN)
    check_launcher(config.hydra.launcher)  # this one is used
    context = HydraContext(config_loader=engine.config_loader, callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(context, function, config)
    try:
        launcher.launch([list(job.overrides) for job in jobs], initial_job_idx=0)
    except RuntimeError as error:  # a worker of joblib's or a job of SLURM's is gone, or is not taken
        reason = " ".join(str(error).split())[:300]
        queued = str(sweep.launcher["_target_"]).startswith(SUBMITIT)
        others = "; jobs that are in the queue go on" if queued else ""
        raise RunFailed(f"the launcher has failed: {reason}{others}; the same command goes on") from error
