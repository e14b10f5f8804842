"""Regions of classes and the border of the unknown, as figures shade them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_here, run_main
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from torch import Tensor

import compare
from analysis.epochs import read_epoch, regions_of
from analysis.plots import draw_part, shade
from analysis.regions import border_of, clip, regions
from margin_heads import ArcFace, CosFace
from models.lenet_pp import SoftmaxHead
from rundir.network import load_network
from rundir.run import read_run
from training.arguments import parse_arguments
from training.hardware import plan_from
from training.trainer import Network
from utils import ROOT, UserError

SHIPPED = ROOT / "models" / "shipped" / "center"


def network(head: SoftmaxHead | ArcFace | CosFace) -> Network:
    return Network(model=torch.nn.Identity(), head=head, precision=torch.no_grad, pixel_mean=0, pixel_std=1)


def heads() -> list[SoftmaxHead | ArcFace | CosFace]:
    torch.manual_seed(0)
    biased = SoftmaxHead(2, 5, bias=True, init="torch")
    return [SoftmaxHead(2, 10), biased, ArcFace(2, 6, s=30, m=0.2), CosFace(2, 6, s=30, m=0.1)]


def some_arrays(head: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    features = 3 * rng.normal(size=(500, 2))
    predictions = (features @ head[:, :2].T + head[:, 2]).argmax(axis=1)
    centers = rng.normal(size=(len(head), 2))
    return {"head": head, "centers": centers, "train_features": features, "train_predictions": predictions}


@pytest.mark.parametrize("number", range(4))
def test_a_feature_lies_in_the_region_of_its_prediction(number: int) -> None:
    head = heads()[number]
    features = 3 * torch.randn(2_000, 2)
    predicted = head(features).argmax(dim=1)
    decision: Tensor = network(head).decision()
    ones = torch.ones(len(features), 1)
    assert torch.equal((torch.cat([features, ones], 1) @ decision.T).argmax(dim=1), predicted)

    arrays = some_arrays(decision.numpy())
    border = border_of(arrays)
    found = regions(arrays["head"], arrays["centers"], border, reach=100)
    distances = np.linalg.norm(features.numpy() - arrays["centers"][predicted], axis=1)
    inside = distances < border
    clear = np.abs(distances - border) > 0.02  # the circle is a polygon
    for label in range(len(decision)):
        mine = predicted.numpy() == label
        taken, known = (
            Outline(shapes[label]).contains_points(features) if len(shapes[label]) else np.zeros(len(features), bool)
            for shapes in found.values()
        )
        assert (taken == mine).mean() > 0.999  # all but features on a line
        assert (known == (mine & inside))[clear].mean() > 0.999


def test_the_border_leaves_one_percent_out() -> None:
    arrays = some_arrays(np.array([[1.0, 0, 0], [-1, 0, 0]]))
    own = arrays["centers"][arrays["train_predictions"]]
    beyond = np.linalg.norm(arrays["train_features"] - own, axis=1) > border_of(arrays)
    assert beyond.sum() == 5


def test_features_too_large_to_be_kept_are_left_out() -> None:
    """They are kept as infinity; neither the border nor the figure depends on them."""
    arrays = some_arrays(network(heads()[0]).decision().numpy())
    before = border_of(arrays)
    arrays["train_features"] = np.concatenate([arrays["train_features"], [[np.inf, 0.0], [np.nan, -np.inf]]])
    arrays["train_predictions"] = np.concatenate([arrays["train_predictions"], [0, 1]])
    assert border_of(arrays) == before
    epoch = read_epoch(SHIPPED, read_run(SHIPPED).epochs)
    for features in epoch.points["test_features"], epoch.arrays["train_features"]:
        features[0] = np.inf
    ax = Figure().subplots()
    shade(ax, epoch, size=1)
    assert [len(one.get_paths()) for one in ax.collections] == [10, 10]
    for features in epoch.points["test_features"], epoch.arrays["train_features"]:
        features[:] = np.inf
    shade(Figure().subplots(), epoch, size=1)


def test_clipping() -> None:
    square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    half = clip(square, np.array([-1.0, 0, 1]))  # x <= 1
    assert sorted(half.tolist()) == [[0, 0], [0, 2], [1, 0], [1, 2]]
    assert len(clip(square, np.array([1.0, 0, -3]))) == 0
    assert np.array_equal(clip(square, np.array([0.0, 0, 1])), square)


def test_figures_show_them(tmp_path: Path) -> None:
    words = ["-d", "mnist5k", "--use-cpu", "--known-classes", "0", "1", "4", "--max-epoch", "1", "--batch-size", "128"]
    run_main(*words, "--regions", "--save-dir", tmp_path / "run")
    figure = tmp_path / "run" / "test" / "epoch_1.png"
    assert figure.exists(), "--regions draws"
    epoch = read_epoch(tmp_path / "run", 1)
    network = load_network(read_run(tmp_path / "run"), torch.device("cpu"))
    np.testing.assert_allclose(epoch.arrays["head"], network.decision().numpy(), rtol=1e-6)
    assert [len(shapes) for shapes in regions_of(epoch).values()] == [3, 3]
    run_here(compare.main, "--runs", tmp_path / "run", "--out", tmp_path / "plain")
    run_here(compare.main, "--runs", tmp_path / "run", "--regions", "--out", tmp_path / "shaded")
    plain, shaded = ((tmp_path / name / "comparison.png").read_bytes() for name in ("plain", "shaded"))
    assert plain != shaded
    ax = Figure().add_subplot()
    draw_part(ax, epoch, "test", regions=True)
    drawn = [one.get_paths() for one in ax.collections if isinstance(one, PolyCollection)]
    for paths, shapes in zip(drawn, regions_of(epoch).values(), strict=True):
        for path, shape in zip(paths, shapes, strict=True):
            np.testing.assert_allclose(path.vertices[:-1], shape)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert max(right - left, top - bottom) < 100, "unbounded regions do not set the scale"


def test_a_run_with_more_features_is_not_taken_up_with_them() -> None:
    plan, resumed = parse_arguments(["--feat-dim", "3"]).plan, parse_arguments(["--resume", "x", "--regions"])
    with pytest.raises(UserError, match=r"--regions needs two features; x has 3: leave it out"):
        plan_from(resumed, plan, torch.device("cpu"))
