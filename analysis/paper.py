"""Things around a digit that do not belong to it: frames, edges of a scan, punched holes, a table."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SHEET_SIDE = 0.3  # the least side of a sheet of paper on a table, over the picture's side
CELLS = 8  # holes in a thin rectangle, or solid squares, that make a grid
LEAST = 0.04  # of the picture's longer side; smaller parts are dust
ALL_AROUND = np.ones((3, 3))

Box = tuple[slice, slice]


def size_of(box: Box) -> tuple[int, int]:
    return box[0].stop - box[0].start, box[1].stop - box[1].start


def large(mask: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Return the mask without parts that are small compared to the largest, or shorter than `least` pixels."""
    parts, _ = ndimage.label(mask, ALL_AROUND)
    areas = np.bincount(parts.ravel(), minlength=2)[1:]
    sizes = np.array([max(size_of(box)) for box in ndimage.find_objects(parts)] or [0])
    return np.isin(parts, 1 + np.flatnonzero((areas >= 0.05 * areas.max()) & (sizes >= least))) & mask


# ---------------------------------------------------------------- frames, edges, holes


def without_furniture(contrast: np.ndarray, mask: np.ndarray, cut_off: bool = False) -> np.ndarray:
    """Return contrast without frames around the drawing, dark edges of a scan, and punched holes.

    Args:
        contrast: distance from the ground, (H, W).
        mask: the pixels that stand out from it, bool (H, W).
        cut_off: whether to remove also all parts that touch the picture's border, if the largest does not.
    """
    parts, _ = ndimage.label(mask, ALL_AROUND)
    boxes = dict(enumerate(ndimage.find_objects(parts), 1))
    boxes = {i: box for i, box in boxes.items() if max(size_of(box)) >= LEAST * max(mask.shape)}
    gone: set[int] = set()
    for rule in (_frames, _edges, _holes) + (_cut_off,) * cut_off:
        if len(boxes) > 1 and len(found := rule(parts, boxes)) < len(boxes):
            gone |= found
            boxes = {i: box for i, box in boxes.items() if i not in found}
    if not gone:
        return contrast
    blurred = ndimage.binary_dilation(np.isin(parts, list(gone)), ALL_AROUND, iterations=2)
    return np.where(blurred & ~np.isin(parts, list(boxes)), 0, contrast)


