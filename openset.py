"""Score finished runs on images of classes they were never trained on."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import datasets
import engine
import hardware
import metrics
import utils
from runs import FinishedRun, kept_epochs

UNSEEN = "unseen digits"


@dataclass(frozen=True)
class Scored:
    """One score of one run, on its own test set and on images of unknown classes."""

    run: FinishedRun
    unknowns: str
    score: str
    known: np.ndarray  # (N,)
    correct: np.ndarray  # (N,) whether the head classifies the known samples right
    unknown: np.ndarray  # (U,)

    def numbers(self) -> dict[str, float]:
        """Return AUROC, AUPR, FPR95 and OSCR."""
        return metrics.open_set(self.known, self.correct, self.unknown)


def name_of(source: str) -> str:
    """Return what a table calls a source of unknown images: a folder by its name."""
    path = Path(source)
    return (path.parent if path.name == "raw" else path).name


def score_runs(runs: Iterable[FinishedRun], sources: list[str]) -> list[Scored]:
    """Score each run on the digits it never saw, and on the images of each source.

    Raises:
        utils.RunError: if a run cannot be loaded.
        datasets.DataError: if images cannot be had, or are not those that the run was trained on.
    """
    device, _ = hardware.choose_device(0, use_cpu=False)
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
                images[source, root] = datasets.load_images(source, root)
            unknown[name_of(source)] = images[source, root]
        scored += score_run(run, unknown, device)
    return scored


_load = functools.cache(datasets.load)  # several runs have the same data


def load_data(run: FinishedRun) -> datasets.Digits:
    """Return the whole data set that a run was trained on, all classes of it.

    Raises:
        datasets.DataError: if it cannot be had, or is not the same.
    """
    data = _load(run.config["dataset"]["name"], data_root(run))
    if data.checksums != run.config["dataset"]["md5"]:
        raise datasets.DataError(f"{run.path}: was trained on other data than there is in {data_root(run)}")
    return data


def data_of(run: FinishedRun) -> datasets.Digits:
    """Return the samples that a run was trained and tested on, in the order of its features."""
    data, _, _ = held_out_of(run)
    return data


def held_out_of(run: FinishedRun) -> tuple[datasets.Digits, torch.Tensor, torch.Tensor]:
    """Return the same, and the images and labels that --hold-out kept out of training."""
    return load_data(run).part(run.settings["known_classes"], run.settings["hold_out"])


def data_root(run: FinishedRun) -> Path:
    """Return where the run's data are: where it found them, or in the default place."""
    root = Path(run.config["options"]["data_root"])
    return root if root.is_dir() else Path("data")


def score_run(run: FinishedRun, unknown: dict[str, torch.Tensor], device: torch.device) -> list[Scored]:
    """Return every score of a run for each set of unknown images, uint8 (U, 28, 28)."""
    network = load_network(run.path, device)
    digits = data_of(run)
    train_features, train_labels = run.arrays["train_features"].astype(float), run.arrays["train_labels"].astype(int)
    means = metrics.class_means(train_features, train_labels)

    def scores(found: engine.Evaluation) -> dict[str, np.ndarray]:
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


def load_network(path: Path, device: torch.device) -> engine.Network:
    """Return a finished run's network, ready to evaluate on the device.

    Raises:
        utils.RunError: if its checkpoint is missing, damaged or not of its last epoch.
    """
    checkpoint = utils.load_checkpoint(path / "checkpoint.pt")
    settings = checkpoint["settings"]
    num_classes = len(checkpoint["center_loss"]["centers"])
    network = engine.build_network(settings, num_classes, hardware.autocast(settings["precision"], device))
    if checkpoint["epoch"] != kept_epochs(path)[-1]:
        raise utils.RunError(f"{path}: its checkpoint is of another epoch; go on with python main.py --resume {path}")
    utils.load_state(network, checkpoint, path)
    network.model.to(device)
    network.head.to(device)
    return network
