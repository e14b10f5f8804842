"""Scores of finished runs on images of classes that they were never trained on."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import datasets
from analysis import metrics
from analysis.comparison import NEVER_SEEN, name_of
from analysis.unseen import unseen_classes
from idx import DataError, as_images, read_idx
from rundir.network import data_of, data_root, load_data, load_network
from rundir.run import Run
from training.trainer import Network
from utils import UserError, complain


@dataclass(frozen=True)
class Scored:
    """One score of one run, for its test set and for images of unknown classes."""

    run: Run
    unknowns: str
    score: str
    known: np.ndarray  # (N,)
    correct: np.ndarray  # (N,), whether the head classifies the known samples right
    unknown: np.ndarray  # (U,)

    def numbers(self) -> dict[str, float]:
        """Return AUROC, AUPR, FPR95 and OSCR."""
        return metrics.open_set(self.known, self.correct, self.unknown)


Unknown = tuple[Tensor, Tensor | None]  # images, uint8 (U, 28, 28), and their labels, int64 (U,), if there are any
ToldApart = tuple[Run, str, dict[str, float]]  # a run, the name of unknown images, the numbers of `unseen_classes`


def load_unknown(source: str, root: Path) -> Unknown:
    """Return images of unknown classes, with their labels if there are any.

    Args:
        source: a name from `datasets.SOURCES`, torchvision's or ours, for its test images; or a folder that holds IDX
            images, plain or ``.gz``, directly or in ``raw``; if it has several files, the test images (``t10k``,
            ``test``) are taken. EMNIST is turned upright.
        root: the data root, for a name.

    Raises:
        DataError: if there are no such images, they are damaged, or the labels do not fit them.
    """
    names = {key: name for name, row in datasets.SOURCES.items() for key in (name, row.folder.lower()) if key}
    if source.lower() in names:
        data = datasets.load(names[source.lower()], root)
        return data.test_images, data.test_labels
    file = _image_file(Path(source))
    images = as_images(file, read_idx(file))
    name = file.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    beside = [path for path in (file.with_name(name), file.with_name(f"{name}.gz")) if path.is_file()]
    return images, read_idx(beside[0], (len(images),)).long() if beside else None


def _image_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: neither a folder nor one of {', '.join(datasets.SOURCES)}")
    files = sorted(path for place in (folder, folder / "raw") for path in place.glob("*images*") if path.is_file())
    chosen = [path for path in files if re.search("t10k|test", path.name)] or files
    if not chosen:
        raise DataError(f"{folder}: holds no IDX images; the file's name must contain 'images'")
    if len({path.name.removesuffix(".gz") for path in chosen}) > 1:
        raise DataError(f"{folder}: which of {', '.join(path.name for path in chosen)}? Keep one in the folder")
    return chosen[0]


def score_runs(runs: Iterable[Run], sources: list[str], device: torch.device) -> tuple[list[Scored], list[ToldApart]]:
    """Score each run on the digits it never saw and on the images of each source. If these have labels, also return
    how well the run's features tell their classes apart.

    Raises:
        UserError: if a run or images cannot be loaded, or the data differ from those that the run was trained on.
    """
    load = functools.cache(load_unknown)
    scored: list[Scored] = []
    unseen: list[ToldApart] = []
    for run in runs:
        data, unknown = load_data(run), {name_of(source): load(source, data_root(run.plan)) for source in sources}
        if run.unseen:
            never = data.only(run.unseen)
            unknown = {NEVER_SEEN: (never.test_images, never.test_labels)} | unknown
        network, digits, means = load_network(run, device), data_of(run), class_means_of(run)
        features, logits = evaluated(run, network, digits.test_images, device)
        known = metrics.known_scores(features, logits, run.arrays["centers"], means)
        correct = logits.argmax(axis=1) == digits.test_labels.numpy()
        for name, (images, labels) in unknown.items():
            features, logits = evaluated(run, network, images, device)
            scores = metrics.known_scores(features, logits, run.arrays["centers"], means)
            scored += [Scored(run, name, score, known[score], correct, values) for score, values in scores.items()]
            if labels is None or len(labels.unique()) < 2:
                continue
            try:
                unseen.append((run, name, unseen_classes(features, labels.numpy())))
            except ValueError as error:
                complain(f"compare.py: {run.path}: {name}: separation not measured: {error}")
    return scored, unseen


def class_means_of(run: Run) -> np.ndarray:
    """Return the class means (C, D) of a run's training features.

    Raises:
        UserError: if features or centers are not finite, or a class has no features.
    """
    features, centers = (run.arrays[name].astype(float) for name in ("train_features", "centers"))
    if not (np.isfinite(features).all() and np.isfinite(centers).all()):
        raise UserError(f"{run.path}: has features or centers that are not finite; it cannot be scored")
    try:
        return metrics.class_means(features, run.arrays["train_labels"].astype(int))
    except ValueError as error:
        raise UserError(f"{run.path}: damaged features: {error}") from None


def evaluated(run: Run, network: Network, images: Tensor, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) and logits (N, C) of images, float64.

    Raises:
        UserError: if they are not finite.
    """
    features, logits = (made.cpu().double().numpy() for made in network.outputs(images.to(device)))
    if not (np.isfinite(features).all() and np.isfinite(logits).all()):
        raise UserError(f"{run.path}: makes features or logits that are not finite; it cannot be scored")
    return features, logits
