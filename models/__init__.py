"""Networks by name: `create("lenet++", …)` turns images into features."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.fourier import through_frequency
from models.lenet_pp import LeNetPP, SoftmaxHead, spread_directions

__all__ = ["NAMES", "LeNetPP", "SoftmaxHead", "create", "spread_directions", "through_frequency"]

NAMES = {"lenet++": LeNetPP, "cnn": LeNetPP}  # "cnn" is what familiar command lines call it


def create(name: str, **settings: Any) -> nn.Module:
    """Return the network of that name; the settings are its constructor's.

    Raises:
        ValueError: for a name that is not in `NAMES`.
    """
    if name not in NAMES:
        raise ValueError(f"model must be one of {', '.join(NAMES)}; got {name!r}")
    return NAMES[name](**settings)
