"""What this installation has, and what will run where."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from rich.table import Table

from diffnr_lightning.data.generated import is_generated
from diffnr_lightning.data.splits import SETS, read_split
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.lazy import deferred
from diffnr_lightning.reports.terminal import Terminal
from diffnr_lightning.workflows.cases.volume_sources import DATA_FOLDER
from diffnr_lightning.workflows.command_line.signature import exists, passes_over
from diffnr_lightning.workflows.runs.environment import cpu_name, environment, version

# Extra of setup.cfg -> (module, package whose version is shown, what it is for).
EXTRAS = {
    "slicefixer": ("peft", "peft", "the paper's SliceFixer on SD-Turbo"),
    "adaptation": ("peft", "peft", "samplers that adapt their denoiser"),
    "lungmask": ("lungmask", "lungmask", "lungs by a network, as DiffNR's paper segments them"),
    "wandb": ("wandb", "wandb", "settings, curves and scores at Weights & Biases"),
    "tensorboard": ("tensorboard", "tensorboard", "the same in TensorBoard"),
    "cluster": ("submitit", "submitit", "job arrays on SLURM"),
    "astra": ("astra", "astra-toolbox", "ASTRA projectors"),
    "bench": ("itk", "itk-rtk", "RTK, the peer of `make bench`"),
    "docs": ("mkdocs", "mkdocs", "the site of `make docs`"),
    "dev": ("pytest", "pytest", "tests, notebooks, Triton's interpreter"),
}


# Of the config that a run keeps, what neither memory nor time depends on.
OF_RUNS = ("out", "seed", "photons", "device", "checkpoint_every", "curves")
SIZE, VIEWS = 256, 36

DataSet = deferred("diffnr_lightning.data.datasets.dataset.DataSet")
Method = deferred("diffnr_lightning.workflows.methods.problem.Method")


@passes_over(*OF_RUNS)
def doctor(
    method: Method | None = None,
    name: str | None = None,
    variant: str | None = None,
    surroundings: Literal["auto", "ignore"] = "auto",
    weights: Literal["auto", "uniform"] = "auto",
    pad: float = 0.0,
    case: Annotated[Path | None, exists("case")] = None,
    size: int | None = None,
    num_views: int | None = None,
) -> None:
    """Show versions, devices and what will run where.

    With configs of `reconstruct`, or the one that a run keeps, it shows what their method needs of a GPU instead.

    Args:
        method: whose memory and time are predicted, such as in configs/reconstruct/*.yaml.
        name: of the method.
        variant: what is added to the name.
        surroundings: of the grid; what estimating them takes is counted where the case is known.
        weights: of the rays.
        pad: share of each edge by which the grid is larger while it is reconstructed.
        case: case folder or NAF pickle whose grid and views are meant; null is a cone beam on a cube.
        size: voxels along an edge of a cube, and pixels along an edge of its detector, in the place of the case's;
            null is 256 without a case.
        num_views: projections likewise; null is 36 without a case.

    Raises:
        FileNotFoundError: a case that does not exist.
        ValueError: a size or number of views below one, or a negative pad.
    """
    # Wide enough to keep every line whole where the output goes to a file.
    console = Terminal(width=None if sys.stdout.isatty() else 110)
    if pad < 0:
        raise ValueError(f"pad is {pad}; a share of at least 0 is expected, such as 0.5.")
    if method is not None:
        label = " + ".join(filter(None, (name or method.name, variant)))
        grid, scan, around = _planned(case, size, num_views)
        grid, _ = grid.enlarged(pad)
        surrounded = around and surroundings == "auto" and method.fits and not pad
        console.print(_needs(method, label, grid, scan, weights == "auto", surrounded))
        return
    for table in (_versions(), _machine(), _kernels(), _data_sets(), _uses(), _extras()):
        console.print(table)


def _planned(
    path: Path | None, size: int | None, views: int | None
) -> tuple[VolumeGrid, ScanGeometry, bool]:
    """Return grid and scan of a case or of the size that is asked for, and whether an object reaches out of the grid.

    Raises:
        ValueError: a size or number of views below one.
    """
    edge, count = size, views
    if path is not None:
        from diffnr_lightning.data import load_case
        from diffnr_lightning.workflows.methods.posed_problem import reaches_out

        case = load_case(path)
        if size is None and views is None:
            return case.grid, case.scan, reaches_out(case)
        edge = max(case.grid.shape) if size is None else size
        count = len(case.scan) if views is None else views
    edge, count = SIZE if edge is None else edge, VIEWS if count is None else count
    if min(edge, count) < 1:
        raise ValueError(f"size and num_views are {edge} and {count}; at least 1 is expected.")
    scan = ScanGeometry.cone(
        angles_rad=np.linspace(0, 2 * np.pi, count, endpoint=False),
        source_to_axis_mm=4.0 * edge,
        source_to_detector_mm=6.0 * edge,
        detector_shape=(edge, edge),
        pixel_mm=1.6,
    )
    return VolumeGrid((edge,) * 3, 1.0), scan, False


def _needs(
    method: Method,
    label: str,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weighted: bool,
    surrounded: bool,
) -> Table:
    from diffnr_lightning.triton_kernels import CARDS
    from diffnr_lightning.workflows.machine.memory import estimate

    needed = estimate(method, grid, scan, weighted=weighted, surrounded=surrounded)
    voxels, pixels = _edges_in_words(grid.shape), _edges_in_words(scan.detector_shape)
    title = f"{label}, {voxels} voxels, {len(scan)} views of {pixels}: predicted for a GPU, not measured"
    table = _table(title, "what", "needs")
    for part in needed.parts:
        table.add_row(
            part.name, f"{part.bytes / 2**30:.2f} GiB {'' if part.stays else 'at its moment'}"
        )
    table.add_row("peak, with CUDA's own", f"{needed.peak / 2**30:.1f} GiB")
    for card in CARDS:
        table.add_row(f"iterations on one {card.name}, roughly", f"{needed.seconds(card):.0f} s")
    return table


def _edges_in_words(shape: Sequence[int]) -> str:
    """Return a number of voxels or pixels as 256^3, or as 64x256x256 where the edges differ."""
    alike = len(set(shape)) == 1
    return f"{shape[0]}^{len(shape)}" if alike else "x".join(map(str, shape))


def _versions() -> Table:
    table = _table("Versions", "package", "version")
    described = environment()
    git = described["git"]
    suffix = f" (commit {git['commit'][:10]}{', changed' if git['dirty'] else ''})" if git else ""
    table.add_row("diffnr_lightning", described["diffnr_lightning"] + suffix)
    table.add_row("python", described["python"])
    for name, installed in described["packages"].items():
        table.add_row(name, installed or "[red]missing[/red]")
    return table


def _machine() -> Table:
    import torch

    table = _table("Machine", "what", "value")
    described = environment()
    table.add_row("platform", described["platform"])
    table.add_row("processor", f"{cpu_name()}, {described['cores']} cores to use")
    table.add_row("torch threads", str(described["threads"]["torch"]))
    table.add_row("numba threads", f"{described['threads']['numba']} ({_threading_layer()})")
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    advice = "" if policy.upper() == "PASSIVE" else "; PASSIVE is much faster on shared cores"
    table.add_row("OMP_WAIT_POLICY", policy + advice)
    if not torch.cuda.is_available():
        built = (
            f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        )
        table.add_row("GPU", f"none that torch can use ({built})")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        table.add_row(
            f"GPU {index}",
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"compute capability {properties.major}.{properties.minor}",
        )
    return table


def _kernels() -> Table:
    import torch

    from diffnr_lightning.projectors import choose_backend
    from diffnr_lightning.triton_kernels import takes_triton

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    table = _table("What will run where", "operation", *(f"on {device}" for device in devices))
    grid = VolumeGrid((64, 64, 64), 1.0)
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    detector = {"angles_rad": angles, "detector_shape": (64, 64), "pixel_mm": 1.5}
    cone = ScanGeometry.cone(source_to_axis_mm=200.0, source_to_detector_mm=300.0, **detector)
    tilted = ScanGeometry(
        beam="cone",
        source_mm=cone.source_mm,
        detector_mm=cone.detector_mm,
        u_mm=cone.u_mm * np.cos(0.1) + cone.v_mm * np.sin(0.1),
        v_mm=cone.v_mm * np.cos(0.1) - cone.u_mm * np.sin(0.1),
        detector_shape=cone.detector_shape,
    )
    scans = {
        "projector, circular cone beam": cone,
        "projector, parallel beam": ScanGeometry.parallel(**detector),
        "projector, tilted detector": tilted,
    }
    for name, scan in scans.items():
        table.add_row(
            name, *(_kernel(choose_backend(grid, scan, device), device) for device in devices)
        )
    fused = [
        "fused (numba)"
        if device == "cpu"
        else "fused (triton)"
        if takes_triton(torch.device(device))
        else "reference (torch)"
        for device in devices
    ]
    table.add_row("3D Gaussians, hash encoding, SSIM, total variation", *fused)
    table.add_row("SliceFixer (the compact one)", _prior(), *["torch"] * (len(devices) - 1))
    return table


def _kernel(backend: str, device: str) -> str:
    if backend == "reference":
        return "reference (torch)"
    return f"{backend} ({'numba' if device == 'cpu' else 'triton'})"


def _prior() -> str:
    from diffnr_lightning.priors import load_default

    try:
        weights = sum(parameter.numel() for parameter in load_default().parameters())
    except (FileNotFoundError, ValueError) as error:
        return f"[red]{error}[/red]"
    return f"torch, {weights / 1e6:.1f} M weights"


def _data_sets() -> Table:
    from diffnr_lightning.data.datasets import PUBLIC

    table = _table("Data sets", "data set", "its folder", "state")
    for dataset in PUBLIC.values():
        place = os.environ.get(dataset.variable, "")
        table.add_row(dataset.name, place or f"{dataset.variable} is not set", _found(dataset))
    place = os.environ.get(DATA_FOLDER, "")
    files = [volume.volume for volume in read_split() if not is_generated(volume.volume)]
    there = sum(Path(place, file).exists() for file in files) if place else 0
    table.add_row(
        "split",
        place or f"{DATA_FOLDER} is not set",
        f"{there} of {len(files)} files" if place else "",
    )
    return table


def _found(dataset: DataSet) -> str:
    """How many volumes of each set are there, or what is wrong with the folder."""
    if not os.environ.get(dataset.variable):
        return dataset.download
    try:
        files = dataset.files()
    except (FileNotFoundError, ValueError) as error:
        return f"[red]{error}[/red]"
    sets = Counter(entry.set for entry in dataset.volumes() if entry.name in files)
    return ", ".join(f"{sets[name]} {name}" for name in SETS)


def _uses() -> Table:
    from diffnr_lightning.workflows.machine.package_uses import PACKAGES, uses_in_words

    table = _table("Packages of the framework", "package", "installed", "used in")
    for module, (package, _) in PACKAGES.items():
        installed = version(package) or ("yes" if find_spec(module) else "no")
        table.add_row(module, installed, uses_in_words(module))
    return table


def _extras() -> Table:
    table = _table("Optional extras", "extra", "for", "state")
    for extra, (module, package, purpose) in EXTRAS.items():
        installed = version(package) if find_spec(module) else None
        state = installed or rf"pip install 'diffnr-lightning\[{extra}]'"
        table.add_row(extra, purpose, state)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _threading_layer() -> str:
    """Return the pool that numba took; it is chosen when the first parallel kernel runs."""
    import numba

    from diffnr_lightning.kernels import parallel_kernel, prange

    @parallel_kernel()
    def touch_threads(count: int) -> int:
        total = 0
        for index in prange(count):
            total += index
        return total

    touch_threads(2)
    return numba.threading_layer()
