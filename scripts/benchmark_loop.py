"""What gentrain's loop costs over a bare one, side by side in one process.

    python scripts/benchmark_loop.py [--steps 500] [--rounds 5] [overrides of the composed config ...]

Bare: the same model, batches drawn by a random index, loss, backward, clipping, optimizer and average, in a
`for`. gentrain: the same with everything around it, logging every 50 steps and saving every 500, without
evaluation and sampling, which a bare loop has not. Rounds alternate, so that a drift of the machine meets
both; each round's times are of whole stretches, and the medians and the median of the ratios are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from rich.console import Console
from torch.nn.utils import clip_grad_norm_

from gentrain import cli
from gentrain.averaging import averaged
from gentrain.build import make_learner, make_network
from gentrain.data import Packed, open_data
from gentrain.data.batches import Batches, Images
from gentrain.device import Place, set_up
from gentrain.loop import Fit, State, fit
from gentrain.optimizers import optimizer_settings
from gentrain.progress import Display
from gentrain.rundir import RunDir, versions
from gentrain.settings import Train
from gentrain.signals import StopRequest
from gentrain.tracking import Tracker


def compose(overrides: list[str], steps: int) -> dict[str, Any]:
    cadence = [
        f"train.max_steps={steps}",
        "train.log_every_steps=50",
        "train.save_every_steps=500",
        "train.eval_every_steps=null",
        "train.sample_every_steps=null",
    ]
    with hydra.initialize_config_dir(str(cli.CONFIG_DIR), version_base="1.3"):
        return cli.plain(hydra.compose("config", [*cadence, *overrides]))


def bare(config: dict[str, Any], data: Packed, place: Place) -> float:
    """Seconds for max_steps steps of the loop that one would write by hand."""
    train = Train(**config["train"])
    network: Any = make_network(config).to(place.device).to(memory_format=place.memory_format)
    optimizer = optimizer_settings(config["optimizer"], train.max_steps).build(network.parameters())
    average = averaged(network, train.batch_size, train.ema_halflife_images or 1.0)
    images = torch.from_numpy(data.split("train")).to(place.device)
    begun = time.perf_counter()
    for step in range(train.max_steps):
        x_BCHW = images[torch.randint(len(images), (train.batch_size,))]
        with place.autocasting():
            loss, _ = network.train_loss(x_BCHW.contiguous(memory_format=place.memory_format), step)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(network.parameters(), train.grad_clip or 1.0)
        optimizer.step()
        average.update_parameters(network)
    loss.item()
    return time.perf_counter() - begun


def ours(config: dict[str, Any], data: Packed, place: Place, folder: Path) -> float:
    """Seconds for the same steps in gentrain's loop, the last save included."""
    train = Train(**config["train"])
    run = RunDir.create(folder, "benchmark")
    learner = make_learner(config, place)
    images = [Images(data.split(name), config["data"]["levels"], place.device) for name in ("train", "valid")]
    tracker = Tracker(folder, 0)
    display = Display(0, train.max_steps, Console(force_terminal=True, file=(folder / "terminal").open("w")))
    batches = Batches(images[0], train.batch_size, config["seed"])
    # One step more than is run: the evaluation and the grid at the very end are no part of the loop.
    train = Train(**{**config["train"], "max_steps": train.max_steps + 1})
    with StopRequest() as stop, display:
        this = Fit(learner, batches, images[1], train, 0, run, "", data.fingerprint, tracker, display, stop)
        begun = time.perf_counter()
        fit(_stopping_after(this, train.max_steps - 1), State())
        seconds = time.perf_counter() - begun
    tracker.close()
    run.unlock()
    return seconds


def _stopping_after(this: Fit, steps: int) -> Fit:
    """Ask for a stop at the end of the last step to be timed; it also saves."""
    original = this.display.advance

    def advance(step: int) -> None:
        original(step)
        if step == steps:
            this.stop.signal = 15

    this.display.advance = advance  # type: ignore[method-assign]
    return this


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    config = compose(args.overrides, args.steps)
    place = set_up(config["device"])
    data = open_data(config["data"], lambda *_: None)
    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        bare({**config, "train": {**config["train"], "max_steps": 20}}, data, place)  # warm up
        for number in range(args.rounds):
            pair = (bare(config, data, place), ours(config, data, place, Path(folder) / str(number)))
            times.append(pair)
            print(f"round {number + 1}: bare {pair[0]:.2f} s, gentrain {pair[1]:.2f} s", flush=True)
    ratio = statistics.median(second / first for first, second in times)
    medians = [statistics.median(column) / args.steps * 1e3 for column in zip(*times, strict=True)]
    print(f"{config['model']['name']} on {config['data']['name']}, {place.describe()}, {versions()}")
    print(f"median ms per step: bare {medians[0]:.2f}, gentrain {medians[1]:.2f}; median ratio {ratio:.4f}")


if __name__ == "__main__":
    main()
