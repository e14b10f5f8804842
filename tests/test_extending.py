"""What a head and a data set of one's own need: a class and a row, or a folder; and no other file changes.

Both are taken through train, compare with figures, regions and report, predict, page and export as a person would:
the code is copied, class and row are added to the copy, and its commands are run.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, rows, run_here, run_main, spawn, write_idx
from PIL import Image

import predict
from analysis import sweep
from datasets import load, named
from idx import DataError, as_images, read_idx
from rundir import network

HEAD_CLASS = '''

class Steep(MarginHead):
    """The target's logit is s * (2 cos θ - 1 - m)."""

    def with_margin(self, cosine: Tensor) -> Tensor:
        return 2 * cosine - 1 - self.m
'''
HEAD_ROW = '    "steep": Head("margin_heads:Steep", "SteepFace", True, 20.0, 0.05, "cosine", 1.0, "takes 0 to 1"),\n'
DATA_ROW = '    "shapes": Source("Shapes", classes=(2, 30, 77), sizes=None),\n'


def shapes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 28, 28) of bars and frames, and which of three they show."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 3
    images = np.zeros((count, 28, 28), np.uint8)
    for image, label, (x, y) in zip(images, labels, rng.integers(-3, 4, (count, 2)), strict=True):
        if label == 0:
            image[4 + y : 24 + y, 12 + x : 16 + x] = 255
        elif label == 1:
            image[12 + y : 16 + y, 4 + x : 24 + x] = 255
        else:
            image[6 + y : 22 + y, 6 + x : 22 + x] = 255
            image[9 + y : 19 + y, 9 + x : 19 + x] = 0
    return images, labels


def write_data(folder: Path, labels: tuple[int, ...]) -> Path:
    for part, count in (("train", 600), ("t10k", 120)):
        images, which = shapes(count)
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.array(labels, np.uint8)[which])
    return folder


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    for room in ("models", "training", "rundir", "analysis"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    for file in ROOT.glob("*.py"):
        shutil.copy(file, folder)
    return folder


def add(file: Path, text: str, after: str = "") -> None:
    """Add a text to a file of code, at its end or after the line that opens a table."""
    code = file.read_text(encoding="utf-8")
    assert after in code
    file.write_text(code.replace(after, after + text) if after else code + text, encoding="utf-8")


def go(code: Path, program: str, *words: object) -> str:
    """Run a command of that code and return what it printed; nothing may be said on stderr."""
    done = spawn(code / program, *words, cwd=code)
    assert done.stderr == ""
    return done.stdout


def take_through(code: Path, name: str, loss: str, flags: list[str], classes: list[int]) -> None:
    """Train, compare, draw, report, predict, and write page and ONNX; look at what comes of it."""
    short = [*flags, "--use-cpu", "--max-epoch", "2", "--batch-size", "50", "--hold-out", "60", "--lr-model", "0.02"]
    run, out = code / "log" / name, code / "log" / "compare"
    said = go(code, "main.py", *short, "--regions", "--animate", "--save-dir", run)
    assert "A figure could not be drawn" not in said
    assert sorted(path.name for path in (run / "test").iterdir()) == ["epoch_1.png", "epoch_2.png"]
    assert json.loads((run / "config.json").read_text())["dataset"]["classes"] == classes
    go(code, "compare.py", "--runs", run, "--regions", "--report", "--out", out)
    assert [row["loss"] for row in rows(out / "comparison.csv")] == [loss]
    report = (out / "report.html").read_text()
    assert loss in report
    assert re.search(r'class="sheet" data-name="test-[\w-]+"', report)  # the name of a CSS variable
    assert (out / "comparison.png").exists()
    image = code / "bar.png"
    Image.fromarray(255 - shapes(3)[0][1]).resize((200, 200)).save(image)
    found = json.loads(go(code, "predict.py", "--run", run, "--use-cpu", "--json", "--plot", image))
    assert found["digit"] in classes
    page, model = code / "draw.html", code / "model.onnx"
    go(code, "predict.py", "--run", run, "--use-cpu", "--page", page, "--export", model)
    text = page.read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0].replace("\\u003c", "<"))
    assert data["networks"][0]["classes"] == classes
    assert len(data["examples"]) == len(data["networks"][0]["head"]) == len(classes)
    meta = {entry.key: entry.value for entry in onnx.load(str(model)).metadata_props}
    assert json.loads(meta["classes"]) == classes


@pytest.mark.slow
def test_a_head_is_a_class_and_a_row(code: Path) -> None:
    add(code / "margin_heads.py", HEAD_CLASS)
    add(code / "models" / "heads.py", HEAD_ROW, after="HEADS = {\n")
    data = write_data(code / "my.shapes", (0, 1, 2))
    flags = ["--dataset", str(data), "--head", "steep", "--margin", "0.1"]
    take_through(code, "steep", "SteepFace only (λ = 0)", flags, [0, 1, 2])
    more = ["--", "--dataset", data, "--use-cpu", "--max-epoch", "1", "--batch-size", "100"]
    go(code, "compare.py", "--losses", "steep+center", "--out", code / "log" / "trained", *more)
    table = (code / "log" / "trained" / "comparison.md").read_text()
    assert "SteepFace + center loss (λ = 0.1)" in table
    assert "steep (default: 20)" in " ".join(go(code, "main.py", "--help").split())
    refused = spawn(code / "main.py", "--head", "steep", "--margin", "2", cwd=code, status=2)
    assert "--margin: steep takes 0 to 1; got 2" in refused.stderr


@pytest.mark.slow
def test_a_data_set_is_a_row(code: Path) -> None:
    add(code / "datasets.py", DATA_ROW, after="SOURCES = {\n")
    write_data(code / "data" / "Shapes" / "raw", (2, 30, 77))
    take_through(code, "shapes", "softmax + center loss (λ = 0.1)", ["--dataset", "Shapes"], [2, 30, 77])
    known = ["-d", "shapes", "--known-classes", "2", "77", "--use-cpu", "--max-epoch", "1", "--batch-size", "100"]
    go(code, "main.py", *known, "--save-dir", code / "log" / "two")
    out = code / "log" / "open"
    go(code, "compare.py", "--runs", code / "log" / "two", "--unknowns", "shapes", "--out", out)
    assert {row["unknown"] for row in rows(out / "open_set.csv")} == {"unseen classes", "shapes"}


def test_a_folder_of_many_classes(tmp_path: Path) -> None:
    """As EMNIST has its letters: labels from 1, images transposed, gzipped or only called so."""
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    labels = np.arange(60).astype(np.uint8) % 26 + 1
    for part in ("train", "test"):
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            path = write_idx(tmp_path / "letters" / f"emnist-letters-{part}-{name}.gz", array)
            if part == "train":
                path.write_bytes(gzip.compress(path.read_bytes()))
    data = load(named(str(tmp_path / "letters")), tmp_path)
    assert (data.name, data.source) == ("letters", str(tmp_path / "letters"))
    assert data.classes == tuple(range(1, 27))
    assert torch.equal(data.train_labels, torch.arange(60) % 26)
    assert torch.equal(data.train_images, torch.from_numpy(images).transpose(1, 2))
    file = tmp_path / "letters" / "emnist-letters-test-images-idx3-ubyte.gz"
    assert torch.equal(as_images(file, read_idx(file)), data.test_images)
    some = data.only([26, 3])
    assert some.classes == (26, 3)
    assert torch.equal(some.test_images, data.test_images[(data.test_labels == 25) | (data.test_labels == 2)])
    with pytest.raises(DataError, match=r"--known-classes 27: letters has only 1, 2, "):
        data.only([1, 27])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: (raw / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels-idx1-ubyte: missing"),
        (lambda raw: shutil.copy(raw / "train-images-idx3-ubyte", raw / "a-train-images"), "which of a-train-images, "),
        (lambda raw: write_idx(raw / "t10k-labels-idx1-ubyte", np.full(120, 9)), "holds label 9, beyond 2"),
        (lambda raw: write_idx(raw / "train-labels-idx1-ubyte", np.zeros(600, np.uint8)), "holds 1 classes; 2 to 100"),
        (
            lambda raw: write_idx(raw / "train-labels-idx1-ubyte", np.zeros(7, np.uint8)),
            "not a label for each of 600 images",
        ),
        (
            lambda raw: write_idx(raw / "t10k-images-idx3-ubyte", np.zeros((120, 9, 9), np.uint8)),
            "not images of 28 by 28",
        ),
        (lambda raw: [path.unlink() for path in raw.iterdir()], "holds no IDX files with names like train-images"),
        (
            shutil.rmtree,
            "own: neither a folder nor one of auto, .*kmnist, mnist5k, and there is no .*own; if",
        ),
    ],
)
def test_a_folder_that_is_no_data_set(tmp_path: Path, change, message: str) -> None:
    raw = write_data(tmp_path / "own", (0, 1, 2))
    change(raw)
    with pytest.raises(DataError, match=message):
        load(str(raw), tmp_path)


def test_names_of_files_as_people_have_them(tmp_path: Path) -> None:
    raw = write_data(tmp_path / "own", (4, 5, 6))
    expected = load(str(raw), tmp_path)
    for path in list(raw.iterdir()):
        (raw / f"._{path.name}").write_bytes(b"of a Mac's folder on another file system")
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
        path.mkdir()  # as the archives of a well-known site unpack
    assert load(str(raw), tmp_path).checksums == expected.checksums
    assert expected.classes == (4, 5, 6)


def test_data_of_a_run_may_move_but_not_change(tmp_path: Path) -> None:
    raw, run = write_data(tmp_path / "first" / "own", (4, 5, 6)), tmp_path / "run"
    words = ["--dataset", raw, "--max-epoch", 2, "--batch-size", 200, "--use-cpu"]
    run_main(*words, "--stop-after", 1, "--save-dir", run)
    assert sweep.is_that_run(run, [*map(str, words)])
    labels = raw / "train-labels-idx1-ubyte"
    before = labels.read_bytes()
    write_idx(labels, np.repeat(np.array([4, 5, 6], np.uint8), 200))
    network._load.cache_clear()
    assert not sweep.is_that_run(run, [*map(str, words)])
    labels.write_bytes(before)
    raw = (tmp_path / "first").rename(tmp_path / "second") / "own"
    assert "main.py --resume RUN --data-root FOLDER_ABOVE_THEM" in run_main("--resume", run, status=2).stderr
    run_main("--resume", run, "--data-root", tmp_path / "second")
    write_idx(raw / "train-labels-idx1-ubyte", np.repeat(np.array([4, 5, 6], np.uint8), 200))
    for again in (
        run_main("--resume", run, status=2),
        run_here(predict.main, "--run", run, "--page", tmp_path / "draw.html", status=2),
    ):
        assert again.stderr.endswith(f"run: was trained on other data than {raw} holds\n")
