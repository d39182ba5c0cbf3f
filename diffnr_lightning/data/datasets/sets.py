"""A rule that splits patients into training, development and test, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

SEED = 0


def split_by_rule(
    patients: Mapping[str, str],
    development: int,
    test: int,
    pinned: Mapping[str, str] | None = None,
    seed: int = SEED,
) -> dict[str, str]:
    """Split volumes by patient.

    Patients come in the order of the SHA-256 of ``"SEED PATIENT"``. The first fill `test`, the next `development`, each
    up to its number of volumes, and the rest is `train`; a patient whose volumes are more than what is left of a set
    goes on to the next. No generator of random numbers takes part, so that every version of every library agrees.

    Args:
        patients: volume -> whose it is.
        development: volumes of the development set.
        test: volumes of the test set.
        pinned: patient -> set, for those whose set is known before; they count.
        seed: of the order.

    Returns:
        Volume -> train, development or test.
    """
    volumes: dict[str, list[str]] = {}
    for volume, patient in patients.items():
        volumes.setdefault(patient, []).append(volume)
    left = {"test": test, "development": development}
    found: dict[str, str] = {}
    for patient in _in_order(volumes, pinned or {}, seed):
        fits = (name for name, room in left.items() if len(volumes[patient]) <= room)
        chosen = (pinned or {}).get(patient) or next(fits, "train")
        if chosen in left:
            left[chosen] -= len(volumes[patient])
        found |= dict.fromkeys(volumes[patient], chosen)
    return {volume: found[volume] for volume in patients}


def _in_order(patients: Iterable[str], pinned: Mapping[str, str], seed: int) -> list[str]:
    """Those whose set is known come first, so that the others share the room that they leave."""

    def key(patient: str) -> tuple[bool, str]:
        return patient not in pinned, hashlib.sha256(f"{seed} {patient}".encode()).hexdigest()

    return sorted(patients, key=key)
