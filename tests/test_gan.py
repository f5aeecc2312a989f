"""The networks, the learner's steps, and what a GAN's run leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Command
from families import FAMILIES, assert_same, newest
from PIL import Image
from torch import Tensor, nn

import gentrain as library
from gentrain.config.settings import Schedule, Train
from gentrain.errors import UserError
from gentrain.images import ImageShape, to_unit
from gentrain.models.gan.dcgan import DCGANGenerator
from gentrain.models.gan.gan import GAN, smallest_size
from gentrain.models.gan.objective import LOSSES, annealed, squared_gradients
from gentrain.models.gan.r3 import GAIN, Block, R3Generator, ResidualBlock
from gentrain.runtime.device import Compute
from gentrain.training.adversarial import Adversarial
from gentrain.training.optimizers import OptimizerSettings, adam, sgd

CONFIG = Path(__file__).parents[1] / "configs" / "model" / "gan.yaml"
SHAPE = ImageShape(3, 8, 8)
CPU = Compute(torch.device("cpu"), None, channels_last=False, compile=False, cuda_graph=False)


def settings(**changes: object) -> dict[str, Any]:
    values = yaml.safe_load(CONFIG.read_text())["model"]
    assert values.pop("name") == "gan"
    return {**values, "widths": [8, 4], "group_width": 4, "latent_dim": 4, **changes}


def gan(shape: ImageShape = SHAPE, **changes: object) -> GAN:
    torch.manual_seed(0)
    return GAN(shape, **settings(**changes))


def learner(
    network: GAN,
    compute: Compute = CPU,
    build: Any = lambda p: adam(p, 1e-3, betas=(0.0, 0.99), eps=1e-8),
    **train: object,
) -> Adversarial:
    values = {
        "max_steps": 100, "batch_size": 8, "accumulate_steps": 1, "grad_clip": None, "ema_halflife_images": 100,
        "log_every_steps": 1, "eval_every_steps": 1, "sample_every_steps": 1, "save_every_steps": 1, "keep_last": 1, "sample_count": 4,
    }  # fmt: skip
    optimizer = OptimizerSettings(Schedule(1e-3, "constant", 0), build, 100)
    return Adversarial(network, network.shape, optimizer, Train(**(values | train)), compute)  # type: ignore[arg-type]


def batches(shape: ImageShape = SHAPE, count: int = 8) -> Any:
    """`next_batch`, which counts its calls."""

    def next_batch() -> Tensor:
        next_batch.calls += 1  # type: ignore[attr-defined]
        noise = torch.Generator().manual_seed(next_batch.calls)  # type: ignore[attr-defined]
        return torch.randint(0, shape.levels, (count, *shape.chw), dtype=torch.uint8, generator=noise)

    next_batch.calls = 0  # type: ignore[attr-defined]
    return next_batch


# ---- networks


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (48, 3), (64, 3), (128, 1)])
@pytest.mark.parametrize("patch", [1, 2])
def test_r3_makes_and_judges_pictures_of_its_size(size: int, channels: int, patch: int) -> None:
    network = gan(ImageShape(channels, size, size), patch=patch)
    pictures = network.generator(network.latents(2))
    assert pictures.shape == (2, channels, size, size)
    assert network.discriminator(pictures).shape == (2,)
    assert network.sample(3, torch.Generator()).shape == (3, channels, size, size)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 3), (128, 3)])
def test_dcgan_makes_and_judges_pictures_of_its_size(size: int, channels: int) -> None:
    network = gan(ImageShape(channels, size, size), network="dcgan")
    pictures = network.generator(network.latents(2))
    assert pictures.shape == (2, channels, size, size)
    assert pictures.abs().max() <= 1
    assert network.discriminator(pictures).shape == (2,)
    other_sizes = {"height": 32, "width": 64}
    assert gan(ImageShape(3, **other_sizes), network="dcgan").sample(2, None).shape == (2, 3, 32, 64)


def test_sizes_that_cannot_be_made_are_refused() -> None:
    assert smallest_size(ImageShape(3, 32, 32), 1) == ((4, 4), 3)
    assert smallest_size(ImageShape(3, 32, 32), 2) == ((4, 4), 2)
    assert smallest_size(ImageShape(3, 28, 56), 1) == ((7, 14), 2)
    for size in (30, 36, 9, 3):
        with pytest.raises(UserError, match=f"cannot give {size}x{size}; set data.size"):
            gan(ImageShape(3, size, size), patch=1)
    with pytest.raises(UserError, match="dcgan takes pictures of 28 to 128"):
        gan(network="dcgan")
    with pytest.raises(UserError, match=r"model.group_width=5 does not divide"):
        gan(group_width=5)


def test_r3_starts_as_its_skeleton_and_keeps_its_scale() -> None:
    """Fixup: the last convolution of each block is zero, the others at GAIN / sqrt(inputs) * L^(-1/4)."""
    torch.manual_seed(0)
    block = Block(2, 2, 16)
    network = R3Generator(64, 3, [64, 64, 32], (4, 4), block, patch=1)
    blocks = [layer for layer in network.modules() if isinstance(layer, ResidualBlock)]
    assert len(blocks) == 6
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(blocks[0](x), x)
    for layer in blocks:
        first, middle, last = (f for f in layer.f if isinstance(f, nn.Conv2d))
        assert last.weight.count_nonzero() == 0
        for conv, inputs in ((first, first.in_channels), (middle, 16 * 9)):
            assert conv.bias is None
            expected = GAIN / math.sqrt(inputs) * 6**-0.25
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert middle.groups == middle.in_channels // 16
    pictures = network(torch.randn(500, 64))
    assert 0.3 < pictures.std().item() < 1.5  # about in [-1, 1]
    assert pictures.abs().max() > 1.5  # no tanh


def test_a_new_patch_is_flat() -> None:
    torch.manual_seed(0)
    network = R3Generator(8, 3, [8, 4], (4, 4), Block(1, 2, 4), patch=2)
    pictures = network(torch.randn(2, 8))
    assert torch.equal(pictures[:, :, ::2, ::2], pictures[:, :, 1::2, 1::2])


def test_dcgan_starts_as_documented() -> None:
    torch.manual_seed(0)
    network = DCGANGenerator(32, 3, [128, 64], (4, 4))
    for layer in network.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.mean().item() == pytest.approx(1.0, abs=0.01)
    norms = {
        loss: sum(
            isinstance(m, nn.BatchNorm2d)
            for m in gan(ImageShape(3, 32, 32), network="dcgan", loss=loss).discriminator.modules()
        )
        for loss in LOSSES
    }
    assert norms == {"minimax": 2, "non_saturating": 2, "hinge": 2, "wgan_gp": 0, "r3gan": 0}


def test_interpolation_is_between_two_samples_and_keeps_the_prior() -> None:
    network = gan()
    pictures = network.interpolate(2, 3, torch.Generator().manual_seed(5))
    assert pictures.shape == (6, 3, 8, 8)
    z = network.latents(4, torch.Generator().manual_seed(5))
    from gentrain.images import to_levels

    with torch.no_grad():
        ends = to_levels(network.generator(z), 256).int()
        middle = to_levels(network.generator((z[0] + z[2])[None] / math.sqrt(2)), 256).int()
    assert (pictures[0].int() - ends[0]).abs().max() <= 1
    assert (pictures[2].int() - ends[2]).abs().max() <= 1
    assert (pictures[1].int() - middle[0]).abs().max() <= 1


# ---- steps


@pytest.mark.parametrize("loss", LOSSES)
def test_each_player_moves_only_itself_and_has_its_own_batches(loss: str) -> None:
    players, next_batch = learner(gan(loss=loss, discriminator_steps=3)), batches()
    before = {name: value.clone() for name, value in players.network.state_dict().items()}

    def moved() -> set[str]:
        now = players.network.state_dict()
        return {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])}

    players._discriminator_step(to_unit(next_batch(), 256), 1.0)
    assert moved() == {"discriminator"}
    before = {name: value.clone() for name, value in players.network.state_dict().items()}
    players._generator_step(to_unit(next_batch(), 256))
    assert moved() == {"generator"}
    next_batch.calls = 0
    metrics = players.train_step(next_batch, 0)
    assert next_batch.calls == 3 + LOSSES[loss].relativistic
    assert all(math.isfinite(float(value)) for value in metrics.values())
    probabilities = {"d_real", "d_fake"} & metrics.keys()
    assert bool(probabilities) == (loss in ("minimax", "non_saturating", "r3gan"))
    penalties = {"r3gan": {"r1", "r2"}, "wgan_gp": {"gradient_penalty"}}.get(loss, set())
    assert penalties == {"r1", "r2", "gradient_penalty"} & metrics.keys()


def test_r1_and_r2_are_on_the_inputs_of_d_and_the_fake_is_cut_off() -> None:
    players = learner(gan())
    torch.manual_seed(1)
    real = to_unit(batches()(), 256)
    torch.manual_seed(2)
    with torch.no_grad():
        fake = players.gan.generator(players.gan.latents(8))
    inputs = [x.clone().requires_grad_() for x in (real, fake)]
    expected = [0.5 * 3.0 * squared_gradients(players.gan.discriminator(x), x).mean().item() for x in inputs]
    torch.manual_seed(2)
    metrics = players._discriminator_step(real, 3.0)
    assert [metrics[name].item() for name in ("r1", "r2")] == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 1e-6
    assert all(p.grad is None for p in players.gan.generator.parameters())
    margin = metrics["logit_margin"].item()
    assert metrics["logit_real"].item() - metrics["logit_fake"].item() == pytest.approx(margin, abs=1e-6)
    assert metrics["d_real"].item() + metrics["d_fake"].item() == pytest.approx(1)


def test_penalties_are_float32_under_bf16() -> None:
    """The same figures as without autocast, but for the generator's pictures, which bf16 has rounded."""
    compute = Compute(
        torch.device("cpu"), torch.bfloat16, channels_last=False, compile=False, cuda_graph=False
    )
    figures = []
    for where in (CPU, compute):
        players = learner(gan(), where)
        players.gan.generator = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Flatten(), Repeat())
        torch.manual_seed(3)
        figures.append(players._discriminator_step(to_unit(batches()(), 256), 1.0))
    for name in ("r1", "r2", "d_loss", "d_grad_norm"):
        assert figures[0][name].dtype == torch.float32
        assert figures[0][name].item() == figures[1][name].item(), name
    half = learner(gan(loss="hinge"), compute)  # without a penalty D runs in bf16 too: other figures
    full = learner(gan(loss="hinge"))
    torch.manual_seed(3)
    first = half._discriminator_step(to_unit(batches()(), 256), 1.0)["logit_real"]
    torch.manual_seed(3)
    second = full._discriminator_step(to_unit(batches()(), 256), 1.0)["logit_real"]
    assert first.dtype == torch.float32
    assert first.item() != second.item()


