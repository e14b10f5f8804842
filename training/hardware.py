"""The device of a run, and what is fast there: precision, compilation, convolutions."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from center_loss import CenterLoss
from models.lenet_pp import LeNetPP
from training.arguments import Request
from training.recipes import resolve
from training.settings import CHANGEABLE, Plan, take
from utils import UserError, complain, is_under_torchrun, processes, say, usable_cores

NO_KERNELS = ("no kernel image", "invalid device function", "PTX")  # for this GPU, in this torch
UNTESTED = {"mps": "an Apple GPU", "xpu": "an Intel GPU"}  # nobody has run this code on them


def choose_device(gpu: int | str, use_cpu: bool) -> tuple[torch.device, str]:
    """Return the device and a line for the log. Under torchrun a process uses the GPU of its local rank.

    Args:
        gpu: index of a CUDA device, or ``mps`` or ``xpu``.
        use_cpu: use the CPU, whatever `gpu` is.

    Raises:
        UserError: if there are GPUs, but not that one; see `untested_device` for mps and xpu.
    """
    cpu = torch.device("cpu")
    if use_cpu:
        return cpu, "Currently using CPU"
    if isinstance(gpu, str):
        return untested_device(gpu)
    asked, last = "--gpu", gpu
    if is_under_torchrun():  # all processes of this machine look at its last one: the first says what is wrong
        asked, gpu = "torchrun's local rank", int(os.environ["LOCAL_RANK"])
        last = int(os.environ.get("LOCAL_WORLD_SIZE", gpu + 1)) - 1
    with warnings.catch_warnings(record=True) as said:  # torch warns here if the driver is too old
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    if not found:
        return cpu, f"Currently using CPU ({asked} {gpu}: {why_no_gpu(' '.join(str(one.message) for one in said))})"
    count = torch.cuda.device_count()
    if last >= count:
        raise UserError(f"{asked} {last}: the last CUDA device is number {count - 1}; use it or --use-cpu")
    device = torch.device("cuda", gpu)
    torch.cuda.set_device(device)
    if (reason := why_unusable(device, asked)) is not None:
        name = torch.cuda.get_device_name(device)
        return cpu, f"Currently using CPU ({asked} {gpu}: {name} does not run here: {reason})"
    return device, f"Currently using GPU: {gpu} ({gpu_name(device)})"


def why_no_gpu(said: str) -> str:
    """Return why torch finds no CUDA device, given its warnings, and which other accelerator could be used."""
    kind = "ROCm" if torch.version.hip else "CUDA"
    other = torch.accelerator.current_accelerator()
    idle = ""
    if other is not None and other.type in UNTESTED and torch.accelerator.is_available():
        idle = f"; {UNTESTED[other.type]} is here and unused, --device {other.type} would use it, untested"
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch was built without CUDA, pytorch.org/get-started has others{idle}"
    if old := re.search(r"driver .* too old \(found version (\d+)\)", said):
        supports = f"{int(old[1]) // 1000}.{int(old[1]) % 1000 // 10}"
        return (
            f"the NVIDIA driver is too old, it supports CUDA {supports} and this torch was built for CUDA "
            f"{torch.version.cuda}: update the driver, or install a torch for CUDA {supports}"
        )
    return f"{said.partition(' (Triggered')[0] or f'no {kind} device was found'}{idle}"


def untested_device(name: str) -> tuple[torch.device, str]:
    """Return an Apple or Intel GPU and a line for the log; the CPU if a batch gives other results than on the CPU.

    Raises:
        UserError: if it is not there, or several processes train.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if there is None or there.type != name:
        raise UserError(f"--device {name}: {UNTESTED[name]} was not found by this torch; use --device cpu")
    if processes()[1] > 1:
        raise UserError(f"--device {name}: needs one process; leave torchrun out")
    cpu, device = torch.device("cpu"), torch.device(name)
    try:
        difference = (gradient_of_a_batch(device) - gradient_of_a_batch(cpu)).abs().max().item()
    except RuntimeError as error:  # the device lacks an operator
        return cpu, f"Currently using CPU (--device {name}: {str(error).strip().splitlines()[0]})"
    if not difference < 1e-3:
        return cpu, f"Currently using CPU (--device {name}: a batch differs by {difference:.1e} from the CPU's)"
    return device, f"Currently using {UNTESTED[name]} (--device {name}, untested; a batch gave the results of the CPU)"


