"""Runs that a comparison can be made of, by name; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.heads import HEADS

OTHERS = [name for name in HEADS if name != "softmax"]
LOSSES: dict[
    str, tuple[str | None, bool]
] = {  # name: head, or None for the recipe's, and whether the center loss is added
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
    """A run that a comparison needs: `flags` for main.py, a `name` for its directory, a `row` of the table."""

    name: str
    flags: list[str]
    path: Path | None = None  # where it is, or will be
    row: str = ""

    @property
    def place(self) -> Path:
        """The path, once it is known."""
        assert self.path is not None
        return self.path

    @property
    def log(self) -> Path:
        """What main.py prints, beside the run's directory."""
        return self.place.with_name(f"{self.place.name}.out")
