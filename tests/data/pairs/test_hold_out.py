import hashlib

import pytest

from diffnr_lightning.data.pairs.hold_out import held_out_volumes


def scans(volumes, runs=2):
    return [(f"{volume}_{run}", volume) for volume in volumes for run in range(runs)]


def test_a_share_of_the_volumes_is_held_out_in_the_order_of_their_digests():
    names = [f"patient_{k}" for k in range(40)]
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert held_out_volumes(scans(names), (), 0.05) == set(ordered[:2])
    assert held_out_volumes(scans(reversed(names)), (), 0.05) == set(ordered[:2])


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [(1, 0.05, 0), (2, 0.05, 1), (2, 0.99, 1), (9, 0.0, 0), (888 - 25, 0.0285, 25), (443 - 25, 0.059, 25)],
)  # fmt: skip
def test_of_two_volumes_one_is_held_out_and_one_is_learned(count, share, held):
    assert len(held_out_volumes(scans(map(str, range(count)), 1), (), share)) == held


def test_a_case_takes_all_scans_of_its_volume_along():
    assert held_out_volumes(scans("ab"), ("a_1",), 0.5) == {"a"}
    assert held_out_volumes(scans("abc"), ("[ab]",), 0) == {"a", "b"}


def test_names_with_brackets_are_meant_as_they_are():
    cases = [(name, name) for name in ("ct[1]", "ct[2]", "ct3")]
    assert held_out_volumes(cases, ["ct[2]"], 0.0) == {"ct[2]"}
    assert held_out_volumes(cases, ["ct[34]"], 0.0) == {"ct3"}
