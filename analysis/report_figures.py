"""The scatter plots of the interactive page, with up to 20 epochs, 5,000 training and 10,000 test images."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import numpy as np
from bokeh.models import (
    BooleanFilter,
    CDSView,
    ColumnDataSource,
    CustomJS,
    HoverTool,
    LassoSelectTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    TapTool,
    WheelZoomTool,
)
from bokeh.plotting import figure
from PIL import Image

from analysis import epochs, plots
from analysis.palette import colors_of
from rundir.features import kept_features, sample_of
from rundir.network import data_of
from rundir.run import Run
from utils import UserError

SHOWN = {"train": 5_000, "test": 10_000}  # the most samples of a set; more are too slow in a browser
EPOCHS = 20
CENTER = 17  # diameter of a center's mark, in pixels
WIDE = 450  # rough width of a scatter, in pixels
SHEET = 100  # images per row of a sheet
LABELS = 256  # possible labels
PARTS = {"train": "training set", "test": "test set"}
TIP = """
<div style="display:flex;gap:8px;align-items:center;font:13px system-ui,sans-serif;color:#111">
  <div class="digit" role="img" aria-label="image of a @digit"
    style="width:84px;height:84px;image-rendering:pixelated;background-color:#000;background-image:var(--{sheet});
    background-size:{width}px;background-position:@left{{0}}px @top{{0}}px"></div>
  <div>label <b>@digit</b><br>predicted <b>@predicted</b>, @sure{{0.0}} %<br>to its center <b>@distance{{0.00}}</b><br>
    <small>{part} image @number</small></div>
</div>
"""

LASSO = """
if (!cb_obj.final || cb_obj.geometry.type !== "poly") return;
const places = Array.from(source.selected.indices, (i) => source.data.place[i]);
source.selected.indices = [];
window.lassoed(sheet, places);
"""

CLICK = """
const i = source.selected.indices[0];
source.selected.indices = [];
if (i !== undefined) window.clicked(sheet, source.data.place[i]);
"""


def shown_epochs(run: Run) -> list[int]:
    """Return the epochs of a run that the page shows: at most `EPOCHS` of the kept ones, evenly spaced."""
    kept = kept_features(run.path)
    chosen = np.linspace(0, len(kept) - 1, min(len(kept), EPOCHS)).round().astype(int)
    return [kept[i] for i in chosen]


# ---------------------------------------------------------------- the scatters


def panels(run: Run, number: int, sheets: dict[str, str], regions: bool) -> list[dict[str, Any]]:
    """Return the two scatters of a run, with the regions of the classes if `regions` is set; add the images to
    `sheets`."""
    read = list(epochs.read_moments(run.path, shown_epochs(run)))
    digits = data_of(run)
    xlim, ylim = epochs.limits([epoch.points[f"{part}_features"] for epoch in read for part in PARTS])
    last = read[-1]
    seen = (last.points["test_features"].astype(np.float32), last.arrays["test_labels"], last.points["centers"])
    solid = not plots.hidden(CENTER / 2 / WIDE, *seen, xlim[1] - xlim[0])
    ranges = {"x_range": Range1d(start=xlim[0], end=xlim[1]), "y_range": Range1d(start=ylim[0], end=ylim[1])}
    centers = {str(epoch.number): epoch.points["centers"].astype(float).round(4).tolist() for epoch in read}

    shaded = {str(epoch.number): _regions(epoch) for epoch in read} if regions else {}
    panels = []
    for part, images in (("train", digits.train_images), ("test", digits.test_images)):
        every = (digits.train_labels if part == "train" else digits.test_labels).numpy()
        sampled = part == "train" and any("train_sample" in epoch.arrays for epoch in read)
        there = len(sample_of(len(every))) if sampled else len(every)
        chosen = np.sort(sample(len(every), part)[:there])  # `sample_of` takes the start of the same order
        labels = every[chosen]
        shown = images[chosen].numpy()
        sheet = f"{part}-{hashlib.sha256(shown.tobytes()).hexdigest()[:8]}"
        sheets.setdefault(sheet, _sheet(shown))
        panels.append(
            {
                "run": number,
                "part": part,
                "sheet": sheet,
                "classes": list(digits.classes),
                "store": ColumnDataSource(_columns(read, part, chosen, digits.classes)),
                "centers": centers,
                "regions": shaded,
                "alt": f"{len(chosen)} points of the {PARTS[part]}, one color for each of {len(digits.classes)} "
                "classes, with the digit at its center. "
                f"Test accuracy {run.numbers['accuracy']:.2f} % after the last epoch.",
                **_scatter(_points(labels, chosen, digits.classes), part, sheet, ranges, last.axis, solid),
            }
        )
    return panels


def _columns(
    read: list[epochs.Epoch], part: str, chosen: np.ndarray, classes: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return the columns of a scatter for each epoch N: points ``xN`` and ``yN``, distance from the predicted center
    ``dN``, confidence ``cN`` (coded) and prediction ``pN``."""
    columns = {}
    for epoch in read:
        arrays, n = epoch.arrays, epoch.number
        sample = f"{part}_sample"
        kept = arrays[sample] if sample in arrays else np.arange(len(arrays[f"{part}_labels"]))
        rows = np.searchsorted(kept, chosen)
        if not np.array_equal(np.take(kept, rows, mode="clip"), chosen):
            raise UserError(f"{epoch.record.path}: epoch {n}: damaged (lacks {PARTS[part]} images of the report)")
        features, own = arrays[f"{part}_features"][rows], arrays["centers"][arrays[f"{part}_predictions"][rows]]
        columns[f"x{n}"], columns[f"y{n}"] = epoch.points[f"{part}_features"][rows].astype(np.float32).T
        columns[f"d{n}"] = np.linalg.norm(features.astype(np.float32) - own, axis=1).astype(np.float32)
        missing = np.nan_to_num(1 - arrays[f"{part}_scores"][rows].astype(float), nan=1)
        columns[f"c{n}"] = np.round(-1000 * np.log10(missing.clip(1e-6, 1))).astype(np.uint16)  # thousandths of decades
        columns[f"p{n}"] = np.array(classes, np.uint8)[arrays[f"{part}_predictions"][rows]]
    return columns


