"""One self-contained interactive page about runs: compare.py --report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.embed import components
from bokeh.models import CustomJS
from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader
from sklearn.metrics import confusion_matrix

from analysis import metrics, palette
from analysis.epochs import loss_name, name_runs
from analysis.openset import Scored
from analysis.report_curves import curves, histograms
from analysis.report_figures import LABELS, PARTS, SHEET, panels, sample, shown_epochs
from rundir.run import Run
from training.settings import COMPUTED
from utils import atomically, printable

HERE = Path(__file__).resolve().parent
WRONG, AMBIGUOUS = 100, 40  # digits listed per run, at most


def write_report(path: Path, runs: list[Run], scored: list[Scored], regions: bool = False) -> list[Path]:
    """Write the page about runs whose `numbers` are computed and about their scores of unknown images, with the regions
    of the classes if `regions` is set; return the files written.

    Raises:
        UserError: if the images of a run's data set are missing, or its features or tables are damaged.
    """
    names = name_runs(runs)
    sheets: dict[str, str] = {}
    scatters = [panel for number, run in enumerate(runs) for panel in panels(run, number, sheets, regions)]
    figures = {f"{panel['part']}-{panel['run']}": panel.pop("figure") for panel in scatters}
    figures |= curves(runs, names) | histograms(runs, names, scored)
    script, divs = embedded(figures, scatters)
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report_template.html").render(
        title="; ".join(dict.fromkeys(loss_name(run.settings) for run in runs)),
        bokeh=Resources(mode="inline", components=["bokeh"]).render(),
        script=script,
        divs=divs,
        sheets=sheets,
        runs=[facts_of(number, run, names[number]) for number, run in enumerate(runs)],
        panels=scatters,
        parts=PARTS,
        digits=sorted({digit for run in runs for digit in run.classes}),
        facts=page_facts(runs),
        metrics=metrics.METRICS,
        scored=[
            {"run": names[runs.index(s.run)], "unknowns": s.unknowns, "score": s.score} | s.numbers() for s in scored
        ],
        differing=_differing(runs),
        histograms={key: plot.xaxis[0].axis_label for key, plot in figures.items() if key.startswith("scores-")},
        regions=regions,
        behavior=(HERE / "report_page.js").read_text(encoding="utf-8"),
    )
    with atomically(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8", errors="backslashreplace")  # a path may not be UTF-8
    return [path]


def embedded(figures: dict[str, Any], scatters: list[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """Return the script that makes the figures and then starts the page's own script, and the HTML of each figure."""
    document = Document()
    for key, plot in figures.items():
        plot.name = key
        document.add_root(plot)
    document.js_on_event("document_ready", CustomJS(args={"panels": scatters}, code="window.startReport(panels)"))
    return components(figures)


def page_facts(runs: list[Run]) -> dict[str, Any]:
    """Return the data for the page's script, besides its plots."""
    return {
        "runs": [{"epochs": shown_epochs(run)} for run in runs],
        "epochs": sorted({epoch for run in runs for epoch in shown_epochs(run)}),
        "sheet_row": SHEET,
        "palettes": {
            theme: {
                "digit": palette.colors_of(range(LABELS), colors),
                "right": palette.WRONG_RIGHT[theme],
                "sure": palette.SURE[theme],
            }
            for theme, colors in (("light", palette.COLORS), ("dark", palette.ON_DARK))
        },
    }


# ---------------------------------------------------------------- text beside the figures


def facts_of(number: int, run: Run, name: str) -> dict[str, Any]:
    """Return the facts about a run that the page shows as text, after its last epoch."""
    arrays, classes = run.arrays, list(run.classes)
    digits = np.array(classes)
    labels, predictions = (arrays[f"test_{key}"].astype(int) for key in ("labels", "predictions"))
    shown = np.sort(sample(len(labels), "test"))
    labels, predictions, scores = (a[shown] for a in (labels, predictions, arrays["test_scores"]))

    def listed(chosen: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"place": i, "label": digits[labels[i]], "predicted": digits[predictions[i]], "score": 100 * scores[i]}
            for i in chosen
        ]

    wrong = np.flatnonzero(labels != predictions)
    right = np.flatnonzero(labels == predictions)
    confusion = confusion_matrix(arrays["test_labels"], arrays["test_predictions"], labels=range(len(classes)))
    return {
        "number": number,
        "name": name,
        "path": str(run.path),
        "command": printable(run.command),
        "epochs": run.epochs,
        "dataset": {"name": run.dataset, "train": run.train, "test": run.test},
        "settings": settings_of(run),
        "numbers": run.numbers,
        "wrong_count": int((arrays["test_labels"] != arrays["test_predictions"]).sum()),
        "wrong": listed(wrong[np.argsort(-scores[wrong], kind="stable")][:WRONG]),
        "ambiguous": listed(right[np.argsort(scores[right], kind="stable")][:AMBIGUOUS]),
        "confusion": [
            (digit, [(int(n), n / max(row.sum(), 1)) for n in row])
            for digit, row in zip(classes, confusion, strict=True)
        ],
    }


def settings_of(run: Run) -> dict[str, object]:
    """Return every setting of a run by name, including those of how it was computed."""
    return dataclasses.asdict(run.settings) | {name: getattr(run.plan, name) for name in COMPUTED}


def _differing(runs: list[Run]) -> dict[str, list[str]]:
    """Return the settings in which runs differ, with the value of each run."""
    table = {key: [str(settings_of(run)[key]) for run in runs] for key in settings_of(runs[0])}
    return {key: values for key, values in table.items() if len(set(values)) > 1}
