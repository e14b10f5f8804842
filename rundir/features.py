"""``features/epoch_N.npz`` and, during the first epoch, ``features/batch_N.npz``: features and predictions for the
training and the test set, written and read back.

A run directory may come from a stranger: sizes and shapes are checked before anything is read.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import UserError, atomically

if TYPE_CHECKING:
    from torch import Tensor

    from training.trainer import Evaluation

LARGEST_ARRAYS = 1 << 30  # bytes

Shape = tuple[tuple[int, ...], np.dtype]


def save_features(
    directory: Path,
    name: str,
    centers: Tensor,
    head: Tensor,
    samples: Mapping[str, np.ndarray],
    **evaluations: Evaluation,
) -> None:
    """Write ``features/name.npz``.

    Args:
        directory: the run directory.
        name: ``epoch_N`` or ``batch_N``.
        centers: (C, D).
        head: the matrix of `Network.decision`, (C, D + 1).
        samples: the indices of the evaluated images of ``train`` and ``test``; a set is missing if all were evaluated.
        evaluations: those of ``train`` and ``test``.
    """
    arrays: dict[str, Any] = {
        "centers": centers.detach().float().cpu().numpy(),
        "head": head.detach().float().cpu().numpy(),
    }
    arrays |= {f"{part}_sample": sample.astype(np.int32) for part, sample in samples.items()}
    for key, evaluation in evaluations.items():
        features = evaluation.features.cpu().numpy()
        with np.errstate(over="ignore"):
            half = features.astype(np.float16)
        arrays[f"{key}_features"] = half if np.isfinite(half).all() else features  # half ends at 65,504
        arrays[f"{key}_labels"] = evaluation.labels.cpu().numpy().astype(np.uint8)
        arrays[f"{key}_predictions"] = evaluation.predictions.cpu().numpy().astype(np.uint8)
        arrays[f"{key}_scores"] = evaluation.scores.float().cpu().numpy()
    (directory / "features").mkdir(exist_ok=True)
    with atomically(directory / "features" / f"{name}.npz") as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(file, **arrays)


def sample_of(count: int, most: int = 10_000) -> np.ndarray:
    """Return rising indices of a fixed sample of `count` images: a sixth of them, at most `most`, but at least 1,000,
    or all if there are fewer."""
    size = max(1_000, min(most, count // 6))
    return np.sort(np.random.default_rng(0).permutation(count)[:size])


def kept_features(path: Path, what: str = "epoch") -> list[int]:
    """Return the epochs, or with ``batch`` the batches of the first epoch, whose features are in a run directory."""
    names = [file.stem.removeprefix(f"{what}_") for file in (path / "features").glob(f"{what}_*.npz")]
    return sorted(int(name) for name in names if name.isdecimal() and len(name) < 8)


def read_features(path: Path, name: str, classes: int, feat_dim: int) -> dict[str, np.ndarray]:
    """Return the arrays of ``features/name.npz``.

    For ``train`` and ``test``: the features (N, D), labels and predictions (N,) in [0, C), and scores (N,). If only
    some images of a set were evaluated, ``train_sample`` or ``test_sample`` (N,) has their indices. Besides, the
    ``centers`` (C, D), and ``head`` (C, D + 1), see `Network.decision`.

    Raises:
        UserError: if the file is missing, damaged, or does not fit the run.
    """
    file = path / "features" / f"{name}.npz"
    if not file.is_file():
        raise UserError(f"{file}: missing, or not a regular file")
    try:
        with zipfile.ZipFile(file) as archive:
            shapes = {member.filename.removesuffix(".npy"): _shape(archive, member) for member in archive.infolist()}
        _check_shapes(shapes, classes, feat_dim)
        with np.load(file) as data:
            arrays = {key: data[key] for key in shapes}
    except Exception as error:  # damaged bytes can make zipfile, zlib and NumPy raise anything
        raise UserError(f"{file}: damaged ({str(error)[:200] or type(error).__name__})") from None
    for key in ("train_labels", "train_predictions", "test_labels", "test_predictions"):
        for value in (arrays[key].min(), arrays[key].max()):
            if not 0 <= value < classes:
                raise UserError(f"{file}: damaged ({key} must lie in [0, {classes}); got {value})")
    return arrays


def _shape(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Shape:
    """Return shape and dtype in an array's header; raise ValueError if the archive holds another number of bytes."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size > LARGEST_ARRAYS or member.file_size != stream.tell() + size:
            held = f"its header promises {size:,} bytes, the file holds {member.file_size:,}"
            raise ValueError(f"{member.filename}: {held}")
    return shape, dtype


def _check_shapes(shapes: dict[str, Shape], classes: int, feat_dim: int) -> None:
    """Raise ValueError for arrays that no run has."""
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "centers": ((classes, feat_dim), "f"),
        "head": ((classes, feat_dim + 1), "f"),
    }
    for part in ("train", "test"):
        if f"{part}_features" not in shapes:
            raise ValueError(f"{part}_features is missing")
        count = shapes[f"{part}_features"][0][:1]
        expected[f"{part}_features"] = ((*count, feat_dim), "f")
        expected |= {f"{part}_{name}": (count, "iu") for name in ("labels", "predictions")}
        expected[f"{part}_scores"] = (count, "f")
        if f"{part}_sample" in shapes:
            expected[f"{part}_sample"] = (count, "iu")
        if count == (0,):
            raise ValueError(f"{part}_features is empty")
    for key, (shape, kinds) in expected.items():
        if key not in shapes:
            raise ValueError(f"{key} is missing")
        if shapes[key][0] != shape or shapes[key][1].kind not in kinds:
            raise ValueError(f"{key} must have shape {shape}; got {shapes[key][0]} of {shapes[key][1]}")
    if sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values()) > LARGEST_ARRAYS:
        raise ValueError("its arrays hold more than 1 GiB")
