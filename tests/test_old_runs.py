"""A run that was made before settings had their present form: compared, predicted with, resumed.

`old_forms/` holds the texts of such a run as they were written; its weights and features are made here.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, RunMain, rows, run_here
from PIL import Image

import compare
import datasets
import predict
from rundir.loading import load_checkpoint
from rundir.reading import read_record
from training.building import build_training
from training.parallel import Group
from training.settings import Choice, Settings

FORMS = ROOT / "tests" / "old_forms"


@pytest.fixture
def begun(mnist5k: datasets.Digits, tmp_path: Path) -> Path:
    """A run of the old form that was stopped after the first of two epochs."""
    path = tmp_path / "begun"
    shutil.copytree(FORMS, path)
    old: dict[str, Any] = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").unlink()
    plan = read_record(path).plan
    training = build_training(plan, mnist5k, Group(torch.device("cpu")))
    for _ in training.steps(1)[0]:
        pass
    state = training.trainer.state_dict()
    torch.save({**state, "random": {"cpu": torch.get_rng_state(), "cuda": []}, **old}, path / "checkpoint.pt")
    keep(path, 1, training, plan.settings)
    return path


def keep(path: Path, epoch: int, training: Any, settings: Settings) -> None:
    """Write the features of an epoch."""
    data, arrays = training.data, {"centers": training.trainer.center_loss.centers.detach().numpy()}
    for part in ("train", "test"):
        found = training.trainer.evaluate(getattr(data, f"{part}_images"), getattr(data, f"{part}_labels"))
        arrays[f"{part}_features"] = found.features.numpy().astype(np.float16)
        arrays[f"{part}_labels"] = found.labels.numpy().astype(np.uint8)
        arrays[f"{part}_predictions"] = found.predictions.numpy().astype(np.uint8)
        arrays[f"{part}_scores"] = found.scores.numpy()
    (path / "features").mkdir(exist_ok=True)
    np.savez_compressed(path / "features" / f"epoch_{epoch}.npz", **arrays)


def test_the_old_form_says_what_the_run_was(begun: Path) -> None:
    for plan in (read_record(begun).plan, load_checkpoint(begun / "checkpoint.pt").plan):
        assert plan.settings == Settings(
            dataset="mnist5k", known_classes=(0, 1), batch_size=100, max_epoch=2, precision="bf16", center_schedule=False
        )  # fmt: skip
        assert plan.execution.convolutions == "direct"  # such a run goes on to its own bits
        assert (plan.execution.compile, plan.execution.cuda_graph, plan.execution.threads) == ("off", "off", 1)
        assert plan.choices["precision"] == Choice("auto", "this processor computes it natively")
        assert plan.asked("dataset") == "mnist5k"


def test_it_goes_on_and_is_then_compared_and_read(begun: Path, run_main: RunMain, tmp_path: Path) -> None:
    before = load_checkpoint(begun / "checkpoint.pt")
    first = (begun / "batches.csv").read_bytes()
    done = run_main("--resume", begun)
    assert done.returncode == 0, done.stderr
    assert "Finished" in done.stdout
    after = load_checkpoint(begun / "checkpoint.pt")
    assert (before.plan, before.epoch, after.epoch) == (after.plan, 1, 2)
    assert (begun / "batches.csv").read_bytes().startswith(first)
    log = (begun / "log_mnist5k.txt").read_text()
    assert log.startswith((FORMS / "log_mnist5k.txt").read_text().partition("==> Epoch 1/2")[0])
    assert re.findall(r"==> Epoch (\d)/2", log) == ["1", "2"]
    assert [row["epoch"] for row in rows(begun / "epochs.csv")] == ["1", "2"]

    done = run_here(compare.main, "--runs", begun, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "softmax + center loss (λ = 0.1)" in done.stdout
    digits = datasets.load("mnist5k", Path("nowhere"))
    picture = Image.fromarray(digits.test_images[(digits.test_labels == 1).nonzero()[3, 0]].numpy()).resize((56, 56))
    picture.save(tmp_path / "one.png")
    done = run_here(predict.main, "--run", begun, tmp_path / "one.png")
    assert done.returncode == 0, done.stderr
    assert "one.png: 1 (" in done.stdout


def test_settings_that_contradict_the_old_run_are_refused(begun: Path, run_main: RunMain) -> None:
    done = run_main("--resume", begun, "--lr-cent", 0.4)
    assert done.returncode == 2
    assert "--lr-cent 0.4 (there: 0.5)" in done.stderr
    assert run_main("--resume", begun, "--precision", "auto", "--stop-after", 1).returncode == 0
