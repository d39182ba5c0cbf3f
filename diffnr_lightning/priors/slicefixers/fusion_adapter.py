"""CrossAttnFusionAdapter: tells the text embedding what two projections show."""

from __future__ import annotations

from torch import Tensor, nn


class CrossAttnFusionAdapter(nn.Module):
    """Cross-attention from the text's tokens to those of the projections.

        context = LayerNorm(text + Attention(query=text, key=value=Linear(xray)))

    It is not the identity before training: of text that is given nothing new, the norm remains.

    Args:
        text_dim: length of a text token.
        xray_dim: length of a projection's token.
        heads: of the attention; divides text_dim.

    Raises:
        ValueError: text_dim that the heads do not divide.

    Source: DiffNR, Fig. 2 (the "Cross Attn" block) and the released code, layer by layer: 4,987,904
        parameters at (1024, 768, 8), of these names.
    """

    def __init__(self, text_dim: int = 1024, xray_dim: int = 768, heads: int = 8) -> None:
        super().__init__()
        if heads < 1 or text_dim % heads:
            raise ValueError(
                f"text_dim is {text_dim} and heads {heads}; expected heads that divide text_dim."
            )
        self.xray_proj = nn.Linear(xray_dim, text_dim)
        self.cross_attn = nn.MultiheadAttention(text_dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(text_dim)

    def forward(self, text: Tensor, xray: Tensor) -> Tensor:
        """Fuse text with projections.

        Args:
            text: (1 or N, L, text_dim), embedding of the prompt.
            xray: (N, 2, xray_dim), one token for each projection.

        Returns:
            (N, L, text_dim).
        """
        tokens = self.xray_proj(xray)
        text = text.expand(len(xray), -1, -1)
        attended, _ = self.cross_attn(text, tokens, tokens, need_weights=False)
        return self.norm(text + attended)
