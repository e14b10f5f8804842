"""The work for a GPU, on a machine without one (see pretended_cuda.py).

These tests find tensors on the wrong device, and operations that make the host wait. They do not test what a kernel
computes, or how fast.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import spawn
from pretended_cuda import Watch, pretended_cuda
from torch import Tensor
from torch.utils._pytree import tree_flatten

import main
from analysis.page import network_of
from analysis.reader import Calibration, Reader
from center_loss import CenterLoss
from datasets import Digits
from rundir import checkpoint
from rundir.log import RunLog, read_epochs
from rundir.run import read_run
from training import hardware
from training.arguments import parse_arguments
from training.building import Training, build_training
from training.hardware import choose_device, plan_for
from training.parallel import Group
from training.recipes import resolve
from training.settings import Plan
from utils import ROOT, UserError

RUNS = (
    "",
    "--weight-cent 0 --known-classes 2 4 5 7 8 9 0 1",
    "--recipe reference",
    "--recipe paper",
    "--head arcface --precision tf32",
    "--center-update gradient --precision fp32",
    "--feat-dim 3 --deterministic",
    "--recipe accurate",
)


def prepared(flags: str, stack: Any) -> tuple[Plan, Training, Watch]:
    """Return a plan and its training on the pretended GPU, which ends with `stack`: black images, labels in turn."""
    request = parse_arguments(["-d", "mnist", "--max-epoch", "2", "--print-freq", "2", *flags.split()])
    settings = resolve(request.plan.settings, request.by_hand, "mnist")
    train, test = ((torch.zeros(n, 28, 28, dtype=torch.uint8), torch.arange(n) % 10) for n in (200, 2_100))
    whole = Digits("mnist", tuple(range(10)), *train, *test, {})
    data, _, _ = whole.for_training(settings.known_classes, settings.hold_out)  # on real tensors
    watch = stack.enter_context(pretended_cuda())
    device, line = choose_device(0, use_cpu=False)
    assert line == f"Currently using GPU: 0 (a pretended GPU, 80 GiB, CUDA {torch.version.cuda})"
    plan = plan_for(request, "mnist", device)
    plan = replace(plan, settings=replace(plan.settings, known_classes=None, hold_out=0))
    return plan, build_training(plan, data, Group(device)), watch


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    if not torch.backends.cuda.is_built():
        pytest.skip("this torch was built without CUDA, its autograd knows no such device")
    deterministic = torch.are_deterministic_algorithms_enabled()
    with contextlib.ExitStack() as entered:
        yield entered
    torch.use_deterministic_algorithms(deterministic)


def save(state: dict[str, Any], *paths: Path) -> None:
    """Read every tensor like torch.save."""
    for value in tree_flatten(state)[0]:
        if isinstance(value, Tensor):
            value.cpu()


@pytest.mark.parametrize("flags", RUNS)
def test_a_run(flags: str, tmp_path: Path, stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, training, watch = prepared(flags, stack)
    for module in (training.trainer.model, training.trainer.head, training.trainer.center_loss):
        assert {parameter.device.type for parameter in module.parameters()} == {"cuda"}

    # Step by step: the host never waits, and no tensor is on the wrong device.
    steps = training.steps(1)[0]
    next(steps)
    watch.events.clear()
    next(steps)
    assert watch.events == []
    for _ in steps:  # the last, smaller batch too
        pass
    assert watch.events == []

    # A whole run: the host reads every --print-freq batches, at an evaluation, and to save.
    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    log = RunLog(tmp_path, "mnist")
    main.train_epochs(plan, training, tmp_path, log, None, ())
    log.close()
    assert [row.epoch for row in read_epochs(tmp_path)][-1] == training.epochs
    assert not {"CPU operand", "mask", "random"} & set(watch.kinds())


def test_predict_and_scoring(tmp_path: Path, stack: Any) -> None:
    """predict.py and compare.py read a GPU a few times for all images; no tensor is on the wrong device."""
    _, training, watch = prepared("", stack)
    reader = Reader.__new__(Reader)
    reader.device, reader.network = training.data.test_labels.device, training.trainer
    reader.classes, reader.centers, reader.threshold = np.arange(10), np.zeros((10, 2), np.float32), 1.0
    watch.events.clear()
    assert len(reader.read(np.zeros((30, 28, 28), np.uint8))) == 30
    assert not {"CPU operand", "mask", "random"} & set(watch.kinds())
    assert watch.kinds()["copy to the device"] == 1
    assert watch.kinds()["read"] < 30
    record = read_run(ROOT / "models" / "shipped" / "center")
    reader.reject, reader.calibration = 1.0, Calibration("", True, [1.0])
    assert len(network_of(record, reader)["head"]) == 10
    assert not {"CPU operand", "mask", "random"} & set(watch.kinds())


class Doubled(torch.autograd.Function):
    """A formula in Python that brings its own number from the CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.full((len(gradient), 1), 2.0)


BUGS: dict[str, Callable[[Tensor], Tensor]] = {  # what happens to the features, (B, 2)
    "a formula with a number from the CPU": Doubled.apply,
    "an index on the CPU": lambda features: features[torch.arange(len(features))],
    "a mask": lambda features: F.pad(features[features[:, 0] > 9], (0, 0, 0, len(features)))[: len(features)],
    "an item": lambda features: features * float(features[0, 0].item()),
    "NumPy": lambda features: features + float(features.detach().numpy().mean()),
    "a number from the CPU": lambda features: features + torch.zeros(len(features), 2),
    "random numbers": lambda features: features + torch.randn_like(features),
}


