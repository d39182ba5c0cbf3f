"""The model card of what a training has made, as far as the training knows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from diffnr_lightning.files import sha256, write_text
from diffnr_lightning.reports.machines import used_gpus
from diffnr_lightning.workflows.runs.run_folder import CONFIG, RunFolder

CARD = "README.md"


def write_model_card(
    path: Path,
    run: RunFolder,
    command: str,
    network: nn.Module,
    weights: Path,
    metrics: Mapping[str, Any],
) -> Path:
    """Write a card in Markdown: network, hash, data, held-out volumes, scores, commit, hours and settings.

    What a training cannot know, the licences of the data and where the weights must not be used, it says that a person
    has to add.

    Args:
        path: of the card.
        run: folder of the training.
        command: of it, such as finetune.
        network: what was trained.
        weights: file or folder of them.
        metrics: `iterations`, `validation` (number by name), `held_out` (names of volumes) and, where it is known,
            `learned_from` (names of methods).

    Returns:
        The path.
    """
    files = sorted(weights.rglob("*.safetensors")) if weights.is_dir() else [weights]
    made = run.environment
    code = made.get("git") or {}
    commit = code.get("commit", "not known, no checkout") + (
        " with changes" * bool(code.get("dirty"))
    )
    methods = metrics.get("learned_from")
    facts = {
        "network": f"`{type(network).__name__}`, {sum(p.numel() for p in network.parameters()):,} parameters",
        **{f"SHA-256 of `{file.name}`": f"`{sha256(file)}`" for file in files},
        "iterations": metrics["iterations"],
        "hours": f"{run.use.seconds / 3600:.2f}, {_machine(made)}",
        "code": f"diffnr_lightning {made.get('diffnr_lightning')}, commit {commit}",
        "packages": ", ".join(f"{k} {v}" for k, v in made.get("packages", {}).items() if v),
        **({"learned from volumes of": ", ".join(methods)} if methods else {}),
        "held out": ", ".join(metrics["held_out"]) or "nothing",
    }
    scores = "\n".join(f"| {name} | {value:.5g} |" for name, value in metrics["validation"].items())
    kept = {key: value for key, value in run.settings.items() if key not in ("curves", "out")}
    settings = yaml.safe_dump(kept, sort_keys=False)
    text = [
        f"# Model card: {run.path.name}",
        "Written by the training. To be added by whoever passes the weights on: the task, the licences of the data and "
        "of the weights, and where they must not be used.",
        "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        "## Held-out volumes",
        f"| | |\n|---|---:|\n{scores}" if scores else "Not validated, as nothing is held out.",
        "## Command",
        f"    diffnr {command} --config {CONFIG} --out FOLDER",
        f"where `{CONFIG}` holds",
        f"```yaml\n{settings}```",
    ]
    return write_text(path, "\n\n".join(text) + "\n")


def _machine(made: Mapping[str, Any]) -> str:
    return " and ".join(used_gpus(made)) or f"{made.get('cpu')}, {made.get('cores')} cores"
