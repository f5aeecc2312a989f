"""Paths against closed forms, the aggregate posterior against known ones, and the two tasks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES
from PIL import Image
from scipy.integrate import quad
from scipy.stats import f_oneway
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import gentrain as library
from gentrain.analysis.latents import ACTIVE, aggregate, linear, shares_of_label, spherical
from gentrain.data.build import open_data
from gentrain.images import ImageShape
from gentrain.models.vae import VAE
from gentrain.runtime.seeding import generator, seed_everything
from gentrain.tasks.traverse import codes_alone, codes_of_posterior, moved
from gentrain.viz.grids import animation, labelled_grid

T = torch.linspace(0, 1, 7)

# ---- paths


def test_between_orthogonal_codes_an_arc_is_cosine_and_sine() -> None:
    path = spherical(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]]), T)
    angle = T * math.pi / 2
    assert torch.allclose(path[0], 2 * torch.stack([angle.cos(), angle.sin(), 0 * T], 1), atol=1e-6)


def test_an_arc_turns_by_equal_angles_and_keeps_the_length() -> None:
    a, b = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).double()
    b = b / b.norm(dim=1, keepdim=True) * a.norm(dim=1, keepdim=True)
    path = spherical(a, b, T.double())
    lengths = path.norm(dim=2)
    assert torch.allclose(lengths, lengths[:, :1].expand_as(lengths), rtol=1e-5)
    steps = torch.nn.functional.cosine_similarity(path[:, 1:], path[:, :-1], dim=2).clamp(-1, 1).arccos()
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-4)
    assert (linear(a, b, T.double()).norm(dim=2)[:, 3] < 0.9 * lengths[:, 3]).all()


@pytest.mark.parametrize("path", [linear, spherical])
def test_paths_end_where_they_should(path) -> None:  # type: ignore[no-untyped-def]
    a, b = torch.randn(2, 4, 3)
    made = path(a, b, T)
    assert made.shape == (4, 7, 3)
    assert torch.allclose(made[:, 0], a, atol=1e-6)
    assert torch.allclose(made[:, -1], b, atol=1e-6)


def test_where_there_is_no_arc_it_is_a_line() -> None:
    a = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 6.0], [-1.0, -2.0], [1.0, 1.0]])
    assert torch.allclose(spherical(a, b, T), linear(a, b, T))


# ---- how codes lie


def test_active_units_of_codes_that_are_known() -> None:
    noise = torch.Generator().manual_seed(0)
    m_NZ = torch.randn(4000, 3, generator=noise) * torch.tensor([1.0, 0.05, 0.2]) + torch.tensor(
        [0.0, 3.0, -1.0]
    )
    s_NZ = torch.tensor([0.04, 1.0, 0.25]).log().expand(4000, 3)
    found = aggregate(m_NZ, s_NZ, generator(0))
    assert torch.allclose(found.active_Z, m_NZ.double().var(0, correction=0))
    assert (found.active_Z > ACTIVE).tolist() == [True, False, True]
    assert torch.allclose(found.noise_Z, torch.tensor([0.2, 1.0, 0.5]).double())
    assert torch.allclose(found.variance_Z, found.active_Z + torch.tensor([0.04, 1.0, 0.25]))
    assert torch.allclose(found.mean_Z, torch.tensor([0.0, 3.0, -1.0]).double(), atol=0.05)


def test_codes_that_fill_the_prior_have_no_kl_to_it() -> None:
    """m ~ N(0, 1 - sigma^2) and sigma fixed: q(z) is the prior, and all KL is information, -ln sigma."""
    sigma, count = 0.3, 4000
    m_NZ = torch.randn(count, 2, generator=torch.Generator().manual_seed(1)) * math.sqrt(1 - sigma**2)
    found = aggregate(m_NZ, torch.full((count, 2), 2 * math.log(sigma)), generator(0))
    assert found.marginal_kl_Z.abs().max() < 0.02
    assert abs(found.kl_to_prior_gaussian) < 0.01
    assert found.kl_to_prior == pytest.approx(0, abs=0.05)
    assert found.information == pytest.approx(-2 * math.log(sigma), abs=0.05)
    assert found.kl_Z.sum() == pytest.approx(-2 * math.log(sigma), abs=0.1)


def test_kl_of_two_clusters_against_an_integral() -> None:
    """Pictures of two kinds: q(z) is a mixture of two Gaussians, its KL an integral."""
    count, sigma = 4000, 0.4
    m_NZ = torch.tensor([[-1.0], [1.0]]).repeat(count // 2, 1)
    found = aggregate(m_NZ, torch.full((count, 1), 2 * math.log(sigma)), generator(0))

    def density(z: float, mean: float, deviation: float) -> float:
        return math.exp(-0.5 * ((z - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))

    def integrand(z: float) -> float:
        q = 0.5 * density(z, -1, sigma) + 0.5 * density(z, 1, sigma)
        return q * math.log(q / density(z, 0, 1))

    exact = quad(integrand, -6, 6)[0]
    assert found.marginal_kl_Z.item() == pytest.approx(exact, abs=0.03)
    assert found.kl_to_prior == pytest.approx(exact, abs=0.03)
    assert found.kl_to_prior_gaussian < exact


def test_the_lower_bound_is_the_kl_of_the_gaussian_with_the_same_moments() -> None:
    noise = torch.Generator().manual_seed(2)
    m_NZ = torch.randn(3000, 4, generator=noise).double() @ torch.randn(4, 4, generator=noise).double()
    s_NZ = torch.randn(3000, 4, generator=noise).double()
    found = aggregate(m_NZ, s_NZ, generator(0))
    covariance = torch.from_numpy(np.cov(m_NZ.numpy().T, bias=True)) + s_NZ.exp().mean(0).diag()
    gaussian = MultivariateNormal(m_NZ.mean(0), covariance)
    prior = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    assert found.kl_to_prior_gaussian == pytest.approx(kl_divergence(gaussian, prior).item(), rel=1e-6)
    assert found.kl_to_prior_gaussian < found.kl_to_prior < found.kl_Z.sum()


def test_shares_of_a_label_are_those_of_an_analysis_of_variance() -> None:
    noise = torch.Generator().manual_seed(4)
    labels_N = torch.randint(0, 3, (600,), generator=noise) * 2  # a class is missing
    z_ND = torch.randn(600, 3, generator=noise)
    z_ND[:, 1] += labels_N
    z_ND[:, 2] = labels_N
    shares = shares_of_label(z_ND, labels_N)
    groups = [z_ND[labels_N == k, :2].numpy() for k in (0, 2, 4)]
    f = f_oneway(*groups).statistic  # between over within, each by its degrees of freedom
    assert np.allclose(shares[:2].numpy(), f * 2 / (f * 2 + 597), rtol=1e-4)
    assert shares[0] < 0.02 < 0.5 < shares[1]
    assert shares[2].item() == pytest.approx(1)


def test_no_sample_of_codes_tells_more_than_its_number() -> None:
    """With sigma near 0 every picture has a place of its own: the information is log N, and said to be so."""
    m_NZ = torch.randn(200, 8, generator=torch.Generator().manual_seed(3))
    found = aggregate(m_NZ, torch.full((200, 8), -18.0), generator(0))
    assert found.information == pytest.approx(math.log(200), abs=0.3)


# ---- without the KL


def two_kinds(count: int) -> Tensor:
    """Pictures of 8 px, dark or bright, with a brighter left or right half."""
    kinds = torch.arange(count) % 4
    x_BCHW = torch.where(kinds < 2, 40, 160)[:, None, None, None].repeat(1, 1, 8, 8)
    x_BCHW[kinds % 2 == 0, :, :, :4] += 60
    x_BCHW[kinds % 2 == 1, :, :, 4:] += 60
    return x_BCHW.to(torch.uint8)


def trained_vae(beta: float) -> VAE:
    seed_everything(0, "a test")
    vae = VAE(
        ImageShape(1, 8, 8), latent_dim=4, width=4, encoder_blocks=0, decoder_blocks=0, hidden=32, dropout=0.0,
        likelihood="gaussian", mixtures=1, sigma="fixed", sigma_value=0.3, beta=beta, kl_warmup_steps=0,
        free_bits=0.0, sample_mode="mean",
    )  # fmt: skip
    optimizer = torch.optim.Adam(vae.parameters(), lr=5e-3)
    for step in range(300):
        optimizer.zero_grad()
        vae.train_loss(two_kinds(32), step)[0].backward()
        optimizer.step()
    return vae.eval()


def test_without_the_kl_the_noise_dies_and_samples_are_bad() -> None:
    x_BCHW = two_kinds(4)
    noise, spread, far = {}, {}, {}
    for beta in (0.0, 1.0):
        vae = trained_vae(beta)
        with torch.no_grad():
            found = aggregate(*vae.posterior(x_BCHW), generator(0))
        samples = vae.sample(200, generator(0, "sample")).double()
        distances = (samples[:, None] - x_BCHW.double()).square().mean((2, 3, 4)).min(1).values
        noise[beta], far[beta] = found.noise_Z.mean().item(), distances.mean().sqrt().item()
        spread[beta] = found.variance_Z.max().item()
        assert (
            vae.reconstruct(x_BCHW).double() - x_BCHW
        ).square().mean().sqrt() < 12  # both know the pictures
    assert noise[0.0] < 0.2 * noise[1.0]
    assert spread[0.0] > 5 * spread[1.0]  # the codes have left the prior
    assert far[0.0] > 1.5 * far[1.0]


# ---- the tasks


@pytest.fixture
def run(gentrain: Command, tiny: list[str]) -> Path:
    assert gentrain(*tiny, *FAMILIES["vae"], "run_dir=run").status == 0
    return Path("run")


def test_interpolate_between_pictures(run: Path, gentrain: Command) -> None:
    valid = open_data(library.load(run).config["data"], lambda *_: None).split("valid")
    outcome = gentrain(
        "task=interpolate",
        "run=run",
        "interpolate.pictures=[0,2,3,1]",
        "interpolate.split=valid",
        "interpolate.steps=5",
    )
    assert outcome.status == 0, outcome.err
    written = json.loads((run / "interpolate/interpolation.json").read_text())
    assert written["pairs"] == [[0, 2], [3, 1]]
    assert written["protocol"]["weights"] == "averaged weights"
    assert not (run / "interpolate/midpoints.json").exists()
    grid = np.asarray(Image.open(run / "interpolate/grid.png"))
    side, top = 8 * 6 + 2, grid.shape[0] - 2 * (8 * 6 + 2)
    assert grid.shape == (top + 2 * side, 7 * side, 3)
    loaded = library.load(run)
    codes = loaded.encode(np.asarray(valid))
    for row, (first, last) in enumerate(([0, 2], [3, 1])):
        middle = loaded.decode((codes[[first]] + codes[[last]]) / 2)[0]
        cells = {
            0: valid[first],
            1: loaded.reconstruct(np.asarray(valid[[first]]))[0],
            3: middle,
            6: valid[last],
        }
        for column, expected in cells.items():
            cell = grid[top + row * side :, column * side :][: side - 2, : side - 2][::6, ::6]
            assert np.array_equal(cell.transpose(2, 0, 1), np.asarray(expected)), (row, column)
    frames = Image.open(run / "interpolate/moving.gif")
    assert frames.format == "GIF"


def test_interpolate_between_seeds(run: Path, gentrain: Command) -> None:
    for path in ("linear", "spherical"):
        outcome = gentrain(
            "task=interpolate",
            "run=run",
            "interpolate.between=seeds",
            f"interpolate.path={path}",
            "interpolate.pairs=3",
        )
        assert outcome.status == 0, outcome.err
        written = json.loads((run / "interpolate/interpolation.json").read_text())
        assert written["pairs"] is None
        lengths = written["codes"]
        shorter = lengths["in_the_middle"] / lengths["mean_length_at_the_ends"]
        assert (shorter < 0.9) == (path == "linear")


def test_traverse_orders_by_kl(run: Path, gentrain: Command) -> None:
    outcome = gentrain(
        "task=traverse", "run=run", "traverse.split=valid", "traverse.steps=3", "traverse.picture=1"
    )
    assert outcome.status == 0, outcome.err
    found = json.loads((run / "traverse/traversal.json").read_text())
    loaded = library.load(run)
    valid = open_data(loaded.config["data"], lambda *_: None).split("valid")
    m_NZ, s_NZ = loaded.posterior(np.asarray(valid))
    kl = 0.5 * (s_NZ.exp() - 1 - s_NZ + m_NZ.square()).mean(0)
    assert found["kl_nats"] == pytest.approx(kl.tolist(), rel=1e-4)
    assert found["order"] == sorted(range(3), key=lambda z: -kl[z])
    assert found["active_units"] == int((m_NZ.var(0, correction=0) > 0.01).sum())
    assert found["protocol"]["count"] == len(valid)
    assert [title.split()[0] for title in found["shown"]] == [f"z{z}" for z in found["order"]]
    assert f"active units: {found['active_units']} of 3" in outcome.out
    grid = np.asarray(Image.open(run / "traverse/grid.png"))
    code = loaded.encode(np.asarray(valid[[1]]))
    code[0, found["order"][0]] = 3.0
    side = 8 * 6 + 2
    cell = grid[-3 * side :, -side:][: side - 2, : side - 2][::6, ::6]
    assert np.array_equal(cell.transpose(2, 0, 1), loaded.decode(code)[0].numpy())


def test_an_autoencoder_is_traversed_on_the_scale_of_its_codes(gentrain: Command, tiny: list[str]) -> None:
    assert gentrain(*tiny, *FAMILIES["ae"], "run_dir=run").status == 0
    outcome = gentrain("task=traverse", "run=run", "traverse.split=valid", "traverse.picture=null")
    assert outcome.status == 0, outcome.err
    found = json.loads(Path("run/traverse/traversal.json").read_text())
    assert "kl_nats" not in found
    assert sorted(found["code_sd"], reverse=True) == [found["code_sd"][z] for z in found["order"]]
    assert (
        gentrain("task=interpolate", "run=run", "interpolate.between=seeds", "interpolate.pairs=2").status
        == 0
    )
    assert (
        gentrain("task=interpolate", "run=run", "interpolate.split=valid", "interpolate.pairs=2").status == 0
    )


def test_between_the_latents_of_a_gan(gentrain: Command, tiny: list[str]) -> None:
    """They are its codes, and it draws and decodes them; it has no encoder to go between pictures."""
    assert gentrain(*tiny, *FAMILIES["gan"], "run_dir=run").status == 0
    seeds = ["interpolate.between=seeds", "interpolate.pairs=2", "interpolate.path=spherical"]
    assert gentrain("task=interpolate", "run=run", *seeds).status == 0
    assert Path("run/interpolate/moving.gif").is_file()
    loaded = library.load("run")
    codes_ND = loaded.draw_codes(3, seed=0)
    drawn = loaded.decode(codes_ND)
    assert drawn.shape == (3, *loaded.shape.chw) and drawn.dtype == torch.uint8
    assert torch.equal(drawn, loaded.decode(loaded.draw_codes(3, seed=0)))
    assert not torch.equal(drawn, loaded.decode(loaded.draw_codes(3, seed=1)))
    refused = gentrain("task=interpolate", "run=run")
    assert refused.status == 2
    assert "no encoder to go between pictures; use interpolate.between=seeds" in refused.err


def test_a_split_of_one_picture_has_no_pair(gentrain: Command, tiny: list[str], tmp_path: Path) -> None:
    lines = ["file\tsplit"]
    for number in range(10):
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png\t{'test' if number == 9 else 'valid' if number == 8 else 'train'}")
    (tmp_path / "list.tsv").write_text("\n".join(lines))
    folder = ["data=folder", f"data.root={tmp_path / 'list.tsv'}", "data.size=8", "train.batch_size=4"]
    trained = gentrain(*folder, *FAMILIES["ae"], "train.max_steps=2", "run_dir=run")
    assert trained.status == 0, trained.err
    outcome = gentrain("task=interpolate", "run=run")
    assert outcome.status == 2
    assert "the test split has 1 picture, and a pair needs two" in outcome.err
    outcome = gentrain("task=traverse", "run=run", "traverse.picture=null")
    assert outcome.status == 0, outcome.err


def test_one_latent_is_moved_at_a_time() -> None:
    m_ND, s_ND = torch.randn(50, 4), torch.zeros(50, 4)
    values = torch.tensor([-2.0, 0.0, 2.0])
    start = torch.arange(4.0)
    rows = moved(start, torch.tensor([2, 0]), codes_of_posterior(m_ND, s_ND), values)
    assert rows[0, :, 2].tolist() == values.tolist()
    assert rows[0, :, [0, 1, 3]].tolist() == [[0, 1, 3]] * 3
    alone = codes_alone(m_ND)
    rows = moved(start, torch.tensor([1]), alone, values)
    assert torch.allclose(rows[0, :, 1], m_ND[:, 1].mean() + values * m_ND[:, 1].std(correction=0))


MISTAKES = [
    ("interpolate.pictures=[1]", "must be pairs"),
    ("interpolate.pictures=[1,5000]", "interpolate.pictures=5000 is not there"),
    ("interpolate.steps=2", "interpolate.steps=2 is not possible"),
    ("model.latent_dim=4", "has no meaning for task=interpolate"),
]


@pytest.mark.parametrize(("override", "sentence"), MISTAKES)
def test_what_interpolate_refuses(override: str, sentence: str, run: Path, gentrain: Command) -> None:
    outcome = gentrain("task=interpolate", "run=run", override)
    assert outcome.status == 2
    assert sentence in outcome.err
    assert not (run / "interpolate").exists()


def test_other_mistakes(run: Path, gentrain: Command, tiny: list[str]) -> None:
    both = gentrain("task=interpolate", "run=run", "interpolate.between=seeds", "interpolate.pictures=[1,2]")
    assert both.status == 2
    assert "has no meaning with interpolate.between=seeds" in both.err
    beyond = gentrain("task=traverse", "run=run", "traverse.picture=5000")
    assert beyond.status == 2
    assert "traverse.picture=5000 is not there" in beyond.err
    gentrain(*tiny, *FAMILIES["pixelcnn"], "train.max_steps=1", "run_dir=pixels")
    for task in ("interpolate", "traverse"):
        outcome = gentrain(f"task={task}", "run=pixels")
        assert outcome.status == 2
        assert "model=pixelcnn has no" in outcome.err
        assert not Path("pixels", task).exists()


def test_a_moving_picture_goes_there_and_back() -> None:
    rows = torch.arange(0, 250, 10, dtype=torch.uint8).view(1, 25, 1, 1, 1).expand(1, 25, 3, 64, 64)
    from io import BytesIO

    gif = Image.open(BytesIO(animation(rows, 100)))
    shown = []
    for frame in range(gif.n_frames):
        gif.seek(frame)
        shown.append(int(np.asarray(gif.convert("L"))[30, 30]))
        assert gif.info["duration"] == 100
    expected = [*range(0, 250, 10), *range(230, 0, -10)]
    assert np.abs(np.array(shown) - expected).max() <= 3
    assert gif.info["loop"] == 0


def test_a_sheet_has_words_beside_its_rows() -> None:
    rows = torch.full((2, 3, 1, 16, 16), 100, dtype=torch.uint8)
    plain, titled = labelled_grid(rows), labelled_grid(rows, ["one", "another"], ["a", "b", "c"])
    assert plain.size == (3 * 50, 2 * 50)
    assert titled.size[0] > plain.size[0] + 20
    assert titled.size[1] > plain.size[1] + 10
