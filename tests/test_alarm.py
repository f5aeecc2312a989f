"""A game that goes wrong is noticed in time, and train.on_alarm is done as it says."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from families import FAMILIES, assert_same, assert_same_run, checkpoint, curves, newest
from torch import Tensor, nn

from gentrain.models.gan.objective import MonitorSettings
from gentrain.training.adversarial import Adversarial
from gentrain.training.gan_monitor import GanMonitor, RandomFeatures, mean_distance
from gentrain.training.minimize import Minimize

GAN = FAMILIES["gan"]
SETTINGS = MonitorSettings(every_steps=10, after_steps=20, checks=2, diversity=0.5, d_right=0.9)


def monitor() -> GanMonitor:
    return GanMonitor(SETTINGS, 3, torch.device("cpu"))


def run_check(watched: GanMonitor, step: int, fake: Tensor, right: float = 0.5) -> str | None:
    watched.count(torch.tensor(right))
    watched.check(step, REAL, fake)
    return watched.raised


REAL = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
ALIKE = REAL[:1] + 0.01 * REAL


def test_mean_distance_against_loops() -> None:
    features = torch.randn(7, 5, dtype=torch.float64)
    pairs = [math.dist(a, b) for i, a in enumerate(features.tolist()) for b in features.tolist()[:i]]
    assert mean_distance(features).item() == pytest.approx(sum(pairs) / 21)
    assert mean_distance(features[:1]).item() == 0


def test_the_feature_space_never_changes() -> None:
    """Drawn from its own seed: whatever was drawn before, and whatever the run's seed is."""
    torch.manual_seed(1)
    first = RandomFeatures(3)(REAL)
    torch.manual_seed(2)
    assert torch.equal(first, RandomFeatures(3)(REAL))
    assert not any(parameter.requires_grad for parameter in RandomFeatures(3).parameters())


def test_collapse_rings_at_the_check_that_the_settings_name() -> None:
    watched = monitor()
    assert run_check(watched, 10, REAL.flip(-1)) is None
    assert watched.diversity == pytest.approx(1, abs=0.1)
    assert run_check(watched, 20, ALIKE) is None  # before after_steps nothing counts
    assert watched.last_good_step == 20
    assert run_check(watched, 30, ALIKE) is None
    raised = run_check(watched, 40, ALIKE)
    assert raised is not None
    assert re.match(
        r"the generator has collapsed: .* 0\.0\d+ times .* for 2 checks of 10 steps; try a larger", raised
    )
    assert "\n" not in raised
    assert watched.last_good_step == 20
    watched.count(torch.tensor(0.5))
    assert watched.raised is None  # said once
    assert run_check(watched, 50, ALIKE) is None
    assert run_check(watched, 60, ALIKE) is not None  # and again after as many checks
    assert run_check(watched, 70, REAL) is None
    assert watched.last_good_step == 70
    assert run_check(watched, 80, ALIKE) is None


def test_a_winning_discriminator_rings() -> None:
    watched = monitor()
    for _ in range(9):
        watched.count(torch.tensor(1.0))
    assert run_check(watched, 30, REAL, right=0.5) is None  # 0.95 on average
    for _ in range(9):
        watched.count(torch.tensor(0.8))
    assert run_check(watched, 40, REAL, right=1.0) is None  # 0.82: the count starts anew
    assert run_check(watched, 50, REAL, right=0.95) is None
    raised = run_check(watched, 60, REAL, right=1.0)
    assert raised is not None
    assert "the discriminator wins: it told 100 % of all pictures rightly" in raised


def test_a_watch_goes_on_from_its_state() -> None:
    watched, other = monitor(), monitor()
    run_check(watched, 30, ALIKE, right=0.7)
    watched.count(torch.tensor(0.3))
    other.load_state_dict(watched.state_dict())
    assert_same(other.state_dict(), watched.state_dict())
    assert run_check(other, 40, ALIKE) == run_check(watched, 40, ALIKE) is not None


