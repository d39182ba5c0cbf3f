from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from tiny_models import FEATURE_WIDTH

from diffnr_lightning.priors import PROMPTS, Conditioning, Prior, SliceFixer, repair_volume
from diffnr_lightning.priors.slicefixers import memory
from diffnr_lightning.priors.slicefixers.turbo_backbone import embed_text


@pytest.fixture
def slices():
    return 0.2 + 0.5 * torch.rand(2, 1, 32, 24, generator=torch.Generator().manual_seed(0))


def repeated(told, times):
    return told._replace(biplanar=told.biplanar.expand(times, -1, -1, -1).clone())


def test_it_is_a_prior(slicefixer):
    prior = slicefixer
    assert isinstance(prior, Prior)
    assert (prior.context, prior.size, prior.biplanar_size) == (0, 32, 28)
    assert (SliceFixer.context, SliceFixer.biplanar_size) == (0, 518)


@pytest.mark.parametrize("shape", [(32, 24), (33, 30), (9, 17)])
def test_slices_of_any_size_keep_it(slicefixer, told, shape):
    prior, slices = slicefixer, torch.rand(2, 1, *shape)
    assert prior(slices, told).shape == (2, *shape)
    repaired = prior.repair(slices, told)
    assert repaired.shape == (2, *shape)
    assert repaired.min() >= 0 and repaired.max() <= 1
    assert not repaired.requires_grad


def test_slices_of_a_batch_do_not_see_each_other(slicefixer, told, slices):
    prior = slicefixer
    together = prior.repair(slices, told)
    for one, repaired in zip(slices, together, strict=True):
        torch.testing.assert_close(prior.repair(one[None], told)[0], repaired, atol=1e-4, rtol=0)


def test_repairing_repeats(slicefixer, told, slices):
    prior = slicefixer
    assert torch.equal(prior.repair(slices, told), prior.repair(slices, told))


def test_the_network_is_shown_unit_range_in_three_channels(build, told, slices):
    prior = build()
    seen = []
    prior.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    prior(slices, told)
    assert torch.equal(seen[0], slices.expand(-1, 3, -1, -1))
    prior.signed_input = True
    prior(slices, told)
    torch.testing.assert_close(seen[1], 2 * seen[0] - 1)


def test_output_is_the_mean_of_three_channels_in_unit_range(build, told, slices):
    prior = build()
    image = torch.randn(2, 3, 32, 24)
    prior.backbone.forward = lambda *_, **__: image
    torch.testing.assert_close(prior(slices, told), (image.mean(dim=1) + 1) / 2)


@pytest.mark.parametrize("normalisation", ["per_slice_minmax", "released"])
def test_stretched_slices_are_taken_back_unless_as_released(
    build, slicefixer, told, slices, normalisation
):
    prior = build(normalisation=normalisation)
    least, most = slices.amin(dim=(2, 3), keepdim=True), slices.amax(dim=(2, 3), keepdim=True)
    stretched = (slices - least) / (most - least)
    wanted = slicefixer(stretched, told)
    if normalisation == "per_slice_minmax":
        wanted = least[:, 0] + (most - least)[:, 0] * wanted
    torch.testing.assert_close(prior(slices, told), wanted, atol=1e-4, rtol=1e-4)


def test_stretching_is_inverted_by_a_network_that_changes_nothing(build, told, slices):
    prior = build(normalisation="per_slice_minmax")
    prior.backbone.forward = lambda images, *_, **__: 2 * images - 1
    flat = torch.full((1, 1, 32, 24), 0.3)
    for given in (slices, flat):
        torch.testing.assert_close(prior.repair(given, told), given[:, 0])


def test_exactly_the_named_parts_are_trained(build, told, slices):
    prior = build()
    trainable = {name for name, p in prior.named_parameters() if p.requires_grad}
    named = {
        name if name.startswith("fusion_adapter.") else f"backbone.{name}"
        for name in prior.trained()
    }
    assert trainable == named
    assert sum(name.startswith("fusion_adapter.") for name in named) == 8
    prior(slices, told).square().mean().backward()
    for name, parameter in prior.named_parameters():
        assert (parameter.grad is not None) == (name in named), name
    assert not any(p.requires_grad for p in prior.requires_grad_(False).parameters())
    again = {name for name, p in prior.requires_grad_(True).named_parameters() if p.requires_grad}
    assert again == named


def test_a_few_steps_reduce_the_loss(build, told, slices):
    prior = build().train()
    optimizer = torch.optim.AdamW([p for p in prior.parameters() if p.requires_grad], lr=3e-3)
    clean = F.avg_pool2d(slices, 3, stride=1, padding=1)[:, 0]
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (prior(slices, told) - clean).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.5 * losses[0]


