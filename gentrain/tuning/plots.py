"""Optuna's plots in one page that needs no network: plotly's JavaScript is in it."""

from __future__ import annotations

import html
import warnings

from optuna import Study, visualization
from optuna.trial import TrialState
from plotly.graph_objects import Figure

from gentrain.runtime.files import write_atomically
from gentrain.tuning.search import Search

STYLE = "body { font: 16px sans-serif; margin: 2em auto; max-width: 70em; color: #223 } p { color: #556 }"
ENOUGH = 2  # finished trials for plots that compare them


def write_plots(search: Search, study: Study) -> bool:
    """<tune.dir>/tune.html; False, and nothing is written, while no trial is finished or pruned."""
    trials, metric = study.get_trials(deepcopy=False), search.metric
    finished = sum(trial.state == TrialState.COMPLETE for trial in trials)
    if not any(trial.intermediate_values or trial.state == TrialState.COMPLETE for trial in trials):
        return False
    figures = [
        _titled(visualization.plot_intermediate_values(study), f"{metric} of each trial while it trains")
    ]
    if finished:
        history = visualization.plot_optimization_history(study, target_name=metric)
        figures.insert(0, _titled(history, f"{metric} of finished trials, and the best so far"))
        slices = visualization.plot_slice(study, target_name=metric)
        figures.append(_titled(slices, f"{metric} of finished trials against each setting"))
    if finished >= ENOUGH and len(search.space) > 1:
        lines = visualization.plot_parallel_coordinate(study, target_name=metric)
        figures.append(_titled(lines, f"{metric} of finished trials with all their settings"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = visualization.plot_param_importances(study, target_name=metric)
        figures.append(_titled(shares, f"what {metric} depends on (PED-ANOVA, arXiv 2304.10255)"))
    figures.append(_titled(visualization.plot_timeline(study), "when each trial ran"))
    name = html.escape(search.directory.name)
    counted = f"{len(trials)} trials, {finished} finished; {metric}, {search.settings.direction}"
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0) for number, figure in enumerate(figures)
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE}</style></head><body><h1>{name}</h1><p>{html.escape(counted)}</p>"
        f"{''.join(parts)}</body></html>\n"
    )
    write_atomically(search.directory / "tune.html", page.encode())
    return True


def _titled(figure: Figure, title: str) -> Figure:
    return figure.update_layout(title=title)
