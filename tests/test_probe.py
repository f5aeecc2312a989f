"""task=probe: its linear layer against scikit-learn, its draws, and that no held-out label is used to choose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES, assert_same
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

import gentrain as library
from gentrain.analysis import probe_baselines as arms
from gentrain.analysis.linear_probe import (
    L2_STRENGTHS,
    L2_WITHOUT_CHOICE,
    Classifier,
    Linear,
    Scaling,
    choose_l2,
    draw_labels,
    epochs,
    fit_linear,
)
from gentrain.data.build import open_data
from gentrain.runtime.seeding import generator
from gentrain.tasks import probe as task
from gentrain.viz.plot import Curve, Frame, chart

# ---- the linear layer


def blobs(
    count: int, features: int, classes: int, apart: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    centres = apart * torch.randn(classes, features, generator=torch.Generator().manual_seed(99)).double()
    y_N = torch.arange(classes).repeat_interleave(count // classes)
    return centres[y_N] + torch.randn(len(y_N), features, generator=noise).double(), y_N


@pytest.mark.parametrize("features", [5, 200])  # fewer and more than pictures
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_linear_layer_is_scikit_learns(features: int, l2: float) -> None:
    x_NF, y_N = blobs(60, features, 4, 0.5)
    found = fit_linear(x_NF, y_N, 4, l2)
    theirs = LogisticRegression(C=1 / (l2 * len(y_N)), tol=1e-10, max_iter=10_000).fit(
        x_NF.numpy(), y_N.numpy()
    )
    assert np.allclose(found.weight_KF.numpy(), theirs.coef_, atol=2e-3)
    probabilities = found.logits(x_NF).softmax(1).numpy()
    assert np.allclose(probabilities, theirs.predict_proba(x_NF.numpy()), atol=1e-3)


def test_strength_is_chosen_by_held_out_labels_alone() -> None:
    """Against cross-validation written out: the last quarter of each class is a fold, and so on."""
    x_NF, y_N = blobs(80, 30, 4, 0.3)
    chosen = choose_l2(x_NF, y_N, 4, 20)
    losses = {}
    for l2 in L2_STRENGTHS:
        total = 0.0
        for fold in range(4):
            out = torch.tensor([i % 20 % 4 == fold for i in range(80)])
            fitted = LogisticRegression(C=1 / (l2 * 60), tol=1e-10, max_iter=10_000).fit(
                x_NF[~out], y_N[~out]
            )
            total += cross_entropy(torch.from_numpy(fitted.predict_log_proba(x_NF[out])), y_N[out]).item()
        losses[l2] = total
    assert chosen == min(losses, key=losses.__getitem__)
    assert len(set(losses.values())) == len(L2_STRENGTHS)
    assert choose_l2(x_NF[::20], y_N[::20], 4, 1) == L2_WITHOUT_CHOICE


def test_scaling_makes_the_mean_square_length_one() -> None:
    x_NF = 7 + 3 * torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
    scaled = Scaling.of(x_NF)(x_NF)
    assert scaled.mean(0).abs().max() < 1e-6
    assert scaled.square().sum(1).mean().item() == pytest.approx(1)
    assert Scaling.of(torch.ones(5, 3))(torch.ones(5, 3)).abs().max() == 0


def test_draws_are_of_their_class_differ_and_nest() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 300)
    draws = [draw_labels(labels, 3, 10, generator(0, "d", draw)) for draw in range(3)]
    for chosen_KM in draws:
        assert chosen_KM.shape == (3, 10)
        assert len(chosen_KM.unique()) == 30
        assert (torch.from_numpy(labels)[chosen_KM] == torch.arange(3)[:, None]).all()
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draw_labels(labels, 3, 10, generator(0, "d", 0)))
    assert torch.equal(draws[0][:, :4], draw_labels(labels, 3, 4, generator(0, "d", 0)))


def test_batches_of_fine_tuning_see_every_label_once_an_epoch() -> None:
    batches = epochs(10, 4, 5, generator(0, "b"))
    assert [len(batch) for batch in batches] == [4] * 5
    together = torch.cat(batches)
    assert sorted(together[:10].tolist()) == sorted(together[10:].tolist()) == list(range(10))
    assert [len(batch) for batch in epochs(3, 64, 2, generator(0, "b"))] == [3, 3]


def test_a_classifier_starts_at_its_linear_layer() -> None:
    x_NF, y_N = blobs(40, 6, 2, 1.0)
    scaling = Scaling.of(x_NF)
    linear = fit_linear(scaling(x_NF), y_N, 2, 1e-2)
    classifier = Classifier(lambda x: x, scaling, linear)
    assert torch.allclose(classifier(x_NF.float()).double(), linear.logits(scaling(x_NF)), atol=1e-5)
    assert len(list(classifier.parameters())) == 2


# ---- the task


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of noisy 8 px pictures: a bright left half, or a bright right half."""
    root, random = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for name, half in (("left", slice(0, 4)), ("right", slice(4, 8))):
        (root / name).mkdir()
        for number in range(60):
            pixels = random.integers(0, 120, (8, 8)).astype(np.uint8)
            pixels[:, half] += 60
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def train(gentrain: Command, family: str, root: Path, *more: str) -> None:
    sizes = [
        "data.size=8",
        "data.channels=1",
        "train.batch_size=8",
        "train.sample_count=4",
        "train.max_steps=2",
    ]
    outcome = gentrain("data=folder", f"data.root={root}", *FAMILIES[family], *sizes, "run_dir=run", *more)
    assert outcome.status == 0, outcome.err


