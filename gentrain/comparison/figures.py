"""Figures with the protocols by which they were measured: what may stand in one column, and what may not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Of a protocol: whose figure it is rather than how it was measured. Beside the figure, not in its column.
WHOSE = ("run", "step", "weights", "samples_are")
MOST = 60  # figures of one file


@dataclass(frozen=True)
class ReportedFigure:
    """One number. `whose`: which step, weights and samples were measured; `source`: the file it is from."""

    name: str
    mean: float
    standard_error: float | None
    unit: str
    meaning: str
    source: str
    protocol: Mapping[str, Any] = field(default_factory=dict)
    whose: Mapping[str, Any] = field(default_factory=dict)
    floor: Mapping[str, float] = field(
        default_factory=dict
    )  # the same of real pictures, by where they are from

    @property
    def column(self) -> tuple[str, ...]:
        """Equal for figures that may be compared."""
        protocol = json.dumps(self.protocol, sort_keys=True, default=str)
        return self.source, self.name, self.unit, self.meaning, protocol


def read_figures(source: str, content: Mapping[str, Any], about: Mapping[str, Any]) -> list[ReportedFigure]:
    """The figures of a task's JSON file: {"protocol": {...}, "figures": {name: {"mean": ..., "unit": ...}}}.

    What a figure says of itself beyond that is part of its protocol. A file without "figures" gives every
    number that it holds. `about` is added to all protocols.
    """
    protocol = content.get("protocol")
    if not isinstance(protocol, Mapping):
        return []
    whose = {key: protocol[key] for key in WHOSE if key in protocol}
    common = dict(about) | {key: value for key, value in protocol.items() if key not in WHOSE}
    named = content.get("figures")
    if not isinstance(named, Mapping):
        named = numbers({key: value for key, value in content.items() if key != "protocol"})
    return [
        made
        for name, entry in list(named.items())[:MOST]
        if (made := _figure(str(name), entry, source, common, whose)) is not None
    ]


def _figure(
    name: str, entry: Any, source: str, common: Mapping[str, Any], whose: Mapping[str, Any]
) -> ReportedFigure | None:
    if is_number(entry):
        return ReportedFigure(name, float(entry), None, "", "", source, common, whose)
    if not isinstance(entry, Mapping):
        return None
    key = "mean" if "mean" in entry else "value"
    if not is_number(entry.get(key)):
        return None
    mean, error, floor = float(entry[key]), entry.get("standard_error"), entry.get("floor")
    floor = floor if isinstance(floor, Mapping) else {}
    said = {key, "standard_error", "unit", "meaning", "protocol", "floor"}
    own = {name: value for name, value in entry.items() if name not in said}
    if isinstance(entry.get("protocol"), Mapping):
        own |= entry["protocol"]
    return ReportedFigure(
        name,
        mean,
        float(error) if error is not None and is_number(error) and math.isfinite(error) else None,
        str(entry.get("unit") or ""),
        str(entry.get("meaning") or ""),
        source,
        dict(common) | {name: value for name, value in own.items() if name not in WHOSE},
        whose,
        {str(name): float(value) for name, value in floor.items() if is_number(value)},
    )


def is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


def numbers(content: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists and words are left out."""
    out: dict[str, float] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and prefix.count(".") < 8:
            out |= numbers(value, f"{prefix}{key}.")
        elif is_number(value):
            out[f"{prefix}{key}"] = value
    return out


def columns(figures: Iterable[ReportedFigure]) -> list[ReportedFigure]:
    """One figure for each column that there is, in the order in which they come."""
    return list({figure.column: figure for figure in reversed(list(figures))}.values())[::-1]


def describe_protocol(protocol: Mapping[str, Any]) -> list[str]:
    """A protocol as a person would say it."""
    rest = dict(protocol)
    said = []
    if "split" in rest:
        said.append(f"{rest.pop('split')} split")
    if "images" in rest:
        said.append(f"{rest.pop('images')} images")
    levels = rest.pop("levels", None)
    if isinstance(rest.get("pictures"), str):
        said.append(str(rest.pop("pictures")))
    elif levels is not None:
        said.append(f"{levels} levels")
    if "seed" in rest:
        said.append(f"seed {rest.pop('seed')}")
    data, fingerprint = rest.pop("data", None), rest.pop("data_fingerprint", None)
    if data is not None or fingerprint is not None:
        said.append(f"data={data}" + (f" ({str(fingerprint)[:8]})" if fingerprint is not None else ""))
    return said + [f"{key}={value}" for key, value in rest.items() if value is not None]
