"""The table of heads, features → logits: all that settings, tables, figures and pages need to know about each.

A new head is a class and a row here. The class is an ``nn.Module`` with a ``weight`` (C, D). Training calls
``head(features, labels)``, evaluation calls ``head(features)``. The constructor is called as
``cls(feat_dim, num_classes, s=scale, m=margin)``, without ``s`` or ``m`` if the row has no default for it; without
both it takes the arguments of `SoftmaxHead`. Nothing here imports torch: a command line is answered before that.
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
        label: its name in tables and figures.
        cosine: whether the largest cosine between feature and class weight decides, times a scale ``head.s``; without
            it, the largest weight·feature + bias decides.
        scale: default of ``--scale``, None for a head without a scale.
        margin: default of ``--margin``, None for a head without a margin.
        unit: unit of the margin.
        largest: largest legal margin.
        margins: the legal margins, in words.
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


# In two dimensions ten classes are 36° apart, so the default margins are smaller than those for faces.
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
    """Return the row of a head object."""
    return next(row for row in HEADS.values() if type(head) is row.load())


def with_margin() -> list[str]:
    """Return the names of the heads that take --scale or --margin."""
    return [name for name, row in HEADS.items() if row.scale is not None or row.margin is not None]


def defaults(what: str) -> str:
    """Return in words the default ``scale`` or ``margin`` of each head that takes one."""
    values = {name: getattr(row, what) for name, row in HEADS.items()}
    units = {name: f"{row.unit} for " if what == "margin" else "" for name, row in HEADS.items()}
    return ", ".join(f"{units[name]}{name} (default: {value:g})" for name, value in values.items() if value is not None)
