"""What features are worth with few labels: a linear layer on them, alone or with the network trained too.

Legend: N labelled pictures, F features, K classes, B batch. Everything linear is float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

L2_STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
L2_WITHOUT_CHOICE = 1e-3  # with one label a class nothing can be held out to choose it
FOLDS = 4
MAX_ITERATIONS, GRADIENT_TOLERANCE = 500, 1e-6


def draw_labels(labels_N: np.ndarray, classes: int, per_class: int, noise: Generator) -> Tensor:
    """Numbers of pictures, (K, per_class), each row from one class, in random order.

    The first n columns are the draw of n a class: the smaller draws are part of the larger ones.
    """
    order = torch.randperm(len(labels_N), generator=noise).numpy()
    rows = [order[labels_N[order] == k][:per_class] for k in range(classes)]
    return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True)
class Scaling:
    """Features moved to mean 0 and to a mean squared length of 1, by pictures whose labels are not looked at.

    One factor for all: single features that hardly vary are not blown up. So a strength of L2 means about
    the same for any features.
    """

    mean_F: Tensor
    factor: float

    @classmethod
    def of(cls, features_NF: Tensor) -> Scaling:
        mean_F = features_NF.double().mean(0)
        squared = (features_NF - mean_F).square().sum(1).mean().item()
        return cls(mean_F, squared**-0.5 if squared > 0 else 1.0)

    def __call__(self, features_BF: Tensor) -> Tensor:
        return (features_BF.double() - self.mean_F) * self.factor


@dataclass(frozen=True)
class Linear:
    """Logits = x W^T + b."""

    weight_KF: Tensor
    bias_K: Tensor
    l2: float

    def logits(self, x_NF: Tensor) -> Tensor:
        return x_NF @ self.weight_KF.T + self.bias_K


def fit_linear(x_NF: Tensor, y_N: Tensor, classes: int, l2: float) -> Linear:
    """Multinomial logistic regression: minimises mean cross-entropy + l2/2 |W|^2, b not penalised, by L-BFGS.

    The best W lies in the space that the rows of x span, so it is sought there.
    """
    axes_FR = torch.linalg.svd(x_NF, full_matrices=False).Vh.T if x_NF.shape[0] < x_NF.shape[1] else None
    x_NR = x_NF if axes_FR is None else x_NF @ axes_FR
    weight_KR = torch.zeros(classes, x_NR.shape[1], dtype=x_NR.dtype, requires_grad=True)
    bias_K = torch.zeros(classes, dtype=x_NR.dtype, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_KR, bias_K], max_iter=MAX_ITERATIONS, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=GRADIENT_TOLERANCE, tolerance_change=1e-12,
    )  # fmt: skip

    def objective() -> Tensor:
        solver.zero_grad()
        loss = cross_entropy(x_NR @ weight_KR.T + bias_K, y_N) + l2 / 2 * weight_KR.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    weight = weight_KR.detach()
    return Linear(weight if axes_FR is None else weight @ axes_FR.T, bias_K.detach(), l2)


def choose_l2(x_NF: Tensor, y_N: Tensor, classes: int, per_class: int) -> float:
    """The strength with the least cross-entropy on held-out labels among the N, by cross-validation.

    Rows are class by class, `per_class` each, so that every fold holds all classes. Looks at nothing else:
    whoever has n labels has no more to choose with.
    """
    if per_class < 2:
        return L2_WITHOUT_CHOICE
    folds = min(FOLDS, per_class)
    fold_N = torch.arange(per_class).repeat(classes) % folds

    def held_out_loss(l2: float) -> float:
        losses = []
        for fold in range(folds):
            out_N = fold_N == fold
            fitted = fit_linear(x_NF[~out_N], y_N[~out_N], classes, l2)
            losses.append(cross_entropy(fitted.logits(x_NF[out_N]), y_N[out_N]).item())
        return sum(losses)

    return min(L2_STRENGTHS, key=held_out_loss)


class Classifier(nn.Module):
    """A network's features with a linear layer on top, float32."""

    def __init__(self, features: Callable[[Tensor], Tensor], scaling: Scaling, start: Linear) -> None:
        super().__init__()
        self.features = features  # a module's method: its parameters are the caller's
        self.register_buffer("mean_F", scaling.mean_F.float())
        self.factor = scaling.factor
        self.head = nn.Linear(start.weight_KF.shape[1], len(start.bias_K))
        with torch.no_grad():
            self.head.weight.copy_(start.weight_KF)
            self.head.bias.copy_(start.bias_K)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K)."""
        mean_F = self.get_buffer("mean_F")
        return self.head((self.features(x_BCHW).float() - mean_F) * self.factor)


def epochs(count: int, batch_size: int, steps: int, noise: Generator) -> list[Tensor]:
    """Numbers 0 .. count - 1 for each step: stretches of permutations one after the other."""
    total = min(batch_size, count) * steps
    order = torch.cat([torch.randperm(count, generator=noise) for _ in range(-(-total // count))])
    cuts = range(0, total + 1, min(batch_size, count))
    return [order[start:end] for start, end in pairwise(cuts)]
