import math

import pytest
import torch
import torch.nn.functional as F

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.representations import DensityLimits, GaussianCloud, clone_and_split, prune
from diffnr_lightning.representations.gaussians.render import rotation_matrices

GRID = VolumeGrid((20, 20, 20), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(3),
    source_to_axis_mm=110.0,
    source_to_detector_mm=150.0,
    detector_shape=(30, 30),
    pixel_mm=2.2,
)
LIMITS = DensityLimits()
LARGE = 5.0  # more than a tenth of the edge of 40 mm


def make(count=12, large=()):
    """A cloud with turned Gaussians, and an Adam that has made some steps."""
    generator = torch.Generator().manual_seed(0)
    cloud = GaussianCloud(GRID, num_gaussians=1)
    scales = 1.5 + torch.rand(count, 3, generator=generator)
    scales[list(large)] = torch.tensor([LARGE, 0.3 * LARGE, 0.1 * LARGE])
    positions = 20 * torch.rand(count, 3, generator=generator) - 10
    cloud.place(positions, scales, 0.1 + torch.rand(count, generator=generator))
    with torch.no_grad():
        cloud.raw_rotations.copy_(torch.randn(count, 4, generator=generator))
    optimizer = torch.optim.Adam(cloud.parameter_groups())
    for _ in range(3):
        optimizer.zero_grad()
        cloud.render(SCAN).square().sum().backward()
        optimizer.step()
    return cloud, optimizer


def pulls(count, hard):
    pull = torch.zeros(count)
    pull[list(hard)] = 2 * LIMITS.gradient
    return pull


def snapshot(cloud):
    return {name: p.detach().clone() for name, p in cloud.named_parameters()}


def moments(cloud, optimizer, key):
    return {name: optimizer.state[p][key] for name, p in cloud.named_parameters()}


def mass(cloud):
    _, scales, _, densities = cloud.activated()
    return (scales.prod(1) * densities).sum().item()


def moments_of_density(cloud):
    """Mass, mean and covariance of the whole cloud."""
    positions, scales, rotations, densities = (t.detach() for t in cloud.activated())
    weights = scales.prod(1) * densities
    mean = (weights[:, None] * positions).sum(0) / weights.sum()
    axes = rotation_matrices(rotations) * scales[:, None, :]
    offset = positions - mean
    spread = axes @ axes.transpose(1, 2) + offset[:, :, None] * offset[:, None, :]
    return weights.sum(), mean, (weights[:, None, None] * spread).sum(0) / weights.sum()


