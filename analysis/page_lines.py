"""The lines of ruled and squared paper, found and removed from under a digit."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from analysis.paper import ALL_AROUND, LEAST, large

THICKEST = 0.03  # of the picture's shorter side; a thicker line is a stroke
SLOPES = (-0.2, -0.1, 0.0, 0.1, 0.2)  # that are tried; a line's width bridges the gaps between them
DARKER = 1.4  # contrast of ink over contrast of lines from which ink is recognized by its contrast
MANY = 4  # parallel lines that belong to the page, not to a digit


def without_lines(contrast: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return contrast without the page's thin straight lines, and whether there are only lines, and many.

    A line of the page runs beyond the drawing on both sides, unlike the strokes of a digit; or it is one of many.
    Where it crosses a stroke, the gap in the stroke is closed.

    Args:
        contrast: distance from the ground, (H, W).
        mask: the pixels that stand out from it, bool (H, W).
    """
    across, down = _straight(mask), _straight(mask.T)
    rest = _beside(across, down, mask)
    if not rest.any() and min(len(across), len(down)) < 2:  # ruled lines and a straight "1"
        across, down = (across, []) if len(across) > len(down) else ([], down)
        rest = _beside(across, down, mask)
    if not rest.any():
        return contrast, len(across) + len(down) >= MANY
    ink = float(np.quantile(contrast[rest], 0.9))
    for lines in (_beyond(across, rest), _beyond(down, rest.T)):
        contrast = (_erased(contrast, lines, ink) if lines else contrast).T
    return contrast, False


Line = tuple[np.ndarray, int, int, float]  # row at each column, first column, last column, width


def _straight(mask: np.ndarray) -> list[Line]:
    """Return the thin, nearly horizontal lines of a mask that span half of its width, or run from border to border."""
    width, thickest = mask.shape[1], max(3, round(THICKEST * min(mask.shape)))
    columns, found = np.arange(width), list[Line]()
    if mask.any(axis=0).sum() < width / 2:
        return []
    thicker = ndimage.binary_dilation(mask, np.ones((3, 1)))  # a line at any slope between two of those tried
    for slope in SLOPES:
        shift = np.round(slope * (columns - width / 2)).astype(int)
        pad = int(np.abs(shift).max())
        rows = (np.arange(len(mask) + 2 * pad)[:, None] + shift).clip(0, len(mask) + 2 * pad - 1)
        level, own = (np.take_along_axis(np.pad(one, ((pad, pad), (0, 0))), rows, axis=0) for one in (thicker, mask))
        closed = ndimage.grey_closing(level.astype(np.uint8), size=(1, 1 + 2 * (width // 100)))
        runs = ndimage.grey_opening(closed, size=(1, max(8, width // 8)))
        strokes = ndimage.grey_opening(runs, size=(thickest + 4, 1))  # they cross lines and would join them
        parts, _ = ndimage.label(runs & ~strokes & 1, ALL_AROUND)
        for number, (at, along) in enumerate(ndimage.find_objects(parts), 1):
            if along.stop - along.start < max(8, width // 8):
                continue
            if (line := _fitted(own[at, along] & (parts[at, along] == number), thickest)) is not None:
                fit, first, last, typical = line
                row = np.polyval(fit, columns - along.start) + at.start - pad + shift
                found.append((row, along.start + first, along.start + last, typical))
    return _joined(found, mask.shape)


def _fitted(part: np.ndarray, thickest: float) -> tuple[np.ndarray, int, int, float] | None:
    """Return the straight line through the middle of a thin part, first and last column, and width."""
    thickness = part.sum(axis=0)
    there = np.flatnonzero(thickness)
    if not len(there):
        return None
    typical = float(np.median(thickness[there]))
    thin = np.flatnonzero((thickness > 0) & (thickness <= 1.5 * typical + 1))  # columns without a stroke on the line
    if typical > thickest or len(thin) < 0.5 * part.shape[1]:
        return None
    middle = (np.arange(len(part))[:, None] * part).sum(axis=0)[thin] / thickness[thin]
    return np.polyfit(thin, middle, 1), int(there[0]), int(there[-1]), typical


def _joined(pieces: list[Line], shape: tuple[int, ...]) -> list[Line]:
    """Join pieces to lines; return those that are nearly as long as the longest, or run from border to border."""
    lines: list[Line] = []
    for row, first, last, width in sorted(pieces, key=lambda line: line[1] - line[2]):
        for number, (other, start, stop, wide) in enumerate(lines):
            if np.abs(row - other)[[first, last]].max() < 2 + wide:
                lines[number] = (other, min(first, start), max(last, stop), wide)
                break
        else:
            lines.append((row, first, last, width))
    longest = max((last - first for _, first, last, _ in lines), default=0)
    if longest < shape[1] / 2:
        return []
    long = [last - first > 0.8 * longest for _, first, last, _ in lines]
    ends = [[x < 4 or x > shape[1] - 5 or not 4 < row[x] < shape[0] - 5 for x in (a, b)] for row, a, b, _ in lines]
    cut = [all(end) or (any(end) and sum(long) >= MANY) for end in ends]  # short because of a corner or a stroke
    return [line for line, *why in zip(lines, long, cut, strict=True) if any(why)]


def _beside(across: list[Line], down: list[Line], mask: np.ndarray) -> np.ndarray:
    """Return the mask without the lines and without dust."""
    return large(mask & ~_drawn(across, mask.shape) & ~_drawn(down, mask.T.shape).T, LEAST * max(mask.shape))


def _drawn(lines: list[Line], shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels of lines, with their blurred edges."""
    mask, y, x = np.zeros(shape, bool), np.arange(shape[0])[:, None], np.arange(shape[1])
    for row, first, last, width in lines:
        mask |= (np.abs(y - row) <= width / 2 + 1) & (x >= first - 2) & (x <= last + 2)
    return mask


def _beyond(lines: list[Line], rest: np.ndarray) -> list[Line]:
    """Return the lines that run beyond the rest on both sides, or all if there are many."""
    columns = np.flatnonzero(rest.any(axis=0))
    margin = 0.04 * rest.shape[1]
    inside = [line for line in lines if line[1] < columns[0] - margin and line[2] > columns[-1] + margin]
    return lines if len(lines) >= MANY else inside


def _level(contrast: np.ndarray, lines: list[Line]) -> float:
    """Return the contrast of the darkest line."""
    peaks = ndimage.maximum_filter1d(contrast, 3, axis=0)  # the middle of a line may lie between two rows
    at = [row.round().astype(int).clip(0, len(contrast) - 1) for row, *_ in lines]
    along = (peaks[row, np.arange(len(row))][line[1] : line[2]] for row, line in zip(at, lines, strict=True))
    return max(float(np.median(one)) for one in along)


def _erased(contrast: np.ndarray, lines: list[Line], ink: float) -> np.ndarray:
    """Return contrast without lines. Ink on a line stays if it goes on above and below, or is darker than the line."""
    on, level = _drawn(lines, contrast.shape), _level(contrast, lines)
    width = 2 * int(max(width for *_, width in lines) / 2 + 2) + 1
    closed = ndimage.grey_closing(np.where(on, 0, contrast), size=(width + 2, 1))
    darker = np.where((contrast > (level + ink) / 2) & (ink > DARKER * level), contrast, 0)
    return np.where(on, np.maximum(closed, darker), contrast)