class Repeat(nn.Module):
    """A generator without arithmetic, so that precision changes nothing: z, repeated."""

    def forward(self, z_BZ: Tensor) -> Tensor:
        return z_BZ[:, :3, None, None].expand(-1, 3, 8, 8).contiguous()


def test_each_player_has_its_own_rates_betas_and_schedules() -> None:
    network = gan(
        discriminator_lr=4e-3, discriminator_betas=[0.5, 0.9], beta2_final=0.999, anneal_images=400, lr_final=0.25,
        gamma=2.0, gamma_final=0.2,
    )  # fmt: skip
    players, next_batch = learner(network), batches()
    first = players.train_step(next_batch, 0)
    assert (first["lr"], first["d_lr"], first["gamma"]) == (1e-3, 4e-3, 2.0)
    groups = {name: optimizer.param_groups[0] for name, optimizer in players.optimizers.items()}
    assert groups["generator"]["betas"] == (0.0, 0.99)
    assert groups["discriminator"]["betas"] == (0.5, 0.9)
    half = players.train_step(next_batch, 25)  # 200 of 400 images
    assert half["gamma"] == pytest.approx(1.1)
    assert half["lr"] == pytest.approx(1e-3 * 0.625)
    assert groups["discriminator"]["betas"][1] == pytest.approx((0.9 + 0.999) / 2)
    last = players.train_step(next_batch, 70)
    assert (last["gamma"], last["lr"], last["d_lr"]) == pytest.approx((0.2, 2.5e-4, 1e-3))
    assert groups["generator"]["betas"][1] == pytest.approx(0.999)
    players.lr_scale = 0.5
    assert players.train_step(next_batch, 70)["d_lr"] == pytest.approx(5e-4)
    assert annealed(3.0, 1.0, 10**9, 0) == 3.0
    with pytest.raises(UserError, match="has no betas"):
        learner(
            gan(beta2_final=0.9),
            build=lambda p: sgd(p, 0.1, momentum=0.0, nesterov=False, weight_decay=0.0),
        )


