"""The line scan against a loop written for clarity, and what each variant of a PixelRNN sees."""

from __future__ import annotations

import itertools

import pytest
import torch
from pixel_nets import RNN_VARIANTS, images, nats, small, trunk_jacobian
from torch import Tensor

from gentrain.images import ImageShape
from gentrain.models.pixel.autoregressive import Autoregressive
from gentrain.models.pixel.line_lstm import Lines, diagonals, line_scan, rows
from gentrain.models.pixel.recurrent import DiagonalBiLSTM, LSTMWeights, RowLSTM

Offset = tuple[int, int]
# A scan: how pixels are put into lines, a pixel's neighbours, and the one whose cell goes on.
SCANS = {
    "rows": (rows, [(-1, -1), (-1, 0), (-1, 1)], (-1, 0)),
    "diagonals": (diagonals, [(0, -1), (-1, 0)], (0, -1)),
}
SIZES = [(1, 1), (1, 4), (4, 1), (4, 5), (5, 3)]


def plain_scan(
    pre_HWBD: Tensor, weight_TCD: Tensor, neighbours: list[Offset], cell: Offset, order: list[Offset]
) -> Tensor:
    """The LSTM's equations, pixel by pixel: (H, W, B, C)."""
    h: dict[Offset, Tensor] = {}
    c: dict[Offset, Tensor] = {}
    for y, x in order:
        gates = pre_HWBD[y, x]
        for (dy, dx), weight_CD in zip(neighbours, weight_TCD, strict=True):
            if (y + dy, x + dx) in h:
                gates = gates + h[y + dy, x + dx] @ weight_CD
        i, f, o, g = gates.chunk(4, dim=-1)
        before = c.get((y + cell[0], x + cell[1]), torch.zeros_like(i))
        c[y, x] = f.sigmoid() * before + i.sigmoid() * g.tanh()
        h[y, x] = o.sigmoid() * c[y, x].tanh()
    height, width = pre_HWBD.shape[:2]
    return torch.stack([torch.stack([h[y, x] for x in range(width)]) for y in range(height)])


def reading_order(height: int, width: int) -> list[Offset]:
    return list(itertools.product(range(height), range(width)))


