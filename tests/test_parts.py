"""train.accumulate_steps: a step in parts is the same step. All families, in float64, with the same noise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from conftest import Command
from families import FAMILIES
from torch import Tensor

from gentrain.config import compose as composing
from gentrain.config import registry
from gentrain.runtime.device import Compute
from gentrain.training.adversarial import Adversarial
from gentrain.training.build import make_learner

BATCH = 8
CPU = Compute(torch.device("cpu"), None, channels_last=False, compile=False, cuda_graph=False)
AUGMENT = "model.augment=[color,translation,cutout]"
CASES: dict[str, list[str]] = FAMILIES | {
    "vae, free bits": [*FAMILIES["vae"], "model.free_bits=1.1"],
    "vae, bernoulli": [*FAMILIES["vae"], "data.levels=2", "model.likelihood=bernoulli"],
    "vae, sigma": [*FAMILIES["vae"], "model.likelihood=gaussian", "model.sigma=predicted"],
    "ae, gaussian noise": [*FAMILIES["ae"], "model.noise=gaussian", "model.noise_level=0.3", "model.l1=0.1"],
    "ae, masking noise": [*FAMILIES["ae"], "model.noise=masking", "model.noise_level=0.3"],
    "gsn, walkback": [*FAMILIES["gsn"], "model.walkback_steps=3"],
    "r3gan, augmented": [*FAMILIES["gan"], AUGMENT],
    **{
        loss: [*FAMILIES["gan"], f"model.loss={loss}", AUGMENT]
        for loss in ("minimax", "non_saturating", "hinge", "wgan_gp")
    },
}


class Rows:
    """In place of `seeding.drawn`: each part of a batch gets its rows of the noise that the whole one gets.

    All parts make the same calls in the same order; how many, the first run with one part tells.
    """

    def __init__(self) -> None:
        self.calls_a_part: int | None = None
        self.calls, self.taken = 0, dict[int, int]()

    def __call__(self, how: Callable[..., Tensor], shape: Any, noise: Any, device: torch.device) -> Tensor:
        assert noise is None, "in training"
        number = self.calls if self.calls_a_part is None else self.calls % self.calls_a_part
        self.calls += 1
        first = self.taken.get(number, 0)
        self.taken[number] = first + shape[0]
        whole = how((BATCH, *shape[1:]), generator=torch.Generator().manual_seed(number), device=device)
        return whole[first : first + shape[0]]

    def again(self) -> None:
        if self.calls_a_part is None:
            self.calls_a_part = self.calls
        self.calls, self.taken = 0, {}


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Rows]]:
    """All of gentrain in float64, and its noise from the one item of this list."""
    in_use = [Rows()]

    def drawn(*arguments: Any) -> Tensor:
        return in_use[0](*arguments)

    def unit(x: Tensor, levels: int) -> Tensor:
        return x.double().mul(2 / (levels - 1)).sub(1)

    for family in registry.MODELS.values():  # what is imported later would keep what is put in place here
        registry.target(family.model)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    for name, module in list(sys.modules.items()):
        if name.startswith("gentrain."):
            if "drawn" in vars(module):
                monkeypatch.setattr(module, "drawn", drawn)
            if "to_unit" in vars(module):
                monkeypatch.setattr(module, "to_unit", unit)
    torch.set_default_dtype(torch.float64)
    yield in_use
    torch.set_default_dtype(torch.float32)


def compose(overrides: list[str]) -> dict[str, Any]:
    small = ["data=folder", "data.size=8", "data.root=.", f"train.batch_size={BATCH}", "device=cpu"]
    with hydra.initialize_config_dir(str(composing.CONFIG_DIR), version_base="1.3"):
        return composing.plain(hydra.compose("config", [*small, *overrides]))


def step(config: dict[str, Any], parts: int, noise: list[Rows], counts: list[Rows]) -> dict[str, Tensor]:
    """Gradients and figures of one step of a learner, by name: of both players of a GAN."""
    config["train"]["accumulate_steps"] = parts
    learner = make_learner(config, CPU)
    torch.manual_seed(0)
    with torch.no_grad():  # a network that has just been made is often its skeleton
        for weights in learner.parts["model"].parameters():
            weights += 0.1 * torch.randn_like(weights)
    levels = config["data"]["levels"]
    x = torch.randint(0, levels, (BATCH, 3, 8, 8), generator=torch.Generator().manual_seed(1)).byte()
    found: dict[str, Tensor] = {}
    if isinstance(learner, Adversarial):
        halves = [
            ("discriminator", lambda: learner._discriminator_step(learner._unit(x), 1.0)),
            ("generator", lambda: learner._generator_step(learner._unit(x))),
        ]
    else:
        halves = [("", lambda: learner._gradients(x, 0))]
    for number, (name, take) in enumerate(halves):
        if len(counts) == number:
            counts.append(Rows())
        noise[0] = counts[number]
        found |= {f"{name} {key}": torch.as_tensor(value) for key, value in take().items()}
        counts[number].again()
        player = learner.players[name] if name else learner.parts["model"]
        gradients = {key: p.grad for key, p in player.named_parameters() if p.grad is not None}
        found |= {f"{name} {key}": gradient.clone() for key, gradient in gradients.items()}
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_step_in_parts_is_the_step(case: str, noise: list[Rows]) -> None:
    config, counts = compose(CASES[case]), list[Rows]()
    whole = step(config, 1, noise, counts)
    assert any(value.abs().max() > 0 for value in whole.values())
    for parts in (2, 3, 4, 8):
        again = step(config, parts, noise, counts)
        assert again.keys() == whole.keys()
        for name, value in whole.items():
            apart = (again[name] - value).abs().max().item()
            assert apart <= 1e-9 + 1e-7 * value.abs().max().item(), f"{name} in {parts} parts"


DCGAN = [*FAMILIES["gan"], "model.network=dcgan", "data.size=28"]


@pytest.mark.parametrize("loss", ["r3gan", "non_saturating"])
def test_a_batch_that_has_no_parts_is_not_split(
    loss: str, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch statistics: with r3gan only the generator has them. What was begun so may go on so."""
    command = [*tiny, *DCGAN, f"model.loss={loss}", "train.max_steps=2", "run_dir=run"]
    outcome = gentrain(*command, "train.accumulate_steps=2")
    assert outcome.status == 2
    assert "train.accumulate_steps=2 would be another step" in outcome.err
    assert not Path("run").exists()
    assert gentrain(*command).status == 0
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("accumulate_steps: 1", "accumulate_steps: 2"))
    assert gentrain("resume=run", "train.max_steps=3").status == 0


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        ([], "try train.batch_size=4, or train.accumulate_steps=2, which"),
        (["train.accumulate_steps=3"], "try train.batch_size=4, or train.accumulate_steps=6, which"),
        (["train.accumulate_steps=5"], "try train.batch_size=4, or a smaller model"),
        (["train.batch_size=1", "model.alarm_diversity=null"], "train.batch_size=1: try a smaller model"),
        (DCGAN, "try train.batch_size=4, or a smaller model"),
    ],
)
def test_what_out_of_memory_advises_is_possible(
    more: list[str], advice: str, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, next_batch: object, step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Adversarial, "train_step", fail)
    outcome = gentrain(*tiny, *FAMILIES["gan"], *more, "run_dir=run")
    assert outcome.status == 1
    assert advice in outcome.err