def split(cloud, optimizer, pull, limits=LIMITS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return clone_and_split(cloud, optimizer, pull, limits, generator)


def test_a_clone_changes_no_image():
    cloud, optimizer = make()
    image, before = cloud.render(SCAN).detach(), mass(cloud)
    assert split(cloud, optimizer, pulls(12, [2, 5, 11])) == (3, 0)
    assert cloud.num_gaussians == 15
    assert mass(cloud) == pytest.approx(before, rel=1e-5)
    torch.testing.assert_close(cloud.render(SCAN), image, rtol=1e-4, atol=1e-5)
    for parameter in cloud.parameters():
        assert torch.equal(parameter[12:], parameter[[2, 5, 11]])


def test_a_split_gaussian_becomes_two_smaller_ones_near_by():
    cloud, optimizer = make(large=[4, 7])
    positions, scales, rotations, densities = (t.detach() for t in cloud.activated())
    assert split(cloud, optimizer, pulls(12, [4, 7])) == (0, 2)
    assert cloud.num_gaussians == 14
    children = [t.detach()[10:] for t in cloud.activated()]
    parents = [4, 7, 4, 7]
    torch.testing.assert_close(children[1], scales[parents] / 1.6, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(children[2], rotations[parents])
    torch.testing.assert_close(children[3], densities[parents] / 2, rtol=1e-4, atol=1e-6)
    assert len(children[0].unique(dim=0)) == 4
    assert (children[0] != positions[parents]).all()


def test_a_split_by_moments_keeps_mass_centre_and_covariance():
    cloud, optimizer = make(1, large=[0])
    before, longest = moments_of_density(cloud), float(cloud.activated()[1].max())
    limits = DensityLimits(split="moments")
    assert split(cloud, optimizer, pulls(1, [0]), limits) == (0, 1)
    assert cloud.num_gaussians == 2
    for ours, theirs in zip(moments_of_density(cloud), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert float(cloud.activated()[1].max()) == pytest.approx(longest / 1.6, rel=1e-3)


def test_a_drawn_split_keeps_a_quarter_of_the_mass():
    cloud, optimizer = make(1, large=[0])
    before = mass(cloud)
    split(cloud, optimizer, pulls(1, [0]))
    assert mass(cloud) == pytest.approx(before / 1.6**3, rel=1e-3)


def test_another_rule_for_splitting_is_refused():
    with pytest.raises(ValueError, match="split is 'halves'; 'drawn' or 'moments' is expected"):
        DensityLimits(split="halves")


def test_children_are_drawn_from_their_parent():
    """Whitened by the parent's covariance, the offsets are standard normal."""
    cloud, optimizer = make(1, large=[0])
    parent = [t.detach()[0] for t in cloud.activated()]
    state = snapshot(cloud)
    whitened = []
    for seed in range(300):
        cloud.resize(1)
        cloud.load_state_dict(state)
        split(cloud, torch.optim.Adam(cloud.parameter_groups()), pulls(1, [0]), seed=seed)
        whitened.append(cloud.activated()[0].detach() - parent[0])
    covariance = torch.cov(torch.cat(whitened).T)
    w, x, y, z = parent[2]
    turn = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    axes = torch.eye(3) + 2 * w * turn + 2 * turn @ turn  # Rodrigues
    own = axes.T @ covariance @ axes / torch.outer(parent[1], parent[1])
    torch.testing.assert_close(own, torch.eye(3), rtol=0, atol=0.25)


def test_both_at_once_leave_the_others_alone():
    cloud, optimizer = make(large=[4])
    before = snapshot(cloud)
    assert split(cloud, optimizer, pulls(12, [1, 4])) == (1, 1)
    assert cloud.num_gaussians == 14
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    for name, parameter in cloud.named_parameters():
        expected = before[name][kept]
        if name == "raw_densities":
            expected[1] = parameter[1]  # the halved original of the clone
            half = 0.5 * F.softplus(before[name][1])
            assert F.softplus(parameter[1]).item() == pytest.approx(half.item(), rel=1e-4)
        assert torch.equal(parameter[:11], expected)


def test_the_optimiser_follows():
    cloud, optimizer = make(large=[4])
    before = {key: moments(cloud, optimizer, key) for key in ("exp_avg", "exp_avg_sq")}
    rates = [group["lr"] for group in optimizer.param_groups]
    split(cloud, optimizer, pulls(12, [1, 4]))
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert [group["params"][0] for group in optimizer.param_groups] == [
        getattr(cloud, group["name"]) for group in optimizer.param_groups
    ]
    assert len(optimizer.state) == 4
    for key, old in before.items():
        for name, moment in moments(cloud, optimizer, key).items():
            assert old[name].any()
            assert torch.equal(moment[:11], old[name][kept])
            assert moment.shape == getattr(cloud, name).shape
            assert not moment[11:].any()
    assert all(int(step) == 3 for step in moments(cloud, optimizer, "step").values())
    image = cloud.render(SCAN).detach()
    optimizer.zero_grad()
    cloud.render(SCAN).square().sum().backward()
    optimizer.step()
    assert not torch.equal(cloud.render(SCAN), image)


def test_an_optimiser_with_other_parameters_keeps_them():
    cloud, _ = make()
    other = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([other, *cloud.parameters()])
    split(cloud, optimizer, pulls(12, [1, 2]))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in (other, *cloud.parameters())
    ]


def test_a_cloud_of_ones_own_may_have_single_numbers_and_fixed_ones():
    cloud, _ = make(12, large=(4,))
    cloud.gain = torch.nn.Parameter(torch.tensor(2.0))
    cloud.colours = torch.nn.Parameter(torch.arange(12.0), requires_grad=False)
    optimizer = torch.optim.Adam([*cloud.parameter_groups(), {"params": [cloud.gain]}])
    clone_and_split(cloud, optimizer, pulls(12, (3, 4)), LIMITS, torch.Generator())
    assert cloud.gain.item() == 2
    assert cloud.colours.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 3, 4, 4]
    assert not cloud.colours.requires_grad
    with torch.no_grad():
        cloud.raw_densities[0] = -20
    assert prune(cloud, optimizer, LIMITS) == 1
    assert cloud.colours[0].item() == 1


def test_nothing_happens_below_the_threshold():
    cloud, optimizer = make()
    before = list(cloud.parameters())
    assert split(cloud, optimizer, pulls(12, []) + 0.99 * LIMITS.gradient) == (0, 0)
    assert all(a is b for a, b in zip(before, cloud.parameters(), strict=True))


def test_the_limit_lets_the_hardest_pulled_grow():
    cloud, optimizer = make()
    pull = LIMITS.gradient * torch.arange(1.0, 13.0)
    positions = cloud.positions.detach().clone()
    limits = DensityLimits(most_gaussians=15)
    assert split(cloud, optimizer, pull, limits) == (3, 0)
    assert torch.equal(cloud.positions[12:], positions[9:])
    assert split(cloud, optimizer, LIMITS.gradient * torch.ones(15), limits) == (0, 0)
    assert cloud.num_gaussians == 15


def test_splitting_depends_on_the_generator_alone():
    results = []
    for _ in range(2):
        cloud, optimizer = make(large=[0, 3])
        torch.rand(5)
        split(cloud, optimizer, pulls(12, [0, 3]), seed=9)
        results.append(cloud.positions.detach())
    assert torch.equal(*results)


def test_thin_and_lost_gaussians_are_pruned():
    cloud, optimizer = make()
    old = moments(cloud, optimizer, "exp_avg")
    with torch.no_grad():
        cloud.raw_densities[3] = math.log(math.expm1(0.9e-5))
        cloud.raw_densities[4] = math.log(math.expm1(1.1e-5))
        cloud.positions[6] = torch.tensor([0.0, 1.01, 0.0])
        cloud.positions[7] = torch.tensor([0.0, 0.99, 0.0])
    before = snapshot(cloud)
    assert prune(cloud, optimizer, LIMITS) == 2
    kept = [0, 1, 2, 4, 5, 7, 8, 9, 10, 11]
    for name, parameter in cloud.named_parameters():
        assert torch.equal(parameter, before[name][kept])
        assert torch.equal(optimizer.state[parameter]["exp_avg"], old[name][kept])
    assert len(cloud.statistics.gradient) == cloud.num_gaussians == 10
    assert prune(cloud, optimizer, LIMITS) == 0


def test_pruning_knows_a_box_that_is_no_cube():
    cloud = GaussianCloud(VolumeGrid((10, 20, 40), 1.0, (5.0, 6.0, 7.0)), num_gaussians=1)
    inside = torch.tensor([[24.9, 6.0, 7.0], [5.0, 15.9, 7.0], [5.0, 6.0, 11.9]])
    outside = torch.tensor([[25.1, 6.0, 7.0], [5.0, 16.1, 7.0], [5.0, 6.0, 12.1]])
    cloud.place(torch.cat([inside, outside]), torch.ones(6), torch.ones(6))
    optimizer = torch.optim.Adam(cloud.parameter_groups())
    assert prune(cloud, optimizer, LIMITS) == 3
    torch.testing.assert_close(cloud.activated()[0].detach(), inside)


def test_the_last_gaussians_are_not_pruned(caplog):
    cloud, optimizer = make()
    with torch.no_grad():
        cloud.positions.fill_(5.0)
    assert prune(cloud, optimizer, LIMITS) == 0
    assert cloud.num_gaussians == 12
    assert "none would be left" in caplog.text


def test_a_pull_for_other_gaussians_is_refused():
    cloud, optimizer = make()
    with pytest.raises(ValueError, match="pull has shape"):
        split(cloud, optimizer, torch.ones(11))
