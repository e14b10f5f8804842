"""Score finished runs on images of classes they were never trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import datasets
from analysis import metrics
from analysis.comparison import name_of
from rundir.loading import data_of, data_root, load_data, load_network
from rundir.reading import Run
from training.trainer import Evaluation
from utils import UserError

UNSEEN = "unseen digits"


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


def load_images(source: str, root: Path) -> torch.Tensor:
    """Return images alone, uint8 (N, 28, 28), to be held against a network that knows other classes.

    Args:
        source: a name from `datasets.SOURCES`, torchvision's or ours, for its test images; or a folder with
            IDX images, plain or ``.gz``, in itself or in its ``raw``. Of several files there the
            test images (``t10k``) count.
        root: the data root, for a name.

    Raises:
        datasets.DataError: if there are no such images, or they are damaged.
    """
    names = {key: name for name, found in datasets.SOURCES.items() for key in (name, found.torchvision_name.lower())}
    if source.lower() in names:
        return datasets.load(names[source.lower()], root).test_images
    folder = Path(source)
    if not folder.is_dir():
        raise datasets.DataError(f"{source}: neither a folder nor one of {', '.join(datasets.SOURCES)}")
    files = sorted(path for place in (folder, folder / "raw") for path in place.glob("*images*") if path.is_file())
    chosen = [path for path in files if path.name.startswith("t10k")] or files
    if not chosen:
        raise datasets.DataError(f"{source}: holds no IDX images; their file's name must contain 'images'")
    if len({path.name.removesuffix(".gz") for path in chosen}) > 1:
        raise datasets.DataError(
            f"{source}: which of {', '.join(path.name for path in chosen)}? Keep one in the folder"
        )
    images = datasets.read_idx(chosen[0])
    if images.ndim != 3 or images.shape[1:] != (datasets.SIDE, datasets.SIDE):
        raise datasets.DataError(
            f"{chosen[0]}: holds {tuple(images.shape)}, not images of {datasets.SIDE} by {datasets.SIDE} pixels"
        )
    return images


def score_runs(runs: Iterable[Run], sources: list[str], device: torch.device) -> list[Scored]:
    """Score each run on the digits it never saw, and on the images of each source.

    Raises:
        UserError: if a run cannot be loaded, or images cannot be had or are not those that it was trained on.
    """
    images: dict[tuple[str, Path], torch.Tensor] = {}
    scored = []
    for run in runs:
        data, root = load_data(run), data_root(run)
        unknown = {}
        if run.unseen:
            unseen = torch.isin(data.test_labels, torch.tensor(run.unseen))
            unknown[UNSEEN] = data.test_images[unseen]
        for source in sources:
            if (source, root) not in images:
                images[source, root] = load_images(source, root)
            unknown[name_of(source)] = images[source, root]
        scored += score_run(run, unknown, device)
    return scored


def score_run(run: Run, unknown: dict[str, torch.Tensor], device: torch.device) -> list[Scored]:
    """Return every score of a run for each set of unknown images, uint8 (U, 28, 28)."""
    network = load_network(run, device)
    digits = data_of(run)
    train_features, train_labels = run.arrays["train_features"].astype(float), run.arrays["train_labels"].astype(int)
    if not np.isfinite(train_features).all():
        raise UserError(
            f"{run.path}: has training features beyond 65,504, the largest that is kept; it cannot be scored"
        )
    means = metrics.class_means(train_features, train_labels)

    def scores(found: Evaluation) -> dict[str, np.ndarray]:
        features, logits = found.features.double().cpu().numpy(), found.logits.double().cpu().numpy()
        return metrics.known_scores(features, logits, run.arrays["centers"], means)

    known = network.evaluate(digits.test_images.to(device), digits.test_labels.to(device))
    correct = (known.predictions == known.labels).cpu().numpy()
    known_scores = scores(known)
    scored = []
    for name, images in unknown.items():
        found = network.evaluate(images.to(device), torch.zeros(len(images), dtype=torch.int64, device=device))
        for score, values in scores(found).items():
            scored.append(Scored(run, name, score, known_scores[score], correct, values))
    return scored
