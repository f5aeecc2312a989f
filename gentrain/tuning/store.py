"""A study on disk, shared by processes that know of each other only through it.

Whoever decides what comes next holds the study's lock; whoever trains a trial holds that trial's lock until
the process ends, however it ends. All of them are locks of the kernel's, as run directories have: those of a
killed process are gone with it, while Optuna's own lock files stand for 30 seconds until they are broken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import optuna
from optuna.exceptions import OptunaError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial
from sqlalchemy.exc import SQLAlchemyError

from gentrain.data.fingerprints import difference
from gentrain.errors import UserError
from gentrain.runtime.files import remove_half_written
from gentrain.runtime.seeding import derive
from gentrain.runtime.stored_files import check_lock
from gentrain.tuning.search import FILE, Search, check_directory
from gentrain.tuning.space import MOST, Choices, Scalar

NAME = "study"
PICTURES = "data_fingerprint"  # of the study's attributes
FILES = {"journal": "study.journal", "sqlite": "study.sqlite"}
# What Optuna and its stores raise for a file that they have not written, or not so.
NOT_A_STUDY = (
    SQLAlchemyError, OptunaError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    RecursionError,
)  # fmt: skip
SQLITE_PATIENCE_S = 60  # to wait for another process's transaction


@dataclass(frozen=True)
class Claimed:
    """A trial that this process alone may train."""

    trial: Trial
    lock: filelock.BaseFileLock
    resumed: bool  # another process had begun it


class Store:
    """The study of a search, made if there is none."""

    def __init__(self, search: Search) -> None:
        self.search = search
        try:
            search.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"tune.dir={search.directory} cannot be made: {error.strerror}") from error
        self._lock = filelock.FileLock(search.directory / ".lock")
        with self.alone():
            check_directory(search)  # once more: another process may just have made it
            if not (search.directory / FILE).is_file():
                search.record()  # first: a folder without it is no study, whatever was left in it
            file = search.directory / FILES[search.settings.store]
            try:
                self._storage = _open(file)
                self.study = optuna.create_study(
                    storage=self._storage,
                    sampler=RandomSampler(),  # for all but asking, where it has no say
                    pruner=_pruner(search),
                    study_name=NAME,
                    direction=search.settings.direction,
                    load_if_exists=True,
                )
                self.trials()  # all of them, before any is trained
            except NOT_A_STUDY as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{file} cannot be read as the store of a study ({type(error).__name__}: {reason}); "
                    "put it right, or choose another tune.name or tune.dir"
                ) from error

    def check_pictures(self, fingerprint: str) -> None:
        """Raise UserError if the study's trials are measured on other pictures."""
        with self.alone():
            known = self.study.user_attrs.get(PICTURES)
            if known is None:
                self.study.set_user_attr(PICTURES, fingerprint)
            elif (changed := difference(known, fingerprint)) is not None:
                name = self.search.config["data"]["name"]
                raise UserError(
                    f"the {changed} of data={name} are not those of the study in {self.search.directory}, so "
                    "figures cannot be compared; choose another tune.name or tune.dir for a new one"
                )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else decides, or writes the study's reports, meanwhile."""
        check_lock(self.search.directory / ".lock")
        with self._lock:
            remove_half_written(self.search.directory)
            yield

    def trials(self) -> list[FrozenTrial]:
        """All of them by number, as they are on disk now."""
        return self.study.get_trials(deepcopy=False)

    def next_trial(self) -> Claimed | None:
        """One that a process left behind when it ended, or a new one; None if all are taken or done."""
        with self.alone():
            trials = self.trials()
            for trial in trials[: self.search.trials]:
                if not trial.state.is_finished() and (lock := self._own(trial)) is not None:
                    return Claimed(self._asked(trial.number), lock, resumed=True)
            if len(trials) >= self.search.trials:
                return None
            made = self._asked(None)
            lock = self._try(self._lock_file(made.number))
            assert lock is not None, "a new trial has no other owner"
            return Claimed(made, lock, resumed=False)

    def is_running(self, trial: FrozenTrial) -> bool:
        """Whether some process trains it now. For who holds the study's lock: it tries the trial's own."""
        lock = self._own(trial)
        if lock is not None:
            lock.release()
        return lock is None

    def run_dir(self, number: int, params: Mapping[str, Scalar]) -> Path:
        """Where a trial's run is: its number, and its settings for who looks at the folder."""
        said = [f"{key.rpartition('.')[2]}_{_short(value)}" for key, value in params.items()]
        name = re.sub(r"[^\w.+-]", "_", "-".join([f"trial_{number:04d}", *said]))
        return self.search.directory / name[:100]

    def _own(self, trial: FrozenTrial) -> filelock.BaseFileLock | None:
        """The trial's lock if no process has it, nor its run directory's (someone resumes it by hand)."""
        lock = self._try(self._lock_file(trial.number))
        run = self.run_dir(trial.number, trial.params)
        if lock is None or not run.is_dir():
            return lock
        by_hand = self._try(run / ".lock")
        if by_hand is None:
            lock.release()
            return None
        by_hand.release()
        return lock

    def _try(self, path: Path) -> filelock.BaseFileLock | None:
        try:
            path.parent.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise UserError(
                f"{path.parent} is no folder, and the study keeps its locks there; remove it"
            ) from error
        check_lock(path)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return None
        return lock

    def _lock_file(self, number: int) -> Path:
        return self.search.directory / "locks" / f"trial_{number:04d}"

    def _asked(self, number: int | None) -> Trial:
        """A new trial, or that of a number, with a value for everything that is searched.

        A new sampler each time, seeded from the trial's number: two processes do not draw the same.
        """
        expected = len(self.trials()) if number is None else number
        self.study.sampler = _sampler(self.search, expected)
        if number is None:
            trial = self.study.ask()
        else:
            study_id = self._storage.get_study_id_from_name(NAME)
            trial = Trial(self.study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))
        for key, values in self.search.space.items():
            if isinstance(values, Choices):
                trial.suggest_categorical(key, list(values.by_label))
            elif values.whole:
                step = 1 if values.step is None else int(values.step)
                trial.suggest_int(key, int(values.low), int(values.high), step=step, log=values.log)
            else:
                trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
        self.study.sampler = RandomSampler()
        return trial


