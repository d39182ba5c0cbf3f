"""Objects that need no file: which kinds are generated, how a source names one, and what a source is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffnr_lightning.data.datasets.words import names_data_set, volume_word

if TYPE_CHECKING:
    from diffnr_lightning.data.volumes import LoadedVolume

# Kind -> its function in `diffnr_lightning.phantoms`, called with (seed, size).
GENERATORS = {"phantom": "chest", "specimen": "specimen", "ellipsoids": "ellipsoids"}


def is_generated(source: str) -> bool:
    """Tell whether a source names a generated object, such as `phantom:7`, and no file."""
    return source.partition(":")[0] in GENERATORS and ":" in source


def generated_seeds(source: str) -> tuple[str, range]:
    """Return kind and seeds of `KIND:SEED` or `KIND:FIRST-LAST`.

    Raises:
        ValueError: seeds that are no numbers, or in the wrong order.
    """
    kind, _, seeds = source.partition(":")
    first, _, last = seeds.partition("-")
    last = last or first
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise ValueError(
            f"volume is {source!r}; {kind}:SEED or {kind}:FIRST-LAST with whole numbers is expected."
        )
    return kind, range(int(first), int(last) + 1)


def source_name(source: str) -> str:
    """Return what scans of a source are called: `phantom_7`, the volume of a data set, or a file without its ending."""
    if is_generated(source):
        return source.replace(":", "_")
    if names_data_set(source):
        return volume_word(source)
    path = Path(source)
    if path.is_dir():
        return path.resolve().name
    # Dots are part of a name: a series of LUNA16 is called 1.3.6.1.4.1....mhd.
    return path.name[:-7] if path.name.endswith(".nii.gz") else path.stem


def generate(source: str, size: int) -> LoadedVolume:
    """Generate one object.

    Args:
        source: `phantom:SEED`, `specimen:SEED` or `ellipsoids:SEED`.
        size: voxels along each edge.

    Raises:
        ValueError: no seed, or several.
    """
    kind, seeds = generated_seeds(source)
    if len(seeds) != 1:
        raise ValueError(f"volume is {source!r}; {kind}:SEED, one object, is expected here.")
    from diffnr_lightning import phantoms
    from diffnr_lightning.data.volumes import LoadedVolume

    phantom = getattr(phantoms, GENERATORS[kind])(seeds[0], size)
    return LoadedVolume(phantom.array, phantom.spacing_mm, "HU", phantom.name, source=source)
