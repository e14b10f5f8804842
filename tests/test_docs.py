"""Every Python block of the documentation runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT

BLOCKS = [
    pytest.param(code, id=f"{name}-{number}")
    for name in ("README.md", "docs/using_center_loss.md")
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.S | re.M), 1)
]


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 10


@pytest.mark.parametrize("code", BLOCKS)
def test_block_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})


def test_files_and_flags_that_the_readme_names_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(((?!https?:)[^)#]+)\)", readme):
        assert (ROOT / path).exists(), path
    usage = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in re.findall(r"python main\.py ([^\n`]*)", readme):
        for flag in re.findall(r"--[a-z-]+", command):
            assert flag in usage.stdout, flag


def test_pyproject_asks_for_what_requirements_ask_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)
    assert dependencies is not None
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert re.findall(r'"(.+?)"', dependencies[1]) == [line for line in lines if line]
