"""Closed terminals, commands at the same time, links, a stranger's texts, full disks, extreme settings."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_DIGITS, full_disk, read_image, run_here, run_main, running, spawn, started, wait_until
from PIL import Image

import compare
import utils
from analysis import draw, sweep
from analysis.comparison import Wanted
from rundir.directory import Guard
from rundir.run import read_run

QUICK = [*TWO_DIGITS, "--batch-size", "100"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs on two digits, with the features of both."""
    path = tmp_path_factory.mktemp("trouble") / "run"
    run_main(*QUICK, "--max-epoch", 2, "--plot", "--save-dir", path)
    return path


# ---------------------------------------------------------------- signals, and commands at the same time


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of this system does not end children")
def test_trainings_end_with_a_comparison_that_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "compare"
    flags = ["--losses", "center", "--out", out, "--", *QUICK, "--max-epoch", "400"]
    process = started("compare.py", *flags)
    trained = out / "runs" / "center-1"
    wait_until((trained / "checkpoint.pt").exists, process)
    process.kill()
    process.communicate()
    while running(str(trained)):
        time.sleep(0.05)
    assert "Interrupted. Continue with" in trained.with_name("center-1.out").read_text()


def test_a_run_that_is_being_trained_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "compare"
    trained = out / "runs" / "center-1"
    trained.mkdir(parents=True)
    trained.with_name("center-1.out").write_text("what it has said so far")
    with contextlib.closing(Guard(trained)):
        failed = sweep.train([Wanted("center-1", ["-d", "mnist5k"], trained)], jobs=1)
    assert failed == {"center-1": f"{trained} is still being trained by another process; wait for it, or end it"}
    assert trained.with_name("center-1.out").read_text() == "what it has said so far"


def test_two_comparisons_are_kept_apart(run: Path, tmp_path: Path) -> None:
    with contextlib.closing(Guard(tmp_path)):
        done = run_here(compare.main, "--runs", run, "--out", tmp_path, status=2)
    assert done.stderr == f"compare.py: error: {tmp_path}: another process is at work here; wait for it, or end it\n"
    begun = shutil.copytree(run, tmp_path / "begun")
    header, first, _ = (run / "epochs.csv").read_text().splitlines()
    (begun / "epochs.csv").write_text(f"{header}\n{first}\n")
    with contextlib.closing(Guard(begun)), pytest.raises(utils.UserError, match="is being trained, epoch 2 of 2"):
        read_run(begun)
    with pytest.raises(utils.UserError, match="has finished 1 of 2 epochs"):
        read_run(begun)


def test_a_signal_that_is_sent_twice_interrupts_once(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)
            raise KeyboardInterrupt("Continue with: x") from None
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert utils.run_command("x.py", work) == 130
    assert "Interrupted. Continue with: x" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="terminals of this system do not hang up")
def test_nohup_is_heard() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        utils.run_command("x.py", lambda: int(signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN))
        assert utils.run_command("x.py", lambda: int(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)) == 1
    finally:
        signal.signal(signal.SIGHUP, before)


TORCH = RuntimeError("[enforce fail at alloc_cpu.cpp:129] DefaultCPUAllocator: can't allocate memory\nmore of it")
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.\nmore of it")
FAILED = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be …")


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        ("main.py", TORCH, "the memory is full; try a smaller --batch-size"),
        ("predict.py", MemoryError(), "the memory is full"),
        ("main.py", GPU, "the GPU's memory is full; try a smaller --batch-size or --use-cpu"),
        ("predict.py", GPU, "the GPU's memory is full; try --use-cpu"),
        ("main.py", FAILED, "the GPU failed: CUDA error: unspecified launch failure; use another or --use-cpu"),
    ],
)
def test_a_full_memory_or_a_failing_gpu_is_one_line(program: str, error: Exception, said: str, capsys) -> None:
    def fail() -> int:
        raise error

    assert utils.run_command(program, fail) == 1
    assert capsys.readouterr().err == f"{program}: stopped: {said}\n"


@pytest.mark.parametrize("words", ["main.py -d mnist5k", "compare.py", "predict.py x.png"])
def test_interrupted_before_it_has_begun(tmp_path: Path, words: str) -> None:
    (tmp_path / "msgspec.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")  # among the first modules
    done = spawn(*words.split(), cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, status=-signal.SIGINT)
    assert done.stderr == ""


