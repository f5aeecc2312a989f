"""Do several processes train as one does? Every family, small, in N gloo processes and in one.

    python scripts/processes_agree.py [--processes 2] [--steps 12] [--json]

Prints how far they are apart: losses over all steps, and weights at the end, in float32 and in float64, where
what is left is rounding; and figures of each validation picture, and samples. Exit status 1 if a loss is more
than 1e-5 apart in float64 (but for the case with batch statistics, which each process has of its own), or if
weights differ between the processes of a run, which must be equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from torch import Tensor

from gentrain.config import compose as composing
from gentrain.config.settings import Train
from gentrain.data.batches import Batches
from gentrain.data.build import preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.metrics.evaluate import evaluate_split
from gentrain.runtime import collectives, distributed
from gentrain.runtime.device import set_up
from gentrain.runtime.ranks import is_main
from gentrain.runtime.seeding import image_streams, seed_step
from gentrain.training.build import make_learner

SMALL = {
    "vae": ["model.latent_dim=3", "model.width=4", "model.hidden=8", "model.mixtures=2"],
    "ae": ["model.latent_dim=3", "model.width=4", "model.hidden=8"],
    "gsn": ["model.latent_dim=3", "model.width=4", "model.hidden=8", "model.sample_steps=3"],
    "gmm": ["model.components=2", "model.factors=1", "model.start=random"],
    "pixelcnn": ["model.width=4", "model.layers=2", "model.first_kernel=3", "model.head_width=8"],
    "pixelrnn": ["model.width=3", "model.layers=2", "model.first_kernel=3", "model.head_width=8"],
    "gan": [
        "model.latent_dim=4",
        "model.widths=[8,4]",
        "model.group_width=4",
        "model.alarm_every_steps=2",
        "model.alarm_after_steps=0",
    ],
}
ALL_AUGMENT = "model.augment=[color,translation,cutout]"
# What is beside the family's own settings: each draws noise of another kind, or is no plain mean.
CASES: dict[str, tuple[str, list[str]]] = {
    "vae": ("vae", []),
    "vae, free bits": ("vae", ["model.free_bits=0.02"]),
    "vae, free bits, in 2 parts": ("vae", ["model.free_bits=0.02", "train.accumulate_steps=2"]),
    "vae, in 2 parts, moved pictures": (
        "vae",
        ["train.accumulate_steps=2", "data.flip=true", "data.shift=1"],
    ),
    "vae, dynamic binarization": (
        "vae",
        ["data.levels=2", "data.binarize=dynamic", "model.likelihood=bernoulli"],
    ),
    "ae": ("ae", []),
    "ae, gaussian noise": ("ae", ["model.noise=gaussian", "model.noise_level=0.3"]),
    "ae, masking noise": ("ae", ["model.noise=masking", "model.noise_level=0.3"]),
    "gsn": ("gsn", ["model.walkback_steps=3"]),
    "gmm": ("gmm", []),
    "pixelcnn": ("pixelcnn", []),
    "pixelrnn": ("pixelrnn", []),
    "gan, r3gan (R1, R2)": ("gan", []),
    "gan, r3gan, in 2 parts, augmented": ("gan", ["train.accumulate_steps=2", ALL_AUGMENT]),
    "gan, wgan_gp, 2 critic steps": ("gan", ["model.loss=wgan_gp", "model.discriminator_steps=2"]),
    "gan, non_saturating": ("gan", ["model.loss=non_saturating"]),
    "gan, hinge": ("gan", ["model.loss=hinge"]),
    "gan, minimax": ("gan", ["model.loss=minimax"]),
    "gan, dcgan with batch statistics": (
        "gan",
        ["model.loss=non_saturating", "model.network=dcgan", "data.size=32"],
    ),
}
DIFFERENT = "gan, dcgan with batch statistics"
SIZE, BATCH, TRAINED_ON, VALID, SAMPLES = (
    8,
    8,
    50,
    21,
    5,
)  # chunks of the split and of samples come out uneven


def compose(case: str, steps: int) -> dict[str, Any]:
    family, more = CASES[case]
    overrides = [
        f"model={family}",
        *SMALL[family],
        f"data.size={SIZE}",
        "data=folder",
        f"train.max_steps={steps}",
        f"train.batch_size={BATCH}",
        "optimizer.warmup_steps=2",
        "device=cpu",
        "device.threads=1",
        *more,
    ]
    with hydra.initialize_config_dir(str(composing.CONFIG_DIR), version_base="1.3"):
        return composing.plain(hydra.compose("config", overrides))


def pictures(count: int, seed: int, size: int) -> np.ndarray:
    """Ramps with noise: uint8 (count, 3, size, size)."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(40, 200, (2, count, 3, 1, 1))
    slope = np.linspace(0, 1, size)[:, None]
    return (ends[0] + (ends[1] - ends[0]) * slope + rng.integers(0, 20, (count, 3, size, size))).astype(
        np.uint8
    )


