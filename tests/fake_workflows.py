"""A small stand-in for `diffnr_lightning.workflows`, with every kind of argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from diffnr_lightning.workflows.command_line.settings import Flatten


@dataclass(frozen=True)
class Noise:
    """Describe the noise.

    Args:
        photons: photons a ray; None is no noise.
        mode: kind of noise.
    """

    photons: float | None = 1e5
    mode: Literal["physical", "tigre"] = "physical"

    def __post_init__(self):
        if self.photons is not None and self.photons <= 0:
            raise ValueError(f"photons is {self.photons}; a positive count is expected.")


class Body:
    """Hold a size.

    Args:
        size: of the body.
        count: of things in it.
    """

    def __init__(self, size: int, count: int = 5):
        self.size, self.count = size, count


class Stop:
    """Say when to stop.

    Args:
        after: iterations.
    """

    def __init__(self, after: int = 1):
        if after < 1:
            raise ValueError(f"after is {after}; at least one is expected.")
        self.after = after


class Method:
    """Base of methods."""


class Solver(Method):
    """Solve.

    Args:
        iterations: how many.
        body: makes a body of a size.
        stop: when to stop.
    """

    def __init__(
        self,
        iterations: int = 3,
        body: Callable[[int], Body] = Body,
        stop: Stop | None = None,
    ):
        self.iterations, self.body = iterations, body


CALLS: list[dict[str, Any]] = []
STANDARD_NOISE = Noise()


def reconstruct(
    case: Path,
    out: Path,
    method: Method,
    seed: int = 0,
    noise: Noise = STANDARD_NOISE,
    resolved: dict[str, Any] | None = None,
) -> None:
    """Reconstruct the volume of a case.

    Args:
        case: folder of the case.
        out: folder of the run.
        method: way from projections to a volume.
        seed: of everything random.
        noise: what was added.
        resolved: settings for the record.
    """
    CALLS.append(dict(locals()))
    if case.name == "missing":
        raise FileNotFoundError(f"case {case} does not exist.")
    if case.name == "interrupted":
        raise KeyboardInterrupt
    if case.name == "interrupted_by_trainer":
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 - as Lightning's Trainer does
    if case.name == "no_extra":
        raise ImportError(
            "ASTRA is missing; install it with pip install 'diffnr-lightning[astra]'."
        )
    if case.name == "defect":
        raise ZeroDivisionError("a defect")
    if case.name == "unreadable":
        open(case / "nothing")


class Pairs:
    """Hold pairs.

    Args:
        folders: of pairs.
        iterations: how many.
    """

    def __init__(self, folders: Sequence[Path], iterations: int = 1):
        self.folders, self.iterations = folders, iterations


def finetune(data: Pairs) -> None:
    """Train on pairs.

    Args:
        data: the pairs.
    """
    CALLS.append(dict(locals()))


def evaluate(runs: list[Path], window_hu: tuple[float, float] | None = None) -> None:
    """Print one table.

    Args:
        runs: run folders.
        window_hu: what is shown.
    """
    CALLS.append(dict(locals()))


@dataclass(frozen=True)
class Recipe:
    """Describe a scan.

    Args:
        size: of the cube.
        views: how many.
        window: two bounds.
        edges: one, or three.
        noise: what is added.
    """

    size: int = 8
    views: int = 2
    window: tuple[float, float] = (0.0, 1.0)
    noise: Noise = Noise()
    edges: float | tuple[float, float, float] | None = None

    def __post_init__(self):
        if self.size < 8:
            raise ValueError(f"size is {self.size}; at least 8 is expected.")


STANDARD_RECIPE = Recipe(size=16, views=5)


def simulate(
    volume: str, recipe: Annotated[Recipe, Flatten(without=("views",))] = STANDARD_RECIPE
) -> None:
    """Scan a volume.

    Args:
        volume: what is scanned.
        recipe: how.
    """
    CALLS.append(dict(locals()))


def doctor() -> None:
    """Show versions."""
    CALLS.append({})
