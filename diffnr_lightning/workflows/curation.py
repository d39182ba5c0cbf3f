"""Make pairs of degraded and clean volumes, from which a SliceFixer learns."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from diffnr_lightning.data import ScanRecipe
from diffnr_lightning.data.datasets import load_source
from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.cases.volume_sources import (
    left_out,
    refuse_held_back,
    volume_sources,
)
from diffnr_lightning.workflows.command_line.repeated_warnings import each_warning_once
from diffnr_lightning.workflows.command_line.settings import Flatten
from diffnr_lightning.workflows.command_line.signature import Checked, at_least, folder_to_be
from diffnr_lightning.workflows.machine.device import use_device
from diffnr_lightning.workflows.methods.problem import Problem
from diffnr_lightning.workflows.pairs.early_stops import refuse_what_cannot_stop, stopped_early
from diffnr_lightning.workflows.pairs.projection_pairs import SHARES, projection_pairs
from diffnr_lightning.workflows.pairs.shards import Job, jobs_of, shard_of
from diffnr_lightning.workflows.pairs.variation import Variation, zoomed
from diffnr_lightning.workflows.runs.environment import environment
from diffnr_lightning.workflows.tables.failures import Failures

Case = deferred("diffnr_lightning.data.cases.Case")
Device = deferred("torch.device")
LoadedVolume = deferred("diffnr_lightning.data.volumes.LoadedVolume")
PairsFolder = deferred("diffnr_lightning.workflows.pairs.pairs_folder.PairsFolder")
Method = deferred("diffnr_lightning.workflows.methods.problem.Method")
Repairer = deferred("diffnr_lightning.priors.repairer.Repairer")
Tensor = deferred("torch.Tensor")

# They decide who makes a scan and where, but not what is in it; the volumes are recorded by name.
FREE_KEYS = ("config", "out", "shard", "device", "volumes", "exclude")
# The fields of a recipe that are drawn for each scan, or have no use in one that is learned from.
DRAWN = ("num_views", "layout", "arc_deg", "start_deg", "test_views", "slices")
# Attempts to draw a scan that can be made.
DRAWS = 10
BIPLANAR_SIZE = 64  # that of `priors.conditioning`, which imports torch


def curate(
    volumes: Annotated[list[str], Checked(volume_sources)],
    out: Annotated[Path, folder_to_be("pairs")],
    methods: list[Method],
    exclude: list[str] | None = None,
    held_out: list[str] | None = None,
    runs: int = 1,
    recipe: Annotated[ScanRecipe, Flatten(without=DRAWN)] = ScanRecipe(fit="body", test_views=0),
    variation: Annotated[Variation, Flatten()] = Variation(),
    surroundings: Literal["auto", "ignore"] = "auto",
    fractions: tuple[float, ...] = (0.25, 0.375, 0.5),
    biplanar_size: int = BIPLANAR_SIZE,
    repair: Repairer | None = None,
    residual: bool = False,
    kind: Literal["slices", "projections"] = "slices",
    seed: Annotated[int, at_least(0, "seed")] = 0,
    shard: Annotated[str, Checked(shard_of)] = "0/1",
    device: str = "cpu",
    resolved: dict[str, Any] | None = None,
) -> Path:
    """Scan volumes, stop reconstructions early, and keep what they look like beside the truth.

    Every run is drawn from its name: a curation that was interrupted goes on where it stopped, and shards that fill one
    folder, on one machine or several, make the same files as one process would. A volume that cannot be read, scanned
    or reconstructed does not stop the rest: it is told of at once and, as an error, when that is finished.

    Args:
        volumes: files, glob patterns, sets of a split (`split:train`, `split:train[kind=head,limb]`) or of a data set
            (`luna16:train`), or generated objects: `phantom:` (chests), `specimen:` or `ellipsoids:` with SEED or
            FIRST-LAST. What a split keeps for development or test is refused, but for development that is `held_out`.
        out: folder of pairs: one safetensors file a run, the settings in `config.yaml`, and `manifest.json`, which
            counts representations, layouts and views.
        methods: scenes and solvers that are stopped early; runs take them in turn, so that each makes an equal share.
            A solver is run anew for each of the fractions of its option `iterations`; one without, once.
        exclude: names of volumes, patterns of names, or sets of a split (`split:test`) that must not be learned from.
        held_out: volumes, patterns or sets (`luna16:development`) whose pairs are for validation alone: no finetuning
            learns from them.
        runs: scans of each volume.
        recipe: what all scans have in common; options of their own on the command line.
        variation: what is drawn for each scan, likewise.
        surroundings: of a grid that an object reaches out of. auto estimates them coarsely and takes them away from
            the projections, for methods that fit these; ignore leaves them to the voxels at the edge.
        fractions: shares of a method's iterations after which the volume is kept.
        biplanar_size: edge in pixels of the two projections that are kept; the large SliceFixer takes 518.
        repair: repairs the last of those volumes; what each pass makes of it is kept as well, so that the next prior
            learns what a volume looks like that was repaired already.
        residual: whether the backprojected residual of each volume and its noise are kept too, for priors that look at
            them; the file is twice as large.
        kind: slices keeps volumes; projections keeps what they and the truth show in views between the measured ones,
            for `RepairedProjections`; finetuning draws them one by one, whatever its planes.
        seed: with the name of the run, seeds all that is drawn.
        shard: `K/N` takes share K of N, which have about as many volumes and scans by each method; all shards fill the
            same folder.
        device: where to compute: cpu, cuda or cuda:N.
        resolved: filled in by the command line.

    Returns:
        The folder.

    Source: data curation of DiffNR: random view subsets, uniform and not, reconstructions stopped at 25-50 % of their
    iterations, representations in equal shares.

    Raises:
        FileNotFoundError: a file or pattern that names no volume.
        ValueError: no volume, one that a split keeps, projections with a residual, no method or one that cannot be
            stopped early, a shard or device that does not exist, a method that a GPU has no room for, a folder of other
            settings, or volumes or scans that could not be finished.
    """
    _check_options(methods, runs, biplanar_size, fractions, kind, residual)
    shard_of(shard)
    sources = volume_sources(volumes)
    unwanted = left_out(sources, exclude or [])
    validated = left_out(sources, held_out or [], idle="holds no pairs out of finetunings")
    refuse_held_back(
        (source for name, source in sources.items() if name not in unwanted),
        (source for name, source in sources.items() if name in validated),
    )
    variation.check(recipe)

    from diffnr_lightning.workflows.command_line.progress import progress_bar

    place = use_device(device)
    if place.type == "cuda":
        _refuse_what_cannot_fit(methods, repair, recipe, variation, place)
    plain = {
        **recipe.describe(),
        **asdict(variation),
        "surroundings": surroundings,
        "methods": [_described(method) for method in methods],
        "held_out": held_out,
        "runs": runs,
        "fractions": fractions,
        "biplanar_size": biplanar_size,
        "repair": None if repair is None else str(repair.learned),
        "residual": residual,
        "seed": seed,
        "kind": kind,
    }
    settings = {k: v for k, v in (resolved or plain).items() if k not in FREE_KEYS}
    folder = PairsFolder(out, settings, sources)
    wanted = jobs_of(list(sources), unwanted, runs, len(methods), shard, folder)
    jobs = [job for job in wanted if not folder.holds(job.name, job.volume)]
    curation = _Curation(
        methods,
        settings["methods"],
        recipe,
        variation,
        surroundings,
        fractions,
        biplanar_size,
        repair,
        residual,
        kind,
        seed,
        device,
    )
    code = {k: v for k, v in environment().items() if k in ("diffnr_lightning", "git")}
    failures = Failures("volumes or scans")
    with progress_bar("curating") as progress:
        # The scans of a volume follow each other.
        for volume, scans in groupby(enumerate(jobs), key=lambda entry: entry[1].volume):
            loaded = None
            with failures.kept(volume):
                loaded, digest = _with_hash(load_source(sources[volume], recipe))
            if loaded is None:
                continue
            origin = {"volume": volume, "held_out": volume in validated, "volume_sha256": digest}
            for done, job in scans:
                progress(done, len(jobs), job.name)
                made = None
                with failures.kept(job.name), each_warning_once():
                    made = curation.pairs(job, loaded, origin)
                if made is not None:
                    tensors, info = made
                    folder.add(job.name, {**info, "code": code}, **tensors)
        progress(len(jobs), len(jobs), "done")
    # Of a curation of which nothing came out there is nothing to be counted, nor a folder to be left.
    if not failures.errors or folder.holds_any:
        folder.finish()
    failures.tell()
    return out


def _check_options(
    methods: list[Method],
    runs: int,
    biplanar_size: int,
    fractions: tuple[float, ...],
    kind: str,
    residual: bool,
) -> None:
    """Refuse values that no curation can have."""
    if not methods:
        raise ValueError("methods is empty; at least one reconstruction to stop early is expected.")
    refuse_what_cannot_stop(methods)
    for key, value in (("runs", runs), ("biplanar_size", biplanar_size)):
        if value < 1:
            raise ValueError(f"{key} is {value}; at least 1 is expected.")
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(
            f"fractions is {fractions}; shares above 0 and up to 1 of the iterations are expected."
        )
    if kind == "projections" and residual:
        raise ValueError(
            "residual is true and kind is projections, which have no backprojected residual; leave one of them out."
        )


class _Curation(NamedTuple):
    """What the scans of a curation have in common, under the names of its options.

    Attributes:
        described: the methods as settings name them.
    """

    methods: list[Method]
    described: list[Any]
    recipe: ScanRecipe
    variation: Variation
    surroundings: Literal["auto", "ignore"]
    fractions: tuple[float, ...]
    biplanar_size: int
    repair: Repairer | None
    residual: bool
    kind: Literal["slices", "projections"]
    seed: int
    device: str

    def pairs(
        self, job: Job, loaded: LoadedVolume, origin: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Scan a volume and return its pairs by name, and how they were made.

        Args:
            job: the scan that is wanted.
            loaded: its volume.
            origin: what is recorded of the volume.

        Raises:
            ValueError: a scan that cannot be made or reconstructed.
        """
        from diffnr_lightning.data.pairs.files import refuse_not_finite

        case, weighted = _drawn_case(loaded, job.name, self.seed, self.recipe, self.variation)
        turn = job.number % len(self.methods)
        method = self.methods[turn]
        subtract = self.surroundings == "auto" and method.fits
        problem = _problem(case, weighted, subtract, self.device)
        tensors, info = stopped_early(case, problem, method, self.fractions, self.repair)
        if self.kind == "projections":
            share = np.random.default_rng([self.seed, _hash(job.name), 1]).uniform(*SHARES)
            tensors, info = projection_pairs(problem, tensors, info, float(share))
        tensors["biplanar"], views = _biplanar(problem, self.biplanar_size)
        if self.residual:
            tensors |= _evidence(problem, tensors["degraded"])
        refuse_not_finite(job.name, tensors)
        made = {"method": self.described[turn], "weighted": problem.weights is not None}
        return tensors, {**info, "biplanar_views": views, **origin, **made}


