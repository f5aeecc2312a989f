"""What Hydra and OmegaConf say of a user's mistake, in one sentence. No torch."""

from __future__ import annotations

from hydra.errors import HydraException, MissingConfigException
from yaml import YAMLError

from gentrain.config.registry import suggestion


def is_hydras_mistake(error: Exception) -> bool:
    """Hydra says some mistakes with a bare ValueError; one from anywhere else is a failure of ours."""
    if isinstance(error, HydraException | YAMLError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return module.split(".")[0] in ("hydra", "omegaconf")


def in_a_sentence(error: Exception) -> str:
    """What Hydra says in paragraphs, in one sentence."""
    if isinstance(error, YAMLError):
        return f"a config file is no YAML: {' '.join(str(error).split())}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        choose = f"; choose from {', '.join(options)}" if options else ""
        return f"{group}={choice} is not known{suggestion(choice, options)}{choose}"
    said: BaseException | None = error
    while said is not None and not str(said).strip():  # Hydra may leave it to the cause
        said = said.__cause__ or said.__context__
    return " ".join(str(said or type(error).__name__).split())
