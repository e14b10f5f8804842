"""Score finished runs on images of classes they were never trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import datasets
from analysis import metrics
from analysis.comparison import name_of
from analysis.unseen import unseen_classes
from datasets import DataError
from rundir.loading import data_of, data_root, load_data, load_network
from rundir.reading import Run
from training.trainer import Network
from utils import UserError, complain

UNSEEN_DIGITS = "unseen digits"


@dataclass(frozen=True)
class Scored:
    """One score of one run, on its own test set and on images of unknown classes."""

    run: Run
    unknowns: str
    score: str
    known: np.ndarray  # (N,)
    correct: np.ndarray  # (N,) whether the head classifies the known samples right
    unknown: np.ndarray  # (U,)

    def numbers(self) -> dict[str, float]:
        """Return AUROC, AUPR, FPR95 and OSCR."""
        return metrics.open_set(self.known, self.correct, self.unknown)


@dataclass(frozen=True)
class Unknown:
    """Images of classes that a network does not know, uint8 (U, 28, 28), and their labels, int64 (U,), if there are
    some."""

    images: Tensor
    labels: Tensor | None = None


def load_images(source: str, root: Path) -> Tensor:
    """Return the images of `load_unknown`."""
    return load_unknown(source, root).images


def load_unknown(source: str, root: Path) -> Unknown:
    """Return images to be held against a network that knows other classes, with their labels where they are there.

    Args:
        source: a name from `datasets.SOURCES`, torchvision's or ours, for its test images; or a folder with IDX images,
            plain or ``.gz``, in itself or in its ``raw``. Of several files there the test images (``t10k``) count.
        root: the data root, for a name.

    Raises:
        datasets.DataError: if there are no such images, or they are damaged, or the labels are not theirs.
    """
    names = {key: name for name, found in datasets.SOURCES.items() for key in (name, found.torchvision_name.lower())}
    if source.lower() in names:
        data = datasets.load(names[source.lower()], root)
        return Unknown(data.test_images, data.test_labels)
    file = _image_file(Path(source))
    images = datasets.read_idx(file)
    if images.ndim != 3 or images.shape[1:] != (datasets.SIDE, datasets.SIDE):
        side = datasets.SIDE
        raise DataError(f"{file}: holds {tuple(images.shape)}, not images of {side} by {side} pixels")
    beside = file.with_name(file.name.replace("images-idx3", "labels-idx1").replace("images", "labels"))
    if not beside.is_file():
        return Unknown(images)
    return Unknown(images, datasets.read_idx(beside, (len(images),)).long())


def _image_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: neither a folder nor one of {', '.join(datasets.SOURCES)}")
    files = sorted(path for place in (folder, folder / "raw") for path in place.glob("*images*") if path.is_file())
    chosen = [path for path in files if path.name.startswith("t10k")] or files
    if not chosen:
        raise DataError(f"{folder}: holds no IDX images; their file's name must contain 'images'")
    if len({path.name.removesuffix(".gz") for path in chosen}) > 1:
        raise DataError(f"{folder}: which of {', '.join(path.name for path in chosen)}? Keep one in the folder")
    return chosen[0]


@dataclass(frozen=True)
class Scores:
    """What was made of runs and unknown images: every score, and how well the features tell the unknown classes
    apart, by run and name of the images."""

    scored: list[Scored] = field(default_factory=list)
    unseen: list[tuple[Run, str, dict[str, float]]] = field(default_factory=list)


def score_runs(runs: Iterable[Run], sources: list[str], device: torch.device) -> Scores:
    """Score each run on the digits it never saw, and on the images of each source.

    Raises:
        UserError: if a run cannot be loaded, or images cannot be had or are not those that it was trained on.
    """
    loaded: dict[tuple[str, Path], Unknown] = {}
    found = Scores()
    for run in runs:
        data, root = load_data(run), data_root(run)
        unknown = {}
        if run.unseen:
            unseen = torch.isin(data.test_labels, torch.tensor(run.unseen))
            unknown[UNSEEN_DIGITS] = Unknown(data.test_images[unseen], data.test_labels[unseen])
        for source in sources:
            if (source, root) not in loaded:
                loaded[source, root] = load_unknown(source, root)
            unknown[name_of(source)] = loaded[source, root]
        score_run(run, unknown, device, found)
    return found


def score_run(run: Run, unknown: dict[str, Unknown], device: torch.device, found: Scores) -> None:
    """Add to what was found every score of a run for each set of unknown images, and what its features make of their
    classes."""
    means = class_means_of(run)
    network, digits = load_network(run, device), data_of(run)
    test_features, test_logits = evaluated(run, network, digits.test_images, device)
    known = metrics.known_scores(test_features, test_logits, run.arrays["centers"], means)
    correct = test_logits.argmax(axis=1) == digits.test_labels.numpy()
    for name, one in unknown.items():
        features, logits = evaluated(run, network, one.images, device)
        for score, values in metrics.known_scores(features, logits, run.arrays["centers"], means).items():
            found.scored.append(Scored(run, name, score, known[score], correct, values))
        if one.labels is not None:
            try:
                found.unseen.append((run, name, unseen_classes(features, one.labels.numpy())))
            except ValueError as error:
                complain(f"compare.py: {run.path}: {name} are not told from each other: {error}")


def class_means_of(run: Run) -> np.ndarray:
    """Return the class means (C, D) of a run's training features.

    Raises:
        UserError: if they, or its centers, are not finite.
    """
    features, centers = (run.arrays[name].astype(float) for name in ("train_features", "centers"))
    for array, what in ((features, "training features"), (centers, "centers")):
        if not np.isfinite(array).all():
            why = "that are no numbers" if np.isnan(array).any() else "beyond 65,504, the largest that is kept"
            raise UserError(f"{run.path}: has {what} {why}; it cannot be scored")
    return metrics.class_means(features, run.arrays["train_labels"].astype(int))


def evaluated(run: Run, network: Network, images: Tensor, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) and logits (N, C) of images, float64.

    Raises:
        UserError: if they are not finite.
    """
    labels = torch.zeros(len(images), dtype=torch.int64, device=device)  # they are needed for an accuracy alone
    made = network.evaluate(images.to(device), labels)
    features, logits = made.features.double().cpu().numpy(), made.logits.double().cpu().numpy()
    if not (np.isfinite(features).all() and np.isfinite(logits).all()):
        raise UserError(f"{run.path}: makes features or logits that are not finite; it cannot be scored")
    return features, logits
