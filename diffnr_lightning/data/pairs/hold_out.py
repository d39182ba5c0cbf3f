"""Which volumes training does not see."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch


def is_called(name: str, pattern: str) -> bool:
    """Tell whether a name matches a pattern of fnmatch, or is the pattern, brackets and all."""
    return name == pattern or fnmatch(name, pattern)


def held_out_volumes(
    cases: Iterable[tuple[str, str]], patterns: Sequence[str], share: float
) -> set[str]:
    """Return the volumes that are kept for validation, all scans of each.

    Patterns name them where there are some. Else the volumes are sorted by the SHA-256 of their
    names and the first ``round(share * N)`` of N are held out, at least one where there are two: a
    rule without a seed, the same for every run on the same volumes. Scans of one volume are never
    on both sides; where a patient has several volumes, name them by a pattern.

    Args:
        cases: (case, volume) of each scan.
        patterns: fnmatch patterns of names of cases or volumes; a case that matches holds out its
            whole volume.
        share: of the volumes, from 0 (none) to below 1.

    Raises:
        ValueError: a pattern that nothing matches, or nothing left to train on.
    """
    cases = list(cases)
    volumes = {volume for _, volume in cases}
    for pattern in patterns:
        if not any(is_called(name, pattern) for names in cases for name in names):
            raise ValueError(
                f"held_out has {pattern!r}, which no curated case matches; the cases are "
                f"{', '.join(sorted({case for case, _ in cases}))}."
            )
    if not patterns:
        count = round(share * len(volumes))
        if share > 0 and len(volumes) > 1:
            count = min(max(count, 1), len(volumes) - 1)
        return set(sorted(volumes, key=_digest)[: min(count, len(volumes) - 1)])
    held = {v for case, v in cases if any(is_called(n, p) for p in patterns for n in (case, v))}
    if held == volumes:
        raise ValueError("held_out matches every curated case; leave some to train on.")
    return held


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
