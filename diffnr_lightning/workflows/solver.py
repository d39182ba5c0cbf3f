"""The method that runs one of the classical solvers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from diffnr_lightning import solvers
from diffnr_lightning.workflows.problem import Method, Problem


class Solver(Method):
    """Run one of the classical solvers.

    Args:
        name: which one; `analytic` is FDK for cone beam and filtered backprojection for parallel beam;
            `initial_volume` takes SIRT instead where the views are far from a circle.
        options: keyword arguments of the function in `diffnr_lightning.solvers`.

    Raises:
        ValueError: an option that the solver does not have.
    """

    def __init__(
        self,
        name: Literal["analytic", "initial_volume", "sirt", "sart", "asd_pocs"],
        options: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.findings = {}
        self.options = options or {}
        self.function = getattr(solvers, name)
        parameters = inspect.signature(self.function).parameters
        _check_options(name, self.function, self.options)
        self.shows_progress = "progress" in parameters

    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the solver's volume."""
        progress = {"progress": problem.progress} if self.shows_progress else {}
        return self.function(
            problem.projections, problem.grid, problem.scan, **self.options, **progress
        )


def _check_options(name: str, function: Callable[..., Tensor], options: dict[str, Any]) -> None:
    """Refuse options that the solver does not have, and values of another type."""
    parser = ArgumentParser(exit_on_error=False)
    given = {"projections", "grid", "scan", "initial", "progress"}
    known = parser.add_function_arguments(function, skip=given, fail_untyped=False)
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"solver {name} has no option {key!r}; it has {', '.join(known)}.")
        try:
            parser.parse_object({key: value})
        except ArgumentError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(f"option {key} of solver {name} is {value!r}: {reason}") from None
