"""Cases of the run directory, logs, checkpoints and drawing that a command line cannot bring about."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import datasets
import utils
from analysis.draw import draw_epoch
from rundir import checkpoint, directory, drawing, events, network, run
from rundir.epoch import Figures
from rundir.features import read_features, save_features
from rundir.log import LossMeter, RunLog, read_epochs
from training import hardware
from training.settings import Plan
from training.trainer import Evaluation
from utils import ROOT, UserError

SHIPPED = ROOT / "models" / "shipped" / "center"


def test_loss_meter_shows_the_current_batch_and_the_running_mean(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "mnist5k")
    meter = LossMeter(log, epoch=1, batches=3, weight_cent=0.5, print_freq=2)
    for loss_xent, loss_center in ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)):
        assert meter.add(0.1, torch.tensor([loss_xent, loss_center]))
    log.close()
    expected = "Batch 2/3\t Loss 5.000000 (3.500000) XentLoss 3.000000 (2.000000) CenterLoss 4.000000 (3.000000)\n"
    assert (tmp_path / "log_mnist5k.txt").read_text() == expected
    assert (tmp_path / "batches.csv").read_text().splitlines()[1:] == [
        "1,1,2,1,2,0.1",
        "1,2,5,3,4,0.1",
        "1,3,8,5,6,0.1",
    ]
    assert meter.mean_loss == 5.0


def test_loss_meter_sees_what_is_not_finite(tmp_path: Path) -> None:
    with contextlib.closing(RunLog(tmp_path, "x")) as log:
        assert read_epochs(tmp_path) == []  # its header is on the disk
        meter = LossMeter(log, 1, 2, 0.5, 50)
        assert meter.add(0.1, torch.tensor([1.0, 1.0]))
        assert not meter.add(0.1, torch.tensor([float("nan"), 1.0]))
        assert len(meter.rows) == 2


def test_resumed_log_is_cut_back_and_never_padded(tmp_path: Path) -> None:
    with contextlib.closing(RunLog(tmp_path, "x")) as log:
        log("kept")
        sizes = log.sizes()
        log("of an epoch that was cut off")
    RunLog(tmp_path, "x", sizes).close()
    assert (tmp_path / "log_x.txt").read_text() == "kept\n"
    (tmp_path / "batches.csv").unlink()
    with pytest.raises(UserError, match=r"batches\.csv: is shorter than when the checkpoint was written"):
        RunLog(tmp_path, "x", sizes)


def test_directories_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [directory.make_run_directory(None, "center", False).directory.name for _ in range(3)]
    assert names == ["center", "center-2", "center-3"]


@pytest.mark.parametrize("save_dir", [None, Path("log"), Path("log/center")])
def test_a_log_that_leads_nowhere_is_named(
    save_dir: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^log: is a link that leads nowhere; remove it, or name another folder"):
        directory.make_run_directory(save_dir, "center", False)


def test_overwrite_removes_the_run_alone(tmp_path: Path) -> None:
    for name in "config.json log_mnist.txt train/epoch_1.png train/.partial-0-x.png train/notes.md thesis.tex".split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    directory.make_run_directory(tmp_path, "center", overwrite=True).close()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".lock", "thesis.tex", "train/notes.md"]


def test_two_runs_never_share_a_directory(mnist5k: datasets.Digits, tmp_path: Path) -> None:
    training = SimpleNamespace(data=mnist5k, epochs=10)
    run.write_config(tmp_path, Plan(), training, [], torch.device("cpu"), 1)
    assert json.loads((tmp_path / "config.json").read_text())["machine"]["threads"] >= 1
    with pytest.raises(UserError, match="another run has just been started here; name another folder"):
        run.write_config(tmp_path, Plan(), training, [], torch.device("cpu"), 1)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_run_has_its_directory_from_the_first_moment(tmp_path: Path, overwrite: bool) -> None:
    with contextlib.closing(directory.make_run_directory(tmp_path, "center", overwrite)):
        assert directory.is_being_trained(tmp_path)
        with pytest.raises(UserError, match="another process is at work here"):
            directory.make_run_directory(tmp_path, "center", overwrite)
    directory.make_run_directory(tmp_path, "center", overwrite).close()


def test_a_run_trained_while_another_was_being_started_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(directory.Guard):
        def __init__(self, path: Path) -> None:
            (path / "config.json").write_text("of the run that was quicker")
            super().__init__(path)

    with monkeypatch.context() as patched:
        patched.setattr(directory, "Guard", Late)
        with pytest.raises(UserError, match="already holds a run"):
            directory.make_run_directory(tmp_path, "center", overwrite=False)
    assert (tmp_path / "config.json").read_text() == "of the run that was quicker"
    assert not directory.is_being_trained(tmp_path)  # the lock was released


def test_an_entry_of_a_checkpoint_that_is_something_else_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    state = torch.load(SHIPPED / "checkpoint.pt", weights_only=True)
    for name, odd in (
        ("sizes", torch.zeros(3)),
        ("tail", torch.zeros(3)),
        ("sizes", {"log": -1, "batches": 0, "epochs": 0}),
        ("sizes", {"log": 0, "batches": 0}),
        ("tail", {"log": "", "batches": "", "epoch": ""}),
        ("best", float("nan")),
        ("epoch", 11),
        ("checksums", [1]),
        ("asked", torch.zeros(3)),
    ):
        torch.save(state | {name: odd}, file)
        with pytest.raises(UserError, match=f"damaged: |{name}: ") as raised:
            checkpoint.load_checkpoint(file)
        assert len(str(raised.value).splitlines()) == 1


def test_figures_are_drawn_from_a_folder_with_modules_of_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SHIPPED, tmp_path / "run")
    (tmp_path / "utils.py").write_text("raise SystemExit('another utils')")
    monkeypatch.chdir(tmp_path)
    complaints: list[str] = []
    with contextlib.closing(drawing.Drawer(Path("run"), complaints.append, draw_epoch)) as drawer:
        drawer.draw(10)
    assert complaints == []
    assert (tmp_path / "run" / "test" / "epoch_10.png").exists()


def test_a_figure_that_cannot_be_drawn_is_logged(tmp_path: Path) -> None:
    path = shutil.copytree(SHIPPED, tmp_path / "run")
    (path / "test").write_text("in the way")
    complaints: list[str] = []
    with contextlib.closing(drawing.Drawer(path, complaints.append, draw_epoch)) as drawer:
        drawer.draw_missing()
    (complaint,) = complaints
    assert complaint.startswith("A figure could not be drawn: ")
    assert (path / "train" / "epoch_10.png").exists()
    assert (path / "test").read_text() == "in the way"


def test_one_figure_at_a_time_while_training_and_all_that_are_left_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawer, asked = drawing.Drawer(tmp_path, print, draw_epoch), []
    busy = SimpleNamespace(done=lambda: False, exception=lambda: None)
    monkeypatch.setattr(drawer.pool, "submit", lambda work, *arguments: asked.append(arguments[-1]) or busy)
    for epoch in (1, 2, 3):
        drawer.draw(epoch)
    assert asked == [1]
    drawer.close()
    assert asked == [1, 2, 3]


def test_a_process_that_was_killed_while_it_drew_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*_: object) -> None:
        raise BrokenProcessPool("a process was terminated abruptly")

    complaints: list[str] = []
    with contextlib.closing(drawing.Drawer(tmp_path, complaints.append, draw_epoch)) as drawer:
        monkeypatch.setattr(drawer.pool, "submit", submit)
        drawer.draw(1)
    assert complaints == ["A figure could not be drawn: a process was terminated abruptly"]


def test_a_name_that_is_no_text_is_logged_and_read_back(tmp_path: Path) -> None:
    with contextlib.closing(RunLog(tmp_path, "mnist5k")) as log:
        log("Run directory: r\udcff")
    assert "Run directory: r\\udcff" in (tmp_path / "log_mnist5k.txt").read_text()
    config = json.loads((shutil.copytree(SHIPPED, tmp_path / "run") / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"command": "main.py --save-dir r\udcff"}))
    assert run.read_run(tmp_path / "run").command == "main.py --save-dir r\udcff"


@pytest.mark.parametrize(("largest", "kept"), [(1.0, np.float16), (1e5, np.float32)])
def test_features_are_kept_in_half_precision_if_they_fit(tmp_path: Path, largest: float, kept: type) -> None:
    """With a margin head alone nothing keeps them small."""
    labels, features = torch.arange(10), torch.full((10, 2), largest)
    found = Evaluation(features, labels, labels, torch.ones(10), 0.0, 10.0)
    save_features(tmp_path, "epoch_1", torch.zeros(10, 2), torch.zeros(10, 3), {}, train=found, test=found)
    arrays = read_features(tmp_path, "epoch_1", 10, 2)
    assert arrays["test_features"].dtype == kept
    assert arrays["test_features"].max() == largest


def test_samples_of_a_large_data_set_are_read(tmp_path: Path) -> None:
    """EMNIST's letters are 88,800."""
    file = shutil.copytree(SHIPPED, tmp_path / "run") / "features" / "epoch_10.npz"
    with np.load(file) as data:
        arrays = dict(data)
    sample = 80_000 + np.arange(len(arrays["train_labels"]))
    np.savez(file, **arrays | {"train_sample": sample})
    assert np.array_equal(run.read_run(tmp_path / "run").arrays["train_sample"], sample)


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Otherwise centers and features would come from two networks."""
    path = tmp_path / "run"
    shutil.copytree(SHIPPED, path)
    config = json.loads((path / "config.json").read_text())
    config["settings"]["seed"] += 1
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is of another run"):
        network.load_network(run.read_run(path), torch.device("cpu"))


def test_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert hardware.choose_device(0, use_cpu=True) == (cpu, "Currently using CPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="--gpu 2: the last CUDA device is number 1; use it or --use-cpu"):
        hardware.choose_device(2, False)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(hardware, "why_unusable", lambda *_: None)
    monkeypatch.setattr(hardware, "gpu_name", lambda device: "a GPU, 80 GiB, CUDA 13.0")
    line = "Currently using GPU: 1 (a GPU, 80 GiB, CUDA 13.0)"
    assert hardware.choose_device(1, False) == (torch.device("cuda", 1), line)
    for name in utils.TORCHRUN:
        monkeypatch.delenv(name, raising=False)  # packages that other tests use may have set it
    for name in utils.TORCHRUN:  # some of its variables are no torchrun
        assert hardware.choose_device(1, False) == (torch.device("cuda", 1), line)
        assert utils.processes() == (0, 1)
        monkeypatch.setenv(name, "4")
    assert utils.processes() == (4, 4)
    with pytest.raises(
        UserError, match="torchrun's local rank 4: the last CUDA device is number 1; use it or --use-cpu"
    ):
        hardware.choose_device(0, False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")  # the first process says it, the others are not heard
    with pytest.raises(UserError, match="torchrun's local rank 2: the last CUDA device is number 1"):
        hardware.choose_device(0, False)
    assert hardware.choose_precision("fp32", cpu) == ("fp32", "as asked for")


def test_tensorboard_counts_the_batches_of_an_epoch_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Caffe example's last epoch is: 151 of 469 batches."""
    written: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *scalar: written.append(scalar), flush=lambda: None, close=lambda: None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=lambda folder: writer))
    log = RunLog(tmp_path, "mnist")
    meter = LossMeter(log, 22, 2, 0.5, 1)
    for _ in range(2):
        assert meter.add(0.1, torch.tensor([1.0, 2.0]))
    training: Any = SimpleNamespace(epoch=22, batches=range(469))
    figures = Figures(tmp_path, Plan(tensorboard=True), log, draw_epoch, draw_epoch)
    figures.add(training, meter, None, last=True)
    figures.close()
    log.close()
    assert [step for name, _, step in written if name == "batch/loss"] == [21 * 469 + 1, 21 * 469 + 2]
    assert [step for name, _, step in written if name == "epoch/train_loss"] == [22]


