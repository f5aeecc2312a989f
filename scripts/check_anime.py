"""Draws a million faces, decodes each from its pixels alone, and counts those that come back changed.

    python scripts/check_anime.py --count 1000000 --sizes 32 64 --processes 2

Exits with 1 if any face was read wrongly: then two faces could look alike, and the entropy that
`gentrain.anime.ENTROPY_BITS` states would be too high.
"""

import argparse
import sys
import time
from multiprocessing import Pool

import numpy as np

from gentrain.anime import COMBINATIONS, ENTROPY_BITS, FACTORS, SIZES, combinations, decode, draw

CHUNK = 4096


def mistakes(job: tuple[int, int, int, int]) -> np.ndarray:
    """(size, seed, first, last) -> how often each factor was misread, and last the number of wrong faces."""
    size, seed, first, last = job
    factors_NF = combinations(np.arange(first, last), seed)
    wrong_NF = decode(draw(factors_NF, size)) != factors_NF
    return np.append(wrong_NF.sum(axis=0), wrong_NF.any(axis=1).sum())


def check(size: int, count: int, seed: int, processes: int) -> int:
    """Checks `count` faces at one size, says how it went, and returns the number of wrong faces."""
    jobs = [(size, seed, first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    totals, done, start = np.zeros(len(FACTORS) + 1, dtype=np.int64), 0, time.perf_counter()
    with Pool(processes) as pool:
        for job, wrong in enumerate(pool.imap_unordered(mistakes, jobs), start=1):
            totals += wrong
            if job * 10 // len(jobs) > done:
                done = job * 10 // len(jobs)
                seconds = time.perf_counter() - start
                print(f"size {size}: {10 * done} %, {totals[-1]} wrong, {seconds:.0f} s", flush=True)
    for f, factor in enumerate(FACTORS):
        if totals[f]:
            print(f"  {factor.name}: misread {totals[f]} times")
    return int(totals[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="faces at each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="pictures' sides in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the permutation that numbers the faces")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(f"{COMBINATIONS} combinations, {ENTROPY_BITS:.4f} bits a picture")
    wrong = {size: check(size, options.count, options.seed, options.processes) for size in options.sizes}
    for size, number in wrong.items():
        print(f"size {size}: {number} of {options.count} faces read wrongly")
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