def place_of_pixel(lines: Lines) -> Tensor:
    pixels = torch.tensor(lines.pixels)
    return torch.empty_like(pixels).scatter_(0, pixels, torch.arange(len(pixels)))


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_scan_is_the_plain_loop_in_float64_with_its_gradients(scan: str, size: Offset) -> None:
    arrange, neighbours, cell = SCANS[scan]
    lines, (height, width) = arrange(*size), size
    assert sorted(lines.pixels) == list(range(height * width))
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(2, height * width, 3, 8, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(2, len(neighbours), 2, 8, dtype=torch.float64, generator=generator).requires_grad_()
    scanned = line_scan(pre.clone(), weight, lines)
    # Into reading order, through the loop, and back.
    to_reading = place_of_pixel(lines)
    plain = torch.stack(
        [
            plain_scan(pre[g][to_reading].unflatten(0, size), weight[g], neighbours, cell, reading_order(*size))
            .flatten(0, 1)[torch.tensor(lines.pixels)]
            for g in range(2)
        ]
    )  # fmt: skip
    assert torch.allclose(scanned, plain, rtol=0, atol=1e-14)
    coefficients = torch.randn(scanned.shape, dtype=torch.float64, generator=generator)
    ours = torch.autograd.grad((scanned * coefficients).sum(), (pre, weight))
    theirs = torch.autograd.grad((plain * coefficients).sum() + 0 * weight.sum(), (pre, weight))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scan", SCANS)
def test_gradients_are_those_of_finite_differences(scan: str) -> None:
    arrange, neighbours, _ = SCANS[scan]
    generator = torch.Generator().manual_seed(1)
    pre = torch.randn(1, 9, 2, 4, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(1, len(neighbours), 1, 4, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, w: line_scan(p.clone(), w, arrange(3, 3)), (pre, weight))


def test_overwriting_what_another_gradient_needs_is_noticed() -> None:
    leaf = torch.randn(1, 9, 2, 4, requires_grad=True)
    weight = torch.randn(1, 3, 1, 4, requires_grad=True)
    pre = leaf.sigmoid()  # whose gradient is made of its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        line_scan(pre, weight, rows(3, 3)).sum().backward()
    pre = 2 * leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (line_scan(pre, weight, rows(3, 3)) + line_scan(pre, weight, rows(3, 3))).sum().backward()


def plain_lstm(weights: LSTMWeights, direction: int, x_HWBK: Tensor, scan: str) -> Tensor:
    _, neighbours, cell = SCANS[scan]
    pre_HWBD = x_HWBK @ weights.input_GKD[direction] + weights.bias_GD[direction]
    order = reading_order(*x_HWBK.shape[:2])
    return plain_scan(pre_HWBD, weights.state_GTCD[direction], neighbours, cell, order)


def test_a_row_lstm_layer_is_the_papers() -> None:
    """Its gates take the pixel and its left neighbour, and the three outputs above."""
    torch.manual_seed(0)
    layer, x_HWBF = RowLSTM(2).double(), torch.randn(4, 5, 3, 4, dtype=torch.float64)
    left_HWBF = torch.cat([torch.zeros_like(x_HWBF[:, :1]), x_HWBF[:, :-1]], 1)
    plain = plain_lstm(layer.lstm, 0, torch.cat([left_HWBF, x_HWBF], -1), "rows")
    assert torch.allclose(layer(x_HWBF.flatten(0, 1), 4, 5).unflatten(0, (4, 5)), plain, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_diagonal_bilstm_layer_is_the_papers(size: Offset) -> None:
    """From the left, plus from the right on the mirrored picture, mirrored back and moved down by a row."""
    torch.manual_seed(0)
    layer, x_HWBF = DiagonalBiLSTM(2).double(), torch.randn(*size, 3, 4, dtype=torch.float64)
    left = plain_lstm(layer.lstm, 0, x_HWBF, "diagonals")
    right = plain_lstm(layer.lstm, 1, x_HWBF.flip(1), "diagonals").flip(1)
    plain = left + torch.cat([torch.zeros_like(right[:1]), right[:-1]])
    lines = diagonals(*size)
    ours = layer(x_HWBF.flatten(0, 1)[torch.tensor(lines.pixels)], *size)
    assert torch.allclose(ours[place_of_pixel(lines)].unflatten(0, size), plain, rtol=0, atol=1e-14)


def seen_by_row_lstms(height: int, width: int, first: int, layers: int) -> Tensor:
    """docs/pixelrnn.md's formula, (H, W, H, W): whether a pixel is seen from another."""
    f = first // 2
    seen = torch.zeros(height, width, height, width, dtype=torch.bool)
    for y, x, y2, x2 in itertools.product(range(height), range(width), range(height), range(width)):
        up, right = y - y2, x2 - x
        if up == 0:
            seen[y, x, y2, x2] = -(f + layers) <= right <= -1
        elif up > 0:
            seen[y, x, y2, x2] = -(f + layers + up) <= right <= f + up - 1
    return seen


def seen_by_diagonal_bilstms(height: int, width: int, first: int) -> Tensor:
    """Everything before, but the last pixel of the row above: only the first convolution reaches it."""
    f, number = first // 2, torch.arange(height * width)
    seen = (number[:, None] > number).view(height, width, height, width)
    for y, x in itertools.product(range(1, height), range(width)):
        seen[y, x, y - 1, width - 1] = x + f >= width - 1
    return seen


@pytest.mark.parametrize(("first", "layers"), [(3, 1), (5, 1), (3, 3), (7, 2)])
def test_row_lstms_see_the_documented_triangle(first: int, layers: int) -> None:
    model = small(ImageShape(1, 6, 13), variant="row_lstm", first_kernel=first, layers=layers)
    jacobian = trunk_jacobian(model)
    assert torch.equal(jacobian != 0, seen_by_row_lstms(6, 13, first, layers))


@pytest.mark.parametrize(("first", "layers"), [(3, 1), (5, 1), (3, 3), (7, 2)])
def test_diagonal_bilstms_see_all_but_one_pixel(first: int, layers: int) -> None:
    """As published: the map from the right, moved down a row, never sees the last pixel of the row above."""
    model = small(ImageShape(1, 5, 9), variant="diagonal_bilstm", first_kernel=first, layers=layers)
    jacobian = trunk_jacobian(model)
    assert torch.equal(jacobian != 0, seen_by_diagonal_bilstms(5, 9, first))


@pytest.mark.parametrize("variant", RNN_VARIANTS)
def test_under_bfloat16_the_sampler_agrees_with_the_full_pass(variant: str) -> None:
    """On the CPU nobody draws in bfloat16; here it stands in for CUDA, where the trunk's cache is of that type."""
    shape = ImageShape(1, 6, 5, 8)
    model, x = small(shape, 0.1, variant=variant), images(shape, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        full = model.params(x)
    assert (cached(model, x, torch.bfloat16) - full.float()).norm() < 0.01 * full.float().norm()


def cached(model: Autoregressive, x_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """The incremental pass with a cache of the given type, (B, H, W, P)."""
    levels = x_BCHW.long()
    rows_of_params = []
    with torch.no_grad():
        state = model.begin(len(x_BCHW), *x_BCHW.shape[2:])
        state.trunk = model.trunk.begin(len(x_BCHW), x_BCHW.shape[3], dtype)
        for y in range(x_BCHW.shape[2]):
            model.row(state, levels[:, :, y - 1].permute(2, 0, 1) if y else None)
            lefts = [None, *levels[:, :, y].unbind(2)[:-1]]
            rows_of_params.append(
                torch.stack([model.pixel(state, x, left) for x, left in enumerate(lefts)], 1)
            )
    return torch.stack(rows_of_params, 1)


@pytest.mark.parametrize("variant", RNN_VARIANTS)
def test_a_network_trained_after_an_evaluation_in_inference_mode(variant: str) -> None:
    """Index tensors are kept: made in inference mode, they must still serve training."""
    shape = ImageShape(1, 7, 11, 8)
    model, x = small(shape, variant=variant), images(shape, 2)
    with torch.inference_mode():
        before = nats(model, x)
    loss, _ = model.train_loss(x, 0)
    loss.backward()
    assert loss.item() == pytest.approx(before.mean().item() / shape.dims / 0.6931472, rel=1e-5)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
