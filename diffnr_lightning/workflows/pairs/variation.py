"""How the scans of a curation differ from each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from diffnr_lightning.data import ScanRecipe
from diffnr_lightning.data.noise import Noise
from diffnr_lightning.data.scanner import Layout, Scanner
from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.pairs.warping import MOST_WARP, warped

LoadedVolume = deferred("diffnr_lightning.data.volumes.LoadedVolume")

Range = tuple[float, float]
CIRCLE_DEG = 360.0
# Voxels that the edge of a box has at least which is cut out of a volume.
LEAST_EDGE = 16


@dataclass(frozen=True)
class Variation:
    """Describe how the scans of a curation differ.

    Args:
        zooms: smallest and largest share of the volume's edges that is scanned; less than 1 cuts out a box.
        scales: smallest and largest factor on the voxel edges of the volume: a smaller object stops fewer photons.
        warps: least and most that every scan deforms its volume, see `warped`: standard deviation of displacements as a
            share of a plane's edge, at most 0.06. Few volumes show a prior many shapes so. Null deforms none.
        stretches: smallest and largest factor on the edges of its voxels along y, whose inverse those along x get; null
            leaves them alike.
        views: numbers of views that are drawn from.
        layouts: view layouts that are drawn from.
        arcs_deg: shortest and longest arc of scans with the layout limited_arc.
        noises: modes of the noise that are drawn from; none keeps the recipe's.
        photons: fewest and most photons of physical noise, log-uniform; null keeps the recipe's.
        electronic: least and most read-out noise of physical noise; null keeps the recipe's.
        detectors: narrowest and widest detector, in edges of the cube; a narrow one does not see all of the object.
            Null keeps the recipe's.
        shifted_share: share of the scans with the layout uniform whose detector is shifted sideways, so that a view
            sees half of the object and a little more; of views all around alone.
        fits: what the cube is fitted to, drawn from; none keeps the recipe's.
        weighted_share: share of the scans whose reconstruction knows the weights of its rays.

    Raises:
        ValueError: a range or share that makes no sense, or nothing to draw from.
    """

    zooms: Range = (1.0, 1.0)
    scales: Range = (1.0, 1.0)
    warps: Range | None = None
    stretches: Range | None = None
    views: tuple[int, ...] = (12, 16, 24, 36, 48)
    layouts: tuple[Layout, ...] = ("uniform", "random")
    arcs_deg: Range = (120.0, 300.0)
    noises: tuple[Literal["physical", "tigre", "none"], ...] = ()
    photons: Range | None = None
    electronic: Range | None = None
    detectors: Range | None = None
    shifted_share: float = 0.0
    fits: tuple[Literal["volume", "body"], ...] = ()
    weighted_share: float = 1.0

    def __post_init__(self) -> None:
        if not (self.views and self.layouts):
            raise ValueError("views or layouts is empty; at least one of each is expected.")
        for name in ("zooms", "scales", "stretches", "arcs_deg", "photons", "detectors"):
            bounds = getattr(self, name)
            if bounds is not None and not 0 < bounds[0] <= bounds[1] < np.inf:
                raise ValueError(
                    f"{name} is {bounds}; two numbers, 0 < smallest <= largest, are expected."
                )
        if self.arcs_deg[1] > CIRCLE_DEG:
            raise ValueError(f"arcs_deg is {self.arcs_deg}; arcs of at most 360 are expected.")
        if self.warps is not None and not 0 <= self.warps[0] <= self.warps[1] <= MOST_WARP:
            raise ValueError(
                f"warps is {self.warps}; two numbers, 0 <= least <= most <= {MOST_WARP}, are expected: more would fold "
                "what is deformed."
            )
        if self.electronic is not None and not (
            0 <= self.electronic[0] <= self.electronic[1] < np.inf
        ):
            raise ValueError(
                f"electronic is {self.electronic}; two numbers, 0 <= least <= most, are expected."
            )
        for name in ("shifted_share", "weighted_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a share in [0, 1] is expected.")

    def check(self, recipe: ScanRecipe) -> None:
        """Refuse what the scans of a recipe cannot have.

        Raises:
            ValueError: views, photons or a detector of which no scan could be made, or a shifted detector that would
                not see all of the object.
        """
        for count in self.views:
            replace(recipe, num_views=count)
        for photons in self.photons or ():
            replace(recipe.noise, photons=photons)
        if (self.detectors or self.shifted_share) and recipe.scanner.unit != "cube":
            raise ValueError(
                "detectors or shifted_share is given for a scanner in mm; they are in edges of the cube, so leave "
                "scanner.unit at 'cube'."
            )
        around = CIRCLE_DEG if recipe.scanner.beam == "cone" else 0.5 * CIRCLE_DEG
        span = recipe.arc_deg or around
        if self.shifted_share and span < CIRCLE_DEG:
            raise ValueError(
                f"shifted_share is {self.shifted_share} for views over {span:g} degrees, from which a shifted detector "
                "sees half of an object; leave it at 0, or take a cone beam all around."
            )

    def draw(self, recipe: ScanRecipe, generator: np.random.Generator) -> ScanRecipe:
        """Return the recipe with views, noise, detector and cube of its own."""
        drawn = replace(
            recipe,
            num_views=int(generator.choice(self.views)),
            layout="uniform",
            start_deg=float(generator.uniform(0, 360)),
            test_views=0,
        )
        layout = str(generator.choice(self.layouts))
        arc = float(generator.uniform(*self.arcs_deg)) if layout == "limited_arc" else None
        return replace(
            drawn,
            layout=layout,
            arc_deg=recipe.arc_deg if arc is None else arc,
            noise=self._noise(recipe.noise, generator),
            scanner=self._scanner(recipe.scanner, layout, generator),
            fit=str(generator.choice(self.fits)) if self.fits else recipe.fit,
        )

    def deformed(self, loaded: LoadedVolume, generator: np.random.Generator) -> LoadedVolume:
        """Return a volume deformed as a scan of it shall be; nothing is drawn where none shall."""
        if self.warps is None and self.stretches is None:
            return loaded
        stretch = float(np.exp(generator.uniform(*np.log(self.stretches or (1.0, 1.0)))))
        share = float(generator.uniform(*(self.warps or (0.0, 0.0))))
        return warped(loaded, share, stretch, generator)

    def _noise(self, noise: Noise, generator: np.random.Generator) -> Noise:
        mode = str(generator.choice(self.noises)) if self.noises else noise.mode
        if mode != "physical":
            return replace(noise, mode=mode)
        photons, electronic = noise.photons, noise.electronic
        if self.photons is not None:
            photons = float(np.exp(generator.uniform(*np.log(self.photons))))
        if self.electronic is not None:
            electronic = float(generator.uniform(*self.electronic))
        return replace(noise, mode=mode, photons=photons, electronic=electronic)

    def _scanner(self, scanner: Scanner, layout: str, generator: np.random.Generator) -> Scanner:
        if self.detectors is not None:
            scanner = replace(scanner, detector=float(generator.uniform(*self.detectors)))
        if layout == "uniform" and generator.random() < self.shifted_share:
            # A tenth of the detector sees both sides of the axis twice at least.
            width = scanner.lengths["detector"]
            scanner = replace(scanner, shift=float(generator.uniform(0.2, 0.4)) * width)
        return scanner


def zoomed(loaded: LoadedVolume, zoom: float, generator: np.random.Generator) -> LoadedVolume:
    """Cut a random box out of a volume.

    Args:
        loaded: the volume.
        zoom: edges of the box as a share of the volume's; 1 and more keeps all of it.
        generator: of the place.
    """
    if zoom >= 1:
        return loaded
    shape = np.array(loaded.array.shape)
    # Of a volume of a few slices all are kept.
    kept = np.minimum(np.maximum((shape * zoom).astype(int), LEAST_EDGE), shape)
    # Near the middle, where the object is.
    start = ((shape - kept) * generator.uniform(0.3, 0.7, 3)).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, kept, strict=True))
    offset = ((start + 0.5 * kept - 0.5 * shape) * loaded.spacing_mm)[::-1]
    centre = loaded.centre_mm + np.reshape(loaded.direction, (3, 3)) @ offset
    return replace(
        loaded,
        array=np.ascontiguousarray(loaded.array[box]),
        centre_mm=tuple(float(c) for c in centre),
    )
