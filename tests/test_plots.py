"""The figures, and the command that draws them again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TWO_DIGITS, run_here, spawn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from analysis import draw, plots
from analysis.epochs import loss_name, to_two_dimensions
from analysis.palette import COLORS
from analysis.plots import scatter
from training.settings import Settings


def test_more_than_two_dimensions_show_principal_components() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 4)) * [1, 10, 3, 0.1] + 5
    (train, centers), axis = to_two_dimensions(features, features[:3])
    assert axis == "principal component"
    assert train.shape == (500, 2)
    np.testing.assert_allclose(train.std(axis=0), [10, 3], rtol=0.1)
    np.testing.assert_allclose(train[:3], centers, rtol=1e-5)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-4)


def test_two_dimensions_stay_and_one_gets_a_second() -> None:
    features = np.ones((3, 2), dtype=np.float16)
    (same,), axis = to_two_dimensions(features)
    assert axis == "feature"
    assert np.array_equal(same, features)
    (line,), _ = to_two_dimensions(np.ones((3, 1)))
    assert line.tolist() == [[1, 0]] * 3


def test_scatter_draws_every_point_and_names_the_original_digits() -> None:
    ax = Figure().add_subplot()
    scatter(ax, np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2, np.zeros((2, 2)), [4, 9])
    assert len(ax.collections[0].get_offsets()) == 50
    assert [text.get_text() for text in ax.texts] == ["4", "9"]
    assert ax.get_legend_handles_labels()[1] == ["4", "9", "center"]
    assert ax.get_aspect() == 1.0
    assert len(set(COLORS)) == 100


def test_spots_that_centers_would_hide_have_rings() -> None:
    """Wide classes have their number on a disc at the center, tight ones a ring and the number beside it."""
    labels = np.arange(1000) % 2
    centers = np.array([[5.0, 0.0], [-5.0, 0.0]])
    noise = np.random.default_rng(0).normal(size=(1000, 2))
    for spread, filled in ((1.0, True), (0.05, False)):
        ax = Figure().add_subplot()
        scatter(ax, centers[labels] + spread * noise, labels, centers, [4, 9])
        marks = next(marks for marks in ax.collections if marks.get_label() == "center")
        assert (len(marks.get_facecolors()) > 0) == filled
        assert [text.xyann[0] == 0 for text in ax.texts] == [filled] * 2


def test_the_small_box_does_not_hide_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, inset_axes = [], Axes.inset_axes

    def spy(ax: Axes, bounds: tuple[float, ...], **more: object) -> Axes:
        boxes.append((ax, bounds))
        return inset_axes(ax, bounds, **more)

    monkeypatch.setattr(Axes, "inset_axes", spy)
    shipped = ROOT / "models" / "shipped"
    shutil.copytree(shipped / "center", tmp_path / "run")
    file = tmp_path / "run" / "features" / "epoch_10.npz"
    arrays = dict(np.load(file))
    arrays["test_features"][:500] = 0  # a class in the middle, as Fashion-MNIST has
    np.savez(file, **arrays)
    plots.grid({"rays": shipped / "softmax", "spots": tmp_path / "run"}, tmp_path / "x.png", ("test",))
    ((panel, (x, y, width, height)),) = boxes
    dots = panel.transLimits.transform(panel.collections[0].get_offsets())
    assert ((dots > [x, y]) & (dots < [x + width, y + height])).all(axis=1).mean() < 0.01


def test_loss_name() -> None:
    assert loss_name(Settings(head="softmax", weight_cent=0.01)) == "softmax + center loss (λ = 0.01)"
    assert loss_name(Settings(head="arcface", weight_cent=1.0)) == "ArcFace + center loss (λ = 1)"
    assert loss_name(Settings(head="cosface", weight_cent=0.0)) == "CosFace only (λ = 0)"


def test_command_draws_again_and_says_what_is_missing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "shipped" / "softmax", tmp_path, dirs_exist_ok=True)
    run_here(draw.main, tmp_path)
    assert (tmp_path / "train" / "epoch_10.png").exists()
    missing = run_here(draw.main, tmp_path, "--epochs", 8, status=2)
    assert "no features of epoch 8" in missing.stderr
    nowhere = run_here(draw.main, tmp_path / "nothing", status=2)
    assert nowhere.stderr.count("\n") == 1
    assert "nothing: no such folder" in nowhere.stderr


@pytest.mark.slow
def test_figures_do_not_depend_on_backend_and_matplotlibrc(tmp_path: Path) -> None:
    """As in a notebook whose backend is missing here, and with a matplotlibrc that asks for LaTeX."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\n")
    env = {"MPLBACKEND": "module://no_such_backend.inline", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    run, how = tmp_path / "run", {"env": os.environ | env | {"PYTHONPATH": str(ROOT)}, "cwd": tmp_path}
    words = [*TWO_DIGITS, "--max-epoch", 2, "--batch-size", 100, "--animate"]
    image = tmp_path / "one.png"
    Image.fromarray(np.pad(np.full((20, 4), 255, np.uint8), ((20, 20), (28, 28)))).save(image)
    for program, flags in (
        ("main.py", [*words, "--save-dir", run]),
        ("compare.py", ["--runs", run, "--out", tmp_path / "out", "--use-cpu", "--animate"]),
        ("predict.py", ["--run", run, "--use-cpu", "--plot", image]),
        ("analysis/draw.py", [run]),
    ):
        done = spawn(program, *flags, **how)
        assert done.stderr == "", program
        assert "could not" not in done.stdout
    made = ("run/test/epoch_2.png", "run/animation.gif", "out/comparison.png", "out/animation.gif", "predictions.png")
    for name in made:
        assert (tmp_path / name).exists(), name
    drawn = (run / "test" / "epoch_2.png").read_bytes()
    plots.draw_epoch(run, 2)
    assert (run / "test" / "epoch_2.png").read_bytes() == drawn


def test_a_legend_of_many_classes_stands_in_columns() -> None:
    for count, side_by_side in ((10, 1), (11, 2), (26, 2), (100, 5)):
        assert plots.columns(count, 25) == side_by_side
    near = np.array([[1, 9], [3, 8], [4, 9], [7, 9], [1, 7], [3, 5]])
    rgb = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in COLORS[:10]])
    assert np.abs(rgb[near[:, 0]] - rgb[near[:, 1]]).sum(axis=1).min() > 150


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_only_finite_rows_decide_the_axes(odd: float) -> None:
    features = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float16)
    (_, wanted), _ = to_two_dimensions(features[1:], features)
    damaged = features.copy()
    damaged[0, 1] = odd
    (found, _), axis = to_two_dimensions(damaged, features)
    assert axis == "principal component"
    np.testing.assert_allclose(found[1:], wanted[1:], rtol=1e-5)
    assert not np.isfinite(found[0]).all()
    nothing, _ = to_two_dimensions(np.full((4, 3), odd))
    assert nothing[0].shape == (4, 2)


def test_a_set_of_images_has_one_color_in_all_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, *_, **__: figures.append(figure))
    values = np.arange(10.0)
    panels = {"ten": {"max logit": dict.fromkeys(["known", "letters"], values)}}
    panels["six"] = {"max logit": dict.fromkeys(["known", "unseen classes", "letters"], values)}
    plots.histograms(panels, tmp_path / "x.png")
    figure = figures.pop()
    named = dict(
        zip([text.get_text() for text in figure.legends[0].texts], figure.legends[0].legend_handles, strict=True)
    )
    assert [*named] == ["known", "letters", "95 % of the known pass", "unseen classes"]
    ten, six = (
        {one.get_label(): one.get_edgecolor() for one in ax.patches if one.get_label()[0] != "_"} for ax in figure.axes
    )
    assert ten["letters"] == six["letters"] == named["letters"].get_edgecolor()
    assert six["unseen classes"] != six["letters"]
    plots.histograms({"softmax + center loss (λ = 0.1), center_hold 1": panels["six"]}, tmp_path / "x.png")
    figure = figures.pop()
    figure.draw_without_rendering()
    for part in (figure.legends[0], figure.axes[0].title):
        box = part.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, "cut off"
