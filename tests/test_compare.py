"""task=compare: what is in one column, what a broken run becomes, and a page that strangers' names cannot break."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Command
from families import FAMILIES
from PIL import Image

from gentrain.comparison import page as page_module
from gentrain.comparison.comparison import as_json, collect, labels
from gentrain.comparison.curves import COLORS, Curve, svg, thinned, ticks
from gentrain.comparison.differing import differing
from gentrain.comparison.figures import columns, describe_protocol, read_figures
from gentrain.comparison.find import find_runs
from gentrain.comparison.page import page
from gentrain.comparison.pictures import read_pictures
from gentrain.comparison.text import clean
from gentrain.config.registry import MODELS, target
from gentrain.errors import UserError
from gentrain.models.pixel.autoregressive import Autoregressive

EVIL = "<img src=x onerror=alert(1)>"
WORSE = "\"'></script><script>alert(2)</script>&amp;"


def make_run(path: Path, model: str = "vae", seed: int = 0, **sections: Any) -> Path:
    """A run directory as training leaves one, without any training."""
    path.mkdir(parents=True)
    config = {"model": {"name": model, "width": 8}, "data": {"name": "anime", "size": 8, "levels": 256}}
    config |= {"train": {"batch_size": 10, "ema_halflife_images": 100.0}, "seed": seed}
    for key, section in sections.items():
        config[key] = {**config.get(key, {}), **section}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    session = {"command": "gentrain model=vae", "started": "2026-01-01", "device": "cpu, 1 threads"}
    meta = {
        "sessions": [session],
        "parameters": 1234,
        "data": {"fingerprint": "f00d", "images": {"valid": 7}},
    }
    (path / "meta.json").write_text(json.dumps(meta))
    lines = [
        {"step": 10, "train/loss": 3.0, "perf/images_per_second": 50.0},
        {"step": 20, "train/loss": 2.5, "perf/images_per_second": 25.0},
        {"step": 20, "valid/bits_per_dim": 2.25},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "result.json").write_text(json.dumps({"status": "finished", "step": 20, "metrics": {}}))
    return path


def evaluated(
    run: Path, name: str = "evaluation.json", figure: dict[str, Any] | None = None, **protocol: Any
) -> Path:
    shared = {
        "run": str(run),
        "step": 20,
        "weights": "averaged weights",
        "split": "test",
        "images": 50,
        "levels": 256,
    }
    entry = {"mean": 2.5, "standard_error": 0.25, "unit": "bits/dim", "meaning": "exact"} | (figure or {})
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(json.dumps({"protocol": shared | protocol, "figures": {"bits_per_dim": entry}}))
    return run


def grid(path: Path, columns: int, rows: int, size: int = 8) -> None:
    path.parent.mkdir(exist_ok=True)
    cell = size + 2
    pixels = np.random.default_rng(0).integers(0, 255, (rows * cell + 2, columns * cell + 2, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


class Page(HTMLParser):
    """Every tag with its attributes, the script's text, and all text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "line", "wbr"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self._open[-1:] != ["style"]:
            self.text.append(data)

    def found(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(runs: str | Path = "runs") -> tuple[Page, str]:
    text = page(collect([str(runs)], 8))
    return Page(text), text


def assert_harmless(read: Page, text: str) -> None:
    """Nothing is loaded, and one script runs: ours, by its hash."""
    script = (Path(page_module.__file__).parent / "page.js").read_text()
    assert read.scripts == [script]
    for tag, attributes in read.tags:
        assert tag in TAGS, tag
        assert not [name for name in attributes if name.startswith("on")], attributes
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), value
    policy = next(meta["content"] for meta in read.found("meta") if meta.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None and policy.startswith("default-src 'none'") and f"'sha256-{digest}'" in policy
    assert not re.search(r"@import|url\(|https?://", text)


TAGS = {
    "html", "head", "meta", "title", "style", "body", "script", "h1", "h2", "h3", "p", "nav", "a", "section", "div", "span",
    "table", "thead", "tbody", "tr", "th", "td", "button", "label", "input", "details", "summary", "dl", "dt", "dd", "b", "i",
    "figure", "figcaption", "img", "svg", "line", "text", "polyline", "circle", "wbr",
}  # fmt: skip

# ---- one column, one protocol


@pytest.mark.parametrize(
    "other",
    [
        {"split": "valid"}, {"images": 51}, {"levels": 2}, {"seed": 1}, {"data_fingerprint": "beef"}, {"k": 64},
        {"figure": {"meaning": "upper bound"}}, {"figure": {"unit": "nats"}},
        {"figure": {"protocol": {"extractor": "domain@1"}}}, {"figure": {"k": 16}}, {"name": "other/figures.json"},
    ],
)  # fmt: skip
def test_another_protocol_is_another_column(other: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        evaluated(make_run(tmp_path / name), **(other if name == "c" else {}))
    comparison = collect([str(tmp_path)], 8)
    found = [column for column in comparison.columns if column.name == "bits_per_dim"]
    assert len(found) == 2
    holders = [
        [run.label for run in comparison.runs if any(f.column == column.column for f in run.figures)]
        for column in found
    ]
    assert sorted(holders) == [["a", "b"], ["c"]]


def test_whose_figure_it_is_makes_no_column_but_is_said(tmp_path: Path) -> None:
    evaluated(make_run(tmp_path / "a"))
    evaluated(make_run(tmp_path / "b"), step=10, weights="last weights", samples_are="means")
    comparison = collect([str(tmp_path)], 8)
    assert len([column for column in comparison.columns if column.name == "bits_per_dim"]) == 1
    assert "step 10, last weights" in page(comparison)
    assert "samples_are=means" in page(comparison)


def test_exact_and_bound_of_training_are_apart(tmp_path: Path) -> None:
    for family in ("vae", "pixelcnn", "gmm", "ae", "unheard_of"):
        make_run(tmp_path / family, family)
    comparison = collect([str(tmp_path)], 8)
    kinds = {
        run.label: figure.meaning
        for run in comparison.runs
        for figure in run.figures
        if figure.name == "valid/bits_per_dim"
    }
    assert kinds["vae"] == kinds["gmm"] == "upper bound, during training"
    assert kinds["pixelcnn"] == "exact, during training"
    assert kinds["ae"] == kinds["unheard_of"] == "during training"
    read = Page(page(comparison))
    assert (
        "exact, during training; valid split; 7 images; 256 levels; data=anime (f00d); by step" in read.text
    )


def test_distances_of_other_extractors_or_counts_are_apart(tmp_path: Path) -> None:
    tag = "valid/frechet_distance"
    ways = {"a": "domain@1, 70 samples", "b": "domain@1, 90 samples", "c": "domain@1, 70 samples"}
    for name, how in ways.items():
        run = make_run(tmp_path / name, "gan")
        meta = json.loads((run / "meta.json").read_text())
        (run / "meta.json").write_text(json.dumps(meta | {"measured": {tag: how}}))
        (run / "metrics.jsonl").write_text(json.dumps({"step": 20, tag: 3.5}) + "\n")
    comparison = collect([str(tmp_path)], 8)
    found = [column for column in comparison.columns if column.name == tag]
    assert sorted(column.protocol["measured"] for column in found) == [
        "domain@1, 70 samples",
        "domain@1, 90 samples",
    ]


@pytest.mark.parametrize("name", ["samples", "data"])
def test_a_run_may_be_called_like_a_folder_of_a_run(name: str, tmp_path: Path) -> None:
    run = collect([str(evaluated(make_run(tmp_path / name)))], 8).runs[0]
    assert [figure.name for figure in run.figures if figure.source == "evaluation.json"] == ["bits_per_dim"]


def test_the_registry_knows_the_kind_of_likelihood() -> None:
    for family in MODELS.values():
        model = target(family.model)
        kind = model.likelihood_kind if inspect.isclass(model) else Autoregressive.likelihood_kind
        assert family.likelihood == kind


def test_any_json_of_a_task_gives_figures() -> None:
    content = {
        "protocol": {"split": "test"},
        "arms": {"frozen": {"10": {"mean": 0.5, "all": [1, 2]}}, "n": True},
    }
    (figure,) = read_figures("probe/probe.json", content, {"data": "anime"})
    assert (figure.name, figure.mean) == ("arms.frozen.10.mean", 0.5)
    assert describe_protocol(figure.protocol) == ["test split", "data=anime"]
    assert read_figures("x.json", {"figures": {"a": 1}}, {}) == [], "no protocol, no figure"
    new = {
        "protocol": {},
        "figures": {"frechet_distance": {"value": 3, "extractor": "domain@1"}, "bad": {"mean": "x"}},
    }
    (figure,) = read_figures("evaluation.json", new, {})
    assert figure.protocol == {"extractor": "domain@1"} and figure.mean == 3
    assert columns([figure, figure]) == [figure]


def test_the_floor_stands_in_the_heading_and_parts_no_columns(tmp_path: Path) -> None:
    """Figures of real pictures may differ in their last digits from machine to machine."""
    name = "frechet_distance[domain@1]"
    for run, value, floor in (("a", 3.0, 0.5), ("b", 4.0, 0.5000001)):
        figures = {
            "mse": {"mean": 1.0, "unit": "", "meaning": ""},
            name: {"mean": value, "floor": {"train": floor, "held_out": "x"}, "protocol": {"samples": 70}},
            "bits_per_dim": {"mean": 2.0, "unit": "bits/dim", "meaning": "exact"},
        }
        content = {"protocol": {"split": "test"}, "figures": figures}
        (make_run(tmp_path / run) / "evaluation.json").write_text(json.dumps(content))
    comparison = collect([str(tmp_path)], 8)
    measured = [column for column in comparison.columns if column.source == "evaluation.json"]
    assert [column.name for column in measured] == ["bits_per_dim", name, "mse"]
    assert measured[1].floor == {"train": 0.5}
    assert "samples=70" in describe_protocol(measured[1].protocol)
    assert "real pictures: train 0.5<" in page(comparison)
    written = as_json(comparison)["runs"][1]["figures"]
    assert [figure["floor"] for figure in written if figure["name"] == name] == [{"train": 0.5000001}]


def test_cost_is_in_the_seconds_of_steps(tmp_path: Path) -> None:
    run = collect([str(make_run(tmp_path / "a"))], 8).runs[0]
    cost = {figure.name: figure for figure in run.figures if figure.source == "cost"}
    assert cost["training_seconds"].mean == pytest.approx(10 * 10 / 50 + 10 * 10 / 25)
    assert cost["images_per_second"].mean == pytest.approx(37.5)
    assert cost["images_per_second"].protocol == {"device": "cpu, 1 threads"}
    assert cost["parameters"].mean == 1234


# ---- settings, groups, runs


def test_settings_differ_among_runs_that_have_them() -> None:
    vae = {"model.name": "vae", "model.width": 8, "seed": 0, "run_dir": "a", "sample.count": 3}
    wide = vae | {"model.width": 16, "run_dir": "b", "sample.count": 4}
    gan = {"model.name": "gan", "model.gamma": 1.0, "seed": 0}
    assert differing([vae, gan]) == ["model.name"]
    assert differing([vae, wide, gan]) == ["model.name", "model.width"]
    assert differing([vae, {**vae, "seed": "0"}]) == ["seed"]
    assert differing([vae, {key: value for key, value in vae.items() if key != "model.width"}]) == [
        "model.width"
    ]
    assert differing([vae]) == []


def test_runs_of_a_folder_and_of_a_sweep_are_one_group(tmp_path: Path) -> None:
    for name in ("day/a", "day/b", "day/c", "other/d"):
        make_run(tmp_path / name, seed=len(name))
    for name in ("day/b", "day/c"):
        meta = json.loads((tmp_path / name / "meta.json").read_text())
        meta["sessions"][0]["command"] = "gentrain -m seed=1,2"
        (tmp_path / name / "meta.json").write_text(json.dumps(meta))
    comparison = collect([str(tmp_path)], 8)
    day, other = str(tmp_path / "day"), str(tmp_path / "other")
    assert comparison.groups == [(day, ""), (day, "gentrain -m seed=1,2"), (other, "")]
    read = Page(page(comparison))
    assert [row.get("data-group") for row in read.found("tr") if row.get("class") == "group"][:3] == [
        "0",
        "1",
        "2",
    ]
    assert any(" a sweep: gentrain -m seed=1,2".strip() in text for text in read.text)
    assert read.found("input"), "groups can be given up, to sort over all"


def test_runs_are_found_below_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("out/a", "out/deep/er/b", "out/[x]", "out/.hidden/c"):
        make_run(tmp_path / name)
    make_run(tmp_path / "out/a/inside")
    (tmp_path / "out/empty").mkdir()
    (tmp_path / "out/note.txt").write_text("")
    (tmp_path / "out/loop").symlink_to(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    runs, remarks = find_runs(["out/*"])
    names = {str(run.resolve().relative_to(tmp_path)) for run in runs}
    assert names == {"out/a", "out/deep/er/b", "out/[x]"}
    assert remarks == ["out/empty is no run directory, and there is none below it"]
    assert len(find_runs(["out/a", "out/a/", str(tmp_path / "out/a")])[0]) == 1
    assert find_runs(["out/[x]"])[0] == [Path("out/[x]")], "a name is taken as it is"
    assert labels([Path("out/a"), Path("out/deep/er/b")]) == ["a", "deep/er/b"]
    for pattern, sentence in {
        "nothing/*": "runs=nothing/* matches nothing",
        "out/empty": "has no run directory",
    }.items():
        with pytest.raises(UserError, match=re.escape(sentence)):
            find_runs([pattern])


def test_a_file_that_may_not_be_read_leaves_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = evaluated(make_run(tmp_path / "a")) / "evaluation.json"
    original = os.open

    def refused(file: Path, *arguments: Any, **named: Any) -> int:
        if file == path:
            raise PermissionError(13, "Permission denied", str(path))
        return original(file, *arguments, **named)

    monkeypatch.setattr(os, "open", refused)
    comparison = collect([str(tmp_path)], 8)
    assert comparison.runs[0].problems == ["evaluation.json cannot be read: Permission denied"]
    assert "valid/bits_per_dim" in {figure.name for figure in comparison.runs[0].figures}
    assert "cannot be read: Permission denied" in page(comparison)


BROKEN = {
    "config.yaml": {
        None: "it has no config.yaml", "a: [": "its config.yaml cannot be read", "5": "its config.yaml cannot be read",
        "- 1": "holds no settings", "model: 3": "names no model", "\x00": "its config.yaml cannot be read",
    },
    "metrics.jsonl": {None: "it has no metrics.jsonl", 'x\n[1]\n{"step": "a"}\n{"step": NaN}\n{"step": 3, "train/lo': "4 lines"},
    "result.json": {"{": "result.json cannot be read", "[]": "result.json cannot be read: it holds no object"},
    "meta.json": {"{": "meta.json cannot be read", '{"sessions": [3], "data": 5, "parameters": "x"}': ""},
    "evaluation.json": {"[" * 100_000: "evaluation.json cannot be read", '{"protocol": 3}': "", "NaN": "holds no object"},
    "samples/step_00000020.png": {"no picture": "samples/step_00000020.png is no picture that can be shown"},
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_a_row_that_says_what_is_wrong(name: str, gentrain: Command) -> None:
    make_run(Path("runs/good"))
    for number, content in enumerate(BROKEN[name]):
        file = make_run(Path(f"runs/bad{number}")) / name
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
    outcome = gentrain("task=compare", "runs=runs")
    assert outcome.status == 0, outcome.err
    content = json.loads(Path("compare/compare.json").read_text())
    rows = {run["run"]: run for run in content["runs"]}
    assert rows["good"]["problems"] == []
    for number, sentence in enumerate(BROKEN[name].values()):
        assert len(rows[f"bad{number}"]["problems"]) == bool(sentence), rows[f"bad{number}"]
        assert sentence in "".join(rows[f"bad{number}"]["problems"])
    assert_harmless(*made())


def test_numbers_that_are_not_finite(gentrain: Command) -> None:
    run = evaluated(make_run(Path("runs/a")), figure={"mean": float("nan"), "standard_error": float("inf")})
    with (run / "metrics.jsonl").open("a") as file:
        for value in ("NaN", "Infinity", "-Infinity", "1e308", "-1e308", "9" * 400):
            file.write(
                f'{{"step": 30, "train/loss": {value}, "valid/x": {value}, "perf/images_per_second": {value}}}\n'
            )
    assert gentrain("task=compare", "runs=runs").status == 0

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    text = Path("compare/compare.json").read_text()
    (row,) = json.loads(text, parse_constant=refuse)["runs"]
    assert next(f for f in row["figures"] if f["name"] == "bits_per_dim")["mean"] is None
    assert_harmless(*made())


# ---- the page


def test_names_and_settings_of_strangers_are_only_text(gentrain: Command) -> None:
    for seed in (0, 1):
        run = make_run(
            Path("runs") / WORSE.replace("/", "_") / f"{EVIL}{seed}", seed=seed, data={WORSE: WORSE}
        )
        evaluated(run, figure={"unit": EVIL, "meaning": WORSE, EVIL: WORSE}, split=WORSE)
        evaluated(run, f"{EVIL}/{EVIL}.json")
        grid(run / "samples/step_00000001.png", 2, 2)
        grid(run / EVIL / f"{EVIL}.png", 2, 2)
        meta = {"sessions": [{"command": f"gentrain -m {EVIL}", "device": WORSE, "git_revision": EVIL}]}
        (run / "meta.json").write_text(json.dumps(meta))
        (run / "result.json").write_text(json.dumps({"status": f"{EVIL}\x1b[31m", "step": 1}))
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 30, f"train/{EVIL}": 3.0, f"valid/{WORSE}": 1.0}) + "\n")
    outcome = gentrain("task=compare", "runs=runs")
    assert outcome.status == 0, outcome.err
    assert "\x1b" not in outcome.out and "alert(1)" in outcome.out
    text = Path("compare/compare.html").read_text()
    read = Page(text)
    assert_harmless(read, text)
    assert EVIL not in text and WORSE not in text
    shown = "".join(read.text)
    assert f"{EVIL}0" in shown and f"data.{WORSE}={WORSE}" in shown


def test_a_name_that_is_no_text_is_shown_nevertheless() -> None:
    assert clean("a\udcff\x1b[2J\u202eb\n") == "a\ufffd\ufffd[2J\ufffdb\ufffd"


def test_sample_grids_are_shown_at_one_size(tmp_path: Path) -> None:
    for name, columns_, rows in (("a", 8, 8), ("b", 4, 2), ("c", 12, 12)):
        grid(make_run(tmp_path / name) / "samples/step_00000020.png", columns_, rows)
    grid(tmp_path / "a/samples/step_00000010.png", 1, 1)
    read, text = made(tmp_path)
    assert_harmless(read, text)
    images = [
        Image.open(BytesIO(base64.b64decode((tag["src"] or "").partition(",")[2])))
        for tag in read.found("img")
    ]
    assert [image.size for image in images] == [(82, 82), (42, 22), (82, 82)]
    shares = [float(re.search(r"width: ([\d.]+)%", tag["style"] or "").group(1)) for tag in read.found("img")]  # type: ignore[union-attr]
    per_pixel = [share / image.width for share, image in zip(shares, images, strict=True)]
    assert per_pixel == pytest.approx([per_pixel[0]] * 3, rel=1e-3)
    original = np.asarray(Image.open(tmp_path / "c/samples/step_00000020.png"))
    assert np.array_equal(np.asarray(images[2]), original[:82, :82])


def test_pictures_of_every_task_are_found(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    for name in (
        "samples/step_00000020",
        "reconstructions/step_00000020",
        "interpolate/grid",
        "new_task/chart",
        "sample/grid",
        "sample/00000",
    ):
        grid(run / f"{name}.png", 3, 1)
    pictures, problems = read_pictures(run, 8, 8)
    assert problems == []
    assert [picture.kind for picture in pictures] == [
        "samples", "reconstructions", "interpolate/grid", "new_task/chart", "sample/grid",
    ]  # fmt: skip


# ---- curves


def test_curves_go_where_their_values_are() -> None:
    drawing, cut = svg([Curve("a", 0, [(0, 1.0), (5, 3.0), (10, 2.0)]), Curve("b", COLORS, [(10, 1.0)])], "t")
    assert not cut
    (line,) = re.findall(r'<polyline class="c0" points="([^"]+)"', drawing)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.split())
    assert x1 - x0 == pytest.approx(x2 - x1) and y0 - y1 == pytest.approx(2 * (y0 - y2), abs=0.2)
    assert '<circle class="c0 dash"' in drawing


def test_early_peaks_do_not_flatten_the_rest_and_are_said() -> None:
    points = [(float(step), 1000.0 if step == 0 else 1 + 1 / step) for step in range(100)]
    drawing, cut = svg([Curve("a", 0, points)], "t")
    assert cut
    labels_ = [float(text) for text in re.findall(r'text-anchor="end">([^<]+)<', drawing)]
    assert max(labels_) < 2.1
    assert svg([Curve("a", 0, [(0.0, float("nan"))])], "t") == ("", False)


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    points = [(float(step), float(step)) for step in range(10_001)]
    thin = thinned(points)
    assert len(thin) <= 302 and thin[0] == points[0] and thin[-1] == points[-1]
    assert thinned(points[:5]) == points[:5]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1.93, 2.11), (-5, 1e6), (1e-9, 3e-9), (0, 1e299)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-6 * (high - low) <= tick <= high + 1e-6 * (high - low) for tick in found)


