import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_clip import CONVOLUTIONS, TAPPED, tiny_heads, tiny_vgg

from diffnr_lightning.losses import Lpips


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vgg")
    torch.save(tiny_vgg(), folder / "vgg.pth")
    torch.save(tiny_heads(), folder / "heads.pth")
    return folder / "vgg.pth", folder / "heads.pth"


def slices(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(first, second, weights, heads) -> torch.Tensor:
    """LPIPS in float64, straight from its definition."""
    weights, heads = ({k: t.double() for k, t in d.items()} for d in (weights, heads))
    features = []
    for image in (first.double(), second.double()):
        x = (2 * image - 1)[:, None].expand(-1, 3, -1, -1)
        x = x - torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
        x = x / torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
        seen = []
        for place in CONVOLUTIONS:
            if place in (5, 10, 17, 24):
                x = F.max_pool2d(x, 2)
            x = F.conv2d(
                x, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"], padding=1
            ).relu()
            if place in TAPPED:
                seen.append(x)
        features.append(seen)
    total = 0
    for tap, (a, b) in enumerate(zip(*features, strict=True)):
        a, b = (f / (f.pow(2).sum(1, keepdim=True) + 1e-8).sqrt() for f in (a, b))
        total = total + F.conv2d((a - b) ** 2, heads[f"lin{tap}.model.1.weight"]).mean((1, 2, 3))
    return total


def test_value_and_gradient_equal_the_definition(files):
    first, second = slices(1, 2, 32, 48), slices(2, 2, 32, 48)
    got, want = first.clone().requires_grad_(), first.double().requires_grad_()
    distance = Lpips(*files)(got, second)
    oracle = by_hand(want, second, tiny_vgg(), tiny_heads())
    assert distance.shape == (2,)
    torch.testing.assert_close(distance.double(), oracle, rtol=1e-5, atol=1e-7)
    distance.sum().backward()
    oracle.sum().backward()
    assert (got.grad - want.grad).norm() / want.grad.norm() < 1e-4


def test_gradient_equals_finite_differences(files):
    network = Lpips(*files).double()
    candidate, reference = (slices(seed, 1, 16, 16).double() for seed in (1, 2))
    candidate.requires_grad_()
    (gradient,) = torch.autograd.grad(network(candidate, reference).sum(), candidate)
    direction = torch.randn(
        gradient.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    step = 1e-6
    ahead, behind = (
        network(candidate.detach() + sign * step * direction, reference) for sign in (1, -1)
    )
    slope = (ahead - behind).item() / (2 * step)
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


def test_distance_is_a_distance(files):
    network = Lpips(*files)
    first, second = slices(1, 2, 32, 32), slices(2, 2, 32, 32)
    assert network(first, first).abs().max() == 0
    torch.testing.assert_close(network(first, second), network(second, first))
    near = network(first, torch.lerp(first, second, 0.1))
    assert ((near > 0) & (near < network(first, second))).all()


def test_blank_slices_have_a_finite_gradient(tmp_path, files):
    # Without biases the features of a slice of the gray that is shifted to 0 would all be 0.
    weights = {k: -t.abs() if k.endswith("bias") else t for k, t in tiny_vgg().items()}
    torch.save(weights, tmp_path / "dark.pth")
    blank = torch.full((1, 32, 32), 0.45, requires_grad=True)
    Lpips(tmp_path / "dark.pth", files[1])(blank, torch.zeros(1, 32, 32)).sum().backward()
    assert blank.grad.isfinite().all()


def test_heads_of_torchmetrics_fit_the_real_widths(tmp_path):
    tapped = (64, 128, 256, 512, 512)
    torch.save(tiny_vgg(tapped), tmp_path / "vgg.pth")
    network = Lpips(tmp_path / "vgg.pth")
    assert [head.shape[1] for head in network.heads] == list(tapped)
    assert all((head >= 0).all() for head in network.heads)
    first, second = slices(1, 1, 16, 16), slices(2, 1, 16, 16)
    heads = {f"lin{tap}.model.1.weight": head for tap, head in enumerate(network.heads)}
    oracle = by_hand(first, second, tiny_vgg(tapped), heads)
    assert network(first, second).item() == pytest.approx(oracle.item(), rel=1e-5)


def test_nothing_is_trained(files):
    network = Lpips(*files)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    network(slices(1, 1, 16, 16).requires_grad_(), slices(2, 1, 16, 16)).sum().backward()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_safetensors_are_read_too(files, tmp_path):
    save_file(tiny_vgg(), tmp_path / "vgg.safetensors")
    first, second = slices(1, 1, 32, 32), slices(2, 1, 32, 32)
    distances = [
        Lpips(w, files[1])(first, second) for w in (tmp_path / "vgg.safetensors", files[0])
    ]
    assert torch.equal(*distances)


def test_the_cache_of_torch_hub_is_searched(files, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="vgg16-397923af.pth is missing") as caught:
        Lpips(heads=files[1])
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(caught.value)
    assert "argument weights" in str(caught.value)
    (tmp_path / "checkpoints").mkdir()
    torch.save(tiny_vgg(), tmp_path / "checkpoints" / "vgg16-397923af.pth")
    assert len(Lpips(heads=files[1]).stages) == 5


def test_files_that_hold_something_else_are_refused(files, tmp_path):
    weights, heads = files
    with pytest.raises(ValueError, match=r"no tensor features\.0\.weight"):
        Lpips(heads, heads)
    with pytest.raises(ValueError, match=r"no tensor lin0\.model\.1\.weight"):
        Lpips(weights, weights)
    with pytest.raises(ValueError, match=r"heads have 64 channels .* have 4"):
        Lpips(weights)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth is missing: the heads"):
        Lpips(weights, tmp_path / "nowhere.pth")
    torch.save({**tiny_vgg(), "features.5.weight": torch.zeros(3, 9, 3, 3)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"features\.5 of shape \(3, 9, 3, 3\); \(C, 4, 3, 3\)"):
        Lpips(tmp_path / "wrong.pth", heads)
    torch.save({**tiny_heads(), "lin2.model.1.weight": torch.zeros(6)}, tmp_path / "flat.pth")
    with pytest.raises(ValueError, match=r"lin2\.model\.1\.weight of shape \(6,\)"):
        Lpips(weights, tmp_path / "flat.pth")


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b".", b"\x80\x02X", b"no weights at all, but some text that is longer"]
)
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read as weights"):
        Lpips(tmp_path / name)


def test_files_that_would_run_code_are_refused(tmp_path):
    torch.save({"features.0.weight": math.sqrt, "other": torch.nn.ReLU()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        Lpips(tmp_path / "code.pth")


def test_slices_that_do_not_match_are_refused(files):
    network = Lpips(*files)
    with pytest.raises(ValueError, match=r"\(1, 16, 16\) and reference \(1, 16, 17\)"):
        network(torch.rand(1, 16, 16), torch.rand(1, 16, 17))
    with pytest.raises(ValueError, match="at least 16"):
        network(torch.rand(1, 15, 16), torch.rand(1, 15, 16))
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        network(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))
