"""One loss, one optimizer: every family but the adversarial ones."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from gentrain.config.settings import Train
from gentrain.images import ImageShape
from gentrain.metrics.evaluate import evaluate_images
from gentrain.models.interface import Generative, LossOfBatchMeans, Reconstructs, SameEachStep
from gentrain.runs.checkpoint import Stateful
from gentrain.runtime.device import Compute
from gentrain.runtime.distributed import all_reduce_mean, batch_norms, mean_over_processes
from gentrain.runtime.seeding import Random
from gentrain.training.ema import begin_at, make_ema
from gentrain.training.learner import Metrics, NextBatch
from gentrain.training.optimizers import OptimizerSettings
from gentrain.training.replay import CapturedGradients


class Minimize:
    """Gradient descent on the network's `train_loss`, with an exponential moving average of its weights.

    `network` is an nn.Module that is Generative (see gentrain/models).
    """

    def __init__(
        self,
        network: nn.Module,
        shape: ImageShape,
        optimizer: OptimizerSettings,
        train: Train,
        compute: Compute,
    ) -> None:
        self.shape, self.compute = shape, compute
        self.optimizer_settings, self.train_settings = optimizer, train
        # The average is taken of the network before it is compiled: it is only evaluated.
        self.network = network.to(compute.device).to(memory_format=compute.memory_format)
        self.average = (
            make_ema(self.network, train.batch_size, train.ema_halflife_images)
            if train.ema_halflife_images
            else None
        )
        if compute.compile:
            self.network.compile()
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = optimizer.build(self.parameters)
        self.batch_norms = batch_norms(self.network)
        self.parts: dict[str, Stateful] = {"model": self.network, "optimizer": self.optimizer}
        if self.average is not None:
            self.parts["ema"] = self.average
        self.model: nn.Module = self.average.module if self.average is not None else self.network
        self.generative = cast(Generative, self.model)
        same = isinstance(network, SameEachStep) and network.same_each_step
        replayed = compute.cuda_graph and not compute.compile and same
        self.replayed = CapturedGradients(lambda x_BCHW: self._gradients(x_BCHW, 0)) if replayed else None
        self.monitor = None
        self.lr_scale = 1.0

    def train_step(self, next_batch: NextBatch, step: int) -> Metrics:
        lr = self.optimizer_settings.lr_at(step) * self.lr_scale
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        x_BCHW = next_batch().contiguous(memory_format=self.compute.memory_format)
        figures = self._gradients(x_BCHW, step) if self.replayed is None else self.replayed(x_BCHW)
        metrics = all_reduce_mean(self.parameters, figures, self.batch_norms)
        if self.train_settings.grad_clip is not None:
            grad_norm = clip_grad_norm_(self.parameters, self.train_settings.grad_clip)
        else:
            grad_norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return {**metrics, "grad_norm": grad_norm, "lr": lr}

    def _gradients(self, x_BCHW: Tensor, step: int) -> Metrics:
        """Gradients of the mean loss of a batch, computed in `accumulate_steps` parts of it."""
        if not self.network.training:  # without an average it is the network that was evaluated
            self.network.train()
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        parts = x_BCHW.tensor_split(self.train_settings.accumulate_steps)
        whole = self._batch_means(parts)
        for part in parts:
            share = len(part) / len(x_BCHW)
            with self.compute.autocasting():
                if whole is None:
                    loss, metrics = cast(Generative, self.network).train_loss(part, step)
                else:
                    loss, metrics = cast(LossOfBatchMeans, self.network).train_loss(part, step, whole)
            (loss * share).backward()
            for name, value in {"loss": loss.detach(), **metrics}.items():
                totals[name] = totals[name] + share * value if name in totals else share * value
        return dict(totals)

    @torch.no_grad()
    def _batch_means(self, parts: tuple[Tensor, ...]) -> Tensor | None:
        """What a family's loss must know of the whole batch before its first part; None: nothing."""
        if len(parts) == 1 or not isinstance(self.network, LossOfBatchMeans):
            return None
        with self.compute.autocasting():
            means = [(len(part), self.network.batch_means(part)) for part in parts]
        known = [count * mean for count, mean in means if mean is not None]
        return mean_over_processes(torch.stack(known).sum(0) / sum(map(len, parts))) if known else None

    def weights_replaced(self) -> None:
        if self.average is not None:
            begin_at(self.average, self.network)

    def networks(self) -> list[nn.Module]:
        return [self.model] if self.average is None else [self.model, self.network]

    @torch.inference_mode()
    def eval_step(self, x_BCHW: Tensor, generator: Random) -> dict[str, Tensor]:
        self.model.eval()
        with self.compute.autocasting():
            x_BCHW = x_BCHW.contiguous(memory_format=self.compute.memory_format)
            return evaluate_images(self.generative, self.shape, x_BCHW, generator)

    @torch.inference_mode()
    def sample(self, n: int, generator: Random) -> Tensor:
        self.model.eval()
        with self.compute.autocasting():
            return self.generative.sample(n, generator)

    @torch.inference_mode()
    def reconstruct(self, x_BCHW: Tensor) -> Tensor | None:
        if not isinstance(self.model, Reconstructs):
            return None
        self.model.eval()
        with self.compute.autocasting():
            return self.model.reconstruct(x_BCHW)

    def interpolate(self, rows: int, columns: int, generator: Random) -> Tensor | None:
        return None

    def headline(self) -> str | None:
        return "bits_per_dim" if self.generative.likelihood_kind is not None else "mse"
