import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import gaussian_filter

from diffnr_lightning.downstream import compare_regions, flat_plan, read_regions
from diffnr_lightning.downstream.regions import RegionPlan, ball, box

SHAPE = (24, 32, 36)
VOXEL_MM = (2.0, 1.0, 1.0)


@pytest.fixture
def truth():
    """Air, a body of 100 with an insert of 180 whose middle is off all axes of symmetry."""
    volume = np.zeros(SHAPE, np.float32)
    volume[ball(SHAPE, (11.5, 15.5, 17.5), (11, 14, 16))] = 100
    volume[ball(SHAPE, (9, 12, 22), (5, 5, 5))] = 180
    return volume


@pytest.fixture
def plan():
    insert, body = ball(SHAPE, (9, 12, 22), (3, 3, 3)), box(SHAPE, (14, 19, 12), (4, 6, 6))
    line = ((9.0, 12.0, 22.0), (9.0, 12.0, 8.0))
    return RegionPlan({"insert": insert, "body": body}, (("insert", "body"),), {"out": line})


def test_known_contrast_noise_and_offset(truth, plan):
    noise = 3 * np.random.default_rng(0).standard_normal(SHAPE)
    volume = (0.75 * truth + 5 + noise).astype(np.float32)
    found = compare_regions(volume, truth, plan, VOXEL_MM)
    contrast = found.contrasts["insert - body"]
    assert contrast.reference == 80
    assert contrast.recovered_percent == pytest.approx(75, abs=2)
    assert contrast.to_noise == pytest.approx(20, rel=0.15)
    assert found.regions["body"].mean == pytest.approx(80, abs=1)
    assert found.regions["body"].deviation == pytest.approx(3, rel=0.15)
    assert found.regions["body"].reference_deviation == 0
    # 180 -> 140 and 100 -> 80.
    assert found.summary()["error"] == pytest.approx(30, abs=1)
    swapped = compare_regions(truth, truth, plan, VOXEL_MM)
    assert swapped.summary() == pytest.approx(
        {"error": 0, "deviation": 0, "contrast_percent": 100, "profile_error": 0}
    )


def test_profiles_run_along_the_line_in_mm(truth, plan):
    profile = compare_regions(truth, truth, plan, VOXEL_MM).profiles["out"]
    assert profile.distance_mm[-1] == 14
    assert profile.reference[0] == 180 and profile.reference[-1] == 100
    edge = profile.distance_mm[np.argmax(profile.reference < 140)]
    assert edge == pytest.approx(5.5, abs=0.5)
    along_z = RegionPlan(plan.masks, (), {"up": ((2.0, 12.0, 22.0), (9.0, 12.0, 22.0))})
    assert compare_regions(truth, truth, along_z, VOXEL_MM).profiles["up"].distance_mm[-1] == 14
    blurred = compare_regions(gaussian_filter(truth, 2), truth, plan, VOXEL_MM)
    assert blurred.profiles["out"].error > 5


def test_flat_regions_are_found_in_the_truth(truth):
    noisy = truth + np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    plan = flat_plan(noisy)
    found = compare_regions(noisy, truth, plan, VOXEL_MM)
    means = [score.reference_mean for score in found.regions.values()]
    assert means == [0, 100, 180]
    assert all(score.reference_deviation == 0 for score in found.regions.values())
    assert list(found.contrasts) == ["flat 2 - flat 1", "flat 3 - flat 2"]
    assert list(found.profiles) == ["flat 1 to flat 3"]
    assert list(found.crops) == ["24x32x36", "12x16x18", "6x8x9"]
    with pytest.raises(ValueError, match="no two flat regions"):
        flat_plan(np.ones(SHAPE, np.float32))
    with pytest.raises(ValueError, match="no two flat regions"):
        flat_plan(np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))


def test_flat_regions_lie_within_the_cylinder_in_mm(truth):
    """Of 32 mm by 72 mm, only columns within 16 mm of the middle are seen from all sides."""
    marked = truth.copy()
    marked[8:16, 12:20, 27:] = 300
    assert any(mask[:, :, 27:].any() for mask in flat_plan(marked).masks.values())
    plan = flat_plan(marked, voxel_mm=(2.0, 1.0, 2.0))
    assert not any(mask[:, :, 27:].any() for mask in plan.masks.values())
    assert plan.structure[2] < 27
    alike, cubes = flat_plan(marked), flat_plan(marked, voxel_mm=(0.3, 0.3, 0.3))
    assert alike.structure == cubes.structure
    assert all(np.array_equal(alike.masks[name], mask) for name, mask in cubes.masks.items())


def test_crops_close_in_on_structure(truth):
    """An error at an edge weighs more in a smaller crop around it; the peak is the one that is given."""
    plan = flat_plan(truth)
    volume = truth.copy()
    volume[tuple(plan.structure)] += 10
    psnr = list(compare_regions(volume, truth, plan, VOXEL_MM, peak=100.0).crops.values())
    assert psnr[0] == pytest.approx(20 + 10 * np.log10(truth.size))
    assert psnr[1] == pytest.approx(psnr[0] - 10 * np.log10(8))


