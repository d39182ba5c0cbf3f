from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffnr_lightning.priors import CrossAttnFusionAdapter

SHAPES = {
    "xray_proj.weight": (1024, 768),
    "xray_proj.bias": (1024,),
    "cross_attn.in_proj_weight": (3072, 1024),
    "cross_attn.in_proj_bias": (3072,),
    "cross_attn.out_proj.weight": (1024, 1024),
    "cross_attn.out_proj.bias": (1024,),
    "norm.weight": (1024,),
    "norm.bias": (1024,),
}


def test_names_shapes_and_number_are_those_of_the_released_code():
    with torch.device("meta"):
        adapter = CrossAttnFusionAdapter()
    assert {name: tuple(p.shape) for name, p in adapter.named_parameters()} == SHAPES
    assert sum(p.numel() for p in adapter.parameters()) == 4_987_904


def test_attends_from_text_to_projections_and_adds():
    torch.manual_seed(0)
    adapter = CrossAttnFusionAdapter(16, 24, heads=4)
    text, xray = torch.randn(1, 5, 16), torch.randn(3, 2, 24)
    fused = adapter(text, xray)
    assert fused.shape == (3, 5, 16)
    state = dict(adapter.named_parameters())
    shown = xray @ state["xray_proj.weight"].T + state["xray_proj.bias"]
    weights = state["cross_attn.in_proj_weight"].chunk(3)
    biases = state["cross_attn.in_proj_bias"].chunk(3)
    query, key, value = (
        (given @ weight.T + bias).unflatten(2, (4, 4)).transpose(1, 2)
        for given, weight, bias in zip(
            (text.expand(3, -1, -1), shown, shown), weights, biases, strict=True
        )
    )
    attended = torch.softmax(query @ key.transpose(2, 3) / 2, dim=-1) @ value
    attended = attended.transpose(1, 2).flatten(2)
    attended = attended @ state["cross_attn.out_proj.weight"].T + state["cross_attn.out_proj.bias"]
    torch.testing.assert_close(fused, F.layer_norm(text + attended, (16,)), atol=1e-5, rtol=1e-5)


def test_the_order_of_the_projections_does_not_matter():
    torch.manual_seed(0)
    adapter = CrossAttnFusionAdapter(16, 24, heads=2)
    text, xray = torch.randn(1, 5, 16), torch.randn(1, 2, 24)
    torch.testing.assert_close(adapter(text, xray), adapter(text, xray.flip(1)))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="text_dim is 20 and heads 8"):
        CrossAttnFusionAdapter(20, 24)
