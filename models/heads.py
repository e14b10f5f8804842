"""The table of heads, features → logits: all that settings, tables, figures and pages need to know of each.

A new head is a class and a row here. The class is an ``nn.Module`` with a ``weight`` (C, D), called as
``head(features, labels)`` while it trains and as ``head(features)`` where it decides. It is made as
``cls(feat_dim, num_classes, s=scale, m=margin)``, with what its row has a default of; one without scale and margin
like `SoftmaxHead`. Nothing here imports torch: a command line is answered before that.
"""

from __future__ import annotations

import math
import pkgutil
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Head:
    """A row of the table.

    Attributes:
        cls: ``module:class``, imported when a head is made.
        label: what tables and figures call it.
        cosine: how it decides: by the largest cosine, times a scale ``head.s``, between feature and class weight, not
            by the largest weight·feature + bias.
        scale: default of ``--scale``, None for a head that takes none.
        margin: default of ``--margin``, None for a head that takes none.
        unit: what the margin is measured in.
        largest: margin that it takes.
        margins: which those are, in words.
    """

    cls: str
    label: str
    cosine: bool = False
    scale: float | None = None
    margin: float | None = None
    unit: str = ""
    largest: float = math.inf
    margins: str = ""

    def load(self) -> Any:
        """Return its class."""
        return pkgutil.resolve_name(self.cls)


# In two dimensions ten classes are 36° apart: margins are smaller than for faces.
HEADS = {
    "softmax": Head("models.lenet_pp:SoftmaxHead", "softmax"),
    "arcface": Head(
        "margin_heads:ArcFace", "ArcFace", True, 30.0, 0.2, "radians", math.pi / 2, "takes radians from 0 to π/2"
    ),
    "cosface": Head(
        "margin_heads:CosFace", "CosFace", True, 30.0, 0.1, "cosine", math.nextafter(2, 0), "takes less than 2"
    ),
}


def row_of(head: object) -> Head:
    """Return the row of a head that was made."""
    return next(row for row in HEADS.values() if type(head) is row.load())


def with_margin() -> list[str]:
    """Return the names of the heads that take --scale or --margin."""
    return [name for name, row in HEADS.items() if row.scale is not None or row.margin is not None]


def defaults(what: str) -> str:
    """Return the default ``scale`` or ``margin`` of each head that takes one, in words."""
    values = {name: getattr(row, what) for name, row in HEADS.items()}
    units = {name: f"{row.unit} for " if what == "margin" else "" for name, row in HEADS.items()}
    return ", ".join(f"{units[name]}{name} (default: {value:g})" for name, value in values.items() if value is not None)
