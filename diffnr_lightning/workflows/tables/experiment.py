"""Tables of papers as folders: which methods on which volumes, beside which published numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from diffnr_lightning.files import write_bytes
from diffnr_lightning.workflows.command_line.config_files import check_yaml, method_name
from diffnr_lightning.workflows.command_line.refusals import nearest
from diffnr_lightning.workflows.runs.downstream import Task
from diffnr_lightning.workflows.tables.table_file import (
    Scale,
    check_keys,
    check_text,
    listed,
    of_scale,
    read_named,
)

TABLE_FILE = "table.yaml"
PAPER_FILE = "paper.csv"
PAIRS_FOLDER = "pairs"

MINIATURE_VOLUMES = ("phantom:300",)
MINIATURE_SCAN = "tiny/simulate_table"
MINIATURE_NOTE = (
    "Miniature: one generated chest of 32^3 voxels and a few iterations or steps of every method. It shows that every "
    "row runs; its numbers say nothing of the methods and are not comparable with published ones."
)


@dataclass(frozen=True)
class Part:
    """Name the scans of one set of volumes.

    Attributes:
        name: of the data, as in the column `data` of the published numbers.
        volumes: as `sweep` takes them.
        scans: config files of `simulate`, likewise.
        views: numbers of views.
    """

    name: str
    volumes: tuple[str, ...]
    scans: tuple[str, ...]
    views: tuple[int, ...]

    @property
    def folder(self) -> str:
        """Name of the folder of its runs."""
        return _as_folder(self.name)


class Training(NamedTuple):
    """Name a network that a row learns before it is run.

    Attributes:
        words: the command, without `diffnr`.
        folder: of its run.
        overlay: config that makes a method take the network.
        content: of that config.
        pairs: whether it learns from the pairs of the table.
    """

    words: list[str]
    folder: Path
    overlay: Path
    content: dict[str, Any]
    pairs: bool

    @property
    def finished(self) -> bool:
        """Whether the network is trained, by whoever called the command."""
        return (self.folder / "metrics.json").is_file()

    def check_overlay(self) -> None:
        """Refuse a path by which no method could name the config that makes it take the network.

        Raises:
            ValueError: it holds a plus.
        """
        if "+" in str(self.overlay):
            raise ValueError(
                f"{self.overlay} has a plus in its path, which joins configs; an --out, and a config of the training, "
                "without one are expected."
            )

    def write_overlay(self) -> None:
        """Write the config that makes a method take the network, trained or not.

        Raises:
            ValueError: see `check_overlay`, or a path that cannot be written.
        """
        self.check_overlay()
        write_bytes(self.overlay, yaml.safe_dump(self.content).encode())


@dataclass(frozen=True)
class ExperimentRow:
    """Name one row of a table.

    Attributes:
        name: of the method, as in the column `method` of the published numbers.
        method: config files of `reconstruct` joined by `+`; None for a row that cannot be run.
        reason: why it cannot be run; None for others.
        prior: config files of `finetune` joined by `+`, whose weights the method repairs with; None for those that its
            configs name.
        projection_prior: likewise, of a network that repairs projections.
        denoiser: config files of `train-denoiser` joined by `+`, whose denoiser the method samples with; rows that name
            the same one share it. None for those that its configs name.
    """

    name: str
    method: str | None
    reason: str | None = None
    prior: str | None = None
    denoiser: str | None = None
    projection_prior: str | None = None

    def entry(self, out: Path) -> str:
        """Return the method as `sweep` takes it, in a table in the folder `out`."""
        return "+".join([self.method or "", *(str(t.overlay) for t in self.trainings(out))])

    def trainings(self, out: Path) -> list[Training]:
        """Return what is trained for the row, in a table in the folder `out`."""
        trainings = []
        for config, slot, callback in (
            (self.prior, "pseudo_reference", "PseudoReference"),
            (self.projection_prior, "repaired_projections", "RepairedProjections"),
        ):
            if not config:
                continue
            folder = out / "priors" / _as_folder(self.name)
            repairer = {"weights": str(folder / "weights.safetensors")}
            node = _node(f"callbacks.{callback}", {"repairer": repairer})
            method = _node("workflows.Scene", {slot: node})
            data = ["--data.folders", str(out / PAIRS_FOLDER)]
            words = ["finetune", "--config", config, *data]
            trainings.append(
                _training(
                    words, folder, {"variant": self.name.lstrip("+ "), "method": method}, True
                )
            )
        if self.denoiser:
            folder = out / "denoisers" / method_name(self.denoiser)
            method = _node("workflows.Sampler", {"denoiser": str(folder / "denoiser")})
            words = ["train-denoiser", "--config", self.denoiser]
            trainings.append(_training(words, folder, {"method": method}, False))
        return trainings


@dataclass(frozen=True)
class Experiment:
    """Hold what a table is made of.

    Attributes:
        folder: where its files are.
        title: of the table.
        notes: sentences that belong under it.
        parts: its sets of volumes.
        rows: its methods, in their order.
        scale: whether it is the table itself or its miniature.
        pairs: config files of `curate` joined by `+`, for the rows that have a prior of their own.
        downstream: a task whose results belong to the table, see `diffnr evaluate`; None for none.
    """

    folder: Path
    title: str
    notes: tuple[str, ...]
    parts: tuple[Part, ...]
    rows: tuple[ExperimentRow, ...]
    scale: Scale
    pairs: str | None = None
    downstream: str | None = None

    @property
    def name(self) -> str:
        """Path below `experiments/`, such as diffnr/1; of a folder elsewhere its own name."""
        for folder in experiment_folders():
            if self.folder.resolve().is_relative_to(folder.resolve()):
                return self.folder.resolve().relative_to(folder.resolve()).as_posix()
        return self.folder.name

    @property
    def paper(self) -> Path | None:
        """File of the published numbers, None where there are none."""
        path = self.folder / PAPER_FILE
        return path if path.is_file() else None

    def with_views(self, views: Sequence[int] | None) -> Experiment:
        """Return what is left of it at some numbers of views; None is all of it.

        Raises:
            ValueError: a number of views that no part has.
        """
        if views is None:
            return self
        known = {number for part in self.parts for number in part.views}
        if not views or not set(views) <= known:
            raise ValueError(
                f"views is {list(views)}; the table has {', '.join(map(str, sorted(known)))}."
            )
        kept = [
            replace(part, views=tuple(number for number in part.views if number in views))
            for part in self.parts
        ]
        return replace(self, parts=tuple(part for part in kept if part.views))

    def sweep(self, part: Part, rows: Sequence[ExperimentRow], out: Path) -> list[str]:
        """Return the command that makes the runs of some rows on one part, without `diffnr`."""
        lists = {
            "volumes": part.volumes,
            "views": part.views,
            "scans": part.scans,
            "methods": tuple(dict.fromkeys(row.entry(out) for row in rows if row.method)),
        }
        words = [
            word for name, values in lists.items() for word in (f"--{name}", *map(str, values))
        ]
        return ["sweep", *words, "--out", str(out / part.folder)]

    def curation(self, out: Path) -> list[str]:
        """Return the command that makes the pairs from which priors learn, without `diffnr`."""
        return ["curate", "--config", self.pairs or "", "--out", str(out / PAIRS_FOLDER)]


def read_experiment(name: str, scale: Scale = "full") -> Experiment:
    """Read the folder of an experiment.

    Args:
        name: a folder with a `table.yaml`, or the name of one in `experiments/`, such as `diffnr/1`.
        scale: the miniature has the same rows and views, on one scan of a phantom of 32^3 voxels for each part.

    Raises:
        FileNotFoundError: no such experiment.
        ValueError: a file that lacks something, or holds a key or value that is not known.
    """
    folder = _located(name)
    path = folder / TABLE_FILE
    content = read_named(path)
    check_keys(path, content, {"title", "parts", "rows"}, {"notes", "pairs", "downstream"})
    for key in ("parts", "rows"):
        if not isinstance(content[key], Mapping):
            raise ValueError(
                f"{path}: {key} is {content[key]!r}; a mapping from names is expected."
            )
    check_text(path, "title", content["title"])
    task = content.get("downstream")
    if task not in (None, *get_args(Task)):
        raise ValueError(
            f"{path}: downstream is {task!r}; {' or '.join(get_args(Task))} is expected."
        )
    notes = listed(path, "notes", content.get("notes") or ())
    read = Experiment(
        folder,
        content["title"],
        (MINIATURE_NOTE, *notes) if scale == "miniature" else notes,
        tuple(_part(path, part, entry, scale) for part, entry in content["parts"].items()),
        tuple(_row(path, row, entry, scale) for row, entry in content["rows"].items()),
        scale,
        _config(path, "pairs", of_scale(path, "pairs", content.get("pairs"), scale)),
        task,
    )
    _refuse_shared_folders(path, read.rows)
    learning = [r.name for r in read.rows if any(t.pairs for t in r.trainings(Path()))]
    if learning and not read.pairs:
        raise ValueError(
            f"{path}: {', '.join(learning)} learn from pairs, but pairs names no config of `curate` for {scale}."
        )
    return read


def experiment_folders() -> list[Path]:
    """Return the folders in which experiments are looked for: of the current folder, and of the checkout."""
    beside = Path(__file__).resolve().parents[3] / "experiments"
    return [folder for folder in (Path("experiments"), beside) if folder.is_dir()]


def _located(name: str) -> Path:
    places = [Path(name), *(folder / name for folder in experiment_folders())]
    for place in places:
        if (place / TABLE_FILE).is_file():
            return place
    known = sorted(
        {
            path.parent.relative_to(folder).as_posix()
            for folder in experiment_folders()
            for path in folder.rglob(TABLE_FILE)
        }
    )
    raise FileNotFoundError(
        f"experiment {name!r} has no {TABLE_FILE}; a folder with one is expected, or one of "
        f"{', '.join(known) or 'experiments/ (a checkout has them)'}{nearest(name, known)}."
    )


def _refuse_shared_folders(path: Path, rows: Sequence[ExperimentRow]) -> None:
    """Refuse two networks that would be trained in one folder, where the second would be taken for trained."""
    known: dict[Path, Training] = {}
    for training in (training for row in rows for training in row.trainings(Path())):
        if known.setdefault(training.overlay, training) != training:
            raise ValueError(
                f"{path}: rows of this table train two networks in one folder, {training.overlay.name}; rename a row "
                "or a config, and give one row one network of its own."
            )


def _part(path: Path, name: str, entry: Mapping[str, Any], scale: Scale) -> Part:
    """Read one part; `sweep` names files of `sweep` in the folder that say what the entry does not."""
    check_keys(path, entry, set(), {"sweep", "volumes", "scans", "views"})
    content: dict[str, Any] = {}
    for file in listed(path, "sweep", entry.get("sweep", ())):
        check_yaml(path.parent / file)
        content |= yaml.safe_load((path.parent / file).read_text(encoding="utf-8"))
    content |= entry
    missing = [key for key in ("volumes", "scans", "views") if not content.get(key)]
    if missing:
        raise ValueError(f"{path}: part {name} lacks {', '.join(missing)}.")
    volumes, scans, views = (listed(path, k, content[k]) for k in ("volumes", "scans", "views"))
    volumes = tuple(map(str, volumes))
    scans = tuple(str(_config(path, "scans", scan)) for scan in scans)
    if scale == "miniature":
        volumes = MINIATURE_VOLUMES
        # Kinds of noise make no row more alive.
        scans = (f"{scans[0]}+{MINIATURE_SCAN}",)
    return Part(name, volumes, scans, views)


def _row(path: Path, name: str, entry: Mapping[str, Any], scale: Scale) -> ExperimentRow:
    """Read one row: `reason`, or `method` with what the miniature has in its place; what it trains is by scale."""
    trained_by = ("prior", "denoiser", "projection_prior")
    check_keys(path, entry, set(), {"method", "miniature", "reason", *trained_by})
    method, reason = entry.get("method"), entry.get("reason")
    if scale == "miniature" and entry.get("miniature"):
        method, reason = entry["miniature"], None
    if (method is None) == (reason is None):
        raise ValueError(
            f"{path}: row {name} has method {method!r} and reason {reason!r}; one of the two is expected."
        )
    check_text(path, f"reason of the row {name}", reason)
    trained = (_config(path, key, of_scale(path, key, entry.get(key), scale)) for key in trained_by)
    return ExperimentRow(name, _config(path, "method", method), reason, *trained)


def _training(words: list[str], folder: Path, content: dict[str, Any], pairs: bool) -> Training:
    overlay = folder.with_name(f"{folder.name}.yaml")
    return Training([*words, "--out", str(folder)], folder, overlay, content, pairs)


def _node(name: str, init_args: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"diffnr_lightning.{name}", "init_args": init_args}


def _as_folder(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _config(path: Path, key: str, entry: str | None) -> str | None:
    """Return config files joined by `+`, those of this and other experiments by their paths."""
    check_text(path, key, entry)
    return None if entry is None else "+".join(_file(path, part) for part in entry.split("+"))


def _file(path: Path, name: str) -> str:
    """Return the path of a config that lies in the experiment's folder, or is called `experiments/...`."""
    if (path.parent / name).is_file():
        return str(path.parent / name)
    # Those of the checkout, wherever the command is called.
    beside = [folder.parent / name for folder in experiment_folders()]
    found = [file for file in beside if name.startswith("experiments/") and file.is_file()]
    return str(found[0]) if found else name
