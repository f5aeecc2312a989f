"""Code must never come from a config: what would call, import or run something is refused. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gentrain.config.schema import under
from gentrain.errors import UserError

# Hydra's own configs name their launcher and sweeper; installed plugins are code that the user chose.
_PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
_PLUGIN_KEYS = ("hydra.launcher._target_", "hydra.sweeper._target_")
_HOW_TO_CALL = ("_args_", "_partial_")  # beside `_target_`
_LOG_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_LOG_CLASSES = ("logging.StreamHandler", "logging.FileHandler")
# Of a SLURM job: shell commands, and arguments of srun, which can name programs to run before and after it;
# and options of sbatch that say where its Python looks for modules.
_COMMANDS = ("setup", "teardown", "srun_args")
_ENVIRONMENT = ("export", "export_file", "chdir")

# What Hydra would act on besides launching jobs (import, call, write, change folders), as configs/config.yaml
# sets it. A root of None: Hydra sets up no logging.
FIXED: dict[str, Any] = {
    "callbacks": {},
    "hydra_logging.root": None,
    "job_logging.root": None,
    "job.name": "gentrain",
    "job.chdir": False,
    "job.env_set": {},
    "job.env_copy": [],
    "run.dir": ".",
    "sweep.subdir": ".",
    "output_subdir": None,
}
# An interpolation may become something else after the check (${hydra.mode}, ${hydra.job.num}, ${oc.env:X}).
# These two of installed launchers become plain text; and what is only printed, or was typed, may stay.
_INTERPOLATIONS = ("${hydra.sweep.dir}/.submitit/%j", "${hydra.job.name}")
_ONLY_TEXT = ("help", "hydra_help", "overrides", "runtime", "job.override_dirname")


def refuse_code(config: Any, path: str = "") -> None:
    """Raise UserError if a config would have something called or imported: `_target_`, or logging factories.

    `config` is the whole config as plain containers, Hydra's own node included.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            if not isinstance(key, str):
                raise UserError(
                    f"{key!r} is no name of a setting{f' in {path}' if path else ''}: keys are text; correct "
                    "the config file that has it, or put it in quotes"
                )
            where = f"{path}.{key}" if path else key
            _refuse_key(where, key, value)
            refuse_code(value, where)
    elif isinstance(config, str) and under(path, ("hydra",)):
        _refuse_text(config, path)
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            refuse_code(value, f"{path}[{index}]")


def refuse_settings_of_hydra(config: Mapping[str, Any]) -> None:
    """UserError if Hydra's own node, `config`, would have it do more than compose and launch jobs."""
    for key, ours in FIXED.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value != ours:
            raise UserError(
                f"hydra.{key}={value} is refused: gentrain sets it, and nothing else has a meaning"
            )


def _refuse_key(where: str, key: str, value: Any) -> None:
    if key == "_target_" and not (where in _PLUGIN_KEYS and str(value).startswith(_PLUGINS)):
        raise UserError(f"{where}={value} is refused: gentrain's configs are data and name no code to call")
    if not under(where, ("hydra",)):
        return
    if key in _HOW_TO_CALL:
        raise UserError(f"{where}={value} is refused: gentrain's configs do not say how code is called")
    if key in ("()", "class") and "logging" in where and value not in _LOG_CLASSES:
        raise UserError(f"{where}={value} is refused: log handlers may be {' or '.join(_LOG_CLASSES)}")
    if where.startswith("hydra.launcher."):
        _refuse_commands(where, key, value)
        _refuse_text(key, where)
    if where == "hydra.job.env_set" and value:
        raise UserError(f"{where} is refused: set environment variables in your shell")


def _refuse_text(text: str, path: str) -> None:
    """Of Hydra's own node: what would import, becomes something only later, or gets into a job's script."""
    if under(path.partition("[")[0], tuple(f"hydra.{name}" for name in _ONLY_TEXT)):
        return
    if text.startswith("ext://") and text not in _LOG_STREAMS:
        raise UserError(f"{path}={text} is refused: it would import something")
    if "${" in text and text not in _INTERPOLATIONS:
        raise UserError(f"{path}={text} is refused: give the value itself, not where it comes from")
    if "\n" in text and path.startswith(("hydra.launcher.", "hydra.sweep.")):
        raise UserError(f"{path} is refused: it would put commands into the script of a job")


def _refuse_commands(where: str, key: str, value: Any) -> None:
    """UserError for a setting of a launcher that would be carried out, or say what is."""
    if key in _COMMANDS and value:
        raise UserError(f"{where} is refused: it would put commands into the script of a job")
    if ".additional_parameters." in where:
        option = key.replace("-", "_")  # sbatch takes the beginning of an option for the whole
        if not re.fullmatch(r"\w+", option) or any(name.startswith(option) for name in _ENVIRONMENT):
            raise UserError(f"{where} is refused: set the environment and the folder of a job in your shell")
