"""The command line as a user runs it, on the 5,000 digits."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TWO_DIGITS, rows, run_here, run_main, spawn, started, wait_until
from matplotlib.figure import Figure
from PIL import Image
from test_kill import differences

from analysis.epochs import read_epoch, read_moments
from analysis.plots import COLORS, draw_part
from benchmarks import ship
from rundir.checkpoint import load_checkpoint
from rundir.features import kept_features, read_features, sample_of
from rundir.run import read_run
from training.arguments import parse_arguments
from utils import command_line, run_command

SHORT = ("-d", "mnist5k", "--use-cpu", "--batch-size", 128)


@pytest.fixture(scope="module")
def plotted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two epochs with --animate, which means --plot, and what it printed."""
    path = tmp_path_factory.mktemp("run") / "center"
    done = spawn(
        "main.py", "-d", "mnist5k", "--use-cpu", "--max-epoch", 2, "--animate", "--print-freq", 20, "--save-dir", path
    )
    assert done.stderr == ""
    return path, done.stdout


def test_log_keeps_the_familiar_form(plotted: tuple[Path, str]) -> None:
    path, printed = plotted
    assert (path / "log_mnist5k.txt").read_text() == printed
    number = r"\d+\.\d{6} \(\d+\.\d{6}\)"
    for pattern in (
        r"^Currently using CPU$",
        r"^Creating dataset: mnist5k$",
        r"^Creating model: lenet\+\+",
        r"^Loss = XentLoss \+ 0\.1 \* CenterLoss",
        r"^==> Epoch 1/2$",
        rf"^Batch 20/125\t Loss {number} XentLoss {number} CenterLoss {number}$",
        r"^==> Test$",
        r"^Accuracy \(%\): \d+\.\d\d\t Error rate \(%\): \d+\.\d\d$",
        r"^Finished\. Total elapsed time \(h:m:s\): 0:\d\d:\d\d$",
    ):
        assert re.search(pattern, printed, re.MULTILINE), pattern


def test_csv_rows_agree_with_each_other_and_the_log(plotted: tuple[Path, str]) -> None:
    path, printed = plotted
    batches = rows(path / "batches.csv")
    assert list(batches[0]) == ["epoch", "batch", "loss", "loss_xent", "loss_center", "lr"]
    assert len(batches) == 2 * 125
    for row in batches:
        expected = float(row["loss_xent"]) + 0.1 * float(row["loss_center"])
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-4)
    second = [float(row["loss"]) for row in batches if row["epoch"] == "2"]
    epochs = rows(path / "epochs.csv")
    assert len(epochs) == 2
    assert float(epochs[-1]["test_accuracy"]) > 85
    assert float(epochs[-1]["train_loss"]) == pytest.approx(np.mean(second), rel=1e-4)
    logged = re.search(r"Epoch 2/2\nBatch 20/125\t Loss (\S+) \((\S+)\)", printed)
    assert logged is not None
    assert float(logged[1]) == pytest.approx(second[19], rel=1e-4)
    assert float(logged[2]) == pytest.approx(np.mean(second[:20]), rel=1e-4)


def test_config(plotted: tuple[Path, str]) -> None:
    config = json.loads((plotted[0] / "config.json").read_text())
    assert config["dataset"]["name"] == config["settings"]["dataset"] == "mnist5k"
    assert config["settings"]["weight_cent"] == 0.1
    assert config["settings"]["precision"] in ("fp32", "bf16")
    assert config["versions"]["torch"] == torch.__version__
    assert "main.py -d mnist5k" in config["command"]


def test_features_are_those_of_the_weights_at_the_end(plotted: tuple[Path, str]) -> None:
    path, printed = plotted
    with np.load(path / "features" / "epoch_2.npz") as data:
        assert data["train_features"].shape == (4_000, 2)
        assert data["test_features"].dtype == np.float16
        accuracy = 100 * np.mean(data["test_predictions"] == data["test_labels"])
        centers = data["centers"]
        means = np.stack([data["train_features"][data["train_labels"] == j].mean(axis=0) for j in range(10)])
    assert f"Accuracy (%): {accuracy:.2f}" in printed
    assert np.linalg.norm(means - centers, axis=1).mean() < 0.5 * np.linalg.norm(means, axis=1).mean()
    checkpoint = torch.load(path / "checkpoint.pt", weights_only=True)
    assert np.array_equal(checkpoint["center_loss"]["centers"].numpy(), centers)


