"""Moons against a lit sphere, their splits, and the figures of a midpoint against models that are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES
from PIL import Image
from torch import Tensor

from gentrain.analysis.latents import cross_fade, linear
from gentrain.analysis.moon_midpoints import COUNT, QUARTERS, measure
from gentrain.data.sources.moons import EARTHSHINE, PHASES, SUNLIT, Moons, Places, draw
from gentrain.images import ImageShape, to_unit

SOURCE = Moons(size=32, channels=1, count=40, phases=[0, 90, 180, 270], seed=0)


def lit_sphere(phase: float, x: float, y: float, radius: float, size: int, fine: int) -> np.ndarray:
    """Brute force: each subpixel is a point of a sphere, lit if it faces the sun."""
    at = (np.arange(size * fine) + 0.5) / fine
    u, v = (at[None] - x) / radius, (at[:, None] - y) / radius
    disc = u**2 + v**2 < 1
    towards_us = np.sqrt(np.clip(1 - u**2 - v**2, 0, None))
    sun = np.sin(np.deg2rad(phase)), -np.cos(np.deg2rad(phase))
    lit = disc & (u * sun[0] + towards_us * sun[1] > 0)
    light = EARTHSHINE * (disc & ~lit) + SUNLIT * lit
    return light.reshape(size, fine, size, fine).mean((1, 3))


@pytest.mark.parametrize("phase", [0, 30, 90, 135, 180, 225, 300, 345])
def test_a_moon_is_a_sphere_that_the_sun_lights(phase: int) -> None:
    place = Places(np.array([15.3]), np.array([17.8]), np.array([9.4]))
    drawn = draw(np.array([phase]), place, 32)[0, 0]
    expected = lit_sphere(phase, 15.3, 17.8, 9.4, 32, fine=24)
    assert np.abs(drawn - expected).max() < 12  # of 240: a pixel has eight subrows
    assert np.abs(drawn - expected).mean() < 0.3


def test_the_lit_area_is_the_illuminated_fraction() -> None:
    places = Places.draw(len(PHASES), 64, 3, "test")
    dark, lit = draw(np.zeros(len(PHASES)), places, 64), draw(np.array(PHASES), places, 64)
    area = (lit.astype(float) - dark).sum((1, 2, 3)) / (SUNLIT - EARTHSHINE)
    phase_angle = np.deg2rad(180 - np.array(PHASES))  # between sun and observer, seen from the moon
    assert np.allclose(area / (np.pi * places.radius_N**2), (1 + np.cos(phase_angle)) / 2, atol=0.004)
    assert (dark > 0).any()  # a new moon is there to be seen


def test_moons_lie_whole_in_the_picture() -> None:
    images = SOURCE.draw(np.full(500, 180), SOURCE.places("test", 500))
    threshold = np.concatenate([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]])
    assert threshold.max() == 0


def test_the_test_split_has_the_phases_between(tmp_path: Path) -> None:
    packed = SOURCE.pack(tmp_path, lambda *_: None)
    phases = {split: {PHASES[k] for k in packed.labels[packed.rows(split), 0]} for split in packed.counts}
    assert phases["train"] == phases["valid"] == {0, 90, 180, 270}
    assert phases["test"] == set(PHASES) - phases["train"]
    assert len(np.unique(packed.images.reshape(len(packed.images), -1), axis=0)) == len(packed.images)
    again = Moons(size=32, channels=3, count=60, phases=[0, 90, 180, 270], seed=0).pack(
        tmp_path, lambda *_: None
    )
    assert np.array_equal(again.images[:40, :1], packed.images[:40])
    assert np.array_equal(again.split("test")[:, 2:], packed.split("test"))
    other = Moons(size=32, channels=1, count=40, phases=[0, 90, 180, 270], seed=1)
    assert not np.array_equal(other.pack(tmp_path, lambda *_: None).images, packed.images)


@pytest.mark.parametrize("phases", ["[]", "[0,0]", "[10]", "[360]", str(list(PHASES)).replace(" ", "")])
def test_phases_that_leave_nothing_between(phases: str, gentrain: Command) -> None:
    outcome = gentrain("data=moons", f"data.phases={phases}")
    assert outcome.status == 2
    assert "it must hold some, not all, of the phases 0, 15, 30 .. 345" in outcome.err


def test_inspect_shows_them(gentrain: Command) -> None:
    outcome = gentrain("task=inspect", "data=moons", "data.count=40", "run_dir=look")
    assert outcome.status == 0, outcome.err
    found = json.loads(Path("look/inspect.json").read_text())
    assert found["labels"]["phase"]["90"] == [10, 250, 0]
    assert found["labels"]["phase"]["135"] == [0, 0, 50]


# ---- midpoints


def moons(phases_N: np.ndarray, places: Places) -> Tensor:
    return torch.from_numpy(SOURCE.draw(phases_N, places))


def knows_nothing() -> Any:
    """Its code is the picture."""
    shape = ImageShape(1, 32, 32)
    return SimpleNamespace(
        shape=shape,
        encode=lambda x: x.flatten(1).float(),
        decode=lambda z: z.round().to(torch.uint8).unflatten(1, shape.chw),
        reconstruct=lambda x: x,
    )


def knows_moons(places: Places, off: float = 0) -> Any:
    """Its code is a moon's phase and place, looked up; `off` is added to the phase when it is drawn."""
    seen: dict[bytes, list[float]] = {}
    for phase in (*range(0, 361, 45), 0):  # at the last, both new moons are 0
        rows = zip(places.x_N, places.y_N, places.radius_N, strict=True)
        for image, row in zip(moons(np.full(len(places), phase), places), rows, strict=True):
            seen[image.numpy().tobytes()] = [phase, *row]

    def encode(x: Tensor) -> Tensor:
        return torch.tensor([seen[image.numpy().tobytes()] for image in x], dtype=torch.float64).float()

    def decode(z: Tensor) -> Tensor:
        phase, x, y, radius = z.double().numpy().T
        return moons(phase + off, Places(x, y, radius))

    return SimpleNamespace(shape=ImageShape(1, 32, 32), encode=encode, decode=decode, reconstruct=lambda x: x)


