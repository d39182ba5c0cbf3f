"""Laws of fields rendered along rays, on fields whose integrals are known."""

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations import NeuralField, RayField
from diffnr_lightning.representations.fields import ray_field

GRID = VolumeGrid((18, 22, 20), (1.9, 1.5, 1.7), (3.0, -2.0, 1.0))
HALF_MM = 17.1  # half of the largest edge


class Blob(RayField):
    """A Gaussian around a point of the unit box; remembers which points it was asked for."""

    def __init__(self, grid=GRID, width=0.18, centre=(0.1, -0.05, 0.08), **options):
        super().__init__(grid, **options)
        self.peak = torch.nn.Parameter(torch.tensor(0.7))
        self.width, self.centre, self.asked = width, centre, []

    def field(self, points):
        self.asked.append(points.detach())
        squares = (points - points.new_tensor(self.centre)).square().sum(-1)
        return self.peak * torch.exp(-0.5 * squares / self.width**2)

    def parameter_groups(self):
        return [{"name": "peak", "params": [self.peak], "lr": 1.0}]

    def integrals(self, scan):
        """Exact integrals over whole lines, in mm."""
        origins, directions = scan.rays(dtype=torch.float64)
        centre = torch.tensor(self.centre) * HALF_MM + torch.tensor(self.grid.centre_mm)
        width = self.width * HALF_MM
        offset = centre.double() - origins
        squares = offset.square().sum(-1) - (offset * directions).sum(-1).square()
        return 0.7 * math.sqrt(2 * math.pi) * width * torch.exp(-0.5 * squares / width**2)


class Constant(Blob):
    """The same density everywhere."""

    def field(self, points):
        return self.peak.expand(points.shape[:2])


def test_a_blob_renders_to_its_closed_form(scan):
    blob = Blob(width=0.15, samples=64).double().eval()
    expected = blob.integrals(scan)
    torch.testing.assert_close(blob.render(scan), expected, atol=1e-4 * expected.max(), rtol=0)


def test_a_constant_renders_to_the_length_of_the_ray_in_the_box(scan):
    low, high = (torch.tensor(corner).double() for corner in GRID.corners_mm)
    origins, directions = scan.rays(dtype=torch.float64)
    distances = torch.linspace(0, 300, 6001, dtype=torch.float64)
    lengths = torch.zeros(origins.shape[:-1], dtype=torch.float64)
    for part in distances.split(500):
        points = origins[..., None, :] + part[:, None] * directions[..., None, :]
        lengths += 0.05 * ((points >= low) & (points <= high)).all(-1).sum(-1)
    rendered = Constant(samples=3).double().eval().render(scan)
    torch.testing.assert_close(rendered, 0.7 * lengths, atol=0.08, rtol=0)


def test_density_and_query_are_the_field_inside_and_nothing_outside():
    blob = Blob(width=1.0)
    points = GRID.points()
    unit = (points - torch.tensor(GRID.centre_mm)) / HALF_MM
    expected = 0.7 * torch.exp(-0.5 * (unit - torch.tensor(blob.centre)).square().sum(-1))
    torch.testing.assert_close(blob.density(points), expected)
    torch.testing.assert_close(blob.query(GRID), expected)
    part = GRID.crop((1, 2, 3), (4, 5, 3))
    torch.testing.assert_close(blob.query(part), expected[1:5, 2:7, 3:6])
    wide = VolumeGrid((20, 24, 22), GRID.voxel_mm, GRID.centre_mm)
    framed = blob.query(wide)
    torch.testing.assert_close(framed[1:-1, 1:-1, 1:-1], expected)
    framed[1:-1, 1:-1, 1:-1] = 0
    assert not framed.any()


def test_lines_are_rows_along_x_and_rays():
    blob = Blob(samples=7).eval()
    blob.query(GRID)
    lines = torch.cat(blob.asked)
    assert lines.shape == (18 * 22, 20, 3)
    steps = lines.diff(dim=1)
    torch.testing.assert_close(steps[..., 0], torch.full((396, 19), 1.7 / HALF_MM))
    assert not steps[..., 1:].any()


