"""Code must never come from a config: what would call, import or run something is refused. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gentrain.errors import UserError

# Hydra's own configs name their launcher and sweeper; installed plugins are code that the user chose.
_PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
_PLUGIN_KEYS = ("hydra.launcher._target_", "hydra.sweeper._target_")
_LOG_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_LOG_CLASSES = ("logging.StreamHandler", "logging.FileHandler")
# Of a SLURM job: shell commands, and arguments of srun, which can name programs to run before and after it;
# and options of sbatch that say where its Python looks for modules.
_COMMANDS = ("setup", "teardown", "srun_args")
_ENVIRONMENT = ("export", "export_file", "chdir")


def refuse_code(config: Any, path: str = "") -> None:
    """Raise UserError if a config would have something called or imported: `_target_`, or logging factories.

    `config` is the whole config as plain containers, Hydra's own node included.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            where = f"{path}.{key}" if path else str(key)
            if key == "_target_" and not (where in _PLUGIN_KEYS and str(value).startswith(_PLUGINS)):
                raise UserError(
                    f"{where}={value} is refused: gentrain's configs are data and name no code to call"
                )
            if key in ("()", "class") and "logging" in path and value not in _LOG_CLASSES:
                raise UserError(
                    f"{where}={value} is refused: log handlers may be {' or '.join(_LOG_CLASSES)}"
                )
            if where.startswith("hydra.launcher."):
                _refuse_commands(where, str(key), value)
                refuse_code(str(key), where)
            if where == "hydra.job.env_set" and value:
                raise UserError(f"{where} is refused: set environment variables in your shell")
            refuse_code(value, where)
    elif isinstance(config, str) and config.startswith("ext://") and config not in _LOG_STREAMS:
        raise UserError(f"{path}={config} is refused: it would import something")
    elif isinstance(config, str) and path.startswith("hydra.launcher.") and "\n" in config:
        raise UserError(f"{path} is refused: it would put commands into the script of a job")
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            refuse_code(value, f"{path}[{index}]")


def _refuse_commands(where: str, key: str, value: Any) -> None:
    """UserError for a setting of a launcher that would be carried out, or say what is."""
    if key in _COMMANDS and value:
        raise UserError(f"{where} is refused: it would put commands into the script of a job")
    if ".additional_parameters." in where:
        option = key.replace("-", "_")  # sbatch takes the beginning of an option for the whole
        if not re.fullmatch(r"\w+", option) or any(name.startswith(option) for name in _ENVIRONMENT):
            raise UserError(f"{where} is refused: set the environment and the folder of a job in your shell")
