"""Slices of volumes beside each other: which panel shows what, and where it lies."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray

from diffnr_lightning.planes import PLANES, Plane, image_of, pixel_aspect
from diffnr_lightning.reports.runs import ShownVolume

ERROR_COLOURS = "inferno"
# Planes whose height is less than this share of the highest are left out.
THINNEST = 0.15
# Inches of a line of titles and, in the mean, of one of its letters, which are of nine points.
TITLE_LINE, TITLE_CHARACTER = 0.16, 0.075
BACKGROUND = "black"

PanelKind = Literal["image", "error"]


class Panels(NamedTuple):
    """What is drawn: volumes in columns, planes and their error maps in rows.

    Attributes:
        columns: by name, all on one grid: methods, the truth, maps.
        truth: which of them is true; None where it is not known.
        maps: names of those that are drawn as errors are.
        position: (z, y, x) index of the slices.
        window: values shown black and white.
        error_high: error shown in the brightest colour.
    """

    columns: Mapping[str, ShownVolume]
    truth: ShownVolume | None
    maps: frozenset[str]
    position: tuple[int, int, int]
    window: tuple[float, float]
    error_high: float

    @property
    def first(self) -> ShownVolume:
        """The volume whose grid and unit all share."""
        return next(iter(self.columns.values()))

    def planes(self) -> dict[Plane, float]:
        """Return the planes that are drawn, with their heights as shares of the width of an axial slice.

        Of a volume of a few slices these are only those that show something.
        """
        shape, edges = self.first.values.shape, self.first.voxel_mm
        heights = {p: shape[p.rows] * edges[p.rows] / (shape[2] * edges[2]) for p in PLANES}
        return {p: h for p, h in heights.items() if h > THINNEST * max(heights.values())}

    def rows(self) -> list[tuple[Plane, PanelKind]]:
        """Return plane and kind of each row, from the top."""
        kinds: tuple[PanelKind, ...] = ("image",) if self.truth is None else ("image", "error")
        return [(plane, kind) for plane in self.planes() for kind in kinds]

    def heights(self) -> list[float]:
        """Return the height of each row as a share of the width of a column."""
        heights = self.planes()
        return [heights[plane] for plane, _ in self.rows()]

    def is_blank(self, name: str, kind: PanelKind) -> bool:
        """Whether a panel stays empty: the truth has no errors, and a map is no method."""
        return kind == "error" and (self.columns[name] is self.truth or name in self.maps)

    def draw(self, axes: Any, name: str, plane: Plane, kind: PanelKind) -> None:
        """Show a slice of a column, or its absolute difference from the truth."""
        limits, colours = self.window, "gray"
        if kind == "error" or name in self.maps:
            limits, colours = (0.0, self.error_high), ERROR_COLOURS
        image = self._slice(self.columns[name], plane)
        if kind == "error" and self.truth is not None:
            image = np.abs(image - self._slice(self.truth, plane))
        _show(axes, image, plane, self.first.voxel_mm, limits, colours)

    def _slice(self, volume: ShownVolume, plane: Plane) -> NDArray[np.float32]:
        return image_of(volume.values, plane, self.position[plane.axis])

    def note(self) -> str:
        """Return what windows and maps stand for, in the unit of the volumes."""
        suffix = "" if self.first.unit == "arbitrary" else f" {self.first.unit}"
        note = f"window {self.window[0]:.4g} to {self.window[1]:.4g}{suffix}"
        if self.truth is not None:
            note += f"; error maps |volume - truth| from 0 to {self.error_high:.4g}{suffix}"
        elif self.maps:
            note += f"; maps from 0 to {self.error_high:.4g}{suffix}"
        return note


def columns_of_one_shape(
    volumes: Mapping[str, ShownVolume],
    truth: ShownVolume | None,
    maps: Mapping[str, ShownVolume],
) -> dict[str, ShownVolume]:
    """Return all columns by name.

    Raises:
        ValueError: no volumes, or several shapes.
    """
    if not volumes:
        raise ValueError("there are no volumes to draw; name at least one method.")
    columns = {**volumes, **({"truth": truth} if truth is not None else {}), **maps}
    shapes = {name: volume.values.shape for name, volume in columns.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the volumes to draw have shapes {shapes}; one shape is expected.")
    return columns


def position_inside(
    position: tuple[int, int, int] | None, shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Return the (z, y, x) index of the slices, the middle of volumes of that shape for None.

    Raises:
        ValueError: it lies outside of them.
    """
    position = position or tuple(n // 2 for n in shape)
    if not all(0 <= index < n for index, n in zip(position, shape, strict=True)):
        raise ValueError(f"position {position} lies outside of the volumes of shape {shape}.")
    return position


def laid_out(
    heights: Sequence[float], columns: int, edge: float, titles: Iterable[str]
) -> tuple[Figure, GridSpec]:
    """Return an empty figure and the cells of its panels, with room for titles above and a note below.

    Args:
        heights: of the rows, in columns' widths.
        columns: their number.
        edge: width of a column in inches.
        titles: of the columns, in lines.
    """
    lines = max(title.count("\n") for title in titles) + 1
    above = 0.5 + TITLE_LINE * max(lines - 2, 0)
    height = edge * sum(heights) + 0.4 + above
    width = edge * columns + 0.4
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    cells = figure.add_gridspec(
        len(heights),
        columns,
        height_ratios=heights,
        wspace=0.03,
        hspace=0.03,
        left=0.3 / width,
        right=0.995,
        top=1 - above / height,
        bottom=0.35 / height,
    )
    return figure, cells


def broken_titles(names: Iterable[str], captions: Mapping[str, str], edge: float) -> dict[str, str]:
    """Return name and caption of each column, in lines that are no wider than its `edge` (inches)."""
    width = max(int(edge / TITLE_CHARACTER), 1)
    lines = {name: [*textwrap.wrap(name, width), captions.get(name)] for name in names}
    return {name: "\n".join(filter(None, parts)) for name, parts in lines.items()}


def bare(axes: Any) -> None:
    """Leave out ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _show(
    axes: Any,
    image: NDArray[np.float32],
    plane: Plane,
    voxel_mm: tuple[float, float, float],
    limits: tuple[float, float],
    colours: str,
) -> None:
    axes.imshow(
        image,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        aspect=pixel_aspect(plane, voxel_mm),
        interpolation="antialiased",
    )