def train(case: str, steps: int) -> dict[str, Any]:
    """One run, in this process's part of it: what is to be compared."""
    config = compose(case, steps)
    settings, seed, compute = Train(**config["train"]), config["seed"], set_up(config["device"])
    view = preprocessing_of(config["data"])
    learner = make_learner(config, compute)
    images, valid = (
        ImageSplit(pictures(count, number, config["data"]["size"]), view, compute.device)
        for number, count in enumerate((TRAINED_ON, VALID))
    )
    batches = Batches(images, settings.batch_size, seed, settings.accumulate_steps)
    losses, metrics = [], {}
    for step in range(steps):
        seed_step(seed, "train", step)
        metrics = learner.train_step(batches.at(step), step)
        losses.append(float(metrics["loss"]))
    figures = evaluate_split(learner.eval_step, valid, settings.batch_size, seed)
    noise = image_streams(SAMPLES, seed, "sample")
    weights = torch.cat([value.double().reshape(-1) for value in _tensors(learner.parts)])
    everywhere = collectives.all_gather(weights)
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "weights": weights,
        "equal_in_all": all(torch.equal(weights, other) for other in everywhere),
        "figures": figures,
        "samples": distributed.sample(learner.sample, SAMPLES, noise).clone(),
    }


def _tensors(parts: dict[str, Any]) -> list[Tensor]:
    """The weights and averages; optimizers' states are of another scale."""
    states = [parts[name].state_dict() for name in ("model", "ema") if name in parts]
    return [value for state in states for value in state.values()]


def in_float64() -> None:
    """All of gentrain computes in float64 from now on: only for a comparison such as this one."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    for name, module in list(sys.modules.items()):
        if name.startswith("gentrain.") and "to_unit" in vars(module):
            vars(module)["to_unit"] = lambda x, levels: x.double().mul(2 / (levels - 1)).sub(1)


def as_process(folder: Path, steps: int) -> None:
    """What each child does: all cases, in float32 and then in float64."""
    with collectives.process_group("cpu"):
        for precision in ("float32", "float64"):
            if precision == "float64":
                in_float64()
            results = {case: train(case, steps) for case in CASES}
            if is_main():
                torch.save(results, folder / f"{precision}.pt")


def launch(processes: int, steps: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    """As torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return [
        subprocess.Popen(
            [sys.executable, __file__, "--steps", str(steps), "--child", str(folder)],
            env=os.environ
            | {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()},
        )
        for rank in range(processes)
    ]


def compare(one: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    def apart(left: Tensor, right: Tensor) -> float:
        return (left - right).abs().max().item()

    return {
        "loss": apart(one["losses"], many["losses"]),
        "weights": apart(one["weights"], many["weights"]),
        "figures": max(apart(one["figures"][name], many["figures"][name]) for name in one["figures"]),
        "metrics": max(abs(one["metrics"][name] - many["metrics"][name]) for name in one["metrics"]),
        "same_names": one["metrics"].keys() == many["metrics"].keys(),
        "equal_in_all": many["equal_in_all"],
        "sample_values_that_differ": int((one["samples"] != many["samples"]).sum()),
        "sample_values": one["samples"].numel(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="the differences as JSON")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        as_process(args.child, args.steps)
        return 0
    with tempfile.TemporaryDirectory() as made:
        folders = [Path(made) / "one", Path(made) / "many"]
        for folder, processes in zip(folders, (1, args.processes), strict=True):
            statuses = [child.wait() for child in launch(processes, args.steps, folder)]
            if any(statuses):
                raise SystemExit("a process failed")
        found = {
            precision: {
                case: compare(
                    *(torch.load(folder / f"{precision}.pt", weights_only=True)[case] for folder in folders)
                )
                for case in CASES
            }
            for precision in ("float32", "float64")
        }
    print(json.dumps(found) if args.json else table(found, args.processes, args.steps))
    rows = [row for rows in found.values() for row in rows.values()]
    close = all(row["loss"] <= 1e-5 for case, row in found["float64"].items() if case != DIFFERENT)
    return 0 if close and all(row["equal_in_all"] for row in rows) else 1


def table(found: dict[str, dict[str, dict[str, Any]]], processes: int, steps: int) -> str:
    lines = [
        f"{processes} processes against one, {steps} steps, batch {BATCH}; largest differences",
        "",
        "| | loss, float32 | loss, float64 | weights, float64 | figures of a picture, float64 | samples |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        single, double = found["float32"][case], found["float64"][case]
        differ, of = double["sample_values_that_differ"], double["sample_values"]
        lines.append(
            f"| {case} | {single['loss']:.1e} | {double['loss']:.1e} | {double['weights']:.1e} "
            f"| {double['figures']:.1e} | {f'{differ} of {of} values differ' if differ else 'equal'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
