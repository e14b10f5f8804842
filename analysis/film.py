"""A film of the features during training, from the epochs that runs keep."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.epochs import Epoch, limits, read_moments
from analysis.plots import SMALL, canvas, draw_part
from rundir.features import kept_features, sample_of
from utils import UserError, atomically, complain

if TYPE_CHECKING:
    from matplotlib.animation import AbstractMovieWriter
    from matplotlib.figure import Figure

FPS = 2
Moment = tuple[int, int]  # finished epochs, and batches since then
Row = dict[Moment, Epoch]  # one per run


def animate(runs: list[Path], path: Path, regions: bool = False) -> list[Path]:
    """Write a film of the features during training to `path`, a GIF, and beside it, if ffmpeg is installed, as an MP4;
    return the files.

    Each run has a row, the training set on the left and the test set on the right. The frames show the kept batches
    of the first epoch, then the kept epochs. The axes stay the same; they show 99.9 % of a row's points.

    Raises:
        UserError: if the runs keep fewer than 2 frames.
    """
    moments = [read_moments(run, kept_features(run), kept_features(run, "batch")) for run in runs]
    rows = [{(epoch.number, epoch.batch): _thin(epoch) for epoch in row} for row in moments]
    frames = sorted(set().union(*rows))
    if len(frames) < 2:
        raise UserError(f"{runs[0]}: keeps the features of one epoch only; a film needs runs made with --animate")
    made = [path, path.with_suffix(".mp4")]
    for file in made:
        with canvas(7.2, 3.7 * len(rows), SMALL | {"axes.titlesize": 8}) as figure:
            from matplotlib.animation import FFMpegWriter, PillowWriter

            if file.suffix == ".gif":
                _film(PillowWriter(FPS), file, figure, rows, frames, regions)
                made[1].unlink(missing_ok=True)  # of an earlier film
            elif FFMpegWriter.isAvailable():
                try:
                    _film(FFMpegWriter(FPS), file, figure, rows, frames, regions)
                except (subprocess.CalledProcessError, BrokenPipeError):
                    complain(f"{file.name} could not be made: ffmpeg failed")
    return [file for file in made if file.exists()]


def _film(
    writer: AbstractMovieWriter, file: Path, figure: Figure, rows: list[Row], frames: list[Moment], regions: bool
) -> None:
    axes = figure.subplots(len(rows), 2, squeeze=False)
    keys = ("train_features", "test_features")
    places = [limits([epoch.points[key] for epoch in row.values() for key in keys]) for row in rows]
    with atomically(file) as unfinished, writer.saving(figure, str(unfinished), dpi=110):
        for frame in [*frames, frames[-1], frames[-1]]:  # the last one stays longer
            for row, (xlim, ylim), pair in zip(rows, places, axes, strict=True):
                moment = max((one for one in row if one <= frame), default=min(row))
                for ax, part in zip(pair, ("train", "test"), strict=True):
                    ax.clear()
                    draw_part(ax, row[moment], part, size=0.4, regions=regions, across=xlim[1] - xlim[0])
                    ax.set(xlim=xlim, ylim=ylim, adjustable="box")
            if frame is frames[0]:
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # keep the layout of the first frame, or the panels would jump
            writer.grab_frame()


def _thin(epoch: Epoch) -> Epoch:
    """Return the epoch with only the training images that every epoch keeps."""
    if "train_sample" in epoch.arrays:
        return epoch
    chosen = sample_of(len(epoch.arrays["train_labels"]))
    cut = {key: epoch.arrays[key][chosen] for key in ("train_labels", "train_predictions", "train_features")}
    points = epoch.points | {"train_features": epoch.points["train_features"][chosen]}
    return replace(epoch, arrays=epoch.arrays | cut | {"train_sample": chosen}, points=points)