def test_pictures_that_are_all_the_same_raise_nothing() -> None:
    watched = monitor()
    watched.count(torch.tensor(0.5))
    watched.check(30, REAL[:1].expand(8, -1, -1, -1), ALIKE)
    assert watched.diversity == 1.0


# ---- in a run

STEPS = [
    "train.max_steps=24", "train.eval_every_steps=null", "train.sample_every_steps=null", "train.save_every_steps=2",
    "model.alarm_diversity=0.02", "model.alarm_d_right=null",
]  # fmt: skip


def collapse(learner: Adversarial) -> None:
    """All pictures become the same one."""
    with torch.no_grad():
        learner.gan.generator.basis.constant.zero_()


def disturb(monkeypatch: pytest.MonkeyPatch, at: list[int]) -> None:
    """Before each of these steps (0-based), taken from the list, the generator is made to collapse."""
    original, left = Adversarial.train_step, list(at)

    def train_step(self: Adversarial, next_batch: Any, step: int) -> Any:
        if left and step == left[0]:
            left.pop(0)
            collapse(self)
        return original(self, next_batch, step)

    monkeypatch.setattr(Adversarial, "train_step", train_step)


def test_warn_says_it_in_one_line_and_goes_on(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, [11])
    outcome = gentrain(*tiny, *GAN, *STEPS, "run_dir=run", "optimizer.lr=1e-6")
    assert outcome.status == 0, outcome.err
    # Disturbed in step 12; checked after steps 12 and 14: the second bad check in a row rings.
    lines = [line for line in outcome.out.splitlines() if line.startswith("alarm")]
    assert lines[0].startswith("alarm: at step 14 the generator has collapsed")
    assert "for 2 checks of 2 steps" in lines[0]
    assert newest(Path("run"))["step"] == 24
    assert newest(Path("run"))["rollbacks"] == 0


def test_stop_names_the_last_good_checkpoint(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, [11])
    outcome = gentrain(*tiny, *GAN, *STEPS, "run_dir=run", "optimizer.lr=1e-6", "train.on_alarm=stop")
    assert outcome.status == 1
    assert "stopped: at step 14 the generator has collapsed" in outcome.err
    assert "the last good checkpoint is run/checkpoints/step_00000010.pt" in outcome.err
    assert "Traceback" not in outcome.err
    assert json.loads(Path("run/result.json").read_text())["status"] == "failed"


