"""Every mean and interval on a page comes from a file beside it."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from analysis.tables import SAME
from rundir.run import read_run

MEAN = r"(\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)"
INTERVAL = r"([+-]\d+(?:\.\d+)?) to ([+-]\d+(?:\.\d+)?)"
FILES = [*sorted((ROOT / "docs/results").glob("*/*")), *sorted((ROOT / "benchmarks/results").iterdir())]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/reproduction").glob("*.md"))]


def text_of(path: Path) -> str:
    return path.read_text().replace("−", "-")


def tables() -> list[pd.DataFrame]:
    """The runs that did not collapse, of each table with a line a run; one for each set of images, scores as rows."""
    found = []
    for path in FILES:
        if path.suffix == ".csv" and {"loss", "seed"} <= set(lines := pd.read_csv(path, dtype={"known": str})):
            lines = lines[lines["collapsed"] == 0] if "collapsed" in lines else lines
            lines = lines.assign(known=lines["known"].fillna("") if "known" in lines else "")
            lines = lines.assign(loss=lines["loss"] + lines["score"]) if "score" in lines else lines
            found += [part for _, part in lines.groupby("unknown")] if "unknown" in lines else [lines]
    return found


def rounded(low: float, high: float, sign: str = "") -> set[tuple[str, str]]:
    return {(f"{low:{sign}.{digits}f}", f"{high:{sign}.{digits}f}") for digits in range(5)}


def numbers_of(lines: pd.DataFrame) -> pd.DataFrame:
    numbers = lines.select_dtypes("number").drop(columns=["seed", "collapsed"], errors="ignore")
    return numbers.replace([math.inf, -math.inf], math.nan)


@pytest.fixture(scope="module")
def means() -> set[tuple[str, str]]:
    found = set()
    for path in FILES:
        if path.suffix in (".md", ".txt"):
            for mean, std in re.findall(MEAN, text_of(path)):
                found.add((mean, std))
                for up, more in itertools.product((1 - 1e-12, 1 + 1e-12), repeat=2):  # a 5 at the end goes either way
                    found |= rounded(up * float(mean), more * float(std))
        elif path.suffix == ".csv":
            lines = pd.read_csv(path)
            for name in [name.removesuffix(" mean") for name in lines if name.endswith(" mean")]:
                for mean, std in zip(lines[f"{name} mean"], lines[f"{name} std"], strict=True):
                    found |= rounded(mean, std)
    for lines in tables():
        for _, group in numbers_of(lines).groupby(lines["loss"]):
            for mean, std in zip(group.mean(), group.std(), strict=True):
                found |= rounded(mean, std)
    return found


@pytest.fixture(scope="module")
def intervals() -> set[tuple[str, str]]:
    """Of all differences between two rows of a table, 95 %, paired by seed; a choice of trained classes counts once."""
    found = {pair for path in FILES if path.suffix == ".md" for pair in re.findall(INTERVAL, text_of(path))}
    for lines in tables():
        rows = {name: part.groupby(SAME).mean(numeric_only=True) for name, part in lines.groupby("loss")}
        for one, other in itertools.permutations(rows.values(), 2):
            gaps = numbers_of(one - other).dropna(how="all")
            if gaps.index.unique("known").size > 1:
                gaps = gaps.groupby("known").mean()
            if len(gaps) > 1:
                half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std() / len(gaps) ** 0.5
                for low, high in zip(gaps.mean() - half, gaps.mean() + half, strict=True):
                    found |= rounded(low, high, "+")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_means_and_intervals_are_those_of_a_file(
    page: Path, means: set[tuple[str, str]], intervals: set[tuple[str, str]]
) -> None:
    text = text_of(page)
    assert [pair for pair in re.findall(MEAN, text) if pair not in means] == []
    if page.stem != "using_center_loss":  # its table has the extremes of several networks
        assert [pair for pair in re.findall(INTERVAL, text) if pair not in intervals] == []


@pytest.mark.parametrize("loss", ["softmax", "center"])
def test_the_shipped_networks_are_as_accurate_as_their_pages_say(loss: str) -> None:
    path = ROOT / "models" / "shipped" / loss
    assert f"{read_run(path).accuracy:.2f} % as kept here" in (path / "README.md").read_text()