def test_projections_change_the_repair_and_none_leave_the_text_alone(
    build, slicefixer, told, slices
):
    prior = slicefixer
    others = told._replace(biplanar=told.biplanar.flip(-1))
    assert not torch.allclose(prior(slices, told), prior(slices, others))
    nothing = told._replace(biplanar=torch.zeros_like(told.biplanar))
    alone = build(biplanar=False)
    alone.load_trained_state(
        {n: t for n, t in prior.trained_state().items() if not n.startswith("fusion_adapter.")}
    )
    torch.testing.assert_close(prior(slices, nothing), alone(slices, told), atol=1e-4, rtol=1e-4)


def test_known_and_unknown_projections_can_share_a_batch(slicefixer, told, slices):
    prior = slicefixer
    both = told._replace(biplanar=torch.cat((told.biplanar, torch.zeros_like(told.biplanar))))
    mixed = prior.repair(slices, both)
    torch.testing.assert_close(mixed[:1], prior.repair(slices[:1], told), atol=1e-4, rtol=0)
    nothing = told._replace(biplanar=torch.zeros_like(told.biplanar))
    torch.testing.assert_close(mixed[1:], prior.repair(slices[1:], nothing), atol=1e-4, rtol=0)


def test_the_encoder_is_called_once_for_a_scan(build, told, slices):
    prior, calls = build(), []
    prior.encoder.register_forward_pre_hook(lambda *given: calls.append(1))
    for _ in range(3):
        first = prior.repair(slices, told)
    again = prior.repair(slices, Conditioning(*(field.clone() for field in told)))
    assert len(calls) == 1
    assert torch.equal(first, again)
    told.biplanar.mul_(0.5).add_(torch.rand_like(told.biplanar))  # another scan in the same memory
    assert not torch.equal(prior.repair(slices, told), first)
    assert len(calls) == 2


def test_features_from_a_file_stand_for_projections(slicefixer, told, slices):
    prior = slicefixer
    features = told._replace(biplanar=prior.encoder(told.biplanar))
    assert features.biplanar.shape == (1, 2, FEATURE_WIDTH)
    torch.testing.assert_close(prior.repair(slices, features), prior.repair(slices, told))
    with pytest.raises(ValueError, match=r"biplanar has shape \(1, 2, 5\)"):
        prior.repair(slices, told._replace(biplanar=torch.rand(1, 2, 5)))


def test_conditioning_of_each_slice_equals_the_shared_one(slicefixer, told, slices):
    prior = slicefixer
    torch.testing.assert_close(
        prior.repair(slices, repeated(told, 2)), prior.repair(slices, told), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("organ", PROMPTS)
def test_the_prompt_names_the_organ(build, tiny_base, organ):
    assert torch.equal(build(organ=organ).text, embed_text(PROMPTS[organ], str(tiny_base)))


def test_prompts_can_be_given_and_dropped(build, tiny_base):
    own = build(organ="spleen", prompt="mend this")
    assert torch.equal(own.text, embed_text("mend this", str(tiny_base)))
    assert torch.equal(build(text=False).text, embed_text("", str(tiny_base)))


def test_the_text_encoder_is_not_kept(slicefixer):
    assert not any("text" in name for name, _ in slicefixer.named_parameters())
    assert "text" not in slicefixer.state_dict()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@torch.backends.mkldnn.flags(enabled=False)  # its gradients were not finite once, with AMX
def test_half_precision_computes_about_the_same(build, slicefixer, told, slices, precision):
    half = build(precision=precision)
    trained = {id(p) for p in half.trained().values()}
    for parameter in half.backbone.parameters():
        wanted = torch.float32 if id(parameter) in trained else getattr(torch, precision)
        assert parameter.dtype == wanted
    repaired = half(slices, told)
    assert repaired.dtype == torch.float32
    # The single step multiplies what is rounded by fifteen.
    assert (repaired - slicefixer(slices, told)).abs().mean() < 0.1
    repaired.mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in half.trained().values())


def test_channels_last_computes_the_same(build, slicefixer, told, slices):
    prior = build(channels_last=True)
    prior.load_trained_state(slicefixer.trained_state())
    torch.testing.assert_close(
        prior.repair(slices, told), slicefixer.repair(slices, told), atol=1e-3, rtol=0
    )


def test_compiling_keeps_names_and_takes_the_backbone(build, slicefixer):
    prior = build(compile=True)
    assert prior.trained().keys() == slicefixer.trained().keys()
    assert prior.backbone._compiled_call_impl is not None


