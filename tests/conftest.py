"""Real digits for every test, and the command line as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import datasets

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests share the cores already; before torch is imported

ROOT = Path(__file__).resolve().parent.parent


# A module goes to one process (loadscope): the long ones first, so that no process is left with one at the end.
LONG = ("test_robust", "test_main", "test_compare", "test_parallel", "test_report", "test_kill", "test_predict")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)

    items.sort(key=place)


@pytest.fixture(scope="session")
def mnist5k() -> datasets.Digits:
    import datasets

    return datasets.load("mnist5k", Path("nowhere"))


@pytest.fixture(scope="session")
def run_main() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run main.py with these arguments; the log goes where `cwd` is, not into the repository."""

    def run(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONWARNINGS": "error::DeprecationWarning:__main__"},
        )

    return run


def write_idx(path: Path, array) -> Path:  # type: ignore[no-untyped-def]
    """Write a uint8 array (NumPy or torch) as a plain IDX file."""
    shape = tuple(array.shape)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + bytes(array.reshape(-1).tolist()))
    return path
