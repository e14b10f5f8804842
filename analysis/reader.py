"""A finished run that reads digits: what it takes them for, how sure it is, and whether it knows them at all."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch

from analysis.find_digit import READING, BadImage, from_gray, to_digit
from rundir.network import held_out_of, load_network
from rundir.run import Run
from training.trainer import Evaluation
from utils import UserError, atomically, progress_bar

CALIBRATION = 1_000  # digits that set the threshold
FILE = "calibration.json"
BETWEEN = 0.25  # of the way between two centers, to either side of the middle: there a digit lies between the two


@dataclass(frozen=True)
class Prediction:
    """What a run makes of one image."""

    digit: int
    confidence: float  # percent
    distance: float  # to the center of that digit
    known: bool
    feature: np.ndarray  # (D,)
    second: int  # the next best
    second_confidence: float  # percent
    between: bool  # whether it lies between the centers of the two


@dataclass(frozen=True)
class Calibration:
    """How far digits lie from the centers of what they are taken for; calibration.json in a run directory."""

    of: str  # the checkpoint, the centers and the reading of pictures that it holds for
    held_out: bool  # whether the digits were kept out of training
    distances: Annotated[list[float], msgspec.Meta(min_length=1)]  # in rising order

    def threshold(self, reject: float) -> float:
        """Return the distance beyond which `reject` percent of them lie."""
        return float(np.quantile(self.distances, 1 - reject / 100))


class Reader:
    """A finished run, ready to read digits.

    An image is unknown if its feature lies farther from the center of the predicted digit than all
    but `reject` percent of the digits that the run kept out of its training (main.py --hold-out), each
    taken through `to_digit` like a person's own image. A run that has kept none is calibrated on
    digits it was trained on, which lie closer: more of what it has not seen is then unknown.
    """

    def __init__(self, run: Run, device: torch.device, reject: float = 1.0) -> None:
        self.device = device
        self.network = load_network(run, device)
        self.classes = np.array(run.classes)
        self.centers = run.arrays["centers"]
        if not np.isfinite(self.centers).all():
            raise UserError(f"{run.path}: has centers that are not finite; it cannot read digits")
        self.calibration = self._calibrate(run)
        self.threshold = self.calibration.threshold(reject)

    def read(self, digits: np.ndarray) -> list[Prediction]:
        """Return what each of the digits is, uint8 (N, 28, 28) as `to_digit` returns them."""
        found, distances = self._evaluate(digits)
        features = found.features.cpu().numpy()
        shares, labels = found.logits.softmax(dim=1).cpu().topk(2, dim=1)
        predictions = []
        for feature, distance, share, (first, second) in zip(features, distances, shares, labels.numpy(), strict=True):
            here, there = self.centers[first], self.centers[second]
            way = float((feature - here) @ (there - here) / max(float(((there - here) ** 2).sum()), 1e-12))
            predictions.append(
                Prediction(
                    digit=int(self.classes[first]),
                    confidence=100 * float(share[0]),
                    distance=float(distance),
                    known=bool(distance <= self.threshold),
                    feature=feature,
                    second=int(self.classes[second]),
                    second_confidence=100 * float(share[1]),
                    between=abs(way - 0.5) < BETWEEN,
                )
            )
        return predictions

    def _evaluate(self, digits: np.ndarray) -> tuple[Evaluation, np.ndarray]:
        """Return what the network makes of digits, and how far they lie from the predicted centers."""
        labels = torch.zeros(len(digits), dtype=torch.int64, device=self.device)
        found = self.network.evaluate(torch.from_numpy(digits).to(self.device), labels)
        own = self.centers[found.predictions.cpu().numpy()]
        return found, np.linalg.norm(found.features.cpu().numpy() - own, axis=1)

    def _calibrate(self, run: Run) -> Calibration:
        """Return the calibration that is kept beside the run, or make it and keep it there."""
        made_from = (run.path / "checkpoint.pt").read_bytes() + self.centers.tobytes() + bytes([READING])
        key = hashlib.sha256(made_from).hexdigest()
        if (there := read_calibration(run.path)) is not None and there.of == key:
            return there
        data, held, _ = held_out_of(run)
        images = (held if len(held) else data.train_images).numpy()
        chosen = np.random.default_rng(0).permutation(len(images))[:CALIBRATION]
        digits = []
        for image in progress_bar(images[chosen], len(chosen), "Calibrating, once for this run", unit="digit"):
            with contextlib.suppress(BadImage):
                digits.append(to_digit(from_gray(image)))
        _, distances = self._evaluate(np.array(digits))
        made = Calibration(key, len(held) > 0, np.sort(distances).round(4).tolist())
        with contextlib.suppress(OSError), atomically(run.path / FILE) as unfinished:  # a run may not be ours to write
            unfinished.write_bytes(msgspec.json.encode(made))
        return made


def read_calibration(path: Path) -> Calibration | None:
    """Return what calibration.json says, or None where there is none or it is damaged."""
    file = path / FILE
    try:
        if not file.is_file() or file.is_symlink() or file.stat().st_size > 1 << 20:
            return None
        return msgspec.json.decode(file.read_bytes(), type=Calibration)
    except (OSError, ValueError, RecursionError):  # of msgspec too
        return None
