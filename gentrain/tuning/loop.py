"""The loop of a search: claim a trial, train it, tell, write down where the study stands."""

from __future__ import annotations

from optuna.trial import TrialState
from rich.console import Console

from gentrain.data.build import open_data
from gentrain.errors import Interrupted, RunFailed, UserError
from gentrain.runtime.console import preparing, say
from gentrain.runtime.files import still_there
from gentrain.tuning.plots import write_plots
from gentrain.tuning.report import STATES, best_of, print_study, write_reports
from gentrain.tuning.search import Search, typed
from gentrain.tuning.store import Claimed, Store
from gentrain.tuning.trial import carry_out


def search_on(search: Search, console: Console, config_dir: str | None) -> None:
    """Until no trial is left to take: others may still be running in other processes.

    Raises Interrupted, or RunFailed if too many trials in a row have failed in this process.
    """
    with preparing(console) as progress:
        data = open_data(search.config["data"], progress)  # what is wrong with the pictures fails no trial
    if not data.counts["valid"]:
        raise UserError("task=tune compares trials on the validation split; set data.held_out above 0")
    store = Store(search)
    store.check_pictures(data.fingerprint)
    say(console, f"study: {search.directory}; {search.metric}, {search.settings.direction}")
    if search.settings.pruner != "none" and not _evaluates_on_the_way(search):
        say(
            console,
            "nothing is evaluated before a trial's end, so none is pruned: see train.eval_every_steps",
        )
    with still_there(search.directory):
        _take_trials(search, store, console, config_dir)


def _take_trials(search: Search, store: Store, console: Console, config_dir: str | None) -> None:
    failures = 0
    try:
        while failures < search.settings.failures_in_a_row and (claimed := store.next_trial()):
            _announce(search, store, claimed, console)
            try:
                carry_out(search, store, claimed.trial)
            finally:
                claimed.lock.release()
            ended = store.trials()[claimed.trial.number]
            why = f": {ended.user_attrs['why']}" if "why" in ended.user_attrs else ""
            say(console, f"trial {ended.number} {STATES[ended.state]}{why}\n")
            failures = failures + 1 if ended.state == TrialState.FAIL else 0
            write_reports(search, store, config_dir)
    except Interrupted:
        say(console, "the search goes on, this trial too, with the same command")
        raise
    write_reports(search, store, config_dir)
    with store.alone():
        plotted = write_plots(search, store.study)
    print_study(search, store, console, config_dir)
    files = ["study.json", "trials.csv", *(["tune.html"] if plotted else [])]
    say(console, f"written to {search.directory}: {', '.join(files)}")
    if failures >= search.settings.failures_in_a_row:
        raise RunFailed(f"{failures} trials in a row have failed, so the search was stopped; the last{why}")


def _announce(search: Search, store: Store, claimed: Claimed, console: Console) -> None:
    trial, best = claimed.trial, best_of(store.trials(), search)
    settings = " ".join(typed(key, value) for key, value in search.values_of(trial.params).items())
    again = " goes on" if claimed.resumed else ""
    so_far = "" if best is None else f"; best so far {best.value:.6g} (trial {best.number})"
    say(console, f"trial {trial.number} of {search.trials}{again}: {settings}{so_far}")


def _evaluates_on_the_way(search: Search) -> bool:
    every = search.config["train"]["eval_every_steps"]
    return every is not None and every < search.config["train"]["max_steps"]
