"""The steps of a GAN: generator and discriminator, each with a loss and an optimizer of its own.

Legend: B batch, C channels, H height, W width. Logits are float32 (B,).
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from gentrain.config.settings import Train
from gentrain.errors import UserError
from gentrain.images import ImageShape, to_unit
from gentrain.models.gan.augment import diff_augment
from gentrain.models.gan.objective import Objective, between, one_centred, squared_gradients, zero_centred
from gentrain.models.interface import AdversarialModel
from gentrain.runs.checkpoint import Stateful
from gentrain.runtime.device import Compute
from gentrain.runtime.distributed import all_reduce_mean, batch_norms, mean_over_processes, whole_batch
from gentrain.runtime.seeding import Random, generator
from gentrain.training.ema import begin_at, make_ema
from gentrain.training.gan_monitor import GanMonitor
from gentrain.training.learner import Metrics, NextBatch
from gentrain.training.optimizers import OptimizerSettings

WATCHED = 64  # pictures whose diversity is watched


class Adversarial:
    """Trains an AdversarialModel (models/interface.py). The average is of the generator alone.

    One step: `discriminator_steps` updates of the discriminator, each on a batch of its own, then one of
    the generator. `optimizer` is the generator's; the discriminator's is a second one of the same kind.
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
        self.train_settings, self.optimizer_settings = train, optimizer
        self.network = network.to(compute.device).to(memory_format=compute.memory_format)
        self.gan = cast(AdversarialModel, self.network)
        self.objective: Objective = self.gan.objective
        self.batch_norms = batch_norms(self.network)
        self.players = {"generator": self.gan.generator, "discriminator": self.gan.discriminator}
        self.optimizers = {
            name: optimizer.build(player.parameters()) for name, player in self.players.items()
        }
        if self.objective.monitor.diversity is not None and train.batch_size < 2:
            raise UserError(
                "train.batch_size=1 leaves the alarm no two real pictures to compare; take at least 2, or "
                "model.alarm_diversity=null"
            )
        _check_betas(self.optimizers["discriminator"], self.objective)
        self.beta2s = self._set_discriminator_betas()
        self.monitor = GanMonitor(self.objective.monitor, shape.channels, compute.device)
        self.lr_scale = 1.0
        self.parts: dict[str, Stateful] = {
            "model": self.network,
            "optimizer": self.optimizers["generator"],
            "discriminator_optimizer": self.optimizers["discriminator"],
            "watch": self.monitor,
        }
        self.model = self.network
        self.average = None
        if train.ema_halflife_images:
            # In a dict of its own, so that the average's weights are named as the network's are.
            self.to_average = nn.ModuleDict({"generator": self.gan.generator})
            self.average = make_ema(self.to_average, train.batch_size, train.ema_halflife_images)
            self.parts["ema"] = self.average
            # What is looked at: the averaged generator beside the discriminator as it is.
            self.model = copy.copy(self.network)
            self.model._modules = dict(self.network._modules)
            self.model.generator = cast(nn.ModuleDict, self.average.module)["generator"]
        self.shown = cast(AdversarialModel, self.model)
        if compute.compile:
            self._compile()

    def _compile(self) -> None:
        self.gan.generator.compile()
        if self.objective.loss.penalty == "none":  # torch.compile has no second derivatives
            self.gan.discriminator.compile()

    # -- one step

    def train_step(self, next_batch: NextBatch, step: int) -> Metrics:
        seen = step * self.train_settings.batch_size
        lrs = self._set_schedules(step, seen)
        gamma = self.objective.gamma_at(seen)
        for player in (self.gan.generator, self.gan.discriminator):
            if not player.training:  # it was looked at
                player.train()
        for _ in range(self.objective.discriminator_steps):
            real_BCHW = self._unit(next_batch())
            judged = self._discriminator_step(real_BCHW, gamma)
        made = self._generator_step(
            self._unit(next_batch()) if self.objective.loss.relativistic else real_BCHW
        )
        if self.average is not None:
            self.average.update_parameters(self.to_average)
        self.monitor.count((judged["d_right_real"] + judged["d_right_fake"]) / 2)
        if self.monitor.due(step + 1):
            real_BCHW = whole_batch(real_BCHW, self.train_settings.accumulate_steps)
            self.monitor.check(step + 1, real_BCHW[:WATCHED], self._watched_pictures())
        metrics: Metrics = {**judged, **made, **lrs}
        if self.objective.loss.penalty != "none":
            metrics["gamma"] = gamma
        if self.monitor.diversity is not None:
            metrics["diversity"] = self.monitor.diversity
        metrics["loss"] = judged["d_loss"] + made["g_loss"]
        metrics["grad_norm"] = torch.hypot(judged["d_grad_norm"], made["g_grad_norm"])
        return metrics

    def _discriminator_step(self, real_BCHW: Tensor, gamma: float) -> dict[str, Tensor]:
        """One update on a batch of real pictures and as many generated ones, which are constants here."""
        optimizer = self.optimizers["discriminator"]
        optimizer.zero_grad()
        totals, logits = dict[str, Tensor](), list[tuple[Tensor, Tensor]]()
        for real in real_BCHW.tensor_split(self.train_settings.accumulate_steps):
            with torch.no_grad(), self.compute.autocasting():
                fake = self.gan.generator(self.gan.latents(len(real))).float()
            with self._judging():
                loss, penalties, of_part = self._discriminator_loss(real, fake, gamma)
            share = len(real) / len(real_BCHW)
            (loss * share).backward()
            _add(totals, {"d_loss": loss.detach(), **penalties}, share)
            logits.append(of_part)
        totals |= self._figures(*(torch.cat(values) for values in zip(*logits, strict=True)))
        totals = all_reduce_mean(self.gan.discriminator.parameters(), totals, self.batch_norms)
        totals["d_grad_norm"] = self._clipped(self.gan.discriminator)
        optimizer.step()
        return totals

    def _discriminator_loss(
        self, real_BCHW: Tensor, fake_BCHW: Tensor, gamma: float
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, Tensor]]:
        """The discriminator's objective on augmented pictures; detached, its penalties and both logits.

        R1 and R2 are penalties at the pictures themselves, through the augmentation, as in R3GAN's code; the
        interpolated penalty lies between two pictures that D is shown.
        """
        discriminator, loss = self.gan.discriminator, self.objective.loss
        if loss.penalty == "zero_centred":
            real_BCHW, fake_BCHW = real_BCHW.requires_grad_(), fake_BCHW.requires_grad_()
        seen_real_BCHW, seen_fake_BCHW = self._augmented(real_BCHW), self._augmented(fake_BCHW)
        real_B, fake_B = discriminator(seen_real_BCHW).float(), discriminator(seen_fake_BCHW).float()
        total, penalties = loss.discriminator(real_B, fake_B), {}
        if loss.penalty == "zero_centred":
            penalties["r1"] = zero_centred(squared_gradients(real_B, real_BCHW), gamma)
            penalties["r2"] = zero_centred(squared_gradients(fake_B, fake_BCHW), gamma)
        elif loss.penalty == "interpolated":
            mixed_BCHW = between(seen_real_BCHW, seen_fake_BCHW).requires_grad_()
            squared_B = squared_gradients(discriminator(mixed_BCHW).float(), mixed_BCHW)
            penalties["gradient_penalty"] = one_centred(squared_B, gamma)
        total = total + sum(penalties.values())
        detached = {name: value.detach() for name, value in penalties.items()}
        return total, detached, (real_B.detach(), fake_B.detach())

    def _figures(self, real_B: Tensor, fake_B: Tensor) -> dict[str, Tensor]:
        """What a person watches, means over the batch.

        A logit is right if it is on its side of zero, or, where only differences mean something, on its
        side of the middle between the two means.
        """
        real, fake = real_B.mean(), fake_B.mean()
        threshold = 0.0 if self.objective.loss.has_zero else mean_over_processes((real + fake) / 2)
        figures = {
            "logit_real": real,
            "logit_fake": fake,
            "logit_margin": real - fake,
            "d_right_real": (real_B > threshold).float().mean(),
            "d_right_fake": (fake_B < threshold).float().mean(),
        }
        if self.objective.loss.probability == "single":
            figures |= {"d_real": real_B.sigmoid().mean(), "d_fake": fake_B.sigmoid().mean()}
        elif self.objective.loss.probability == "pair":
            figures |= {
                "d_real": (real_B - fake_B).sigmoid().mean(),
                "d_fake": (fake_B - real_B).sigmoid().mean(),
            }
        return figures

    def _generator_step(self, real_BCHW: Tensor) -> dict[str, Tensor]:
        """One update against the discriminator as it is; relativistic losses look at real pictures too."""
        discriminator, loss = self.gan.discriminator, self.objective.loss
        optimizer, totals = self.optimizers["generator"], dict[str, Tensor]()
        optimizer.zero_grad()
        discriminator.requires_grad_(False)
        for real in real_BCHW.tensor_split(self.train_settings.accumulate_steps):
            with self.compute.autocasting():
                fake = self.gan.generator(self.gan.latents(len(real)))
                fake_B = discriminator(self._augmented(fake)).float()
                real_B = discriminator(self._augmented(real)).float() if loss.relativistic else None
            value, share = loss.generator(fake_B, real_B), len(real) / len(real_BCHW)
            (value * share).backward()
            _add(totals, {"g_loss": value.detach()}, share)
        discriminator.requires_grad_(True)
        totals = all_reduce_mean(self.gan.generator.parameters(), totals, self.batch_norms)
        totals["g_grad_norm"] = self._clipped(self.gan.generator)
        optimizer.step()
        return totals

    # -- what the steps are made of

    def _unit(self, x_BCHW: Tensor) -> Tensor:
        return to_unit(x_BCHW, self.shape.levels).contiguous(memory_format=self.compute.memory_format)

    def _augmented(self, x_BCHW: Tensor) -> Tensor:
        return diff_augment(x_BCHW, self.objective.augment, self.objective.augment_probability)

    def _judging(self) -> AbstractContextManager[None] | torch.autocast:
        """In float32 where a gradient is penalised: squares of small gradients are lost in bfloat16."""
        return self.compute.autocasting() if self.objective.loss.penalty == "none" else nullcontext()

    def _clipped(self, player: nn.Module) -> Tensor:
        """The norm of the gradient of one network, which is then clipped if train.grad_clip says so."""
        if self.train_settings.grad_clip is not None:
            return clip_grad_norm_(player.parameters(), self.train_settings.grad_clip)
        return get_total_norm([p.grad for p in player.parameters() if p.grad is not None])

    def _set_discriminator_betas(self) -> dict[str, float]:
        """The second betas of both optimizers at the start of training, where they have any."""
        betas = self.objective.discriminator_betas
        for group in self.optimizers["discriminator"].param_groups:
            if betas is not None:
                group["betas"] = (float(betas[0]), float(betas[1]))
        first = {name: optimizer.param_groups[0] for name, optimizer in self.optimizers.items()}
        return {name: group["betas"][1] for name, group in first.items() if "betas" in group}

    def _set_schedules(self, step: int, seen: int) -> dict[str, float]:
        """Learning rates and second betas of this step; returns the rates."""
        lr = self.optimizer_settings.lr_at(step) * self.objective.lr_share_at(seen) * self.lr_scale
        of_discriminator = self.objective.discriminator_lr
        ratio = 1.0 if of_discriminator is None else of_discriminator / self.optimizer_settings.schedule.lr
        lrs = {"generator": lr, "discriminator": lr * ratio}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = lrs[name]
                if name in self.beta2s:
                    group["betas"] = (group["betas"][0], self.objective.beta2_at(self.beta2s[name], seen))
        return {"lr": lrs["generator"], "d_lr": lrs["discriminator"]}

    @torch.no_grad()
    def _watched_pictures(self) -> Tensor:
        """The generator's own pictures, not the average's, from latents that never change."""
        player = self.gan.generator
        player.eval()
        with self.compute.autocasting():
            pictures = player(self.gan.latents(WATCHED, generator(0, "watched latents"))).float()
        player.train()
        return pictures

    # -- what the trainer asks for

    def weights_replaced(self) -> None:
        if self.average is not None:
            begin_at(self.average, self.to_average)

    def networks(self) -> list[nn.Module]:
        return [self.model] if self.average is None else [self.model, self.network]

    @torch.inference_mode()
    def eval_step(self, x_BCHW: Tensor, generator: Random) -> dict[str, Tensor]:
        self.model.eval()
        with self.compute.autocasting():
            return self.shown.evaluate(x_BCHW.contiguous(memory_format=self.compute.memory_format), generator)

    @torch.inference_mode()
    def sample(self, n: int, generator: Random) -> Tensor:
        self.model.eval()
        with self.compute.autocasting():
            return self.shown.sample(n, generator)

    def reconstruct(self, x_BCHW: Tensor) -> Tensor | None:
        return None

    @torch.inference_mode()
    def interpolate(self, rows: int, columns: int, generator: Random) -> Tensor | None:
        self.model.eval()
        with self.compute.autocasting():
            return self.shown.interpolate(rows, columns, generator)

    def headline(self) -> str | None:
        return "frechet_distance"


def _check_betas(optimizer: Optimizer, objective: Objective) -> None:
    given = {"discriminator_betas": objective.discriminator_betas, "beta2_final": objective.beta2_final}
    for name, value in given.items():
        if value is not None and "betas" not in optimizer.param_groups[0]:
            raise UserError(
                f"model.{name}={value} has no meaning for this optimizer, which has no betas; "
                "use optimizer=adam or adamw"
            )


def _add(totals: dict[str, Tensor], values: dict[str, Tensor], share: float) -> None:
    for name, value in values.items():
        totals[name] = totals[name] + share * value if name in totals else share * value
