"""The settings of a simulated scan as one value that can be varied, recorded and compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from diffnr_lightning.data.noise import Noise
from diffnr_lightning.data.scanner import Layout, Scanner

Fit = Literal["volume", "body"]

AIR_HU = -1000.0
LEAST_SIZE = 8
LEAST_VIEWS = 2
CUT_VOXELS = "cut_voxels"
"""Key in the provenance of a case: how voxels are filled that a face of the volume cuts. Where it is missing the truth
has them full or empty, whatever the share that the object fills."""


@dataclass(frozen=True)
class ScanRecipe:
    """Describe how a volume becomes a case: the cube, the views, the scanner and its noise.

    Args:
        size: voxels of the reconstructed cube along each edge, at least 8.
        slices: axial ones, in the middle of the cube, that are reconstructed of it, at least 8; null takes all. For
            parallel beams, and for cone beams where nothing outside attenuates: theirs pass what lies above and below.
        num_views: training views, at least two.
        fit: cube around the whole volume, or around the largest connected piece of tissue (above
            -500 HU; above Otsu's threshold where the unit is arbitrary).
        voxel_mm: edge of the reconstructed voxels in mm, instead of what `fit` gives; the cube
            keeps its centre.
        margin: air on every side of the body, as a share of the edge of its tightest cube.
        layout: views spread evenly over the circle (half of it for parallel beam), drawn there at
            random, or spread evenly over `arc_deg` with views at both ends.
        arc_deg: arc of the views in degrees, (0, 360]; null is 360 for cone beam and 180 for
            parallel beam.
        start_deg: where the arc begins.
        window_hu: HU that become 0 and 1, such as -1000 3000; values outside are clipped, but not
            for the photons. A volume in arbitrary unit is windowed from its smallest to its largest
            value instead.
        unit: of the file's values; auto takes them for HU where the smallest is that of air.
        spacing_mm: voxel edges (z, y, x), or one number for cubes, of files that do not say (NPY,
            TIFF).
        scanner: distances and detector.
        noise: photons and read-out noise of the training views.
        test_views: noise-free views at random angles, kept for evaluation; 0 for none.
        oversampling: how much finer than those of the reconstruction the voxels and pixels of the
            simulation are.
        attenuate_outside: whether what lies outside the cube attenuates too, as it really does.

    Raises:
        ValueError: a setting that makes no scan, named in the message.
    """

    size: int = 128
    num_views: int = 24
    fit: Fit = "volume"
    voxel_mm: float | None = None
    margin: float = 0.05
    layout: Layout = "uniform"
    arc_deg: float | None = None
    start_deg: float = 0.0
    window_hu: tuple[float, float] = (-1000.0, 1024.0)
    unit: Literal["auto", "HU", "arbitrary"] = "auto"
    spacing_mm: float | tuple[float, float, float] | None = None
    scanner: Scanner = Scanner()
    noise: Noise = Noise()
    test_views: int = 16
    oversampling: int = 2
    attenuate_outside: bool = True
    slices: int | None = None

    def __post_init__(self) -> None:
        self._check_cube()
        self._check_views()
        low, high = self.window_hu
        if not AIR_HU <= low < high < math.inf:
            raise ValueError(
                f"window_hu is ({low:g}, {high:g}); low < high with low not below air (-1000 HU) "
                "is expected."
            )

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON and YAML hold them; equal for equal recipes."""
        settings = asdict(self) | {"scanner": self.scanner.describe()}
        # What follows from the size too: earlier versions gave a parallel beam fewer columns.
        if self.scanner.beam == "parallel":
            settings["scanner"]["detector_pixels"] = self.scanner.columns(self.size)
        if self.slices is None:
            # As earlier versions described a cube, so that their cases and stores are taken up.
            del settings["slices"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (Z, Y, X) that are reconstructed."""
        return (self.size if self.slices is None else self.slices, self.size, self.size)

    def _check_cube(self) -> None:
        if self.size < LEAST_SIZE:
            raise ValueError(
                f"size is {self.size}; a cube of at least {LEAST_SIZE} voxels a side is expected."
            )
        if not LEAST_SIZE <= self.shape[0] <= self.size:
            raise ValueError(
                f"slices is {self.slices}; {LEAST_SIZE} to {self.size} of them, as many as the cube has, are expected."
            )
        if self.slices is not None and self.scanner.beam == "cone" and self.attenuate_outside:
            raise ValueError(
                f"slices is {self.slices} and the beam is a cone, whose rays pass what lies above and below these; a "
                "parallel beam or attenuate_outside: false is expected."
            )
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit is {self.fit!r}; 'volume' or 'body' is expected.")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin is {self.margin}; zero or a positive share is expected.")
        if self.voxel_mm is not None and not 0 < self.voxel_mm < math.inf:
            raise ValueError(f"voxel_mm is {self.voxel_mm}; a positive length is expected.")
        edges = self.spacing_mm if isinstance(self.spacing_mm, Sequence) else (self.spacing_mm,)
        if self.spacing_mm is not None and not (
            len(edges) in (1, 3) and all(0 < edge < math.inf for edge in edges)
        ):
            raise ValueError(
                f"spacing_mm is {self.spacing_mm}; one or three positive lengths are expected."
            )
        if self.oversampling < 1:
            raise ValueError(f"oversampling is {self.oversampling}; one or more is expected.")

    def _check_views(self) -> None:
        if self.num_views < LEAST_VIEWS:
            raise ValueError(f"num_views is {self.num_views}; at least two views are expected.")
        if self.layout not in get_args(Layout):
            raise ValueError(
                f"layout is {self.layout!r}; 'uniform', 'random' or 'limited_arc' is expected."
            )
        if self.layout == "limited_arc" and self.arc_deg is None:
            raise ValueError(
                "layout is 'limited_arc' without arc_deg; say how many degrees it spans."
            )
        if self.arc_deg is not None and not 0 < self.arc_deg <= 360:
            raise ValueError(f"arc_deg is {self.arc_deg}; a number in (0, 360] is expected.")
        if not math.isfinite(self.start_deg):
            raise ValueError(f"start_deg is {self.start_deg}; a finite angle is expected.")
        if self.test_views < 0:
            raise ValueError(
                f"test_views is {self.test_views}; zero or a positive number is expected."
            )


def simulation_record(
    recipe: ScanRecipe, source: str, name: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Return what a case's provenance keeps under ``"simulation"``: all that decides its content.

    Whoever wants to use a case again compares this with the case's record; no volume has to be
    read for it.

    Args:
        recipe: the settings.
        source: file or generated object.
        name: name that the case was given; None where it is the volume's.
        seed: seed that the case was given; None where it is drawn from the name.
    """
    return {
        "source": str(Path(source)) if source else "",
        "name": name,
        "seed": seed,
        "recipe": recipe.describe(),
    }
