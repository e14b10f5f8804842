"""IDX files, MNIST's format: found by their names, read, checked.

torch is imported where it is needed: a command line is answered without it.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from utils import UserError

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 28  # of an image, in pixels
LARGEST_IDX = 1 << 30  # bytes: a header cannot make us read more
MOST_CLASSES = 100  # figures have no more colors that can be told apart
MNIST_MD5 = {  # of its four files, unpacked
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
STEMS = tuple(MNIST_MD5)  # what `find_file` looks for, in every data set


class DataError(UserError):
    """Data that are missing, damaged or of another kind than they should be."""


def find_file(folder: Path, stem: str) -> Path | None:
    """Return the file in a folder that holds what one of the `STEMS` names, or None.

    Its name contains ``train``, or ``t10k`` or ``test``, and ``images`` or ``labels``, as in train-images-idx3-ubyte,
    train-images.idx3-ubyte and emnist-letters-test-labels-idx1-ubyte.gz.

    Raises:
        DataError: if there are several, or the folder cannot be read.
    """
    part, what = stem.split("-")[:2]
    pattern = rf"([^.].*[-_.])?({'train' if part == 'train' else 't10k|test'})[-_.]{what}([-_.].*)?"
    try:
        there = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}; make it readable") from None
    found = [path for path in there if re.fullmatch(pattern, path.name)]
    found.sort(key=lambda path: (path.is_dir(), path.suffix == ".gz", path.name))
    files = [path for path in found if not path.is_dir()]
    if len({path.name.removesuffix(".gz").replace(".", "-") for path in files}) > 1:
        raise DataError(f"{folder}: which of {', '.join(path.name for path in files)}? Keep one in the folder")
    return found[0] if found else None


def as_images(path: Path, array: Tensor) -> Tensor:
    """Return an array from this file as upright images: EMNIST's files hold them transposed.

    Raises:
        DataError: unless the array has shape (N, 28, 28).
    """
    if array.ndim != 3 or array.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{path}: holds {tuple(array.shape)}, not images of {SIDE} by {SIDE} pixels")
    return array.transpose(1, 2).contiguous() if "emnist" in path.name.lower() else array


def as_labels(path: Path, array: Tensor, count: int, classes: tuple[int, ...]) -> Tensor:
    """Return the number of each label's class, int64 (N,) in [0, C), for an array from this file.

    Args:
        path: the file.
        array: uint8, as it was read.
        count: number of labels N that there must be.
        classes: the label of each class.

    Raises:
        DataError: unless there are N labels, all of these classes, and 2 to 100 classes.
    """
    if array.ndim != 1 or len(array) != count:
        raise DataError(f"{path}: holds {tuple(array.shape)}, not a label for each of {count} images")
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DataError(f"{path}: holds {len(classes)} classes; 2 to {MOST_CLASSES} can be trained")
    if strange := sorted(set(array.unique().tolist()) - set(classes)):
        beyond = f"beyond {max(classes)}" if strange[-1] > max(classes) else "which is none of the classes"
        raise DataError(f"{path}: holds label {strange[-1]}, {beyond}")
    numbers = array.long().new_zeros(256)
    numbers[list(classes)] = numbers.new_tensor(range(len(classes)))
    return numbers[array.long()]


def read_idx(path: Path, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return the uint8 array of an IDX file, plain or gzipped, whatever the file is called.

    Reads no more than the header promises, and no more than 1 GiB.

    Args:
        path: the file.
        shape: the shape that the header must name; by default any that is not empty.

    Raises:
        DataError: if the file cannot be read, or is not exactly an IDX file of bytes.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a named pipe would wait for its writer
        raise DataError(f"{path}: not a regular file")
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            file.seek(0)
            packed = start == b"\x1f\x8b" or (path.suffix == ".gz" and start != b"\0\0")
            return _parse(gzip.GzipFile(fileobj=file) if packed else file, shape)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except gzip.BadGzipFile:
        raise DataError(f"{path}: not a gzip file, delete it and fetch it again") from None
    except (EOFError, zlib.error):
        raise DataError(f"{path}: damaged or truncated gzip file, delete it and fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parse(file: BinaryIO | gzip.GzipFile, expected: tuple[int, ...] | None) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise DataError(f"wrong magic number {magic.hex() or '(empty file)'}: not an IDX file of bytes")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError("truncated in the header")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(0, len(header), 4))
    if expected is not None and shape != expected:
        raise DataError(f"holds {shape}, not {expected}: is it another file under this name?")
    if 0 in shape:
        raise DataError(f"holds nothing: its shape is {shape}")
    size = math.prod(shape)
    if size > LARGEST_IDX:
        raise DataError(f"the header promises {size:,} bytes, and at most {LARGEST_IDX:,} are read")
    data = bytearray()
    while chunk := file.read(min(1 << 20, size + 1 - len(data))):  # one byte more than promised shows an excess
        data += chunk
    if len(data) != size:
        what = "truncated: fewer" if len(data) < size else "more"
        raise DataError(f"{what} bytes than the {size:,} that the header promises")
    import torch

    return torch.frombuffer(data, dtype=torch.uint8).reshape(shape)


def checksum(array: Tensor) -> str:
    """Return the MD5 of the unpacked IDX file that holds this uint8 array."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return hashlib.md5(header + array.numpy().tobytes()).hexdigest()
