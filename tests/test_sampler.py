"""The incremental sampler against the full pass: the same logits, and under the same noise the same pictures."""

from __future__ import annotations

import copy
import itertools
from functools import cache
from typing import Any

import pytest
import torch
from pixel_nets import CNN_VARIANTS, OUTPUTS, VARIANTS, images, small
from scipy.stats import chisquare
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gentrain.errors import UserError
from gentrain.images import ImageShape
from gentrain.models.pixel import sampler
from gentrain.models.pixel.autoregressive import Autoregressive
from gentrain.models.pixel.sampler import Draw, GumbelNoise, Naive, draw_batch, draw_pictures

CPU = torch.device("cpu")
SHAPES = [ImageShape(1, 6, 9, 16), ImageShape(3, 7, 4, 16)]
KINDS = list(itertools.product(VARIANTS, OUTPUTS, SHAPES))
kinds = pytest.mark.parametrize(
    ("variant", "output", "shape"), KINDS, ids=[f"{v}-{o}-{s.channels}" for v, o, s in KINDS]
)


@cache
def trained(variant: str, output: str, shape: ImageShape) -> Autoregressive:
    """Trained for a moment on pictures with structure: random weights hide mistakes."""
    model = small(
        shape, 0.0, variant=variant, output=output, width=12, layers=3, first_kernel=5, head_width=16
    )
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    ramp_HW = torch.arange(shape.height)[:, None] + torch.arange(shape.width)
    for step in range(60):
        start = torch.randint(0, 16, (16, shape.channels, 1, 1), generator=generator)
        loss, _ = model.train_loss(((start + ramp_HW) % 16).to(torch.uint8), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 3.5, "four bits would be nothing learned"
    return model.eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def incremental_params(model: Autoregressive, x_BCHW: Tensor) -> Tensor:
    """What the three calls say of every pixel of given pictures, (B, H, W, P)."""
    levels = x_BCHW.long()
    state = model.begin(len(x_BCHW), *x_BCHW.shape[2:])
    rows = []
    for y in range(x_BCHW.shape[2]):
        model.row(state, levels[:, :, y - 1].permute(2, 0, 1) if y else None)
        lefts = [None, *levels[:, :, y].unbind(2)[:-1]]
        rows.append(torch.stack([model.pixel(state, x, left) for x, left in enumerate(lefts)], 1))
    return torch.stack(rows, 1)


@kinds
def test_incremental_equals_the_full_pass_on_every_pixel(
    variant: str, output: str, shape: ImageShape
) -> None:
    model, x = trained(variant, output, shape), images(shape, 4)
    with torch.no_grad():
        full = model.params(x)
    assert torch.allclose(incremental_params(model, x), full, rtol=1e-5, atol=1e-5 * full.abs().max().item())
    try:
        double = model.double()
        with torch.no_grad():
            error = (incremental_params(double, x) - double.params(x)).abs().max()
        assert error < 1e-12 * full.abs().max()
    finally:
        model.float()


@kinds
@pytest.mark.parametrize(
    "draw", [Draw(), Draw(0.7), Draw(mode="argmax")], ids=["draw", "temperature", "argmax"]
)
def test_naive_and_incremental_draw_the_same_pictures(
    variant: str, output: str, shape: ImageShape, draw: Draw
) -> None:
    model, size = trained(variant, output, shape), (shape.height, shape.width)
    fast = draw_batch(model, [1, 2, 3, 4, 5], size, draw, CPU)
    slow = draw_batch(Naive(model, model.params), [1, 2, 3, 4, 5], size, draw, CPU)
    assert torch.equal(fast, slow)
    assert fast.shape == (5, *shape.chw) and fast.dtype == torch.uint8
    assert (len(fast.unique(dim=0)) == 1) == (draw.mode == "argmax")


def sizes(variant: str, first: int, other: int) -> dict[str, int]:
    """A PixelRNN has no kernels but the first."""
    return {"first_kernel": first} | ({"kernel": other} if variant in CNN_VARIANTS else {})


@pytest.mark.parametrize("kernels", [(3, 3), (7, 5), (11, 7)])
def test_every_kernel_and_a_picture_smaller_than_it(kernels: tuple[int, int]) -> None:
    for variant, (height, width) in itertools.product(VARIANTS, [(1, 1), (2, 5), (8, 3)]):
        shape = ImageShape(3, height, width, 8)
        model = small(shape, variant=variant, **sizes(variant, *kernels))
        x = images(shape, 2)
        with torch.no_grad():
            assert torch.allclose(incremental_params(model, x), model.params(x), atol=1e-4)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_have_the_levels_probabilities_to_the_power_of_one_by_the_temperature(
    output: str, temperature: float
) -> None:
    shape = ImageShape(3, 1, 1, 5)
    model = small(shape, 0.6, output=output)
    drawn = draw_pictures(model, 40_000, generator(), CPU, Draw(temperature))[:, :, 0, 0].long()
    expected = torch.ones(5, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        params_BP = model.params(images(shape, 1))[:, 0, 0].double()
        for c in range(3):
            earlier = torch.cartesian_prod(*[torch.arange(5)] * 3)
            logits = model.head.level_logits(
                model.head.prepare(), params_BP.float().expand(125, -1), c, earlier
            ).double()
            probability = (logits / temperature).softmax(1).gather(1, earlier[:, c : c + 1])
            expected *= probability.view(5, 5, 5)
    counts = torch.bincount(drawn @ torch.tensor([25, 5, 1]), minlength=125).double()
    assert chisquare(counts.numpy(), (40_000 * expected.flatten() / expected.sum()).numpy()).pvalue > 1e-3


def test_a_picture_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("gated", "softmax", SHAPES[0])
    whole = draw_pictures(model, 10, generator(), CPU)
    assert torch.equal(whole[:4], draw_pictures(model, 4, generator(), CPU))
    monkeypatch.setattr(sampler, "CPU_BATCH", 3)
    seen: list[tuple[int, int]] = []
    split = draw_pictures(
        model, 10, generator(), CPU, progress=lambda done, total: seen.append((done, total))
    )
    assert torch.equal(whole, split)
    assert seen == [(row + 1, 24) for row in range(24)], "4 batches of 6 rows"


def test_batches_are_sized_to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("gated", "softmax", SHAPES[0])
    assert sampler.batch_size(model, 10 * sampler.CPU_BATCH, CPU) == sampler.CPU_BATCH
    monkeypatch.setattr(sampler, "BATCH_BYTES", 100_000)
    assert 1 <= sampler.batch_size(model, 100, CPU) < 20
    for variant in VARIANTS:  # the estimate is near the truth
        net = small(ImageShape(1, 28, 28), variant=variant, width=32, layers=6)
        tensors: dict[int, Tensor] = {}
        collect(net.begin(10, 28, 28).trunk, tensors)
        held = sum(t.untyped_storage().nbytes() for t in tensors.values() if 10 in t.shape) / 10
        assert 0.7 < net.bytes_per_image(28, 28) / held < 2


def collect(thing: object, tensors: dict[int, Tensor]) -> None:
    """Every storage that an object's attributes reach."""
    if isinstance(thing, Tensor):
        if thing._base is None:
            tensors[thing.untyped_storage().data_ptr()] = thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            collect(part, tensors)
    elif type(thing).__module__.startswith("gentrain") and not isinstance(thing, torch.nn.Module):
        collect(list(vars(thing).values()), tensors)


def test_noise_is_gumbel_and_each_pictures_own() -> None:
    buffer = torch.empty(3, 50, 2, 100)
    GumbelNoise([7, 8, 9], CPU).fill_row(buffer)
    alone = torch.empty(1, 50, 2, 100)
    GumbelNoise([8], CPU).fill_row(alone)
    assert torch.equal(buffer[1:2], alone)
    assert buffer.mean().item() == pytest.approx(0.5772, abs=0.03)
    assert buffer.std().item() == pytest.approx(torch.pi / 6**0.5, abs=0.03)
    assert buffer.isfinite().all()


@kinds
def test_completion_keeps_what_is_known_and_draws_the_rest(
    variant: str, output: str, shape: ImageShape
) -> None:
    model, x = trained(variant, output, shape), images(shape, 3)
    known = torch.rand(1, 1, shape.height, shape.width, generator=generator(1)) < 0.5
    done = model.complete(x, known, generator())
    everywhere = known.expand_as(x)
    assert torch.equal(done[everywhere], x[everywhere])
    assert not torch.equal(done, x)
    assert torch.equal(done, model.complete(x, known, generator()))
    assert not torch.equal(done, model.complete(x, known, generator(1)))
    assert torch.equal(model.complete(x, torch.ones_like(known), generator()), x)
    nothing = model.complete(x, torch.zeros_like(known), generator())
    assert torch.equal(nothing, model.sample(3, generator())), "with nothing known: a sample"


def test_completion_continues_what_it_was_given() -> None:
    """The ramp goes on from the given rows: the drawn pixels are conditioned on the known ones."""
    shape = SHAPES[0]
    model = trained("gated", "softmax", shape)
    ramp_HW = (torch.arange(shape.height)[:, None] + torch.arange(shape.width)) % 16
    x = ramp_HW[None, None].to(torch.uint8).repeat(8, 1, 1, 1)
    known = torch.zeros(1, 1, shape.height, shape.width, dtype=torch.bool)
    known[:, :, :3] = True
    hits = (model.complete(x * known, known, generator()) == x)[:, :, 3:].float().mean().item()
    assert hits > 0.5, "by chance it would be 1/16"


def test_a_mask_of_another_shape_is_a_mistake() -> None:
    model, x = trained("gated", "softmax", SHAPES[0]), images(SHAPES[0], 1)
    for known in (torch.zeros(1, 1, 9, 6, dtype=torch.bool), torch.zeros(1, 1, 6, 9)):
        with pytest.raises(UserError, match="known pixels must be bool"):
            model.complete(x, known, generator())


class Recorder(TorchDispatchMode):
    """Every operation with the shapes and the plain numbers that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        flat = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        plain = [tuple(a.shape) if isinstance(a, Tensor) else a for a in flat]
        self.calls.append(f"{func} {plain}")
        return func(*args, **(kwargs or {}))


@kinds
def test_rows_after_the_first_are_the_same_operations(variant: str, output: str, shape: ImageShape) -> None:
    """What a CUDA graph needs: a row recorded once can stand for every other, the number of the row included."""
    model = trained(variant, output, shape)
    with torch.no_grad():
        rows = sampler._Rows(model, 2, (shape.height, shape.width), Draw(), CPU, given=True)
        assert rows.gumbel_BWCV is not None
        rows.gumbel_BWCV.zero_()
        recorded = []
        for number in range(4):
            places = {id(t): t.data_ptr() for t in (rows.levels_WBC, rows.gumbel_BWCV, rows.given_WBC)}
            buffers: dict[int, Tensor] = {}
            collect(rows.state, buffers)
            with Recorder() as recorder:
                rows.next_row(first=number == 0)
            after: dict[int, Tensor] = {}
            collect(rows.state, after)
            assert buffers.keys() == after.keys(), "nothing of the state has moved"
            assert places == {
                id(t): t.data_ptr() for t in (rows.levels_WBC, rows.gumbel_BWCV, rows.given_WBC)
            }
            recorded.append(recorder.calls)
    assert recorded[1] == recorded[2] == recorded[3]


def test_on_the_cpu_autocast_does_not_touch_the_sampler() -> None:
    model = trained("gated", "softmax", SHAPES[0])
    plain = model.sample(3, generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain, model.sample(3, generator()))


def test_samples_can_be_trained_on() -> None:
    model = trained("gated", "softmax", SHAPES[0])
    with torch.inference_mode():
        model.sample(1, generator())
    model.zero_grad()
    loss, _ = model.train_loss(model.sample(2, generator()), 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_on_cuda_the_distribution_is_unchanged(precision: str) -> None:
    """Samples of the recorded rows have the mean log-likelihood of the CPU's, under the full float32 pass."""
    model, device = trained("gated", "softmax", SHAPES[1]), torch.device("cuda")
    n = 2000
    reference = model.evaluate(draw_pictures(model, n, generator(), CPU), None)["nats"].double()
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        model.to(device)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
            drawn = model.sample(n, generator()).cpu()
    finally:
        model.to(CPU)
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    nats = model.evaluate(drawn, None)["nats"].double()
    error = ((nats.var() + reference.var()) / n).sqrt()
    assert (nats.mean() - reference.mean()).abs() < 4 * error


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_on_cuda_replayed_rows_draw_what_rows_drawn_as_they_come_draw(variant: str, output: str) -> None:
    """In two batches, one after the other, and with given pixels."""
    model, device = copy.deepcopy(trained(variant, output, SHAPES[1])), torch.device("cuda")
    model.to(device)
    shape = model.shape
    given_BCHW = torch.zeros(2, *shape.chw, dtype=torch.uint8, device=device)
    known_HW = torch.zeros(shape.height, shape.width, dtype=torch.bool, device=device)
    known_HW[0] = True
    drawn = []
    for recordable in (True, False):
        model.recordable = recordable
        for seeds in ([1, 2], [3, 4]):
            size = shape.height, shape.width
            drawn.append(draw_batch(model, seeds, size, Draw(), device, given_BCHW, known_HW))
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])


@pytest.mark.parametrize("wrong", [{"mode": "drwa"}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_a_draw_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is not possible"):
        Draw(**wrong)


def test_a_tiny_temperature_is_argmax() -> None:
    logits_BV = torch.tensor([[5.0, 80.0, 80.5, 7.0]])
    assert Draw(1e-39).level(logits_BV, torch.zeros(1, 4)).tolist() == [2]


def test_batches_are_of_about_the_same_size() -> None:
    model = trained("gated", "softmax", SHAPES[0])
    assert sampler.batch_size(model, 129, CPU) == 65
    assert sampler.batch_size(model, 128, CPU) == 128
    assert sampler.batch_size(model, 0, CPU) == 1
