"""task=evaluate: what it writes and says, that its figures mean what they say, and valid/frechet_distance."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES, assert_same_run, checkpoint, curves, newest
from omegaconf import OmegaConf
from torch import Tensor

import gentrain as library
from gentrain import anime
from gentrain.anime.decode import decode
from gentrain.anime.factors import join
from gentrain.config.compose import CONFIG_DIR
from gentrain.data.build import fresh_pictures
from gentrain.metrics.extractors import make_extractor
from gentrain.metrics.sample_report import SampleReport, Sets, evaluate_samples
from gentrain.models.ae import AE
from gentrain.training.adversarial import Adversarial

COUNT = 400
EXTRACTOR = make_extractor("domain", torch.device("cpu"))
LABEL = EXTRACTOR.label


def faces(start: int, count: int = COUNT) -> Tensor:
    return torch.from_numpy(anime.draw(anime.combinations(np.arange(start, start + count), 0), 32))


@pytest.fixture(scope="module")
def real() -> dict[str, Tensor]:
    return {"test": faces(0), "train": faces(10_000), "fresh": faces(20_000), "training": faces(10_000, 1000)}


def judged(samples: Tensor, real: dict[str, Tensor]) -> SampleReport:
    floors = {"train": real["train"], "fresh": real["fresh"]}
    sets = Sets(
        samples, real["test"], floors, real["training"], {"samples": COUNT, "against": "", "training": ""}
    )
    return evaluate_samples(sets, EXTRACTOR, 256, lambda done, total: None)


def values(judgement: SampleReport) -> dict[str, float]:
    return {
        name.partition("[")[0]: figure.mean
        for name, figure in judgement.figures.items()
        if "held" not in name
    }


def test_fresh_faces_score_like_a_second_real_draw_on_every_figure(real: dict[str, Tensor]) -> None:
    found = judged(faces(30_000), real)
    figures = {name.partition("[")[0]: figure for name, figure in found.figures.items()}
    for name in ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"):
        error = 4 * np.sqrt(2) * figures[name].standard_error  # the floor has one as large
        assert abs(figures[name].mean - figures[name].floor["train"]) < error, name
        assert abs(figures[name].mean - figures[name].floor["fresh"]) < error, name
    assert abs(figures["kernel_distance"].mean) < 4 * figures["kernel_distance"].standard_error
    assert figures["copies"].mean == 0
    for name in ("nearer_than_held_out", f"nearer_than_held_out[{LABEL}]"):
        assert abs(found.figures[name].mean - 0.5) < 4 * found.figures[name].standard_error
    samples, held_out = (np.array(found.nearest_rmse[name]) for name in ("samples", "held_out"))
    assert samples[2:-1] == pytest.approx(held_out[2:-1], rel=0.1)


def test_a_collapsed_model_has_no_recall(real: dict[str, Tensor]) -> None:
    found = values(judged(faces(30_000, 64).repeat(7, 1, 1, 1)[:COUNT], real))
    assert found["recall"] < 0.02
    assert found["precision"] > 0.8
    assert found["coverage"] < 0.5


def test_noise_has_no_precision(real: dict[str, Tensor]) -> None:
    noise = torch.randint(
        0, 256, (COUNT, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    found, floor = values(judged(noise, real)), values(judged(faces(30_000), real))
    assert found["precision"] < 0.01
    assert found["frechet_distance"] > 20 * floor["frechet_distance"]


def test_copies_are_found(real: dict[str, Tensor]) -> None:
    """Half of the samples are training pictures, and a quarter are ones with a single pixel changed."""
    samples = faces(30_000)
    samples[:200] = real["training"][500:700]
    samples[200:300] = real["training"][800:900]
    samples[200:300, :, 5, 5] ^= 3
    found = judged(samples, real)
    assert found.figures["copies"].mean == 0.5
    assert found.figures["nearer_than_held_out"].mean > 0.85
    assert found.figures[f"nearer_than_held_out[{LABEL}]"].mean > 0.8
    assert found.nearest_rmse["samples"][0] == 0 < found.nearest_rmse["held_out"][0]


def test_pictures_that_cannot_be_drawn_anew_have_one_floor(real: dict[str, Tensor]) -> None:
    protocol = {"samples": COUNT, "against": "", "training": ""}
    sets = Sets(faces(30_000), real["test"], {"train": real["train"]}, real["training"], protocol)
    found, with_fresh = (
        evaluate_samples(sets, EXTRACTOR, 256, lambda done, total: None),
        judged(faces(30_000), real),
    )
    for name, figure in found.figures.items():
        beside = {"copies": {"held_out"}, "nearest_train_rmse": {"held_out"}}.get(name, {"train"})
        assert set(figure.floor) == (set() if name.startswith("nearer") else beside), name
        assert figure.mean == with_fresh.figures[name].mean, name
    assert found.nearest_rmse == with_fresh.nearest_rmse


def test_fresh_faces_are_in_no_split() -> None:
    """By the factors that are read back from the pictures: none is a face of any split, at the largest count."""
    section = {"name": "anime", "size": 32, "channels": 3, "count": 1_000_000, "seed": 5, "levels": 256}
    packed = set(join(anime.combinations(np.arange(1_002_000), 5)).tolist())
    drawn = []
    for seed in (0, 2**63 - 1):
        pictures = fresh_pictures(section, 200, seed)
        assert pictures is not None
        drawn += join(decode(pictures)).tolist()
    assert len(set(drawn)) == 400
    assert packed.isdisjoint(drawn)
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        other = hydra.compose("config", ["data=fashion_mnist"])["data"]
    assert fresh_pictures(OmegaConf.to_container(other), 2, 0) is None


# ---- the command


def anime_run(family: str, *more: str) -> list[str]:
    return [
        *FAMILIES[family], "data=anime", "data.count=300", "train.max_steps=4", "train.batch_size=8",
        "train.log_every_steps=1", "train.eval_every_steps=2", "train.sample_every_steps=null",
        "train.save_every_steps=2", "train.sample_count=4", *more,
    ]  # fmt: skip


def test_a_figure_that_nobody_knows_is_shown_by_its_name(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a family of somebody's own: in the file, in both tables, and on the page of task=compare."""
    gentrain(*tiny, *FAMILIES["ae"], "train.max_steps=1", "run_dir=run")
    original = AE.evaluate

    def with_more(self: AE, x_BCHW: Tensor, generator: Any) -> dict[str, Tensor]:
        return {"novelty": torch.full((len(x_BCHW),), 2.5)} | original(self, x_BCHW, generator)

    monkeypatch.setattr(AE, "evaluate", with_more)
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        outcome = gentrain("task=evaluate", "run=run", "evaluate.samples=null")
        assert outcome.status == 0, outcome.err
        assert re.search(r"novelty\W+2\.5\b", outcome.out)
        assert "novelty:" not in outcome.out, "nothing is said of it"
    figures = json.loads(Path("run/evaluation.json").read_text())["figures"]
    assert figures["novelty"] == {"mean": 2.5, "standard_error": 0.0, "unit": "", "meaning": ""}
    assert list(figures)[:2] == ["mse", "novelty"]
    assert gentrain("task=compare", "runs=run").status == 0
    page = next(Path().rglob("*.html"), None)
    assert page is not None and "novelty" in page.read_text()


