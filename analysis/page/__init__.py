"""draw.html, a page on which a person draws a digit and watches it fly to its center."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader

import datasets
from analysis.epochs import limits, name_runs
from analysis.palette import ON_DARK, colors_of
from analysis.reader import Reader
from analysis.regions import regions
from models.heads import HEADS
from models.lenet_pp import LeNetPP
from rundir.network import data_of, data_root
from rundir.run import Run
from utils import UserError, atomically

HERE = Path(__file__).parent
POINTS = 3_000  # test features that the plane shows


def write_page(path: Path, runs: list[Run], readers: list[Reader]) -> None:
    """Write the page, one file that works offline, for networks with two features; its examples are from the last run.

    Raises:
        UserError: for a run with more or fewer features.
    """
    for run in runs:
        if run.settings.feat_dim != 2:
            raise UserError(f"{run.path}: --page needs a run with two features; it has {run.settings.feat_dim}")
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("page.html").render(
        names=name_runs(runs),
        worker=(HERE / "worker.js").read_text(encoding="utf-8"),
        data={
            "code": _base64((HERE / "lenet.wasm").read_bytes()),
            "networks": [network_of(run, reader) for run, reader in zip(runs, readers, strict=True)],
            "examples": [_base64(digit.tobytes()) for digit in examples(runs[-1])],
        },
    )
    with atomically(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8", errors="backslashreplace")  # a path may not be UTF-8


def examples(run: Run) -> np.ndarray:
    """Return a test image of each class, uint8 (at most C, 28, 28); a class without one is left out. If the data set is
    missing, MNIST is replaced by mnist5k, and other data sets give no images."""
    if datasets.is_there(run.settings.dataset, data_root(run.plan)):
        data = data_of(run)
    elif run.settings.dataset == "mnist":
        data = datasets.load("mnist5k", data_root(run.plan)).only(run.classes)
    else:
        return np.zeros((0, 28, 28), np.uint8)
    return np.stack([data.test_images[data.test_labels == label][0].numpy() for label in data.test_labels.unique()])


def network_of(run: Run, reader: Reader) -> dict[str, object]:
    """Return a network for the page: weights in half precision, the points of the plane, the border of the unknown."""
    model = reader.network.model
    assert isinstance(model, LeNetPP)
    convolutions = [layer for layer in model.stages if isinstance(layer, torch.nn.Conv2d)]
    slopes = [layer.weight.item() for layer in model.stages if isinstance(layer, torch.nn.PReLU)]
    kernels = [layer.weight.detach().permute(2, 3, 1, 0).cpu().numpy() for layer in convolutions]  # (5, 5, C, C')
    weights = np.concatenate([kernel.ravel() for kernel in kernels]).astype(np.float16)
    of_maps = model.fc.weight.detach().cpu().view(2, 128, 3, 3).permute(0, 2, 3, 1).flatten(1)  # (2, 3·3·128)
    features, labels = run.arrays["test_features"].astype(float), run.arrays["test_labels"]
    chosen = np.random.default_rng(0).permutation(len(labels))[:POINTS]
    corners = np.transpose(limits([features, reader.centers.astype(float)]))
    reach = min(reader.threshold, np.ptp(corners[:, 0]) / 4)  # whole circles around the centers fit in, if not huge
    around = np.concatenate([corners, reader.centers - reach, reader.centers + reach])
    middle, half = (around.max(0) + around.min(0)) / 2, 0.52 * np.ptp(around, axis=0).max()
    (left, bottom), (right, top) = middle - half, middle + half
    head = reader.network.decision().cpu().numpy()  # (C, 3)
    shapes = regions(head, reader.centers, reader.threshold, reach=float(np.abs([left, right, bottom, top]).max()))
    return {
        "about": f"{run.dataset}, {run.epochs} epoch{'s' * (run.epochs > 1)}, test accuracy {run.accuracy:.2f} %",
        "classes": list(run.classes),
        "colors": {"light": colors_of(run.classes), "dark": colors_of(run.classes, ON_DARK)},
        "weights": _base64(weights.tobytes()),
        "biases": [layer.bias.tolist() for layer in convolutions if layer.bias is not None],
        "slopes": slopes,
        "overlapping": run.settings.overlapping_pool,
        "feature": [{"weight": w.tolist(), "bias": b} for w, b in zip(of_maps, model.fc.bias.tolist(), strict=True)],
        "featureSlope": model.fc_prelu.weight.item() if isinstance(model.fc_prelu, torch.nn.PReLU) else None,
        "mean": run.settings.pixel_mean,
        "std": run.settings.pixel_std,
        "head": head.tolist(),
        "cosine": reader.network.head.s if HEADS[run.settings.head].cosine else None,
        "centers": reader.centers.astype(float).round(4).tolist(),
        "threshold": reader.threshold,
        "reject": reader.reject,
        "heldOut": reader.calibration.held_out,
        "regions": {part: [shape.round(4).tolist() for shape in every] for part, every in shapes.items()},
        "limits": [float(end) for end in (left, right, bottom, top)],
        "points": np.column_stack([features[chosen].round(3), labels[chosen]]).tolist(),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
