"""What belongs to a page and not to the digit on it: ruled lines, frames, edges of a scan, punched holes, the table."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SHEET_SIDE = 0.3  # of a picture's side: the least that a sheet of paper on a table takes
THICKEST = 0.03  # of a picture's shorter side: a thicker line is a stroke
SLOPES = (-0.2, -0.1, 0.0, 0.1, 0.2)  # of lines that are looked for; between them the line's width is tolerance enough
DARKER = 1.4  # times: so much more ink must stand out than lines do, to be told from them by that
MANY = 4  # parallel lines across a picture are no digit
LEAST = 0.04  # of a picture's longer side: what is smaller is dust
ALL_AROUND = np.ones((3, 3))

# ---------------------------------------------------------------- ruled lines


def without_lines(contrast: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return contrast without the page's thin straight lines, and whether they cannot be told from the ink.

    A page's line runs on beyond what else is drawn, on both sides, as no stroke of a digit does; or it is one
    of many. Where it crosses a stroke, the stroke is closed again.

    Args:
        contrast: distance from the ground, (H, W).
        mask: what stands out from it, bool (H, W).
    """
    across, down = _straight(mask), _straight(mask.T)
    rest = _large(mask & ~_drawn(across, mask.shape) & ~_drawn(down, mask.T.shape).T)
    if not rest.any() and min(len(across), len(down)) < 2:  # ruled lines, and a "1" that is as straight
        across, down = (across, []) if len(across) > len(down) else ([], down)
        rest = _large(mask & ~_drawn(across, mask.shape) & ~_drawn(down, mask.T.shape).T)
    if not rest.any():
        return contrast, len(across) + len(down) >= MANY
    ink = float(np.quantile(contrast[rest], 0.9))
    if not _rectangle(across, down):
        across, down = _beyond(across, rest), _beyond(down, rest.T)
    stroke = 4 * float(ndimage.distance_transform_edt(rest)[rest].mean())
    alike = False  # whether lines are nearly as wide as strokes, and as dark
    if across:
        alike |= _alike(contrast, across, ink, stroke)
        contrast = _erased(contrast, across, ink)
    if down:
        alike |= _alike(contrast.T, down, ink, stroke)
        contrast = _erased(contrast.T, down, ink).T
    return contrast, alike


Line = tuple[np.ndarray, int, int, float]  # its row at each column, first and last column, width


def _straight(mask: np.ndarray) -> list[Line]:
    """Return the thin, nearly horizontal lines of a mask that take half of its width, or run from border to border."""
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
        strokes = ndimage.grey_opening(runs, size=(thickest + 4, 1))  # where they cross lines, and join them
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
    """Return the polynomial through the middle of a thin part, first and last column, and width."""
    thickness = part.sum(axis=0)
    there = np.flatnonzero(thickness)
    if not len(there):
        return None
    typical = float(np.median(thickness[there]))
    thin = np.flatnonzero((thickness > 0) & (thickness <= 1.5 * typical))  # where no stroke lies on it
    if typical > thickest or len(thin) < 0.5 * part.shape[1]:
        return None
    middle = (np.arange(len(part))[:, None] * part).sum(axis=0)[thin] / thickness[thin]
    return np.polyfit(thin, middle, 1), int(there[0]), int(there[-1]), typical


def _joined(pieces: list[Line], shape: tuple[int, ...]) -> list[Line]:
    """Return the lines that pieces make: those nearly as long as the longest, and those that cut a corner."""
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
    ends = [[x < 4 or x > shape[1] - 5 or not 4 < row[x] < shape[0] - 5 for x in (a, b)] for row, a, b, _ in lines]
    return [line for line, end in zip(lines, ends, strict=True) if line[2] - line[1] > 0.8 * longest or all(end)]


