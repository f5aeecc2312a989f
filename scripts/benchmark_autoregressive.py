"""Drawing pixel by pixel: the incremental sampler against full re-runs, interleaved in one process.

    python scripts/benchmark_autoregressive.py [--device cuda] [--nets gated row_lstm diagonal_bilstm]
        [--batches 1 16 64] [--threads 1 2] [--train]

Naive means one full forward pass for each pixel. Only --pixels of them, spread over the picture, are timed,
and their median is multiplied by the number of pixels; the incremental sampler draws whole pictures. Before
the timing, some rows are drawn both ways from the same noise, and the script stops if they differ (float32 on
the CPU).

FLOPs are those of one full pass (2 a multiply-add, products and convolutions alone), which is also about what
the incremental sampler computes for a picture; the naive way computes them once a pixel. The peak is the best
of several large matrix products on the same threads and in the same precision.

--train times training steps; for PixelRNN also with its line scan put aside for a plain loop, which has
autograd index line by line and direction by direction, with the same weights, interleaved.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gentrain.images import ImageShape
from gentrain.models.pixel import recurrent
from gentrain.models.pixel.autoregressive import Autoregressive
from gentrain.models.pixel.line_lstm import Lines
from gentrain.models.pixel.pixelcnn import pixelcnn
from gentrain.models.pixel.pixelrnn import pixelrnn
from gentrain.models.pixel.sampler import Draw, Naive, draw_batch
from gentrain.runs.rundir import versions
from gentrain.training.learner import Metrics
from gentrain.training.replay import CapturedGradients


@dataclass(frozen=True)
class Net:
    """A gated PixelCNN with 3x3 kernels after a first of 7x7 and a head as wide as its layers; or a PixelRNN,
    whose head is twice as wide as its LSTMs."""

    variant: Literal["gated", "row_lstm", "diagonal_bilstm"]
    width: int
    layers: int
    channels: int = 1
    side: int = 28

    @property
    def name(self) -> str:
        return f"{self.variant} {self.side}x{self.side}x{self.channels} C={self.width} L={self.layers}"

    def build(self, device: torch.device) -> Autoregressive:
        torch.manual_seed(0)
        shape = ImageShape(self.channels, self.side, self.side)
        if self.variant == "gated":
            model = pixelcnn(
                shape, variant="gated", output="softmax", width=self.width, layers=self.layers,
                first_kernel=7, kernel=3, head_width=self.width, mixtures=10, dropout=0.0,
            )  # fmt: skip
        else:
            model = pixelrnn(
                shape, variant=self.variant, output="softmax", width=self.width, layers=self.layers,
                first_kernel=7, head_width=2 * self.width, mixtures=10, dropout=0.0,
            )  # fmt: skip
        for weight in model.head.parameters():  # a new head is uniform: noise alone would decide
            weight.data.add_(0.1 * torch.randn_like(weight))
        return model.to(device).eval()


VARIANTS = ["gated", "row_lstm", "diagonal_bilstm"]
CPU_NETS = [
    Net("gated", 64, 12),
    Net("gated", 128, 10),
    Net("row_lstm", 16, 7),
    Net("diagonal_bilstm", 16, 7),
]
CUDA_NETS = [
    Net("gated", 128, 12),
    Net("gated", 128, 12, channels=3, side=32),
    Net("row_lstm", 16, 7),
    Net("row_lstm", 128, 7),
    Net("diagonal_bilstm", 16, 7),
    Net("diagonal_bilstm", 128, 7),
]
PRECISIONS = {"float32": None, "tf32": None, "bf16": torch.bfloat16}


def set_precision(precision: str) -> None:
    """Of products and of convolutions: they have switches of their own."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product, the best of ten."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    torch.mm(a, a)
    return 2 * side**3 / min(seconds(lambda: torch.mm(a, a), device) for _ in range(10))


def flops_per_image(model: Autoregressive, device: torch.device) -> int:
    x_BCHW = torch.zeros(1, *model.shape.chw, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x_BCHW)
    return counter.get_total_flops()


def same_pictures(model: Autoregressive, device: torch.device) -> bool:
    size = 4, model.shape.width
    fast = draw_batch(model, [1, 2], size, Draw(), device)
    return torch.equal(fast, draw_batch(Naive(model, model.params), [1, 2], size, Draw(), device))