def test_interrupted_twice(tmp_path: Path) -> None:
    process = started("main.py", *QUICK, "--max-epoch", 400, "--plot", "--save-dir", tmp_path / "run")
    wait_until((tmp_path / "run" / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"Continue with: {utils.command_line('main.py', '--resume', tmp_path / 'run')}" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_two_trainings_started_at_once_have_a_directory_each(tmp_path: Path) -> None:
    words = [*QUICK, "--max-epoch", 1, "--save-dir", tmp_path / "run"]
    both = [started("main.py", *words) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert "Traceback" not in "".join(errors)
    assert read_run(tmp_path / "run").epochs == 1


# ---------------------------------------------------------------- links, and runs that are only read


def test_what_a_comparison_writes_beside_its_runs_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main.py").write_text("print('trained')")
    monkeypatch.setattr(sweep, "MAIN", tmp_path / "main.py")
    (tmp_path / "keep").write_text("keep me")
    (tmp_path / "center-1.out").symlink_to(tmp_path / "keep")
    assert sweep.train([Wanted("center-1", ["-d", "mnist5k"], tmp_path / "center-1")], jobs=1) == {}
    assert (tmp_path / "keep").read_text() == "keep me"
    assert (tmp_path / "center-1.out").read_text() == "trained\n"


def test_a_finished_run_that_is_resumed_is_only_read(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    with open(path / "batches.csv", "a") as file:
        file.write("a line of mine\n")
    there = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    done = run_main("--resume", path, "--stop-after", 1)
    assert done.stdout.endswith("already finished, after epoch 2\n")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == there


# ---------------------------------------------------------------- a stranger's texts and files


def test_no_html_and_no_escapes_from_a_run(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "a\x1b[2Jb\nc")
    config = json.loads((path / "config.json").read_text())
    config["machine"]["gpu"] = "<script>alert(1)</script>\x1b[2J\n# A heading"
    (path / "config.json").write_text(json.dumps(config))
    done = run_here(compare.main, "--runs", path, "--out", tmp_path / "out")
    written = (tmp_path / "out" / "comparison.md").read_text()
    for text in (done.stdout, done.stderr, written):
        assert "<script>" not in text
        assert "\x1b" not in text
        assert "\n# A heading" not in text
    config["dataset"]["name"] = "<script>"
    (path / "config.json").write_text(json.dumps(config))
    done = run_here(compare.main, "--runs", path, "--out", tmp_path / "out", status=2)
    assert "dataset: name: '<script>': must be one of mnist, " in done.stderr
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_numbers_that_are_no_gray_levels(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40), np.float32)
    pixels[10:30, 15:25] = 3e38
    pixels[0, 0] = -3e38
    Image.fromarray(pixels).save(tmp_path / "float.tiff")
    assert np.isfinite(read_image(tmp_path / "float.tiff")).all()


# ---------------------------------------------------------------- full disks, and extreme settings


@pytest.mark.parametrize(("what", "limit"), [((), 10_000), (("--report",), 300_000)])
def test_a_disk_that_is_full_while_comparing(run: Path, tmp_path: Path, what: tuple[str, ...], limit: int) -> None:
    with full_disk(limit):
        done = run_here(compare.main, "--runs", run, run, "--out", tmp_path / "out", *what, status=1)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"{tmp_path / 'out'}/" in done.stderr
    assert "File too large" in done.stderr
    assert not list((tmp_path / "out").glob(".partial-*"))


@pytest.mark.parametrize(
    ("flags", "name"), [(("--epochs", "2"), "train/epoch_2.png"), (("--animate",), "animation.gif")]
)
def test_a_disk_that_is_full_while_drawing(run: Path, tmp_path: Path, flags: tuple[str, ...], name: str) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    for file in (name, "animation.mp4"):
        (path / file).write_bytes(b"the last one")
    with full_disk(10_000):
        done = run_here(draw.main, path, *flags, status=2)
    assert done.stderr.splitlines() == [f"analysis.draw: error: [Errno 27] File too large: '{path / name}'"]
    assert (path / name).read_bytes() == (path / "animation.mp4").read_bytes() == b"the last one"
    assert not list(path.rglob(".partial-*"))


@pytest.mark.parametrize(
    "flags",
    ["--max-epoch 1000000 --stop-after 1", "--head arcface --scale 1e6 --max-epoch 1"],
)
def test_extreme_settings(tmp_path: Path, flags: str) -> None:
    done = run_main(*QUICK, *flags.split(), "--save-dir", tmp_path / "run")
    assert done.stderr == ""