def _drawn(lines: list[Line], shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels of lines, and of their blurred edges."""
    mask, y, x = np.zeros(shape, bool), np.arange(shape[0])[:, None], np.arange(shape[1])
    for row, first, last, width in lines:
        mask |= (np.abs(y - row) <= width / 2 + 1) & (x >= first - 2) & (x <= last + 2)
    return mask


def _beyond(lines: list[Line], rest: np.ndarray) -> list[Line]:
    """Return the lines that run on beyond the rest on both sides, or all if they are many."""
    columns = np.flatnonzero(rest.any(axis=0))
    margin = 0.04 * rest.shape[1]
    inside = [line for line in lines if line[1] < columns[0] - margin and line[2] > columns[-1] + margin]
    return lines if len(lines) >= MANY else inside


def _rectangle(across: list[Line], down: list[Line]) -> bool:
    """Return whether there are two lines each way, which end where the others are."""
    if len(across) != 2 or len(down) != 2:
        return False
    for lines, others in ((across, down), (down, across)):
        sides = sorted(float(np.median(row[first:last])) for row, first, last, _ in others)
        off = max(max(abs(first - sides[0]), abs(last - sides[1])) for _, first, last, _ in lines)
        if off > 0.06 * (sides[1] - sides[0]):
            return False
    return True


def _level(contrast: np.ndarray, lines: list[Line]) -> float:
    """Return how far lines stand out from the ground."""
    at = [row.round().astype(int).clip(0, len(contrast) - 1) for row, *_ in lines]
    along = (contrast[row, np.arange(len(row))][line[1] : line[2]] for row, line in zip(at, lines, strict=True))
    return float(np.median(np.concatenate(list(along))))


def _alike(contrast: np.ndarray, lines: list[Line], ink: float, stroke: float) -> bool:
    """Return whether many lines are as dark as ink and nearly as wide as a stroke."""
    width = float(np.median([width for *_, width in lines]))
    return len(lines) >= MANY and width > 0.4 * stroke and ink < DARKER * _level(contrast, lines)


def _erased(contrast: np.ndarray, lines: list[Line], ink: float) -> np.ndarray:
    """Return contrast without lines: on them there is ink where it is above and below, or where it is darker."""
    on, level = _drawn(lines, contrast.shape), _level(contrast, lines)
    width = 2 * int(max(width for *_, width in lines) / 2 + 2) + 1
    closed = ndimage.grey_closing(np.where(on, 0, contrast), size=(width + 2, 1))
    darker = np.where((contrast > (level + ink) / 2) & (ink > DARKER * level), contrast, 0)
    return np.where(on, np.maximum(closed, darker), contrast)


# ---------------------------------------------------------------- frames, edges, holes


def without_furniture(contrast: np.ndarray, mask: np.ndarray, cut_off: bool = False) -> np.ndarray:
    """Return contrast without frames around what is drawn, dark edges of a scan, and punched holes beside it.

    Args:
        contrast: distance from the ground, (H, W).
        mask: what stands out from it, bool (H, W).
        cut_off: whether all that touches the picture's border goes, too, if the largest part does not.
    """
    parts, _ = ndimage.label(mask, ALL_AROUND)
    boxes = dict(enumerate(ndimage.find_objects(parts), 1))
    boxes = {i: box for i, box in boxes.items() if max(_size(box)) >= LEAST * max(mask.shape)}
    gone: set[int] = set()
    for rule in (_frames, _edges, _holes) + (_cut_off,) * cut_off:
        if len(boxes) > 1 and len(found := rule(parts, boxes)) < len(boxes):
            gone |= found
            boxes = {i: box for i, box in boxes.items() if i not in found}
    if not gone:
        return contrast
    blurred = ndimage.binary_dilation(np.isin(parts, list(gone)), ALL_AROUND, iterations=2)
    return np.where(blurred & ~np.isin(parts, list(boxes)), 0, contrast)


Box = tuple[slice, slice]


def _size(box: Box) -> tuple[int, int]:
    return box[0].stop - box[0].start, box[1].stop - box[1].start


def _frames(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts that enclose others: rectangles, or as wide as tall, thin, and not only around a dot."""
    found = set()
    for i, box in boxes.items():
        own = np.pad(parts[box] == i, 2)
        whole = ndimage.binary_fill_holes(ndimage.binary_dilation(own))[2:-2, 2:-2]
        inside = set(np.unique(parts[box][whole & (parts[box] != i)])) & boxes.keys()
        largest = max((max(_size(boxes[other])) for other in inside), default=0)
        if largest < 0.2 * max(_size(box)) or own.sum() > 0.5 * whole.sum():
            continue
        if min(_size(box)) > 0.75 * max(_size(box)) or whole.sum() > 0.88 * smallest_box(whole):
            found.add(i)
    return found


def _edges(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts that lie along the picture's border, where something lies clear of it."""
    height, width = parts.shape
    rim = max(2, min(height, width) // 10)
    deep = np.zeros(parts.shape, bool)
    deep[rim:-rim, rim:-rim] = True
    clear = np.zeros(parts.shape, bool)
    clear[1:-1, 1:-1] = True
    found = set()
    for i, (rows, columns) in boxes.items():
        part = parts[rows, columns] == i
        if (part & clear[rows, columns]).sum() == part.sum():
            continue
        on = np.zeros(parts.shape, bool)
        on[rows, columns] = part
        contact = max(side.mean() for side in (on[0], on[-1], on[:, 0], on[:, -1]))
        flat = (part & deep[rows, columns]).sum() < 0.05 * part.sum()
        if contact > 0.8 or (flat and contact > 0.3):
            found.add(i)
    rest = [box for i, box in boxes.items() if i not in found]
    largest = max(rest, key=lambda box: max(_size(box)), default=None)
    if largest is None or not clear[largest].all():
        return set()
    return found


def _cut_off(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts that touch the picture's border, if the largest does not."""
    height, width = parts.shape
    clear = {i for i, (y, x) in boxes.items() if min(y.start, x.start) > 0 and y.stop < height and x.stop < width}
    return boxes.keys() - clear if max(boxes, key=lambda i: max(_size(boxes[i]))) in clear else set()


def _holes(parts: np.ndarray, boxes: dict[int, Box]) -> set[int]:
    """Return the parts that are solid discs, or rings of one size one below the other near a side."""
    discs, rings = set(), dict[int, tuple[float, float, int]]()
    for i, box in boxes.items():
        height, width = _size(box)
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
            near = min(place, parts.shape[axis] - place) < 0.25 * parts.shape[axis]
            others = (ring for other, ring in rings.items() if other != i)
            if near and any(abs(o[axis] - place) < 0.3 * size and abs(o[2] - size) < 0.08 * size for o in others):
                discs.add(i)
    return discs


def looks_like(mask: np.ndarray) -> str:
    """Return what a drawing is if it is none: "a grid", "a box", "a frame"; or nothing.

    A box is a thin rectangle nearly as wide as tall, a frame runs along the picture's border.
    """
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if border.mean() > 0.5:
        return "a frame"
    parts, _ = ndimage.label(mask, ALL_AROUND)
    areas = np.bincount(parts.ravel())[1:]
    number = 1 + int(areas.argmax())
    box = ndimage.find_objects(parts)[number - 1]
    height, width = _size(box)
    whole = ndimage.binary_fill_holes(parts[box] == number)
    _, count = ndimage.label(whole & (parts[box] != number))
    thin = areas[number - 1] < 0.4 * whole.sum()
    if not thin or whole.sum() < 0.9 * smallest_box(whole):
        return ""
    if count >= 2 * MANY:
        return "a grid"
    return "a box" if min(height, width) > 0.7 * max(height, width) else ""


# ---------------------------------------------------------------- a sheet on a table


def sheet(mask: np.ndarray) -> Box | None:
    """Return a rectangle well inside what stands out from the ground, where that is a sheet of paper with
    something on it: large, four-cornered, solid, and not even."""
    parts, _ = ndimage.label(mask)
    areas = np.bincount(parts.ravel())[1:]
    whole = ndimage.binary_fill_holes(parts == 1 + int(areas.argmax()))
    least = SHEET_SIDE * np.array(mask.shape)
    if whole.sum() < least.prod() or whole.sum() < 0.85 * smallest_box(whole):
        return None
    if whole.sum() - areas.max() < 4 or areas.max() < 0.5 * whole.sum():  # nothing is drawn on it, or a frame
        return None
    rows, columns = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    while not whole[top:bottom, left:right].all():  # a sheet that lies askew: away with the side that shows most table
        left_over = whole[top:bottom, left:right]
        edges = (left_over[0], left_over[-1], left_over[:, 0], left_over[:, -1])
        worst = int(np.argmin([edge.mean() for edge in edges]))
        top, bottom, left, right = top + (worst == 0), bottom - (worst == 1), left + (worst == 2), right - (worst == 3)
        if bottom - top < least[0] or right - left < least[1]:
            return None
    rim = 1 + min(bottom - top, right - left) // 40  # the paper's blurred edge
    return np.s_[top + rim : bottom - rim, left + rim : right - rim]


def smallest_box(mask: np.ndarray) -> float:
    """Return the area of the smallest rectangle around a mask, at whichever angle."""
    y, x = np.nonzero(mask & ~ndimage.binary_erosion(mask))  # its edge
    angles = np.linspace(0, np.pi / 2, 46)[:, None]
    along, across = x * np.cos(angles) + y * np.sin(angles), y * np.cos(angles) - x * np.sin(angles)
    return float(((np.ptp(along, axis=1) + 1) * (np.ptp(across, axis=1) + 1)).min())


def _large(mask: np.ndarray) -> np.ndarray:
    """Return the parts of a mask that are no crumbs, beside its largest or the picture."""
    parts, _ = ndimage.label(mask, ALL_AROUND)
    areas = np.bincount(parts.ravel())[1:]
    sizes = np.array([max(_size(box)) for box in ndimage.find_objects(parts)])
    if not len(areas):
        return mask
    large = (areas >= 0.05 * areas.max()) & (sizes >= LEAST * max(mask.shape))
    return np.isin(parts, 1 + np.flatnonzero(large))
