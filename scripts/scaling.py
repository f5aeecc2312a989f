"""Training with G processes: measured here with two, and calculated for more (docs/scaling.md).

    python scripts/scaling.py measure [--seconds 5] [--rounds 2] [--json FILE]
    python scripts/scaling.py predict --step-ms 50 --parameters 41.4 --gpus 8 --machines 4 --within 300

measure: under 5 minutes of two idle cores. Steps of vae, pixelcnn and gan at their default settings on random
pictures, by one process with one thread, by one with two threads, by one with one thread and half of the
batch, and by two gloo processes with one thread each; and how long an all-reduce of so many bytes takes. From
the half batch and the all-reduce the two processes are predicted.
predict: the same model for other numbers of GPUs and machines. Bandwidths, in GB/s, are yours to measure.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
import torch.distributed as dist

from gentrain.config import compose as composing
from gentrain.config.settings import Train
from gentrain.data.batches import Batches
from gentrain.data.build import image_shape, preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.runs.rundir import versions
from gentrain.runtime import collectives
from gentrain.runtime.device import set_up
from gentrain.runtime.ranks import is_main, world_size
from gentrain.runtime.seeding import seed_step
from gentrain.training.build import make_learner

MODELS = ("vae", "pixelcnn", "gan")
MESSAGES = tuple(4 * 4**power for power in range(1, 13))  # bytes: 16 B .. 64 MiB
WARM_STEPS = 3
PICTURES = 1000


# ---- the model


@dataclass(frozen=True)
class Links:
    """What all-reduces run over. Bytes a second and seconds a message."""

    within: float  # between GPUs of one machine
    between: float  # between machines: what all GPUs of one have together
    latency: float


def all_reduce_seconds(size: float, gpus: int, machines: int, links: Links) -> float:
    """A ring over G = gpus * machines: 2 (G - 1) messages of size / G, over the slowest link of the ring."""
    world = gpus * machines
    if world == 1:
        return 0.0
    bandwidth = links.between if machines > 1 else links.within
    return 2 * (world - 1) * (size / world / bandwidth + links.latency)


def step_seconds(
    compute: float, size: float, gpus: int, machines: int, links: Links, reduces: int = 1
) -> float:
    """`compute`: of one process's share of the batch. Gradients are sent when all are there: no overlap."""
    return compute + reduces * all_reduce_seconds(size / reduces, gpus, machines, links)


# ---- measuring


def compose(model: str, batch_size: int | None) -> dict[str, Any]:
    threads = f"device.threads={os.environ['OMP_NUM_THREADS']}"  # else each takes its share of the cores
    overrides = [f"model={model}", "device=cpu", threads, "train.max_steps=100000"]
    if batch_size is not None:
        overrides.append(f"train.batch_size={batch_size}")
    with hydra.initialize_config_dir(str(composing.CONFIG_DIR), version_base="1.3"):
        return composing.plain(hydra.compose("config", overrides))


