"""From flags to runs to tables: what is trained, what is reused, what is written."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, rows, run_here, running, spawn, started, wait_until, write_idx
from test_tables import cells

import compare
from analysis import metrics, openset, plots, sweep, tables
from analysis.comparison import Wanted, parse_comparison
from analysis.openset import Scored
from analysis.unseen import UNSEEN, unseen_classes
from benchmarks import score
from rundir.network import load_data, load_network
from rundir.run import epochs_of, is_finished, read_run
from utils import UserError

# Two digits, one epoch: seconds.
QUICK = "-- -d mnist5k --use-cpu --hold-out 400 --known-classes 3 8 --max-epoch 1 --batch-size 32".split()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Softmax and center loss, two seeds of each, two at once; and what was printed."""
    out = tmp_path_factory.mktemp("log") / "compare"
    done = spawn("compare.py", "--seeds", 1, 2, "--jobs", 2, "--out", out, *QUICK)
    assert done.stderr == ""
    return out, done.stdout


def test_it_trains_each_loss_with_each_seed(compared: tuple[Path, str]) -> None:
    out, printed = compared
    assert "4 runs, 0 already trained" in printed
    assert "Run 4 of 4: " in printed
    made = {path.parent.name: json.loads(path.read_text())["settings"] for path in out.glob("runs/*/config.json")}
    expected = {
        f"{name}-{seed}": (weight, seed) for name, weight in (("softmax", 0), ("center", 0.1)) for seed in (1, 2)
    }
    assert {name: (made[name]["weight_cent"], made[name]["seed"]) for name in made} == expected