def _frames(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts that are frames: thin, rectangular or about as wide as tall, around more than a dot."""
    found = set()
    for i, box in boxes.items():
        own = np.pad(parts[box] == i, 2)
        whole = ndimage.binary_fill_holes(ndimage.binary_dilation(own))[2:-2, 2:-2]
        inside = set(np.unique(parts[box][whole & (parts[box] != i)])) & boxes.keys()
        largest = max((max(size_of(boxes[other])) for other in inside), default=0)
        if largest < 0.2 * max(size_of(box)) or own.sum() > 0.5 * whole.sum():
            continue
        if min(size_of(box)) > 0.75 * max(size_of(box)) or whole.sum() > 0.88 * smallest_box(whole):
            found.add(i)
    return found


def _edges(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts along the picture's border, if the longest other part does not touch it."""
    rim = max(2, min(parts.shape) // 10)
    found = set()
    for i in boxes.keys() - _clear(parts, boxes):
        part = parts == i
        contact = max(side.mean() for side in (part[0], part[-1], part[:, 0], part[:, -1]))
        flat = part[rim:-rim, rim:-rim].sum() < 0.05 * part.sum()
        if contact > 0.8 or (flat and contact > 0.3):
            found.add(i)
    rest = {i: box for i, box in boxes.items() if i not in found}
    return found if rest and _longest(rest) in _clear(parts, rest) else set()


def _cut_off(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts that touch the picture's border, if the longest does not."""
    clear = _clear(parts, boxes)
    return boxes.keys() - clear if _longest(boxes) in clear else set()


def _clear(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts that do not touch the picture's border."""
    height, width = parts.shape
    return {i for i, (y, x) in boxes.items() if min(y.start, x.start) > 0 and y.stop < height and x.stop < width}


def _longest(boxes: dict[int, Box]) -> int:
    return max(boxes, key=lambda i: max(size_of(boxes[i])))


def _holes(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts that are solid discs, or rings of one size in a line near a side."""
    discs, rings = set(), dict[int, tuple[float, float, int]]()
    for i, box in boxes.items():
        height, width = size_of(box)
        own = parts[box] == i
        whole = ndimage.binary_fill_holes(own)
        if min(height, width) < 0.85 * max(height, width) or not 0.70 < whole.mean() < 0.87:
            continue
        if own.sum() > 0.95 * whole.sum():
            discs.add(i)
        else:
            rings[i] = ((box[0].start + box[0].stop) / 2, (box[1].start + box[1].stop) / 2, max(height, width))
    for i, (y, x, size) in rings.items():
        for axis, place in enumerate((y, x)):
            others = [ring for other, ring in rings.items() if other != i and abs(ring[2] - size) < 0.08 * size]
            near = min(place, parts.shape[axis] - place) < 0.25 * parts.shape[axis]
            if near and any(abs(other[axis] - place) < 0.3 * size for other in others):
                discs.add(i)
    return discs


def looks_like(mask: np.ndarray) -> str:
    """Return "a grid", "a box" or "a frame" if the mask is one instead of a drawing; else an empty string.

    A box is a thin rectangle nearly as wide as tall; a frame runs along the picture's border.
    """
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if border.mean() > 0.5:
        return "a frame"
    parts, _ = ndimage.label(mask, ALL_AROUND)
    areas = np.bincount(parts.ravel())[1:]
    boxes = ndimage.find_objects(parts)
    sizes = np.array([size_of(box) for box in boxes])
    cells = (areas > 0.8 * sizes.prod(axis=1)) & (2 * sizes.min(axis=1) > sizes.max(axis=1))  # the ground of a grid
    if cells.sum() >= max(CELLS, 0.5 * len(boxes)):
        return "a grid"
    number = 1 + int(areas.argmax())
    box = boxes[number - 1]
    height, width = sizes[number - 1]
    whole = ndimage.binary_fill_holes(parts[box] == number)
    _, count = ndimage.label(whole & (parts[box] != number))
    thin = areas[number - 1] < 0.4 * whole.sum()
    if not thin or whole.sum() < 0.9 * smallest_box(whole):
        return ""
    if count >= CELLS:
        return "a grid"
    return "a box" if min(height, width) > 0.7 * max(height, width) else ""


# ---------------------------------------------------------------- a sheet on a table


def sheet(mask: np.ndarray, solid: bool = True) -> Box | None:
    """Return a rectangle well inside the largest part of a mask, if that is a sheet of paper with something on it:
    large, four-cornered, solid, not empty. With `solid` off it may be a box, neither large nor solid."""
    parts, _ = ndimage.label(mask)
    areas = np.bincount(parts.ravel())[1:]
    largest = parts == 1 + int(areas.argmax())
    whole = ndimage.binary_fill_holes(largest)
    least = (SHEET_SIDE if solid else LEAST) * np.array(mask.shape)
    if whole.sum() < least.prod() or whole.sum() < 0.85 * smallest_box(whole):
        return None
    if whole.sum() - areas.max() < 4 or (solid and areas.max() < 0.5 * whole.sum()):  # empty, or a frame
        return None
    if solid and _is_zero(whole, whole & ~largest):
        return None
    rows, columns = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    while not whole[top:bottom, left:right].all():  # the sheet is turned: cut the side that shows most of the table
        left_over = whole[top:bottom, left:right]
        edges = (left_over[0], left_over[-1], left_over[:, 0], left_over[:, -1])
        worst = int(np.argmin([edge.mean() for edge in edges]))
        top, bottom, left, right = top + (worst == 0), bottom - (worst == 1), left + (worst == 2), right - (worst == 3)
        if bottom - top < least[0] or right - left < least[1]:
            return None
    rim = 1 + min(bottom - top, right - left) // 40  # the blurred edge of the paper
    return np.s_[top + rim : bottom - rim, left + rim : right - rim]


def _is_zero(whole: np.ndarray, hole: np.ndarray) -> bool:
    """Return whether the hole of a shape is solid and equally far from all four sides, as in a bold 0."""
    box, around = ndimage.find_objects(hole.astype(int))[0], ndimage.find_objects(whole.astype(int))[0]
    margins = [margin for a, b in zip(box, around, strict=True) for margin in (a.start - b.start, b.stop - a.stop)]
    solid = hole.sum() > max(0.1 * whole.sum(), 0.8 * smallest_box(hole))
    return solid and max(margins) <= 1.3 * min(margins) + 1


def smallest_box(mask: np.ndarray) -> float:
    """Return the area of the smallest rectangle around a mask, at any angle."""
    y, x = np.nonzero(mask & ~ndimage.binary_erosion(mask))  # the edge
    angles = np.linspace(0, np.pi / 2, 46)[:, None]
    along, across = x * np.cos(angles) + y * np.sin(angles), y * np.cos(angles) - x * np.sin(angles)
    return float(((np.ptp(along, axis=1) + 1) * (np.ptp(across, axis=1) + 1)).min())
