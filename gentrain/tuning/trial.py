"""One trial: an ordinary training run, judged by the study's pruner after each evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import Trial, TrialState

from gentrain.errors import Busy, RunFailed, UserError
from gentrain.runs.records import METRICS, read_metrics, read_result
from gentrain.runs.rundir import RunDir
from gentrain.runtime.files import of_the_machine
from gentrain.training import run
from gentrain.tuning.search import Search
from gentrain.tuning.store import Store


class NoSuchFigure(UserError):
    """The metric is none that this model measures: no trial of the search could do better."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: TrialState
    value: float | None = None
    why: str = ""  # it failed, in a sentence


@dataclass(frozen=True)
class StudyPruner:
    """What the training loop asks after each evaluation; see gentrain.training.trainer.ShouldPrune."""

    trial: Trial
    metric: str
    family: str

    def __call__(self, step: int, figures: Mapping[str, float]) -> bool:
        if self.metric not in figures:
            has = ", ".join(figures) or "no such figure"
            raise NoSuchFigure(
                f"tune.metric={self.metric} is not measured during training of model={self.family}, "
                f"which has {has}; remove the study and search for one of these"
            )
        told = self.trial.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values
        if step < max(told, default=0):
            return False  # a resumed run, evaluated again to the same bits: it was let pass here before
        if step not in told:
            self.trial.report(figures[self.metric], step)
        return self.trial.should_prune()


def carry_out(search: Search, store: Store, trial: Trial) -> None:
    """Train a trial, on from where it stands, and tell the study how it ended.

    Raises Interrupted if the user stopped it, RunFailed if the disk is full, NoSuchFigure or Busy: then the
    trial is left to be gone on with.
    """
    run_dir = store.run_dir(trial.number, trial.params)
    outcome = _ended(run_dir, search.metric) or _trained(search, trial, run_dir)
    result = RunDir(run_dir).read_result() if run_dir.is_dir() else {}
    trial.set_user_attr("step", result.get("step", 0))
    trial.set_user_attr("run_dir", str(run_dir.name))
    if outcome.why:
        trial.set_user_attr("why", outcome.why)
    store.study.tell(trial.number, outcome.value, outcome.state)


def _trained(search: Search, trial: Trial, run_dir: Path) -> Outcome:
    overrides = search.typed(trial.params)
    try:
        config = search.trial_config(trial.params, run_dir)
        run.run(config, overrides, StudyPruner(trial, search.metric, config["model"]["name"]))
    except (NoSuchFigure, Busy):  # a person may have just resumed the trial by hand: it has not failed
        raise
    except (UserError, RunFailed) as error:
        if of_the_machine(error):
            raise
        return Outcome(TrialState.FAIL, why=str(error))
    outcome = _ended(run_dir, search.metric)
    assert outcome is not None, f"{run_dir} was trained, but does not say how it ended"
    return outcome


def _ended(run_dir: Path, metric: str) -> Outcome | None:
    """How a run ended, from its own files; None if it has not ended, or failed and may be tried again."""
    result = read_result(run_dir)
    if not result:
        return None
    if result["status"] == "pruned":
        return Outcome(TrialState.PRUNED)
    if result["status"] != "finished":
        return None
    last = read_metrics(run_dir / METRICS, result["step"])
    value = next((line[metric] for line in reversed(last) if metric in line), math.nan)
    if not math.isfinite(value):
        return Outcome(TrialState.FAIL, why=f"{metric} is {value} at its end")
    return Outcome(TrialState.COMPLETE, value)
