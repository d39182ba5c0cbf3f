"""Generated specimens: objects unlike bodies, in which a prior learns to believe the projections.

Fibres, foams, grains, porous stone, nested shells and machined parts, of a few materials each, in
pieces with air around them or cut from a larger block. Like the generated chests they are painted
in millimetres with edges as wide as a voxel, so a seed is the same specimen at every size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from diffnr_lightning.phantoms.canvas import Canvas, Phantom, check_seed_and_size, inside, noise

SIDE_MM = 200.0
AIR_HU, METAL_HU = -1000.0, 1024.0
# From wood and resin to bone and aluminium.
SOLID_HU = (-600.0, 700.0)
# The ball around the cube, however it is turned.
FARTHEST_MM = 0.5 * SIDE_MM * 3**0.5
BALL_MM3 = 4 / 3 * np.pi * FARTHEST_MM**3


def specimen(seed: int, size: int = 128) -> Phantom:
    """Generate a specimen; consecutive seeds take turns between the kinds.

    Args:
        seed: of the specimen; equal seeds give the same one at every size.
        size: voxels along each edge of the cube, at least 16.

    Returns:
        A cube of 200 mm, float32 in HU from -1000 to 1024, named ``specimen_<seed>``.

    Raises:
        ValueError: a negative seed, or a size below 16.
    """
    check_seed_and_size(seed, size)
    pose_rng, rng, texture_rng = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(3)
    )
    pose = Rotation.random(random_state=pose_rng).as_matrix()
    canvas = Canvas(size, SIDE_MM, pose, (0, 0, 0), pose_rng.uniform(0, 4), pose_rng)
    kind_of(seed)(canvas, rng)
    # Measured volumes have the sharpness of their scanner.
    blur_mm = texture_rng.uniform(0, 1.5)
    ndimage.gaussian_filter(canvas.hu, blur_mm / canvas.spacing_mm, output=canvas.hu)
    grain = noise(texture_rng, 3.0, canvas.axis_mm) * np.float32(texture_rng.uniform(0, 25))
    canvas.hu += grain * np.clip((canvas.hu - AIR_HU) / 500, 0, 1)
    np.clip(canvas.hu, AIR_HU, METAL_HU, out=canvas.hu)
    return Phantom(
        array=canvas.hu,
        spacing_mm=(canvas.spacing_mm,) * 3,
        name=f"specimen_{seed}",
    )


def _fibres(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint bent fibres of one thickness, in all directions or in layers, bare or in resin."""
    radius = np.exp(rng.uniform(np.log(1.3), np.log(6)))
    length = rng.uniform(60, 250)
    filled = rng.uniform(0.05, 0.3)
    count = min(1500, int(filled * BALL_MM3 / (np.pi * radius**2 * length)))
    flat = rng.choice([0.15, 0.5, 1.0])
    directions = rng.standard_normal((count, 3)) * (1, 1, flat)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    paths = []
    for direction in directions:
        bend = rng.normal(0, 0.15, (8, 3)).cumsum(axis=0)
        steps = (direction + bend) * length / 8
        points = _anywhere(rng) + np.cumsum(steps, axis=0) - steps.sum(axis=0) / 2
        paths.append((points, np.full(8, radius)))
    share = np.zeros_like(canvas.hu)
    canvas.tubes(share, paths)
    piece = _piece(canvas, rng)
    matrix = AIR_HU if rng.random() < 0.5 else rng.uniform(-900, 0)
    canvas.hu += piece * (matrix - canvas.hu)
    canvas.hu += share * piece * (_solid(rng, above=matrix + 250) - canvas.hu)