def test_tables_hold_mean_and_deviation_of_the_runs_and_figures_are_drawn(compared: tuple[Path, str]) -> None:
    from matplotlib.image import imread

    out, printed = compared
    table = rows(out / "comparison.csv")
    assert [row["loss"] for row in table] == ["softmax only (λ = 0)", "softmax + center loss (λ = 0.1)"]
    assert [row["n"] for row in table] == ["2", "2"]
    runs = rows(out / "runs.csv")
    for row in table:
        for key in metrics.METRICS:
            values = [float(run[key]) for run in runs if run["loss"] == row["loss"]]
            assert float(row[f"{key} mean"]) == pytest.approx(np.mean(values))
            assert float(row[f"{key} std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-7)
    for run in runs:
        with np.load(Path(run["run"]) / "features" / "epoch_1.npz") as data:
            accuracy = 100 * np.mean(data["test_predictions"] == data["test_labels"])
            assert run["accuracy"] == f"{accuracy:.10g}"
    markdown = (out / "comparison.md").read_text()
    assert markdown in printed
    accuracy = f"{float(table[0]['accuracy mean']):.2f} ± {float(table[0]['accuracy std']):.2f}"
    assert cells(markdown)[1][:2] == ["softmax only (λ = 0)", accuracy]
    assert "Test set of mnist5k" in markdown
    assert "Seeds: 1, 2." in markdown
    assert min(imread(out / "comparison.png").shape[:2]) > 1_200
    assert (out / "open_set.png").stat().st_size > 10_000


def test_unseen_digits_are_scored(compared: tuple[Path, str]) -> None:
    table = rows(compared[0] / "open_set.csv")
    assert len(table) == 2 * 4
    assert {row["unknown"] for row in table} == {"unseen classes"}
    for row in table:
        assert row["n"] == "2"
        assert 0 < float(row["AUROC mean"]) <= 100  # after one epoch on two digits: better than chance on some machines
        assert float(row["OSCR mean"]) <= float(row["AUROC mean"]) + 1e-9


def test_unseen_digits_are_scored_one_by_one(compared: tuple[Path, str]) -> None:
    out, _ = compared
    table = {(row["loss"], row["score"]): row for row in rows(out / "open_set.csv")}
    expected = table["softmax + center loss (λ = 0.1)", "softmax probability"]["AUROC mean"]
    runs = [out / "runs" / f"center-{seed}" for seed in (1, 2)]
    said = {}
    for flags in ([], ["--views"]):
        done = run_here(score.main, "unseen", *flags, *runs)
        lines = cells(done.stdout)
        assert [line[0] for line in lines[1:]] == [*"01245679", "all"]
        said[bool(flags)] = {line[0]: float(line[3].split()[0]) for line in lines[1:]}
    assert said[False]["all"] == pytest.approx(float(expected), abs=0.005001)
    assert said[True] != said[False]
    for digit, value in said[True].items():  # a pixel aside changes little of what is told from what
        assert value == pytest.approx(said[False][digit], abs=10)


def test_unseen_digits_are_scored_by_their_own_labels(compared: tuple[Path, str], monkeypatch) -> None:
    """Not by their places among the classes, which MNIST's labels happen to be."""
    run = read_run(compared[0] / "runs" / "center-1")
    plain = score.by_digit(run, score.FIVE)
    run.unseen = tuple(label + 10 for label in run.unseen)
    monkeypatch.setattr(score, "load_data", lambda run: replace(load_data(run), classes=tuple(range(10, 20))))
    shifted = score.by_digit(run, score.FIVE)
    assert shifted == {name if name == "all" else str(int(name) + 10): value for name, value in plain.items()}


def test_unseen_digits_are_told_from_each_other(compared: tuple[Path, str]) -> None:
    """The numbers of one run, from its network's features of the digits that it never saw."""
    out, printed = compared
    table = rows(out / "unseen.csv")
    assert [(row["loss"], row["seed"], row["known"]) for row in table] == [
        (loss, seed, "3 8") for loss in ("softmax only (λ = 0)", "softmax + center loss (λ = 0.1)") for seed in "12"
    ]
    run = read_run(Path(table[0]["run"]))
    network, data = load_network(run, torch.device("cpu")), load_data(run)
    unseen = (data.test_labels != 3) & (data.test_labels != 8)
    features = network.evaluate(data.test_images[unseen], data.test_labels[unseen] * 0).features.double().numpy()
    for name, number in unseen_classes(features, data.test_labels[unseen].numpy()).items():
        assert float(table[0][name]) == pytest.approx(number)
    markdown = (out / "unseen.md").read_text()
    assert markdown in printed
    paired = [(line[0], line[-1]) for line in cells(markdown) if line[1] == "EER (cos)"]
    assert paired == [("softmax + center loss (λ = 0.1) − softmax only (λ = 0)", "2")]


def test_an_epoch_without_evaluation_is_no_table(compared: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"center": [read_run(compared[0] / "runs" / f"center-{seed}") for seed in (1, 2)]}
    assert "after the first epoch" in str(compare.seed_by_seed(rows))
    nothing = [replace(compare.read_epochs(rows["center"][0].path)[0], test_accuracy=float("nan"))]
    monkeypatch.setattr(compare, "read_epochs", lambda _: nothing)  # as with --eval-freq
    assert "after the first epoch" not in str(compare.seed_by_seed(rows))


def test_a_run_that_has_seen_all_digits_needs_no_data_to_be_compared(compared: tuple[Path, str], tmp_path) -> None:
    out, _ = compared
    ordinary = shutil.copytree(out / "runs" / "center-2", tmp_path / "ordinary")
    config = json.loads((ordinary / "config.json").read_text())
    config["dataset"]["unseen"] = []
    (ordinary / "config.json").write_text(json.dumps(config))
    (ordinary / "checkpoint.pt").unlink()
    run_here(compare.main, "--runs", out / "runs" / "center-1", ordinary, "--out", tmp_path / "out")
    assert {row["run"] for row in rows(tmp_path / "out" / "unseen.csv")} == {str(out / "runs" / "center-1")}


def test_started_again_it_trains_what_is_missing_alone(compared: tuple[Path, str]) -> None:
    out, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/config.json")}
    table = (out / "comparison.csv").read_text()
    again = run_here(compare.main, "--seeds", 1, 2, "--out", out, *QUICK)
    assert "4 runs, 4 already trained" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/config.json")} == before
    assert (out / "comparison.csv").read_text() == table


def test_runs_are_compared_without_training(compared: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = compared
    elsewhere = shutil.copytree(out / "runs" / "center-1", tmp_path / "from another machine")
    letters = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / "letters" / "raw" / "t10k-images-idx3-ubyte", letters)
    write_idx(tmp_path / "letters" / "raw" / "t10k-labels-idx1-ubyte", np.arange(50, dtype=np.uint8) % 3)
    stranger = tmp_path / "_\x1b[2J$\\frac![x]"
    write_idx(stranger / "images", letters)
    arguments = ("--runs", elsewhere, "--out", tmp_path / "out", "--unknowns", tmp_path / "letters", stranger)
    (tmp_path / "center-1.out").touch()  # as beside the runs of a comparison
    done = run_here(compare.main, *arguments, "--runs", elsewhere, tmp_path / "center-1.out")
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert r"| _\\x1b\[2J$\\frac\!\[x\]" in (tmp_path / "out" / "open_set.md").read_text()
    (row,) = rows(tmp_path / "out" / "runs.csv")
    (same,) = (run for run in rows(out / "runs.csv") if run["run"].endswith("center-1"))
    assert {**row, "run": ""} == {**same, "run": ""}
    table = rows(tmp_path / "out" / "open_set.csv")
    assert [row["unknown"] for row in table] == [
        name for name in ("unseen classes", "letters", r"_\x1b[2J$\frac![x]") for _ in range(4)
    ]
    told_apart = {row["unknown"]: row for row in rows(tmp_path / "out" / "unseen.csv")}
    assert told_apart.keys() == {"unseen classes", "letters"}, "there are no labels for the others"
    (same,) = (run for run in rows(out / "unseen.csv") if run["run"].endswith("center-1"))
    assert {**told_apart["unseen classes"], "run": ""} == {**same, "run": ""}
    assert not (tmp_path / "out" / "runs").exists()


def test_settings_decide_what_is_reused(compared: tuple[Path, str], tmp_path: Path) -> None:
    path = compared[0] / "runs" / "center-1"
    flags = ["--head", "softmax", "--weight-cent", "0.1", "--seed", "1", *QUICK[1:]]
    assert sweep.is_that_run(path, flags)
    assert is_finished(path)
    for other in (["--seed", "2"], ["--max-epoch", "2"], ["--lr-cent", "0.4"], ["--head", "arcface"], ["-d", "mnist"]):
        assert not sweep.is_that_run(path, [*flags, *other]), other
    everything = [flag for flag in flags if flag not in ("--known-classes", "3", "8")]
    assert not sweep.is_that_run(path, everything)
    assert not sweep.is_that_run(tmp_path, flags)
    wanted = [Wanted("center-1", flags), Wanted("center-1", [*flags, "--max-epoch", "2"])]
    (missing,) = sweep.find(wanted, path.parent, [])
    assert wanted[0].path == path
    assert missing.path == path.parent / "center-1-2"  # the name is taken by a run with other settings


def test_how_a_run_is_computed_decides_too(compared: tuple[Path, str], tmp_path: Path) -> None:
    """A run that was asked for direct convolutions does not stand for one that was not; nor do other threads."""
    path = shutil.copytree(compared[0] / "runs" / "center-1", tmp_path / "center-direct-1")
    config = json.loads((path / "config.json").read_text())
    config["convolutions"] = config["asked"]["convolutions"] = "direct"
    (path / "config.json").write_text(json.dumps(config))
    flags = ["--head", "softmax", "--weight-cent", "0.1", "--seed", "1", *QUICK[1:]]
    wanted = [Wanted("center-fourier-1", flags), Wanted("center-direct-1", [*flags, "--convolutions", "direct"])]
    wanted += [Wanted(f"threads-{n}-1", [*flags, "--set", f"threads={n}"]) for n in (7, 9)]
    missing = sweep.find(wanted, tmp_path, [])
    assert [run.path.name for run in wanted] == ["center-fourier-1", "center-direct-1", "threads-7-1", "threads-9-1"]
    assert missing == [wanted[0], *wanted[2:]]


def test_a_killed_training_is_named(tmp_path: Path) -> None:
    run = Wanted("center-1", [], tmp_path / "center-1")
    run.log.write_text("Batch 900/938\t Loss 0.01")
    assert sweep._reason(run, -9) == f"ended by signal 9 (see {run.log})"


def test_a_run_without_its_last_features_is_trained_again(compared: tuple[Path, str], tmp_path: Path) -> None:
    path = shutil.copytree(compared[0] / "runs" / "center-1", tmp_path / "center-1")
    (path / "features" / "epoch_1.npz").unlink()
    with pytest.raises(UserError, match=r"lacks features/epoch_1\.npz; train the run again, with --overwrite"):
        read_run(path)
    (missing,) = sweep.find([Wanted("center-1", ["--weight-cent", "0.1", *QUICK[1:]])], tmp_path, [])
    assert missing.path == tmp_path / "center-1-2"


def test_a_run_from_elsewhere_outlives_one_of_its_name_that_fails(
    compared: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(compared[0] / "runs" / "center-1", tmp_path / "center-2")  # beside --out
    monkeypatch.setattr(sweep, "train", lambda runs, jobs: {run.path.name: "it failed" for run in runs})
    words = ["--losses", "center", "--seeds", "1", "2", "--out", str(tmp_path / "compare"), *QUICK]
    found, failed = compare.trained_rows(parse_comparison(words))
    assert [run.path for group in found.values() for run in group] == [tmp_path / "center-2"]
    assert failed == {"center-2": "it failed"}


def test_runs_with_equal_settings_are_trained_once(compared: tuple[Path, str], tmp_path: Path) -> None:
    """Whether nothing is there or a part of it, and however a setting came to its value."""
    shutil.copytree(compared[0] / "runs" / "center-1", tmp_path / "center-a-1")
    begun = tmp_path / "center-a-1" / "config.json"
    begun.write_text(json.dumps(json.loads(begun.read_text()) | {"epochs": 2}))
    for folder in (tmp_path, tmp_path / "empty"):
        flags = ["--head", "softmax", "--weight-cent", "0.1", "--seed", "1", *QUICK[1:]]
        wanted = [Wanted("center-a-1", flags), Wanted("center-b-1", [*flags, "--lr-cent", "0.5"])]
        other = Wanted("center-c-1", [*flags, "--lr-cent", "0.4"])
        assert sweep.find([*wanted, other], folder, []) == [wanted[0], other]
        assert [run.path for run in wanted] == [folder / "center-a-1"] * 2
        assert other.path == folder / "center-c-1"


def test_a_film_needs_the_features_of_every_epoch(compared: tuple[Path, str], tmp_path: Path) -> None:
    path = shutil.copytree(compared[0] / "runs" / "center-1", tmp_path / "center-1")
    config = json.loads((path / "config.json").read_text())
    config["settings"]["max_epoch"] = config["epochs"] = 3
    (path / "config.json").write_text(json.dumps(config))
    wanted = Wanted("center-1", ["--weight-cent", "0.1", *QUICK[1:-3], "3", *QUICK[-2:]])
    for kept, flag, taken in (
        (True, ["--plot"], path),
        (True, ["--animate"], path),
        (True, ["--animate", "--plot-freq", "3"], tmp_path / "center-1-2"),  # one frame makes no film
        (False, [], path),
        (False, ["--plot"], tmp_path / "center-1-2"),  # a report would start late
    ):
        if not kept:
            (path / "features" / "epoch_1.npz").unlink(missing_ok=True)
        (missing,) = sweep.find([replace(wanted, flags=[*wanted.flags, *flag])], tmp_path, [])
        assert missing.path == taken


def test_auto_takes_the_small_digits_only_while_there_is_no_mnist(
    compared: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(compared[0] / "runs" / "center-1", tmp_path / "run")
    config = json.loads((path / "config.json").read_text())
    config["asked"]["dataset"] = "auto"
    (path / "config.json").write_text(json.dumps(config))
    flags = ["--weight-cent", "0.1", *QUICK[3:], "--data-root", str(tmp_path)]
    assert sweep.is_that_run(path, flags)
    monkeypatch.setattr("datasets.is_there", lambda name, root: root == tmp_path)
    assert not sweep.is_that_run(path, flags)


def test_a_run_that_fails_does_not_lose_the_others(
    compared: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = tmp_path / "main.py"
    failing.write_text("print('main.py: error: the disk has gone')\nraise SystemExit(2)\n")
    monkeypatch.setattr(sweep, "MAIN", failing)
    monkeypatch.chdir(ROOT)
    out = tmp_path / "compare"
    shutil.copytree(compared[0] / "runs", out / "runs")
    assert compare.main(["--seeds", "1", "9", "--out", str(out), *QUICK]) == 1
    printed = capfd.readouterr()
    assert "softmax-9 failed: main.py: error: the disk has gone (see " in printed.err
    assert "center-9 failed" in printed.err
    assert [row["n"] for row in rows(out / "comparison.csv")] == ["1", "1"]


def test_ended_it_keeps_what_was_trained_and_goes_on_there(tmp_path: Path) -> None:
    out = tmp_path / "compare"
    longer = [*QUICK[:-3], "8", *QUICK[-2:], "--print-freq", "1"]
    arguments = ["--losses", "center", "--out", out, *longer]
    process = started("compare.py", *arguments)
    run = out / "runs" / "center-1"
    wait_until(lambda: epochs_of(run)[0] >= 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Continue with the same command" in errors
    assert not running(str(run))
    assert 1 <= epochs_of(run)[0] < 8
    assert "Interrupted" in run.with_name("center-1.out").read_text()
    again = run_here(compare.main, *arguments)
    assert "1 run, 0 already trained" in again.stdout
    assert "Resuming" in run.with_name("center-1.out").read_text()
    assert is_finished(run)


def test_a_table_of_several_labels_is_one(compared: tuple[Path, str]) -> None:
    """Each line of the open set's has as many cells, else GitHub shows no table but its source."""
    lines = [line for line in (compared[0] / "open_set.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2 * 4
    assert {line.count("|") for line in lines} == {1 + 3 + len(metrics.OPEN_SET) + 1}


def test_open_set_keeps_the_rows_that_variants_name_and_leaves_out_runs_that_were_not_scored(
    compared: tuple[Path, str], tmp_path: Path
) -> None:
    """Two that differ in how they are computed alone have the same settings."""
    one, other, without = (read_run(compared[0] / "runs" / "center-1") for _ in range(3))
    scores = np.arange(9.0)
    scored = [Scored(run, "unseen classes", "max logit", scores, scores > 2, scores - 3) for run in (one, other)]
    compare.write_open_set(tmp_path, scored, {"fourier": [one, without], "direct": [other]})
    assert [row["seed"] for row in rows(tmp_path / "open_set_runs.csv")] == ["1", "1"]
    assert [(row["loss"], row["n"]) for row in rows(tmp_path / "open_set.csv")] == [("fourier", "1"), ("direct", "1")]


def test_a_sweep_over_weights_and_rows_with_names(compared: tuple[Path, str], tmp_path: Path) -> None:
    """Of runs that lie beside --out, and in another comparison there."""
    for name in ("softmax-1", "softmax-2", "center-1", "center-2"):
        shutil.copytree(compared[0] / "runs" / name, tmp_path / ("other/runs" if name[-1] == "2" else "") / name)
    words = ("--weights-cent", 0, 0.1, "--seeds", 1, 2, "--out", tmp_path / "sweep", *QUICK)
    done = run_here(compare.main, *words)
    assert done.stderr == ""
    assert "4 runs, 4 already trained" in done.stdout
    assert (tmp_path / "sweep" / "lambda_sweep.png").stat().st_size > 10_000
    shown = [
        line[1:3] for line in cells((tmp_path / "sweep" / "seeds.md").read_text()) if line[0].startswith("softmax")
    ]
    both = (tmp_path / "softmax-1", tmp_path / "other" / "runs" / "softmax-2")
    accuracies = [f"{read_run(path).accuracy:.2f}" for path in both]
    assert accuracies in shown
    words = ("--variants", "one: ", "other: --lr-cent 0.5", "--out", tmp_path / "variants", *QUICK)
    done = run_here(compare.main, *words)
    assert done.stderr == ""
    assert [row["loss"] for row in rows(tmp_path / "variants" / "comparison.csv")] == ["one", "other"]


def test_a_curve_where_one_number_varies(compared: tuple[Path, str], tmp_path: Path) -> None:
    runs = [read_run(compared[0] / "runs" / f"center-{seed}") for seed in (1, 2) for _ in range(3)]
    for run, rate in zip(runs, [0.1, 0.5, 1.0] * 2, strict=True):
        run.plan = replace(run.plan, settings=replace(run.settings, lr_cent=rate))
        run.numbers = compare.numbers_of(run)
        run.path = Path(shutil.copytree(run.path, tmp_path / f"{rate}-{run.settings.seed}"))
    rows = tables.by_row(runs)
    written = compare.write_comparison(parse_comparison(["--out", str(tmp_path)]), rows)
    written += compare.write_unseen(tmp_path, [(run, "letters", dict.fromkeys(UNSEEN, 2.0)) for run in runs], rows)
    assert {path.name for path in written} >= {"curve.png", "unseen_curve.png", "unseen.png"}
    assert all(path.is_file() for path in written)


@pytest.mark.parametrize(
    ("array", "value"), [("train_features", np.nan), ("train_features", np.inf), ("centers", np.nan)]
)
def test_what_is_not_finite_is_not_scored(compared: tuple[Path, str], array: str, value: float) -> None:
    run = read_run(compared[0] / "runs" / "center-1")
    run.arrays[array][0, 0] = value
    with pytest.raises(UserError, match="has features or centers that are not finite; it cannot be scored"):
        openset.score_runs([run], [], torch.device("cpu"))


def test_more_sets_of_unknown_images_than_there_are_colors(tmp_path: Path) -> None:
    panels = {"run": {"max logit": {str(number): np.arange(5.0) + number for number in range(12)}}}
    plots.histograms(panels, tmp_path / "open_set.png")
    assert (tmp_path / "open_set.png").stat().st_size > 10_000


def test_bad_input_ends_with_one_line_before_training(
    compared: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("cut off", "damaged", "without checkpoint")
    cut_off, damaged, without = (shutil.copytree(compared[0] / "runs" / "center-1", tmp_path / name) for name in names)
    config = json.loads((cut_off / "config.json").read_text())
    (cut_off / "config.json").write_text(json.dumps(config | {"epochs": 2}))
    (damaged / "features" / "epoch_1.npz").write_bytes(b"PK\x03\x04")
    (without / "checkpoint.pt").unlink()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["--runs", tmp_path / "nothing", "--out", tmp_path / "new"], "holds no run"),
        (["--runs", cut_off], "has finished 1 of 2 epochs. Continue with: "),
        (["--runs", damaged], "damaged"),
        (["--runs", without], "no checkpoint here"),
        (["--unknowns", "emnist"], "emnist: neither a folder nor one of mnist, fashion-mnist, kmnist"),
        (["--unknowns", tmp_path / "empty"], "holds no IDX images"),
        (["--out", tmp_path / "file"], "file: cannot be written: File exists; name another folder"),
        (["--out", tmp_path / "link"], "link: is a link that leads nowhere; remove it"),
        (["--out", "/proc", "--runs", compared[0] / "runs" / "center-1"], "/proc: cannot be written: "),
    ):
        assert compare.main(["--out", str(tmp_path / "out"), *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("compare.py: error: ")
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "out" / "runs").exists()