def test_rollback_recovers_a_run_that_was_disturbed_once(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, [11])
    options = [
        *STEPS,
        "optimizer.schedule=constant",
        "optimizer.lr=1e-4",
        "train.on_alarm=rollback",
        "train.keep_last=1",
    ]
    outcome = gentrain(*tiny, *GAN, *options, "run_dir=run")
    assert outcome.status == 0, outcome.err
    said = [line for line in outcome.out.splitlines() if line.startswith("alarm")]
    assert len(said) == 1
    assert "Going back to step 10 with learning rates times 0.5 (rollback 1 of 3)" in said[0]
    stored = newest(Path("run"))
    assert (stored["step"], stored["rollbacks"]) == (24, 1)
    assert stored["parts"]["watch"]["diversity"] > 0.02
    lines = [line for line in curves(Path("run")) if "train/loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 25))  # nothing twice
    assert [line["train/lr"] for line in lines] == [
        5e-5,
        *[1e-4] * 9,
        *[5e-5] * 14,
    ]  # warm-up, and then a half


def test_the_good_checkpoint_is_kept_until_it_is_not_needed(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, [11])
    options = [
        *STEPS,
        "optimizer.lr=1e-6",
        "train.keep_last=1",
        "train.on_alarm=rollback",
        "model.alarm_checks=5",
    ]
    assert gentrain(*tiny, *GAN, *options, "run_dir=run", "train.max_steps=18").status == 0
    names = [path.name for path in sorted(Path("run/checkpoints").glob("step_*"))]
    assert names == ["step_00000010.pt", "step_00000018.pt"]


def test_tries_are_bounded_and_counted_in_the_checkpoint(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, [11, 11, 11])
    options = [*STEPS, "optimizer.lr=1e-6", "train.on_alarm=rollback", "train.max_rollbacks=2"]
    outcome = gentrain(*tiny, *GAN, *options, "run_dir=run")
    assert outcome.status == 1
    assert "stopped after 2 rollbacks: at step 14 the generator has collapsed" in outcome.err
    assert "Going back to step 10 with learning rates times 0.25 (rollback 2 of 2)" in outcome.out
    assert checkpoint(Path("run/checkpoints/step_00000010.pt"))["rollbacks"] == 2


@pytest.mark.parametrize("at_step", [12, 13, 14])
def test_resume_during_an_alarm_and_its_rollback_is_exact(
    at_step: int, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the two bad checks, or right at the second one, which sets the run back."""
    command = [*tiny, *GAN, *STEPS, "optimizer.lr=1e-4", "train.on_alarm=rollback"]
    with monkeypatch.context() as patched:
        disturb(patched, [11])
        gentrain(*command, "run_dir=whole")
    with monkeypatch.context() as patched:
        disturb(patched, [11])
        disturbed = Adversarial.train_step
        asked: list[int] = []

        def interrupted(self: Adversarial, next_batch: Any, step: int) -> Any:
            metrics = disturbed(self, next_batch, step)
            if step + 1 == at_step and not asked:
                asked.append(step)
                os.kill(os.getpid(), signal.SIGTERM)
            return metrics

        patched.setattr(Adversarial, "train_step", interrupted)
        assert gentrain(*command, "run_dir=cut").status == 143
    stopped = newest(Path("cut"))
    assert stopped["rollbacks"] == (1 if at_step == 14 else 0)
    if at_step < 14:
        assert stopped["parts"]["watch"]["odd"] == 1
    assert gentrain("resume=cut").status == 0
    assert newest(Path("cut"))["rollbacks"] == 1
    assert_same_run(Path("whole"), Path("cut"))


def test_any_family_goes_back_when_its_figures_are_not_finite(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, left = Minimize.train_step, [4]

    def train_step(self: Minimize, next_batch: Any, step: int) -> Any:
        metrics = original(self, next_batch, step)
        if left and step == left[0]:
            left.pop()
            for parameter in self.network.parameters():
                nn.init.constant_(parameter, math.nan)
            return metrics | {"loss": math.nan}
        return metrics

    monkeypatch.setattr(Minimize, "train_step", train_step)
    outcome = gentrain(*tiny, *FAMILIES["vae"], "run_dir=run", "train.on_alarm=rollback")
    assert outcome.status == 0, outcome.err
    assert "alarm: training diverged at step 5: loss nan" in outcome.out
    assert "Going back to step 4" in outcome.out
    stored = newest(Path("run"))
    assert (stored["step"], stored["rollbacks"]) == (6, 1)
    assert all(value.isfinite().all() for value in stored["parts"]["model"].values())


def not_finite(monkeypatch: pytest.MonkeyPatch, learner: type, at: list[int]) -> None:
    """In each of these steps (0-based), taken from the list, the loss is NaN and so are the weights."""
    original, left = learner.train_step, list(at)

    def train_step(self: Any, next_batch: Any, step: int) -> Any:
        metrics = original(self, next_batch, step)
        if left and step == left[0]:
            left.pop(0)
            for parameter in self.network.parameters():
                nn.init.constant_(parameter, math.nan)
            return metrics | {"loss": math.nan}
        return metrics

    monkeypatch.setattr(learner, "train_step", train_step)


def test_a_gan_goes_back_to_the_newest_checkpoint_even_before_its_first_check(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite(monkeypatch, Adversarial, [6])
    options = [*STEPS, "model.alarm_every_steps=100", "train.on_alarm=rollback", "train.max_steps=10"]
    outcome = gentrain(*tiny, *GAN, *options, "run_dir=run")
    assert outcome.status == 0, outcome.err
    assert "Going back to step 6" in outcome.out


def test_a_gan_goes_back_twice_though_checks_are_fewer_than_checkpoints(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite(monkeypatch, Adversarial, [16, 15])
    options = [
        *STEPS, "train.save_every_steps=5", "model.alarm_every_steps=6", "train.keep_last=1",
        "train.on_alarm=rollback", "optimizer.lr=1e-6",
    ]  # fmt: skip
    outcome = gentrain(*tiny, *GAN, *options, "run_dir=run")
    assert outcome.status == 0, outcome.err
    assert newest(Path("run"))["rollbacks"] == 2


def test_a_best_checkpoint_of_later_is_forgotten_with_its_file(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite(monkeypatch, Minimize, [7])
    options = [
        "train.max_steps=12", "train.eval_every_steps=2", "train.sample_every_steps=null",
        "train.save_every_steps=5", "train.on_alarm=rollback",
    ]  # fmt: skip
    outcome = gentrain(*tiny, *FAMILIES["vae"], *options, "run_dir=run")
    assert outcome.status == 0, outcome.err
    stored = newest(Path("run"))
    best = checkpoint(Path("run/checkpoints/best.pt"))
    assert stored["best"]["step"] == best["step"] > 5


def test_a_stop_in_the_step_of_a_warning_is_a_stop(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, [11])
    disturbed = Adversarial.train_step

    def interrupted(self: Adversarial, next_batch: Any, step: int) -> Any:
        metrics = disturbed(self, next_batch, step)
        if step + 1 == 14:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    monkeypatch.setattr(Adversarial, "train_step", interrupted)
    outcome = gentrain(*tiny, *GAN, *STEPS, "run_dir=run", "optimizer.lr=1e-6")
    assert outcome.status == 143
    assert newest(Path("run"))["step"] == 14
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"


def test_a_batch_of_one_leaves_nothing_to_compare(gentrain: Command, tiny: list[str]) -> None:
    outcome = gentrain(*tiny, *GAN, "train.batch_size=1", "run_dir=run")
    assert outcome.status == 2
    assert "train.batch_size=1 leaves the alarm no two real pictures to compare" in outcome.err


def test_nothing_to_go_back_to(gentrain: Command, tiny: list[str]) -> None:
    outcome = gentrain(
        *tiny, *FAMILIES["vae"], "train.grad_clip=null", "optimizer=sgd", "optimizer.lr=1e30", "run_dir=run",
        "train.on_alarm=rollback", "train.save_every_steps=null",
    )  # fmt: skip
    assert outcome.status == 1
    assert "no checkpoint from before it is left" in outcome.err


def test_on_alarm_may_change_in_a_run_that_goes_on(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *GAN, *STEPS, "run_dir=run", "train.max_steps=2")
    outcome = gentrain("resume=run", "train.max_steps=4", "train.on_alarm=rollback", "train.max_rollbacks=1")
    assert outcome.status == 0, outcome.err


def test_a_forced_failure_rings_at_the_check_that_is_promised(gentrain: Command, tiny: list[str]) -> None:
    """A tiny gamma and a huge learning rate, and no hand in it."""
    every, checks = 5, 3
    options = [
        "train.max_steps=200", "train.eval_every_steps=null", "train.sample_every_steps=null", "train.save_every_steps=null",
        "model.gamma=1e-6", "model.gamma_final=1e-6", "optimizer.lr=0.3", "optimizer.schedule=constant", "train.log_every_steps=1",
        f"model.alarm_every_steps={every}", "model.alarm_after_steps=20", f"model.alarm_checks={checks}",
        "model.alarm_diversity=0.25", "model.alarm_d_right=null", "train.on_alarm=stop",
    ]  # fmt: skip
    outcome = gentrain(*tiny, *GAN, *options, "run_dir=run")
    assert outcome.status == 1
    found = re.search(r"stopped: at step (\d+) the generator has (collapsed|diverged)", outcome.err)
    assert found, outcome.err
    checked = {
        line["step"]: line["train/diversity"]
        for line in curves(Path("run"))
        if line["step"] > 20 and line["step"] % every == 0
    }
    bad = [step for step, diversity in checked.items() if not 0.25 <= diversity <= 4]
    in_a_row = next(step for step in bad if {step + every * k for k in range(1, checks - 1)} <= set(bad))
    assert int(found[1]) == in_a_row + (checks - 1) * every
