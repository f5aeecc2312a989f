"""Causality pixel by pixel and channel by channel, probabilities that sum to one, and entropies that are known.

For every variant of PixelCNN and PixelRNN.
"""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
import yaml
from pixel_nets import CONFIGS, OUTPUTS, VARIANTS, images, nats, small
from torch import Tensor, nn

from gentrain.errors import UserError
from gentrain.images import ImageShape, bits_per_dim
from gentrain.models.pixel.pixelcnn import pixelcnn
from gentrain.models.pixel.pixelrnn import pixelrnn


@pytest.mark.parametrize(("family", "name"), [(pixelcnn, "pixelcnn"), (pixelrnn, "pixelrnn")])
def test_the_yaml_lists_every_setting_and_no_other(family: object, name: str) -> None:
    parameters = inspect.signature(family).parameters.values()  # type: ignore[arg-type]
    keywords = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]) == keywords | {"name"}


# ---- nothing sees the future


class OneHot(nn.Module):
    """An embedding by a product with one-hot vectors, kept so that derivatives to them can be asked for."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.seen = weight, []

    def forward(self, index: Tensor) -> Tensor:
        self.seen.append(nn.functional.one_hot(index, len(self.weight)).to(self.weight).requires_grad_())
        return self.seen[-1] @ self.weight


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_output_depends_on_itself_or_the_future(variant: str, output: str, channels: int) -> None:
    """d log p(level of channel c at pixel i) / d one-hot pixels: over pixels and channels, in reading order."""
    shape = ImageShape(channels, 3, 4, 5)
    model = small(shape, variant=variant, output=output).double()
    x_BCHW = images(shape, 1)
    embedding = OneHot(model.embedding.weight)
    model.embedding = embedding  # type: ignore[assignment]
    params_BHWP = model.params(x_BCHW)
    (seen,) = embedding.seen
    for y, x in itertools.product(range(3), range(4)):
        (gradient,) = torch.autograd.grad(params_BHWP[0, y, x].abs().sum(), seen, retain_graph=True)
        matters_HW = gradient.abs().reshape(3, 4, -1).sum(2) > 0
        place = torch.arange(12).view(3, 4)
        assert not matters_HW[place >= 4 * y + x].any()
        assert matters_HW.any() == (y + x > 0)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_channel_depends_on_the_earlier_ones_of_its_pixel_alone(output: str) -> None:
    shape = ImageShape(3, 1, 1, 6)
    model = small(shape, output=output)
    params_BP = model.params(images(shape, 1))[:, 0, 0]
    for channel, other in itertools.product(range(3), range(3)):
        logits = []
        for level in range(6):
            levels = torch.tensor([[2, 3, 1]])
            levels[0, other] = level
            logits.append(
                model.head.level_logits(model.head.prepare(), params_BP, channel, levels).log_softmax(1)
            )
        depends = any(not torch.equal(logits[0], each) for each in logits[1:])
        assert depends == (other < channel)


# ---- probabilities sum to one


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("chw_levels", [(1, 2, 3, 2), (3, 2, 2, 3)], ids=["2x3 binary", "2x2 colour"])
def test_all_images_together_have_probability_one(
    variant: str, output: str, chw_levels: tuple[int, int, int, int]
) -> None:
    shape = ImageShape(*chw_levels)
    net = {"width": 3, "layers": 2, "first_kernel": 3, "head_width": 4, "mixtures": 2}
    model = small(shape, variant=variant, output=output, **net)
    digits = torch.arange(shape.levels**shape.dims)
    total, chosen = 0.0, []
    for part in digits.split(2**16):
        powers = shape.levels ** torch.arange(shape.dims)
        x_BCHW = (part[:, None] // powers % shape.levels).to(torch.uint8).view(-1, *shape.chw)
        with torch.no_grad():
            log_p_B = -model(x_BCHW).double()
        total += log_p_B.exp().sum().item()
        chosen.append(log_p_B)
    assert total == pytest.approx(1, abs=1e-5)
    assert torch.cat(chosen).std() > 0.1, "and they are not all alike"


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_the_mixtures_levels_sum_to_one_and_agree_with_its_likelihood(channel: int) -> None:
    """log p(R) + log p(G | R) + log p(B | R, G), channel by channel, is what `nll` says of the pixel."""
    shape = ImageShape(3, 1, 1)
    model = small(shape, 1.0, output="logistic_mixture")
    params_BP = model.params(images(shape, 1))[:, 0, 0].expand(20, -1).double()
    x_BC = images(shape, 20, seed=1)[:, :, 0, 0].long()
    x_BC[0], x_BC[1] = 0, 255  # the open bins
    log_p_BV = model.head.level_logits(model.head.prepare(), params_BP, channel, x_BC)
    assert torch.allclose(log_p_BV.logsumexp(1), torch.zeros(20, dtype=torch.float64), atol=1e-6)
    if channel == 2:
        total_B = sum(
            model.head.level_logits(model.head.prepare(), params_BP, c, x_BC).gather(1, x_BC[:, c : c + 1])[
                :, 0
            ]
            for c in range(3)
        )
        nll_B = model.head.mixture.nll(x_BC[:, :, None, None].to(torch.uint8), params_BP[:, :, None, None])
        assert torch.allclose(total_B, -nll_B, atol=1e-6)


def test_a_new_softmax_model_is_uniform_at_eight_bits() -> None:
    for channels in (1, 3):
        shape = ImageShape(channels, 5, 4)
        model = small(shape, scale=0.0)
        bits_B = bits_per_dim(nats(model, images(shape, 40)), shape)
        assert torch.allclose(bits_B, torch.full((40,), 8.0), atol=1e-5)


# ---- learning


def markov_images(count: int, stay: float, seed: int) -> Tensor:
    """Binary 6x6 images, the same as their left neighbour (or the one above, at the edge) with probability `stay`."""
    generator = torch.Generator().manual_seed(seed)
    flips = (torch.rand(count, 6, 6, generator=generator) > stay).long()
    flips[:, 0, 0] = torch.randint(0, 2, (count,), generator=generator)
    x = torch.empty(count, 6, 6, dtype=torch.long)
    x[:, :, 0] = flips[:, :, 0].cumsum(1) % 2
    for column in range(1, 6):
        x[:, :, column] = (x[:, :, column - 1] + flips[:, :, column]) % 2
    return x[:, None].to(torch.uint8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_markov_source_is_learned_to_within_a_percent_of_its_entropy(variant: str, output: str) -> None:
    shape, stay = ImageShape(1, 6, 6, 2), 0.9
    entropy = math.log(2) + 35 * -(stay * math.log(stay) + (1 - stay) * math.log(1 - stay))
    model = small(shape, 0.0, variant=variant, output=output, width=12, layers=2, first_kernel=3, mixtures=2)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    steps = 300
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        loss, metrics = model.train_loss(markov_images(128, stay, seed=step), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["bits_per_dim"] == loss.detach()
    model.eval()
    x_BCHW = markov_images(20000, stay, seed=10**6)
    # Against the true probability of the same images: their own deviation from the entropy cancels.
    same = (x_BCHW[:, 0, :, 1:] == x_BCHW[:, 0, :, :-1]).flatten(1).sum(1)
    same = same + (x_BCHW[:, 0, 1:, 0] == x_BCHW[:, 0, :-1, 0]).sum(1)
    true_B = math.log(2) - same * math.log(stay) - (35 - same) * math.log(1 - stay)
    excess = (nats(model, x_BCHW).double() - true_B).mean().item()
    assert -0.001 * entropy < excess < 0.01 * entropy, excess / entropy


@pytest.mark.parametrize("output", OUTPUTS)
def test_colour_is_modelled_in_full(output: str) -> None:
    """R is a fair coin of two levels and G = B = R: one bit a pixel, where independent channels would take three."""
    shape = ImageShape(3, 4, 4, 4)
    model = small(shape, 0.0, output=output, width=12, layers=1, first_kernel=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for step in range(150):
        coin = torch.randint(0, 2, (64, 1, 4, 4), generator=generator, dtype=torch.uint8)
        loss, _ = model.train_loss((1 + coin).expand(-1, 3, -1, -1), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0.99 < loss.item() * 3 < 1.15


def test_dropout_is_for_training_only() -> None:
    shape = ImageShape(1, 5, 5, 4)
    for variant in VARIANTS:
        model, x = small(shape, variant=variant, dropout=0.5), images(shape, 2)
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_parameter_is_used(variant: str, output: str) -> None:
    shape = ImageShape(3, 6, 5, 8)
    model = small(shape, variant=variant, output=output)
    model.train_loss(images(shape, 4), 0)[0].backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


def test_bfloat16_autocast_keeps_the_likelihood_in_float32() -> None:
    shape = ImageShape(3, 8, 8)
    for output in OUTPUTS:
        model, x = small(shape, 0.05, output=output), images(shape, 4)
        plain = nats(model, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = nats(model, x)
        assert mixed.dtype == torch.float32
        assert torch.allclose(mixed, plain, rtol=0.02)


def test_two_channels_are_no_logistic_mixture() -> None:
    with pytest.raises(UserError, match=r"data\.channels"):
        small(ImageShape(2, 4, 4), output="logistic_mixture")
