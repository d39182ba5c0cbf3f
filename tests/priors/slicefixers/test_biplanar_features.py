from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from tiny_models import FEATURE_WIDTH
from transformers import AutoModel

from diffnr_lightning.priors import BiplanarFeatures, read_biplanar_features, stored_features


@pytest.fixture(scope="module")
def encoder(tiny_encoder):
    return BiplanarFeatures(str(tiny_encoder))


@pytest.fixture
def pairs():
    return torch.rand(3, 2, 28, 28, generator=torch.Generator().manual_seed(0))


def test_tokens_are_the_pooled_class_token_of_stretched_projections(tiny_encoder, encoder, pairs):
    assert encoder.size == 28
    assert encoder.width == FEATURE_WIDTH
    tokens = encoder(pairs)
    assert tokens.shape == (3, 2, FEATURE_WIDTH)
    network = AutoModel.from_pretrained(tiny_encoder).eval()
    view = pairs[1, 1]
    gray = (view - view.min()) / (view.max() - view.min())
    pixels = ((gray - 0.5307) / 0.2583).expand(1, 3, -1, -1)
    with torch.no_grad():
        wanted = network(pixel_values=pixels).pooler_output
    torch.testing.assert_close(tokens[1, 1], wanted[0], atol=1e-5, rtol=1e-5)


def test_units_do_not_matter(encoder, pairs):
    torch.testing.assert_close(encoder(7 * pairs + 3), encoder(pairs), atol=1e-4, rtol=1e-4)


def test_other_sizes_are_resized(encoder, pairs):
    larger = torch.nn.functional.interpolate(pairs, scale_factor=4, mode="nearest")
    assert encoder(larger).shape == (3, 2, FEATURE_WIDTH)
    assert encoder(pairs[..., :20]).shape == (3, 2, FEATURE_WIDTH)


def test_empty_projections_give_finite_tokens(encoder):
    assert torch.isfinite(encoder(torch.zeros(1, 2, 28, 28))).all()


def test_is_frozen_and_stays_in_evaluation_mode(encoder, pairs):
    encoder.train()
    assert not encoder.training and not encoder.network.training
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(pairs.requires_grad_()).requires_grad


def test_a_missing_encoder_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf download microsoft/rad-dino") as caught:
        BiplanarFeatures(str(tmp_path / "none"))
    assert "encoder=FOLDER" in str(caught.value) and "\n" not in str(caught.value)


def test_a_processor_of_something_else_is_refused(tmp_path, tiny_encoder):
    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 3}))
    with pytest.raises(ValueError, match="gives no size, mean and deviation"):
        BiplanarFeatures(str(folder))


def test_stored_features_become_two_tokens(tmp_path):
    paths = [tmp_path / f"case_xray_{n}.pt" for n in (1, 2)]
    stored = torch.rand(2, 1, 768)
    for path, token in zip(paths, stored, strict=True):
        torch.save(token, path)
    features = read_biplanar_features(*paths)
    assert features.shape == (1, 2, 768)
    assert torch.equal(features[0], stored[:, 0])


def test_stored_features_of_other_shapes_and_code_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match=r"x.pt does not exist"):
        read_biplanar_features(path, path)
    for content, match in (
        (torch.rand(768), r"holds \(768,\)"),
        ([1], "holds list"),
        ({"trap": Trap()}, "holds no tensor or is damaged"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=match):
            read_biplanar_features(path, path)
    for content in (pickle.dumps(Trap()), b".", b"\x80\x02X"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds no tensor or is damaged"):
            read_biplanar_features(path, path)
    assert not (tmp_path / "sprung").exists()


def test_features_are_found_in_a_case_folder(tmp_path):
    assert stored_features(tmp_path) is None
    assert stored_features(tmp_path / "case.pickle") is None
    stored = torch.rand(2, 1, 768)
    torch.save(stored[0], tmp_path / "LUNA16_0828_xray_1.pt")
    with pytest.raises(FileNotFoundError, match="LUNA16_0828_xray_2.pt"):
        stored_features(tmp_path)
    torch.save(stored[1], tmp_path / "LUNA16_0828_xray_2.pt")
    assert torch.equal(stored_features(tmp_path)[0], stored[:, 0])
    torch.save(stored[0], tmp_path / "other_xray_1.pt")
    with pytest.raises(ValueError, match="expected the features of one case"):
        stored_features(tmp_path)


def test_the_digest_tells_weights_apart(encoder, tiny_encoder):
    again = BiplanarFeatures(str(tiny_encoder))
    assert encoder.digest() == again.digest()
    other = BiplanarFeatures(str(tiny_encoder))
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    assert other.digest() != encoder.digest()
