"""Two players, each with a loss and an optimizer of its own: the GAN's steps.

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
from gentrain.models.gan.objective import Rules, between, one_centred, squared_gradients, zero_centred
from gentrain.models.interface import Game
from gentrain.runs.checkpoint import Stateful
from gentrain.runtime.device import Place
from gentrain.runtime.distributed import average, batch_norms, mean_over_processes, whole_batch
from gentrain.runtime.seeding import Random, generator
from gentrain.training.ema import averaged, begin_at
from gentrain.training.gan_monitor import GameWatch
from gentrain.training.learner import Metrics, NextBatch
from gentrain.training.optimizers import OptimizerSettings

WATCHED = 64  # pictures whose diversity is watched


class Adversarial:
    """Trains a Game (see gentrain/models). The average is of the generator alone.

    One step: `discriminator_steps` updates of the discriminator, each on a batch of its own, then one of
    the generator. `optimizer` is the generator's; the discriminator's is a second one of the same kind.
    """

    def __init__(
        self, network: nn.Module, shape: ImageShape, optimizer: OptimizerSettings, train: Train, place: Place
    ) -> None:
        self.shape, self.place, self.train_settings, self.optimizer_settings = shape, place, train, optimizer
        self.network = network.to(place.device).to(memory_format=place.memory_format)
        self.game = cast(Game, self.network)
        self.rules: Rules = self.game.rules
        self.batch_norms = batch_norms(self.network)
        self.players = {"generator": self.game.generator, "discriminator": self.game.discriminator}
        self.optimizers = {
            name: optimizer.build(player.parameters()) for name, player in self.players.items()
        }
        if self.rules.watch.diversity is not None and train.batch_size < 2:
            raise UserError(
                "train.batch_size=1 leaves the alarm no two real pictures to compare; take at least 2, or "
                "model.alarm_diversity=null"
            )
        _check_betas(self.optimizers["discriminator"], self.rules)
        self.beta2s = self._set_discriminator_betas()
        self.watch = GameWatch(self.rules.watch, shape.channels, place.device)
        self.lr_scale = 1.0
        self.parts: dict[str, Stateful] = {
            "model": self.network,
            "optimizer": self.optimizers["generator"],
            "discriminator_optimizer": self.optimizers["discriminator"],
            "watch": self.watch,
        }
        self.model = self.network
        self.average = None
        if train.ema_halflife_images:
            # In a dict of its own, so that the average's weights are named as the network's are.
            self.to_average = nn.ModuleDict({"generator": self.game.generator})
            self.average = averaged(self.to_average, train.batch_size, train.ema_halflife_images)
            self.parts["ema"] = self.average
            # What is looked at: the averaged generator beside the discriminator as it is.
            self.model = copy.copy(self.network)
            self.model._modules = dict(self.network._modules)
            self.model.generator = cast(nn.ModuleDict, self.average.module)["generator"]
        self.shown = cast(Game, self.model)
        if place.compile:
            self._compile()

    def _compile(self) -> None:
        self.game.generator.compile()
        if self.rules.loss.penalty == "none":  # torch.compile has no second derivatives
            self.game.discriminator.compile()

    # -- one step

    def train_step(self, next_batch: NextBatch, step: int) -> Metrics:
        seen = step * self.train_settings.batch_size
        lrs = self._set_schedules(step, seen)
        gamma = self.rules.gamma_at(seen)
        for player in (self.game.generator, self.game.discriminator):
            if not player.training:  # it was looked at
                player.train()
        for _ in range(self.rules.discriminator_steps):
            real_BCHW = self._unit(next_batch())
            judged = self._discriminator_step(real_BCHW, gamma)
        made = self._generator_step(self._unit(next_batch()) if self.rules.loss.relativistic else real_BCHW)
        if self.average is not None:
            self.average.update_parameters(self.to_average)
        self.watch.count((judged["d_right_real"] + judged["d_right_fake"]) / 2)
        if self.watch.due(step + 1):
            real_BCHW = whole_batch(real_BCHW, self.train_settings.accumulate_steps)
            self.watch.check(step + 1, real_BCHW[:WATCHED], self._watched_pictures())
        metrics: Metrics = {**judged, **made, **lrs}
        if self.rules.loss.penalty != "none":
            metrics["gamma"] = gamma
        if self.watch.diversity is not None:
            metrics["diversity"] = self.watch.diversity
        metrics["loss"] = judged["d_loss"] + made["g_loss"]
        metrics["grad_norm"] = torch.hypot(judged["d_grad_norm"], made["g_grad_norm"])
        return metrics

    def _discriminator_step(self, real_BCHW: Tensor, gamma: float) -> dict[str, Tensor]:
        """One update on a batch of real pictures and as many generated ones, which are constants here."""
        optimizer = self.optimizers["discriminator"]
        optimizer.zero_grad()
        totals, logits = dict[str, Tensor](), list[tuple[Tensor, Tensor]]()
        for real in real_BCHW.tensor_split(self.train_settings.accumulate_steps):
            with torch.no_grad(), self.place.autocasting():
                fake = self.game.generator(self.game.latents(len(real))).float()
            with self._judging():
                loss, penalties, of_part = self._discriminator_loss(real, fake, gamma)
            share = len(real) / len(real_BCHW)
            (loss * share).backward()
            _add(totals, {"d_loss": loss.detach(), **penalties}, share)
            logits.append(of_part)
        totals |= self._figures(*(torch.cat(values) for values in zip(*logits, strict=True)))
        totals = average(self.game.discriminator.parameters(), totals, self.batch_norms)
        totals["d_grad_norm"] = self._clipped(self.game.discriminator)
        optimizer.step()
        return totals

    def _discriminator_loss(
        self, real_BCHW: Tensor, fake_BCHW: Tensor, gamma: float
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, Tensor]]:
        """The discriminator's objective on augmented pictures; detached, its penalties and both logits.

        R1 and R2 are penalties at the pictures themselves, through the augmentation, as in R3GAN's code; the
        interpolated penalty lies between two pictures that D is shown.
        """
        discriminator, loss = self.game.discriminator, self.rules.loss
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
        border = 0.0 if self.rules.loss.has_zero else mean_over_processes((real + fake) / 2)
        figures = {
            "logit_real": real,
            "logit_fake": fake,
            "logit_margin": real - fake,
            "d_right_real": (real_B > border).float().mean(),
            "d_right_fake": (fake_B < border).float().mean(),
        }
        if self.rules.loss.probability == "single":
            figures |= {"d_real": real_B.sigmoid().mean(), "d_fake": fake_B.sigmoid().mean()}
        elif self.rules.loss.probability == "pair":
            figures |= {
                "d_real": (real_B - fake_B).sigmoid().mean(),
                "d_fake": (fake_B - real_B).sigmoid().mean(),
            }
        return figures

    def _generator_step(self, real_BCHW: Tensor) -> dict[str, Tensor]:
        """One update against the discriminator as it is; relativistic losses look at real pictures too."""
        discriminator, loss = self.game.discriminator, self.rules.loss
        optimizer, totals = self.optimizers["generator"], dict[str, Tensor]()
        optimizer.zero_grad()
        discriminator.requires_grad_(False)
        for real in real_BCHW.tensor_split(self.train_settings.accumulate_steps):
            with self.place.autocasting():
                fake = self.game.generator(self.game.latents(len(real)))
                fake_B = discriminator(self._augmented(fake)).float()
                real_B = discriminator(self._augmented(real)).float() if loss.relativistic else None
            value, share = loss.generator(fake_B, real_B), len(real) / len(real_BCHW)
            (value * share).backward()
            _add(totals, {"g_loss": value.detach()}, share)
        discriminator.requires_grad_(True)
        totals = average(self.game.generator.parameters(), totals, self.batch_norms)
        totals["g_grad_norm"] = self._clipped(self.game.generator)
        optimizer.step()
        return totals

    # -- what the steps are made of

    def _unit(self, x_BCHW: Tensor) -> Tensor:
        return to_unit(x_BCHW, self.shape.levels).contiguous(memory_format=self.place.memory_format)

    def _augmented(self, x_BCHW: Tensor) -> Tensor:
        return diff_augment(x_BCHW, self.rules.augment, self.rules.augment_probability)

    def _judging(self) -> AbstractContextManager[None] | torch.autocast:
        """In float32 where a gradient is penalised: squares of small gradients are lost in bfloat16."""
        return self.place.autocasting() if self.rules.loss.penalty == "none" else nullcontext()

    def _clipped(self, player: nn.Module) -> Tensor:
        """The norm of a player's gradient, which is then clipped if train.grad_clip says so."""
        if self.train_settings.grad_clip is not None:
            return clip_grad_norm_(player.parameters(), self.train_settings.grad_clip)
        return get_total_norm([p.grad for p in player.parameters() if p.grad is not None])

    def _set_discriminator_betas(self) -> dict[str, float]:
        """Both players' second betas at the start of training, where their optimizer has any."""
        betas = self.rules.discriminator_betas
        for group in self.optimizers["discriminator"].param_groups:
            if betas is not None:
                group["betas"] = (float(betas[0]), float(betas[1]))
        first = {name: optimizer.param_groups[0] for name, optimizer in self.optimizers.items()}
        return {name: group["betas"][1] for name, group in first.items() if "betas" in group}

    def _set_schedules(self, step: int, seen: int) -> dict[str, float]:
        """Learning rates and second betas of this step; returns the rates."""
        lr = self.optimizer_settings.lr_at(step) * self.rules.lr_share_at(seen) * self.lr_scale
        of_discriminator = self.rules.discriminator_lr
        ratio = 1.0 if of_discriminator is None else of_discriminator / self.optimizer_settings.schedule.lr
        lrs = {"generator": lr, "discriminator": lr * ratio}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = lrs[name]
                if name in self.beta2s:
                    group["betas"] = (group["betas"][0], self.rules.beta2_at(self.beta2s[name], seen))
        return {"lr": lrs["generator"], "d_lr": lrs["discriminator"]}

    @torch.no_grad()
    def _watched_pictures(self) -> Tensor:
        """The generator's own pictures, not the average's, from latents that never change."""
        player = self.game.generator
        player.eval()
        with self.place.autocasting():
            pictures = player(self.game.latents(WATCHED, generator(0, "watched latents"))).float()
        player.train()
        return pictures

    # -- what the loop asks for

    def weights_replaced(self) -> None:
        if self.average is not None:
            begin_at(self.average, self.to_average)

    def networks(self) -> list[nn.Module]:
        return [self.model] if self.average is None else [self.model, self.network]

    @torch.inference_mode()
    def eval_step(self, x_BCHW: Tensor, generator: Random) -> dict[str, Tensor]:
        self.model.eval()
        with self.place.autocasting():
            return self.shown.evaluate(x_BCHW.contiguous(memory_format=self.place.memory_format), generator)

    @torch.inference_mode()
    def sample(self, n: int, generator: Random) -> Tensor:
        self.model.eval()
        with self.place.autocasting():
            return self.shown.sample(n, generator)

    def reconstruct(self, x_BCHW: Tensor) -> Tensor | None:
        return None

    @torch.inference_mode()
    def interpolate(self, rows: int, columns: int, generator: Random) -> Tensor | None:
        self.model.eval()
        with self.place.autocasting():
            return self.shown.interpolate(rows, columns, generator)

    def headline(self) -> str | None:
        return "frechet_distance"


def _check_betas(optimizer: Optimizer, rules: Rules) -> None:
    given = {"discriminator_betas": rules.discriminator_betas, "beta2_final": rules.beta2_final}
    for name, value in given.items():
        if value is not None and "betas" not in optimizer.param_groups[0]:
            raise UserError(
                f"model.{name}={value} has no meaning for this optimizer, which has no betas; "
                "use optimizer=adam or adamw"
            )


def _add(totals: dict[str, Tensor], values: dict[str, Tensor], share: float) -> None:
    for name, value in values.items():
        totals[name] = totals[name] + share * value if name in totals else share * value
