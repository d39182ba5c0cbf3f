import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from tiny_clip import write_tiny_clip

from diffnr_lightning.losses import ClipSimilarity
from diffnr_lightning.losses.clip_vision import ClipVision, load_clip

CAPTION = "remove artifacts for this chest ct slice"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


def slices(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def logits_by_hand(folder, images, caption) -> torch.Tensor:
    """Logits of CLIP's own forward pass, on images that are normalised before they are resized."""
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(folder).double()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).double()[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).double()[:, None, None]
    pixels = (images.double()[:, None].expand(-1, 3, -1, -1) - mean) / deviation
    pixels = F.interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False)
    tokens = AutoTokenizer.from_pretrained(folder)(caption, return_tensors="pt")
    return model(pixel_values=pixels, **tokens).logits_per_image[:, 0]


@pytest.mark.parametrize("shape", [(32, 32), (48, 40), (20, 20)])
def test_value_and_gradient_equal_the_logits_of_clip(folder, shape):
    images = slices(2, *shape)
    got, want = images.clone().requires_grad_(), images.double().requires_grad_()
    loss = ClipSimilarity(folder, CAPTION)(got)
    oracle = 1 - logits_by_hand(folder, want, CAPTION) / 100
    torch.testing.assert_close(loss.double(), oracle, rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    oracle.sum().backward()
    assert (got.grad - want.grad).norm() / want.grad.norm() < 1e-3


def test_captions_differ_and_long_ones_are_cut(folder):
    images = slices(1, 32, 32)
    values = {ClipSimilarity(folder, text)(images).item() for text in (CAPTION, "chest")}
    assert len(values) == 2
    assert ClipSimilarity(folder, CAPTION * 20)(images).isfinite().all()


def test_descent_brings_slices_nearer_to_the_caption(folder):
    network = ClipSimilarity(folder, CAPTION)
    images = slices(2, 32, 32).requires_grad_()
    before = network(images)
    (gradient,) = torch.autograd.grad(before.sum(), images)
    step = 0.05 / gradient.abs().max()
    assert (network(images - step * gradient) < before).all()


def test_frozen_in_evaluation_and_without_the_text_tower(folder):
    network = ClipSimilarity(folder, CAPTION).train()
    assert not any(module.training for module in network.vision.modules())
    network(slices(1, 32, 32).requires_grad_()).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not any("text" in name for name, _ in network.named_parameters())
    assert "target" not in network.state_dict()


def test_the_tower_may_be_cast(folder):
    network = ClipSimilarity(folder, CAPTION)
    full = network(slices(2, 32, 32))
    network.vision.to(torch.bfloat16)
    cast = network(slices(2, 32, 32))
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, full, rtol=0.02, atol=0.02)


def test_maps_are_those_after_the_named_blocks(folder):
    network = ClipVision(load_clip(folder))
    outputs = {}
    for number, block in enumerate(network.tower.encoder.layers, start=1):
        block.register_forward_hook(lambda _, __, out, number=number: outputs.update({number: out}))
    seen = network(slices(2, 32, 32), "area", taps=(4, 8))
    for tap, features in zip((4, 8), seen.maps, strict=True):
        tokens = outputs[tap][0] if isinstance(outputs[tap], tuple) else outputs[tap]
        assert features.shape == (2, 16, 4, 4)
        torch.testing.assert_close(features[:, :, 1, 2], tokens[:, 1 + 4 + 2])


def test_missing_package_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "diffnr-lightning\[slicefixer\]"'):
        ClipSimilarity(folder, CAPTION)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"nowhere' was found neither .* hf download openai/clip"):
        load_clip(tmp_path / "nowhere")


def test_files_of_another_model_are_refused(folder, tmp_path):
    from transformers import CLIPVisionModelWithProjection

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CLIPVisionModelWithProjection.from_pretrained(folder).save_pretrained(tmp_path / "half")
        with pytest.raises(ValueError, match=r"half' (has no weights|cannot be read)"):
            load_clip(tmp_path / "half")


def test_damaged_weights_are_refused(tmp_path):
    folder = write_tiny_clip(tmp_path, blocks=1)
    (folder / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"the CLIP model .* expected openai/clip"):
        load_clip(folder)


def test_a_missing_tokenizer_is_named(tmp_path):
    folder = write_tiny_clip(tmp_path, blocks=1)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"finds no word in the caption 'remove .* vocab\.json"):
        ClipSimilarity(folder, CAPTION)


def test_an_empty_caption_is_refused(folder):
    with pytest.raises(ValueError, match="finds no word in the caption ''"):
        ClipSimilarity(folder, "")


def test_wrong_shape_is_refused(folder):
    with pytest.raises(ValueError, match=r"\(1, 1, 32, 32\)"):
        ClipSimilarity(folder, CAPTION)(slices(1, 1, 32, 32))
