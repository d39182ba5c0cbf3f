from __future__ import annotations

import pytest
import torch
from tiny_clip import write_tiny_clip

from diffnr_lightning.losses import discriminator_adversarial, generator_adversarial
from diffnr_lightning.priors import ClipDiscriminator
from diffnr_lightning.priors.slicefixers import clip_discriminator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


def discriminator(folder, **options) -> ClipDiscriminator:
    torch.manual_seed(0)
    return ClipDiscriminator(folder, **{"width": 8, **options})


def slices(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_two_levels_of_maps_and_one_of_the_embedding(folder):
    network = discriminator(folder)
    assert network.taps == (4, 8)
    scores = network(slices(3, 40, 48), slices(3, 40, 48))
    assert [tuple(level.shape) for level in scores] == [(3, 2, 2), (3, 2, 2), (3, 1)]


def test_scores_follow_the_definition(folder):
    """Without the normalisation by spectral norms, whose estimates move, straight from the paper."""
    network = discriminator(folder, augment=False).eval()
    seen = network.vision(slices(2, 32, 32), "area", (4, 8))
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = []
    for head, features in zip(network.map_heads, seen.maps, strict=True):
        x = torch.conv2d(features, head[0].weight, head[0].bias, padding=1)
        x = torch.nn.functional.leaky_relu(x, 0.2)
        padded = torch.nn.functional.pad(x, (1, 2, 1, 2))
        x = torch.stack(
            [
                sum(
                    row[i] * row[j] * padded[:, :, y + i, x + j] for i in range(4) for j in range(4)
                )
                for y in (0, 2)
                for x in (0, 2)
            ],
            dim=2,
        )
        expected.append(
            (x * head[3].weight[0, :, 0]).sum(dim=1).unflatten(1, (2, 2)) + head[3].bias
        )
    inner, _, outer = network.embedding_head
    x = torch.nn.functional.leaky_relu(seen.embedding @ inner.weight.T + inner.bias, 0.2)
    expected.append(x @ outer.weight.T + outer.bias)
    for got, want in zip(network(None, slices(2, 32, 32)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_heads_on_the_real_architecture(monkeypatch):
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        # The defaults of the configuration are ViT-B/32.
        monkeypatch.setattr(clip_discriminator, "load_clip", lambda _: CLIPModel(CLIPConfig()))
        network = ClipDiscriminator()
        scores = network.map_heads[0](torch.zeros(2, 768, 7, 7))
    assert scores.shape == (2, 1, 4, 4)
    assert network.vision.size == 224
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    maps = (768 * 9 + 1) * 256 + 256 + 1
    assert trained == 2 * maps + (512 + 1) * 256 + 256 + 1


def test_only_the_heads_are_trained(folder):
    network = discriminator(folder).train()
    assert not any(module.training for module in network.vision.modules())
    assert network.map_heads.training
    candidate = slices(2, 32, 32).requires_grad_()
    generator_adversarial(network(candidate, candidate), network.adversarial_kind).backward()
    assert candidate.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("vision.")), name


def test_slices_are_changed_at_random_only_while_training(folder):
    network = discriminator(folder)
    candidate = slices(2, 32, 32)
    first, second = (network(candidate, candidate)[2] for _ in range(2))
    assert (first - second).abs().max() > 1e-4
    network.eval()
    first, second = (network(candidate, candidate)[2] for _ in range(2))
    assert torch.equal(first, second)
    assert discriminator(folder, augment=False).augment is None


def test_a_cast_tower_leaves_heads_and_scores_in_full_precision(folder):
    network = discriminator(folder).eval()
    candidate = slices(2, 32, 32)
    full = network(candidate, candidate)
    network.vision.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        cast = network(candidate, candidate)
    for a, b in zip(cast, full, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
    assert network.embedding_head[0].weight.dtype == torch.float32


def test_training_tells_streaks_from_squares(folder):
    network = discriminator(folder, width=16, augment=False)
    heads = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(heads, lr=1e-2)
    clean = torch.zeros(4, 32, 32)
    clean[:, 8:24, 8:24] = 0.6
    streaks = (clean + 0.3 * torch.sin(torch.arange(32) * 2.0)).clamp(0, 1)
    for _ in range(40):
        loss = discriminator_adversarial(
            network(streaks, clean), network(streaks, streaks), network.adversarial_kind
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        real, fake = network(streaks, clean), network(streaks, streaks)
    # Bounded heads cannot tell embeddings apart further than a random tower puts them.
    for r, f, gap in zip(real, fake, (0.5, 0.5, 0.0), strict=True):
        assert r.mean() > f.mean() + gap


def test_contradictions_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="width is 0"):
        ClipDiscriminator(folder, width=0)
    with pytest.raises(ValueError, match="has 2 blocks; expected three or more"):
        ClipDiscriminator(write_tiny_clip(tmp_path, blocks=2))
    with pytest.raises(OSError, match="found neither as a folder nor on the hub"):
        ClipDiscriminator(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"\(1, 1, 32, 32\)"):
        discriminator(folder, augment=False)(None, slices(1, 1, 32, 32))
