"""The command line of compare.py, and the runs that it plans."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import run_here

import compare
from analysis.comparison import parse_comparison


def test_plan_of_a_sweep_and_of_the_open_set() -> None:
    runs = list(parse_comparison(["--weights-cent", "0", "0.01", "1", "--seeds", "4", "5"]).plan())
    assert [run.name for run in runs] == [f"center-{w}-{s}" for s in (4, 5) for w in ("0", "0.01", "1")]
    runs = list(parse_comparison(["--losses", "softmax", "center", "--weights-cent", "0", "1"]).plan())
    assert [run.name for run in runs] == ["softmax-1", "center-1-1"]  # λ = 0 is there already
    runs = list(parse_comparison(["--losses", "arcface+center", "--", "--recipe", "paper"]).plan())
    assert runs[0].flags[:4] == ["--head", "arcface", "--weight-cent", "0.01"]
    runs = list(parse_comparison(["--losses", "softmax", "arcface", "--", "--scale", "20"]).plan())
    assert ["--scale" in run.flags for run in runs] == [False, True]
    runs = list(parse_comparison(["--variants", "", "--recipe reference", "--recipe paper"]).plan())
    assert [run.flags[2:4] for run in runs] == [["--weight-cent", weight] for weight in ("0.1", "1.0", "0.01")]
    runs = list(parse_comparison(["--variants", "", "--recipe accurate"]).plan())
    assert [run.flags[1:4:2] for run in runs] == [["softmax", "0.1"], ["cosface", "1.0"]], "center loss on its own head"
    runs = list(parse_comparison(["--losses", "center", "--", "--recipe", "accurate", "--margin", "0.15"]).plan())
    assert runs[0].flags[:2] == ["--head", "cosface"]
    assert runs[0].flags[-2:] == ["--margin", "0.15"]
    runs = list(parse_comparison(["--losses", "cosface", "--variants", "a: ", "b: --margin 0.2"]).plan())
    assert [(run.name, run.flags[-2:]) for run in runs][1] == ("cosface-b-1", ["--margin", "0.2"])
    runs = list(parse_comparison(["--losses", "softmax", "center", "--variants", "a: ", "b: --lr-model 0.2"]).plan())
    assert [run.row for run in runs] == ["softmax, a", "softmax, b", "center, a", "center, b"]
    runs = list(parse_comparison(["--open-set"]).plan())
    assert len(runs) == 10
    assert runs[4].name == "softmax-split5-1"
    assert runs[4].flags[-7:] == ["--known-classes", "6", "3", "4", "9", "8", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "triplet"], "'triplet': must be one of softmax"),
        (["--seeds", "-1"], "must be a whole number at least 0"),
        (["--weights-cent", "nan"], "must be a number at least 0"),
        (["--jobs", "0"], "must be a whole number at least 1"),
        (["--runs", "a", "--seeds", "1"], "leave out --losses, --weights-cent, --seeds, --variants and --"),
        (["--unknowns", "a/letters", "b/letters/raw"], "two of them would be called letters"),
        (["--unknowns", "a/known"], "'known' has another meaning in the results; rename the folder"),
        (["--", "--scale", "20"], "--scale and --margin need a loss with a margin head"),
        (["--losses", "arcface", "--", "--scale", "no"], "must be a number above 0"),
        (["--", "--max-epoch", "0"], "must be a whole number at least 1"),
        (["--", "--seed", "3"], "--seed is set by compare.py"),
        (["--", "--weight-cent", "1"], "--weight-cent is set by compare.py"),
        (["--", "--save-dir", "x"], "--save-dir is set by compare.py"),
        (["--open-set", "--", "--known-classes", "1", "2"], "--known-classes is set by compare.py"),
        (["--variants", '--set "x'], "--variants: no closing quotation"),
        (["--variants", "a: --lr-model 0.1", "a: --lr-model 0.2"], "two of them are called 'a'"),
        (["--regions", "--variants", "", "--feat-dim 3"], "--regions needs --feat-dim 2"),
        (["--losses", "softmax", "arcface", "--", "--margin", "3"], "arcface takes radians from 0 to π/2; got 3"),
        (["--losses", "cosface", "--", "--margin", "2"], "cosface takes less than 2; got 2"),
        (["--losses", "softmax", "--variants", "--recipe accurate --margin 0.2"], "need a loss with a margin head"),
        (
            ["--losses", "softmax", "arcface", "--weights-cent", "0", "1"],
            "--weights-cent needs a loss with center loss",
        ),
        (["-d", "mnist5k"], "-d is a flag of main.py; those go behind a bare --: compare.py … -- -d mnist5k"),
        (["--seeds", "1", "--max-epoch", "2"], "go behind a bare --: compare.py … -- --max-epoch 2"),
        (["--set", "foo=1"], "--set is a flag of main.py"),
        (["--weight-cent", "1"], "--weight-cent is set by compare.py (--losses, --weights-cent, "),
        (["--head", "arcface"], "--head is set by compare.py (--losses, --weights-cent, "),
        (["--losss", "center"], "did you mean --losses?"),
    ],
)
def test_bad_flags(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_comparison(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_notes_of_main_are_said(tmp_path: Path) -> None:
    for arguments, note in (
        (["--gpu", "0,1", "--use-cpu"], "Note: --gpu 0,1: only GPU 0 is used; "),
        (["--use-cpu", "--", "--workers", "4"], "Note: --workers does nothing"),
    ):
        done = run_here(compare.main, "--unknowns", "nowhere", "--out", tmp_path, *arguments, status=2)
        assert done.stdout.startswith(note)