def test_accumulation_is_the_same_step() -> None:
    """With latents that are given, two halves of a batch are the whole: gradients, penalties, figures."""
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    outcomes = []
    for parts in (1, 2):
        players, at = learner(gan(), accumulate_steps=parts), [0]

        def latents(n: int, noise: object = None, at: list[int] = at) -> Tensor:
            at[0] += n
            return z[(at[0] - n) % 8 : (at[0] - n) % 8 + n]

        players.network.latents = latents  # type: ignore[assignment]
        metrics = players._discriminator_step(to_unit(batches()(), 256), 1.0)
        metrics |= players._generator_step(to_unit(batches()(), 256))
        outcomes.append(({k: v.item() for k, v in metrics.items()}, players.network.state_dict()))
    right = {"d_right_real", "d_right_fake"}  # of each part's own middle
    for name in outcomes[0][0].keys() - right:
        assert outcomes[0][0][name] == pytest.approx(outcomes[1][0][name], rel=1e-4, abs=1e-6), name


def test_the_average_is_the_generators_alone() -> None:
    players, next_batch = learner(gan()), batches()
    for step in range(5):
        players.train_step(next_batch, step)
    average = players.average
    assert average is not None
    assert {name.split(".")[1] for name in average.state_dict() if name != "n_averaged"} == {"generator"}
    assert players.model.discriminator is players.network.discriminator
    assert players.model.generator is not players.network.generator
    noise = torch.Generator().manual_seed(0)
    averaged = players.sample(4, noise)
    assert not torch.equal(averaged, players.network.sample(4, torch.Generator().manual_seed(0)))


