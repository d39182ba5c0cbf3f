"""NAF's field: its network's kernels, its beginning, what it learns, and how it resumes."""

import lightning
import numba
import pytest
import torch

from diffnr_lightning.data import RaySampling, ScanData
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import NeuralField
from diffnr_lightning.representations.fields.network_kernels import network_reference
from diffnr_lightning.representations.fields.neural_field import _Network

GRID = VolumeGrid((24, 20, 22), 2.0, (1.0, -2.0, 3.0))
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(12),
    source_to_axis_mm=140.0,
    source_to_detector_mm=200.0,
    detector_shape=(34, 34),
    pixel_mm=2.4,
    axis_mm=(1.0, -2.0),
    height_mm=3.0,
)
SMALL = {"levels": 4, "base": 8, "growth": 1.5, "table": 14, "samples": 32}


@pytest.fixture(scope="module")
def truth():
    """Three soft ellipsoids, none of which is the voxels' own shape."""
    points = GRID.points() - torch.tensor(GRID.centre_mm)
    volume = torch.zeros(GRID.shape)
    for centre, radii, value in (
        ((0.0, 0.0, 0.0), (17.0, 14.0, 19.0), 0.3),
        ((6.0, 2.0, -4.0), (6.0, 5.0, 7.0), 0.4),
        ((-7.0, -2.0, 5.0), (5.0, 7.0, 6.0), -0.2),
    ):
        reach = ((points - torch.tensor(centre)) / torch.tensor(radii)).norm(dim=-1)
        volume += value * torch.sigmoid((1 - reach) * 12)
    return volume


@pytest.fixture(scope="module")
def projections(truth):
    return project(truth, GRID, SCAN)


def field(volume, seed=0, **options):
    made = NeuralField(GRID, **{**SMALL, **options})
    state = torch.get_rng_state()
    made.initialise(volume, None, SCAN, seed)
    assert torch.equal(torch.get_rng_state(), state)
    return made


def network(features, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(width, features), (width, width), (width, width + features), (1, width)]
    parameters = []
    for shape in shapes:
        parameters.append(torch.randn(shape, generator=generator) / shape[1] ** 0.5)
        parameters.append(0.1 * torch.randn(shape[0], generator=generator))
    return parameters


@pytest.mark.parametrize(("features", "width", "count"), [(8, 32, 5003), (32, 32, 64), (6, 5, 1)])
def test_the_network_agrees_with_the_reference_in_double_precision(features, width, count):
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(features, count, generator=generator), *network(features, width)]
    weights = torch.randn(count, generator=generator)
    single = [tensor.clone().requires_grad_() for tensor in inputs]
    double = [tensor.double().requires_grad_() for tensor in inputs]
    out, expected = _Network.apply(*single), network_reference(*double)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad((out * weights).sum(), single)
    truths = torch.autograd.grad((expected * weights).sum(), double)
    for gradient, truth in zip(gradients, truths, strict=True):
        assert gradient.shape == truth.shape
        # A point near a kink may fall on its other side.
        assert (gradient - truth).norm() < 1e-3 * truth.norm()


def test_field_and_gradients_agree_with_the_reference(truth):
    fast, slow = field(truth, warm_up=20), field(truth, warm_up=20).double()
    slow.load_state_dict(fast.state_dict())
    points = 2 * torch.rand(40, 32, 3, generator=torch.Generator().manual_seed(1)) - 1
    density, expected = fast.field(points), slow.field(points.double())
    assert ((density > 0) & (density < 1)).all()
    torch.testing.assert_close(density.double(), expected, atol=2e-5, rtol=0)
    density.square().sum().backward()
    expected.square().sum().backward()
    for (name, one), other in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert (one.grad - other.grad).norm() < 2e-3 * other.grad.norm(), name


def test_results_do_not_depend_on_threads(truth):
    made, results, before = field(truth, warm_up=5).eval(), [], numba.get_num_threads()
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            image = made.render(SCAN[:2])
            results.append([image, *torch.autograd.grad(image.square().sum(), made.parameters())])
    finally:
        numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_it_begins_at_the_mean_density(truth):
    made = field(truth)
    with torch.no_grad():
        volume = made.query(GRID)
    assert float(volume.std()) < 1e-3
    # The last layer adds a little to its bias.
    assert float(volume.mean()) == pytest.approx(float(truth.mean()), abs=0.05)


def test_the_warm_up_brings_it_to_the_first_reconstruction(truth):
    with torch.no_grad():
        errors = [
            (field(truth, warm_up=n).query(GRID) - truth).square().mean().sqrt() for n in (0, 200)
        ]
    assert errors[1] < 0.1 * errors[0]
    assert errors[1] < 0.012


def test_seeds_decide_where_it_begins(truth):
    one, same, other = (field(truth, seed, warm_up=3).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["encoding.table"], other["encoding.table"])


def test_every_parameter_is_in_a_group(truth):
    made = field(truth, rate=3e-3)
    groups = made.parameter_groups()
    grouped = {id(p) for group in groups for p in group["params"]}
    assert grouped == {id(p) for p in made.parameters()}
    assert [group["lr"] for group in groups] == [3e-3, 3e-3]


class Interrupt(lightning.Callback):
    """Keep a checkpoint and stop."""

    def __init__(self, batch, path):
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx + 1 == self.batch:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def optimise(projections, volume, iterations, callback=None, resume=None, **options):
    made = field(volume, **options)
    module = SceneOptimization(
        made, SCAN, GRID, rate_scale=8, rate_iterations=iterations, tv_size=8, lambda_tv=0.02
    )
    trainer = lightning.Trainer(
        max_steps=iterations,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback] if callback else [],
    )
    data = ScanData(projections, seed=0, iterations=iterations, rays=RaySampling(16, 16, 0.25))
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return made


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_equals_an_uninterrupted_one(truth, projections, tmp_path):
    whole = optimise(projections, truth, 12).state_dict()
    optimise(projections, truth, 12, Interrupt(5, tmp_path / "c.ckpt"))
    resumed = optimise(projections, truth, 12, resume=tmp_path / "c.ckpt").state_dict()
    assert int(whole["draws"]) == 12
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_warmed_up_where_there_is_no_matter(truth):
    made = NeuralField(GRID, **SMALL, warm_up=3, empty=2.0)
    made.initialise(truth, torch.zeros(1), SCAN, 0)
    assert not made.query(GRID).any()


@pytest.mark.parametrize("warm_up", [0, 60])
def test_it_learns_a_phantom_from_its_projections(truth, projections, warm_up):
    blurred = torch.nn.functional.avg_pool3d(truth[None, None], 5, 1, 2)[0, 0]
    with torch.no_grad():
        volume = optimise(projections, blurred, 250, warm_up=warm_up).query(GRID)
    error = float((volume - truth).square().mean().sqrt())
    assert error < 0.035  # of densities up to 0.7; the blurred volume is 0.06 off


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width is 0"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"levels": 0}, "levels"),
        ({"network": "Plain"}, "network is 'Plain'"),
    ],
)
def test_settings_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        NeuralField(GRID, **{**SMALL, **options})
