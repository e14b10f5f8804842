"""Rows of runs, means, differences paired by seed, and the writing of tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import rows

from analysis import metrics, tables
from rundir.run import Run
from training.settings import Plan, Settings


def made_up(correct: float = 100.0, epochs: int = 1, name: str = "", **settings) -> Run:
    """Return a run of ten classes; only its settings, length, accuracy in percent and path matter."""
    plan, classes = Plan(settings=Settings(**{"weight_cent": 0.1} | settings)), tuple(range(10))
    run = Run(Path(name), "", plan, "mnist5k", classes, (), 4_000, 1_000, {}, epochs, "here")
    run.arrays = {"test_predictions": np.arange(1_000) < 10 * correct, "test_labels": np.ones(1_000, bool)}
    return run


def lines_of(rows: tables.Rows, accuracy: Callable[[Run], float] = lambda run: run.accuracy) -> pd.DataFrame:
    """Return lines with the accuracy only, by default the run's."""
    return tables.lines_of(rows, lambda run: {"accuracy": accuracy(run)}, ["accuracy"])


def cells(text: str) -> list[list[str]]:
    """Return the cells of all tables in a Markdown text, without the rules under their headers."""
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line] for line in lines]


ACCURACY = {"accuracy": metrics.METRICS["accuracy"]}


def test_rows_are_named_by_what_differs() -> None:
    run = made_up
    named = tables.by_row([run(), run(seed=2), run(max_epoch=2), run(weight_cent=0.0)])
    assert {name: len(group) for name, group in named.items()} == {
        "softmax + center loss (λ = 0.1), max_epoch 10": 2,
        "softmax + center loss (λ = 0.1), max_epoch 2": 1,
        "softmax only (λ = 0)": 1,
    }
    other = dict(max_epoch=5, recipe="paper", clip=1.0, shift=0, stepsize=None, gamma=0.5)
    base = dict(clip=2.0, shift=1, stepsize=None, gamma=None)
    several = [run(**base), run(**other), run(**other | {"gamma": 0.8})]
    assert list(tables.by_row(several).values()) == [[one] for one in several]
    assert tables.unsaid(tables.by_row(several)) == []
    assert tables.unsaid(tables.by_row([run(), run(seed=2, weight_cent=0.0, clip=1.0, lr_cent=0.1)])) == [
        "lr_cent",
        "clip",
    ]
    choices = [run(), run(known_classes=(1, 2)), run(known_classes=(3, 4), seed=2)]
    named = tables.by_row(choices, aside=("seed", "known_classes"))
    assert named == {
        "softmax + center loss (λ = 0.1), known_classes None": choices[:1],
        "softmax + center loss (λ = 0.1), known_classes some": choices[1:],
    }


def test_rows_of_another_length_or_data_set_say_so() -> None:
    """By the epochs that the runs were trained, whatever their losses and settings are."""
    runs = [made_up(epochs=1), made_up(epochs=10, weight_cent=0.0), made_up(epochs=10, weight_cent=0.0, seed=2)]
    named = tables.by_row(runs)
    assert [*named] == ["softmax + center loss (λ = 0.1), 1 epoch", "softmax only (λ = 0), 10 epochs"]
    runs = [made_up(epochs=2, max_epoch=2), made_up(epochs=10)]
    assert [*tables.by_row(runs)] == [f"softmax + center loss (λ = 0.1), {n} epochs" for n in (2, 10)]
    assert tables.marks([runs, runs[:1]]) == [", 2 epochs and 10 epochs", ", 2 epochs"]
    assert tables.marks([runs[:1], runs[:1]]) == ["", ""]
    runs[0].dataset = "mnist"
    assert tables.marks([runs[:1], runs[1:]]) == [", mnist, 2 epochs", ", mnist5k, 10 epochs"]