def _short(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _open(file: Path) -> BaseStorage:
    """The store, made if there is none. For who holds the study's lock. Unreadable if it is no file."""
    check_lock(file)
    check_lock(file.with_name(f"{file.name}.lock"))
    if file.suffix == ".sqlite":
        return RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": SQLITE_PATIENCE_S}})
    return JournalStorage(JournalFileBackend(str(file), _KernelLock(file)))  # type: ignore[arg-type]


def _cut_off_half_a_line(file: Path) -> None:
    """What a full disk or a power cut leaves at the end would join the next line to it."""
    with file.open("r+b") as opened:
        end = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, end - 1))
        if opened.read() not in (b"", b"\n"):
            opened.seek(0)
            opened.truncate(opened.read().rfind(b"\n") + 1)


class _KernelLock:
    """What Optuna asks of a lock, on filelock: nobody has to guess whether its owner still lives.

    Taken for each writing, and then the file ends with a whole line.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = filelock.FileLock(f"{file}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        _cut_off_half_a_line(self._file)
        return True

    def release(self) -> None:
        self._lock.release()


def _sampler(search: Search, number: int) -> BaseSampler:
    settings, seed = search.settings, derive(search.settings.seed, "tune", number) % 2**32
    if settings.sampler == "grid":
        # One shuffled list, the same for all: trial n takes its nth combination.
        grid = {key: values.first(MOST) for key, values in search.space.items()}
        return GridSampler(grid, seed=settings.seed % 2**32)
    if settings.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(n_startup_trials=settings.startup_trials, seed=seed, constant_liar=True)


def _pruner(search: Search) -> BasePruner:
    settings = search.settings
    if settings.pruner == "median":
        return MedianPruner(settings.prune_after_trials, settings.prune_after_steps)
    if settings.pruner == "halving":
        # Rungs before the first evaluation would all be climbed in it, each with one in so many left.
        first = max(settings.prune_after_steps, search.config["train"]["eval_every_steps"] or 1)
        return SuccessiveHalvingPruner(first, settings.reduction_factor)
    return NopPruner()
