"""How often finetuning draws which curated scans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from diffnr_lightning.data.pairs.hold_out import is_called


def drawing_chances(
    cases: Iterable[tuple[str, str]], shares: Mapping[str, float]
) -> np.ndarray | None:
    """Return the chance of every scan to be drawn, so that kinds of volumes get shares of the draws.

    Without shares every scan is drawn as often as any other, and what there are many scans of decides
    what is learned. With them, scans belong to the first pattern that matches; each pattern gets its
    share, relative to the sum of all, and its scans share that alike.

    Args:
        cases: (case, volume) of each scan.
        shares: by fnmatch patterns of names of cases or volumes.

    Returns:
        (N,) that sum to 1; None without shares.

    Raises:
        ValueError: a negative share, none above 0, a pattern that matches no scan that those before leave, or a scan
            without a pattern.
    """
    if not shares:
        return None
    if min(shares.values()) < 0 or not 0 < sum(shares.values()) < float("inf"):
        raise ValueError(
            f"shares is {dict(shares)}; numbers of at least 0, one of them above, are expected."
        )
    patterns = list(shares)
    kinds = []
    for names in cases:
        matches = [p for p in patterns if any(is_called(name, p) for name in names)]
        if not matches:
            raise ValueError(
                f"shares has no pattern for the scans of {names[1]!r}; add one, or '*' for all others."
            )
        kinds.append(patterns.index(matches[0]))
    counts = np.bincount(kinds, minlength=len(patterns))
    if idle := [pattern for pattern, count in zip(patterns, counts, strict=True) if not count]:
        raise ValueError(
            f"shares has {idle[0]!r}, which matches no scan to train on that the patterns before it leave; remove it, "
            "or set shares to null, with which all are drawn alike."
        )
    chances = np.array(list(shares.values()), dtype=np.float64) / counts
    chances = chances[kinds]
    return chances / chances.sum()
