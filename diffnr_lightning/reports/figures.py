"""Pictures of volumes: methods side by side in three planes, error maps at a stated window."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from diffnr_lightning.files import write_bytes
from diffnr_lightning.reports.panels import (
    BACKGROUND,
    Panels,
    bare,
    broken_titles,
    columns_of_one_shape,
    laid_out,
    position_inside,
)
from diffnr_lightning.reports.runs import (
    RunSummary,
    ShownVolume,
    having_volumes,
    of_one_volume,
    read_truth,
    read_volume,
)
from diffnr_lightning.reports.told_apart import places_of

# Share of the intensity window that the error maps span unless said otherwise.
ERROR_SHARE = 0.1
HU_SHOWN = (-1000.0, 1000.0)
# Inches of a panel's edge.
EDGE = 2.4
FOREGROUND = "0.85"
# What `prior_panels` draws, in the folder of a run in which a prior took part.
PRIOR_PICTURE = "prior_share.png"


def full_window(
    volumes: Mapping[str, ShownVolume], truth: ShownVolume | None
) -> tuple[float, float]:
    """Return the values shown black and white: the agreed window, else the range of the truth.

    Without either, the window spans the middle 99 % of all volumes, which a few streaks of a bad
    reconstruction cannot stretch.
    """
    shown = [*([truth] if truth is not None else []), *volumes.values()]
    agreed = next((volume.window for volume in shown if volume.window is not None), None)
    if agreed is not None:
        return agreed
    if truth is not None and np.ptp(truth.values) > 0:
        return float(truth.values.min()), float(truth.values.max())
    low = min(float(np.percentile(volume.values, 0.5)) for volume in shown)
    high = max(float(np.percentile(volume.values, 99.5)) for volume in shown)
    return low, high if high > low else low + 1.0


def display_window(
    volumes: Mapping[str, ShownVolume], truth: ShownVolume | None
) -> tuple[float, float]:
    """Return the values shown black and white unless said otherwise.

    Of volumes in HU this is the part of the window in which soft tissue and lung can be distinguished.
    """
    low, high = full_window(volumes, truth)
    if any(volume.unit == "HU" for volume in volumes.values()) and low < HU_SHOWN[1]:
        return max(low, HU_SHOWN[0]), min(high, HU_SHOWN[1])
    return low, high


def slice_panels(
    volumes: Mapping[str, ShownVolume],
    truth: ShownVolume | None,
    path: str | Path,
    *,
    window: tuple[float, float] | None = None,
    error_window: float | None = None,
    position: tuple[int, int, int] | None = None,
    captions: Mapping[str, str] | None = None,
    maps: Mapping[str, ShownVolume] | None = None,
) -> Path:
    """Draw methods in columns and planes in rows, each plane followed by its error map.

    Args:
        volumes: by method, all on one grid.
        truth: on the same grid; without it there are no error maps.
        path: PNG file, which appears whole or not at all.
        window: values shown black and white; by default `display_window`.
        error_window: error shown in the brightest colour; by default a tenth of the window.
        position: (z, y, x) index of the slices; the middle by default.
        captions: line below a method's name, for example its scores.
        maps: further volumes on that grid, drawn in the colours and the window of errors.

    Returns:
        The path.

    Raises:
        ValueError: no volumes, volumes on different grids, a position outside of them, or a path
            that cannot be written.
    """
    columns = columns_of_one_shape(volumes, truth, maps or {})
    position = position_inside(position, next(iter(columns.values())).values.shape)
    window = window or display_window(volumes, truth)
    error_high = error_window or ERROR_SHARE * (window[1] - window[0])
    panels = Panels(columns, truth, frozenset(maps or ()), position, window, error_high)
    edge = EDGE if len(columns) > 2 else 1.5 * EDGE
    titles = broken_titles(columns, captions or {}, edge)
    figure, cells = laid_out(panels.heights(), len(columns), edge, titles.values())
    for i, (plane, kind) in enumerate(panels.rows()):
        for j, name in enumerate(columns):
            axes = figure.add_subplot(cells[i, j])
            bare(axes)
            if panels.is_blank(name, kind):
                axes.set_facecolor(BACKGROUND)
                continue
            panels.draw(axes, name, plane, kind)
            if i == 0:
                axes.set_title(titles[name], color=FOREGROUND, fontsize=9)
            if j == 0:
                label = plane.name if kind == "image" else "error"
                axes.set_ylabel(label, color=FOREGROUND, fontsize=9)
    figure.text(0.5, 0.01, panels.note(), color=FOREGROUND, fontsize=8, ha="center", va="bottom")
    return _save(figure, Path(path))


def write_comparison(runs: Sequence[RunSummary], path: str | Path) -> Path:
    """Draw the middle slices of the runs of one case beside each other, with their scores.

    Args:
        runs: finished runs; where they are of several cases, those of the first are drawn. Those whose volumes were
            removed are left out.
        path: PNG file, which appears whole or not at all.

    Returns:
        The path.

    Raises:
        ValueError: no runs with volumes, volumes on different grids, or a path that cannot be written.
    """
    shown = having_volumes(runs)
    if not shown:
        raise ValueError(
            "there are no runs to draw; name at least one finished run with its volume."
        )
    chosen = [run for run in shown if run.case == shown[0].case]
    labels = run_labels(chosen)
    volumes = {label: read_volume(run) for label, run in zip(labels, chosen, strict=True)}
    truth = read_truth(chosen[0], volumes[labels[0]])
    for label, run in zip(labels, chosen, strict=True):
        own = read_truth(run, volumes[label])
        if truth and own and not of_one_volume(own, truth):
            raise ValueError(
                f"{run.folder} and {chosen[0].folder} are of two volumes that are both called {run.case}; give the "
                "runs of one."
            )
    captions = {label: score_caption(run) for label, run in zip(labels, chosen, strict=True)}
    return slice_panels(volumes, truth, path, captions=captions)


def run_labels(runs: Sequence[RunSummary]) -> list[str]:
    """Return what the runs of a case are called beside each other: by method, and by what else tells them apart."""
    several_views = len({run.setting.views for run in runs}) > 1
    several_noises = len({run.setting.noise for run in runs}) > 1
    called = []
    for run in runs:
        views = f"{run.setting.views} views" if several_views else None
        noise = f"noise {run.setting.noise or 'unknown'}" if several_noises else None
        called.append(", ".join(filter(None, (run.method, views, noise))))
    labels = list(called)
    for name in {name for name in called if called.count(name) > 1}:
        alike = [position for position, other in enumerate(called) if other == name]
        places = places_of([runs[position] for position in alike])
        for position, place in zip(alike, places, strict=True):
            labels[position] = f"{name} ({place})" if place else name
    return _each_once(labels)


def _each_once(labels: Sequence[str]) -> list[str]:
    """Return labels with a prime for each time that one is taken, as of a run that is given twice."""
    once: list[str] = []
    for label in labels:
        while label in once:
            label += "'"
        once.append(label)
    return once


def score_caption(run: RunSummary) -> str:
    """Return "33.52 dB / 0.900" under protocol r2, or nothing where the truth is not known."""
    score = run.protocols.get("r2")
    return f"{score['psnr']:.2f} dB / {score['ssim']:.3f}" if score else ""


def preview(
    volume: ArrayLike,
    truth: ArrayLike | None,
    path: str | Path,
    voxel_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    title: str = "reconstruction",
) -> Path:
    """Draw the middle slices of one normalised volume, beside the truth where it is known.

    Args:
        volume: (Z, Y, X), normalised to the window 0..1; array or CPU tensor.
        truth: (Z, Y, X), likewise, or None.
        path: PNG file, which appears whole or not at all.
        voxel_mm: voxel edges (z, y, x).
        title: name of the volume.

    Returns:
        The path.

    Raises:
        ValueError: shapes that differ, or a path that cannot be written.
    """
    values = np.asarray(volume, dtype=np.float32)
    # Volumes that were never compared with a window (real projections) span their own range.
    window = (0.0, 1.0) if truth is not None else _own_window(values)
    return slice_panels(
        {title: ShownVolume(values, voxel_mm, None, "arbitrary")},
        None
        if truth is None
        else ShownVolume(np.asarray(truth, dtype=np.float32), voxel_mm, None, "arbitrary"),
        path,
        window=window,
    )


def prior_panels(volume: ShownVolume, unseen: ShownVolume, path: str | Path) -> Path:
    """Draw a volume beside the map of what a prior added to it that the projections do not see.

    Args:
        volume: the reconstruction.
        unseen: on the same grid, not negative.
        path: PNG file, which appears whole or not at all.
    """
    return slice_panels(
        {"reconstruction": volume}, None, path, maps={"not seen by the projections": unseen}
    )


def profile_curves(
    profiles: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]], path: str | Path, unit: str
) -> Path:
    """Draw values along lines, reconstruction over truth.

    Args:
        profiles: distance in mm, reconstruction and truth, (N,) each, by name of the line; at least one.
        path: PNG file, which appears whole or not at all.
        unit: of the values.
    """
    figure = Figure(figsize=(2.5 * EDGE, 1.2 * EDGE * len(profiles)), layout="constrained")
    panels = figure.subplots(len(profiles), squeeze=False)[:, 0]
    for axes, (name, (distance_mm, values, reference)) in zip(
        panels, profiles.items(), strict=True
    ):
        axes.plot(distance_mm, reference, color="black", linewidth=1, label="truth")
        axes.plot(distance_mm, values, color="tab:orange", linewidth=1.5, label="reconstruction")
        axes.set_title(name, fontsize=9)
        axes.set_ylabel(unit, fontsize=8)
    panels[0].legend(fontsize=8)
    panels[-1].set_xlabel("mm", fontsize=8)
    return _save(figure, Path(path), "white")


def _own_window(values: NDArray[np.float32]) -> tuple[float, float]:
    return full_window({"": ShownVolume(values, (1.0, 1.0, 1.0), None, "arbitrary")}, None)


def _save(figure: Figure, path: Path, background: str = BACKGROUND) -> Path:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=110, facecolor=background)
    return write_bytes(path, buffer.getvalue())
