"""The folder that a curation fills: one settings record, and shards that add to it together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffnr_lightning.data.datasets.sources import source_content
from diffnr_lightning.data.pairs.files import read_info
from diffnr_lightning.data.pairs.manifest import write_manifest
from diffnr_lightning.data.slice_pairs import write_pairs
from diffnr_lightning.files import claim, whole_files
from diffnr_lightning.reports.table_rows import counted
from diffnr_lightning.reports.terminal import Terminal
from diffnr_lightning.workflows.runs.run_folder import difference

RECORD = "config.yaml"
CONTENT = "volume_content"
"""In the info of a scan: what tells its volume from others of the name."""


class PairsFolder:
    """Hold pairs that were all made by the same settings, whichever process adds them.

    The settings are recorded with the first scan, so that a curation that made none leaves the folder to others.

    Args:
        path: the folder.
        settings: plain dict of everything that decides what the scans look like, defaults filled in.
        sources: of all volumes by their names; shards that see different files would leave some out.

    Raises:
        ValueError: the folder holds pairs of other settings or volumes, or of unknown ones.
    """

    def __init__(self, path: Path, settings: dict[str, Any], sources: Mapping[str, str]) -> None:
        self.path = path
        self.sources = sources
        # As YAML holds them: a tuple given and a list read back are the same.
        given = yaml.safe_dump({**settings, "volumes": list(sources)}, sort_keys=False)
        self.settings = yaml.safe_load(given)
        self._recorded = False
        if (path / RECORD).is_file():
            self._compare()
        elif self.holds_any:
            raise ValueError(
                f"{path} holds pairs but no {RECORD} that says how they were made; give another "
                "--out (finetune takes several folders)."
            )
        elif path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; a folder for the pairs is expected.")

    @property
    def holds_any(self) -> bool:
        """Whether any scan is there."""
        return self.path.is_dir() and bool(whole_files(self.path, "*.safetensors"))

    def holds(self, name: str, volume: str | None = None) -> bool:
        """Whether a scan is there; files are written in one step, so it is there in full.

        Args:
            name: of the file, without ending.
            volume: whose scan it has to be, as it lies there now; None looks at the name alone.

        Raises:
            ValueError: a scan of another content of the volume; those of earlier versions are taken as they are.
        """
        file = self.path / f"{name}.safetensors"
        if not file.exists():
            return False
        if volume is not None:
            before = read_info(file).get(CONTENT)
            now = source_content(self.sources[volume], before)
            if None not in (before, now) and before != now:
                raise ValueError(
                    f"{file} was made of another content of {volume} than {self.sources[volume]} has now; give another "
                    f"--out, or delete {self.path / volume}_[0-9]*.safetensors to make all scans of {volume} anew."
                )
        return True

    def add(self, name: str, info: dict[str, Any], **tensors: Tensor) -> None:
        """Add a scan.

        Args:
            name: of the file, without ending.
            info: see `write_pairs`.
            tensors: degraded, clean and biplanar of `write_pairs`.

        Raises:
            ValueError: another process has begun to fill the folder by other settings, or what
                `write_pairs` refuses.
        """
        if not self._recorded:
            self._record()
        if (volume := info.get("volume")) in self.sources:
            info = {**info, CONTENT: source_content(self.sources[volume])}
        write_pairs(self.path, name, info=info, **tensors)

    def finish(self) -> dict[str, Any]:
        """Write the manifest of all scans that are there by now, print its shares, return it.

        Raises:
            ValueError: a damaged file, by name.
        """
        self.path.mkdir(parents=True, exist_ok=True)  # a shard may have had nothing to do
        manifest = write_manifest(self.path)
        print_shares(manifest)
        return manifest

    def _record(self) -> None:
        claim(self.path / RECORD, yaml.safe_dump(self.settings, sort_keys=False))
        self._compare()
        self._recorded = True

    def _compare(self) -> None:
        record = self.path / RECORD
        try:
            before = yaml.safe_load(record.read_text(encoding="utf-8"))
            in_order = list(before["volumes"])
            volumes = set(in_order)
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{record} is damaged or no record of a curation; give another --out."
            ) from error
        changed = difference(before, self.settings, free=("volumes",))
        if not changed and (others := sorted(volumes ^ set(self.settings["volumes"]))):
            held = "with" if others[0] in volumes else "without"
            more = f" and {len(others) - 1} more differences" if len(others) > 1 else ""
            changed = f"volumes {held} {others[0]}{more}"
        # Methods and shards follow the order of the volumes.
        if not changed and in_order != list(self.settings["volumes"]):
            changed = "these volumes in another order"
        if changed:
            raise ValueError(
                f"{self.path} holds pairs made by {changed}; give another --out (finetune takes "
                "several folders), or the settings of before."
            )


def print_shares(manifest: dict[str, Any], console: Console | None = None) -> None:
    """Print how many scans and degraded volumes there are of what.

    Args:
        manifest: of a pairs folder.
        console: where to; standard output by default.
    """
    infos = manifest["scans"].values()
    volumes = {info.get("volume", info["case"]) for info in infos}
    made = f"{counted(len(infos), 'scan')} of {counted(len(volumes), 'volume')}"
    title = f"{made}, and the degraded volumes kept of them"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "", "scans", "kept", "share", "PSNR in dB"):
        table.add_column(heading, justify="right" if heading else "left")
    for key, values in manifest["shares"].items():
        for row, (value, count) in enumerate(values.items()):
            table.add_row(
                key if row == 0 else "",
                value,
                str(count["scans"]),
                str(count["volumes"]),
                f"{100 * count['share']:.1f} %",
                f"{count['psnr']:.2f}" if "psnr" in count else "",
                end_section=row == len(values) - 1,
            )
    (console or Terminal()).print(table)
