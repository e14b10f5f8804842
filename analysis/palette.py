"""The colors of classes, runs and scores, the same in figures, report and page."""

from __future__ import annotations

from collections.abc import Iterable

# The first ten are at least 0.15 apart in OKLab (Ottosson 2020), also as people without red or green cones see them
# (Machado et al. 2009); digits that are often confused, like 1 and 9 or 3 and 8, are 0.26 apart. Each further color is
# the farthest from those before it. All have a contrast of at least 3:1 on white, and lightened on the dark page.
_CODES = """
988acb 950800 c94509 d82bff b44096 52a378 79079f 1425e3 15514d c28909 0770b7 0a7901 20257e 7d50f9 fe4d81 7b6563 5d1347
0097fe 4b2900 514985 bc7778 f402b7 008076 911763 0ea801 605605 a70dd1 fc610b 83780d d56cd3 0561ff d9005a 6405dc 7a5fb4
4394b3 6d3f47 063b08 24324a 954908 055800 a677ff 8a9d00 0b42a9 520c7c a74057 fc051f 430daf 4d4ece 948b66 ab55d2 5f77e4
0e657e 6e0509 807c98 81497b a76938 b36ba6 0405aa a10397 149249 bc0017 1a6a46 0e4677 d1537b 7c3ac1 8b00f4 cd09c1 aa39fe
42440c f447e8 4735fc b7066c 6f2575 d16908 723100 d7078c 5e6289 e76c6d 606f45 493366 9f627b 4e5360 5638aa 5f8865 7d193c
51303c dd4dab ce64ff 9a9199 0888d4 f80987 9243a2 5d77b4 2d3728 1f589b 708feb 9670cc a4013c e46b9e 05958e
"""
LIGHTER = 0.38  # of the way to white


def _lighter(color: str) -> str:
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + LIGHTER * (255 - part)):02x}" for part in parts)


COLORS = tuple(f"#{code}" for code in _CODES.split())  # on white
ON_DARK = tuple(map(_lighter, COLORS))
WRONG_RIGHT = {"light": ("#c2185b", "#0b5fb0"), "dark": ("#ff6f9f", "#7db8f5")}
SURE = {  # from 50 to 99.99 %
    "light": ("#c9480f", "#a8632f", "#7a6a55", "#4a5f86", "#1f4e9c"),
    "dark": ("#ff8a50", "#f0a878", "#d8c3b0", "#9fc0e8", "#5fa3f0"),
}


def colors_of(classes: Iterable[int], palette: tuple[str, ...] = COLORS) -> list[str]:
    """Return the color of each class by its original label, so that a digit has the same color everywhere."""
    return [palette[label % len(palette)] for label in classes]
