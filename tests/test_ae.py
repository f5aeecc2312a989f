"""The autoencoder: shapes, noise, the linear one against PCA in closed form, codes in files, what it refuses."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Command
from families import FAMILIES, assert_same, newest
from PIL import Image
from torch import Tensor

import gentrain as library
from gentrain.errors import UserError
from gentrain.images import ImageShape, psnr_db, to_unit
from gentrain.metrics.evaluate import means
from gentrain.models.ae import AE

CONFIG = Path(__file__).parents[1] / "configs" / "model" / "ae.yaml"


def small(shape: ImageShape, **changes: object) -> AE:
    values = yaml.safe_load(CONFIG.read_text())["model"]
    assert values.pop("name") == "ae"
    torch.manual_seed(0)
    return AE(shape, **{**values, "width": 4, "hidden": 16, "latent_dim": 3, **changes})


def images(shape: ImageShape, count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, shape.levels, (count, *shape.chw), dtype=torch.uint8, generator=generator(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_yaml_lists_every_setting_and_no_other() -> None:
    parameters = inspect.signature(AE.__init__).parameters.values()
    keywords = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(yaml.safe_load(CONFIG.read_text())["model"]) == keywords | {"name"}
    assert all(p.default is inspect.Parameter.empty for p in parameters)


@pytest.mark.parametrize(("network", "layers"), [("conv", 1), ("mlp", 0), ("mlp", 2)])
@pytest.mark.parametrize("chw", [(1, 8, 8), (3, 28, 28), (1, 33, 20)])
def test_shapes(network: str, layers: int, chw: tuple[int, int, int]) -> None:
    shape = ImageShape(*chw)
    model, x = small(shape, network=network, layers=layers), images(shape, 4)
    loss, metrics = model.train_loss(x, 0)
    loss.backward()
    assert loss.shape == () and all(p.grad is not None for p in model.parameters())
    assert set(metrics) == {"mse", "code_l1"}
    codes = model.encode(x)
    assert codes.shape == (4, 3) and codes.dtype == torch.float32
    for pictures in (model.decode(codes), model.reconstruct(x), model.sample(4, generator())):
        assert pictures.shape == x.shape and pictures.dtype == torch.uint8
    assert torch.equal(model.decode(codes), model.reconstruct(x))
    assert model.evaluate(x, generator())["mse"].shape == (4,)


def test_mse_is_of_the_clean_picture_in_units_of_minus_one_to_one() -> None:
    model, x = small(ImageShape(1, 8, 8), noise="gaussian", noise_level=5.0), images(ImageShape(1, 8, 8), 5)
    model.decoder.start_at(torch.tensor([0.25]))
    by_hand = ((model(to_unit(x, 256))[0].double() - (x.double() * 2 / 255 - 1)) ** 2).flatten(1).mean(1)
    assert torch.allclose(model.evaluate(x, generator())["mse"].double(), by_hand, rtol=1e-5)


@pytest.mark.parametrize("noise", ["gaussian", "masking"])
def test_noise_of_nothing_is_none(noise: str) -> None:
    shape = ImageShape(3, 8, 8)
    x = images(shape, 4)
    plain, _ = small(shape).train_loss(x, 0)
    silent, _ = small(shape, noise=noise, noise_level=0.0).train_loss(x, 0)
    loud, _ = small(shape, noise=noise, noise_level=0.5).train_loss(x, 0)
    assert silent.item() == plain.item() != loud.item()


def test_the_noise_is_what_it_says() -> None:
    shape = ImageShape(3, 32, 32)
    unit = to_unit(images(shape, 64), 256)
    added = small(shape, noise="gaussian", noise_level=0.3).corrupt(unit) - unit
    assert added.std().item() == pytest.approx(0.3, rel=0.01) and abs(added.mean().item()) < 0.01
    masked = small(shape, noise="masking", noise_level=0.25).corrupt(unit)
    hidden = (masked == 0).all(1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.01)
    kept = ~hidden[:, None].expand_as(unit)
    assert torch.equal(masked[kept], unit[kept]), "a pixel is hidden in all its channels or not at all"


def test_l1_is_added_to_the_squared_error() -> None:
    shape = ImageShape(1, 8, 8)
    x = images(shape, 4)
    loss, metrics = small(shape, l1=0.5).train_loss(x, 0)
    assert loss.item() == pytest.approx((metrics["mse"] + 0.5 * metrics["code_l1"]).item(), rel=1e-6)
    assert metrics["code_l1"].item() == pytest.approx(small(shape).encode(x).abs().mean().item(), rel=1e-5)


def test_a_linear_one_reaches_what_pca_reaches() -> None:
    """The least squared error through D linear numbers is the sum of the covariance's other eigenvalues
    (Eckart and Young 1936; Baldi and Hornik 1989), by NumPy in float64."""
    shape, count, dims = ImageShape(1, 8, 8), 400, 3
    random = np.random.default_rng(0)
    scales = np.array([1.0, 0.8, 0.6, 0.3, 0.2, *[0.05] * 59]) * 0.8
    axes = np.linalg.qr(random.normal(size=(64, 64)))[0]
    unit = random.normal(size=(count, 64)) * scales @ axes.T + 0.1 * random.normal(size=64)
    x = torch.from_numpy(((unit + 1) * 127.5).round().clip(0, 255).astype(np.uint8).reshape(count, 1, 8, 8))
    exact = x.flatten(1).double().numpy() * 2 / 255 - 1
    best = np.linalg.eigvalsh(np.cov(exact.T, bias=True))[:-dims].sum() / 64

    model = small(shape, network="mlp", layers=0, latent_dim=dims)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = model.train_loss(x, 0)
        loss.backward()
        return loss

    optimizer.step(closure)
    reached = model.train_loss(x, 0)[1]["mse"].item()
    assert best * (1 - 1e-4) < reached < best * 1.005
    total = np.cov(exact.T, bias=True).trace() / 64
    assert best < 0.2 * total, "there was something to gain"


def test_psnr() -> None:
    assert psnr_db(torch.tensor(4.0)).item() == 0
    assert psnr_db(torch.tensor(4 / 255**2)).item() == pytest.approx(20 * math.log10(255))
    figures = means(
        {"mse": torch.tensor([0.01, 0.03], dtype=torch.float64), "nats": torch.tensor([1.0, 2.0])}
    )
    assert figures == {"mse": 0.02, "psnr_db": pytest.approx(10 * math.log10(4 / 0.02)), "nats": 1.5}
    assert "psnr_db" not in means({"nats": torch.ones(2)})


def test_the_gaussian_of_the_codes_is_theirs() -> None:
    shape = ImageShape(1, 8, 8)
    model = small(shape)
    assert "of 0 training pictures" in model.samples_in_words()
    x = images(shape, 300)
    model.refit_buffers(x.split(64))
    codes = model.encode(x).double().numpy()
    root = model.code_root_DD.double().numpy()
    assert np.allclose(root @ root.T, np.cov(codes.T), rtol=1e-4)
    assert np.allclose(model.code_mean_D.numpy(), codes.mean(0), rtol=1e-4, atol=1e-5)
    assert "of 300 training pictures" in model.samples_in_words()
    drawn: list[Tensor] = []
    model.decode = lambda z_BD: drawn.append(z_BD) or z_BD  # type: ignore
    model.sample(100_000, generator())
    assert np.allclose(np.cov(drawn[0].double().numpy().T), np.cov(codes.T), rtol=0.1, atol=0.02)
    model.refit_buffers([x[:1]])  # one picture: no spread, and no nan
    assert torch.equal(model.code_root_DD, torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("shape", "changes", "sentence"),
    [
        (ImageShape(1, 7, 7), {}, r"model=ae takes pictures of 8 to 128 .*data\.size"),
        (
            ImageShape(1, 8, 8),
            {"noise": "masking", "noise_level": 1.5},
            r"model\.noise_level=1\.5 .*at most 1",
        ),
    ],
)
def test_settings_that_do_not_fit_get_a_sentence(shape: ImageShape, changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        small(shape, **changes)


# -- runs


@pytest.fixture
def run(gentrain: Command, tiny: list[str]) -> Path:
    gentrain(*tiny, *FAMILIES["ae"], "run_dir=run")
    return Path("run")


def test_a_run_reports_mse_and_psnr_and_no_bits(run: Path, gentrain: Command) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tags = {tag for line in lines for tag in line}
    assert {"train/mse", "valid/mse", "valid/psnr_db"} <= tags
    assert not any("bits" in tag or "nats" in tag for tag in tags)
    last = [line for line in lines if "valid/mse" in line][-1]
    assert last["valid/psnr_db"] == pytest.approx(10 * math.log10(4 / last["valid/mse"]))
    assert newest(run)["best"]["metric"] == "valid/mse"
    assert (run / "reconstructions/step_00000006.png").is_file()
    outcome = gentrain("task=evaluate", "run=run")
    assert outcome.status == 0, outcome.err
    figures = json.loads((run / "evaluation.json").read_text())["figures"]
    assert set(figures) == {"mse", "psnr_db", "seconds_for_64_samples"}
    assert figures["psnr_db"]["unit"] == "dB"
    loaded = library.load(run)
    assert loaded.likelihood_kind is None
    with pytest.raises(UserError, match="an ae has no likelihood"):
        loaded.log_prob(loaded.sample(1))


@pytest.mark.parametrize("average", [True, False])
def test_the_gaussian_lies_in_every_checkpoint_and_fits_its_weights(run: Path, average: bool) -> None:
    """The averaged weights' and the last ones', each of its own codes."""
    for file in sorted((run / "checkpoints").glob("*.pt")):
        loaded = library.load(file, average=average)
        assert isinstance(loaded.model, AE)
        assert int(loaded.model.code_count) == len(training_pictures(loaded))
        codes = loaded.encode(training_pictures(loaded)).double()
        assert torch.allclose(loaded.model.code_mean_D.double(), codes.mean(0), rtol=1e-3, atol=1e-4)
        root = loaded.model.code_root_DD.double()
        assert torch.allclose(root @ root.T, codes.T.cov(), rtol=1e-3, atol=1e-4)


def training_pictures(loaded: library.trained.TrainedRun) -> np.ndarray:
    from gentrain.data.build import open_data

    return np.asarray(open_data(loaded.config["data"], lambda *_: None).split("train"))


def test_without_an_average_too_and_resumed(gentrain: Command, tiny: list[str]) -> None:
    more = ["train.ema_halflife_images=null", "model.noise=masking", "model.network=mlp", "model.l1=0.1"]
    gentrain(*tiny, *FAMILIES["ae"], *more, "run_dir=whole")
    gentrain("resume=whole/checkpoints/step_00000002.pt", "run_dir=branch")
    assert_same(newest(Path("whole"))["parts"], newest(Path("branch"))["parts"])
    assert int(newest(Path("whole"))["parts"]["model"]["code_count"]) > 0


def test_sampling_says_where_the_codes_come_from(run: Path, gentrain: Command) -> None:
    outcome = gentrain("task=sample", "run=run", "sample.count=4")
    assert outcome.status == 0, outcome.err
    assert "codes drawn from a Gaussian fitted to the codes of" in outcome.out
    codes = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.save("codes.npy", codes)
    outcome = gentrain("task=sample", "run=run", "sample.codes=codes.npy")
    assert outcome.status == 0, outcome.err
    assert "5 samples" in outcome.out and "codes from codes.npy" in outcome.out
    decoded = library.load(run).decode(codes)
    files = sorted((run / "sample").glob("0*.png"))
    assert len(files) == 5
    for file, image_CHW in zip(files, decoded.numpy(), strict=True):
        assert np.array_equal(np.asarray(Image.open(file)).transpose(2, 0, 1), image_CHW)


def test_a_vae_decodes_codes_too(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES["vae"], "run_dir=run")
    np.save("codes.npy", np.zeros((2, 3), np.float16))
    assert gentrain("task=sample", "run=run", "sample.codes=codes.npy").status == 0
    assert library.load("run").decode(np.zeros((0, 3))).shape == (0, 3, 8, 8)


def test_codes_that_cannot_be_decoded_get_a_sentence(
    run: Path, gentrain: Command, tiny: list[str], tmp_path: Path
) -> None:
    good = np.zeros((2, 3))
    np.save("good.npy", good)
    np.save("objects.npy", np.array([[1.0, "a", None]], dtype=object), allow_pickle=True)
    np.save("whole.npy", np.zeros((2, 3), int))
    np.save("vector.npy", np.zeros(3))
    np.save("none.npy", np.zeros((0, 3)))
    np.save("wide.npy", np.zeros((2, 4)))
    np.save("nan.npy", np.array([[0, np.nan, np.inf]]))
    np.save("huge.npy", np.array([[0, 0, 1e300]]))
    np.savez("several.npz", good=good)
    Path("text.npy").write_text("1 2 3")
    Path("empty.npy").write_bytes(b"")
    header = b"{'descr': '<f4', 'shape': (((("
    Path("header.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    Path("cut.npy").write_bytes(Path("good.npy").read_bytes()[:-8])
    for file, sentence in {
        "missing.npy": "is no file",
        "objects.npy": "it holds Python objects",
        "whole.npy": "must hold floats with shape (n, D), one code a row, but holds int64 with shape (2, 3)",
        "vector.npy": "but holds float64 with shape (3,)",
        "none.npy": "but holds float64 with shape (0, 3)",
        "wide.npy": "must be floats with shape (n, 3), got float64 with shape (2, 4)",
        "nan.npy": "codes must be finite, but 2 of their 3 numbers are not",
        "huge.npy": "codes must be finite, but 1 of their 3 numbers are not",
        "several.npz": "no array of floats in NumPy's .npy format",
        "text.npy": "no array of floats in NumPy's .npy format",
        "empty.npy": "no array of floats in NumPy's .npy format",
        "header.npy": "no array of floats in NumPy's .npy format",
        "cut.npy": "no array of floats in NumPy's .npy format",
    }.items():
        outcome = gentrain("task=sample", "run=run", f"sample.codes={file}")
        assert outcome.status == 2, file
        assert sentence in outcome.err and len(outcome.err.strip().splitlines()) == 1, outcome.err
    outcome = gentrain("task=sample", "run=run", "sample.codes=good.npy", "sample.count=3")
    assert outcome.status == 2
    assert "sample.count has no meaning beside sample.codes" in outcome.err
    gentrain(*tiny, *FAMILIES["pixelcnn"], "run_dir=other", "train.max_steps=1")
    outcome = gentrain("task=sample", "run=other", "sample.codes=good.npy")
    assert outcome.status == 2
    assert "a pixelcnn has no decoder" in outcome.err
    assert not (Path("other") / "sample").exists()
