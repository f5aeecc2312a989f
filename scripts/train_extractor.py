"""Trains the network of the `domain` extractor and writes its weights; docs/extractors.md says what came out.

    python scripts/train_extractor.py [--steps 4000] [--out gentrain/metrics/domain.safetensors]

It takes about ten minutes on one core and gives the same weights each time on one machine (versions and
thread count being equal). New weights have a new hash, which must be put into gentrain/metrics/domain.py, and
the names of all figures change with it. Needs Fashion-MNIST.

From the 64 features of a picture, linear layers read: the factors of a face or the class of an article;
which damage was done and how strongly; and some of the picture's own measures (colours of a 4x4 thumbnail,
contrast, how much is fine detail). The last two need no labels, and so are learned on any pictures.

Legend: B batch, D features, K labels.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import extractor_pictures as pictures
import extractor_sanity as sanity
import numpy as np
import torch
from extractor_pictures import CHOICES, DAMAGES, SEED, Batch, Labelled
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gentrain import anime
from gentrain.metrics.domain import DIMS, WEIGHTS, DomainNet, resized
from gentrain.runtime.files import write_atomically
from gentrain.runtime.seeding import seed_everything

OUT = Path(__file__).parents[1] / "gentrain" / "metrics" / WEIGHTS
COUNTS = [128, 64, 64]  # faces, clothes, leaves in a batch
MEASURES = 3 * 4 * 4 + 3 + 2


class Trainee(nn.Module):
    """The network with batch norms behind its convolutions and its features, and what reads the features."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DomainNet()
        for k, conv in enumerate(self.net.convs):
            assert isinstance(conv, nn.Conv2d)
            self.net.convs[k] = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
        self.norm = nn.BatchNorm1d(DIMS, affine=False)
        self.sizes = [*CHOICES, len(DAMAGES), 1, MEASURES]
        self.read = nn.Linear(DIMS, sum(self.sizes))

    def forward(self, x_B3SS: Tensor) -> list[Tensor]:
        """Logits of each label, of the damage; its strength (B, 1); the measures (B, MEASURES)."""
        return list(self.read(self.norm(self.net(x_B3SS))).float().split(self.sizes, 1))


def measures(x_B3SS: Tensor) -> Tensor:
    """Of pictures in [-1, 1], (B, MEASURES), each of about unit size."""
    thumbnail = F.avg_pool2d(x_B3SS, 8).flatten(1) / 0.5
    contrast = x_B3SS.flatten(2).std(2) / 0.25
    fine = [x_B3SS - F.avg_pool2d(x_B3SS, k, 1, k // 2, count_include_pad=False) for k in (3, 5)]
    energy = torch.stack([part.square().mean((1, 2, 3)) for part in fine], 1)
    return torch.cat([thumbnail, contrast, (energy + 1e-5).log10() + 2], 1)


def loss(outputs: list[Tensor], batch: Batch) -> Tensor:
    """A guess without looking costs about 1 in every term, times the term's weight."""
    total = torch.zeros(())
    for k, choices in enumerate(CHOICES):
        weight = 2 / (len(CHOICES) - 1) if k < len(CHOICES) - 1 else 0.5
        if (batch.labels[:, k] >= 0).any():
            nats = F.cross_entropy(outputs[k], batch.labels[:, k], ignore_index=-1)
            total = total + weight * nats / np.log(choices)
    total = total + F.cross_entropy(outputs[-3], batch.damage) / np.log(len(DAMAGES))
    total = total + 3 * F.mse_loss(outputs[-2][:, 0], batch.strength)
    return total + F.mse_loss(outputs[-1], measures(batch.x))


def train(parts: list[Labelled], steps: int) -> Trainee:
    seed_everything(SEED, "weights")
    trainee = Trainee().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=4e-3, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    begun = time.perf_counter()
    for step in range(steps):
        seed_everything(SEED, "train", step)
        batch = pictures.make_batch(parts, COUNTS)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = trainee(batch.x.contiguous(memory_format=torch.channels_last))
        value = loss(outputs, batch)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            seconds = time.perf_counter() - begun
            print(f"step {step + 1}: loss {value.item():.3f}, {seconds:.0f} s", flush=True)
    return trainee.eval()


@torch.no_grad()
def folded(trainee: Trainee, usual: list[Labelled]) -> DomainNet:
    """Without batch norms, and features scaled to mean 0 and variance 1 over undamaged pictures."""
    net = DomainNet()
    net.load_state_dict(trainee.net.state_dict(), strict=False)
    for k, pair in enumerate(trainee.net.convs):
        conv, norm = pair.children()
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        net.convs[k] = fuse_conv_bn_eval(conv, norm)
    x = torch.cat([part.images[:: len(part) // 2000][:2000] for part in usual]).float().div(127.5).sub(1)
    features = torch.cat([net(part) for part in x.split(500)])
    mean, std = features.mean(0), features.std(0)
    net.out.weight.div_(std[:, None])
    net.out.bias.sub_(mean).div_(std)
    return net


@dataclass(frozen=True)
class Accuracy:
    name: str
    value: float
    chance: float


@torch.no_grad()
def accuracies(trainee: Trainee, held_out: list[Labelled]) -> list[Accuracy]:
    """Of labels on undamaged held-out pictures, and of the damage on damaged ones."""
    found = []
    names = [*(factor.name for factor in anime.FACTORS), "article"]
    for part in held_out:
        x = part.images.float().div(127.5).sub(1)
        outputs = [torch.cat(pieces) for pieces in zip(*map(trainee, x.split(500)), strict=True)]
        for k, (name, choices) in enumerate(zip(names, CHOICES, strict=True)):
            if (part.labels[:, k] >= 0).all():
                right = (outputs[k].argmax(1) == part.labels[:, k]).float().mean().item()
                found.append(Accuracy(name, right, 1 / choices))
    seed_everything(SEED, "held out")
    batch = pictures.make_batch(held_out, [2000, 2000])
    right = (trainee(batch.x)[-3].argmax(1) == batch.damage).float().mean().item()
    return [*found, Accuracy("damage", right, 0.4)]


def held_out_faces() -> Labelled:
    """The test split of data=anime."""
    factors = anime.combinations(np.arange(1000, 2000), 0)
    return pictures.labelled_faces(torch.from_numpy(anime.draw(factors, 32)), factors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    seed_everything(SEED, "pictures")
    packed = pictures.fashion()
    parts = [pictures.faces(40_000, 10_000), pictures.clothes(packed, "train"), pictures.leaves(20_000)]
    print(f"{' + '.join(str(len(part)) for part in parts)} pictures in {time.perf_counter() - begun:.0f} s")
    trainee = train(parts, args.steps)
    net = folded(trainee, parts[:2])
    content = save({name: value.contiguous() for name, value in net.state_dict().items()})
    write_atomically(args.out, content)
    print(f"{args.out}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    for accuracy in accuracies(trainee, [held_out_faces(), pictures.clothes(packed, "test")]):
        print(f"{accuracy.name}: {100 * accuracy.value:.1f} % right, {100 * accuracy.chance:.0f} % by chance")
    with torch.no_grad():
        sanity.print_tables(lambda x: torch.cat([net(resized(part)) for part in x.split(500)]))


if __name__ == "__main__":
    main()