def test_before_the_last_epoch_a_sample_stands_for_the_training_set(plotted: tuple[Path, str]) -> None:
    kept = [read_features(plotted[0], f"epoch_{epoch}", 10, 2) for epoch in (1, 2)]
    sample = sample_of(4_000)
    assert np.array_equal(kept[0]["train_sample"], sample)
    assert len(np.unique(sample)) == len(kept[0]["train_features"]) == 1_000
    assert "train_sample" not in kept[1]
    assert np.array_equal(kept[0]["train_labels"], kept[1]["train_labels"][sample])
    assert [len(sample_of(count)) for count in (500, 12_000, 60_000)] == [500, 2_000, 10_000]
    for epoch, title in ((1, "1,000 of 4,000 training images, epoch 1"), (2, "training set, epoch 2")):
        ax = Figure().add_subplot()
        draw_part(ax, read_epoch(plotted[0], epoch), "train")
        assert title in " ".join(ax.get_title().split())


def test_figures_are_drawn_for_every_epoch(plotted: tuple[Path, str]) -> None:
    from matplotlib.image import imread

    for part in ("train", "test"):
        assert sorted(p.name for p in (plotted[0] / part).iterdir()) == [f"epoch_{n}.png" for n in (1, 2)]
        pixels = imread(plotted[0] / part / "epoch_2.png")[..., :3]
        for color in COLORS[:10]:  # every class is there (in its legend entry, opaque, at the least)
            wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
            assert (np.abs(pixels - wanted).max(axis=2) < 0.01).sum() > 20


def test_the_film_shows_the_way_through_the_first_epoch(plotted: tuple[Path, str]) -> None:
    with Image.open(plotted[0] / "animation.gif") as film:
        assert film.n_frames == 9  # seven batches of the first epoch, two epochs
    assert kept_features(plotted[0], "batch") == [1, 2, 4, 8, 16, 32, 64]  # of 125
    early, end = (read_features(plotted[0], name, 10, 2) for name in ("batch_1", "epoch_1"))
    for part in ("train", "test"):
        assert len(early[f"{part}_sample"]) == 1_000
        assert np.array_equal(early[f"{part}_labels"], end[f"{part}_labels"])  # the same images
        accuracy = [np.mean(one[f"{part}_predictions"] == one[f"{part}_labels"]) for one in (early, end)]
        assert accuracy[0] < accuracy[1] - 0.2
    ax = Figure().add_subplot()
    draw_part(ax, next(read_moments(plotted[0], [2], [8])), "train")
    assert "1,000 of 4,000 training images, batch 8 of epoch 1" in " ".join(ax.get_title().split())


