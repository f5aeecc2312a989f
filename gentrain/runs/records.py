"""What a run says of itself beside its config: meta.json, result.json, metrics.jsonl. One reader for each.

A file that is not there is empty. Everything else that is not what a run wrote is Unreadable, except lines of
metrics.jsonl: a run that was killed leaves half of one. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gentrain.runtime.stored_files import Missing, Unreadable, parse_json, read_bytes, read_json_object

META, RESULT, METRICS = "meta.json", "result.json", "metrics.jsonl"
LARGEST_METRICS = 2**31  # bytes: ten million lines
LARGEST_STEP = 10**18
WITHOUT = "; remove it, and the run goes on without"


def read_meta(run: Path) -> dict[str, Any]:
    """At least "sessions", a list of objects. Raises Unreadable."""
    file = run / META
    meta = _read(file, {"sessions": []})
    sessions = meta.get("sessions")
    if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
        raise Unreadable(file, f"its sessions are no list of objects{WITHOUT}")
    for session in sessions:
        if "processes" in session and not is_count(session["processes"]):
            raise Unreadable(file, f"a session's processes are no whole number{WITHOUT}")
    if not isinstance(meta.get("measured", {}), dict):
        raise Unreadable(file, f"what was measured is no object{WITHOUT}")
    return meta


def read_result(run: Path) -> dict[str, Any]:
    """Status (text), step and metrics (numbers by name), or nothing. Raises Unreadable."""
    file = run / RESULT
    result = _read(file, {})
    if not result:
        return {}
    if not isinstance(result.get("status"), str):
        raise Unreadable(file, f"its status is no text{WITHOUT}")
    if not is_count(result.get("step")):
        raise Unreadable(file, f"its step is no whole number{WITHOUT}")
    if not isinstance(result.get("metrics", {}), dict):
        raise Unreadable(file, f"its metrics are no object{WITHOUT}")
    return result | {"metrics": numbers_of(result.get("metrics", {}))}


def read_metrics(file: Path, up_to_step: int = LARGEST_STEP) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl up to a step: {"step": int, name: float}. Raises Unreadable."""
    lines, _ = read_lines(file)
    return [line for line in lines if line["step"] <= up_to_step]


def read_lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a metrics.jsonl that can be used, and how many cannot, not counting a last half one.

    What is no number is left out of a line; a null is one that was not finite. Raises Unreadable.
    """
    try:
        texts = read_bytes(file, LARGEST_METRICS).decode(errors="replace").splitlines()
    except Missing:
        return [], 0
    lines, bad = [], 0
    for number, text in enumerate(texts):
        try:
            line = parse_json(text)
        except ValueError:
            bad += number + 1 < len(texts)
            continue
        if isinstance(line, dict) and is_count(line.get("step")):
            lines.append({"step": line["step"]} | numbers_of(line))
        else:
            bad += 1
    return lines, bad


def numbers_of(content: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an object but for its step. JSON has no NaN and no infinity: a null stands for them."""
    made: dict[str, float] = {}
    for key, value in content.items():
        if value is None:
            made[key] = math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            made[key] = value if abs(value) < 2**63 else float(value)
    made.pop("step", None)
    return made


def is_count(value: Any) -> bool:
    """A whole number from 0 on that is no nonsense for a step."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_STEP


def check_records(run: Path) -> None:
    """Raise Unreadable, before anything is written, for what would stop a run that goes on in `run`."""
    read_meta(run)
    read_result(run)
    with suppress(Missing):
        read_bytes(run / METRICS, LARGEST_METRICS, tail=0)


def _read(file: Path, empty: dict[str, Any]) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except Missing:
        return empty
    except Unreadable as error:
        raise Unreadable(file, f"{error.fault}{WITHOUT}") from error