@pytest.mark.parametrize("bug", [*BUGS, "a loss on the CPU"])
def test_it_finds_bugs_that_are_put_in(bug: str, stack: Any) -> None:
    _, training, watch = prepared("", stack)
    trainer = training.trainer
    if bug in BUGS:
        inner = trainer.forward
        trainer.forward = lambda images: BUGS[bug](inner(images))
    else:
        trainer.center_loss.to("cpu")
    watch.events.clear()
    try:
        for _ in itertools.islice(training.steps(1)[0], 1):
            pass
    except (RuntimeError, TypeError, ValueError, torch._subclasses.fake_tensor.DynamicOutputShapeException):
        return  # the error of a GPU, or of a shape that depends on values
    assert watch.events


def test_sparse_centers(stack: Any) -> None:
    watch = stack.enter_context(pretended_cuda())
    loss = CenterLoss(10, 2, sparse=True).to("cuda")
    features, labels = (
        torch.zeros(64, 2, device="cuda", requires_grad=True),
        torch.zeros(64, dtype=torch.long, device="cuda"),
    )
    watch.events.clear()
    loss(features, labels).backward()
    assert watch.events == []
    assert loss.centers.grad.device.type == "cuda"


def test_evaluation_reads_twice(tmp_path: Path, stack: Any) -> None:
    """It reads the loss and the accuracy; the features stay on the device until they are saved."""
    _, training, watch = prepared("", stack)
    watch.events.clear()
    found = training.trainer.evaluate(training.data.test_images, training.data.test_labels)
    assert watch.kinds() == {"read": 2}
    assert found.features.device.type == "cuda"


@pytest.mark.parametrize(
    ("cuda", "hip", "warned", "said"),
    [
        ("13.0", None, "", "no CUDA device was found"),
        (None, "7.1", "", "no ROCm device was found"),
        (None, None, "", "this torch was built without CUDA, pytorch.org/get-started has others"),
        (
            "13.0",
            None,
            "CUDA unknown error, set up it (Triggered internally at x.cpp:9.)",
            "CUDA unknown error, set up it",
        ),
        (
            "13.0",
            None,
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). Please update",
            "the NVIDIA driver is too old, it supports CUDA 12.2 and this torch was built for CUDA 13.0: "
            "update the driver, or install a torch for CUDA 12.2",
        ),
    ],
)
def test_why_there_is_no_gpu(
    cuda: str | None, hip: str | None, warned: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_available() -> bool:
        if warned:
            warnings.warn(warned, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert choose_device(3, False) == (torch.device("cpu"), f"Currently using CPU (--gpu 3: {said})")


def test_an_apple_gpu_is_taken_when_asked_for_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an Apple GPU: the messages, and that a device with wrong results is not used."""
    with pytest.raises(UserError, match="--device mps: an Apple GPU was not found"):
        choose_device("mps", False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(0, False)[1].endswith("an Apple GPU is here and unused, --device mps would use it, untested)")
    device, line = choose_device("mps", False)
    assert device.type == "cpu"
    assert line.startswith("Currently using CPU (--device mps: ")
    for computed, type_ in ((torch.ones(3), "mps"), (torch.ones(3) + 0.01, "cpu"), (torch.ones(3) * torch.nan, "cpu")):
        answers = iter([computed, torch.ones(3)])
        monkeypatch.setattr(hardware, "gradient_of_a_batch", lambda device, answers=answers: next(answers))
        assert choose_device("mps", False)[0].type == type_
    mps = torch.device("mps")
    assert hardware.choose_precision("auto", mps)[0] == "fp32"
    assert hardware.choose_convolutions("auto", mps, "off")[0] == "direct"
    for choose in (lambda: hardware.choose_precision("bf16", mps), lambda: hardware.choose_compile("on", mps)):
        with pytest.raises(UserError, match="--device mps"):
            choose()


def test_a_gpu_that_torch_has_no_kernels_for_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with …")
    with mock.patch.object(torch, "ones", side_effect=error):
        device, line = choose_device(0, use_cpu=False)
    assert device.type == "cpu"
    assert line == (
        "Currently using CPU (--gpu 0: an old GPU does not run here: "
        "CUDA error: no kernel image is available for execution on the device)"
    )
    error = RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCompile with …")
    with (
        mock.patch.object(torch, "ones", side_effect=error),
        pytest.raises(UserError, match="--gpu 0: CUDA error: all CUDA-capable devices are busy or unavailable; free"),
    ):
        choose_device(0, use_cpu=False)


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_is_rehearsed(tmp_path: Path) -> None:
    """Two of its parts on the CPU; the others start programs that have tests of their own."""
    only = ["--only", "steps", "accuracy"]
    page = spawn("benchmarks/gpu.py", "--rehearse", "--out", tmp_path, *only).stdout
    assert page == "\n".join((tmp_path / f"{name}.md").read_text() for name in only[1:]) + "\n"
    assert page.count("## ") == 2
    assert page.count("; status 0)") == 2, page
    assert re.search(r"\| 1 \| fp32 \| 9\d\.\d\d ± ", page), page
    assert "| TF32 | --precision tf32: NVIDIA GPUs have it" in page


def test_the_benchmark_for_a_gpu_wants_one(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = spawn("benchmarks/gpu.py", "--out", tmp_path, status=2)
    assert "no CUDA device was found" in done.stderr or "built without CUDA" in done.stderr