def _foam(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a solid full of round holes."""
    piece = _piece(canvas, rng)
    canvas.hu += piece * (_solid(rng) - canvas.hu)
    _balls(canvas, rng, [AIR_HU], filled=rng.uniform(0.1, 0.7))


def _grains(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint ellipsoids of a few materials, loose or in a cup of something lighter."""
    materials = [_solid(rng) for _ in range(rng.integers(1, 4))]
    if rng.random() < 0.3:
        materials.append(METAL_HU)
    _balls(canvas, rng, materials, filled=rng.uniform(0.15, 0.8))
    piece = _piece(canvas, rng)
    canvas.hu[:] = AIR_HU + piece * (canvas.hu - AIR_HU)


def _stone(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint slow noise cut at thresholds: pores, struts or veins of one to three materials."""
    cell = np.exp(rng.uniform(np.log(5), np.log(25)))
    field = noise(rng, cell, canvas.axis_mm)
    if rng.random() < 0.4:
        field = np.abs(field) - 0.8
    piece = _piece(canvas, rng)
    canvas.hu += piece * (rng.choice([AIR_HU, _solid(rng)]) - canvas.hu)
    for threshold in np.sort(rng.uniform(-0.8, 1.0, rng.integers(1, 4))):
        # The field changes by about one from one structure to the next, two cells away.
        share = inside((threshold - field) * cell, canvas.edge) * piece
        canvas.hu += share * (_solid(rng) - canvas.hu)


def _shells(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint shells in shells, some hollow and thin, with lumps in them."""
    axes, power = rng.uniform(45, 95, 3), rng.uniform(2, 6)
    while axes.min() > 8:
        share = inside(_rounded_box(canvas, (0, 0, 0), axes, power), canvas.edge)
        hollow = rng.random() < 0.35
        canvas.hu += share * ((AIR_HU if hollow else _solid(rng)) - canvas.hu)
        axes = axes - np.exp(rng.uniform(np.log(2), np.log(25)))
    for _ in range(rng.integers(0, 10)):
        lump = rng.uniform(3, 15, 3)
        share = inside(_rounded_box(canvas, rng.uniform(-50, 50, 3), lump, 2), canvas.edge)
        material = rng.choice([AIR_HU, _solid(rng), _solid(rng), METAL_HU])
        canvas.hu += share * (material - canvas.hu)


def _parts(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint blocks, plates and rods, drilled through and pinned with metal."""
    for _ in range(rng.integers(3, 9)):
        axes = np.exp(rng.uniform(np.log(3), np.log(70), 3))
        share = inside(
            _rounded_box(canvas, rng.uniform(-45, 45, 3), axes, rng.choice([2, 20])), canvas.edge
        )
        canvas.hu += share * (_solid(rng) - canvas.hu)
    for _ in range(rng.integers(2, 12)):
        centre, along = rng.uniform(-50, 50, 3), rng.standard_normal(3)
        reach = along / np.linalg.norm(along) * rng.uniform(15, 90)
        share = np.zeros_like(canvas.hu)
        canvas.tubes(share, [(np.array([centre - reach, centre + reach]), rng.uniform(1.5, 9, 2))])
        material = AIR_HU if rng.random() < 0.6 else rng.choice([METAL_HU, _solid(rng)])
        canvas.hu += share * (material - canvas.hu)


KINDS: tuple[Callable[[Canvas, np.random.Generator], None], ...] = (
    _fibres,
    _shells,
    _foam,
    _parts,
    _stone,
    _grains,
)


def kind_of(seed: int) -> Callable[[Canvas, np.random.Generator], None]:
    """Return what paints a seed's specimen: kinds take turns, in every round beginning one further.

    So whatever takes turns by number too, such as the methods of a curation, meets every kind.
    """
    return KINDS[(seed + seed // len(KINDS)) % len(KINDS)]


def _solid(rng: np.random.Generator, above: float = SOLID_HU[0]) -> float:
    """Return the HU of a material that is no air."""
    return rng.uniform(min(above, SOLID_HU[1] - 100), SOLID_HU[1])


def _anywhere(rng: np.random.Generator) -> np.ndarray:
    """Return a point (3,) x, y, z, mm, evenly drawn from the ball around the cube."""
    direction = rng.standard_normal(3)
    return direction / np.linalg.norm(direction) * FARTHEST_MM * rng.random() ** (1 / 3)


def _piece(canvas: Canvas, rng: np.random.Generator) -> np.ndarray | np.float32:
    """Return the share (Z, Y, X) of each voxel in the specimen's outline, or 1 where it is cut from a block."""
    if rng.random() < 0.3:
        return np.float32(1)
    axes = rng.uniform(50, 95, 3)
    return inside(_rounded_box(canvas, (0, 0, 0), axes, rng.choice([2, 4, 20])), canvas.edge)


def _rounded_box(canvas: Canvas, centre: np.ndarray, axes: np.ndarray, power: float) -> np.ndarray:
    """Return about the signed distance (mm) to a superellipsoid: an ellipsoid at power 2, a box at 20."""
    scaled = [
        np.abs(place - at) / axis
        for place, at, axis in zip((canvas.x, canvas.y, canvas.z), centre, axes, strict=True)
    ]
    farthest = np.maximum(np.maximum(*scaled[:2]), scaled[2]) + np.float32(1e-6)
    # The largest is taken out of the sum, whose powers would overflow.
    norm = farthest * sum((part / farthest) ** power for part in scaled) ** (1 / power)
    return (norm - 1) * np.float32(axes.min())


def _balls(canvas: Canvas, rng: np.random.Generator, materials: list[float], filled: float) -> None:
    """Paint balls and ellipsoids of one size, more or less, until they would fill a share of all space."""
    typical = np.exp(rng.uniform(np.log(5), np.log(20)))
    spread, squeeze = rng.uniform(0, 0.5), rng.uniform(0.5, 1)
    volume = 0.0
    while volume < filled * BALL_MM3:
        radius = typical * np.exp(spread * rng.standard_normal())
        centre = _anywhere(rng)
        axes = radius * rng.uniform(squeeze, 1, 3)
        material = materials[rng.integers(len(materials))]
        volume += 4 / 3 * np.pi * axes.prod()
        box = canvas.ball_box(tuple(centre), radius + canvas.edge)
        if box is None:
            continue
        near = [
            (place - at) / axis
            for place, at, axis in zip(canvas.at(box), centre, axes, strict=True)
        ]
        distance = (np.sqrt(sum(part**2 for part in near)) - 1) * axes.min()
        canvas.blend(box, inside(distance, canvas.edge), material)
