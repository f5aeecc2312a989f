"""Overrides as they are typed, key=value: split and quoted here and nowhere else. Imports no torch."""

from __future__ import annotations

import re


def key_of(override: str) -> str:
    """`++a.b=c` -> `a.b`"""
    return override.lstrip("+~").partition("=")[0]


def is_hydras(override: str) -> bool:
    """Whether it is for Hydra itself, and no setting of gentrain's."""
    key = key_of(override)
    return key == "hydra" or key.startswith(("hydra.", "hydra/"))


def lenient(override: str, groups: set[str]) -> str:
    """`a.b=c` -> `++a.b=c`, so that Hydra composes an unknown key and our own check can say what is wrong."""
    if override.startswith("~") or key_of(override).split("@")[0] in groups or is_hydras(override):
        return override
    return "++" + override.lstrip("+")


def quoted(text: object) -> str:
    """As a value of Hydra's override grammar, whatever is in it."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), str(text))
    return f"'{escaped}'"