def test_tensorboard_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="needs the package tensorboard: pip install tensorboard"):
        events.require_tensorboard()


def test_hours() -> None:
    assert utils.hours(3_725.9) == "1:02:05"


def test_auto_compiles_nowhere_so_far() -> None:
    assert hardware.choose_compile("auto", torch.device("cpu")) == ("off", "no faster on the CPU that was measured")
    assert hardware.choose_compile("auto", torch.device("cuda")) == ("off", "not yet measured on GPUs")
    assert hardware.choose_compile("on", torch.device("cpu")) == ("on", "as asked for")


def test_precision_of_a_run_from_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(hardware, "has_bf16", lambda device: False)
    for there in ("bf16", "tf32"):
        precision, note = hardware.precision_here(there, cpu)
        assert precision == "fp32"
        assert note == f"Note: the run was made in {there}, which this device does not have: float32 is used"
    assert hardware.precision_here("fp32", cpu) == ("fp32", None)
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    assert hardware.precision_here("bf16", cpu) == ("bf16", None)


def test_float32_on_gpus_is_set_so_that_it_can_be_read() -> None:
    before = torch.backends.cudnn.allow_tf32
    for precision in ("tf32", "fp32"):
        hardware.autocast(precision, torch.device("cuda"))
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    torch.backends.cudnn.allow_tf32 = before