def compare(
    model: Autoregressive, batch: int, pixels: int, rounds: int, device: torch.device
) -> tuple[float, float]:
    """Median seconds for a batch of whole pictures: naive (median pixel times pixels), incremental."""
    height, width = model.shape.height, model.shape.width
    naive = Naive(model, model.params)
    state = naive.begin(batch, height, width)
    levels_BC = torch.zeros(batch, model.shape.channels, dtype=torch.int64, device=device)

    def naive_pixel(number: int) -> None:
        with torch.inference_mode():
            state["row"], column = divmod(number * (height * width - 1) // max(1, pixels - 1), width)
            params_BP = naive.pixel(state, column, levels_BC if column else None)
            for channel in range(model.shape.channels):
                naive.level_logits(state, params_BP, channel, levels_BC).argmax(1)

    def whole() -> None:
        draw_batch(model, list(range(batch)), (height, width), Draw(), device)

    naive_pixel(0)
    whole()
    slow, fast = [], []
    for number in range(pixels):
        slow.append(seconds(partial(naive_pixel, number), device))
        if number * rounds // pixels != (number + 1) * rounds // pixels:
            fast.append(seconds(whole, device))
    return statistics.median(slow) * height * width, statistics.median(fast)


def chosen_nets(args: argparse.Namespace, device: torch.device) -> list[Net]:
    nets = CUDA_NETS if device.type == "cuda" else CPU_NETS
    return [net for net in nets if net.variant in args.nets]


def sampling(args: argparse.Namespace, device: torch.device) -> None:
    print("| net | parameters | MFLOP/image | precision, threads | batch | naive, s | incremental, s | ratio "
          "| share of peak |\n|" + "---|" * 9)  # fmt: skip
    # On the CPU the sampler is float32 alone; other precisions are for --train there.
    precisions = args.precision if device.type == "cuda" else ["float32"]
    for net, precision, threads in product(chosen_nets(args, device), precisions, args.threads):
        torch.set_num_threads(threads)
        set_precision(precision)
        dtype = PRECISIONS[precision]
        peak = matmul_peak(device, dtype or torch.float32)
        model = net.build(device)
        if precision == "float32" and device.type == "cpu" and not same_pictures(model, device):
            raise SystemExit(f"{net.name}: the two samplers draw different pictures")
        flops = flops_per_image(model, device)
        parameters = sum(p.numel() for p in model.parameters())
        for batch in args.batches:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                slow, fast = compare(model, batch, args.pixels, args.rounds, device)
            columns = [
                net.name, f"{parameters / 1e6:.2f} M", f"{flops / 1e6:.0f}", f"{precision}, {threads}", batch,
                f"{slow:.1f}", f"{fast:.3f}", f"{slow / fast:.0f}x", f"{flops * batch / fast / peak:.0%}",
            ]  # fmt: skip
            print("|", " | ".join(map(str, columns)), "|", flush=True)


def plain_scan(pre_GPBD: Tensor, weight_GTCD: Tensor, lines: Lines) -> Tensor:
    """What models/pixel/line_lstm.py replaces: a loop in autograd over lines, one direction after the other.

    Rows are indexed as they are; for diagonals each row is moved one pixel further than the one above, as is
    usual, so that they are the columns of a wider map with zeros at both ends. For square pictures.
    """
    side = math.isqrt(len(lines.pixels))
    order = torch.tensor(lines.pixels, device=pre_GPBD.device)
    outputs = []
    for pre_PBD, weight_TCD in zip(pre_GPBD, weight_GTCD, strict=True):
        pre_HWBD = torch.empty_like(pre_PBD).index_copy(0, order, pre_PBD).unflatten(0, (side, side))
        plain = plain_rows if lines.taps == 3 else plain_diagonals
        outputs.append(plain(pre_HWBD, weight_TCD).flatten(0, 1).index_select(0, order))
    return torch.stack(outputs)


def plain_cell(gates_NBD: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    i, f, o, g = gates_NBD.chunk(4, -1)
    c = i.sigmoid() * g.tanh() if c is None else f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def plain_rows(pre_HWBD: Tensor, weight_TCD: Tensor) -> Tensor:
    h, c = plain_cell(pre_HWBD[0], None)
    outputs = [h]
    for row in range(1, len(pre_HWBD)):
        padded = F.pad(h, (0, 0, 0, 0, 1, 1))
        window_WBK = torch.cat([padded[:-2], padded[1:-1], padded[2:]], -1)
        h, c = plain_cell(pre_HWBD[row] + window_WBK @ weight_TCD.flatten(0, 1), c)
        outputs.append(h)
    return torch.stack(outputs)


def plain_diagonals(pre_HWBD: Tensor, weight_TCD: Tensor) -> Tensor:
    height, width = pre_HWBD.shape[:2]
    skewed = torch.stack([F.pad(row, (0, 0, 0, 0, y, height - 1 - y)) for y, row in enumerate(pre_HWBD)])
    h, c = plain_cell(skewed[:, 0], None)
    outputs = [h]
    for column in range(1, height + width - 1):
        above = F.pad(h[:-1], (0, 0, 0, 0, 1, 0))
        h, c = plain_cell(skewed[:, column] + torch.cat([h, above], -1) @ weight_TCD.flatten(0, 1), c)
        outputs.append(h)
    scanned = torch.stack(outputs, 1)
    return torch.stack([row[y : y + width] for y, row in enumerate(scanned)])


class Training:
    """Steps on random pictures, channels-last. On CUDA a PixelCNN is compiled, and a PixelRNN recorded."""

    def __init__(self, net: Net, batch: int, device: torch.device, dtype: torch.dtype | None) -> None:
        self.model = net.build(device).to(memory_format=torch.channels_last).train()
        self.flops = 3 * flops_per_image(self.model, device)  # backward: two products for each one
        if device.type == "cuda" and net.variant == "gated":
            self.model.compile()
        self.x_BCHW = torch.randint(0, 256, (batch, *self.model.shape.chw), dtype=torch.uint8, device=device)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.dtype = dtype
        recorded = device.type == "cuda" and net.variant != "gated"
        self.gradients = CapturedGradients(self.unrecorded) if recorded else self.unrecorded

    def unrecorded(self, x_BCHW: Tensor) -> Metrics:
        self.optimizer.zero_grad()
        with torch.autocast(x_BCHW.device.type, self.dtype, enabled=self.dtype is not None):
            loss, _ = self.model.train_loss(x_BCHW, 0)
        loss.backward()
        return {"loss": loss.detach()}

    def same_gradients(self) -> bool:
        """Of the line scan and of the plain loop, to within the precision."""
        both = []
        for scan in (recurrent.line_scan, plain_scan):
            self.with_scan(scan)
            both.append(torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None]))
        tolerance = 1e-4 if self.dtype is None else 0.05  # of sums over thousands of pixels
        return bool((both[0] - both[1]).norm() < tolerance * both[0].norm())

    def with_scan(self, scan: Callable[[Tensor, Tensor, Lines], Tensor]) -> None:
        kept = recurrent.line_scan
        recurrent.line_scan = scan  # type: ignore[assignment]
        try:
            self.unrecorded(self.x_BCHW)
        finally:
            recurrent.line_scan = kept

    def step(self) -> None:
        self.gradients(self.x_BCHW)
        self.optimizer.step()

    def plain_step(self) -> None:
        """The same, with the plain loop in place of the line scan."""
        self.with_scan(plain_scan)
        self.optimizer.step()


