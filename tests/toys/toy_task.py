"""The smallest task: it prints how long its text is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SECTIONS = ()


@dataclass(frozen=True)
class Settings:
    text: str


def check(config: dict[str, Any], overrides: list[str]) -> None:
    pass


def run(config: dict[str, Any], overrides: list[str]) -> None:
    print(len(Settings(**config["toy"]).text))
