"""The command: compose, check, dispatch to a task.

Everything that a user can get wrong is found before Hydra runs the first job: each job's config is
composed and checked here, without creating a file. `--help`, `--version` and `--cfg` import no torch.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra._internal.utils import get_args_parser  # what hydra.main itself parses with
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import gentrain
from gentrain.config.compose import (
    choices_of,
    compose,
    composed_once,
    engine,
    groups_of,
    of_the_run,
    settings_of,
)
from gentrain.config.hydra_errors import in_a_sentence, is_hydras_mistake
from gentrain.config.overrides import is_hydras, key_of, lenient
from gentrain.config.showing import show
from gentrain.errors import Interrupted, RunFailed, UserError
from gentrain.runtime import ranks
from gentrain.runtime.files import failures_of_files
from gentrain.runtime.output import guard_output, why_lost
from gentrain.runtime.startup import raise_on_ctrl_c

if TYPE_CHECKING:
    from gentrain.sweeps.sweep import Sweep


def main() -> NoReturn:
    """The console script, after __main__.py.

    Exit status: 0 done, 1 a failure, 2 a user's mistake, 128 + its number after a signal that asked a run to
    save and stop: 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1, 140 SIGUSR2.
    """
    guard_output()
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"gentrain {gentrain.__version__}")
        sys.exit(_status_of_print())
    try:
        ranks.check_environment()
    except UserError as error:  # each says it: none knows whether it is the one to speak
        print(f"gentrain: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    if ranks.world_size() > 1:
        sys.excepthook = ranks.say_once
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions to us instead of printing and exiting
    try:
        parser = _parser()
        args = parser.parse_intermixed_args(arguments)
        _refuse_flags(args)
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            show(args, parser)
        else:
            sys.exit(_carry_out(check_jobs(args.overrides, args.multirun, args.config_dir), args.config_dir))
    except (UserError, RunFailed, Interrupted, KeyboardInterrupt) as error:
        sys.exit(_report(error))
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if not is_hydras_mistake(error):
            raise
        sys.exit(_report(UserError(in_a_sentence(error))))
    sys.exit(_status_of_print())


@dataclass(frozen=True)
class Command:
    """A command that has been checked."""

    composed: DictConfig  # with Hydra's own node; of a sweep, what all jobs have in common
    config: dict[str, Any]  # of the job, or of a sweep's first one
    overrides: list[str]  # as typed, without Hydra's own; and those of Hydra
    of_hydra: list[str]
    sweep: Sweep | None  # with its jobs' configs
    searches: bool  # a foreign sweeper decides on the jobs


def _carry_out(command: Command, config_dir: str | None) -> int:
    """With the configs that were checked, and with no others; returns the exit status."""
    with engine(config_dir) as hydra:
        if command.sweep is not None:
            from gentrain.sweeps.sweep import run_sweep

            raise_on_ctrl_c()
            with failures_of_files():
                return run_sweep(command.sweep, _run)
        if command.searches:
            overrides = [*command.of_hydra, *command.overrides, "hydra.mode=MULTIRUN"]
            hydra.multirun("config", _foreign_job, overrides)
        else:
            HydraConfig.instance().set_config(command.composed)  # task=tune asks it how it was called
            _run(command.config, command.overrides)
    return 0


def _run(config: dict[str, Any], overrides: list[str]) -> None:
    task = _task(config)
    raise_on_ctrl_c()
    with failures_of_files():
        task.run(config, overrides)


def _foreign_job(composed: DictConfig) -> None:
    """A job of a foreign sweeper, composed as it went: it raises, and `main` alone exits."""
    from gentrain.config.schema import check

    config = settings_of(composed)
    try:
        check(config)
        _run(config, list(HydraConfig.get().overrides.task))
    except (UserError, RunFailed) as error:
        _report(error)
        raise


def _task(config: dict[str, Any]) -> Any:
    from gentrain.config import registry

    return registry.target(registry.look_up(registry.TASKS, "task", config["task"]))


def _parser() -> argparse.ArgumentParser:
    """Hydra's parser, whose mistakes are one sentence too."""

    def error(message: str) -> NoReturn:
        raise UserError(f"{message}; see gentrain --help")

    parser = get_args_parser()
    parser.error = error  # type: ignore[method-assign]
    return parser


# ---- checks -----------------------------------------------------------------------------------------


def _refuse_flags(args: Any) -> None:
    if args.experimental_rerun:
        raise UserError("--experimental-rerun is refused: it runs what a pickle file says; use resume=RUN")
    if args.config_path or args.config_name:
        raise UserError("--config-path and --config-name would replace gentrain's configs; use --config-dir")
    if args.config_dir and not Path(args.config_dir).is_dir():
        raise UserError(f"--config-dir {args.config_dir} is not a directory")
    for override in args.overrides:
        if override.startswith("-"):
            raise UserError(f"{override} is no option of gentrain; settings are given as key=value")


