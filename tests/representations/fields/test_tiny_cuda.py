"""tiny-cuda-nn's modules with weights of ours: on a stand-in of the package, and on a GPU beside it."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.representations import NeuralField
from diffnr_lightning.representations.fields.hash_encoding import HashEncoding
from diffnr_lightning.representations.fields.plain_network import PlainNetwork
from diffnr_lightning.representations.fields.tiny_cuda import flat_weights

GRID = VolumeGrid((10, 12, 11), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(4),
    source_to_axis_mm=140.0,
    source_to_detector_mm=200.0,
    detector_shape=(9, 9),
    pixel_mm=4.0,
)
SMALL = {"levels": 8, "base": 4, "growth": 1.4, "table": 12, "samples": 16, "width": 16}


@pytest.fixture
def package(monkeypatch):
    """A stand-in that reads flat parameters as the package's documentation and matrices say."""
    made = []

    class Encoding(torch.nn.Module):
        def __init__(self, dimensions, options, dtype):
            super().__init__()
            assert dimensions == 3 and dtype == torch.float32
            self.ours = HashEncoding(
                options["n_levels"],
                options["n_features_per_level"],
                options["base_resolution"],
                options["per_level_scale"],
                options["log2_hashmap_size"],
                backend="reference",
            )
            self.params = torch.nn.Parameter(torch.zeros(self.ours.table.numel()))
            made.append(options)

        def forward(self, points):
            table = {"table": self.params.view(-1, self.ours.features)}
            return torch.func.functional_call(self.ours, table, (2 * points - 1,))

    class Network(torch.nn.Module):
        """Multiplies whole rows of 16 outputs, in half precision, as the fused kernels do."""

        def __init__(self, inputs, outputs, options):
            super().__init__()
            width = options["n_neurons"]
            assert options["activation"] == "LeakyReLU" and inputs % 16 == 0
            hidden = [(width, inputs), *[(width, width)] * (options["n_hidden_layers"] - 1)]
            self.shapes, self.outputs = [*hidden, (16, width)], outputs
            self.params = torch.nn.Parameter(torch.zeros(sum(a * b for a, b in self.shapes)))
            made.append(options)

        def forward(self, values):
            parts = self.params.split([a * b for a, b in self.shapes])
            for number, (part, shape) in enumerate(zip(parts, self.shapes, strict=True)):
                values = values.half() @ part.view(shape).half().T
                if number < len(self.shapes) - 1:
                    values = F.leaky_relu(values)
            return values[:, : self.outputs]

    module = types.SimpleNamespace(Encoding=Encoding, Network=Network)
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    return made


def field(**options):
    made = NeuralField(GRID, **{**SMALL, **options})
    made.initialise(torch.full(GRID.shape, 0.2), None, SCAN, seed=3)
    return made


def test_a_plain_field_is_the_same_by_the_package(package):
    ours = field(network="plain")
    fused = field(network="plain", backend="tinycudann")
    assert list(ours.state_dict()) == list(fused.state_dict())
    with torch.no_grad():
        ours.encoding.table.uniform_(-1, 1)
    fused.load_state_dict(ours.state_dict())
    images = [made.eval().render(SCAN) for made in (ours, fused)]
    # Half precision knows three digits.
    torch.testing.assert_close(images[1], images[0], rtol=3e-3, atol=3e-2)
    found = [
        torch.autograd.grad(image.square().sum(), list(made.parameters()))
        for image, made in zip(images, (ours, fused), strict=True)
    ]
    for one, other in zip(*found, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.02 * one.norm()
    encoding, network = package
    assert encoding["n_levels"] == 8 and encoding["per_level_scale"] == 1.4
    assert network == {
        "otype": "FullyFusedMLP",
        "activation": "LeakyReLU",
        "output_activation": "None",
        "n_neurons": 16,
        "n_hidden_layers": 3,
    }


def test_a_plain_field_begins_at_the_mean_and_learns_all_its_parameters():
    made = field(network="plain")
    with torch.no_grad():
        assert float(made.query(GRID).mean()) == pytest.approx(0.2, abs=0.02)
    grouped = [p for group in made.parameter_groups() for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in made.parameters()}
    made.render(SCAN).sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    # NAF's own network with the package's encoding keeps its biases.
    assert len(list(field().layers.parameters())) == 8


def test_weights_are_flat_row_by_row():
    weights = [torch.arange(6.0).view(2, 3), torch.arange(2.0).view(1, 2) + 10]
    flat = flat_weights(weights)
    assert flat[:8].tolist() == [0, 1, 2, 3, 4, 5, 10, 11]
    assert len(flat) == 6 + 16 * 2 and not flat[8:].any()


def test_what_the_package_does_not_have_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="width is 24"):
        PlainNetwork(32, 24, fused=True)
    with pytest.raises(ValueError, match="levels times features are 12"):
        NeuralField(GRID, network="plain", backend="tinycudann", **{**SMALL, "levels": 6})
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(ImportError, match=r"environment.yml says how it is built"):
        field(network="plain", backend="tinycudann").render(SCAN)


@pytest.mark.gpu
@pytest.mark.parametrize("network", ["naf", "plain"])
def test_the_package_agrees_with_the_reference(network):
    pytest.importorskip("tinycudann")
    wide = {**SMALL, "levels": 16, "width": 32}
    ours, native = (
        field(**wide, network=network, backend=name).cuda().eval()
        for name in ("reference", "tinycudann")
    )
    with torch.no_grad():
        ours.encoding.table.uniform_(-1, 1)
    native.load_state_dict(ours.state_dict())
    images = [made.render(SCAN) for made in (ours, native)]
    assert (images[1] - images[0]).norm() < 0.005 * images[0].norm()
    found = [
        torch.autograd.grad(image.square().sum(), list(made.parameters()))
        for image, made in zip(images, (ours, native), strict=True)
    ]
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < 0.03 * one.norm()