# ---- the command


def test_real_runs_are_compared_without_torch(gentrain: Command, tiny: list[str]) -> None:
    for family in ("vae", "pixelcnn"):
        run = f"runs/{family}"
        assert gentrain(*tiny, *FAMILIES[family], f"run_dir={run}").status == 0
        assert gentrain("task=evaluate", f"run={run}").status == 0
        assert gentrain("task=complete", f"run={run}", "complete.count=2", "complete.draws=1").status == 0
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'NO TORCH'))\n"
        "from gentrain.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "task=compare", "runs=runs/*", "compare.out=page"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "NO TORCH"
    assert "page/compare.html" in done.stdout and "exact -log2 p(x) / (C*H*W)" in done.stdout
    text = Path("page/compare.html").read_text()
    read = Page(text)
    assert_harmless(read, text)
    assert len(read.found("img")) == 2 + 1 + 2  # samples, reconstructions of the vae, completions
    rows = {run["run"]: run for run in json.loads(Path("page/compare.json").read_text())["runs"]}
    evaluation = json.loads(Path("runs/vae/evaluation.json").read_text())
    for row in rows.values():
        assert row["problems"] == [] and row["status"] == "finished"
    found = {
        figure["name"]: figure for figure in rows["vae"]["figures"] if figure["source"] == "evaluation.json"
    }
    assert found.keys() == evaluation["figures"].keys()
    assert all(found[name]["mean"] == value["mean"] for name, value in evaluation["figures"].items())
    from gentrain import load

    count = sum(p.numel() for p in load("runs/vae").model.parameters())
    assert next(f for f in rows["vae"]["figures"] if f["name"] == "parameters")["mean"] == count


def test_a_list_of_runs(gentrain: Command) -> None:
    for name in ("a", "b", "c"):
        make_run(Path(name))
    assert gentrain("task=compare", "runs=[a,b]", "compare.out=deep/er").status == 0
    assert [run["run"] for run in json.loads(Path("deep/er/compare.json").read_text())["runs"]] == ["a", "b"]
    assert gentrain("task=compare", "runs=./*").status == 0
    assert gentrain("task=compare", "runs=./*").err == "", "its own folder is no surprise"


MISTAKES = {
    "no runs": ([], "task=compare needs runs="),
    "empty list": (["runs=[]"], "task=compare needs runs="),
    "nothing there": (["runs='nowhere/*'"], "runs=nowhere/* matches nothing"),
    "no run there": (["runs=empty"], "runs=empty has no run directory"),
    "a number": (["runs=3"], "runs=3 is not possible"),
    "into a run": (["runs=run", "compare.out=run/page"], "lies in the run directory"),
    "into a file": (["runs=run", "compare.out=file"], "compare.out=file is a file"),
    "below a file": (["runs=run", "compare.out=file/page"], "compare.out=file/page cannot be made"),
    "settings of runs": (["runs=run", "model=gan"], "model=gan has no meaning for task=compare"),
    "one run": (["runs=run", "run=run"], "run=run has no meaning for task=compare"),
    "typo": (["runs=run", "compare.cell=3"], "did you mean compare.cells?"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, gentrain: Command) -> None:
    arguments, sentence = MISTAKES[mistake]
    make_run(Path("run"))
    Path("empty").mkdir()
    Path("file").write_text("")
    outcome = gentrain("task=compare", *arguments)
    assert outcome.status == 2
    assert sentence in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert not Path("compare").exists()


def test_runs_belong_to_this_task(gentrain: Command) -> None:
    outcome = gentrain("runs=x")
    assert (
        outcome.status == 2
        and "runs= has no meaning for task=train: it belongs to task=compare" in outcome.err
    )


SORT = """
<script>
const figures = document.querySelector("table.sortable"), name = "valid/bits_per_dim";
const order = () => [...figures.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent).join(",");
const heading = [...document.querySelectorAll("button")].find(b => b.textContent === name);
const said = [order()];
for (let i = 0; i < 2; i++) { heading.click(); said.push(order()); }
document.getElementById("together").click();
said.push(order());
document.title = said.join(" | ");
</script>
"""


def test_a_browser_sorts_and_groups(tmp_path: Path) -> None:
    """In Chromium where there is one; everywhere, that what the script needs is in the page."""
    for name, value in (("x/a", 2.0), ("x/b", 10.0), ("y/c", 1.0), ("y/d", None)):
        run = make_run(tmp_path / "runs" / name)
        lines = [{"step": 1, "train/loss": 1.0}] + (
            [{"step": 1, "valid/bits_per_dim": value}] if value else []
        )
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read, text = made(tmp_path / "runs")
    assert [tag.get("id") for tag in read.found("input")] == ["together"]
    assert len([tag for tag in read.found("table") if tag.get("class") == "sortable"]) >= 1
    heads = [tag for tag in read.found("th") if tag.get("scope") == "col"]
    assert len(read.found("button")) == len(heads)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is not None:
        file = tmp_path / "page.html"
        file.write_text(
            re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace(
                "</body>", f"{SORT}</body>"
            )
        )
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", file.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        folder = str(tmp_path / "runs")
        x, y = f"{folder}/x", f"{folder}/y"
        title = re.search("<title>(.*?)</title>", shown)
        assert title is not None
        assert title.group(1).split(" | ") == [
            f"{x},x/a,x/b,{y},y/c,y/d", f"{x},x/a,x/b,{y},y/c,y/d", f"{x},x/b,x/a,{y},y/c,y/d", "x/b,x/a,y/c,y/d",
        ]  # fmt: skip
