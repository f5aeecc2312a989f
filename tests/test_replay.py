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

from gentrain.config.settings import Train
from gentrain.images import ImageShape
from gentrain.models.vae import VAE
from gentrain.runtime.device import Compute
from gentrain.runtime.seeding import seed_everything
from gentrain.training import replay
from gentrain.training.learner import Metrics
from gentrain.training.minimize import Minimize
from gentrain.training.optimizers import optimizer_settings
from gentrain.training.replay import WARM_STEPS

CONFIGS = Path(__file__).parents[1] / "configs"
CPU = Compute(torch.device("cpu"), None, channels_last=False, compile=False, cuda_graph=True)
SHAPE = ImageShape(1, 5, 6, 8)


def learner(
    compute: Compute, variant: str = "row_lstm", accumulate_steps: int = 1, **changes: object
) -> Minimize:
    train = yaml.safe_load((CONFIGS / "config.yaml").read_text())["train"]
    optimizer = yaml.safe_load((CONFIGS / "optimizer/adamw.yaml").read_text())
    network = small(SHAPE, 0.1, variant=variant, dropout=0.5, **changes)
    settings = Train(**{**train, "accumulate_steps": accumulate_steps})
    return Minimize(network, SHAPE, optimizer_settings({**optimizer, "lr": 1e-2}, 10), settings, compute)


def trained(this: Minimize, steps: int) -> list[Metrics]:
    logged = []
    for step in range(steps):
        seed_everything(0, "train", step)
        metrics = this.train_step(lambda step=step: images(SHAPE, 6, seed=step), step)
        logged.append({name: float(value) for name, value in metrics.items()})
        this.eval_step(images(SHAPE, 2), torch.Generator())
    return logged


class Recorded:
    """Stands in for a CUDA graph: its gradients and figures stay in the tensors of the recording, and whatever
    else holds gradients by then is left alone."""

    def __init__(self, run: Callable[[], Metrics], parameters: list[torch.nn.Parameter]) -> None:
        self.run, self.parameters = run, parameters
        state = torch.get_rng_state()  # recording computes nothing
        self.metrics, self.grads = run(), [p.grad for p in parameters]
        torch.set_rng_state(state)

    def __call__(self) -> Metrics:
        before = [p.grad for p in self.parameters]
        metrics = self.run()
        for p, mine, was in zip(self.parameters, self.grads, before, strict=True):
            assert p.grad is not None and mine is not None
            mine.copy_(p.grad)
            p.grad = was
        for name, value in metrics.items():
            self.metrics[name].copy_(value)  # type: ignore[union-attr]
        return self.metrics


@pytest.mark.parametrize("accumulate_steps", [1, 3])
@pytest.mark.parametrize("variant", ["row_lstm", "diagonal_bilstm", "gated"])
def test_a_recorded_run_is_the_same_run(
    monkeypatch: pytest.MonkeyPatch, variant: str, accumulate_steps: int
) -> None:
    recordings: list[Recorded] = []
    steps = WARM_STEPS + 4
    recorded = learner(CPU, variant, accumulate_steps)

    def stand_in(run: Callable[[], Metrics]) -> Recorded:
        recordings.append(Recorded(run, recorded.parameters))
        return recordings[-1]

    monkeypatch.setattr(replay, "capture", stand_in)
    logged = trained(recorded, steps)
    plain = learner(replace(CPU, cuda_graph=False), variant, accumulate_steps)
    expected = trained(plain, steps)
    assert plain.replayed is None
    assert len(recordings) == 1
    assert logged == expected
    assert_same(recorded.network.state_dict(), plain.network.state_dict())
    assert len({metrics["loss"] for metrics in logged}) == len(logged), "each step has its own batch"


def test_running_out_of_memory_while_recording_is_no_reason_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(run: Callable[[], Metrics]) -> Callable[[], Metrics]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(replay, "capture", too_much)
    with pytest.raises(torch.OutOfMemoryError):
        trained(learner(CPU), WARM_STEPS + 1)


def test_where_a_step_cannot_be_recorded_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def impossible(run: Callable[[], Metrics]) -> Callable[[], Metrics]:
        raise RuntimeError("operation not permitted when stream is capturing\nand a long explanation")

    monkeypatch.setattr(replay, "capture", impossible)
    logged = trained(learner(CPU), WARM_STEPS + 3)
    expected = trained(learner(replace(CPU, cuda_graph=False)), WARM_STEPS + 3)
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


def on_cuda(this: Minimize, steps: int) -> list[Metrics]:
    torch.use_deterministic_algorithms(True)
    try:
        return trained(this, steps)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("variant", ["row_lstm", "diagonal_bilstm", "gated"])
@pytest.mark.parametrize("output", ["softmax", "logistic_mixture"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bf16"])
def test_on_cuda_a_recorded_run_is_the_same_run(
    variant: str, output: str, precision: torch.dtype | None
) -> None:
    compute = replace(CPU, device=torch.device("cuda"), autocast=precision)
    recorded = learner(compute, variant, 2, output=output)
    plain = learner(replace(compute, cuda_graph=False), variant, 2, output=output)
    assert on_cuda(recorded, 10) == on_cuda(plain, 10)
    assert recorded.replayed is not None and recorded.replayed._replay is not None, "it was recorded"
    assert_same(recorded.network.state_dict(), plain.network.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_a_step_that_waits_for_the_device_goes_unrecorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = replace(CPU, device=torch.device("cuda"))
    waiting = learner(compute)
    loss = waiting.network.train_loss

    def waits(x_BCHW: torch.Tensor, step: int) -> object:
        value, metrics = loss(x_BCHW, step)
        assert value.item() > 0
        return value, metrics

    monkeypatch.setattr(waiting.network, "train_loss", waits)
    assert on_cuda(waiting, 8) == on_cuda(learner(replace(compute, cuda_graph=False)), 8)
    assert "cannot be recorded" in capsys.readouterr().err
