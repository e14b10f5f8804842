"""A finished run that reads digits: class, confidence, and whether a digit is known or unknown."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
from torch import Tensor

from analysis.find_digit import READING, see
from analysis.image_files import BadImage, from_gray
from rundir.network import held_out_of, load_network
from rundir.run import Run
from utils import UserError, atomically, progress_bar

CALIBRATION = 1_000  # digits that set the threshold
FILE = "calibration.json"
BETWEEN = 0.25  # a digit lies between two centers if it is within this share of their distance from the middle


@dataclass(frozen=True)
class Prediction:
    """The answer of a run for one image."""

    digit: int
    known: bool
    confidence: float  # percent
    distance: float  # to the center of that digit
    second: int  # the second best digit
    second_confidence: float  # percent
    between: bool  # whether the feature lies between the centers of the two
    feature: np.ndarray  # (D,)


@dataclass(frozen=True)
class Calibration:
    """Distances of digits from the centers of their predicted classes; calibration.json in a run directory."""

    of: str  # hash of the checkpoint, the centers and `READING`; the calibration is valid for these only
    held_out: bool  # whether the digits were kept out of training
    distances: Annotated[list[float], msgspec.Meta(min_length=1)]  # ascending


class Reader:
    """A finished run, ready to read digits.

    An image is unknown if its feature lies farther from the center of the predicted digit than the threshold, which
    `reject` percent of the digits that the run held out of training (main.py --hold-out) exceed. These are prepared
    with `see`, like a person's own image. A run without held-out digits is calibrated on digits it was trained on.
    These lie closer, so more new images are unknown.

    Raises:
        UserError: if the run is damaged, its centers are not finite, or nothing can be seen on its training images.
    """

    def __init__(self, run: Run, device: torch.device, reject: float = 1.0) -> None:
        self.device = device
        self.network = load_network(run, device)
        self.classes = np.array(run.classes)
        self.centers = run.arrays["centers"]
        if not np.isfinite(self.centers).all():
            raise UserError(f"{run.path}: has centers that are not finite; it cannot read digits")
        self.calibration, self.reject = self._calibrate(run), reject
        self.threshold = float(np.quantile(self.calibration.distances, 1 - reject / 100))

    def read(self, digits: np.ndarray) -> list[Prediction]:
        """Return the prediction for each digit, uint8 (N, 28, 28) as in `Seen`."""
        features, logits, distances = self._evaluate(digits)
        shares, labels = logits.softmax(dim=1).topk(2, dim=1)
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

    def _evaluate(self, digits: np.ndarray) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """Return features and logits of digits, and the distances from the predicted centers."""
        features, logits = (made.cpu() for made in self.network.outputs(torch.from_numpy(digits).to(self.device)))
        own = self.centers[logits.argmax(dim=1).numpy()]
        return features.numpy(), logits, np.linalg.norm(features.numpy() - own, axis=1)

    def _calibrate(self, run: Run) -> Calibration:
        """Return the calibration in the run directory; make and save it if it is missing."""
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
                digits.append(see(from_gray(image)).digit)
        if not digits:
            raise UserError(f"{run.path}: no digit can be seen on its training images; are their gray levels 0 to 255?")
        *_, distances = self._evaluate(np.array(digits))
        made = Calibration(key, len(held) > 0, np.sort(distances).round(4).tolist())
        with contextlib.suppress(OSError), atomically(run.path / FILE) as unfinished:  # the run may be read-only
            unfinished.write_bytes(msgspec.json.encode(made))
        return made


def read_calibration(path: Path) -> Calibration | None:
    """Return the calibration in a run directory, or None if it is missing or damaged."""
    file = path / FILE
    try:
        if not file.is_file() or file.is_symlink() or file.stat().st_size > 1 << 20:
            return None
        return msgspec.json.decode(file.read_bytes(), type=Calibration)
    except (OSError, ValueError, RecursionError):  # msgspec raises the last two
        return None
