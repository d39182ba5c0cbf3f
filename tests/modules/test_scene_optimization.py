import lightning
import pytest
import torch

from diffnr_lightning.batches import ViewBatch
from diffnr_lightning.data import ScanData
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.losses import l1, ssim_2d, ssim_3d, tv_3d
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import GaussianCloud, VoxelGrid

pytestmark = pytest.mark.filterwarnings("ignore")

GRID = VolumeGrid((14, 12, 16), (2.0, 2.0, 1.5))
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(6),
    source_to_axis_mm=70.0,
    source_to_detector_mm=100.0,
    detector_shape=(18, 18),
    pixel_mm=2.4,
)


@pytest.fixture(scope="module")
def truth():
    points = GRID.points()
    return torch.exp(-0.5 * (points / torch.tensor([6.0, 4.0, 5.0])).square().sum(-1))


@pytest.fixture(scope="module")
def projections(truth):
    return project(truth, GRID, SCAN)


def voxels(volume, **options):
    representation = VoxelGrid(GRID)
    representation.initialise(volume, None, SCAN, seed=0)
    return SceneOptimization(representation, SCAN, GRID, **options)


def step(module, projections, views=(2,)):
    views = torch.tensor(views)
    return module.training_step(ViewBatch(views, projections[views]), 0)


def optimise(module, projections, steps, **options):
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, datamodule=ScanData(projections, seed=0, iterations=steps))
    return trainer


def test_the_loss_is_the_sum_of_its_terms(truth, projections):
    volume = 0.7 * truth
    module = voxels(volume, lambda_ssim=0.25, lambda_tv=0.05, tv_size=100)
    # Lengths are counted in half the largest edge.
    scale = 2 / 28.0
    rendered, measured = (scale * project(v, GRID, SCAN[[1, 4]]) for v in (volume, truth))
    expected = (
        l1(rendered, measured)
        + 0.25 * (1 - ssim_2d(rendered, measured).mean())
        + 0.05 * tv_3d(volume)
    )
    torch.testing.assert_close(step(module, projections, (1, 4)), expected)
    without = voxels(volume, lambda_ssim=0, lambda_tv=0)
    torch.testing.assert_close(step(without, projections, (1, 4)), l1(rendered, measured))


def test_voxels_below_zero_are_brought_back_and_fitted(truth, projections):
    module = voxels(truth, lambda_ssim=0, lambda_tv=0)
    with torch.no_grad():
        module.representation.values.fill_(-0.5)
    optimise(module, projections, 40)
    volume = module.query_volume().detach()
    assert float(module.representation.values.detach().min()) >= 0.0
    assert float((volume - truth).norm()) < 0.8 * float(truth.norm())


def test_a_window_is_compared_with_its_part_of_the_rendering(truth, projections):
    module = voxels(0.7 * truth, lambda_ssim=0.25, lambda_tv=0)
    rows, columns = slice(1, 18, 3), slice(4, 13)
    views = torch.tensor([1, 4])
    window = projections[views][:, rows, columns]
    rendered, measured = (
        2 / 28.0 * project(v, GRID, SCAN[views])[:, rows, columns] for v in (0.7 * truth, truth)
    )
    expected = l1(rendered, measured) + 0.25 * (1 - ssim_2d(rendered, measured).mean())
    loss = module.training_step(ViewBatch(views, window, rows, columns), 0)
    torch.testing.assert_close(loss, expected)


def test_the_views_of_a_batch_stay_where_their_geometry_is(truth, projections):
    batch = ViewBatch(torch.tensor([2]), projections[[2]])
    moved = voxels(truth).transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.projection.device.type == "meta"
    assert moved.view.device.type == "cpu"


def test_rarer_total_variation_counts_more(truth, projections):
    losses = {}
    for every in (1, 3):
        module = voxels(0.7 * truth, lambda_ssim=0, lambda_tv=0.4, tv_size=100, tv_every=every)
        losses[every] = torch.tensor([float(step(module, projections)) for _ in range(6)])
    image = float(step(voxels(0.7 * truth, lambda_ssim=0, lambda_tv=0), projections))
    added = {every: found - image for every, found in losses.items()}
    expected = 3 * added[1] * torch.tensor([0, 0, 1, 0, 0, 1])
    assert added[1].min() > 0.001
    torch.testing.assert_close(added[3], expected, atol=1e-6, rtol=1e-4)