def test_tiles_are_for_repair_only(build, told):
    prior, slices = build(tile=32), torch.rand(1, 1, 48, 48)
    tiles = []
    prior.backbone.register_forward_pre_hook(
        lambda module, given, named: tiles.append(named["tile"]), with_kwargs=True
    )
    prior.repair(slices, told)
    prior(slices, told)
    assert tiles == [32, None]


def test_a_volume_is_repaired(build, told):
    volume = torch.zeros(6, 20, 16)
    volume[1:5, 4:15, 3:12] = 0.6
    prior = build()
    batches = []
    prior.backbone.register_forward_pre_hook(lambda module, given: batches.append(given[0].shape))
    repaired = repair_volume(prior, volume, told, planes=("axial", "coronal"), batch_size=3)
    assert repaired.shape == volume.shape
    assert repaired.min() >= 0 and repaired.max() <= 1
    assert {shape[-2:] for shape in batches} == {(32, 32)}
    assert not torch.equal(repaired, volume)
    assert torch.equal(repaired[0, :4], volume[0, :4])  # empty in both planes


def test_neighbouring_slices_are_refused(slicefixer, told):
    with pytest.raises(ValueError, match=r"slices has shape \(2, 3, 8, 8\).*no neighbouring"):
        slicefixer(torch.rand(2, 3, 8, 8), told)


@pytest.mark.parametrize("training", [False, True])
def test_too_little_memory_is_refused_before_the_run(build, told, slices, monkeypatch, training):
    prior, runs = build(), []
    prior.backbone.register_forward_pre_hook(lambda *given: runs.append(1))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    task = "training on" if training else "repairing"
    with pytest.raises(ValueError, match=f"{task} 2 slices of 28 x 28 .* GiB free"):
        (prior if training else prior.repair)(slices, told)
    assert not runs


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"organ": "spleen"}, "organ is 'spleen', .* expected one of chest, tooth, any"),
        ({"size": 20}, "size is 20"),
        ({"tile": 24}, "tile is 24"),
        ({"normalisation": "mean"}, "normalisation is 'mean'; expected one of global"),
        ({"latent": "mode"}, "latent is 'mode'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"rank_vae": 0}, "rank_vae 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(build, options, match):
    with pytest.raises(ValueError, match=match) as caught:
        build(**options)
    assert "\n" not in str(caught.value)


def test_a_missing_base_says_how_to_get_it(tmp_path):
    folder = str(tmp_path / "sd-turbo")
    with pytest.raises(FileNotFoundError, match="hf download stabilityai/sd-turbo") as caught:
        SliceFixer(folder)
    message = str(caught.value)
    assert folder in message and "base=FOLDER" in message
    assert "\n" not in message and message.count(". ") == 0


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler", "text_encoder", "tokenizer"])
def test_a_base_without_a_part_names_it(tmp_path, tiny_base, part):
    for folder in tiny_base.iterdir():
        if folder.name != part:
            (tmp_path / folder.name).symlink_to(folder)
    with pytest.raises((FileNotFoundError, ValueError), match=f"{part} of base") as caught:
        SliceFixer(str(tmp_path), biplanar=False)
    assert "\n" not in str(caught.value)


def test_a_base_that_lacks_weights_is_refused(tmp_path, tiny_base):
    from safetensors.torch import load_file, save_file

    for folder in tiny_base.iterdir():
        if folder.name != "unet":
            (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").symlink_to(tiny_base / "unet" / "config.json")
    weights = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    del weights["conv_out.bias"]
    save_file(weights, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="has no weights conv_out.bias"):
        SliceFixer(str(tmp_path), biplanar=False)


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_a_missing_package_names_the_extra(build, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"package .*diffnr-lightning\[slicefixer\]"):
        build()


@pytest.mark.parametrize("orientation", ["zyx", "xyz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_network_gets_slices_as_they_lie_in_its_volumes(build, told, orientation, axis):
    prior = build(orientation=orientation)
    images = []

    def keep(shown, *_, **__):
        images.append(shown[:, 0])
        return 2 * shown - 1  # changes nothing

    prior.backbone.forward = keep
    volume = torch.zeros(32, 32, 32)
    volume[16:, :8, 4:24] = 0.5  # a marker that no turn or reflection leaves as it is
    volume[20, 2, 5] = 1.0
    plane = ("axial", "coronal", "sagittal")[axis]
    repaired = repair_volume(prior, volume, told, planes=(plane,))
    torch.testing.assert_close(repaired, volume)
    # The authors take slices of the array with the axes x, y, z, ours has z, y, x.
    array = volume.permute(2, 1, 0) if orientation == "xyz" else volume
    slices = array.movedim(2 - axis if orientation == "xyz" else axis, 0)
    filled = [slice for slice in slices if slice.any()]
    assert torch.equal(torch.cat(images), torch.stack(filled))
