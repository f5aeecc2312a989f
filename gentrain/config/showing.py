"""What Hydra prints of configs: --help, --hydra-help, --cfg, --info, and completion for shells. No torch."""

from __future__ import annotations

import argparse
import logging

from gentrain.config.compose import engine, of_the_run
from gentrain.errors import UserError

# For --hydra-help, which composes without gentrain's own config: what the gate wants, before what is typed.
_AS_OURS = (
    "hydra/hydra_logging=none", "hydra/job_logging=none", "hydra.output_subdir=null", "hydra.job.chdir=false",
    "hydra.job.name=gentrain", "hydra.run.dir=.", "hydra.sweep.dir=.", "hydra.sweep.subdir=.",
)  # fmt: skip


def show(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Print what is asked for. Raises UserError for options that do not go together."""
    if args.resolve and not (args.cfg or args.help):
        raise UserError("--resolve belongs to --cfg or --help")
    asked = (args.cfg, args.info, args.shell_completion, args.run, args.multirun)
    if not (args.help or args.hydra_help) and sum(map(bool, asked)) > 1:
        raise UserError("give only one of --run, --multirun, --cfg, --info and --shell-completion")
    overrides = of_the_run(args.overrides, args.config_dir)
    with engine(args.config_dir) as hydra:
        if args.help:
            args.overrides = overrides
            hydra.app_help("config", parser, args)
        elif args.hydra_help:
            args.overrides = [*_AS_OURS, *args.overrides]
            hydra.hydra_help(None, parser, args)
        elif args.cfg:
            hydra.show_cfg("config", overrides, args.cfg, args.package, args.resolve)
        elif args.shell_completion:
            hydra.shell_completion("config", overrides)
        else:
            handlers = list(logging.root.handlers)
            try:
                hydra.show_info(args.info, "config", overrides)
            finally:
                logging.root.handlers = handlers  # what it logs with is not for what comes after it