def weighted_step(module, projections, weights, views=(1, 4)):
    views = torch.tensor(views)
    return module.training_step(ViewBatch(views, projections[views], weights=weights), 0)


def test_equal_weights_are_none(truth, projections):
    losses = [
        weighted_step(voxels(0.7 * truth, lambda_ssim=0.25), projections, weights)
        for weights in (None, torch.ones(2, 18, 18))
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_differences_count_by_the_weights_of_their_rays(truth, projections):
    weights = torch.rand(2, 18, 18, generator=torch.Generator().manual_seed(0))
    module = voxels(0.7 * truth, lambda_ssim=0, lambda_tv=0)
    difference = 0.3 * 2 / 28.0 * project(truth, GRID, SCAN[[1, 4]])
    loss = weighted_step(module, projections, weights)
    torch.testing.assert_close(loss, (weights * difference).mean())


def test_rays_without_light_move_nothing(truth, projections):
    weights = torch.ones(2, 18, 18)
    weights[:, :, 9:] = 0
    spoilt = projections.clone()
    spoilt[..., 9:] += 5
    gradients = []
    for measured in (projections, spoilt):
        module = voxels(0.7 * truth, lambda_ssim=0.25, lambda_tv=0)
        weighted_step(module, measured, weights).backward()
        gradients.append(module.representation.values.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_reference_takes_part_every_tau_batches(truth, projections):
    module = voxels(0.7 * truth, lambda_tv=0, lambda_diff=3.0, reference_every=2)
    without = [float(step(module, projections)) for _ in range(4)]
    assert without == [without[0]] * 4
    module = voxels(0.7 * truth, lambda_tv=0, lambda_diff=3.0, reference_every=2)
    module.reference = truth
    distance = float(1 - ssim_3d(0.7 * truth, truth))
    assert distance > 0.01
    added = [float(step(module, projections)) - without[0] for _ in range(4)]
    assert added == pytest.approx([0, 3 * distance, 0, 3 * distance], abs=1e-5)


def distance_from_reference(module):
    return module.reference_distance(module.representation.query(module._compared_part()[0]))


@pytest.mark.parametrize("size", [0, 9])
@pytest.mark.parametrize("loss", ["ssim", "l1"])
def test_the_distance_vanishes_at_the_reference_alone(truth, loss, size):
    for volume, reached in ((truth, True), (truth.flip(2) + 0.1, False)):
        module = voxels(volume, reference_loss=loss, reference_size=size)
        module.reference = truth
        distance = distance_from_reference(module)
        assert (float(distance) < 1e-5) is reached
        distance.backward()
        assert module.representation.values.grad.isfinite().all()


def test_a_reference_that_shows_nothing_empties_the_volume(truth):
    module = voxels(truth)
    module.reference = torch.zeros_like(truth)
    assert float(distance_from_reference(module)) == pytest.approx(float(truth.mean()))


def test_what_a_checkpoint_held_follows_the_parameters_to_their_device(truth, projections):
    """Lightning moves parameters alone; `meta` stands for a GPU."""
    first = voxels(truth)
    first.reference = truth
    first.add_novel_views(SCAN[:2], projections[:2])
    checkpoint = {"state_dict": first.state_dict()}
    first.on_save_checkpoint(checkpoint)
    resumed = voxels(truth)
    resumed.on_load_checkpoint(checkpoint)
    resumed.to("meta")
    resumed.on_train_start()
    assert resumed.reference.device.type == resumed.novel.projections.device.type == "meta"


def test_cubes_are_drawn_from_seed_and_iteration(truth):
    module = voxels(truth, seed=5)
    module.reference = truth
    drawn = []
    for iteration in range(1, 40):
        module.iteration = iteration
        grid, crop = module._random_cube(8)
        assert truth[crop].shape == grid.shape == (8, 8, 8)
        torch.testing.assert_close(grid.points(), GRID.points()[crop])
        drawn.append(str(crop))
    assert len(set(drawn)) > 30
    module.iteration = 7
    assert str(module._random_cube(8)[1]) == drawn[6]
    assert module._random_cube(100)[0].shape == GRID.shape


def test_rates_are_scaled_and_decay(truth, projections):
    module = voxels(truth, rate_scale=4.0, rate_decay=0.1, rate_iterations=10)
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    optimise(module, projections, 14, callbacks=[Watch()])
    first = 4 * module.representation.rate
    assert seen[0] == pytest.approx(first)
    assert seen[5] == pytest.approx(first * 0.1**0.5)
    assert seen[10:] == pytest.approx([0.1 * first] * 4)


@pytest.mark.parametrize(
    "representation", [VoxelGrid, lambda g: GaussianCloud(g, num_gaussians=80)]
)
def test_optimisation_approaches_projections_and_reference(truth, projections, representation):
    errors = {}
    for name in ("start", "plain", "with reference"):
        scene = representation(GRID)
        scene.initialise(0.5 * truth.roll(2, 1), projections, SCAN, seed=0)
        module = SceneOptimization(
            scene, SCAN, GRID, rate_scale=5.0, rate_iterations=60, reference_every=1
        )
        module.reference = truth if name == "with reference" else None
        if name != "start":
            optimise(module, projections, 60)
        with torch.no_grad():
            volume = module.query_volume()
            errors[name] = (
                float((project(volume, GRID, SCAN) - projections).abs().mean()),
                float(1 - ssim_3d(volume, truth)),
            )
    assert errors["plain"][0] < 0.5 * errors["start"][0]
    assert errors["with reference"][1] < 0.8 * errors["plain"][1]


def test_a_checkpoint_takes_along_what_parameters_do_not_say(truth, projections):
    module = SceneOptimization(GaussianCloud(GRID, num_gaussians=30), SCAN, GRID)
    module.iteration, module.reference = 12, truth
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    # Density control had changed the number of Gaussians.
    other = SceneOptimization(GaussianCloud(GRID, num_gaussians=50), SCAN, GRID)
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    assert other.iteration == 12
    assert other.representation.num_gaussians == 30
    torch.testing.assert_close(other.reference, truth)
    for scan, grid, word in ((SCAN[:3], GRID, "scan"), (SCAN, VolumeGrid((4, 4, 4), 1.0), "grid")):
        stranger = SceneOptimization(VoxelGrid(grid), scan, grid)
        with pytest.raises(ValueError, match=f"another {word}"):
            stranger.on_load_checkpoint(checkpoint)


def test_a_cloud_of_ones_own_with_a_network_takes_up_its_size():
    class Coloured(GaussianCloud):
        def __init__(self, count):
            super().__init__(GRID, num_gaussians=count)
            self.net = torch.nn.Linear(3, 3)
            self.gain = torch.nn.Parameter(torch.ones(()))

    module, other = (SceneOptimization(Coloured(count), SCAN, GRID) for count in (30, 50))
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    assert other.representation.num_gaussians == 30


def test_a_representation_of_ones_own_may_have_single_numbers(truth):
    class Offset(VoxelGrid):
        def __init__(self, grid):
            super().__init__(grid)
            self.offset = torch.nn.Parameter(torch.tensor(0.5))

    module, other = (SceneOptimization(Offset(GRID), SCAN, GRID) for _ in range(2))
    module.iteration = 7
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert other.iteration == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lambda_ssim": -1.0}, "lambda_ssim"),
        ({"lambda_diff": -0.1}, "may be negative"),
        ({"reference_every": 0}, "reference_every is 0"),
        ({"tv_size": 1}, "tv_size is 1; at least 2"),
        ({"tv_every": 0}, "tv_every is 0; at least 1"),
        ({"rate_iterations": 0}, "rate_iterations is 0"),
        ({"reference_loss": "L1"}, "reference_loss is 'L1'"),
        ({"rate_decay": 0.0}, "rate_decay is 0.0; a positive factor is expected: 1 keeps"),
        ({"rate_decay": -0.5}, "rate_decay is -0.5"),
    ],
)
def test_settings_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        SceneOptimization(VoxelGrid(GRID), SCAN, GRID, **options)