SMALL = ["probe.labels_per_class=[1,5]", "probe.draws=2", "probe.steps=3"]


@pytest.mark.parametrize("family", ["ae", "vae", "gsn", "gan", "pixelcnn", "pixelrnn"])
def test_four_arms_for_families_with_features(family: str, gentrain: Command, classes: Path) -> None:
    train(gentrain, family, classes)
    outcome = gentrain("task=probe", "run=run", *SMALL)
    assert outcome.status == 0, outcome.err
    found = json.loads(Path("run/probe/probe.json").read_text())
    assert list(found["arms"]) == [arms.FROZEN, arms.TUNED, arms.RANDOM, arms.PIXELS]
    assert found["protocol"]["label"] == "class"
    assert found["protocol"]["choices"] == ["left", "right"]
    for arm, by_number in found["arms"].items():
        assert list(by_number) == ["1", "5"], arm
        for scores in by_number.values():
            assert len(scores["accuracies"]) == 2
            assert scores["mean"] == pytest.approx(np.mean(scores["accuracies"]))
            assert scores["standard_deviation"] == pytest.approx(np.std(scores["accuracies"], ddof=1))
    assert found["arms"][arms.PIXELS]["5"]["mean"] > 0.9  # an easy problem for a linear layer on pixels
    assert Image.open("run/probe/probe.png").size == (760, 480)
    assert "fine-tuned encoder" in outcome.out
    first = Path("run/probe/probe.json").read_bytes()
    gentrain("task=probe", "run=run", *SMALL)
    assert Path("run/probe/probe.json").read_bytes() == first


def settings(**changes: object) -> task.Settings:
    plain = {"label": None, "labels_per_class": [2, 4], "draws": 2, "split": "test", "steps": 2}
    return task.Settings(**{**plain, "batch_size": 4, "lr": 1e-3, "seed": 0, **changes})  # type: ignore[arg-type]


def test_held_out_labels_choose_nothing(gentrain: Command, classes: Path) -> None:
    """With every held-out label turned around, each arm predicts the same: its accuracy is one minus it."""
    train(gentrain, "vae", classes)
    run = library.load("run")
    packed = open_data(run.config["data"], lambda *_: None)
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    problem, tuning = task.make_problem(run, packed, 0, settings()), arms.Tuning(2, 4, 1e-3)
    scores = arms.probe(run, problem, [2, 4], 2, tuning, 0, lambda *_: None)
    turned = arms.Problem(**{**vars(problem), "held_out_labels_N": 1 - problem.held_out_labels_N})
    other = arms.probe(run, turned, [2, 4], 2, tuning, 0, lambda *_: None)
    for arm, by_number in scores.items():
        for per_class, found in by_number.items():
            for score, twin in zip(found, other[arm][per_class], strict=True):
                assert score.l2 == twin.l2
                assert score.accuracy == pytest.approx(1 - twin.accuracy)
    assert_same(weights, dict(run.model.state_dict()))  # fine-tuning works on copies
    assert run.model.training is False


def test_features_are_those_that_the_code_is_made_of(gentrain: Command, classes: Path) -> None:
    for family, layer in (("vae", "to_posterior"), ("ae", "to_code")):
        train(gentrain, family, classes, f"run_dir={family}")
        run = library.load(family)
        x = run.sample(3)
        codes = run.model.get_submodule(layer)(run.model.features(x))[:, : run.encode(x).shape[1]]
        assert torch.allclose(codes, run.encode(x))
        assert run.model.features(x).requires_grad


def test_activations_of_a_pixelcnn_are_means_over_parts_of_the_picture(
    gentrain: Command, classes: Path
) -> None:
    train(gentrain, "pixelcnn", classes)
    model = library.load("run").model
    x = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    features = model.features(x)
    x[:, :, 4:] = 0  # causal: what comes later changes nothing above
    above = model.features(x).view(2, -1, 4, 4)[:, :, :2]
    assert torch.equal(above, features.view(2, -1, 4, 4)[:, :, :2])
    assert features.shape[1] == 8 * 16  # head_width * 4 * 4
    assert not torch.equal(model.features(x), features)