def test_numbers_that_a_run_lacks_do_not_stop_the_table() -> None:
    numbers = {1: {"accuracy": 10.0}, 2: {"accuracy": 12.0, "drift": float("inf")}}
    names = {name: metrics.METRICS[name] for name in ("accuracy", "drift")}
    lines = tables.lines_of({"loss": [made_up(seed=1), made_up(seed=2)]}, lambda run: numbers[run.settings.seed], names)
    assert cells(tables.as_markdown([tables.means(lines, names)]))[-1] == ["loss", "11.00 ± 1.41", "nan ± nan", "2"]


def test_runs_that_collapsed_are_counted_apart(tmp_path: Path) -> None:
    groups = {
        "one of three": [made_up(98.0, seed=1), made_up(10.0, seed=2), made_up(99.0, seed=3)],
        "all": [made_up(10.0, seed=1), made_up(12.0, seed=2)],
        "none": [made_up(97.0, seed=1), made_up(99.0, seed=2), made_up(99.5, seed=3)],
    }
    lines = lines_of(groups)
    assert cells(tables.as_markdown([tables.means(lines, ACCURACY)]))[1:] == [
        ["one of three", "98.50 ± 0.71", "2 (1 of 3 collapsed)"],
        ["all", "11.00 ± 1.41", "2 (2 of 2 collapsed)"],
        ["none", "98.50 ± 1.32", "3"],
    ]
    row = cells(tables.as_markdown([tables.each_seed(lines, "accuracy", 2)]))[1]
    assert row == ["one of three", "98.00", "10.00", "99.00", "98.50 ± 0.71", "2 (1 of 3 collapsed)"]
    paired = tables.paired(lines, ACCURACY)
    assert paired is not None
    assert (
        tables.paired(lines.assign(known=lines["seed"].map(str)), ACCURACY).index.names[0]
        == "paired by seed and classes"
    )
    assert paired["each seed"].tolist()[-1] == "-1.00, +0.50", "the seed of the run that collapsed is left out"
    tables.means_csv(tmp_path / "means.csv", lines, ACCURACY)
    counts = [(row["n"], row["collapsed"]) for row in rows(tmp_path / "means.csv")]
    assert counts == [("2", "1"), ("2", "2"), ("3", "0")]


def test_differences_are_paired_by_seed() -> None:
    """Against Student's interval worked out by hand: gaps 0.1, 0.2, 0.3; t(0.975, 2) = 4.3027."""
    accuracy = {0.0: {1: 99.0, 2: 99.1, 3: 99.2}, 0.1: {3: 99.5, 2: 99.3, 1: 99.1}, 1.0: {1: 99.0}}
    rows = tables.by_row(made_up(weight_cent=weight, seed=seed) for weight in accuracy for seed in accuracy[weight])
    lines = lines_of(rows, lambda run: accuracy[run.settings.weight_cent][run.settings.seed])
    paired = tables.paired(lines, ACCURACY)
    assert paired is not None
    (row,) = cells(tables.as_markdown([paired]))[1:]  # one seed has no interval
    half = 4.3027 * 0.1 / 3**0.5
    assert row[:2] == ["softmax + center loss (λ = 0.1) − softmax only (λ = 0)", "accuracy"]
    assert row[2:] == ["+0.20", f"{0.2 - half:+.2f} to {0.2 + half:+.2f}", "+0.10, +0.20, +0.30", "3"]
    assert tables.paired(lines_of({"a": [made_up()], "b": [made_up(seed=1)]}), ACCURACY) is None


def test_differences_of_open_set_runs_are_paired_by_choice_of_digits_too() -> None:
    """The runs on one choice count as one, or their interval would be too narrow for other choices."""

    def row(gaps: Sequence[float]) -> list[Run]:
        each = zip(gaps, itertools.product(((3, 4), (1, 2)), (1, 2)), strict=True)
        return [made_up(90 + seed + gap, seed=seed, known_classes=split) for gap, (split, seed) in each]

    paired = tables.paired(lines_of({"a": row([0, 0, 0, 0]), "b": row([0.5, 0.7, 0.1, 0.3])}), ACCURACY)
    assert paired is not None
    half = 12.7062 * 0.2  # t(0.975, 1) times the standard error of 0.6 and 0.2
    assert paired.iloc[0].tolist() == ["+0.40", f"{0.4 - half:+.2f} to {0.4 + half:+.2f}", "+0.20, +0.60", "2"]
    assert [*paired.index.names, *paired][0::4] == ["paired by seed and classes", "each seed or choice"]


