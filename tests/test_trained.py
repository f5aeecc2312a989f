"""gentrain.load and the tasks on a trained run: one implementation, two ways in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES
from PIL import Image
from safetensors.torch import load_file

import gentrain as library
from gentrain.data.build import open_data
from gentrain.errors import UserError
from gentrain.models.pixel.sampler import Draw


@pytest.fixture
def run(gentrain: Command, tiny: list[str]) -> Path:
    gentrain(*tiny, *FAMILIES["vae"], "run_dir=run", "train.keep_last=9")
    return Path("run")


def test_the_task_and_python_draw_the_same_pictures(run: Path, gentrain: Command) -> None:
    outcome = gentrain("task=sample", "run=run", "sample.count=5", "sample.seed=3")
    assert outcome.status == 0, outcome.err
    assert "averaged weights" in outcome.out
    samples = library.load(run).sample(5, seed=3).numpy()
    files = sorted((run / "sample").glob("0*.png"))
    assert [file.name for file in files] == [f"{number:05d}.png" for number in range(5)]
    for file, image_CHW in zip(files, samples, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)).transpose(2, 0, 1), image_CHW)
    assert Image.open(run / "sample/grid.png").size == (32, 22)
    gentrain("task=sample", "run=run", "sample.count=2")
    assert len(list((run / "sample").glob("0*.png"))) == 2


def test_evaluation_names_its_protocol(run: Path, gentrain: Command) -> None:
    outcome = gentrain("task=evaluate", "run=run", "evaluate.iwae_samples=8")
    assert outcome.status == 0, outcome.err
    written = json.loads((run / "evaluation.json").read_text())
    config = library.load(run).config
    test = open_data(config["data"], lambda *_: None).split("test")
    assert (
        written["protocol"] | {"split": "test", "images": len(test), "levels": 256, "step": 6}
        == written["protocol"]
    )
    figures = written["figures"]
    nats, bits = figures["nats"], figures["bits_per_dim"]
    assert bits["mean"] == pytest.approx(nats["mean"] / (3 * 8 * 8 * np.log(2)), rel=1e-6)
    assert bits["meaning"].startswith("upper bound on")
    assert nats["mean"] == pytest.approx(figures["nll_nats"]["mean"] + figures["kl_nats"]["mean"], rel=1e-6)
    assert figures["iwae_nats"]["mean"] < nats["mean"] + 3 * nats["standard_error"]
    assert "k=8" in figures["iwae_nats"]["meaning"]
    assert "split" in outcome.out
    direct = -library.load(run).log_prob(np.asarray(test)).double()
    assert direct.mean().item() == pytest.approx(nats["mean"], abs=5 * nats["standard_error"] + 1)
    assert (
        gentrain("task=evaluate", "run=run", "evaluate.split=valid", "evaluate.iwae_samples=null").status == 0
    )
    assert "iwae_nats" not in json.loads((run / "evaluation.json").read_text())["figures"]


def test_sums_are_over_images_whatever_the_batches(run: Path, gentrain: Command) -> None:
    """With a batch size that leaves a short last batch, a figure without noise is the same."""
    means = []
    for batch_size in (3, 256):
        gentrain(
            "task=evaluate", "run=run", f"evaluate.batch_size={batch_size}", "evaluate.iwae_samples=null"
        )
        means.append(json.loads((run / "evaluation.json").read_text())["figures"]["mse"]["mean"])
    assert means[0] == pytest.approx(means[1], rel=1e-6)


def test_other_pictures_are_not_measured(
    run: Path, gentrain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gentrain.runs.trained import TrainedRun

    original = TrainedRun.__init__

    def other(self: TrainedRun, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        self.data_fingerprint = "of other pictures"

    monkeypatch.setattr(TrainedRun, "__init__", other)
    outcome = gentrain("task=evaluate", "run=run")
    assert outcome.status == 2
    assert "have changed since the run" in outcome.err


def test_what_cannot_be_loaded(run: Path) -> None:
    for arguments, sentence in (
        ({"checkpoint": "bset"}, "it must be last or best"),
        ({"device": "gpu"}, "device.name=gpu is not possible"),
    ):
        with pytest.raises(UserError, match=sentence):
            library.load(run, **arguments)
    with pytest.raises(UserError, match="no checkpoint file"):
        library.load(run / "config.yaml")
    with pytest.raises(UserError, match="at least 0"):
        library.load(run).sample(-1)
    with pytest.raises(UserError, match="there is no folder"):
        library.save_weights(run, "nowhere/w.safetensors")


def test_codes_can_be_learned_from(run: Path) -> None:
    loaded = library.load(run)
    codes = loaded.encode(loaded.sample(4))
    layer = torch.nn.Linear(3, 2)
    layer(codes).sum().backward()
    assert layer.weight.grad is not None


def test_one_checkpoint_file_or_the_best(run: Path) -> None:
    assert library.load(run).step == 6
    assert library.load(run / "checkpoints/step_00000002.pt").step == 2
    best = torch.load(run / "checkpoints/best.pt", weights_only=True)
    assert library.load(run, checkpoint="best").step == best["step"] == best["best"]["step"]


def test_a_damaged_newest_checkpoint_is_passed_over(run: Path, gentrain: Command) -> None:
    newest = run / "checkpoints/step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert library.load(run).step == 4
    outcome = gentrain("resume=run")
    assert outcome.status == 0
    assert f"{newest} is damaged" in outcome.out
    assert "going on from step 4" in outcome.out
    assert library.load(run).step == 6


def test_averaged_weights_are_used(run: Path) -> None:
    stored = torch.load(run / "checkpoints/step_00000006.pt", weights_only=True)["parts"]
    weights = library.load(run).model.state_dict()
    for name, value in weights.items():
        assert torch.equal(value, stored["ema"][f"module.{name}"])
    assert any(not torch.equal(value, stored["model"][name]) for name, value in weights.items())


def test_encode_reconstruct_and_what_there_is_not(run: Path) -> None:
    loaded = library.load(run)
    x = loaded.sample(300)  # more than one chunk
    assert loaded.encode(x).shape == (300, 3)
    assert loaded.reconstruct(x).shape == x.shape
    assert loaded.log_prob(x).shape == (300,)
    assert loaded.likelihood_kind == "bound"
    assert torch.equal(loaded.log_prob(x.numpy()), loaded.log_prob(x))
    with pytest.raises(UserError, match="a vae cannot complete pictures"):
        loaded.complete(x, torch.ones(1, 1, 8, 8, dtype=torch.bool))
    with pytest.raises(UserError, match=r"images must be uint8 with shape \(n, 3, 8, 8\), got float32"):
        loaded.encode(x.float())
    with pytest.raises(UserError, match="images must be uint8"):
        loaded.encode(x[:, :, :4])


def test_weights_as_safetensors(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    library.save_weights(run, file)
    weights = load_file(file)
    expected = library.load(run).model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_the_random_state_of_a_user_is_left_alone(run: Path) -> None:
    loaded = library.load(run)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    x = loaded.sample(3)
    loaded.log_prob(x)
    loaded.reconstruct(x)
    assert torch.equal(torch.rand(3), expected)


def test_settings_of_the_run_cannot_be_given_to_a_task(run: Path, gentrain: Command) -> None:
    for override in ("model=vae", "data.size=16", "train.max_steps=3", "seed=4"):
        outcome = gentrain("task=sample", "run=run", override)
        assert outcome.status == 2
        assert "has no meaning for task=sample" in outcome.err
    outcome = gentrain("task=sample", "run=run", "checkpoint=best", "device=cpu", "sample.count=1")
    assert outcome.status == 0, outcome.err


def test_a_run_without_a_checkpoint(run: Path, gentrain: Command) -> None:
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    outcome = gentrain("task=sample", "run=run")
    assert outcome.status == 2
    assert "run has no last checkpoint yet" in outcome.err
    assert gentrain("resume=run").status == 0  # from the beginning


def test_levels_that_the_run_does_not_have_are_refused(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES["pixelcnn"], "data.levels=4", "train.max_steps=1", "run_dir=run")
    run = library.load("run")
    x_BCHW = run.sample(2)
    known = np.zeros((1, 1, 8, 8), bool)
    known[..., :4, :] = True
    redrawn = run.complete(x_BCHW, known, draw=Draw(0.5))
    assert torch.equal(redrawn[:, :, :4], x_BCHW[:, :, :4])
    assert run.log_prob(x_BCHW[:0]).shape == (0,)
    x_BCHW[0, 0, 0, 0] = 4
    for function in (run.log_prob, lambda x: run.complete(x, known)):
        with pytest.raises(UserError, match=r"levels 0 .. 3, got 4.*quantize\(x, 4\)"):
            function(x_BCHW)