def time_steps(model: str, halved: bool, seconds: float) -> dict[str, Any]:
    """Milliseconds of each step, in this process, for about so long; as many steps in all processes."""
    batch_size = compose(model, None)["train"]["batch_size"]
    config = compose(model, batch_size // 2 if halved else None)
    settings, seed, compute = Train(**config["train"]), config["seed"], set_up(config["device"])
    learner, shape = make_learner(config, compute), image_shape(config["data"])
    torch.manual_seed(0)
    pictures = torch.randint(256, (PICTURES, *shape.chw), dtype=torch.uint8).numpy()
    batches = Batches(
        ImageSplit(pictures, preprocessing_of(config["data"]), compute.device), settings.batch_size, seed
    )

    def take(step: int) -> float:
        begun = time.perf_counter()
        seed_step(seed, "train", step)
        learner.train_step(batches.at(step), step)
        return time.perf_counter() - begun

    warm = [take(step) for step in range(WARM_STEPS)]
    steps = max(5, round(seconds / collectives.all_reduce_max(min(warm))[0]))
    taken = [take(WARM_STEPS + step) * 1e3 for step in range(steps)]
    parameters = sum(p.numel() for p in learner.parts["model"].parameters())  # type: ignore[attr-defined]
    return {"ms": taken, "batch_size": settings.batch_size, "parameters": parameters}


def time_all_reduces() -> dict[str, float]:
    """Median seconds of an all-reduce by its bytes."""
    found = {}
    for size in MESSAGES:
        values = torch.zeros(size // 4)
        times = []
        for _ in range(30 if size < 2**22 else 8):
            collectives.barrier()
            begun = time.perf_counter()
            dist.all_reduce(values)
            times.append(time.perf_counter() - begun)
        found[str(size)] = statistics.median(times)
    return found


def as_process(file: Path, halved: bool, seconds: float) -> None:
    with collectives.process_group("cpu"):
        found: dict[str, Any] = {model: time_steps(model, halved, seconds) for model in MODELS}
        if world_size() > 1:
            found["all_reduce"] = time_all_reduces()
        if is_main():
            file.write_text(json.dumps(found))


def launch(processes: int, threads: int, halved: bool, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        file = Path(folder) / "found.json"
        command = [sys.executable, __file__, "measure", "--seconds", str(seconds), "--child", str(file)]
        shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        children = []
        for rank in range(processes):
            own = {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": threads, **shared}
            environment = os.environ | {name: str(value) for name, value in own.items()}
            children.append(subprocess.Popen(command + ["--halved"] * halved, env=environment))
        if any([child.wait() != 0 for child in children]):  # noqa: C419 - all of them are waited for
            raise SystemExit("a process failed")
        return json.loads(file.read_text())


WAYS = {
    "1 process, 1 thread": (1, 1, False),
    "1 process, 2 threads": (1, 2, False),
    "1 process, 1 thread, half batch": (1, 1, True),
    "2 processes, 1 thread each": (2, 1, False),
}


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """Medians over the steps of all rounds, in which the ways take turns."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, (processes, threads, halved) in WAYS.items():
            found[way].append(launch(processes, threads, halved, seconds))
    reduces = [each["all_reduce"] for each in found["2 processes, 1 thread each"]]
    return {
        "machine": {"cpus": os.cpu_count(), **versions()},
        "steps": {
            model: {
                way: {
                    "ms": statistics.median([ms for each in runs for ms in each[model]["ms"]]),
                    "steps": sum(len(each[model]["ms"]) for each in runs),
                    "batch_size": runs[0][model]["batch_size"],
                    "parameters": runs[0][model]["parameters"],
                }
                for way, runs in found.items()
            }
            for model in MODELS
        },
        "all_reduce": {size: statistics.median(each[size] for each in reduces) for size in reduces[0]},
    }


def links_of(all_reduce: dict[str, float]) -> Links:
    """Latency from the smallest message, bandwidth from the largest; between two processes, G = 2."""
    sizes = sorted(all_reduce, key=int)
    latency = all_reduce[sizes[0]] / 2
    bandwidth = int(sizes[-1]) / (all_reduce[sizes[-1]] - all_reduce[sizes[0]])
    return Links(bandwidth, bandwidth, latency)


def report(found: dict[str, Any]) -> str:
    links = links_of(found["all_reduce"])
    lines = [
        "all-reduce between two processes, medians",
        "",
        "| bytes | measured ms | model ms |",
        "|---|---|---|",
    ]
    for size, seconds in found["all_reduce"].items():
        model_ms = all_reduce_seconds(int(size), 2, 1, links) * 1e3
        lines.append(f"| {int(size):,} | {seconds * 1e3:.3f} | {model_ms:.3f} |")
    lines += [
        "",
        f"model: latency {links.latency * 1e3:.3f} ms, bandwidth {links.within / 1e9:.2f} GB/s",
        "",
        "| | batch | parameters | " + " | ".join(f"{way}: images/s" for way in WAYS if "half" not in way)
        + " | 2 processes: ms a step | predicted | predicted / measured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for model, ways in found["steps"].items():
        two = ways["2 processes, 1 thread each"]
        half = ways["1 process, 1 thread, half batch"]["ms"]
        # A GAN's two players each send their own gradient, and r3gan one number in between.
        reduces = 2 if model == "gan" else 1
        predicted = 1e3 * step_seconds(half / 1e3, 4 * two["parameters"], 2, 1, links, reduces)
        predicted += 1e3 * all_reduce_seconds(4, 2, 1, links) * (model == "gan")
        rates = [way["batch_size"] / way["ms"] * 1e3 for name, way in ways.items() if "half" not in name]
        lines.append(
            f"| {model} | {two['batch_size']} | {two['parameters'] / 1e6:.2f} M | "
            + " | ".join(f"{rate:.0f}" for rate in rates)
            + f" | {two['ms']:.1f} | {predicted:.1f} | {predicted / two['ms']:.2f} |"
        )
    return "\n".join(lines)


def predict(args: argparse.Namespace) -> str:
    """Step time and cost for 1, 2, 4 ... GPUs, at the same batch a GPU (so that compute stays as it is)."""
    links = Links(args.within * 1e9, args.between * 1e9, args.latency_us * 1e-6)
    size = 4e6 * args.parameters
    lines = [
        f"{args.step_ms:g} ms of compute, {args.parameters:g} M parameters, {size / 1e6:g} MB of gradients",
        "",
        "| GPUs | machines | all-reduce ms | step ms | times one GPU | efficiency | hours for "
        f"{args.steps:g} steps' pictures | GPU-hours | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shapes = [(gpus, 1) for gpus in _doublings(args.gpus)]
    shapes += [(args.gpus, machines) for machines in _doublings(args.machines)[1:]]
    for gpus, machines in shapes:
        world = gpus * machines
        seconds = step_seconds(args.step_ms / 1e3, size, gpus, machines, links)
        efficiency = args.step_ms / 1e3 / seconds
        hours = args.steps / world * seconds / 3600
        lines.append(
            f"| {world} | {machines} | {all_reduce_seconds(size, gpus, machines, links) * 1e3:.2f} "
            f"| {seconds * 1e3:.1f} | {world * efficiency:.1f} | {efficiency:.0%} "
            f"| {hours:.2f} | {hours * world:.1f} | {hours * world * args.price:.0f} |"
        )
    return "\n".join(lines)


def _doublings(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    measuring = tasks.add_parser("measure")
    measuring.add_argument("--seconds", type=float, default=5.0, help="of each model in each way and round")
    measuring.add_argument("--rounds", type=int, default=2)
    measuring.add_argument("--json", type=Path, help="what was measured")
    measuring.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    measuring.add_argument("--halved", action="store_true", help=argparse.SUPPRESS)
    predicting = tasks.add_parser("predict")
    predicting.add_argument("--step-ms", type=float, required=True, help="compute of one GPU's share")
    predicting.add_argument("--parameters", type=float, required=True, help="in millions")
    predicting.add_argument("--gpus", type=int, default=8, help="of one machine")
    predicting.add_argument("--machines", type=int, default=1)
    predicting.add_argument("--within", type=float, required=True, help="GB/s between GPUs of a machine")
    predicting.add_argument("--between", type=float, default=1.25, help="GB/s between machines")
    predicting.add_argument("--latency-us", type=float, default=10.0, help="of one message")
    predicting.add_argument("--steps", type=float, default=1e5, help="that one GPU would take")
    predicting.add_argument("--price", type=float, default=1.0, help="of a GPU for an hour")
    args = parser.parse_args()
    if args.task == "predict":
        print(predict(args))
        return
    if args.child is not None:
        as_process(args.child, args.halved, args.seconds)
        return
    begun = time.monotonic()
    found = measure(args.seconds, args.rounds)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    print(report(found))
    print(f"\n{found['machine']}; {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
