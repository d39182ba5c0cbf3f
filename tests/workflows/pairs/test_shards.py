"""How the scans of a curation are dealt to shards."""

from collections import Counter
from itertools import chain
from types import SimpleNamespace

import pytest

from diffnr_lightning.workflows.pairs.shards import jobs_of

EMPTY = SimpleNamespace(path="pairs", holds=lambda name: False)


def dealt(count, runs, methods, parts):
    volumes = [f"volume_{number}" for number in range(count)]
    return [jobs_of(volumes, set(), runs, methods, f"{k}/{parts}", EMPTY) for k in range(parts)]


@pytest.mark.parametrize("runs", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("methods", [1, 2, 3, 4])
def test_shards_make_the_same_scans_in_equal_shares(methods, parts, runs):
    count = 12 * parts + 5
    shards = dealt(count, runs, methods, parts)
    (whole,) = dealt(count, runs, methods, 1)
    assert sorted(chain(*shards)) == sorted(whole)
    volumes = [len({job.volume for job in shard}) for shard in shards]
    assert max(volumes) - min(volumes) <= 1


@pytest.mark.parametrize("runs", [1, 2, 3])
@pytest.mark.parametrize("parts", [2, 3, 4, 6])
@pytest.mark.parametrize("methods", [2, 3, 4])
def test_every_shard_has_as_many_scans_by_each_method(methods, parts, runs):
    """Two methods and two shards, and one of these had all scans by the slow one."""
    for shard in dealt(12 * parts, runs, methods, parts):
        turns = Counter(job.number % methods for job in shard)
        assert len(turns) == methods and len(set(turns.values())) == 1


def test_the_turn_moves_on_and_methods_stay_with_their_volumes():
    first, second = dealt(4, 1, 2, 2)
    assert [job.volume for job in first] == ["volume_0", "volume_3"]
    assert [job.volume for job in second] == ["volume_1", "volume_2"]
    assert [job.number for job in first] == [0, 3]