def test_a_code_that_is_the_picture_gives_the_cross_fade() -> None:
    figures = measure(knows_nothing(), linear, moons, SOURCE.places("test", 5))
    made, fade = figures["decoded midpoint"], figures["cross-fade"]
    assert {k: v for k, v in made.items() if k != "meaning"} == {
        k: v for k, v in fade.items() if k != "meaning"
    }
    assert figures["reconstruction"]["mse"] == 0
    # By hand, for the first quarter of the first place.
    place = SOURCE.places("test", 5).take(slice(0, 5))
    first, last, truth = (to_unit(moons(np.full(5, phase), place), 256) for phase in (0, 90, 45))
    expected = ((first + last) / 2 - truth).square().mean().item()
    assert fade["quarters"]["0 to 90"]["mse"] == pytest.approx(expected, rel=0.01)


def test_a_code_that_is_the_phase_gives_the_true_moon() -> None:
    places = SOURCE.places("test", 4)
    figures = measure(knows_moons(places), linear, moons, places)["decoded midpoint"]
    quarters = figures["quarters"]
    # From 270 to the next new moon, whose code is 0, the middle of the codes is 135: codes go around.
    for name, phase in (("0 to 90", 45), ("90 to 180", 135), ("180 to 270", 225), ("270 to 360", 135)):
        wrapped = (quarters[name]["median_fitting_phase_degrees"] - phase) % 360
        assert wrapped == 0, name
        assert quarters[name]["fitting_mse"] < 1e-5
        assert (quarters[name]["mse"] < 1e-5) == (name != "270 to 360")
    off = measure(knows_moons(places, off=9), linear, moons, places)["decoded midpoint"]
    assert off["quarters"]["90 to 180"]["median_fitting_phase_degrees"] == 144
    assert off["fitting_phase_off_degrees"] == pytest.approx((9 + 9 + 9 + 171) / 4)


@pytest.mark.parametrize("levels", [256, 4])
def test_interpolate_on_moons_reports_midpoints(levels: int, gentrain: Command) -> None:
    run = ["data=moons", "data.size=16", "data.count=40", f"data.levels={levels}", "train.max_steps=2"]
    more = ["train.batch_size=8", "train.sample_count=4", "run_dir=run"]
    assert gentrain(*FAMILIES["vae"], *run, *more).status == 0
    outcome = gentrain("task=interpolate", "run=run", "interpolate.pairs=2", "interpolate.steps=3")
    assert outcome.status == 0, outcome.err
    found = json.loads(Path("run/interpolate/midpoints.json").read_text())
    assert found["protocol"]["places"] == COUNT
    assert set(found["figures"]) == {"decoded midpoint", "cross-fade", "reconstruction"}
    assert len(found["figures"]["cross-fade"]["quarters"]) == len(QUARTERS)
    assert 0 < found["figures"]["cross-fade"]["mse"] < 0.1
    assert "cross-fade" in outcome.out
    assert Image.open("run/interpolate/midpoints.png").size[1] == 3 * (16 * 3 + 2)


def test_a_cross_fade_ends_at_both_pictures() -> None:
    first, last = torch.randint(0, 256, (2, 3, 1, 4, 4), dtype=torch.uint8)
    path = cross_fade(first, last, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(path[:, 0], first)
    assert torch.equal(path[:, 2], last)
    assert (path[:, 1].double() - (first.double() + last.double()) / 2).abs().max() <= 0.5
