"""One run directory, read: nothing in it is trusted, and what cannot be read is said, not raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gentrain.comparison.figures import ReportedFigure, is_number, read_figures
from gentrain.config.registry import MODELS
from gentrain.config.schema import flat
from gentrain.runs.records import is_count, read_lines
from gentrain.runs.stored_config import read_config, with_newer
from gentrain.runs.training_cost import training_cost
from gentrain.runtime.stored_files import Missing, Unreadable, read_json_object

NOT_TASKS = ("checkpoints", "data", "samples", "reconstructions", "interpolation")

Points = list[tuple[float, float]]


@dataclass
class Run:
    """What a run directory holds; empty where it holds nothing, and `problems` say why."""

    path: Path
    label: str  # the path below what all runs have in common: unique
    config: dict[str, Any] = field(default_factory=dict)  # flat: {"model.name": "vae", ...}
    status: str = "unknown"
    step: int | None = None
    problems: list[str] = field(default_factory=list)
    figures: list[ReportedFigure] = field(default_factory=list)
    curves: dict[str, Points] = field(default_factory=dict)  # tag -> (step, value)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    sweep: str = ""  # the command of the sweep whose folder it lies in

    @property
    def family(self) -> str:
        return str(self.config.get("model.name", "?"))

    @property
    def data(self) -> str:
        return str(self.config.get("data.name", "?"))

    @property
    def group(self) -> tuple[str, str]:
        """The folder that it lies in and, of a sweep's run, the sweep's command."""
        if self.sweep:
            return str(self.path.parent), self.sweep
        command = str(self.sessions[0].get("command", "")) if self.sessions else ""
        swept = any(word in ("-m", "--multirun") for word in command.split())
        return str(self.path.parent), command if swept else ""


def read_run(path: Path, label: str) -> Run:
    run = Run(path, label)
    try:
        run.config = _read_config(run)
        meta = _read_json(run, "meta.json")
        sessions = meta.get("sessions")
        run.sessions = [s for s in sessions if isinstance(s, dict)] if isinstance(sessions, list) else []
        _read_result(run)
        run.sweep = str(_read_json(run, "../sweep.json").get("command", ""))
        lines = _read_metrics(run)
        run.curves = _curves(lines)
        run.figures = _validation(run, meta) + _cost(run, meta, lines)
        run.figures = _task_figures(run) + run.figures  # last: one of its files may be unreadable
    except OSError as error:
        run.problems.append(f"{error.filename} cannot be read: {error.strerror}")
    return run


def _read_config(run: Run) -> dict[str, Any]:
    try:
        config = with_newer(read_config(run.path))
    except Missing:
        run.problems.append("it has no config.yaml")
        return {}
    except Unreadable as error:
        run.problems.append(f"its config.yaml cannot be read: {error.fault}")
        return {}
    model = config.get("model")
    if not isinstance(model, dict) or "name" not in model:
        run.problems.append("its config.yaml is no config of a run: it names no model")
    return flat(config)


def _read_json(run: Run, name: str) -> dict[str, Any]:
    """An object, or {} if there is none; a file that is damaged is a problem."""
    try:
        return read_json_object(run.path / name)
    except Missing:
        return {}
    except Unreadable as error:
        run.problems.append(f"{name} cannot be read: {error.fault}")
        return {}


def _read_result(run: Run) -> None:
    result = _read_json(run, "result.json")
    run.status = str(result.get("status", "running or killed"))
    run.step = result["step"] if is_count(result.get("step")) else None


def _read_metrics(run: Run) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; the last one may be cut off, others are a problem."""
    file = run.path / "metrics.jsonl"
    if not file.exists() and not file.is_symlink():
        run.problems.append("it has no metrics.jsonl")
        return []
    try:
        lines, bad = read_lines(file)
    except Unreadable as error:
        run.problems.append(f"metrics.jsonl cannot be read: {error.fault}")
        return []
    if bad:
        run.problems.append(f"metrics.jsonl has {bad} lines that cannot be read")
    if run.step is None and lines:
        run.step = int(lines[-1]["step"])
    return lines


def _curves(lines: list[dict[str, Any]]) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for line in lines:
        for tag, value in line.items():
            if tag != "step" and is_number(value):
                curves.setdefault(tag, []).append((float(line["step"]), float(value)))
    return curves


def _task_figures(run: Run) -> list[ReportedFigure]:
    """Of evaluation.json and of every <task>/*.json, whichever tasks there are."""
    files = [run.path / "evaluation.json", *sorted(run.path.glob("*/*.json"))]
    figures = []
    for file in files:
        name = file.relative_to(run.path).as_posix()
        if file.parent == run.path or file.parent.name not in NOT_TASKS:
            figures += read_figures(name, _read_json(run, name), {"data": run.data})
    return figures


def _validation(run: Run, meta: Mapping[str, Any]) -> list[ReportedFigure]:
    """The last valid/... figures of training."""
    said = meta.get("data")
    data = said if isinstance(said, Mapping) else {}
    images = data.get("images")
    count = images.get("valid") if isinstance(images, Mapping) else None
    family = MODELS.get(run.family)
    kind = {"exact": "exact", "bound": "upper bound", None: ""}[family.likelihood if family else None]
    protocol = {
        "split": "valid", "images": count, "levels": run.config.get("data.levels", 256), "data": run.data,
        "data_fingerprint": data.get("fingerprint"),
    }  # fmt: skip
    if protocol["levels"] == 2:
        protocol["binarize"] = run.config.get("data.binarize")
    how = meta.get("measured")
    measured = how if isinstance(how, Mapping) else {}
    averaged = run.config.get("train.ema_halflife_images") is not None
    weights = "averaged weights" if averaged else "last weights"
    figures = []
    for tag, points in run.curves.items():
        if tag.startswith("valid/"):
            of_likelihood = tag in ("valid/bits_per_dim", "valid/nats")
            meaning = f"{kind}, during training" if of_likelihood and kind else "during training"
            unit = {"valid/bits_per_dim": "bits/dim", "valid/nats": "nats/image", "valid/psnr_db": "dB"}
            step, value = points[-1]
            whose = {"step": int(step), "weights": weights}
            own = protocol | ({"measured": str(measured[tag])} if tag in measured else {})
            figures.append(
                ReportedFigure(tag, value, None, unit.get(tag, ""), meaning, "metrics.jsonl", own, whose)
            )
    return figures


def _cost(run: Run, meta: Mapping[str, Any], lines: list[dict[str, Any]]) -> list[ReportedFigure]:
    """Parameters, and what training took where it ran."""
    figures = []
    if is_number(meta.get("parameters")):
        figures.append(ReportedFigure("parameters", meta["parameters"], None, "", "of all networks", "cost"))
    devices = {str(session.get("device", "?")): None for session in run.sessions}
    where = {"device": ", then ".join(devices)} if devices else {}
    batch_size = run.config.get("train.batch_size")
    cost = (
        training_cost(lines, float(batch_size)) if batch_size is not None and is_number(batch_size) else None
    )
    if cost is not None:
        meaning = "time in training steps alone, from the logged rates"
        figures.append(ReportedFigure("training_seconds", cost.seconds, None, "s", meaning, "cost", where))
        meaning = "median of the logged rates"
        rate = cost.images_per_second
        figures.append(ReportedFigure("images_per_second", rate, None, "images/s", meaning, "cost", where))
    return figures