def gradient_of_a_batch(device: torch.device) -> Tensor:
    """Return features, loss and gradients for a batch of noise, in one vector on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, center_loss = LeNetPP(), CenterLoss(10, 2)
        images, labels = torch.randn(32, 1, 28, 28).to(device), torch.arange(32).to(device) % 10
    features = model.to(device)(images)
    loss = F.cross_entropy(features, labels % 2) + center_loss.to(device)(features, labels)
    gradients = torch.autograd.grad(loss, [*model.parameters(), *center_loss.parameters()])
    return torch.cat([one.detach().float().flatten().cpu() for one in (features, loss, *gradients)])


def why_unusable(device: torch.device, asked: str) -> str | None:
    """Return why a GPU computes nothing with this torch, or None: torch finds GPUs for which it was built without
    kernels, and they fail at the first operator.

    Raises:
        UserError: if it fails for another reason, as when another program has it; `asked` is how it was chosen.
    """
    try:
        (torch.ones(2, device=device) + 1).sum().item()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if any(words in reason for words in NO_KERNELS):
            return reason
        line = f"{asked} {device.index}: {reason}; free the GPU, or use another or --use-cpu"
        if processes()[0]:  # of several processes only the first is heard
            complain(f"process {processes()[0]}: {line}")
        raise UserError(line) from None
    return None


def gpu_name(device: torch.device) -> str:
    """Return a GPU's name, its memory and the CUDA or ROCm version of this torch."""
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    version = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return f"{torch.cuda.get_device_name(device)}, {memory:.0f} GiB, {version}"


def make_deterministic() -> None:
    """Let CUDA use only deterministic kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # No operator here reads memory before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Return ``fp32``, ``tf32`` or ``bf16`` and why; ``auto`` is bf16 if the hardware computes it natively.

    Raises:
        UserError: for tf32 on a device without it, and for tf32 and bf16 on an untested one.
    """
    if device.type in UNTESTED and wanted not in ("auto", "fp32"):
        raise UserError(f"--precision {wanted}: --device {device.type} has only fp32")
    if wanted == "tf32" and not has_tf32(device):
        raise UserError("--precision tf32: NVIDIA GPUs have it, from Ampere on; use fp32, bf16 or auto")
    if wanted != "auto":
        return wanted, "as asked for"
    if device.type in UNTESTED:
        return "fp32", "this device is untested"
    here = "this GPU" if device.type == "cuda" else "this processor"
    if has_bf16(device):
        return "bf16", f"{here} computes it natively"
    return "fp32", f"{here} is not known to compute bf16 natively"


def has_bf16(device: torch.device) -> bool:
    """Return whether torch knows that the hardware computes bf16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def has_tf32(device: torch.device) -> bool:
    """Return whether the device computes TF32."""
    return device.type == "cuda" and torch.cuda.is_tf32_supported()


def precision_here(precision: str, device: torch.device) -> tuple[str, str | None]:
    """Return the precision in which this device evaluates or resumes a run made in `precision`, and a line if they
    differ: without the hardware bf16 is slow, and tf32 does not exist."""
    if {"bf16": has_bf16(device), "tf32": has_tf32(device)}.get(precision, True):
        return precision, None
    return "fp32", f"Note: the run was made in {precision}, which this device does not have: float32 is used"


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Return the context of a forward pass in this precision; on CUDA, switch TF32 in float32 convolutions."""
    if device.type == "cuda":  # torch's own default is tf32
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if precision != "bf16":
        return contextlib.nullcontext
    return functools.partial(torch.autocast, device.type, torch.bfloat16)


