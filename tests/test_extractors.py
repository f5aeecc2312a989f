"""Feature extractors: what their figures are named after, what they see, and how they fail.

`domain` runs with the weights that ship. `inception` runs in torch-fidelity's own network with random weights in
FID's file name, since FID's weights are not on a machine without a network: so what is tested is all but them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import urllib.error
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import scipy.linalg
import torch
from torch import Tensor
from torch.nn import functional as F

from gentrain import anime
from gentrain.errors import UserError
from gentrain.images import quantize, to_picture
from gentrain.metrics import domain, extractors, inception
from gentrain.metrics.extractors import Extractor, make_extractor

CPU = torch.device("cpu")


def load_sanity() -> ModuleType:
    path = Path(__file__).parents[1] / "scripts" / "extractor_sanity.py"
    spec = importlib.util.spec_from_file_location("extractor_sanity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["extractor_sanity"] = module
    spec.loader.exec_module(module)
    return module


sanity = load_sanity()


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return make_extractor("domain", CPU)


def faces(count: int, size: int = 32) -> Tensor:
    return torch.from_numpy(anime.draw(anime.combinations(np.arange(count), 0), size))


def test_the_weights_are_small_and_named_after_themselves(extractor: Extractor) -> None:
    content = (Path(domain.__file__).parent / domain.WEIGHTS).read_bytes()
    assert len(content) < 1_000_000
    assert extractor.label == f"domain@{hashlib.sha256(content).hexdigest()[:8]}"
    assert extractor.name == "domain"


@pytest.mark.parametrize(
    ("channels", "height", "width", "levels"),
    [(3, 32, 32, 256), (1, 28, 28, 256), (1, 28, 28, 2), (3, 64, 48, 17), (1, 1, 1, 2), (3, 5, 200, 256)],
)
def test_any_pictures_give_finite_features(
    extractor: Extractor, channels: int, height: int, width: int, levels: int
) -> None:
    noise = torch.Generator().manual_seed(0)
    x = torch.randint(levels, (3, channels, height, width), generator=noise).to(torch.uint8)
    features = extractor.features(x, levels)
    assert features.shape == (3, extractor.dims)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert features.isfinite().all()
    assert features.std() > 0.05


def test_grey_is_the_same_in_three_channels_and_levels_are_stretched(extractor: Extractor) -> None:
    grey = faces(4)[:, :1]
    expected = extractor.features(grey, 256)
    assert torch.equal(extractor.features(grey.expand(-1, 3, -1, -1), 256), expected)
    few = quantize(grey, 4)
    assert torch.equal(extractor.features(few, 4), extractor.features(to_picture(few, 4), 256))
    assert not torch.allclose(extractor.features(few, 4), extractor.features(few, 256), atol=0.5)


def test_a_picture_has_its_features_whatever_the_batch_and_the_precision(extractor: Extractor) -> None:
    """Bit for bit: with other neighbours, in other batches, under autocast; on 0 pictures, too."""
    x = faces(150)
    expected = extractor.features(x, 256)
    assert torch.equal(extractor.features(x.flip(0), 256).flip(0), expected)
    assert torch.equal(torch.cat([extractor.features(part, 256) for part in x.split(37)]), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor.features(x, 256), expected)
    assert extractor.features(x[:0], 256).shape == (0, 64)


def test_the_number_of_threads_changes_little(extractor: Extractor) -> None:
    """Measured: nothing at all. Promised: 1e-4, of features whose standard deviation is about 1."""
    x = faces(150)
    expected = extractor.features(x, 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (extractor.features(x, 256) - expected).abs().max() < 1e-4
    finally:
        torch.set_num_threads(threads)


def test_the_network_is_what_its_weights_say_in_float64(extractor: Extractor) -> None:
    """The same arithmetic, written out, on a resized picture: no rounding, no folded layer is lost."""
    w = {
        name: value.double()
        for name, value in safetensors.torch.load_file(Path(domain.__file__).parent / domain.WEIGHTS).items()
    }
    x = faces(3, 64)
    h = F.interpolate(x.double(), (32, 32), mode="bilinear", antialias=True) / 127.5 - 1
    means = []
    for k, (stride, kept) in enumerate([(2, False), (1, True), (2, False), (1, True), (2, True)]):
        h = F.conv2d(h, w[f"convs.{k}.weight"], w[f"convs.{k}.bias"], stride, padding=1).clamp(min=0)
        means += [h.mean((2, 3))] if kept else []
    where = torch.einsum("bchw,dc->bdhw", h, w["where.weight"][:, :, 0, 0]) + w["where.bias"][:, None, None]
    joined = torch.cat([*means, where.clamp(min=0).flatten(1)], 1)
    expected = joined @ w["out.weight"].T + w["out.bias"]
    assert (extractor.features(x, 256) - expected).abs().max() < 1e-4


def test_features_of_faces_have_about_unit_variance_in_many_directions(extractor: Extractor) -> None:
    features = extractor.features(faces(1000), 256)
    assert 0.2 < features.var(0).mean() < 2
    eigenvalues = torch.linalg.eigvalsh(features.double().T.cov())
    assert eigenvalues.sum() ** 2 / eigenvalues.square().sum() > 6  # how many directions are in use


def test_the_distance_is_scipys() -> None:
    a = (
        torch.randn(300, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        @ torch.rand(8, 8).double()
    )
    b = a.flip(1) * 0.7 + 0.3
    cov_a, cov_b = np.cov(a.T.numpy()), np.cov(b.T.numpy())
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    assert sanity.frechet(a, b) == pytest.approx(shift + np.trace(cov_a + cov_b - 2 * root), rel=1e-6)


# Distances in units of the one between real pictures and others, at the strongest damage of scripts/extractor_sanity.py:
# about half of what was measured on 500 faces and 500 digits, a kind of pictures that the network never saw.
LEAST: dict[str, tuple[float, float]] = {
    "Gaussian blur, sigma in pixels": (16, 11),
    "noise, standard deviation in levels": (9, 60),
    "principal components kept": (19, 14),
    "checkerboard, levels": (20, 50),
    "warp, pixels": (12, 11),
    "redder or brighter, levels": (3.7, 10),
    "distinct pictures": (21, 34),
    "share of pictures that are static": (20, 100),
    "share with another's right half": (3.1, 4),
}


@pytest.mark.parametrize(("number", "kind"), [(0, "anime"), (1, "digits")])
def test_the_distance_grows_with_what_is_wrong(extractor: Extractor, number: int, kind: str) -> None:
    """Blur as of a VAE, artefacts as of a GAN, noise, few modes, parts that do not belong together, colour."""
    floor, found = sanity.ratios(lambda x: extractor.features(x, 256), sanity.KINDS[kind](400))
    assert 0 < floor < 5
    assert found.keys() == LEAST.keys()
    for name, values in found.items():
        assert all(less < more for less, more in zip([1, *values], values, strict=False)), name
        assert values[-1] > LEAST[name][number], name


def test_an_unknown_extractor_is_a_sentence() -> None:
    with pytest.raises(
        UserError, match=r"^extractor=domian is not known \(did you mean domain\?\); choose from"
    ):
        make_extractor("domian", CPU)


def test_damaged_weights_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((Path(domain.__file__).parent / domain.WEIGHTS).read_bytes())
    content[5000] ^= 1
    (tmp_path / domain.WEIGHTS).write_bytes(content)
    monkeypatch.setattr(domain, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"is damaged: its sha256 begins with .*; install gentrain again"):
        make_extractor("domain", CPU)
    (tmp_path / domain.WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"cannot be read .*; install gentrain again"):
        make_extractor("domain", CPU)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where FID's weights would lie, in an empty hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Weights of the right shapes for torch-fidelity's network, random ones."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Net

    with monkeypatch.context() as patch:
        patch.setattr(Net, "load_state_dict", lambda self, weights: None)
        patch.setattr(torch, "load", lambda *args, **kwargs: None)
        net = Net("stand-in", ["2048"], "nowhere")
    return net.state_dict()


def test_inception_runs_on_weights_whose_hash_is_known(
    hub: Path, stand_in: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.parent.mkdir(parents=True)
    torch.save(stand_in, hub)
    with pytest.raises(UserError, match=r"holds other weights than FID's \(its sha256 begins with"):
        make_extractor("inception", CPU)
    digest = hashlib.sha256(hub.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest)
    monkeypatch.setitem(extractors.CHUNK, "inception", 3)  # this test would take 8 s more
    extractor = make_extractor("inception", CPU)
    assert (extractor.name, extractor.label, extractor.dims) == ("inception", f"inception@{digest[:8]}", 2048)
    x = quantize(faces(2)[:, :1], 17)
    features = extractor.features(x, 17)
    assert features.shape == (2, 2048)
    assert features.dtype == torch.float32
    rgb = to_picture(x, 17).repeat(1, 3, 1, 1)
    assert torch.allclose(features, extractor._net(rgb)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features[0], features[1])


def test_weights_that_would_run_code_are_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even under the right hash, the file must be nothing but tensors."""
    hub.parent.mkdir(parents=True)
    torch.save({"fc.weight": Path("a class that is no tensor")}, hub)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(hub.read_bytes()).hexdigest())
    with pytest.raises(UserError, match="is damaged or holds other weights"):
        make_extractor("inception", CPU)


def test_a_failed_download_is_a_sentence(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    with pytest.raises(
        UserError, match=r"cannot be downloaded \(.*no route to host.*\); put https://.* at .*pth"
    ):
        make_extractor("inception", CPU)
    assert list(hub.parent.iterdir()) == []


def test_inception_without_its_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "gentrain\[inception\]"'):
        make_extractor("inception", CPU)
