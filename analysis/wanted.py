"""The runs that a comparison can need, by name; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.heads import HEADS

OTHERS = [name for name in HEADS if name != "softmax"]
Loss = tuple[str | None, bool]  # the head, None for the recipe's, and whether the center loss is added
LOSSES: dict[str, Loss] = {
    "softmax": ("softmax", False),
    "center": (None, True),
    **{name: (name, False) for name in OTHERS},
    **{f"{name}+center": (name, True) for name in OTHERS},
}
SPLITS = (  # the literature's five choices of known digits, see docs/comparing.md
    (2, 4, 5, 9, 8, 3),
    (3, 2, 6, 9, 4, 0),
    (5, 8, 3, 2, 4, 6),
    (3, 7, 8, 4, 0, 5),
    (6, 3, 4, 9, 8, 2),
)


@dataclass
class Wanted:
    """A run that a comparison needs."""

    name: str  # of its directory
    flags: list[str]  # of main.py
    path: Path | None = None  # of its directory, once `sweep.find` has set it
    row: str = ""  # of the table

    @property
    def place(self) -> Path:
        """The path, after `sweep.find`."""
        assert self.path is not None
        return self.path

    @property
    def log(self) -> Path:
        """The file with the output of main.py, beside the run directory."""
        return self.place.with_name(f"{self.place.name}.out")
