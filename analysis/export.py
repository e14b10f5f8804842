"""A finished run as an ONNX file, for programs that know neither torch nor this project: predict.py --export."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.reader import Reader
from rundir.run import Run
from training.building import build_network
from training.trainer import Network
from utils import UserError, atomically

OUTPUTS = ("features", "probabilities", "distances")


class Exported(nn.Module):
    """Gray images (N, 1, 28, 28), from 0 (ground) to 1 (ink), to features (N, D), probabilities (N, C) and distances
    to the centers (N, C); all float32."""

    centers: Tensor

    def __init__(self, network: Network, centers: Tensor) -> None:
        super().__init__()
        self.model, self.head = network.model, network.head
        self.mean, self.std = network.pixel_mean, network.pixel_std
        self.register_buffer("centers", centers.float())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.model((255 * images - self.mean) / self.std)
        gaps = features.unsqueeze(1) - self.centers
        return features, self.head(features).softmax(dim=1), gaps.square().sum(dim=2).sqrt()


def export(path: Path, run: Run, reader: Reader) -> None:
    """Write a run as ONNX, for batches of any size. The metadata hold the classes, in the order of the probabilities,
    and the distance beyond which an image is unknown.

    Raises:
        UserError: if the packages that write ONNX are missing, or cannot write the run.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        how = f"pip install onnx onnxscript ({error})"
        raise UserError(f"--export needs the packages onnx and onnxscript: {how}") from None
    network = build_network(run.settings, len(run.classes), contextlib.nullcontext)  # torch's own layers
    network.model.load_state_dict(reader.network.model.state_dict())
    network.head.load_state_dict(reader.network.head.state_dict())
    exported = Exported(network, torch.from_numpy(reader.centers)).eval()
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with atomically(path) as unfinished, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about itself
        shapes: Any = {"input_names": ["images"], "output_names": OUTPUTS, "dynamic_shapes": ({0: batch},)}
        try:
            program = torch.onnx.export(exported, (torch.zeros(2, 1, 28, 28),), **shapes, dynamo=True, verbose=False)
        except torch.onnx.OnnxExporterError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"--export: {run.path}: torch {torch.__version__} cannot export it: {reason}") from None
        assert program is not None
        proto = program.model_proto  # a new object at every access
        metadata = {
            "classes": json.dumps(reader.classes.tolist()),
            "unknown_beyond": f"{reader.threshold:.6g}",
            "images": "float32 (batch, 1, 28, 28), ground 0, ink 1; digits centered as in MNIST",
        }
        onnx.helper.set_model_props(proto, metadata)
        onnx.save(proto, str(unfinished))
