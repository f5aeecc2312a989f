"""Drawing pixel by pixel: the incremental sampler against full re-runs, interleaved in one process.

    python scripts/benchmark_autoregressive.py [--device cuda] [--batches 1 16 64] [--threads 1 2] [--train]

Naive means one full forward pass for each pixel. Only --pixels of them, spread over the picture, are timed,
and their median is multiplied by the number of pixels; the incremental sampler draws whole pictures. Before
the timing, some rows are drawn both ways from the same noise, and the script stops if they differ (float32 on
the CPU).

FLOPs are those of one full pass (2 a multiply-add, products and convolutions alone), which is also about what
the incremental sampler computes for a picture; the naive way computes them once a pixel. The peak is the best
of several large matrix products on the same threads and in the same precision.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch.utils.flop_counter import FlopCounterMode

from gentrain.images import ImageShape
from gentrain.models.pixelcnn import PixelCNN
from gentrain.rundir import versions
from gentrain.sampler import Draw, Naive, draw_batch


@dataclass(frozen=True)
class Net:
    """A gated PixelCNN with 3x3 kernels after a first of 7x7, and a head as wide as its layers."""

    width: int
    layers: int
    channels: int = 1
    side: int = 28

    @property
    def name(self) -> str:
        return f"{self.side}x{self.side}x{self.channels} C={self.width} L={self.layers}"

    def build(self, device: torch.device) -> PixelCNN:
        torch.manual_seed(0)
        shape = ImageShape(self.channels, self.side, self.side)
        model = PixelCNN(
            shape, variant="gated", output="softmax", width=self.width, layers=self.layers,
            first_kernel=7, kernel=3, head_width=self.width, mixtures=10, dropout=0.0,
        )  # fmt: skip
        for weight in model.head.parameters():  # a new head is uniform: noise alone would decide
            weight.data.add_(0.1 * torch.randn_like(weight))
        return model.to(device).eval()


CPU_NETS = [Net(64, 12), Net(128, 10)]
CUDA_NETS = [Net(128, 12), Net(128, 12, channels=3, side=32)]
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


def flops_per_image(model: PixelCNN, device: torch.device) -> int:
    x_BCHW = torch.zeros(1, *model.shape.chw, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x_BCHW)
    return counter.get_total_flops()


def same_pictures(model: PixelCNN, device: torch.device) -> bool:
    size = 4, model.shape.width
    fast = draw_batch(model, [1, 2], size, Draw(), device)
    return torch.equal(fast, draw_batch(Naive(model, model.params), [1, 2], size, Draw(), device))


def compare(
    model: PixelCNN, batch: int, pixels: int, rounds: int, device: torch.device
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


def sampling(args: argparse.Namespace, device: torch.device) -> None:
    nets = CUDA_NETS if device.type == "cuda" else CPU_NETS
    print("| net | parameters | MFLOP/image | precision, threads | batch | naive, s | incremental, s | ratio "
          "| share of peak |\n|" + "---|" * 9)  # fmt: skip
    # On the CPU the sampler is float32 alone; other precisions are for --train there.
    precisions = args.precision if device.type == "cuda" else ["float32"]
    for net, precision, threads in product(nets, precisions, args.threads):
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


def train_step(
    model: PixelCNN, optimizer: torch.optim.Optimizer, x_BCHW: torch.Tensor, dtype: torch.dtype | None
) -> None:
    with torch.autocast(x_BCHW.device.type, dtype, enabled=dtype is not None):
        loss, _ = model.train_loss(x_BCHW, 0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def training(args: argparse.Namespace, device: torch.device) -> None:
    """Images a second of training steps on random pictures, channels-last; compiled on CUDA."""
    nets = CUDA_NETS if device.type == "cuda" else CPU_NETS
    print("\n| training | batch | precision | images/s | TFLOP/s | share of peak |\n|" + "---|" * 6)
    for net, precision in product(nets, args.precision):
        torch.set_num_threads(max(args.threads))
        set_precision(precision)
        dtype = PRECISIONS[precision]
        peak, model = matmul_peak(device, dtype or torch.float32), net.build(device)
        model = model.to(memory_format=torch.channels_last).train()
        flops = 3 * flops_per_image(model, device)  # backward: two products for each one
        if device.type == "cuda":
            model.compile()
        batch = 256 if device.type == "cuda" else 16
        x_BCHW = torch.randint(0, 256, (batch, *model.shape.chw), dtype=torch.uint8, device=device)
        optimizer = torch.optim.AdamW(model.parameters())
        step = partial(train_step, model, optimizer, x_BCHW, dtype)
        for _ in range(3):
            step()
        rate = batch / statistics.median(seconds(step, device) for _ in range(10))
        share = rate * flops / peak
        print(
            f"| {net.name} | {batch} | {precision} | {rate:.0f} | {rate * flops / 1e12:.2f} | {share:.0%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 16 64; on CUDA 1 256 1024")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 2; on CUDA 1")
    parser.add_argument("--precision", choices=list(PRECISIONS), nargs="+", default=["float32"])
    parser.add_argument("--pixels", type=int, default=10, help="naive pixels timed")
    parser.add_argument(
        "--rounds", type=int, default=5, help="incremental pictures timed, between the pixels"
    )
    parser.add_argument("--train", action="store_true", help="time training steps, too")
    args = parser.parse_args()
    device = torch.device(args.device)
    args.batches = args.batches or ([1, 256, 1024] if device.type == "cuda" else [1, 16, 64])
    args.threads = args.threads or ([1] if device.type == "cuda" else [1, 2])
    place = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{place}, {versions()}, {time.strftime('%Y-%m-%d')}; naive: {args.pixels} pixels timed, multiplied"
    )
    sampling(args, device)
    if args.train:
        training(args, device)


if __name__ == "__main__":
    main()
