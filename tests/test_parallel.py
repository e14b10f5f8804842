"""Two processes train like one, and end together."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_main, running, wait_until
from parallel_worker import train_both_recipes

from utils import TORCHRUN as TORCHRUN_SETS
from utils import UserError, run_command

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SHORT = ["-d", "mnist5k", "--use-cpu", "--batch-size", "128", "--precision", "fp32"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False
    )


@pytest.mark.slow
def test_twenty_steps_in_float64_are_those_of_one_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = run([*TORCHRUN, str(ROOT / "tests" / "parallel_worker.py"), str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr
    train_both_recipes(tmp_path / "one")
    for recipe in ("default", "reference"):
        one, two = (torch.load(tmp_path / name / recipe, weights_only=True) for name in ("one", "two"))
        torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-6, atol=0)
        for part in ("model", "head", "center_loss"):
            for key, value in one[part].items():
                torch.testing.assert_close(two[part][key], value, rtol=1e-6, atol=1e-9)
        assert one["losses"].std() > 0.01


@pytest.mark.slow
def test_an_epoch_of_digits_by_two_processes(tmp_path: Path) -> None:
    accuracy = {}
    gentle = "--max-epoch 1 --batch-size 64 --lr-model 0.02 --known-classes 0 1 3 6".split()
    gentle += "--set head_init=spread center_init=head center_hold=0.25 warmup=0.2".split()  # learns fast at that rate
    for name in ("one", "two"):
        words = [*SHORT, "--save-dir", str(tmp_path / name), *gentle]
        done = run_main(*words) if name == "one" else run([*TORCHRUN, "main.py", *words])
        assert done.stdout.count("Accuracy (%)") == 1  # only one process prints
        accuracy[name] = float(re.search(r"Accuracy \(%\): ([\d.]+)", done.stdout)[1])
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    assert json.loads((tmp_path / "two" / "config.json").read_text())["processes"] == 2
    assert abs(accuracy["one"] - accuracy["two"]) <= 0.5
    assert accuracy["one"] > 90

    # Two processes resume a run of one process.
    done = run([*TORCHRUN, "main.py", "--resume", str(tmp_path / "one")])
    assert done.returncode == 0, done.stderr
    assert "already finished" in done.stdout


@pytest.mark.parametrize(("rank", "said"), [(0, "main.py: error: no such run\n"), (1, "")])
def test_only_the_first_process_says_what_is_wrong(
    rank: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise UserError("no such run")

    for name, value in zip(TORCHRUN_SETS, (rank, 2, rank, "127.0.0.1", 29500), strict=True):
        monkeypatch.setenv(name, str(value))
    assert run_command("main.py", fail) == 2
    assert capsys.readouterr().err == said

    def interrupt() -> int:
        raise KeyboardInterrupt("Continue with: …")

    assert run_command("main.py", interrupt) == 130
    assert capsys.readouterr().err == ("" if rank else "\nInterrupted. Continue with: …\n")


@pytest.mark.slow
def test_bad_input_is_said_once(tmp_path: Path) -> None:
    done = run([*TORCHRUN, "main.py", *SHORT, "--resume", str(tmp_path)])
    assert done.returncode != 0
    assert done.stderr.count("no checkpoint here") == 1
    assert done.stderr.count("main.py: error:") == 1


def test_a_process_that_dies_ends_the_job(tmp_path: Path) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to find the second process")
    path = tmp_path / "run"
    command = [*TORCHRUN, "main.py", *SHORT, "--max-epoch", "500", "--save-dir", str(path), "--known-classes", "0", "1"]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((path / "checkpoint.pt").exists, job)
    (second,) = running(str(path), "RANK=1")
    os.kill(second, signal.SIGKILL)
    _, errors = job.communicate()  # would wait for ever if the job did not end
    assert job.returncode != 0
    assert 'main.py", line' not in errors  # no traceback from our code
    run_main("--resume", path, "--stop-after", 1)