def _regions(epoch: epochs.Epoch) -> dict[str, dict[str, list[Any]]]:
    """Return the polygons of an epoch's regions as columns."""
    columns = {}
    for part, polygons in epochs.regions_of(epoch).items():
        found = zip(polygons, epoch.record.classes, strict=True)
        kept = [(polygon.round(3), digit) for polygon, digit in found if len(polygon)]
        columns[part] = {
            "xs": [polygon[:, 0].tolist() for polygon, _ in kept],
            "ys": [polygon[:, 1].tolist() for polygon, _ in kept],
            "digit": [digit for _, digit in kept],
        }
    return columns


def sample(count: int, part: str) -> np.ndarray:
    """Return the indices of the samples that are shown, of `count` in a set; always the same."""
    return np.random.default_rng(0).permutation(count)[: SHOWN[part]]


def _sheet(images: np.ndarray) -> str:
    """Return images (N, 28, 28) as one PNG in base 64, `SHEET` per row."""
    rows = -(-len(images) // SHEET)
    padded = np.zeros((rows * SHEET, 28, 28), np.uint8)
    padded[: len(images)] = images
    whole = padded.reshape(rows, SHEET, 28, 28).transpose(0, 2, 1, 3).reshape(rows * 28, SHEET * 28)
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _points(labels: np.ndarray, chosen: np.ndarray, classes: tuple[int, ...]) -> ColumnDataSource:
    """Return the points of a scatter; the page fills in their places in the chosen epoch.

    Args:
        labels: (n,) in [0, C).
        chosen: indices of the images in their set, (n,).
        classes: the original label of each class.
    """
    place = np.random.default_rng(1).permutation(len(labels))  # so that later classes do not cover earlier ones
    digit = np.array(classes, np.uint8)[labels[place]]
    empty = dict.fromkeys(("x", "y", "distance", "predicted", "sure", "hue"), np.zeros(len(labels), np.float32))
    return ColumnDataSource(
        empty
        | {
            "digit": digit,
            "place": place.astype(np.int32),
            "number": chosen[place].astype(np.int32),
            "left": (-84 * (place % SHEET)).astype(np.int32),
            "top": (-84 * (place // SHEET)).astype(np.int32),
        }
    )


def _scatter(
    source: ColumnDataSource, part: str, sheet: str, ranges: dict[str, Range1d], axis: str, solid: bool
) -> dict[str, Any]:
    """Return a scatter of points and centers, and the parts that the page fills; centers that are not `solid` are
    translucent."""
    borders = {"min_border_left": 46, "min_border_bottom": 46, "min_border_right": 8, "min_border_top": 8}
    plot = empty_figure(**ranges, aspect_ratio=1, **borders)
    plot.xaxis.axis_label, plot.yaxis.axis_label = epochs.axis_labels(axis)
    hues = _mapper()
    there = _shade(plot)
    count = len(source.data["digit"])
    visible, mistaken = BooleanFilter(booleans=[True] * count), BooleanFilter(booleans=[False] * count)
    how: dict[str, Any] = {"size": 4, "line_color": None, "nonselection_fill_alpha": 1.0, "name": "points"}
    view, fill = CDSView(filter=visible), {"field": "hue", "transform": hues}
    points = plot.scatter("x", "y", source=source, view=view, fill_color=fill, **how)
    how = {"marker": "x", "size": 9, "line_width": 1.6, "line_color": "black", "nonselection_line_alpha": 1.0}
    crosses = plot.scatter("x", "y", source=source, view=CDSView(filter=mistaken), visible=False, **how)
    chosen = ColumnDataSource({"x": [], "y": []})
    centers = _centers(plot, solid)
    plot.scatter("x", "y", source=chosen, size=22, fill_color=None, line_color="#c2185b", line_width=4)
    _add_tools(plot, source, points, part, sheet)
    return {
        "figure": plot,
        "source": source,
        "visible": visible,
        "center_source": centers,
        "chosen": chosen,
        "hues": hues,
        "mistaken": mistaken,
        "crosses": crosses,
        **there,
        **ranges,
    }


def _mapper() -> LinearColorMapper:
    return LinearColorMapper(palette=colors_of(range(LABELS)), low=-0.5, high=LABELS - 0.5)


def _shade(plot: Any) -> dict[str, Any]:
    """Add empty regions of the classes; return the parts that the page fills and colors."""
    classes = _mapper()
    regions = {key: ColumnDataSource({"xs": [], "ys": [], "digit": []}) for key in ("taken", "known")}
    for key, alpha, line in (("taken", 0.07, None), ("known", 0.12, "gray")):
        how = {"fill_color": {"field": "digit", "transform": classes}, "fill_alpha": alpha, "line_color": line}
        plot.patches("xs", "ys", source=regions[key], line_dash="dashed", **how)
    return {"class_colors": classes, "region_sources": regions}


def _centers(plot: Any, solid: bool) -> ColumnDataSource:
    """Add the centers, as yet none, with their classes; return the source that the page fills."""
    centers = ColumnDataSource({"x": [], "y": [], "digit": []})
    how: dict[str, Any] = {"fill_alpha": 1.0 if solid else 0.4, "line_color": "black", "line_width": 1.2}
    plot.scatter("x", "y", source=centers, size=CENTER, fill_color="white", **how)
    how = {"text_font_size": "11px", "text_font_style": "bold", "text_color": "black"}
    plot.text("x", "y", "digit", source=centers, text_align="center", text_baseline="middle", **how)
    return centers


def _add_tools(plot: Any, source: ColumnDataSource, points: Any, part: str, sheet: str) -> None:
    pan, wheel = PanTool(), WheelZoomTool(modifiers="ctrl")
    lasso = LassoSelectTool(renderers=[points], continuous=False)
    tip = TIP.format(sheet=sheet, width=84 * SHEET, part=part)
    click = CustomJS(args={"source": source, "sheet": sheet}, code=CLICK)
    hover = HoverTool(renderers=[points], tooltips=tip, limit=1, point_policy="snap_to_data")
    plot.add_tools(pan, wheel, lasso, hover, TapTool(renderers=[points], callback=click), ResetTool())
    plot.js_on_event("tap", CustomJS(code="window.tapped()"))
    plot.js_on_event("selectiongeometry", CustomJS(args={"source": source, "sheet": sheet}, code=LASSO))
    plot.toolbar.active_drag, plot.toolbar.active_scroll = pan, wheel


def empty_figure(**options: Any) -> Any:
    """Return an empty plot as wide as its place on the page, with a transparent background."""
    plot = figure(tools="", toolbar_location="above", sizing_mode="stretch_width", **options)
    plot.toolbar.logo = None
    plot.background_fill_color = plot.border_fill_color = None
    plot.grid.grid_line_alpha = 0.5
    return plot
