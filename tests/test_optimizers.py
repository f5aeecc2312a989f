"""Learning rates by step, optimizers by name, and the ramped average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gentrain.config.settings import Schedule
from gentrain.training.ema import decay, make_ema
from gentrain.training.optimizers import lr_factor, optimizer_settings

SECTIONS = {
    "adamw": {"betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1},
    "adam": {"betas": [0.5, 0.9], "eps": 1e-8},
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
    "rmsprop": {"alpha": 0.9, "eps": 1e-8, "momentum": 0.0},
}


def test_warm_up_then_half_a_cosine_to_zero() -> None:
    cosine = Schedule(1.0, "cosine", 10)
    assert [lr_factor(step, cosine, 110) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert lr_factor(10, cosine, 110) == 1.0
    assert lr_factor(60, cosine, 110) == pytest.approx(0.5)
    assert lr_factor(35, cosine, 110) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert lr_factor(110, cosine, 110) == pytest.approx(0, abs=1e-12)
    assert lr_factor(500, cosine, 110) == pytest.approx(0, abs=1e-12)


def test_constant_stays_and_a_warm_up_may_be_longer_than_the_run() -> None:
    assert lr_factor(10**6, Schedule(1.0, "constant", 10), 20) == 1.0
    assert lr_factor(0, Schedule(1.0, "constant", 0), 20) == 1.0
    assert lr_factor(5, Schedule(1.0, "cosine", 100), 20) == 0.06


@pytest.mark.parametrize("name", SECTIONS)
def test_each_optimizer_finds_a_minimum(name: str) -> None:
    section = {"name": name, "lr": 0.05, "schedule": "constant", "warmup_steps": 0} | SECTIONS[name]
    settings = optimizer_settings(section, 100)
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = settings.build([weight])
    assert type(optimizer).__name__.lower() == name
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_at(step)
        optimizer.zero_grad()
        (weight - torch.tensor([1.0, 1.0])).square().sum().backward()
        optimizer.step()
    assert (weight - 1).abs().max() < 0.1


def test_the_average_is_the_recursion_and_its_memory_is_ramped() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = make_ema(model, batch_size=10, halflife_images=1000)
    expected = None
    for update in range(1, 60):
        model.weight.data.fill_(float(update))
        average.update_parameters(model)
        kept = 0.5 ** (10 / min(1000, 0.05 * 10 * update)) if 0.05 * 10 * update >= 1 else 0.5**10
        expected = float(update) if expected is None else kept * expected + (1 - kept) * update
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert decay(10**9, 10, 1000) == pytest.approx(0.5 ** (10 / 1000))
    assert decay(10, 10, 1000) < 1e-2  # a short run forgets its initial weights