def test_evaluation_of_a_run_on_anime(gentrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gentrain(*anime_run("gmm"), "run_dir=run").status == 0
    outcome = gentrain("task=evaluate", "run=run", "evaluate.iwae_samples=2")
    assert outcome.status == 0, outcome.err
    written = json.loads(Path("run/evaluation.json").read_text())
    figures = written["figures"]
    bits = figures["nats"]["mean"] / np.log(2)
    assert figures["distance_to_truth"]["mean"] == pytest.approx(bits - anime.ENTROPY_BITS)
    assert figures["distance_to_truth"]["unit"] == "bits/image"
    assert figures["distance_to_truth"]["meaning"].startswith("upper bound on KL")
    bits = figures["iwae_nats"]["mean"] / np.log(2)
    assert figures["iwae_distance_to_truth"]["mean"] == pytest.approx(bits - anime.ENTROPY_BITS)
    frechet = figures[f"frechet_distance[{LABEL}]"]
    assert set(frechet["floor"]) == {"train", "fresh"}
    assert 0 < frechet["floor"]["fresh"] < frechet["mean"]
    assert frechet["protocol"] == {"extractor": LABEL, "samples": 300, "against": "300 of 1000 test images"}
    assert figures[f"recall[{LABEL}]"]["meaning"].endswith("k=3")
    assert figures["copies"]["protocol"]["training"] == "300 of 300"
    assert "precision" not in written["protocol"]
    assert written["protocol"]["samples_are"].startswith("draws from the density")
    assert set(written["nearest_train_rmse"]) == {"quantiles", "samples", "held_out"}
    assert written["cost"]["parameters"] > 0 < written["cost"]["images_per_second"]
    assert Path("run/evaluate/nearest.png").stat().st_size > 1000
    for words in (
        f"frechet_distance[{LABEL}]",
        "distance_to_truth",
        "held out",
        "300 of 1000 test images",
        "parameters",
    ):
        assert words in outcome.out
    assert "FID" not in outcome.out
    before = {name: figure["mean"] for name, figure in figures.items() if "seconds" not in name}
    monkeypatch.setenv("COLUMNS", "80")  # as of a terminal that nobody made larger, and of a file
    narrow = gentrain("task=evaluate", "run=run", "evaluate.iwae_samples=2")
    assert narrow.status == 0
    again = json.loads(Path("run/evaluation.json").read_text())["figures"]
    assert {name: figure["mean"] for name, figure in again.items() if "seconds" not in name} == before
    assert "…" not in narrow.out, "no figure is cut off"
    for name, figure in again.items():
        assert f"{figure['mean']:.5g}" in narrow.out
        assert f"\n{name}: " in narrow.out
        assert figure["meaning"] in narrow.out
    assert f"{again[f'frechet_distance[{LABEL}]']['floor']['fresh']:.4g}" in narrow.out


def test_evaluation_without_samples(gentrain: Command) -> None:
    gentrain(*anime_run("ae"), "run_dir=run")
    Path("run/evaluate").mkdir()
    Path("run/evaluate/nearest.png").write_bytes(b"of an earlier evaluation")
    asked = ["evaluate.samples=null", "device.precision=bf16"]
    assert gentrain("task=evaluate", "run=run", *asked).status == 0
    assert not Path("run/evaluate/nearest.png").exists()
    written = json.loads(Path("run/evaluation.json").read_text())
    assert written["protocol"]["precision"] == "bf16"
    assert set(written["figures"]) == {"mse", "psnr_db", "seconds_for_64_samples"}
    refused = gentrain("task=evaluate", "run=run", "evaluate.samples=64")
    assert refused.status == 2
    assert "evaluate.samples=64 is too few: features of 64 numbers need more" in refused.err
    refused = gentrain("task=evaluate", "run=run", "evaluate.extractor=inception")  # and fetches no weights
    assert refused.status == 2
    assert "evaluate.samples=1000 is too few: features of 2048 numbers need more" in refused.err


def test_a_run_that_cannot_be_written_is_refused_at_once(
    gentrain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    gentrain(*anime_run("ae"), "run_dir=run")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "run")
    refused = gentrain("task=evaluate", "run=run")
    assert refused.status == 2
    assert "run cannot be written, and task=evaluate leaves there what it makes" in refused.err


def test_too_few_real_pictures_leave_quality_out(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES["vae"], "run_dir=run")
    outcome = gentrain("task=evaluate", "run=run")
    assert outcome.status == 0
    assert "quality and memorisation are left out: a split has only" in outcome.out
    assert "bits_per_dim" in json.loads(Path("run/evaluation.json").read_text())["figures"]
    assert not list(Path("run/evaluate").glob("*.png"))


# ---- valid/frechet_distance


DISTANCE = ["train.frechet_samples=70"]


def test_a_gan_has_a_best_checkpoint_on_the_validation_split(gentrain: Command) -> None:
    outcome = gentrain(*anime_run("gan", *DISTANCE), "run_dir=run")
    assert outcome.status == 0, outcome.err
    logged = {
        line["step"]: line["valid/frechet_distance"]
        for line in curves(Path("run"))
        if "valid/frechet_distance" in line
    }
    assert set(logged) == {2, 4}
    best = newest(Path("run"))["best"]
    step = min(logged, key=lambda step: logged[step])
    assert best == {
        "metric": "valid/frechet_distance", "value": logged[step], "step": step, "measured": f"{LABEL}, 70 samples",
    }  # fmt: skip
    assert checkpoint(Path("run/checkpoints/best.pt"))["step"] == step
    meta = json.loads(Path("run/meta.json").read_text())
    assert meta["measured"] == {"valid/frechet_distance": f"{LABEL}, 70 samples"}
    assert gentrain("task=sample", "run=run", "checkpoint=best", "sample.count=2").status == 0


def test_the_figure_is_that_of_the_samples(gentrain: Command) -> None:
    """By hand, from the trained run's own samples of the same noise."""
    from gentrain.metrics.frechet import frechet_distance
    from gentrain.runtime.seeding import image_streams

    gentrain(*anime_run("gan", *DISTANCE, "train.eval_every_steps=null"), "run_dir=run")
    run, noise = library.load("run"), image_streams(70, 0, "frechet")
    drawn = run.generative.sample(70, noise)
    valid = faces(0, 70)  # the held-out faces come first, and the validation split before the test split
    by_hand = frechet_distance(EXTRACTOR.features(drawn, 256), EXTRACTOR.features(valid, 256)).value
    logged = [
        line["valid/frechet_distance"] for line in curves(Path("run")) if "valid/frechet_distance" in line
    ]
    assert logged == [pytest.approx(by_hand, rel=1e-6)]


@pytest.mark.parametrize("method", ["train_step", "sample"])
def test_resume_is_exact(method: str, gentrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in a step, or among the samples of an evaluation, which is then made up for."""
    command = anime_run("gan", *DISTANCE)
    gentrain(*command, "run_dir=whole")
    original, calls = vars(Adversarial)[method], []

    def interrupted(self: Any, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Adversarial, method, interrupted)
        assert gentrain(*command, "run_dir=cut").status == 143
    assert newest(Path("cut"))["pending"] == (["evaluate"] if method == "sample" else [])
    assert gentrain("resume=cut").status == 0
    assert_same_run(Path("whole"), Path("cut"))


def test_any_family_can_have_the_curve(gentrain: Command) -> None:
    assert gentrain(*anime_run("ae", *DISTANCE), "run_dir=run").status == 0
    assert "valid/frechet_distance" in curves(Path("run"))[-1] | curves(Path("run"))[-2]
    assert newest(Path("run"))["best"]["metric"] == "valid/mse"


def test_too_few_pictures_for_the_distance(gentrain: Command, tiny: list[str]) -> None:
    outcome = gentrain(*tiny, *FAMILIES["gan"], "run_dir=run")
    assert outcome.status == 0
    assert "valid/frechet_distance is left out: the validation split has" in outcome.out
    assert newest(Path("run"))["best"] is None
    refused = gentrain(*tiny, *FAMILIES["gan"], "train.frechet_samples=64", "run_dir=other")
    assert refused.status == 2
    assert "train.frechet_samples=64 is too few" in refused.err
    assert not Path("other").exists()


def test_another_way_of_measuring_begins_anew(gentrain: Command) -> None:
    gentrain(*anime_run("gan", *DISTANCE), "run_dir=run")
    more = ["train.max_steps=6", "train.frechet_samples=66", "optimizer.lr=1e-30"]
    assert gentrain("resume=run", *more).status == 0
    best = newest(Path("run"))["best"]
    assert best["measured"] == f"{LABEL}, 66 samples"
    assert best["step"] == 6