def _described(method: Method) -> dict[str, Any]:
    """Name a method that was built in Python; of its arguments a solver alone tells."""
    named = {"class_path": type(method).__name__, "name": method.name}
    return named | ({"options": method.options} if hasattr(method, "options") else {})


def _with_hash(loaded: LoadedVolume) -> tuple[LoadedVolume, str]:
    return loaded, hashlib.sha256(loaded.array).hexdigest()


def _refuse_what_cannot_fit(
    methods: list[Method],
    repair: Repairer | None,
    recipe: ScanRecipe,
    variation: Variation,
    place: Device,
) -> None:
    """Refuse methods, and a repair, that a GPU has no room for with the most views that are drawn."""
    from diffnr_lightning.data import planned_geometry
    from diffnr_lightning.workflows.machine.memory_refusal import refuse_what_cannot_fit
    from diffnr_lightning.workflows.methods.postprocessing import Postprocessing
    from diffnr_lightning.workflows.methods.solver import Solver

    grid, scan = planned_geometry(replace(recipe, num_views=max(variation.views)))
    steps = {f"methods, number {number}": method for number, method in enumerate(methods, 1)}
    if repair is not None:
        # What is repaired has been made by then: the solver stands for none, and takes less than the repair.
        steps["repair"] = Postprocessing(Solver("sirt"), repair)
    for name, step in steps.items():
        try:
            refuse_what_cannot_fit(step, grid, scan, place, weighted=True)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _drawn_case(
    loaded: LoadedVolume, name: str, seed: int, recipe: ScanRecipe, variation: Variation
) -> tuple[Case, bool]:
    """Scan a volume as drawn from the seed and the name of the scan, and draw whether its weights are used."""
    from diffnr_lightning.data import NoClearanceError, NothingToScanError

    generator = np.random.default_rng([seed, _hash(name)])
    for _ in range(DRAWS - 1):
        try:
            return _draw(loaded, name, generator, recipe, variation)
        # A cube around a small body may lie in an object that the drawn scanner cannot turn around, and a box that is
        # cut out may hold nothing but air.
        except (NoClearanceError, NothingToScanError):
            continue
    return _draw(loaded, name, generator, recipe, variation)