def check_jobs(overrides: list[str], multirun: bool, config_dir: str | None) -> Command:
    """Compose and check every job that a command would run, each once.

    Raises UserError; writes nothing.
    """
    groups = groups_of(config_dir)
    with engine(config_dir):
        base, fixed = composed_once(overrides, multirun, groups)
        sweeps = multirun or base.hydra.mode == RunMode.MULTIRUN
        choices = choices_of(overrides, base.hydra) if sweeps else {}
        jobs: list[tuple[list[str], dict[str, Any]]] = []
        taken: set[tuple[str, str]] = set()
        for job in map(list, itertools.product(*choices.values())) if sweeps else [overrides]:
            composed = compose([lenient(override, groups) for override in job]) if sweeps else base
            config = settings_of(composed)
            _check(config, sweeps, taken)
            jobs.append((of_the_run(job, config_dir), config))
        searches = sweeps and _check_plugins(base.hydra)
        try:
            sweep = _sweep(jobs, choices, base.hydra, fixed, config_dir) if sweeps and not searches else None
            for number, (job, config) in enumerate(jobs):
                if sweep is not None:
                    config = _as_it_will_run(config, sweep, number)
                _task(config).check(deepcopy(config), job)
        except OSError as error:  # a name too long, a folder that may not be read ...
            raise UserError(f"{error.filename} cannot be used: {error.strerror}") from error
    typed, (first, config) = of_the_run(overrides, config_dir), jobs[0]
    if not sweeps and "sweep_dir" in map(key_of, first) and config["sweep_dir"] is not None:
        # (a preset for sweeps may have one)
        raise UserError("sweep_dir= has no meaning here: it belongs to a sweep, gentrain -m ...")
    own = [override for override in typed if not is_hydras(override)]
    return Command(base, config, own, [o for o in typed if is_hydras(o)], sweep, searches)


def _check(config: dict[str, Any], sweeps: bool, taken: set[tuple[str, str]]) -> None:
    from gentrain.config.schema import check

    check(config)
    _refuse_processes(config["task"], sweeps)
    _refuse_shared_directory(config, taken)


def _check_plugins(own: DictConfig) -> bool:
    """Whether a foreign sweeper decides on the jobs. UserError unless it and its launcher are installed."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.sweeper import Sweeper

    from gentrain.sweeps.sweep import check_launcher

    check_launcher(own.launcher)
    target = own.sweeper.get("_target_")
    if target not in {f"{kind.__module__}.{kind.__name__}" for kind in Plugins.instance().discover(Sweeper)}:
        raise UserError(f"hydra/sweeper: {target} is no sweeper that is installed here; leave it away")
    return not str(target).endswith(".BasicSweeper")


def _sweep(
    jobs: list[tuple[list[str], dict[str, Any]]],
    choices: dict[str, list[str]],
    own: DictConfig,
    fixed: list[str],
    config_dir: str | None,
) -> Sweep:
    from gentrain.sweeps.sweep import plan_sweep

    if any(key_of(override).startswith("hydra.sweep.") for override in fixed):
        raise UserError("hydra.sweep. is set by gentrain; name the folder of a sweep with sweep_dir=")
    varied = [key.lstrip("+~") for key, texts in choices.items() if len(texts) > 1]
    flags = [override for override in fixed if key_of(override) == "hydra.searchpath"]
    if config_dir is not None:
        flags += ["--config-dir", str(Path(config_dir).resolve())]
    launcher = OmegaConf.to_container(own.launcher, resolve=True)
    return plan_sweep(jobs, varied, flags, fixed, launcher)  # type: ignore[arg-type]


def _as_it_will_run(config: dict[str, Any], sweep: Sweep, number: int) -> dict[str, Any]:
    """With the directory that the sweep gives it; and on the cluster's devices, not those of this machine."""
    job = sweep.jobs[number]
    place = config["device"]
    if str(sweep.launcher["_target_"]).endswith("SlurmLauncher"):
        place = place | {"name": "auto", "precision": "auto"}
    return {**job.config, "device": place}


def _refuse_processes(task: str, multirun: bool) -> None:
    """What torchrun's processes cannot do together."""
    world = ranks.world_size()
    if world > 1 and multirun:
        raise UserError(
            f"a sweep (-m) is for one process, and torchrun has started {world}; give each of its jobs "
            "several with hydra/launcher=slurm_nodes, or start the jobs one by one"
        )
    if world > 1 and task != "train":
        raise UserError(f"task={task} is for one process; torchrun starts {world}, which only train")


def _refuse_shared_directory(config: dict[str, Any], taken: set[tuple[str, str]]) -> None:
    """Two jobs of a sweep never write in one directory."""
    for key in ("run_dir", "resume", "run"):
        if config[key] is None or (key == "resume" and config[key].endswith(".pt")):
            continue
        if (key, config[key]) in taken:
            raise UserError(
                f"two jobs of this sweep have {key}={config[key]}; leave it away or sweep over it too"
            )
        taken.add((key, config[key]))


# ---- what a person reads ------------------------------------------------------------------------------


def _report(error: BaseException) -> int:
    """Say it in one sentence on stderr; the exit status."""
    if isinstance(error, UserError | RunFailed):
        if ranks.may_speak():
            print(f"gentrain: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, UserError) else 1
    if isinstance(error, Interrupted):
        return error.exit_status
    if ranks.is_main():
        print("gentrain: interrupted", file=sys.stderr)
    return 130


def _status_of_print() -> int:
    """The exit status of a command that only prints: for it alone a text that is lost is a failure."""
    lost = why_lost(sys.stdout)
    if lost is None or isinstance(lost, BrokenPipeError):  # who closes a pipe has read enough
        return 0
    return _report(RunFailed(f"stdout cannot be written to ({lost.strerror}), so the answer is lost"))
