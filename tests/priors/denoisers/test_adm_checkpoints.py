"""Networks with the layout and the names of ADM, written from the paper's description, and their conversion."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffnr_lightning.priors import load_denoiser, save_denoiser
from diffnr_lightning.priors.denoisers.adm_checkpoints import read_adm_checkpoint, unet_of_adm

BASE = 32


class Residual(nn.Module):
    """A residual block, which may halve or double the size before its first convolution."""

    def __init__(self, inputs, outputs, scale_shift, resize=None):
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(4 * BASE, outputs * (2 if scale_shift else 1))
        )
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip_connection = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def resized(self, x):
        if self.resize == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resize == "up" else x

    def forward(self, x, embedding):
        h = self.in_layers[2](self.resized(self.in_layers[1](self.in_layers[0](x))))
        e = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[3](self.out_layers[1](h))
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(self.resized(x)) + h


class Attention(nn.Module):
    def __init__(self, width, head, new_order):
        super().__init__()
        self.head, self.new_order = head, new_order
        self.norm = nn.GroupNorm(32, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x, embedding):
        count, width, *size = x.shape
        heads = width // self.head
        qkv = self.qkv(self.norm(x.flatten(2)))
        if self.new_order:
            q, k, v = (part.reshape(count * heads, self.head, -1) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(count * heads, 3 * self.head, -1).split(self.head, dim=1)
        weights = torch.softmax(torch.einsum("nct,ncs->nts", q, k) / math.sqrt(self.head), dim=-1)
        found = torch.einsum("nts,ncs->nct", weights, v).reshape(count, width, -1)
        return x + self.proj_out(found).reshape(count, width, *size)


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x, embedding):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, embedding):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class First(nn.Conv2d):
    def forward(self, x, embedding):
        return super().forward(x)


class Adm(nn.Module):
    """Two levels; attention on the coarse one and in the middle."""

    def __init__(self, updown=True, scale_shift=True, new_order=False, classes=None, layers=1):
        super().__init__()

        def residual(inputs, outputs, resize=None):
            return Residual(inputs, outputs, scale_shift, resize)

        def attention():
            return Attention(2 * BASE, 32, new_order)

        self.time_embed = nn.Sequential(
            nn.Linear(BASE, 4 * BASE), nn.SiLU(), nn.Linear(4 * BASE, 4 * BASE)
        )
        if classes:
            self.label_emb = nn.Embedding(classes, 4 * BASE)
        blocks, widths, width = [[First(1, BASE, 3, padding=1)]], [BASE], BASE
        for level, wide in enumerate((BASE, 2 * BASE)):
            for _ in range(layers):
                blocks.append([residual(width, wide), *([attention()] if level else [])])
                width = wide
                widths.append(width)
            if level == 0:
                blocks.append([residual(width, width, "down") if updown else Down(width)])
                widths.append(width)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.middle_block = nn.ModuleList(
            [residual(width, width), attention(), residual(width, width)]
        )
        blocks = []
        for level, wide in ((1, 2 * BASE), (0, BASE)):
            for layer in range(layers + 1):
                parts = [residual(width + widths.pop(), wide), *([attention()] if level else [])]
                width = wide
                if level and layer == layers:
                    parts.append(residual(width, width, "up") if updown else Up(width))
                blocks.append(parts)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.out = nn.Sequential(
            nn.GroupNorm(32, BASE), nn.SiLU(), nn.Conv2d(BASE, 2, 3, padding=1)
        )

    def forward(self, x, step, label=None):
        rates = torch.exp(-math.log(1e4) * torch.arange(BASE // 2) / (BASE // 2))
        angles = step[:, None] * rates
        embedding = self.time_embed(torch.cat((angles.cos(), angles.sin()), dim=1))
        embedding = embedding if label is None else embedding + self.label_emb(label)
        skips = []
        for block in self.input_blocks:
            for part in block:
                x = part(x, embedding)
            skips.append(x)
        for part in self.middle_block:
            x = part(x, embedding)
        for block in self.output_blocks:
            x = torch.cat((x, skips.pop()), dim=1)
            for part in block:
                x = part(x, embedding)
        return self.out(x)


@pytest.mark.parametrize(
    "options",
    [{"classes": 5}, {"new_order": True, "layers": 2}, {"updown": False, "scale_shift": False}],
    ids=str,
)
def test_the_converted_network_computes_the_same(options):
    torch.manual_seed(0)
    adm = Adm(**options).eval()
    unet = unet_of_adm(
        adm.state_dict(), head_channels=32, new_attention_order=options.get("new_order", False)
    ).eval()
    x, step = torch.randn(2, 1, 16, 16), torch.tensor([3, 700])
    label = torch.tensor([1, 3]) if options.get("classes") else None
    with torch.no_grad():
        expected, found = adm(x, step, label), unet(x, step, class_labels=label).sample
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_checkpoint_becomes_a_denoiser_and_a_pipeline(tmp_path):
    torch.manual_seed(0)
    adm = Adm()
    torch.save({"iterations": 3, "state_dict": adm.state_dict()}, tmp_path / "adm.pt")
    denoiser = read_adm_checkpoint(tmp_path / "adm.pt", head_channels=32, scale=(0, 1))
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        # The second channel is the variance.
        expected = adm(x, torch.tensor([40]))[:, :1]
    torch.testing.assert_close(denoiser.predict(x, 40), expected, rtol=1e-4, atol=1e-5)
    save_denoiser(tmp_path / "pipeline", denoiser)
    again = load_denoiser(tmp_path / "pipeline")
    assert again.scale == (0, 1)
    torch.testing.assert_close(again.predict(x, 40), expected, rtol=0.02, atol=0.02)


def spoiled(change):
    state = dict(Adm().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: {"shadow_params": [torch.zeros(1)], "decay": 0.9}, "without names"),
        (lambda: {"all_modules.0.weight": torch.zeros(2, 2)}, "has no weight input_blocks.0.0"),
        (lambda: [1, 2], "holds no weights by name"),
        (
            lambda: spoiled(
                lambda s: s.update({"input_blocks.1.0.encoder_kv.weight": s["out.0.weight"]})
            ),
            "encoder_kv.weight has no place",
        ),
        (lambda: spoiled(lambda s: s.pop("middle_block.1.norm.weight")), "Missing key"),
        (lambda: spoiled(lambda s: s.pop("time_embed.0.weight")), "time_embed.0.weight"),
    ],
)
def test_other_files_are_refused_in_one_sentence(content, words, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(content(), path)
    with pytest.raises(ValueError, match=words) as error:
        read_adm_checkpoint(path, head_channels=32)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="heads of 48 channels"):
        unet_of_adm(Adm().state_dict(), head_channels=48)


@pytest.mark.parametrize("content", [b"", b".", b"\x80\x02X", b"<html>"])
def test_damaged_files_are_refused_by_name(content, tmp_path):
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.pt cannot be read without running code"):
        read_adm_checkpoint(path)


def test_weights_without_names_are_refused(tmp_path):
    torch.save({0: torch.zeros(3)}, tmp_path / "numbers.pt")
    with pytest.raises(ValueError, match="holds no weights by name"):
        read_adm_checkpoint(tmp_path / "numbers.pt")
    state = Adm().state_dict() | {"input_blocks.0.0.weight": torch.zeros(32)}
    torch.save(state, tmp_path / "flat.pt")
    with pytest.raises(ValueError, match="is no ADM network"):
        read_adm_checkpoint(tmp_path / "flat.pt", head_channels=32)


def test_a_pickle_with_code_is_not_run(tmp_path):
    torch.save(Adm(), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="without running code"):
        read_adm_checkpoint(tmp_path / "module.pt")
