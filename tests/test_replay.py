"""Recorded training steps: the same numbers as unrecorded ones. CUDA's recording is stood in for on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from families import assert_same
from pixel_nets import images, small

from gentrain.device import Place
from gentrain.images import ImageShape
from gentrain.learners import Metrics, replay
from gentrain.learners.minimize import Minimize
from gentrain.learners.replay import WARM_STEPS
from gentrain.models.vae import VAE
from gentrain.optimizers import optimizer_settings
from gentrain.seeding import seed_everything
from gentrain.settings import Train

CONFIGS = Path(__file__).parents[1] / "configs"
CPU = Place(torch.device("cpu"), None, channels_last=False, compile=False, cuda_graph=True)
SHAPE = ImageShape(1, 5, 6, 8)


def learner(place: Place, accumulate_steps: int = 1) -> Minimize:
    train = yaml.safe_load((CONFIGS / "config.yaml").read_text())["train"]
    optimizer = yaml.safe_load((CONFIGS / "optimizer/adamw.yaml").read_text())
    network = small(SHAPE, 0.1, variant="row_lstm", dropout=0.5)
    settings = Train(**{**train, "accumulate_steps": accumulate_steps})
    return Minimize(network, SHAPE, optimizer_settings({**optimizer, "lr": 1e-2}, 10), settings, place)


def trained(place: Place, steps: int, accumulate_steps: int = 1) -> tuple[Minimize, list[Metrics]]:
    this, logged = learner(place, accumulate_steps), []
    for step in range(steps):
        seed_everything(0, "train", step)
        metrics = this.train_step(lambda step=step: images(SHAPE, 6, seed=step), step)
        logged.append({name: float(value) for name, value in metrics.items()})
    return this, logged


@pytest.mark.parametrize("accumulate_steps", [1, 3])
def test_a_recorded_run_is_the_same_run(monkeypatch: pytest.MonkeyPatch, accumulate_steps: int) -> None:
    recordings: list[Callable[[], Metrics]] = []

    def stand_in(run: Callable[[], Metrics]) -> Callable[[], Metrics]:
        recordings.append(run)
        return run

    monkeypatch.setattr(replay, "record", stand_in)
    recorded, logged = trained(CPU, WARM_STEPS + 4, accumulate_steps)
    plain, expected = trained(replace(CPU, cuda_graph=False), WARM_STEPS + 4, accumulate_steps)
    assert plain.replayed is None
    assert len(recordings) == 1
    assert logged == expected
    assert_same(recorded.network.state_dict(), plain.network.state_dict())
    assert len({metrics["loss"] for metrics in logged}) == len(logged), "each step has its own batch"


def test_where_a_step_cannot_be_recorded_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def impossible(run: Callable[[], Metrics]) -> Callable[[], Metrics]:
        raise RuntimeError("operation not permitted when stream is capturing\nand a long explanation")

    monkeypatch.setattr(replay, "record", impossible)
    _, logged = trained(CPU, WARM_STEPS + 3)
    _, expected = trained(replace(CPU, cuda_graph=False), WARM_STEPS + 3)
    assert logged == expected
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "device.cuda_graph: a step cannot be recorded (operation not permitted when stream is capturing); "
        "going on without"
    ]


def test_only_networks_that_say_so_are_recorded() -> None:
    train = yaml.safe_load((CONFIGS / "config.yaml").read_text())["train"]
    vae = yaml.safe_load((CONFIGS / "model/vae.yaml").read_text())["model"]
    assert vae.pop("name") == "vae"
    optimizer = optimizer_settings(
        {**yaml.safe_load((CONFIGS / "optimizer/adamw.yaml").read_text()), "lr": 1e-3}, 10
    )
    network = VAE(ImageShape(1, 8, 8), **vae)
    assert Minimize(network, network.shape, optimizer, Train(**train), CPU).replayed is None
    assert learner(CPU).replayed is not None
    assert learner(replace(CPU, compile=True)).replayed is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_a_recorded_run_is_the_same_run() -> None:
    place = replace(CPU, device=torch.device("cuda"))
    torch.use_deterministic_algorithms(True)
    try:
        recorded, logged = trained(place, 10)
        plain, expected = trained(replace(place, cuda_graph=False), 10)
    finally:
        torch.use_deterministic_algorithms(False)
    assert recorded.replayed is not None and recorded.replayed._replay is not None, "it was recorded"
    assert logged == expected
    assert_same(recorded.network.state_dict(), plain.network.state_dict())
