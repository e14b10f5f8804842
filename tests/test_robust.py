"""A run that is repeated or resumed, gets bad input, or is on a failing machine."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import full_disk, rows, run_main
from test_kill import differences, equal

import datasets
import main
from rundir.checkpoint import Checkpoint, check_same_plan, load_checkpoint
from rundir.directory import Guard, is_being_trained
from training import building, hardware
from training.arguments import parse_arguments
from training.hardware import plan_for

QUICK = ["-d", "mnist5k", "--use-cpu", "--known-classes", "0", "1", "--batch-size", "50", "--max-epoch", "2"]
QUICK += ["--hold-out", "500"]  # 300 images are enough


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    run_main(*QUICK, "--save-dir", path)
    return path


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after its first epoch."""
    path = tmp_path_factory.mktemp("runs") / "begun"
    run_main(*QUICK, "--save-dir", path, "--stop-after", 1)
    return path


def test_same_seed_same_bits_whatever_is_shown(finished: Path, tmp_path: Path) -> None:
    shown = ["--plot", "--plot-freq", 2, "--print-freq", 1, "--eval-freq", 2, "--deterministic", "--animate"]
    run_main(*QUICK, *shown, "--save-dir", tmp_path / "again")
    a, b = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (finished, tmp_path / "again"))
    for name in ("model", "head", "center_loss", "optimizer_model", "optimizer_center"):
        assert equal(a[name], b[name]), name
    assert (finished / "batches.csv").read_text() == (tmp_path / "again" / "batches.csv").read_text()


