"""Every Python block of the documentation runs as it stands."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

import predict
from analysis.comparison import parse_comparison
from center_loss import CenterLoss
from training.arguments import parse_arguments


def guest_of(code: str) -> str:
    """Return the package that a block of the documentation is about, or ""."""
    return "".join(name for name in GUESTS if re.search(rf"^(import|from) {name}\b", code, re.M))


GUESTS = ("timm", "pytorch_lightning", "transformers", "accelerate")  # packages of some recipes
BLOCKS = [
    pytest.param(code, id=f"{name}-{number}", marks=[pytest.mark.slow] if guest_of(code) else [])
    for name in ("README.md", "docs/using_center_loss.md")
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.S | re.M), 1)
]
assert len(BLOCKS) >= 10


@pytest.mark.parametrize("code", BLOCKS)
def test_block_runs(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if guest_of(code):
        run_as_a_guest(code, tmp_path)
    else:
        exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})


def run_as_a_guest(code: str, folder: Path) -> None:
    """Run a block in a process of its own, beside a copy of center_loss.py alone."""
    if importlib.util.find_spec(guest_of(code)) is None:
        pytest.skip(f"{guest_of(code)} is not installed")
    shutil.copy(ROOT / "center_loss.py", folder)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and "torchvision" in done.stderr:
        pytest.skip(f"{guest_of(code)} needs a torchvision that fits this torch")
    assert done.returncode == 0, done.stderr


B, C = 6, 4
CONVENTIONS = {  # by the table's first column: the center loss, one sample after the other, and the cross-entropy's sum
    "the widely copied file": (lambda gaps: sum(gap @ gap for gap in gaps) / B, "mean"),
    "the paper": (lambda gaps: sum(gap @ gap for gap in gaps) / 2, "sum"),
    "the Caffe example": (lambda gaps: sum(gap @ gap for gap in gaps) / 2 / B, "mean"),
    "pytorch-metric-learning 3": (lambda gaps: sum(gap @ gap for gap in gaps) / 2, "mean"),
    "pytorch-ood 0.4": (lambda gaps: sum(gap @ gap for gap in gaps) / (B * C), "mean"),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_lambda_is_carried_over(name: str) -> None:
    """Each line of the page's table: features are pulled as there, relative to the cross-entropy."""
    _, page = (ROOT / "docs/using_center_loss.md").read_text().split("So, to carry values over")
    (line,) = re.findall(rf"^\| {re.escape(name)} \| ([^|]*) \| ([^|]*) \|", page, re.M)
    generator = torch.Generator().manual_seed(0)
    weight, labels = torch.randn(C, 3, generator=generator), torch.randint(0, C, (B,), generator=generator)
    centers = torch.randn(C, 3, generator=generator)
    features = torch.randn(B, 3, generator=generator)

    def pull(center: Callable[[torch.Tensor], torch.Tensor], reduction: str) -> torch.Tensor:
        found = []
        for term in (center, lambda x: F.cross_entropy(x @ weight.T, labels, reduction=reduction)):
            x = features.clone().requires_grad_()
            found += torch.autograd.grad(term(x), x)
        return found[0] / found[1].norm()

    loss, reduction = CONVENTIONS[name]
    there = pull(lambda x: 0.03 * loss([row - centers[label] for row, label in zip(x, labels, strict=True)]), reduction)
    for update, cell in zip(("gradient", "paper"), line, strict=True):
        value = eval(re.sub(r"(\d)λ", r"\1*λ", cell).replace("·", "*"), {"λ": 0.03, "B": B, "C": C})
        ours = CenterLoss(C, 3, update=update, weight=value, init=centers)
        torch.testing.assert_close(pull(lambda x, ours=ours: ours(x, labels), "mean"), there)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, link


PARSERS = {"main": parse_arguments, "compare": parse_comparison, "predict": predict.parse}
COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"python ((?:main|compare|predict)\.py[^\n`]*)", page.read_text())
        if "$" not in command and "--help" not in command
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_pages_are_understood(command: str) -> None:
    program, *words = shlex.split(command, comments=True)
    PARSERS[program.removesuffix(".py")](words)


def test_pyproject_asks_for_what_requirements_ask_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)
    assert dependencies is not None
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert re.findall(r'"(.+?)"', dependencies[1]) == [line for line in lines if line]