def test_a_small_copy_of_a_run_reads_like_the_run(plotted: tuple[Path, str], tmp_path: Path) -> None:
    """The networks that come with the code are such copies."""
    done = run_here(ship.main, plotted[0], tmp_path / "copy")
    assert "half precision, read in float32" in done.stdout
    run, copy = read_run(plotted[0]), read_run(tmp_path / "copy")
    assert load_checkpoint(copy.path / "checkpoint.pt").epoch == run.epochs
    assert np.mean(copy.arrays["test_predictions"] == run.arrays["test_predictions"]) > 0.99
    assert (copy.path / "checkpoint.pt").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    "flags",
    [
        "--known-classes 3 8",
        pytest.param("--known-classes 0 3 4 9 --recipe accurate", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_equals_one_that_was_never_interrupted(tmp_path: Path, flags: str) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = (*SHORT, "--hold-out", 600, "--max-epoch", 2, "--print-freq", 7, *flags.split(), "--seed", 5)
    run_main(*common, "--save-dir", whole, "--plot")
    first = run_main(*common, "--save-dir", parts, "--stop-after", 1)
    assert ("Classes around the circle: 0 3 9 4 (similar)" in first.stdout) == ("accurate" in flags)
    again = command_line("main.py", "--resume", parts, "--use-cpu")  # on the same device
    assert f"Stopped after epoch 1 of 2. Continue with: {again}" in first.stdout
    assert "Finished" not in first.stdout + (parts / "log_mnist5k.txt").read_text()
    with open(parts / "batches.csv", "a") as file:
        file.write("2,1,a row of an epoch that was cut off\n")
    second = run_main("--resume", parts, "-d", "mnist5k", "--plot")
    assert "Resuming" in second.stdout
    assert sorted(p.name for p in (parts / "test").iterdir()) == ["epoch_1.png", "epoch_2.png"]

    assert not differences(whole, parts)


def test_known_classes_keep_their_names(tmp_path: Path) -> None:
    done = run_main(
        *SHORT,
        *"--max-epoch 1 --known-classes 9 2 4 --head arcface --feat-dim 3 --weight-cent 0.01".split(),
        *("--plot", "--model", "cnn", "-j", 4, "--save-dir", tmp_path / "run"),
    )
    assert "no workers are needed" in done.stdout
    assert "1200 training and 300 test images of the classes 2, 4, 9" in done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"]["classes"] == [2, 4, 9]
    with np.load(tmp_path / "run" / "features" / "epoch_1.npz") as data:
        assert data["train_features"].shape == (1_200, 3)
        assert set(data["test_labels"]) == {0, 1, 2}
        assert data["centers"].shape == (3, 3)
    assert (tmp_path / "run" / "test" / "epoch_1.png").stat().st_size > 10_000


def test_words_of_the_widely_copied_repository(tmp_path: Path) -> None:
    """Softmax alone under the reference recipe, one dimension, in a directory that exists."""
    (tmp_path / "notes.txt").write_text("keep me")
    done = run_main(
        *SHORT,
        *"--eval-freq 5 --gpu 0 --recipe reference --weight-cent 0 --max-epoch 1 --feat-dim 1".split(),
        *"--known-classes 0 1 --lr-model 0.001 --lr-cent 0.5 --stepsize 20 --gamma 0.5 --plot --model cnn".split(),
        *("--save-dir", f"{tmp_path}/"),
    )
    assert "Accuracy (%)" in done.stdout  # the last epoch is always evaluated
    assert (tmp_path / "notes.txt").read_text() == "keep me"
    assert (tmp_path / "train" / "epoch_1.png").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_signals_that_end_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("main.py", lambda: signal.raise_signal(getattr(signal, name))) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_divergence_stops_the_run(tmp_path: Path) -> None:
    done = run_main(
        *SHORT,
        *"--max-epoch 2 --known-classes 0 1 --recipe reference --lr-model 1e6 --print-freq 2".split(),
        *("--save-dir", tmp_path / "run"),
        status=1,
    )
    assert re.search(
        r"the loss is not finite at batch \d+ of epoch 1\. Start again with a smaller --lr-model", done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "by_hand"),
    [
        ("--lambda 1", {"weight_cent": 1.0}),
        ("--lr 0.2", {"lr_model": 0.2}),
        ("--learning-rate 0.2", {"lr_model": 0.2}),
        ("--alpha 0.3", {"lr_cent": 0.3}),
        ("--epochs 3", {"max_epoch": 3}),
        ("--batch 32", {"batch_size": 32}),
        ("-d MNIST", {"dataset": "mnist"}),
        ("--set clip=none", {"clip": None}),
        ("--set clip=3 --set shift=0 clip=1", {"clip": 1.0, "shift": 0}),
        ("--set clip=none --set warmup=0.1 shift=0", {"clip": None, "warmup": 0.1, "shift": 0}),
        ("--set known_classes=none", {"known_classes": None}),
        ("--recipe paper --lr-cent 0.5 --plot", {"recipe": "paper", "lr_cent": 0.5, "plot": True}),
    ],
)
def test_what_people_type_is_understood(words: str, by_hand: dict[str, object]) -> None:
    """What they leave out waits for the recipe."""
    request = parse_arguments(words.split())
    assert {name: request.plan.value(name) for name in request.by_hand} == by_hand


def test_devices_in_one_word() -> None:
    for words, gpu, use_cpu, again in (
        (["--device", "cpu"], -1, True, ("--use-cpu",)),
        (["--device", "cuda"], 0, False, ()),
        (["--device", "cuda:1"], 1, False, ("--device", "cuda:1")),
        (["--device", "mps"], "mps", False, ("--device", "mps")),
        (["--cpu"], 0, True, ("--use-cpu",)),
        (["--gpu", "-1"], -1, True, ("--use-cpu",)),
        (["--gpu", "1,2"], 1, False, ("--device", "cuda:1")),
    ):
        request = parse_arguments(words)
        assert (request.gpu, request.use_cpu, request.device_flags) == (gpu, use_cpu, again)
    assert "torchrun --nproc-per-node=2 main.py" in request.notes[0]


@pytest.mark.parametrize("program", ["main.py", "compare.py", "predict.py"])
def test_version(program: str) -> None:
    done = spawn(program, "--version")
    assert done.stdout.startswith(f"{program} ")
    assert f'version = "{done.stdout.split()[1]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("program", ["main.py", "compare.py", "predict.py"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_help_is_quick_because_torch_is_not_imported_and_prints_anywhere(program: str, encoding: str) -> None:
    env = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPROFILEIMPORTTIME": "1"}
    done = spawn(program, "--help", env=env, encoding=encoding)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not {"torch", "numpy"} & imported
    assert "--help" in done.stdout


def test_a_command_runs_in_any_thread(tmp_path: Path) -> None:
    """As in a server; signals are then the server's to hear. Its figures are drawn by other processes."""
    import main

    found: list[int] = []
    flags = [*TWO_DIGITS, "--max-epoch", "1", "--plot", "--save-dir", str(tmp_path / "run")]
    thread = threading.Thread(target=lambda: found.append(main.main(flags)))
    thread.start()
    thread.join()
    assert found == [0]
    assert (tmp_path / "run" / "test" / "epoch_1.png").exists()


@pytest.mark.parametrize("as_module", [False, True])
def test_a_script_may_call_it_without_a_guard(as_module: bool, tmp_path: Path) -> None:
    """The processes that draw do not run the script again."""
    flags = [*TWO_DIGITS, "--max-epoch", "1", "--plot", "--save-dir", str(tmp_path / "run")]
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport main\nprint('once')\nmain.main({flags!r})\n"
        "assert 'torchvision' not in sys.modules  # it is imported only for downloads\n"
    )
    command = [sys.executable, *(["-m", "script"] if as_module else [script])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("once") == 1
    assert "could not be drawn" not in done.stdout
    assert (tmp_path / "run" / "test" / "epoch_1.png").exists()


def test_an_isolated_python_without_streams(tmp_path: Path) -> None:
    """With PYTHONSAFEPATH=1 the folder of the command is not among the places of modules."""
    command = shlex.join([sys.executable, str(ROOT / "main.py"), *TWO_DIGITS, "--max-epoch", "1", "--save-dir", "run"])
    env = os.environ | {"PYTHONSAFEPATH": "1"}
    done = subprocess.run(["sh", "-c", f"exec {command} 1>&- 2>&-"], cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0
    assert "Finished" in (tmp_path / "run" / "log_mnist5k.txt").read_text()


def test_a_process_that_waits_for_others_ends_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = os.environ | dict(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    process = started("main.py", *SHORT, "--save-dir", tmp_path / "run", env=env)
    listening = [Path(f"/proc/{process.pid}/net/{name}") for name in ("tcp", "tcp6")]
    wait_until(lambda: any(f":{port:04X} " in one.read_text() for one in listening if one.exists()), process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