def test_a_seed_that_was_trained_twice_counts_once() -> None:
    runs = [made_up(), made_up(), made_up(seed=2)]
    other = [made_up(weight_cent=1.0), made_up(weight_cent=1.0)]
    accuracy = {id(run): value for run, value in zip([*runs, *other], [99.0, 99.2, 99.4, 99.3, 99.5], strict=True)}
    lines = lines_of({"a": runs, "b": other}, lambda run: accuracy[id(run)])
    first, _ = tables.rows_of(lines)
    assert first.numbers["accuracy"].droplevel("known").to_dict() == {1: pytest.approx(99.1), 2: 99.4}
    assert tables.paired(lines, ACCURACY) is None, "two runs of one seed have no interval"
    seeds = cells(tables.as_markdown([tables.each_seed(lines, "accuracy", 2)]))
    assert seeds[1] == ["a", "99.10", "99.40", "99.25 ± 0.21", "2"]
    means = cells(tables.as_markdown([tables.means(lines, ACCURACY)]))
    assert means[1:] == [["a", "99.25 ± 0.21", "2"], ["b", "99.40", "1"]], "not 99.40 ± 0.14 over two"


def test_what_was_not_measured_stays_out_of_the_seeds() -> None:
    """Like the accuracy after the first epoch of a run with --eval-freq 10."""
    measured = {1: 99.0, 2: float("nan"), 3: 99.2}
    rows = {"a": [made_up(seed=seed) for seed in measured], "b": [made_up(seed=2)]}
    lines = lines_of(rows, lambda run: measured[run.settings.seed])
    table = tables.as_markdown([tables.each_seed(lines, "accuracy", 2)])
    assert cells(table)[1:] == [["a", "99.00", "", "99.20", "99.10 ± 0.14", "2"], ["b", "", "", "", "", "0"]]
    assert "nan" not in table


def test_a_table_fits_the_terminal() -> None:
    names = ["softmax only (λ = 0)", "softmax + center|loss (λ = 0.1)", "ArcFace + center loss (λ = 0.1)"]
    table = pd.DataFrame([["99.99 ± 0.01"] * 8] * 3, pd.Index(names, name="loss"), [*"abcdefgh"])
    parts = ["Before.", table, "After: a line of words may be longer than the terminal, which breaks it by itself."]
    for width, count in ((200, 4), (99, 9), (64, 19), (20, 29)):
        lines = tables.for_terminal(parts, width).splitlines()
        assert lines[0] == "Before."
        assert lines[-1].startswith("After")
        shown = lines[2:-2]
        assert len(shown) == count, width
        assert max(map(len, shown)) <= max(width, 2 + 4 + len(names[1]))
        assert sum(line.count("99.99 ± 0.01") for line in shown) == 24
    wide = tables.for_terminal(parts, 200).splitlines()[3]
    assert wide.split() == ["softmax", "only", "(λ", "=", "0)"] + ["99.99", "±", "0.01"] * 8


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("![x](https://evil.example/x.png)", r"\!\[x\](https\://evil.example/x.png)"),
        ("[x](javascript:alert)", r"\[x\](javascript:alert)"),
        ("a `b` \\| c", r"a \`b\` \\\| c"),
        ("<https://evil.example> www.evil.example", r"&lt;https\://evil.example> www\.evil.example"),
        ("a\x1b[2J", r"a\\x1b\[2J"),
        ("<script>alert(1)</script>\n| x |", r"&lt;script>alert(1)&lt;/script> \| x \|"),
    ],
)
def test_no_link_and_no_image_from_a_stranger(word: str, written: str) -> None:
    assert tables.plain(word) == written