def test_more_labels_help_where_they_should(gentrain: Command, classes: Path) -> None:
    train(gentrain, "vae", classes)
    gentrain(
        "task=probe",
        "run=run",
        "probe.labels_per_class=[1,20]",
        "probe.draws=3",
        "probe.steps=30",
        "probe.lr=0.01",
    )
    found = json.loads(Path("run/probe/probe.json").read_text())["arms"]
    assert found[arms.RANDOM]["20"]["mean"] > 0.9
    assert found[arms.PIXELS]["20"]["mean"] > found[arms.PIXELS]["1"]["mean"] - 0.01


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("probe.labels_per_class=[1,500]", "probe.labels_per_class=500 is too many: class="),
        ("probe.labels_per_class=[]", "asks for nothing"),
        ("probe.labels_per_class=[0]", "probe.labels_per_class=[0] is not possible"),
        ("probe.label=colour", "probe.label=colour is none of their labels: class"),
        ("probe.draws=0", "probe.draws=0 is not possible"),
    ],
)
def test_what_it_refuses(override: str, sentence: str, gentrain: Command, classes: Path) -> None:
    train(gentrain, "vae", classes, "train.max_steps=1")
    outcome = gentrain("task=probe", "run=run", override)
    assert outcome.status == 2
    assert sentence in outcome.err
    assert not Path("run/probe").exists()


def test_a_family_without_features(gentrain: Command, classes: Path) -> None:
    train(gentrain, "gmm", classes, "train.max_steps=1")
    outcome = gentrain("task=probe", "run=run")
    assert outcome.status == 2
    assert "task=probe needs features of pictures, and model=gmm has none" in outcome.err


def test_pictures_without_labels(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES["vae"], "train.max_steps=1", "run_dir=run")
    outcome = gentrain("task=probe", "run=run")
    assert outcome.status == 2
    assert "needs labels, and these pictures have none" in outcome.err


def test_classes_that_training_does_not_hold(gentrain: Command) -> None:
    small = ["data=moons", "data.size=16", "data.count=40", "train.max_steps=1", "train.batch_size=8"]
    gentrain(*small, *FAMILIES["vae"], "run_dir=run")
    outcome = gentrain("task=probe", "run=run")
    assert outcome.status == 2
    assert "phase=15 has 0 training pictures" in outcome.err


def test_several_labels_need_a_choice(gentrain: Command) -> None:
    from gentrain.data.packed import Label, Packed
    from gentrain.errors import UserError

    def with_labels(*names: str) -> Packed:
        info = tuple(Label(name, ("a", "b")) for name in names)
        return Packed(np.zeros((0, 1, 8, 8), np.uint8), {}, np.zeros((0, len(names))), info)

    assert task.choose_label(with_labels("one"), None)[1].name == "one"
    assert task.choose_label(with_labels("brow", "hair_style"), None)[0] == 1
    assert task.choose_label(with_labels("brow", "hair_style"), "brow")[0] == 0
    with pytest.raises(UserError, match=r"several labels: give probe\.label, one of brow, skin"):
        task.choose_label(with_labels("brow", "skin"), None)


# ---- the chart


def test_a_chart_has_its_points_where_they_belong() -> None:
    curve = Curve([1, 10, 100], [0.2, 0.5, 0.8], [0.05, 0.0, 0.1])
    drawn = np.asarray(chart({"only": curve}, "title", "x", "y", 0.1)).astype(int)
    frame = Frame(1 / 1.15, 100 * 1.15, 0.0, 0.9)
    for x, y in zip(curve.x, curve.y, strict=True):
        column, row = (round(value / 2) for value in frame.at(x, y))
        red, green, blue = drawn[row, column]
        assert red > green + 80, (x, y)
        assert red > blue + 80
    assert frame.at(1, 0.3)[1] == frame.at(100, 0.3)[1]
    assert frame.at(10, 0)[0] == pytest.approx((frame.at(1, 0)[0] + frame.at(100, 0)[0]) / 2)
    single = chart({"only": Curve([5], [0.5], [0.0])}, "title", "x", "y", 0.1)
    assert single.size == (760, 480)


def test_a_linear_layer_says_what_it_was_fitted_with() -> None:
    linear = Linear(torch.ones(2, 3), torch.tensor([0.0, 1.0]), 0.1)
    assert linear.logits(torch.ones(1, 3)).tolist() == [[3, 4]]
