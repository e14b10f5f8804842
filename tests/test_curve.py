"""Numbers as figures: over the one setting in which runs differ, and row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_tables import lines_of, made_up

from analysis import curve, tables
from analysis.unseen import UNSEEN


def test_which_setting_varies() -> None:
    run = made_up
    weights = [run(weight_cent=weight, seed=seed) for weight in (0.0, 0.1, 1.0) for seed in (1, 2)]
    assert curve.varying(weights) == "weight_cent"
    assert curve.varying([run(lr_cent=rate) for rate in (0.1, 0.5, 1.0)]) == "lr_cent"
    assert curve.varying([run(lr_cent=rate, known_classes=(1, 2)) for rate in (0.1, 0.5, 1.0)]) == "lr_cent"
    for none in (
        weights[:4],  # two values
        [*weights, run(weight_cent=0.1, lr_cent=0.1)],  # two settings
        [run(seed=seed) for seed in range(5)],
        [run(head=head) for head in ("softmax", "arcface", "cosface")],  # no numbers
        [run(clip=clip) for clip in (None, 1.0, 2.0)],
        [*weights, run(weight_cent=0.5, known_classes=(1, 2))],  # not of the same classes
    ):
        assert curve.varying(none) is None


def test_values_that_lie_far_apart() -> None:
    for narrow in ([0.0, 0.5, 1.0], [0.02, 0.5, 1.0], [0.01, 0.1, 0.25, 0.5, 0.75, 1.0], [-1.0, 0.001, 1.0], [0.0], []):
        assert not curve.is_wide(narrow)
    for wide in ([0.0, 0.01, 0.1, 1.0], [0.01, 0.1, 1.0], [0.0, 0.01, 1.0]):
        assert curve.is_wide(wide)


def test_it_draws_mean_and_deviation_of_those_that_did_not_collapse(tmp_path: Path) -> None:
    accuracies = {0.0: (97.0, 98.0), 0.01: (98.0, 99.0), 1.0: (99.0, 10.0), 10.0: (10.0, 10.0)}
    runs = [
        made_up(accuracy, name=f"{weight}-{seed}", weight_cent=weight, seed=seed)
        for weight, pair in accuracies.items()
        for seed, accuracy in enumerate(pair)
    ]
    lines = lines_of(tables.by_row(runs))
    labeled = lines.assign(weight=[run.settings.weight_cent for run in runs])
    rows = sorted(tables.rows_of(labeled, ["weight"]), key=lambda row: row.labels)
    ax = Figure().add_subplot()
    curve.draw_panel(ax, rows, "accuracy")
    assert np.allclose(ax.lines[0].get_xydata(), [[0, 97.5], [0.01, 98.5], [1, 99]])
    places = ax.transData.transform([[0, 98], [0.01, 98], [1, 98]])[:, 0]
    assert np.diff(places)[1] == pytest.approx(2 * np.diff(places)[0], rel=0.15), "0 is a step to the left"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.01", "1"]
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {0}
    said = "percent, mean ± standard deviation, n = 1 to 2; without the 1 of 6 runs that collapsed"
    assert curve.caption(rows[:3]) == said
    assert curve.caption(rows[:3] + rows[:3]) == said, "the same runs on other images"
    assert curve.draw_curve(tmp_path / "curve.png", lines, runs, ["accuracy"]) == [tmp_path / "curve.png"]
    assert (tmp_path / "curve.png").stat().st_size > 5_000
    curve.draw_panel(Figure().add_subplot(), rows[3:], "accuracy")  # all collapsed: an empty panel
    assert curve.draw_curve(tmp_path / "none.png", lines, runs[:2], ["accuracy"]) == []
    assert not (tmp_path / "none.png").exists()


def test_rows_are_drawn_with_every_run_and_the_mean_of_those_that_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(curve, "save", lambda figure, path, dpi: drawn.append(figure))
    lines = pd.DataFrame(
        {
            "loss": ["softmax", "softmax", "center", "center", "λ = 200"],
            "unknown": "letters",
            "seed": [1, 2, 1, 2, 1],
            "known": "",
            "collapsed": [0, 0, 0, 1, 1],
            "EER": [10.0, 12.0, 7.0, 50.0, 50.0],
        }
    )
    curve.draw_rows(tmp_path / "unseen.png", lines, {"EER": UNSEEN["EER"]})
    (ax,) = drawn[0].axes
    dots, means = ax.lines[0::4], [line.get_xdata()[0] for line in ax.lines[1::4]]
    assert [line.get_xdata().tolist() for line in dots] == [[10, 12], [7]]
    assert means == [11, 7]
    assert ax.get_title() == "letters\nEER ↓"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["softmax", "center", "λ = 200"]
