import numpy as np
import pytest
from scipy import ndimage

from diffnr_lightning.phantoms.anatomy import Patient, Thorax
from diffnr_lightning.phantoms.canvas import Canvas, capsule, noise
from diffnr_lightning.phantoms.chest import chest
from diffnr_lightning.phantoms.tubes import tube_share
from diffnr_lightning.phantoms.vessels import lung_points, tree

SEEDS = (0, 1, 5)


@pytest.fixture(scope="module")
def chests():
    return {seed: chest(seed, 64) for seed in SEEDS}


def body(array):
    """Whatever the air around the patient does not reach, in every axial slice."""
    return np.stack([ndimage.binary_fill_holes(s > -500) for s in array])


def lungs(array):
    """The two largest pieces of lung, the right one (low x) first."""
    found, count = ndimage.label(body(array) & (array > -950) & (array < -650))
    sizes = ndimage.sum_labels(np.ones_like(found), found, np.arange(1, count + 1))
    two = 1 + np.argsort(sizes)[-2:]
    return sorted((found == n for n in two), key=lambda piece: np.argwhere(piece)[:, 2].mean())


def test_same_seed_gives_same_patient(chests):
    again = chest(SEEDS[0], 64)
    assert np.array_equal(again.array, chests[SEEDS[0]].array)
    assert again.spacing_mm == chests[SEEDS[0]].spacing_mm


def test_seeds_give_different_patients(chests):
    first, second = chests[SEEDS[0]].array, chests[SEEDS[1]].array
    assert np.abs(first - second).mean() > 20
    assert {v.name for v in chests.values()} == {f"phantom_{seed}" for seed in SEEDS}


@pytest.mark.parametrize("size", [16, 33])
def test_size_and_field_of_view(size):
    volume = chest(3, size)
    assert volume.array.shape == (size,) * 3
    assert volume.array.dtype == np.float32
    assert len(set(volume.spacing_mm)) == 1
    assert 360 <= len(volume.array) * volume.spacing_mm[0] <= 400


@pytest.mark.parametrize("seed", SEEDS)
def test_values_are_those_of_a_ct(chests, seed):
    array = chests[seed].array
    assert np.isfinite(array).all()
    assert array.min() == -1000
    # Cortical bone is thinner than these voxels of 6 mm, so its peak is not reached.
    assert 450 < array.max() <= 2000


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_of_tissues(chests, seed):
    array = chests[seed].array
    patient = body(array)
    litres = patient.sum() * np.prod(chests[seed].spacing_mm) * 1e-6
    assert 12 < litres < 30
    inner = array[patient]
    assert 0.12 < ((inner > -950) & (inner < -600)).mean() < 0.35
    assert 0.1 < ((inner > -150) & (inner < -40)).mean() < 0.4
    assert 0.2 < ((inner > 0) & (inner < 150)).mean() < 0.6
    assert 0.03 < (inner > 230).mean() < 0.16


@pytest.mark.parametrize("seed", SEEDS)
def test_two_lungs_above_the_liver(chests, seed):
    array = chests[seed].array
    voxel = np.prod(chests[seed].spacing_mm) * 1e-6
    right, left = lungs(array)
    for lung in (right, left):
        assert 1.0 < lung.sum() * voxel < 3.6
        assert -900 < array[lung].mean() < -750
    assert right.sum() > left.sum()
    z, _, x = np.argwhere(right).mean(axis=0)
    # Below the right lung lies the liver, tens of millimetres thick and even.
    column = array[6:14, 28:36, int(x) - 3 : int(x) + 3]
    assert 30 < np.median(column) < 140
    assert column.std() < 40
    assert z > 28


@pytest.mark.parametrize("seed", SEEDS)
def test_spine_is_behind_and_heart_is_left(chests, seed):
    array = chests[seed].array
    bone = array[20:44] > 250
    middle = bone[:, :, 26:38]
    assert np.argwhere(middle)[:, 1].mean() > 32
    right, left = lungs(array)
    level = slice(22, 28)
    # The heart takes its room from the left lung.
    assert left[level].sum() < right[level].sum()


def test_resolution_changes_the_detail_only():
    fine, coarse = chest(2, 128), chest(2, 64)
    assert np.isclose(fine.spacing_mm[0] * 2, coarse.spacing_mm[0])
    averaged = fine.array.reshape(64, 2, 64, 2, 64, 2).mean(axis=(1, 3, 5))
    difference = averaged - coarse.array
    assert abs(difference.mean()) < 4
    assert np.abs(difference).mean() < 20
    assert np.corrcoef(averaged.ravel(), coarse.array.ravel())[0, 1] > 0.99