@pytest.mark.parametrize(
    ("asked", "there", "used"), [("auto", True, "bf16"), ("auto", False, "fp32"), ("bf16", False, "bf16")]
)
def test_threads_and_precision_are_kept_by_resume(
    asked: str, there: bool, used: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with one thread and bf16 continues with them, even if the machine would choose two and float32; without
    bf16 units it needs to have been asked for."""
    path = shutil.copytree(finished, tmp_path / "run")
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    assert state["threads"] == 1
    assert state["settings"]["precision"] in ("bf16", "fp32")
    state["settings"]["precision"], state["asked"]["precision"] = "bf16", asked
    torch.save(state, path / "checkpoint.pt")
    monkeypatch.setattr(hardware, "has_bf16", lambda _: there)
    for module, name in ((main, "plan_for"), (hardware, "choose_precision"), (hardware, "choose_compile")):
        monkeypatch.setattr(module, name, None)  # nothing is decided again
    built, build = [], building.build_trainer
    monkeypatch.setattr(building, "build_trainer", lambda plan, *rest: built.append(plan) or build(plan, *rest))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_main("--resume", path)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert [plan.settings.precision for plan in built] == [used]


def test_threads_that_are_asked_for() -> None:
    cpu = torch.device("cpu")
    assert plan_for(parse_arguments(["--set", "threads=3"]), "mnist", cpu).threads == 3
    assert plan_for(parse_arguments([]), "mnist", cpu).threads == torch.get_num_threads()
    resumed = parse_arguments(["--resume", "run", "--set", "threads=64"])
    assert hardware.plan_from(resumed, parse_arguments([]).plan, cpu).threads == 64


def test_a_compiled_run_goes_on_where_there_is_no_compiler() -> None:
    cpu = torch.device("cpu")
    there = plan_for(parse_arguments(["--compile"]), "mnist", cpu)
    assert (there.compile, there.convolutions) == ("on", "direct")
    for flags, expected in (
        ([], ("on", "direct")),
        (["--compile", "off"], ("off", "fourier")),
        (["--compile", "off", "--convolutions", "direct"], ("off", "direct")),
    ):
        request = parse_arguments(["--resume", "run", *flags])
        check_same_plan(Path("run"), there, request)
        plan = hardware.plan_from(request, there, cpu)
        assert (plan.compile, plan.convolutions) == expected


def test_a_run_goes_on_with_the_threads_that_are_there(begun: Path, tmp_path: Path) -> None:
    path = shutil.copytree(begun, tmp_path / "run")
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    torch.save(state | {"threads": 640}, path / "checkpoint.pt")
    done = run_main("--resume", path)
    assert "Note: the run was made with 640 threads; here it continues with 1" in done.stdout
    assert json.loads((path / "config.json").read_text())["threads"] == 1


def test_data_that_have_moved_are_found_after_a_resume(begun: Path, tmp_path: Path) -> None:
    """config.json names the last place, and there predict.py and compare.py look."""
    path, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(begun, path)
    data.mkdir()
    before = json.loads((path / "config.json").read_text())
    run_main("--resume", path, "--data-root", data)
    after = json.loads((path / "config.json").read_text())
    assert after.pop("data_root") == str(data)
    before.pop("data_root")
    assert after == before


@pytest.mark.cuda
def test_deterministic_on_cuda(tmp_path: Path) -> None:
    flags = ["auto" if flag == "mnist5k" else flag for flag in QUICK if flag != "--use-cpu"]
    for name in "ab":
        run_main(*flags, "--deterministic", "--save-dir", tmp_path / name)
    assert not differences(tmp_path / "a", tmp_path / "b")


def test_best_is_the_best_epoch(finished: Path) -> None:
    accuracies = [float(row["test_accuracy"]) for row in rows(finished / "epochs.csv")]
    best = torch.load(finished / "best.pt", weights_only=True)
    assert best["epoch"] == 1 + int(np.argmax(accuracies))
    assert torch.load(finished / "checkpoint.pt", weights_only=True)["epoch"] == 2


def test_two_processes_do_not_train_in_one_directory(finished: Path, tmp_path: Path) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    with contextlib.closing(Guard(path)):
        for arguments in (["--resume", path], [*QUICK, "--save-dir", path, "--overwrite"]):
            done = run_main(*arguments, status=2)
            assert "another process is at work here" in done.stderr
    assert not differences(finished, path)


def test_a_checkpoint_is_read_when_no_other_process_can_write_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    held = []

    def load(checkpoint: Path) -> Checkpoint:
        held.append(is_being_trained(path))
        return load_checkpoint(checkpoint)

    monkeypatch.setattr(main.checkpoints, "load_checkpoint", load)
    run_main("--resume", path)
    assert held == [True]
    assert not is_being_trained(path)


# ---------------------------------------------------------------- bad input


def zeros(path: Path, shape: tuple[int, ...]) -> Path:
    """Write an IDX file of zeros."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + int(np.prod(shape)))  # a hole in the file: nothing is written
    return path


def damaged(damage: Callable[[Path], object]) -> Callable[[Path, Path], list[object]]:
    """Flags for a data root with MNIST's four files, of which the training images are damaged."""

    def flags(tmp_path: Path, finished: Path) -> list[object]:
        raw = tmp_path / "data" / "MNIST" / "raw"
        for stem in datasets.STEMS:
            count = 60_000 if "train" in stem else 10_000
            zeros(raw / stem, (count, 28, 28) if "images" in stem else (count,))
        damage(raw / "train-images-idx3-ubyte")
        return ["-d", "mnist", "--data-root", tmp_path / "data"]

    return flags


def a_file(tmp_path: Path, name: str = "file") -> Path:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    return tmp_path / name


def a_figure(tmp_path: Path) -> Path:
    """A figure of another program."""
    (tmp_path / "run" / "train").mkdir(parents=True)
    (tmp_path / "run" / "train" / "epoch_1.png").write_bytes(b"mine")
    return tmp_path / "run"


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("evil",)


def resume(make: Callable[[Path, dict[str, object]], None]) -> Callable[[Path, Path], list[object]]:
    """Flags to resume a run whose checkpoint `make` has changed."""

    def flags(tmp_path: Path, finished: Path) -> list[object]:
        shutil.copytree(finished, tmp_path / "run")
        path = tmp_path / "run" / "checkpoint.pt"
        make(path, torch.load(path, weights_only=True))
        return ["--resume", tmp_path / "run"]

    return flags


FLAGS = [  # flags, part of the message
    (["--weight-cent", "-1"], "--weight-cent/--lambda: '-1': must be a number at least 0"),
    (["--weight-cent", "nan"], "'nan': must be a number"),
    (["--weight-cent", "1e300"], "at most 1000000"),
    (["--lr-model", "0"], "must be a number above 0"),
    (["--lr-model", "1e12"], "at most 1000000"),
    (["--lr-cent", "-0.5"], "must be a number at least 0"),
    (["--batch-size", "0"], "must be a whole number at least 1"),
    (["--batch-size", "99999999999"], "at most 1000000"),
    (["--seed", "2147483648"], "at most 2147483647"),
    (["--max-epoch", "null"], "'null': must be a whole number"),
    (["--save-dir", "x" * 300], "File name too long"),
    (["--stepsize", "5", "--set", "warmup=0.5"], "--set warmup needs the one-cycle schedule"),
    (["--gpu", "1", "--device", "cpu"], "--device: not allowed with argument --gpu"),
    (["--max-epoch", "0"], "must be a whole number at least 1"),
    (["--stepsize", "0"], "must be a whole number at least 1"),
    (["--stepsize", "20", "10"], "the values must increase"),
    (["--max-epoch", "none"], "'none': must be a whole number"),
    (["--regions", "--feat-dim", "3"], "--regions needs --feat-dim 2: regions are drawn in a plane"),
    (["--gamma", "0", "--stepsize", "5"], "must be a number above 0"),
    (["--gamma", "1.5", "--stepsize", "5"], "at most 1"),
    (["--feat-dim", "0"], "must be a whole number at least 1"),
    (["--feat-dim", "1000000"], "at most 4096"),
    (["--scale", "0", "--head", "arcface"], "must be a number above 0"),
    (["--margin", "-0.1", "--head", "arcface"], "must be a number at least 0"),
    (["--margin", "0.2"], "belong to --head arcface or cosface"),
    (["--recipe", "accurate", "--head", "softmax", "--margin", "0.2"], "belong to --head arcface or cosface"),
    (["--recipe", "accurate", "--margin", "5"], "cosface takes less than 2; got 5"),
    (["--head", "cosface", "--set", "head_bias=true"], "head_bias=true needs --head softmax"),
    (["--recipe", "accurate", "--set", "head_init=torch"], "head_init=torch needs --head softmax"),
    (["--set", "class_order=similar", "--feat-dim", "3"], "needs --feat-dim 2 and head_init=spread"),
    (["--seed", "-1"], "must be a whole number at least 0"),
    (["--seed", "99999999999"], "must be a whole number at least 0 and at most"),
    (["--gpu", "-2"], "must be a whole number at least -1"),
    (["--gpu", "0,x"], "must be a whole number"),
    (["--gpus", "2"], "did you mean --gpu (several: torchrun"),
    (["--device", "tpu"], "must be cpu, cuda, cuda:INDEX, mps or xpu"),
    (["--lr-model", "0.1", "--set", "lr_model=0.2"], "--lr-model sets it too, leave one of them out"),
    (["--max-epoch", "5", "--set", "max_iterations=100"], "exclude each other: a run has one length"),
    (["--stepsize", "2", "--set", "schedule=one-cycle"], "exclude each other"),
    (["--head", "arcface", "--margin", "3"], "arcface takes radians from 0 to π/2; got 3"),
    (["--head", "cosface", "--margin", "5"], "cosface takes less than 2; got 5"),
    (["--set", "clip"], "must be NAME=VALUE"),
    (["--set", "clipp=1"], "did you mean clip?"),
    (["--set", "foo=1"], "with the name of a setting; training/settings.py holds them all"),
    (["--set", "clip=-1"], "must be a number above 0"),
    (["--set", "schedule=step"], "needs --stepsize and --gamma"),
    (["--set", "feature_prelu=maybe"], "must be true or false"),
    (["--print-freq", "0"], "must be a whole number at least 1"),
    (["--plot-freq", "0"], "must be a whole number at least 1"),
    (["--stop-after", "0"], "must be a whole number at least 1"),
    (["--workers", "-1"], "must be a whole number at least 0"),
    (["--head", "arcfase"], "did you mean arcface?"),
    (["--dataset", "n" * 300], "or a folder with four IDX files"),
    (["--dataset", "fashon-mnist"], "did you mean fashion-mnist?"),
    (["--model", "resnet"], "must be one of lenet++, cnn"),
    (["--precision", "fp8"], "must be one of auto, fp32, tf32, bf16"),
    (["--precision", "tf32", "--use-cpu"], "--precision tf32: NVIDIA GPUs have it"),
    (["--compile", "always"], "must be one of auto, on, off"),
    (["--hold-out", "-1"], "must be a whole number at least 0"),
    (["--center-update", "papers"], "did you mean paper?"),
    (["--weigth-cent", "1"], "did you mean --weight-cent?"),
    (["train"], "unrecognized arguments: train"),
    (["--known-classes"], "expected at least one argument"),
    (["--known-classes", "none"], "'none': must be a whole number"),
    (["--known-classes", "3"], "at least two classes, each once; got 3"),
    (["--known-classes", "3", "10"], "10: mnist has only 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
    (["--resume", "a", "--save-dir", "b"], "leave --save-dir out"),
    (["--resume", "a", "--overwrite"], "exclude each other"),
    (["--save-dir", "", "--overwrite"], "argument --save-dir/--output/--out: names no folder"),
]
FILES = [  # a function from a new folder and a finished run to flags, part of the message
    (lambda tmp, run: ["-d", "auto", "--data-root", a_file(tmp)], "the data root is not a folder"),
    (damaged(lambda file: os.truncate(file, 1_000_000)), "train-images-idx3-ubyte: truncated"),
    (
        damaged(lambda file: zeros(file, (10_000, 28, 28))),
        "train-images-idx3-ubyte: holds (10000, 28, 28), not (60000, 28, 28)",
    ),
    (damaged(lambda file: file.write_bytes(b"GIF89a")), "wrong magic number"),
    (
        damaged(lambda file: (file.unlink(), file.mkdir())),  # not even root can read it
        "train-images-idx3-ubyte: cannot be read: Is a directory",
    ),
    (
        damaged(lambda file: file.rename(f"{file}.gz").write_bytes(b"<html>404</html>")),
        "train-images-idx3-ubyte.gz: not a gzip file",
    ),
    (
        damaged(lambda file: (gz := file.rename(f"{file}.gz")).write_bytes(gzip.compress(gz.read_bytes(), 1)[:-9])),
        "train-images-idx3-ubyte.gz: damaged or truncated gzip file",
    ),
    (damaged(lambda file: None), "train-images-idx3-ubyte: damaged: its MD5 is not mnist's"),
    (lambda *paths: [*damaged(lambda file: None)(*paths), "-d", "auto"], "damaged: its MD5 is not mnist's"),
    (lambda tmp, run: [*QUICK, "--save-dir", a_figure(tmp)], "already holds a run; replace it with --overwrite"),
    (
        lambda tmp, run: [*QUICK, "--hold-out", "4000"],
        "--hold-out 4000: would take 2000 images of class 0, which has 400; one must be left",
    ),
    (lambda tmp, run: [*QUICK, "--save-dir", a_file(tmp)], "is a file, name a folder"),
    (lambda tmp, run: [*QUICK, "--save-dir", "/proc/run"], "/proc/run: cannot be written"),
    (
        lambda tmp, run: [*QUICK, "--save-dir", a_file(tmp, "run/features").parent],
        "features: is a file, but the run writes a folder of this name; remove it",
    ),
    (lambda tmp, run: ["--resume", tmp / "nothing"], "nothing: no such folder"),
    (lambda tmp, run: ["--resume", tmp], "no checkpoint here"),
    (resume(lambda path, state: path.write_bytes(b"garbage")), "damaged or not a checkpoint"),
    (resume(lambda path, state: path.write_bytes(path.read_bytes()[:-5_000])), "damaged or not a checkpoint"),
    (resume(lambda path, state: path.write_bytes(pickle.dumps(Evil()))), "damaged or not a checkpoint"),
    (resume(lambda path, state: torch.save({"evil": Evil()}, path)), "damaged or not a checkpoint"),
    (resume(lambda path, state: torch.save([1, 2], path)), "not a checkpoint of main.py"),
    (
        resume(lambda path, state: torch.save(state | {"format": 99}, path)),
        "has format 99, but this version of main.py reads 4: get a newer one",
    ),
    (
        resume(lambda path, state: torch.save(state | {"format": 2}, path)),
        "was made by an earlier version of main.py; train the run again",
    ),
    (
        resume(lambda path, state: (state["model"].pop("fc.weight"), torch.save(state, path))),
        "the checkpoint does not fit this model",
    ),
    (
        lambda tmp, run: ["--resume", run, "--weight-cent", "0.7", "--seed", "4", "--set", "clip=3"],
        "leave out: --set clip=3.0 (there: 2.0), --seed 4 (there: 1), --weight-cent 0.7 (there: 0.1)",
    ),
    (lambda tmp, run: [*QUICK, "--save-dir", shutil.copytree(run, tmp / "run")], "already holds a run"),
]
BAD = [*FLAGS, *FILES]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("flags", "message"), BAD, ids=[" ".join(flags) if isinstance(flags, list) else said for flags, said in BAD]
)
def test_bad_input(flags, message: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line is said and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    words = flags if isinstance(flags, list) else flags(tmp_path, finished)
    if "--save-dir" not in words and "--resume" not in words:
        words = [*words, "--save-dir", tmp_path / "run"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    errors = run_main(*words, status=2).stderr
    assert message in errors
    assert errors.startswith("main.py: error: ")
    assert len(errors.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# ---------------------------------------------------------------- a failing machine


@pytest.mark.parametrize("what", ["checkpoint.pt", "log_mnist5k.txt", "config.json"])
def test_full_disk_leaves_the_last_checkpoint_intact(begun: Path, finished: Path, tmp_path: Path, what: str) -> None:
    path = shutil.copytree(begun, tmp_path / "run")
    before = (path / "checkpoint.pt").read_bytes()
    limit = 1_000_000 if what == "checkpoint.pt" else (path / what).stat().st_size + 5
    with full_disk(limit):  # a plan that changes makes config.json longer
        done = run_main("--resume", path, *(["--data-root", 20 * "x"] if what == "config.json" else []), status=1)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    name = what.replace("checkpoint", "(best|checkpoint)")
    assert re.match(rf"main\.py: stopped: {path}/(\.partial-\w+-)?{name}: ", done.stderr)
    assert done.stderr.endswith(": File too large\n")
    assert (path / "checkpoint.pt").read_bytes() == before
    assert not list(path.glob(".partial-*"))
    if what == "log_mnist5k.txt":  # incomplete rows are cut off again
        run_main("--resume", path)
        assert not differences(finished, path)
