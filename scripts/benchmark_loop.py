"""What gentrain's loop costs over a bare one, interleaved in one process.

    python scripts/benchmark_loop.py [--steps 500] [--rounds 5] [overrides of the composed config ...]

Bare: the same model, batches drawn by a random index, loss, backward, clipping, optimizer and average, in a
`for`. gentrain: the same with everything around it, logging every 50 steps and saving every 500 (and drawing
its display), without evaluation and sampling, which a bare loop has not. After every 25 of gentrain's
steps 25 bare ones are taken, with gentrain's clock stopped and its display off, so that a drift of the
machine meets both. The medians over rounds and the median of their ratios are printed.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from rich.console import Console
from torch.nn.functional import softplus
from torch.nn.utils import clip_grad_norm_

from gentrain.config import compose as composing
from gentrain.config.settings import Train
from gentrain.data.batches import Batches, ImageSplit
from gentrain.data.build import Packed, open_data, preprocessing_of
from gentrain.images import to_unit
from gentrain.models.build import make_network
from gentrain.runs.rundir import RunDir, versions
from gentrain.runs.tracking import Tracker
from gentrain.runtime.console import Display
from gentrain.runtime.device import Compute, set_up
from gentrain.runtime.signals import StopRequest
from gentrain.training.build import make_learner
from gentrain.training.ema import make_ema
from gentrain.training.optimizers import optimizer_settings
from gentrain.training.state import State
from gentrain.training.trainer import Trainer


def compose(overrides: list[str], steps: int) -> dict[str, Any]:
    cadence = [
        f"train.max_steps={steps}",
        "train.log_every_steps=50",
        "train.save_every_steps=500",
        "train.eval_every_steps=null",
        "train.sample_every_steps=null",
    ]
    with hydra.initialize_config_dir(str(composing.CONFIG_DIR), version_base="1.3"):
        return composing.plain(hydra.compose("config", [*cadence, *overrides]))


STRETCH = 25  # steps of one loop before the other has its turn


class Bare:
    """The loop that one would write by hand, in stretches."""

    def __init__(self, config: dict[str, Any], data: Packed, compute: Compute) -> None:
        train = Train(**config["train"])
        self.train, self.compute, self.seconds = train, compute, 0.0
        self.network: Any = make_network(config).to(compute.device).to(memory_format=compute.memory_format)
        self.optimizer = optimizer_settings(config["optimizer"], train.max_steps).build(
            self.network.parameters()
        )
        self.average = make_ema(self.network, train.batch_size, train.ema_halflife_images or 1.0)
        self.images = torch.from_numpy(data.split("train")).to(compute.device)

    def run(self, steps: int) -> None:
        begun = time.perf_counter()
        for step in range(steps):
            x_BCHW = self.images[torch.randint(len(self.images), (self.train.batch_size,))]
            with self.compute.autocasting():
                x_BCHW = x_BCHW.contiguous(memory_format=self.compute.memory_format)
                loss, _ = self.network.train_loss(x_BCHW, step)
            self.optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(self.network.parameters(), self.train.grad_clip or 1.0)
            self.optimizer.step()
            self.average.update_parameters(self.network)
        loss.item()
        self.seconds += time.perf_counter() - begun


class BareGame(Bare):
    """The same for model=gan, loss=r3gan: one step of each player, the discriminator with R1 and R2."""

    def __init__(self, config: dict[str, Any], data: Packed, compute: Compute) -> None:
        if config["model"]["loss"] != "r3gan" or config["model"]["discriminator_steps"] != 1:
            raise SystemExit("the bare loop plays model.loss=r3gan with model.discriminator_steps=1 only")
        super().__init__(config, data, compute)
        build = optimizer_settings(config["optimizer"], self.train.max_steps).build
        self.players = self.network.generator, self.network.discriminator
        self.optimizers = [build(player.parameters()) for player in self.players]
        self.average = make_ema(self.players[0], self.train.batch_size, self.train.ema_halflife_images or 1.0)
        self.gamma = config["model"]["gamma"]

    def batch(self) -> torch.Tensor:
        x_BCHW = self.images[torch.randint(len(self.images), (self.train.batch_size,))]
        return to_unit(x_BCHW, 256).contiguous(memory_format=self.compute.memory_format)

    def run(self, steps: int) -> None:
        begun = time.perf_counter()
        generator, discriminator = self.players
        of_generator, of_discriminator = self.optimizers
        size = self.train.batch_size
        for _ in range(steps):
            real = self.batch().requires_grad_()
            with torch.no_grad(), self.compute.autocasting():
                fake = generator(self.network.latents(size)).float()
            fake.requires_grad_()
            real_B, fake_B = discriminator(real), discriminator(fake)
            gradients = torch.autograd.grad(real_B.sum() + fake_B.sum(), (real, fake), create_graph=True)
            penalty = sum(g.square().flatten(1).sum(1).mean() for g in gradients)
            loss = softplus(fake_B - real_B).mean() + self.gamma / 2 * penalty
            of_discriminator.zero_grad()
            loss.backward()
            of_discriminator.step()
            discriminator.requires_grad_(False)
            with self.compute.autocasting():
                fake_B = discriminator(generator(self.network.latents(size)))
                real_B = discriminator(self.batch())
            loss = softplus(real_B.float() - fake_B.float()).mean()
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()
            discriminator.requires_grad_(True)
            self.average.update_parameters(generator)
        loss.item()
        self.seconds += time.perf_counter() - begun


def bare_loop(config: dict[str, Any], data: Packed, compute: Compute) -> Bare:
    return (BareGame if config["model"]["name"] == "gan" else Bare)(config, data, compute)


def one_round(config: dict[str, Any], data: Packed, compute: Compute, folder: Path) -> tuple[float, float]:
    """Seconds for max_steps steps of the bare loop, and of gentrain's with its last save."""
    steps = config["train"]["max_steps"]
    # One step more than is run: the evaluation and the grid at the very end are no part of the loop.
    train = Train(**{**config["train"], "max_steps": steps + 1})
    run = RunDir.create(folder, "benchmark")
    learner = make_learner(config, compute)
    images = [
        ImageSplit(data.split(name), preprocessing_of(config["data"]), compute.device)
        for name in ("train", "valid")
    ]
    tracker, bare = Tracker(folder, 0), bare_loop(config, data, compute)
    display = Display(0, steps, Console(force_terminal=True, file=(folder / "terminal").open("w")))
    batches = Batches(images[0], train.batch_size, config["seed"])
    aside = 0.0
    advance = display.advance

    def advance_and_take_turns(step: int) -> None:
        nonlocal aside
        advance(step)
        if step % STRETCH == 0:
            begun = time.perf_counter()
            display.__exit__(None, None, None)
            bare.run(STRETCH)
            display.__enter__()
            aside += time.perf_counter() - begun
        if step == steps:
            stop.signal = signal.SIGTERM  # ask for a stop at the end of this step, which also saves

    display.advance = advance_and_take_turns  # type: ignore[method-assign]
    with StopRequest() as stop, display:
        state = State()
        trainer = Trainer(
            learner, batches, images[1], train, 0, run, "", data.fingerprint, tracker, display, stop, state
        )
        begun = time.perf_counter()
        trainer.fit()
        seconds = time.perf_counter() - begun - aside
    tracker.close()
    run.unlock()
    return bare.seconds, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    config = compose(args.overrides, args.steps)
    compute = set_up(config["device"])
    data = open_data(config["data"], lambda *_: None)
    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        bare_loop(config, data, compute).run(20)  # warm up
        for number in range(args.rounds):
            pair = one_round(config, data, compute, Path(folder) / str(number))
            times.append(pair)
            print(f"round {number + 1}: bare {pair[0]:.2f} s, gentrain {pair[1]:.2f} s", flush=True)
    ratio = statistics.median(second / first for first, second in times)
    medians = [statistics.median(column) / args.steps * 1e3 for column in zip(*times, strict=True)]
    print(f"{config['model']['name']} on {config['data']['name']}, {compute.describe()}, {versions()}")
    print(f"median ms per step: bare {medians[0]:.2f}, gentrain {medians[1]:.2f}; median ratio {ratio:.4f}")


if __name__ == "__main__":
    main()
