"""The method that runs one of the classical solvers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from diffnr_lightning import solvers
from diffnr_lightning.workflows.command_line.refusals import refusal
from diffnr_lightning.workflows.methods.problem import Method, Problem

GIVEN = {"projections", "grid", "scan"}
# Handed to functions that have such parameters.
OFFERED = {"weights", "photons", "progress"}
# What filters and backprojects, and continues rows beyond the detector by itself.
ANALYTIC = {"analytic", "fdk", "fbp"}
VOLUMES = (Tensor, "Tensor", "torch.Tensor", Any, "Any")
"""What a solver may say that it returns; modules that put off annotations say it in words."""
STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Solver(Method):
    """Run one of the classical solvers, or a function of the user's own.

    Args:
        name: a function of `diffnr_lightning.solvers`, or the import path of another one, such as
            `my_package.my_solver`, that takes projections, grid and scan and returns the volume. It is given the
            statistical `weights` of the rays, the `photons` and `progress` of the problem where it has such parameters.
            `analytic` is FDK for cone beam and filtered backprojection for parallel beam; `initial_volume` takes SIRT
            instead where the views are far from a circle.
        options: further keyword arguments of the function.

    Raises:
        ValueError: a name that is no solver, or an option that the solver does not have.
    """

    def __init__(self, name: str, options: dict[str, Any] | None = None) -> None:
        self.function = _function(name)
        self.path = name
        self.name = name.rpartition(".")[2]
        self.findings = {}
        self.options = options or {}
        check_options(f"solver {name}", self.function, self.options)
        self.offered = OFFERED & set(inspect.signature(self.function).parameters)
        self.weighs = "weights" in self.offered
        self.fits = name not in ANALYTIC

    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the solver's volume."""
        return self.function(
            projections=problem.projections,
            grid=problem.grid,
            scan=problem.scan,
            **self.options,
            **{name: getattr(problem, name) for name in self.offered},
        )


def _function(name: str) -> Callable[..., Tensor]:
    """Return the function that a name stands for."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module) if module else solvers, attribute, None)
    except ImportError as error:
        raise ValueError(f"solver {name} cannot be imported: {error}.") from error
    if found is None or not _is_solver(found):
        known = [short for short in solvers.__all__ if _is_solver(getattr(solvers, short))]
        raise ValueError(
            f"{name!r} is no solver; one of {', '.join(known)} is expected, or the import path of a "
            "function of projections, grid and scan that returns a tensor."
        )
    return found


def _is_solver(thing: Any) -> bool:
    """Whether something can be called with projections, grid, scan and what a problem offers, and returns a tensor."""
    if not callable(thing):
        return False
    signature = inspect.signature(thing)
    if signature.return_annotation not in (*VOLUMES, signature.empty):
        return False
    parameters = signature.parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty and p.kind not in STARRED}
    return GIVEN <= needed <= GIVEN | OFFERED


def check_options(
    what: str,
    function: Callable[..., Tensor],
    options: dict[str, Any],
    handed: Collection[str] = (),
) -> dict[str, Any]:
    """Return all options of a function with their defaults; refuse unknown ones, and values of another type.

    What a function hands on to another belongs to its options.

    Args:
        what: kind and name of the function, for messages.
        function: takes projections, grid, scan and what a problem offers beside the options.
        options: name -> value.
        handed: further parameters that the method gives.

    Raises:
        ValueError: an unknown name, or a value that does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    skip = {*GIVEN, *OFFERED, "initial", "normalisation", "slabs", *handed}
    known = parser.add_function_arguments(function, skip=skip, fail_untyped=False)
    defaults = vars(parser.get_defaults())
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"{what} has no option {key!r}; it has {', '.join(known)}.")
        # The parser takes null for what is not said.
        if value is None and defaults[key] is not None:
            raise ValueError(
                f"option {key} of {what} is null; a value such as {defaults[key]} is expected."
            )
        try:
            parser.parse_object({key: value})
        except ArgumentError as error:
            reason = refusal(parser, str(error), []).removeprefix(f"--{key} ")
            raise ValueError(f"option {key} of {what} {reason}") from None
    return defaults
