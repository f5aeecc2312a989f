"""The command: compose, check, dispatch to a task.

Everything that a user can get wrong is found before Hydra runs the first job: each job's config is
composed and checked here, without creating a file. `--help`, `--version` and `--cfg` import no torch.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser  # what hydra.main itself parses with
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import gentrain
from gentrain import ranks
from gentrain.composing import (
    CONFIG_DIR,
    check_no_code,
    choices_of,
    compose,
    groups_of,
    lenient,
    of_hydra,
    of_the_run,
    plain,
    search_path,
)
from gentrain.console import guard_output, why_lost
from gentrain.errors import Interrupted, RunFailed, UserError
from gentrain.registry import suggestion
from gentrain.startup import raise_on_ctrl_c

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
    sweep: Sweep | None = None
    try:
        args = _parser().parse_intermixed_args(arguments)
        # Hydra's own parser wants its flags first.
        flags = [argument for argument in arguments if argument not in args.overrides]
        sys.argv = [sys.argv[0], *flags, *of_the_run(args.overrides, args.config_dir)]
        _refuse_flags(args)
        if args.shell_completion or args.hydra_help:
            pass
        elif args.help or args.cfg or args.info:
            check_no_code(args.overrides, args.config_dir)
        else:
            sweep = check_jobs(args.overrides, args.multirun, args.config_dir)
        if sweep is not None:
            from gentrain.sweeps.sweep import run_sweep

            raise_on_ctrl_c()
            sys.exit(run_sweep(sweep, _carry_out, str(CONFIG_DIR)))
        _failure.clear()
        shows = args.help or args.cfg or args.info or args.hydra_help or args.shell_completion
        with suppress(SystemExit) if shows else nullcontext():  # which is how Hydra ends --help
            _hydra_main()
        if _failure:
            raise _failure[0]
    except (UserError, RunFailed, Interrupted, KeyboardInterrupt) as error:
        sys.exit(_report(error))
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if not _is_hydras(error):
            raise
        sys.exit(_report(UserError(_sentence(error))))
    sys.exit(_status_of_print() if shows else 0)


_failure: list[UserError | RunFailed] = []


@hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> None:
    """One command, or a job of a foreign sweeper; there it raises, and `main` alone exits."""
    try:
        _carry_out(cfg)
    except (UserError, RunFailed) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            _report(error)
            raise
        _failure.append(error)  # raised by main: Hydra would put a line of its own before the sentence


def _carry_out(cfg: DictConfig) -> None:
    task = _task(cfg)
    raise_on_ctrl_c()
    task.run(plain(cfg), list(HydraConfig.get().overrides.task))


def _task(cfg: DictConfig) -> Any:
    from gentrain import registry

    return registry.target(registry.look_up(registry.TASKS, "task", cfg.task))


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
        if "_target_" in override:
            raise UserError(f"{override} is refused: gentrain's configs are data and name no code to call")
        if override.startswith("-"):
            raise UserError(f"{override} is no option of gentrain; settings are given as key=value")


def check_jobs(overrides: list[str], multirun: bool, config_dir: str | None) -> Sweep | None:
    """Compose and check every job that a command would run; the sweep, if it is one.

    Raises UserError; writes nothing.
    """
    from gentrain.config import check

    search = search_path(overrides, config_dir)
    groups = groups_of(config_dir)
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        choices, fixed, own = choices_of(overrides, multirun, groups, search)
        jobs: list[tuple[list[str], dict[str, Any]]] = []
        taken: set[tuple[str, str]] = set()
        for job in map(list, itertools.product(*choices.values())):
            composed = compose([lenient(override, groups) for override in job] + search)
            OmegaConf.set_struct(composed, False)
            composed.pop("hydra")
            config = plain(composed)
            check(config)
            _refuse_processes(config["task"], own.mode == RunMode.MULTIRUN)
            _refuse_shared_directory(config, taken)
            jobs.append((job, config))
        typed = [(of_the_run(job, config_dir), config) for job, config in jobs]
        try:
            sweep = _sweep(typed, choices, own, [*of_hydra(overrides), *search], fixed)
            for number, (job, config) in enumerate(jobs):
                if sweep is not None:
                    config = _as_it_will_run(config, sweep, number)
                _task(OmegaConf.create({"task": config["task"]})).check(config, job + search)
        except OSError as error:  # a name too long, a folder that may not be read ...
            raise UserError(f"{error.filename} cannot be used: {error.strerror}") from error
    return sweep


def _sweep(
    jobs: list[tuple[list[str], dict[str, Any]]],
    choices: dict[str, list[str]],
    own: DictConfig,
    of_hydra: list[str],
    fixed: list[str],
) -> Sweep | None:
    """None for a single command, and for a foreign sweeper: it decides as it goes, and launches by itself."""
    if own.mode != RunMode.MULTIRUN:
        typed = [override.lstrip("+").partition("=")[0] for override in jobs[0][0]]
        if "sweep_dir" in typed and jobs[0][1]["sweep_dir"] is not None:  # a preset for sweeps may have one
            raise UserError("sweep_dir= has no meaning here: it belongs to a sweep, gentrain -m ...")
        return None
    from gentrain.sweeps.sweep import plan_sweep

    if not str(own.sweeper["_target_"]).endswith(".BasicSweeper"):
        return None
    if any(override.lstrip("+~").startswith("hydra.sweep.") for override in of_hydra):
        raise UserError("hydra.sweep. is set by gentrain; name the folder of a sweep with sweep_dir=")
    varied = [key.lstrip("+~") for key, texts in choices.items() if len(texts) > 1]
    launcher = OmegaConf.to_container(own.launcher, resolve=True)
    return plan_sweep(jobs, varied, of_hydra, fixed, launcher)  # type: ignore[arg-type]


def _as_it_will_run(config: dict[str, Any], sweep: Sweep, number: int) -> dict[str, Any]:
    """With the directory that the sweep gives it; and on the cluster's devices, not those of this machine."""
    job = sweep.jobs[number]
    place = config["device"]
    if str(sweep.launcher["_target_"]).endswith("SlurmLauncher"):
        place = place | {"name": "auto", "precision": "auto"}
    return config | {"device": place, "run_dir": str(job.directory) if job.owned else config["run_dir"]}


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


def _is_hydras(error: Exception) -> bool:
    """Hydra says some mistakes with a bare ValueError; one from anywhere else is a failure of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return isinstance(error, YAMLError) or module.split(".")[0] in ("hydra", "omegaconf")


def _sentence(error: Exception) -> str:
    """What Hydra says in paragraphs, in one sentence."""
    if isinstance(error, YAMLError):
        return f"a config file is no YAML: {' '.join(str(error).split())}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        return f"{group}={choice} is not known{suggestion(choice, options)}; choose from {', '.join(options)}"
    return " ".join(str(error).split())