def test_contrast_agent_is_seen_in_the_heart():
    phases = {}
    for seed in range(30):
        patient = Patient.drawn(np.random.default_rng(np.random.SeedSequence(seed).spawn(8)[0]))
        phases.setdefault(patient.phase, (seed, patient))
    assert set(phases) == {"none", "arterial", "venous"}
    blood = {}
    for phase, (seed, patient) in phases.items():
        volume = chest(seed, 48)
        (x, y, z), _, _ = Thorax(patient).chambers["left ventricle"]
        place = [
            int(round((c - o) * s / volume.spacing_mm[0] + 23.5))
            for c, o, s in zip((z, y, x), patient.offset_mm[::-1], patient.scale[::-1], strict=True)
        ]
        blood[phase] = np.median(volume.array[tuple(slice(i - 1, i + 2) for i in place)])
    assert blood["none"] < 80 < 120 < blood["venous"] < 200 < blood["arterial"]


def test_table_lies_behind_the_patient():
    without, with_table = chest(4, 48), chest(4, 48, table_top=True)
    changed = np.argwhere(with_table.array != without.array)
    assert len(changed) > 200
    assert changed[:, 1].min() > 30


def test_nothing_of_the_patient_leaves_the_field_of_view_sideways(chests):
    for volume in (*chests.values(), *(chest(seed, 32) for seed in (42, 64))):
        for face in (
            volume.array[:, 0],
            volume.array[:, -1],
            volume.array[..., 0],
            volume.array[..., -1],
        ):
            assert (face < -900).all()


@pytest.mark.parametrize("size", [15, 0, -4])
def test_small_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}; at least 16"):
        chest(0, size)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed is -1"):
        chest(-1, 32)


def test_noise_has_unit_variance_and_averages_with_the_voxel():
    fine = noise(np.random.default_rng(0), 15.0, (np.arange(96) - 47.5) * 4)
    coarse = noise(np.random.default_rng(0), 15.0, (np.arange(48) - 23.5) * 8)
    assert fine.std() == pytest.approx(1, abs=0.1)
    averaged = fine.reshape(48, 2, 48, 2, 48, 2).mean(axis=(1, 3, 5))
    assert np.abs(averaged - coarse).mean() < 0.05


@pytest.mark.parametrize("radius", [0.3, 0.8, 1.7, 5.0])
def test_tubes_keep_their_cross_section(radius):
    axis = np.arange(-20, 20, 0.1, dtype=np.float32)
    distance = np.hypot(axis[:, None], axis).flatten()
    area = sum(tube_share(d, np.float32(radius), 2.0) for d in distance) * 0.1**2
    assert area == pytest.approx(np.pi * radius**2, rel=0.02)


def test_tubes_are_where_capsules_are():
    """The same bits as numpy's, tube by tube and over all voxels; the second tube ends beside the cube."""
    canvas = Canvas(24, 60.0, np.eye(3), (0.0, 0.0, 0.0), 1.0, np.random.default_rng(0))
    share = np.zeros_like(canvas.hu)
    paths = [
        (
            np.array([[-9.0, 4.0, 2.0], [3.0, 5.0, -8.0], [9.0, 0.0, 1.0]]),
            np.array([4.0, 2.0, 0.4]),
        ),
        (np.array([[5.0, 8.0, 12.0], [90.0, 60.0, 30.0]]), np.array([1.0, 3.0])),
    ]
    canvas.tubes(share, paths, 0.5)
    wanted = np.zeros_like(share)
    for points, radii in paths:
        for start, end, first, last in zip(
            points[:-1], points[1:], radii[:-1] + 0.5, radii[1:] + 0.5, strict=True
        ):
            distance, along = capsule(canvas.x, canvas.y, canvas.z, start, end)
            radius = float(first) + along * float(last - first)
            ramp = np.sqrt(np.maximum(radius**2 - canvas.edge**2 / 12, canvas.edge**2 / 4))
            filled = np.clip(0.5 + (ramp - distance) / canvas.edge, 0, 1)
            filled *= np.minimum(1, 3 * radius**2 / canvas.edge**2)
            wanted = np.maximum(wanted, filled)
    assert (wanted > 0).sum() > 100
    assert np.array_equal(share, wanted)


def test_trees_reach_their_ends_and_taper():
    rng = np.random.default_rng(0)
    patient = Thorax(Patient.drawn(rng))
    ends = lung_points(patient, 40, 5.0, -1.0, rng)
    assert (patient.lung_at(ends) < -5).all()
    assert (ends[:, 0] < 0).all()
    branches = tree(np.array([-40.0, 8.0, 30.0]), ends, 0.7, rng)
    assert len(branches) == 2 * 40 - 1
    reached = {tuple(points[-1]) for points, _ in branches}
    assert all(any(np.allclose(end, point) for point in reached) for end in ends)
    assert all((np.diff(radii) <= 0).all() for _, radii in branches)
    assert branches[0][1][0] == max(radii.max() for _, radii in branches)