def training(args: argparse.Namespace, device: torch.device) -> None:
    print("\n| training | batch | precision | images/s | over a plain loop | TFLOP/s | share of peak |\n"
          "|" + "---|" * 7)  # fmt: skip
    for net, precision in product(chosen_nets(args, device), args.precision):
        torch.set_num_threads(max(args.threads))
        set_precision(precision)
        dtype = PRECISIONS[precision]
        batch = args.train_batch or (16 if device.type == "cpu" else 256 if net.variant == "gated" else 64)
        peak, this = matmul_peak(device, dtype or torch.float32), Training(net, batch, device, dtype)
        if net.variant != "gated" and not this.same_gradients():
            raise SystemExit(f"{net.name}: the plain loop has other gradients")
        ours, plain = [], []
        for _ in range(14):
            # On CUDA a recording holds the gradients' memory, which a plain step would take away.
            if net.variant != "gated" and device.type == "cpu":
                plain.append(seconds(this.plain_step, device))
            ours.append(seconds(this.step, device))
        rate = batch / statistics.median(ours[4:])
        ratio = f"{statistics.median(plain[4:]) * rate / batch:.2f}x" if plain else ""
        columns = [
            net.name, batch, precision, f"{rate:.0f}", ratio,
            f"{rate * this.flops / 1e12:.3f}", f"{rate * this.flops / peak:.0%}",
        ]  # fmt: skip
        print("|", " | ".join(map(str, columns)), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--nets", choices=VARIANTS, nargs="+", default=VARIANTS)
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 16 64; on CUDA 1 256 1024")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 2; on CUDA 1")
    parser.add_argument("--precision", choices=list(PRECISIONS), nargs="+", default=["float32"])
    parser.add_argument("--pixels", type=int, default=10, help="naive pixels timed")
    parser.add_argument(
        "--rounds", type=int, default=5, help="incremental pictures timed, between the pixels"
    )
    parser.add_argument("--train", action="store_true", help="time training steps, too")
    parser.add_argument("--train-batch", type=int, help="default: 16; on CUDA 256 (gated) or 64")
    parser.add_argument("--no-sampling", action="store_true", help="with --train: nothing else")
    args = parser.parse_args()
    device = torch.device(args.device)
    args.batches = args.batches or ([1, 256, 1024] if device.type == "cuda" else [1, 16, 64])
    args.threads = args.threads or ([1] if device.type == "cuda" else [1, 2])
    place = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{place}, {versions()}, {time.strftime('%Y-%m-%d')}; naive: {args.pixels} pixels timed, multiplied"
    )
    if not args.no_sampling:
        sampling(args, device)
    if args.train:
        training(args, device)


if __name__ == "__main__":
    main()