def test_batch_statistics_of_dcgan_are_not_moved_by_looking() -> None:
    """BatchNorm's buffers change in training steps only: the watch and the samples leave them alone."""
    shape = ImageShape(1, 28, 28)
    network = gan(shape, network="dcgan", loss="non_saturating", alarm_every_steps=1)
    players = learner(network)
    players.train_step(batches(shape), 0)
    before = {name: value.clone() for name, value in players.network.state_dict().items()}
    players._watched_pictures()
    players.sample(4, torch.Generator())
    players.eval_step(batches(shape)(), torch.Generator())
    assert_same(before, dict(players.network.state_dict()))
    players.train_step(batches(shape), 1)
    assert players.network.generator.training
    assert players.network.discriminator.training


# ---- runs


def test_what_a_run_shows_and_what_it_can_do(gentrain: Command, tiny: list[str]) -> None:
    outcome = gentrain(*tiny, *FAMILIES["gan"], "run_dir=run")
    assert outcome.status == 0, outcome.err
    for words in ("D loss", "G loss", "D(x)", "D(G(z))", "margin", "right real", "right fake", "diversity"):
        assert words in outcome.out, words
    tags = {tag for line in (Path("run/metrics.jsonl")).read_text().splitlines() for tag in json.loads(line)}
    wanted = "d_loss g_loss d_real d_fake logit_margin logit_real logit_fake d_right_real d_right_fake r1 r2 gamma "
    wanted += "d_grad_norm g_grad_norm d_lr lr diversity"
    assert {f"train/{name}" for name in wanted.split()} | {"valid/logit_real", "valid/logit_fake"} <= tags
    assert not any("bits_per_dim" in tag or "best" in tag for tag in tags)
    assert [p.name for p in Path("run/interpolation").iterdir()] == ["step_00000006.png"]
    assert Image.open("run/interpolation/step_00000006.png").size == (82, 82)
    run = library.load("run")
    raw = library.load("run", average=False)
    assert (run.averaged, raw.averaged) == (True, False)
    assert not torch.equal(run.sample(8), raw.sample(8))
    stored = newest(Path("run"))["parts"]
    assert torch.equal(
        raw.model.state_dict()["generator.basis.constant"], stored["model"]["generator.basis.constant"]
    )
    x = run.sample(2)
    for function, sentence in (
        (run.log_prob, "a gan has no likelihood"),
        (run.reconstruct, "a gan reconstructs nothing"),
        (run.encode, "a gan has no encoder"),
    ):
        with pytest.raises(UserError, match=sentence):
            function(x)
    for task in ("sample", "evaluate"):
        refused = gentrain(f"task={task}", "run=run", "checkpoint=best")
        assert refused.status == 2
        assert (
            "run has no best checkpoint: no evaluation has found the figure that chooses one" in refused.err
        )
    assert (
        "(last weights)" in gentrain("task=sample", "run=run", "sample.average=false", "sample.count=2").out
    )
    assert gentrain("task=evaluate", "run=run").status == 0
    figures = json.loads(Path("run/evaluation.json").read_text())["figures"]
    assert figures.keys() == {"logit_real", "logit_fake", "seconds_for_64_samples"}


def test_init_from_takes_both_players(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES["gan"], "run_dir=first")
    more = ["train.max_steps=1", "optimizer.lr=1e-30", "run_dir=second", "init_from=first"]
    assert gentrain(*tiny, *FAMILIES["gan"], *more).status == 0
    first, second = (newest(Path(name))["parts"] for name in ("first", "second"))
    for name, value in second["model"].items():
        taken = first["ema"].get(f"module.{name}", first["model"][name])
        assert torch.allclose(value, taken, atol=1e-12), name


@pytest.mark.parametrize("changes", [["model.loss=wgan_gp", "model.gamma=10"], ["model.loss=hinge", "model.augment=[color,translation,cutout]"], ["model.network=dcgan", "data.size=28", "model.loss=non_saturating"]])  # fmt: skip
def test_other_games_resume_exactly(changes: list[str], gentrain: Command, tiny: list[str]) -> None:
    command = [
        *tiny,
        *FAMILIES["gan"],
        *changes,
        "model.discriminator_steps=2",
        "optimizer.schedule=constant",
    ]
    assert gentrain(*command, "run_dir=whole").status == 0
    gentrain(*command, "run_dir=cut", "train.max_steps=4")
    gentrain("resume=cut", "train.max_steps=6")
    assert_same(newest(Path("whole"))["parts"], newest(Path("cut"))["parts"])
