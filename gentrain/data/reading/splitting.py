"""Which picture is in which split: decided by a hash of its pixels, so that it stays when others come.

Equal pictures have equal hashes and so are never in two splits. A split that a source brings itself is
kept; what is held out beside it is carved from the training pictures, never from the test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gentrain.data.reading.entries import SPLITS
from gentrain.errors import UserError

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)  # to be advised where splits would be empty
TRAIN, VALID, TEST, ANY = 0, 1, 2, -1  # what a source says of a picture; ANY: nothing


@dataclass(frozen=True)
class Split:
    """The rows of each split, in the order of their hashes, train first."""

    order: np.ndarray  # (n,) row numbers
    counts: dict[str, int]
    facts: dict[str, int]


def refuse_lost(homes: set[int], given_N: np.ndarray | None, what: str) -> None:
    """UserError if every picture of one of the source's own splits was bad: it would be carved anew."""
    for home in homes - set(given_N.tolist() if given_N is not None else ()):
        raise UserError(f"{what} has a {SPLITS[home]} split of its own, of which no picture can be used")


def split(
    hashes_N: np.ndarray, given_N: np.ndarray | None, held_out: float, count: int | None, what: str
) -> Split:
    """By 64-bit hashes. `held_out` is the share of the validation split, and again of the test split.

    0 carves none: what the source does not bring itself is then empty. `count` is the number of training
    pictures at most. `what` names the data in a UserError, which is raised if another split would be empty.
    """
    given_N = np.full(len(hashes_N), ANY) if given_N is None else given_N
    rows, left_out = _rows(hashes_N, given_N, held_out)
    wanted = [True, held_out > 0 or (given_N == VALID).any(), held_out > 0 or (given_N == TEST).any()]
    for name, chosen, needed in zip(SPLITS, rows, wanted, strict=True):
        if needed and len(chosen) == 0:
            raise UserError(_empty(hashes_N, given_N, name, what))
    rows[TRAIN] = rows[TRAIN][:count]
    chosen = np.concatenate(rows)
    counts = {name: len(part) for name, part in zip(SPLITS, rows, strict=True)}
    duplicates = len(chosen) - len(np.unique(hashes_N[chosen]))
    return Split(chosen, counts, {"duplicates": duplicates, "left_out": left_out})


def _rows(hashes_N: np.ndarray, given_N: np.ndarray, held_out: float) -> tuple[list[np.ndarray], int]:
    """The rows of each split, and how many are left out because an equal picture is held out."""
    order = np.argsort(hashes_N, kind="stable")
    shares, home = hashes_N[order] / 2.0**64, given_N[order]
    movable = np.isin(home, (ANY, TRAIN))
    home = np.where(movable, TRAIN, home)
    if not (home == TEST).any():
        home[movable & (shares < held_out)] = TEST
    if not (home == VALID).any():
        home[movable & (held_out <= shares) & (shares < 2 * held_out)] = VALID
    hashes = hashes_N[order]
    leaks = (home == TRAIN) & np.isin(hashes, hashes[home != TRAIN])
    leaks |= (home == VALID) & np.isin(hashes, hashes[home == TEST])
    return [order[(home == number) & ~leaks] for number in range(len(SPLITS))], int(leaks.sum())


def _empty(hashes_N: np.ndarray, given_N: np.ndarray, name: str, what: str) -> str:
    """What to type when no picture falls into a split."""
    said = f"{what} has {len(hashes_N)} usable pictures, and none of them falls into the {name} split; "
    choices = []
    for share in SHARES:
        rows, _ = _rows(hashes_N, given_N, share)
        if all(len(part) for part in rows):
            counts = ", ".join(f"{len(part)} {split}" for split, part in zip(SPLITS, rows, strict=True))
            choices.append(f"data.held_out={share} ({counts})")
            break
    if len(_rows(hashes_N, given_N, 0)[0][TRAIN]):
        choices.append("data.held_out=0 (all to train on; nothing is then validated or tested)")
    return said + " or ".join([*(["type " + " or ".join(choices)] if choices else []), "add more pictures"])
