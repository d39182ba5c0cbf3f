"""The folder of a run: what made it, where it was made, and how far it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from diffnr_lightning.callbacks.resource_use import ResourceUse
from diffnr_lightning.files import remove_leftovers, same_content, write_json, write_text
from diffnr_lightning.reports.machines import PLACES
from diffnr_lightning.workflows.runs.built import is_known, untold
from diffnr_lightning.workflows.runs.environment import environment
from diffnr_lightning.workflows.runs.folder_lock import FolderInUseError, folder_lock
from diffnr_lightning.workflows.runs.run_logger import IDENTITY
from diffnr_lightning.workflows.runs.weights_record import (
    changed_weights,
    same_weights,
    updated_weights,
)

logger = logging.getLogger("diffnr")

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
DESCRIBING = (CONFIG, ENVIRONMENT, IDENTITY)
"""Files of a run that has made nothing yet."""

OF_LIGHTNING = ("pytorch-lightning_version", "state_dict", "loops")
# They say where something is, who computes it and how often it is kept or drawn, but not what comes out.
FREE_KEYS = (
    "accelerator",
    "checkpoint_every",
    "config",
    "curves",
    "data.init_args.store",
    "data.init_args.workers",
    "data.workers",
    "device",
    "out",
)
# What an earlier version could not be told, and this one is left to choose, is no other setting.
CHOSEN = "auto"
# The number of processes decides which batches a training draws; what is finished draws none.
FREE_WHEN_FINISHED = ("devices", "num_nodes", "strategy")
BUILT = "built"
"""What a run that was begun in Python records of its objects; those of earlier versions do not say it."""


class RunFolder:
    """Hold config, environment, checkpoint and metrics of one run.

    Args:
        path: the folder.
        settings: plain dict of everything that decides the outcome, defaults filled in.
        inputs: fingerprint of the content that a setting names, by the setting's name: the files may
            move then, but not change (`files.same_content`). So do other contents, by names that no setting has.

    Attributes:
        path: the folder.
        use: what the run has cost, counted from here.
        facts: JSON-able, what else `open` is to record of where the result comes from; it binds nobody.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], inputs: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self.use = ResourceUse()
        self.inputs = dict(inputs or {})
        self.facts: dict[str, Any] = {}
        self._begun = False
        self._described: dict[str, Any] = {}
        self._new_folders: list[Path] = []
        # As YAML holds them: a tuple given and a list read back are the same.
        self.settings = yaml.safe_load(yaml.safe_dump(settings, sort_keys=False))

    @property
    def checkpoint(self) -> Path:
        """File of the checkpoint."""
        return self.path / "checkpoint.ckpt"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end; its metrics are written last."""
        return (self.path / "metrics.json").is_file()

    @property
    def environment(self) -> dict[str, Any]:
        """Where the run was made, as ``environment.json`` says; empty where that is missing or damaged."""
        try:
            described = json.loads((self.path / ENVIRONMENT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return described if isinstance(described, dict) else {}

    @property
    def described(self) -> dict[str, Any]:
        """Settings and environment, as a logger is told of the run."""
        return {**self.settings, "environment": self.environment}

    def open(self) -> None:
        """Create the folder or take up the run that it holds.

        All processes of a run may open it at once: they take turns, and what the first one finds or
        makes is what the others see.

        Raises:
            ValueError: the folder holds a run of other settings, or something that is no run.
            OSError: the folder cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; a folder for the run is expected.")
        if self.finished and (self.path / CONFIG).is_file():
            self._compare()
            self._refuse_unknown()
            return
        places = {key: self.settings[key] for key in PLACES if key in self.settings}
        self._described = {**environment(), **places, "inputs": self.inputs, **self.facts}
        self._new_folders = [
            folder for folder in (self.path, *self.path.parents) if not folder.exists()
        ]
        self.path.mkdir(parents=True, exist_ok=True)
        with folder_lock(self.path / ".opening", wait=True):
            if (self.path / CONFIG).is_file():
                recorded = self._take_up()
            elif any(not entry.name.startswith(".") for entry in self.path.iterdir()):
                raise ValueError(
                    f"{self.path} holds files but no {CONFIG}; give the run a folder of its own."
                )
            else:
                self._begun, recorded = True, False
            if not recorded:
                self._record()

    def begin(self) -> bool:
        """Open the folder, and return whether anything is left to do; where nothing is, say so.

        Raises:
            ValueError: the folder holds a run of other settings, or something that is no run.
            OSError: the folder cannot be written.
        """
        self.open()
        if self.finished:
            logger.info("%s is finished already", self.path)
        return not self.finished

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Work in the folder alone; of a run of several processes the first one claims it for all.

        What `open` has written, and the folders that it has made, are taken away again where an error comes
        before any result: a run that is refused, by its settings or for want of a package, leaves nothing.

        Raises:
            ValueError: another run is working in the folder.
            OSError: the folder cannot be written.
        """
        try:
            with folder_lock(self.path / ".running", wait=False):
                self._compare()  # another run may have opened the folder since
                self._record()  # where it is worked on, which `open` does not know while another run may work on it
                remove_leftovers(self.path)
                try:
                    yield
                except Exception:
                    self._forget()
                    raise
        except FolderInUseError as holder:
            raise ValueError(
                f"{self.path} is being filled by {holder}; wait for its end, or give another --out."
            ) from None
        finally:
            self._remove_new_folders()

    @contextmanager
    def left_as_found(self) -> Iterator[None]:
        """Take away again what `open` has made where an error comes before the work in the folder begins."""
        try:
            yield
        except Exception:
            self._forget()
            self._remove_new_folders()
            raise

    def resume_from(self) -> Path | None:
        """Return the checkpoint of an optimisation to go on from, None where there is none.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        return None if self.kept(*OF_LIGHTNING) is None else self.checkpoint

    def kept(self, *names: str) -> dict[str, Any] | None:
        """Return what the checkpoint holds, tensors on the CPU, None where there is none.

        Args:
            names: that it must hold.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        if not self.checkpoint.is_file():
            return None
        import torch

        try:
            kept = torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=True)
            if lacking := set(names) - set(kept):
                raise KeyError(sorted(lacking)[0])
        except Exception as error:  # zip, pickle and torch each have their own
            raise ValueError(
                f"checkpoint {self.checkpoint} cannot be read ({type(error).__name__}); remove it "
                "to start the run again."
            ) from error
        return kept

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, complete or not at all.

        Args:
            name: of the file in the folder.
            content: JSON-able.
        """
        write_json(self.path / name, content)

    def finish(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Write ``metrics.json``, which marks the run as finished, and return what it holds.

        Args:
            metrics: JSON-able; seconds and peak memory are added.
        """
        metrics = {**metrics, **self.use.as_metrics()}
        self.write_json("metrics.json", metrics)
        return metrics

    def _record(self) -> None:
        """Write the settings, and the environment that `open` has found."""
        write_text(self.path / CONFIG, yaml.safe_dump(self.settings, sort_keys=False))
        described = self._described
        self.write_json(ENVIRONMENT, {**described, **self._earlier(described)})

    def _earlier(self, described: dict[str, Any]) -> dict[str, Any]:
        """Return the environments in which a run that has a checkpoint was computed before, where they were others."""
        before = self.environment if self.checkpoint.is_file() else {}
        earlier = before.pop("earlier", [])
        if before and before != described and before not in earlier:
            changed = [key for key in self.facts if before.get(key) not in (None, self.facts[key])]
            if changed:
                logger.warning(
                    "%s goes on with other %s than it was begun with",
                    self.path,
                    " and ".join(changed),
                )
            earlier = [*earlier, before]
        return {"earlier": earlier} if earlier else {}

    def _take_up(self) -> bool:
        """Compare with the run that is there, and return whether it binds; one that has made nothing yet does not."""
        try:
            self._compare()
            self._refuse_unknown()
            return True
        except ValueError:
            if any(not self._describes(entry) for entry in self.path.iterdir()):
                raise
            try:
                with folder_lock(self.path / ".running", wait=False):
                    return False
            except FolderInUseError:
                pass
            raise

    def _forget(self) -> None:
        """Take away what describes the run, where it has begun here and made nothing else."""
        if self._begun and all(map(self._describes, self.path.iterdir())):
            for name in DESCRIBING:
                (self.path / name).unlink(missing_ok=True)

    def _remove_new_folders(self) -> None:
        """Remove the folders that `open` has made as far as they are empty, which those of a run are not."""
        for folder in self._new_folders:
            try:
                folder.rmdir()
            except OSError:
                return

    @staticmethod
    def _describes(entry: Path) -> bool:
        if entry.is_dir():
            return not any(entry.iterdir())
        return entry.name in DESCRIBING or entry.name.startswith(".")

    def _recorded_settings(self) -> dict[str, Any]:
        config = self.path / CONFIG
        try:
            before = yaml.safe_load(config.read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise TypeError(f"{config} holds no settings")
        except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
            raise ValueError(f"{config} is damaged; remove the run to start it again.") from error
        return before

    def _refuse_unknown(self) -> None:
        """Refuse to take up a run that nobody can compare with this one."""
        if BUILT in self._recorded_settings() and not is_known(self.settings.get(BUILT)):
            raise ValueError(
                f"{self.path} holds a run, and whether it is this one cannot be known, which is built of a "
                "function without a name, as a lambda or one inside another function; name a function of a module, "
                "give another --out, or remove that run."
            )

    def _compare(self) -> None:
        before = self._recorded_settings()
        inputs = self._recorded_inputs()
        known = tuple(key for key in self.inputs if key in inputs)
        free = (*FREE_KEYS, *known, *(FREE_WHEN_FINISHED if self.finished else ()))
        told = untold(before.get(BUILT), self.settings.get(BUILT), BUILT)
        free = (*free, *self._moved_weights(before), *told)
        changed = difference(before, self.settings, free)
        for key in known:
            if not same_content(inputs[key], self.inputs[key]):
                named = f" ({self.settings[key]})" if key in self.settings else ""
                changed = changed or f"another content of {key}{named}"
        if self.finished:
            changed = changed or self._changed_weights()
        if changed:
            raise ValueError(
                f"{self.path} holds a run with {changed}; give another --out, or remove that run "
                "to start it again."
            )

    def _moved_weights(self, before: dict[str, Any]) -> list[str]:
        """Return the settings that name weights by another path than before, with the content that was recorded."""
        recorded = self.environment.get("weights", {})
        old, new = _flat(before), _flat(self.settings)
        paths = [k for k in old if isinstance(old[k], str) and isinstance(new.get(k), str)]
        changed = [key for key in paths if old[key] != new[key]] if recorded else []
        return [key for key in changed if same_weights(recorded, old[key], new[key])]

    def _changed_weights(self) -> str | None:
        """Say which weights of a finished run hold others by now; those of the package may, with a warning."""
        recorded = self.environment.get("weights", {})
        named = [value for value in _flat(self.settings).values() if isinstance(value, str)]
        if changed := changed_weights(recorded, named):
            return f"another content of weights ({changed[0]})"
        if updated := updated_weights(recorded):
            logger.warning(
                "%s was made with other weights of the package than it has now (%s); remove the run to make it anew",
                self.path,
                ", ".join(updated),
            )
        return None

    def _recorded_inputs(self) -> dict[str, str]:
        """Return the fingerprints of the run that is there; runs of earlier versions have none."""
        return self.environment.get("inputs", {})


def difference(before: Any, now: Any, free: tuple[str, ...] = ()) -> str | None:
    """Say in words where settings first differ: ``a.b = 1, not 2``; None where they agree.

    An option that was not there before and is ``auto`` now agrees.

    Args:
        before: nested mappings and lists, as YAML holds them.
        now: the same.
        free: names that may differ, with all that is below them: ``a`` or ``a.b``.
    """
    old, new = _flat(before), _flat(now)
    for key in dict.fromkeys([*old, *new]):
        if any(f"{key}.".startswith(f"{name}.") for name in free):
            continue
        if key not in old and new[key] == CHOSEN:
            continue
        if old.get(key) != new.get(key):
            return f"{key} = {_shown(old, key)}, not {_shown(new, key)}"
    return None


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return ``{"a.b": value}`` of nested mappings and lists of mappings; the rest are values."""
    if isinstance(node, list) and any(isinstance(value, dict) for value in node):
        node = {str(index): value for index, value in enumerate(node)}
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _shown(flat: dict[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "nothing"