def _draw(
    loaded: LoadedVolume,
    name: str,
    generator: np.random.Generator,
    recipe: ScanRecipe,
    variation: Variation,
) -> tuple[Case, bool]:
    from diffnr_lightning.data import simulate_case

    part = zoomed(loaded, generator.uniform(*variation.zooms), generator)
    part = variation.deformed(part, generator)
    scale = float(np.exp(generator.uniform(*np.log(variation.scales))))
    part = replace(part, spacing_mm=tuple(scale * edge for edge in part.spacing_mm))
    drawn = variation.draw(recipe, generator)
    case = simulate_case(part, drawn, name, int(generator.integers(2**31)))
    return case, bool(generator.random() < variation.weighted_share)


def _problem(case: Case, weighted: bool, subtract: bool, device: str) -> Problem:
    """Return what a method is given, as `reconstruct` gives it, or with rays that weigh alike."""
    from diffnr_lightning.workflows.methods.assumed_photons import photons_of
    from diffnr_lightning.workflows.methods.posed_problem import measured_problem, with_surroundings

    photons = photons_of(case, None)
    problem = measured_problem(case, case.grid, device, photons=photons, weighted=weighted)
    return with_surroundings(problem, case.name, subtract).without_surroundings()


def _biplanar(problem: Problem, size: int) -> tuple[Tensor, list[int]]:
    """The pair of projections that a prior takes, (2, size, size), and which views they are."""
    import torch

    from diffnr_lightning.priors import biplanar_conditioning, biplanar_pair

    directions = torch.tensor(problem.scan.direction, dtype=torch.float32)
    conditioning = biplanar_conditioning(problem.projections.cpu(), directions, size=size)
    return conditioning.biplanar[0], list(biplanar_pair(directions))


def _evidence(problem: Problem, degraded: Tensor) -> dict[str, Tensor]:
    """Residuals (S, Z, Y, X) of degraded volumes and, if known, their noise, as a prior would see them."""
    import torch

    from diffnr_lightning.solvers import residual_evidence

    place = problem.projections.device
    scanned = (problem.projections, problem.grid, problem.scan, problem.weights)
    found = [residual_evidence(volume.to(place).clamp(0, 1), *scanned) for volume in degraded]
    evidence = {"residual": torch.stack([each.residual.cpu() for each in found])}
    if problem.weights is not None:
        evidence["noise"] = found[-1].noise.cpu()
    return evidence


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