def choose_compile(wanted: str, device: torch.device) -> tuple[str, str]:
    """Return ``on`` or ``off`` and why; ``auto`` is off, since no measured machine was faster with torch.compile
    (benchmarks/results/train_cpu.txt).

    Raises:
        UserError: for ``on`` on an untested device.
    """
    if wanted == "on" and device.type in UNTESTED:
        raise UserError(f"--compile on: leave it out with --device {device.type}")
    if wanted != "auto":
        return wanted, "as asked for"
    return "off", "not yet measured on GPUs" if device.type != "cpu" else "no faster on the CPU that was measured"


def choose_convolutions(wanted: str, device: torch.device, compile: str) -> tuple[str, str]:
    """Return ``direct`` or ``fourier`` and why; ``auto`` is fourier on CPUs: it was faster on every measured
    processor (docs/speed.md).

    Raises:
        UserError: for fourier on a GPU or with torch.compile.
    """
    if wanted == "fourier" and device.type != "cpu":
        raise UserError("--convolutions fourier: works only on CPUs; use direct or auto, or --use-cpu")
    if wanted == "fourier" and compile == "on":
        raise UserError("--convolutions fourier: does not work with --compile on; use direct or auto")
    if wanted != "auto":
        return wanted, "as asked for"
    if device.type != "cpu":
        return "direct", "fourier is only for CPUs"
    return ("direct", "torch.compile needs them") if compile == "on" else ("fourier", "faster on CPUs")


def plan_for(request: Request, dataset: str, device: torch.device) -> Plan:
    """Return the plan of a new run on a data set, with everything decided that was left to the run, and why.

    Raises:
        UserError: for something that this device does not have.
    """
    plan, asked_dataset = request.plan, request.plan.settings.dataset
    settings = resolve(plan.settings, request.by_hand, dataset)
    precision, why_precision = choose_precision(settings.precision, device)
    plan = replace(
        plan,
        settings=replace(settings, precision=precision),
        threads=plan.threads or torch.get_num_threads(),
        asked={"precision": settings.precision, "dataset": asked_dataset},
        why={"precision": why_precision},
    )
    return with_arithmetic(plan, {"compile": plan.compile, "convolutions": plan.convolutions}, device)


def with_arithmetic(plan: Plan, asked: dict[str, str], device: torch.device) -> Plan:
    """Return the plan with compilation and convolutions, as asked for, decided for this device, and why."""
    compile_, why_compile = choose_compile(asked["compile"], device)
    convolutions, why_convolutions = choose_convolutions(asked["convolutions"], device, compile_)
    why = {**plan.why, "compile": why_compile, "convolutions": why_convolutions}
    return replace(plan, compile=compile_, convolutions=convolutions, asked={**plan.asked, **asked}, why=why)


def plan_from(request: Request, plan: Plan, device: torch.device) -> Plan:
    """Return the plan of a resumed run: its own, except for `CHANGEABLE` settings given by hand, and no more threads
    than this machine has.

    Raises:
        UserError: for --regions if the features do not have two dimensions, and for what this device does not have.
    """
    there, names = plan, ("compile", "convolutions")
    plan = take(plan, request.plan, request.by_hand & {*CHANGEABLE})
    if not request.by_hand.isdisjoint(names):
        asked = {name: str((request.plan if name in request.by_hand else there).asked_for(name)) for name in names}
        plan = with_arithmetic(plan, asked, device)
    if plan.regions and plan.settings.feat_dim != 2:
        count = plan.settings.feat_dim
        raise UserError(f"--regions needs two features; {request.resume} has {count}: leave it out")
    here = max(usable_cores(), torch.get_num_threads())
    if plan.threads is not None and plan.threads > here and "threads" not in request.by_hand:
        say(f"Note: the run was made with {plan.threads} threads; here it continues with {torch.get_num_threads()}")
        plan = replace(plan, threads=torch.get_num_threads())
    return plan


def compiled(features: Callable[[Tensor], Tensor], batch_size: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the same function of images, compiled for batches of this size, on a GPU as CUDA graphs. An epoch's last,
    smaller batch is not worth a compilation."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it complains if there is no CUDA
    mode = "reduce-overhead" if device.type == "cuda" else None
    fast = torch.compile(features, dynamic=False, mode=mode)
    return lambda images: fast(images) if len(images) == batch_size else features(images)