def test_chunks_change_nothing(cone_scan):
    whole, chunked = Blob(samples=20).eval(), Blob(samples=20, chunk=90).eval()
    kept = whole.query(GRID).detach(), whole.render(cone_scan).detach()
    with torch.no_grad():
        assert torch.equal(chunked.query(GRID), kept[0])
        assert torch.equal(chunked.render(cone_scan), kept[1])
    assert max(points[..., 0].numel() for points in chunked.asked) <= 90


def test_large_volumes_are_computed_again_on_the_way_back(monkeypatch):
    gradients = []
    for kept in (ray_field.KEPT, 500):
        monkeypatch.setattr(ray_field, "KEPT", kept)
        blob = Blob().double()
        blob.query(GRID).square().sum().backward()
        gradients.append((len(blob.asked), blob.peak.grad))
    assert gradients[0][0] == 1
    assert gradients[1][0] == 2 * -(-18 * 22 // (500 // 20))
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


@pytest.mark.gpu
def test_rays_that_miss_the_box_bring_nothing_on_a_gpu(cone_scan):
    expected = Blob().eval().render(cone_scan)
    image = Blob().eval().cuda().render(cone_scan)
    torch.testing.assert_close(image.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_the_box_is_brought_to_a_device_once(cone_scan, monkeypatch):
    field, rays = Constant(samples=4, empty=0.1).eval(), cone_scan.rays()
    monkeypatch.setattr(ScanGeometry, "rays", lambda *_: rays)

    def both():
        return field.render(cone_scan), field.query(GRID)

    first = both()
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    monkeypatch.setattr(torch, "tensor", None)
    for before, now in zip(first, both(), strict=True):
        assert torch.equal(before, now)


@pytest.mark.gpu
def test_an_iteration_does_not_wait_for_the_device(cone_scan):
    field = NeuralField(GRID, levels=4, table=12, samples=16).to("cuda")

    def iteration():
        (field.render(cone_scan).square().sum() + field.query(GRID).square().sum()).backward()

    iteration()  # compiles, and brings box and scan to the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        iteration()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_window_renders_as_the_window_of_the_rendering(scan):
    blob = Blob(samples=30).eval()
    rows, columns = slice(3, None, 4), slice(5, 26)
    part = blob.render(scan.window(rows, columns))
    torch.testing.assert_close(part, blob.render(scan)[:, rows, columns], atol=2e-5, rtol=1e-4)


def test_jitter_is_unbiased_and_drawn_anew(cone_scan):
    blob = Blob(samples=6, width=0.4)
    scan = cone_scan.window(slice(8, 14, 3), slice(10, 16, 3))
    drawn = torch.stack([blob.render(scan).detach() for _ in range(400)])
    assert int(blob.draws) == 400
    spread = drawn.std(0)
    assert (spread > 0).all()
    error = (drawn.mean(0) - Blob(samples=500, width=0.4).eval().render(scan)).abs()
    assert (error < 5 * spread / 20).all()


def test_jitter_begins_anew_with_the_field(cone_scan):
    field, renderings = Blob(samples=6), []
    for _ in range(2):
        field.initialise(torch.ones(GRID.shape), None, cone_scan, seed=5)
        renderings.append([field.render(cone_scan).detach() for _ in range(2)])
    assert torch.equal(*(first for first, _ in renderings))
    assert not torch.equal(*renderings[0])


def test_jitter_goes_on_where_a_checkpoint_stopped(cone_scan):
    one, other, third = Blob(samples=6), Blob(samples=6), Blob(samples=6)
    drawn = [one.render(cone_scan).detach() for _ in range(3)]
    other.render(cone_scan)
    third.load_state_dict(other.state_dict())
    for later in drawn[1:]:
        assert torch.equal(third.render(cone_scan), later)
    third.initialise(torch.zeros(GRID.shape), None, cone_scan, seed=4)
    assert not torch.equal(third.render(cone_scan), drawn[0])


def test_without_gradients_nothing_is_drawn(cone_scan):
    blob = Blob(samples=6)
    with torch.no_grad():
        first = blob.render(cone_scan)
    assert int(blob.draws) == 0
    assert torch.equal(first, blob.eval().render(cone_scan))


def test_gradients_reach_the_field(cone_scan):
    blob = Blob(samples=9).double().eval()
    scan = cone_scan.window(slice(5, 20, 5), slice(5, 25, 5))

    def render(peak):
        blob._parameters["peak"] = peak
        return blob.render(scan)

    assert gradcheck(render, torch.tensor(0.6, dtype=torch.float64, requires_grad=True))


def test_a_scan_that_looks_past_the_box_sees_nothing():
    scan = ScanGeometry.parallel(
        angles_rad=[0.3], detector_shape=(3, 4), pixel_mm=1.0, detector_offset_mm=(0, 90.0)
    )
    blob = Blob()
    image = blob.render(scan)
    assert image.shape == (1, 3, 4)
    assert not image.any()
    image.sum().backward()


def test_parallel_rays_pass_all_of_an_object_wider_than_the_detector():
    """Their origins are as far away as the detector is wide, and lie within the box."""
    scan = ScanGeometry.parallel(angles_rad=[0.0, 0.5], detector_shape=(3, 4), pixel_mm=1.0)
    grid = VolumeGrid((6, 30, 30), 1.0)
    rendered = Constant(grid, samples=4).eval().render(scan)
    torch.testing.assert_close(rendered[0], torch.full((3, 4), 0.7 * 30))
    torch.testing.assert_close(rendered[1], torch.full((3, 4), 0.7 * 30 / math.cos(0.5)))


@pytest.mark.parametrize("away_mm", [[1e7, 10.0], [10.0, 1e7]], ids=["source", "detector"])
def test_a_parallel_view_does_not_depend_on_where_source_and_detector_stand(scans, away_mm):
    """Float32 knows a place that is 10 km away to a millimetre."""
    scan = scans["parallel, shifted detector"]
    before, behind = away_mm
    far = replace(
        scan,
        source_mm=scan.source_mm - before * scan.direction,
        detector_mm=scan.detector_mm + behind * scan.direction,
    )
    blob = Blob(samples=40).eval()
    torch.testing.assert_close(blob.render(far), blob.render(scan), atol=5e-3, rtol=0)


def test_a_cone_from_far_away_is_as_exact_as_the_parallel_beam_that_it_nearly_is():
    """Float32 knows a distance of 10 km to a millimetre; rays diverge by 1e-4 mm in the box."""
    views = {"angles_rad": [0.4, 2.0], "detector_shape": (14, 16), "pixel_mm": 2.0}
    far = ScanGeometry.cone(source_to_axis_mm=1e7, source_to_detector_mm=1e7 + 100, **views)
    blob = Blob(samples=40).eval()
    expected = blob.render(ScanGeometry.parallel(**views))
    assert expected.max() > 4
    torch.testing.assert_close(blob.render(far), expected, atol=1e-3, rtol=0)
    above = replace(far, detector_mm=far.detector_mm + [0.0, 0.0, 100.0])
    assert not blob.render(above).any()


def test_rays_along_a_face_bring_no_nan():
    grid = VolumeGrid((4, 4, 4), 1.0)
    scan = ScanGeometry.parallel(angles_rad=[0.0], detector_shape=(5, 5), pixel_mm=1.0)
    image = Constant(grid, samples=4).eval().render(scan)[0]
    assert image.isfinite().all()
    torch.testing.assert_close(image[1:4, 1:4], torch.full((3, 3), 2.8))


@pytest.mark.parametrize("options", [{"samples": 0}, {"chunk": 0}])
def test_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match="at least 1"):
        Blob(**options)


def test_a_volume_of_another_shape_is_refused(cone_scan):
    with pytest.raises(ValueError, match=r"\(6, 8, 6\).*\(18, 22, 20\)"):
        Blob().initialise(torch.ones(6, 8, 6), None, cone_scan, seed=0)


def ball(radius=0.5):
    """A first reconstruction (Z, Y, X): 0.8 in a ball around the middle of the unit box, else 0."""
    return 0.8 * ((unit_points().square().sum(-1)) < radius**2).float()


def unit_points():
    """Voxels (Z, Y, X, 3) of the grid in the unit box."""
    return (GRID.points() - torch.tensor(GRID.centre_mm)) / HALF_MM


@pytest.mark.parametrize("segment", [1, 3])
def test_where_there_is_no_matter_the_field_is_not_asked(scan, segment):
    field = Constant(samples=16, empty=0.1, segment=segment)
    field.initialise(ball(), torch.zeros(1), scan, 0)
    rendered, queried = field.eval().render(scan), field.query(GRID)
    assert queried.unique().tolist() == pytest.approx([0, 0.7])
    full = Blob(samples=16, empty=0.1, segment=segment)
    full.initialise(ball(), torch.zeros(1), scan, 0)
    full.query(GRID)
    everywhere = GRID.points().reshape(-1, 3).shape[0]
    assert sum(len(part.reshape(-1, 3)) for part in full.asked) < 0.7 * everywhere
    assert (rendered < Constant(samples=16).eval().render(scan) + 1e-5).all()


def test_matter_holds_all_that_the_first_reconstruction_shows(scan):
    field = Blob(samples=16, empty=0.1)
    field.initialise(ball(), torch.zeros(1), scan, 0)
    assert field.matter[ball() > 0].all()
    # Two voxels of reach and one of the mean, and nothing beyond.
    far = unit_points().square().sum(-1).sqrt() > 0.5 + 3 * 3**0.5 * 1.9 / HALF_MM
    assert not field.matter[far].any()


def test_a_field_within_matter_is_what_it_is_without_looking(scan):
    options = {"width": 0.05, "centre": (0, 0, 0), "samples": 32}
    plain, quick = Blob(**options), Blob(**options, empty=0.1)
    for field in (plain, quick):
        field.initialise(ball(), torch.zeros(1), scan, 0)
    torch.testing.assert_close(quick.render(scan), plain.render(scan), atol=1e-6, rtol=1e-5)
    quick.render(scan).sum().backward()
    plain.render(scan).sum().backward()
    torch.testing.assert_close(quick.peak.grad, plain.peak.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("slices", [1, 2])
def test_matter_is_found_in_a_few_slices(slices, scan):
    grid = VolumeGrid((slices, 8, 9), 2.0)
    first = torch.zeros(grid.shape)
    first[0, 3, 3] = 1.0  # 1/9 of the voxels around it, 1/18 with a second slice
    for empty, found in ((0.9 / 9 / slices, True), (1.1 / 9 / slices, False)):
        field = Blob(grid, samples=8, empty=empty)
        field.initialise(first, torch.zeros(1), scan, 0)
        assert bool(field.matter.any()) is found
        assert field.matter[:, 0, 0].all() == found and not field.matter[:, 7, 8].any()


def test_an_empty_scan_renders_to_nothing_and_says_so(scan, caplog):
    field = Blob(samples=8, empty=0.1)
    field.initialise(torch.zeros(GRID.shape), torch.zeros(1), scan, 0)
    assert "nowhere above empty 0.1, so the field is 0 everywhere" in caplog.text
    assert not field.render(scan).any()
    assert not field.query(GRID).any()


@pytest.mark.parametrize("empty", [0, -0.1, math.nan])
def test_a_density_that_is_not_positive_is_refused(empty):
    with pytest.raises(ValueError, match=f"empty is {empty}; null or a positive density"):
        Blob(empty=empty)