def test_a_file_names_regions_in_mm_or_voxels(tmp_path, truth):
    labels = SimpleITK.GetImageFromArray((truth > 150).astype(np.uint8))
    # As nibabel's `as_closest_canonical` stores it: to the right, front and head.
    turned = SimpleITK.DICOMOrient(labels, "RAS")
    assert not np.array_equal(
        SimpleITK.GetArrayViewFromImage(turned), SimpleITK.GetArrayViewFromImage(labels)
    )
    SimpleITK.WriteImage(turned, str(tmp_path / "labels.nii.gz"))
    file = tmp_path / "regions.yaml"
    file.write_text(
        "regions:\n"
        "  insert: {centre: [4.5, -3.5, -5], radius: 3}\n"
        "  body: {centre: [-5.5, 3.5, 5], size: [6, 6, 8]}\n"
        "labels: {file: labels.nii.gz, names: {1: whole}}\n"
        "contrasts: [[insert, body]]\n"
        "lines: {out: {start: [4.5, -3.5, -5], end: [-9.5, -3.5, -5]}}\n"
    )
    plan = read_regions(file, SHAPE, VOXEL_MM)
    # z goes by 2 mm: the ball of 3 mm ends after one slice.
    assert plan.masks["insert"].any((1, 2)).nonzero()[0].tolist() == [8, 9, 10]
    assert (plan.masks["whole"] == (truth > 150)).all()
    assert plan.lines["out"] == ((9, 12, 22), (9, 12, 8))
    found = compare_regions(truth, truth, plan, VOXEL_MM)
    assert found.regions["insert"].mean == 180 and found.regions["body"].mean == 100
    file.write_text("{unit: voxel, regions: {insert: {centre: [22, 12, 9], radius: 3}}}")
    in_voxels = read_regions(file, SHAPE, VOXEL_MM)
    assert (in_voxels.masks["insert"] == ball(SHAPE, (9, 12, 22), (3, 3, 3))).all()
    assert in_voxels.contrasts == ()


def test_names_may_be_numbers(tmp_path):
    file = tmp_path / "regions.yaml"
    file.write_text(
        "regions:\n"
        "  1: {centre: [0, 0, 0], radius: 3}\n"
        "  2: {centre: [5, 0, 0], radius: 3}\n"
        "contrasts: [[2, 1]]\n"
    )
    assert read_regions(file, SHAPE, VOXEL_MM).contrasts == (("2", "1"),)


BALL = "{regions: {a: {centre: [0, 0, 0], radius: 1}}, "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a mapping with unit, regions"),
        ("{unit: cm, regions: {}}", "mm or voxel is expected"),
        ("{lines: {}}", "at least one region is expected"),
        ("{regions: {a: {centre: [0, 0], radius: 1}}}", "three numbers x, y, z"),
        ("{regions: {a: {radius: 1}}}", "centre and radius of a ball"),
        ("{regions: {a: {centre: [0, 0, 0], radius: 1}}, contrasts: [[a, b]]}", "two of a are"),
        ("{labels: {file: none.nii}}", "cannot be read"),
        ("{regions: [{centre: [0, 0, 0], radius: 1}]}", "a mapping from names is expected"),
        ("{regions: {a: {centre: [0, 0, 0], radius: 1}}, lines: [1]}", "lines is .* from names"),
        ("{regions: {a: {centre: [0, 0, 0], radius: 1}}, contrasts: 3}", "a list of pairs"),
        ("{labels: {file: map.nii, names: {left: 1}}}", "from whole numbers to names is expected"),
        ("{labels: {file: map.nii, names: {1: a, 2: a}}}", "calls two regions a; a name for each"),
        (BALL + "labels: {file: map.nii, names: {1: a}}}", "calls two regions a; a name for each"),
        (BALL + "contrasts: [[[a], a]]}", r"contrasts has \[\['a'\], 'a'\]; two of a are"),
        (BALL + "lines: {b: {start: [0, 0, 0], end: [0, 0, 400]}}}", "line b .* outside of the"),
        ("{regions: {a: {centre: [0, 0, 0], radius: -1}}}", "a has the extent -1; more than 0 is"),
        ("{regions: {a: {centre: [0, 0, 0], size: [1, 0, 1]}}}", "a has the extent .*; more than"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    file = tmp_path / "regions.yaml"
    file.write_text(text)
    empty = SimpleITK.GetImageFromArray(np.zeros(SHAPE, np.uint8))
    SimpleITK.WriteImage(empty, str(tmp_path / "map.nii"))
    with pytest.raises(ValueError, match=message):
        read_regions(file, SHAPE, VOXEL_MM)


def test_what_cannot_be_compared(truth, plan):
    with pytest.raises(ValueError, match="one \\(Z, Y, X\\) is expected"):
        compare_regions(truth[1:], truth, plan, VOXEL_MM)
    nowhere = RegionPlan({"far": ball(SHAPE, (90, 0, 0), (1, 1, 1))})
    with pytest.raises(ValueError, match="region 'far' has no voxel"):
        compare_regions(truth, truth, nowhere, VOXEL_MM)
    alike = RegionPlan({"a": plan.masks["body"], "b": plan.masks["body"]}, (("a", "b"),))
    with pytest.raises(ValueError, match="have one mean"):
        compare_regions(truth, truth, alike, VOXEL_MM)
