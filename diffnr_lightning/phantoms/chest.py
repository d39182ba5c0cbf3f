"""Generated chest CT scans: an anthropomorphic thorax in HU, another for every seed, at any size.

The anatomy is continuous: signed distances, tubes and band-limited noise in body millimetres,
evaluated at voxel centres with edges as wide as a voxel. The same seed at another size is therefore
the same patient, scanned more finely. It shows what a chest CT shows (lungs with vessels, airways,
fissures and nodules, heart and great vessels with or without contrast agent, ribs, spine, shoulder
girdle, muscles, fat, upper abdomen), as a stand-in for patients, not as a model of any.
"""

from __future__ import annotations

import numpy as np

from diffnr_lightning.phantoms.anatomy import (
    ARM_END,
    ARM_MM,
    LEVELS,
    THORACIC_MM,
    Patient,
    Thorax,
    smooth_min,
)
from diffnr_lightning.phantoms.canvas import Canvas, Phantom, check_seed_and_size, inside, noise
from diffnr_lightning.phantoms.organs import (
    PHASES,
    abdomen,
    heart,
    liver_vessels,
    nodules,
    plaques,
    table,
)
from diffnr_lightning.phantoms.skeleton import rib_cage, shoulder_blades, shoulder_girdle, spine
from diffnr_lightning.phantoms.vessels import lung_trees, tree, trunks

HU_RANGE = (-1000.0, 2000.0)
WARP_MM = 1.4
CORTEX_MM = 1.3
# Amplitude of the fine texture by what a voxel holds: air, lung, fat, soft tissue.
TEXTURE_HU = (
    (-1000, 0),
    (-960, 4),
    (-870, 24),
    (-700, 24),
    (-300, 10),
    (-100, 6),
    (40, 7),
    (120, 9),
)
# Slices are painted a few at a time, so that what is computed on the way stays in the cache.
SLAB_VOXELS = 300_000


def chest(seed: int, size: int = 128, table_top: bool = False) -> Phantom:
    """Generate a chest CT scan.

    Array axes are the package's: z grows to the head, y to the back, x to the patient's left, so an
    axial slice shown with its first row on top lies as radiologists look at it (supine, seen from
    the feet).

    Args:
        seed: patient; equal seeds give equal patients at every size.
        size: voxels along each edge of the cube, at least 16.
        table_top: whether the patient lies on a couch top.

    Returns:
        A cube of 360 to 400 mm, float32 in HU from -1000 to 2000, named ``phantom_<seed>``.

    Raises:
        ValueError: a negative seed, or a size below 16.
    """
    check_seed_and_size(seed, size)
    # Every part draws from its own stream, so that a change of one leaves the others as they were.
    streams = np.random.SeedSequence(seed).spawn(8)
    patient_rng, warp_rng, coarse_rng, fine_rng, trunk_rng, tree_rng, finding_rng, liver_rng = (
        np.random.default_rng(stream) for stream in streams
    )
    patient = Patient.drawn(patient_rng)
    thorax = Thorax(patient)
    canvas = Canvas(size, _side_mm(thorax), _pose(patient), patient.offset_mm, WARP_MM, warp_rng)
    coarse = noise(coarse_rng, 15.0, canvas.axis_mm)
    bone = np.full_like(canvas.hu, 50.0)
    cartilage = np.zeros_like(canvas.hu)
    for start in range(0, size, max(1, SLAB_VOXELS // size**2)):
        stop = min(size, start + max(1, SLAB_VOXELS // size**2))
        _body(thorax, canvas, coarse, bone, cartilage, slice(start, stop))
    heart(thorax, canvas)
    _vessels(thorax, canvas, trunk_rng, tree_rng, liver_rng, finding_rng)
    nodules(thorax, canvas, finding_rng)
    canvas.hu += cartilage * (95.0 - canvas.hu)
    spine(thorax, canvas, bone)
    shoulder_girdle(thorax, canvas, bone)
    canvas.hu += inside(bone, canvas.edge) * (1080.0 * patient.bone - canvas.hu)
    fine = noise(fine_rng, 4.5, canvas.axis_mm) + np.float32(0.4) * coarse
    marrow = 190.0 * patient.bone + np.float32(28) * fine
    canvas.hu += inside(bone + CORTEX_MM, canvas.edge) * (marrow - canvas.hu)
    del bone, cartilage, marrow
    for layer, grain in zip(canvas.hu, fine, strict=True):
        layer += grain * np.interp(layer, *zip(*TEXTURE_HU, strict=True)).astype(np.float32)
    if table_top:
        back = float(thorax.axis_y(20.0)) + float(thorax.skin[len(LEVELS) // 2 + 10, :40].max())
        table(canvas, back + 6.0)
    np.clip(canvas.hu, *HU_RANGE, out=canvas.hu)
    return Phantom(
        array=np.ascontiguousarray(canvas.hu, dtype=np.float32),
        spacing_mm=(canvas.spacing_mm,) * 3,
        name=f"phantom_{seed}",
    )


def _side_mm(thorax: Thorax) -> float:
    """Return the edge of the cube that holds the patient from arm to arm, mm."""
    patient = thorax.patient
    trunk = float(thorax.skin[: 3 * len(LEVELS) // 4].max())
    arms = ARM_END[0] + ARM_MM + 0.5 * patient.fat_mm
    lean = abs(np.sin(np.deg2rad(patient.angles_deg[2]))) * 170
    half = max(trunk, arms) + lean + abs(patient.offset_mm[0]) + 17
    return float(np.clip(2 * half * patient.scale[0], 360, 400))


def _pose(patient: Patient) -> np.ndarray:
    """Return the (3, 3) map from world to body directions."""
    turn, tilt, lean = np.deg2rad(patient.angles_deg)
    about_z = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    about_y = np.array(
        [[np.cos(lean), 0, np.sin(lean)], [0, 1, 0], [-np.sin(lean), 0, np.cos(lean)]]
    )
    return np.diag(1 / np.array(patient.scale)) @ about_z @ about_x @ about_y


def _body(
    thorax: Thorax,
    canvas: Canvas,
    coarse: np.ndarray,
    bone: np.ndarray,
    cartilage: np.ndarray,
    rows: slice,
) -> None:
    """Paint body wall, lungs, abdomen and the fat between them in some axial slices.

    Args:
        thorax: the patient's shapes.
        canvas: painted in place.
        coarse: (Z, Y, X) slow noise.
        bone: (Z, Y, X) distance to bone, lowered in place.
        cartilage: (Z, Y, X) share of cartilage, set in place.
        rows: the slices.
    """
    edge, patient = canvas.edge, thorax.patient
    x, y, z = (c[rows].ravel() for c in (canvas.x, canvas.y, canvas.z))
    polar = thorax.polar(x, y, z)
    skin = thorax.wall(polar, "skin")
    arms = thorax.arms(x, y, z) if z.max() > 60 else np.full_like(x, 90)
    skin = smooth_min(skin, arms - 0.5 * patient.fat_mm - 2, 20.0)
    breasts = thorax.breasts(x, y, z) if patient.female else np.full_like(x, 90)
    skin = smooth_min(skin, breasts, 14.0)
    body = np.flatnonzero(skin < edge)
    if not len(body):
        return
    x, y, z, skin, breasts, arms, polar = (v[body] for v in (x, y, z, skin, breasts, arms, polar))
    slow = coarse[rows].ravel()[body]
    hu = np.where(skin > -2.0, np.float32(5), np.float32(-104))
    hu += inside(skin + 2.0, edge) * (-104 - hu)
    # Muscles are told apart by sheets of fat, glands lie in lumps: both follow the slow noise.
    sheets = np.exp(-((slow / 0.13) ** 2))
    glands = inside(breasts + 12, edge) * np.clip(2 * (slow - 0.1), 0, 1)
    hu += glands * (25 - hu)
    muscle = smooth_min(thorax.wall(polar, "muscle"), arms, 12.0)
    hu += inside(muscle, edge) * (57 - 95 * sheets * np.clip(-muscle / 8, 0, 1) - hu)
    cage = thorax.wall(polar, "cage")
    width = max(1.1, 0.5 * edge)
    plane = np.exp(-(((cage - 9 - 2 * slow) / width) ** 2)) * np.clip(-muscle / 6 - 0.5, 0, 1)
    hu += plane * (1.1 / width) * (-75 - hu)
    cavity = cage + 4.5
    within = np.flatnonzero(cavity < edge)
    hu[within] = _cavity(
        thorax, *(v[within] for v in (x, y, z, cage, hu, slow)), sheets[within], edge
    )
    near = np.flatnonzero(np.abs(cage) < 11)
    flat = bone[rows].reshape(-1)
    ribs, gristle = rib_cage(thorax, polar[near], x[near])
    flat[body[near]] = np.minimum(flat[body[near]], ribs)
    cartilage[rows].reshape(-1)[body[near]] = inside(gristle, edge)
    back = np.flatnonzero((polar.phi < 1.6) & (z > -30) & (z < 125) & (cage > 4))
    flat[body[back]] = np.minimum(flat[body[back]], shoulder_blades(thorax, polar[back]))
    target = canvas.hu[rows].reshape(-1)
    target[body] += inside(skin, edge) * (hu - target[body])


def _cavity(
    thorax: Thorax,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    cage: np.ndarray,
    hu: np.ndarray,
    slow: np.ndarray,
    sheets: np.ndarray,
    edge: float,
) -> np.ndarray:
    """Return the HU of points (N,) inside the ribs: neck, fat, discs, canal, abdomen, lungs."""
    patient = thorax.patient
    cavity = cage + 4.5
    neck = np.clip((z - 92) / 25, 0, 1)
    filled = -98 + neck * (150 - 70 * sheets)
    hu = hu + inside(cavity, edge) * (filled - hu)
    below = (thorax.diaphragm(x, y) - z) * 0.75
    low = np.flatnonzero(below > -edge)
    organs = abdomen(thorax, x[low], y[low], z[low], cavity[low], below[low], edge)
    hu[low] += inside(np.maximum(cavity[low], -below[low]), edge) * (organs - hu[low])
    grown = np.interp(z, THORACIC_MM[13::-1], np.linspace(1, 0, 14)).astype(np.float32)
    column = np.interp(z, LEVELS, thorax.spine_y(LEVELS)).astype(np.float32)
    depth = 11 + 5 * grown
    disc = np.hypot(x * (depth / (13.5 + 7 * grown)), y - column) - depth
    hu += inside(disc, edge) * (82 - hu)
    canal = np.hypot(x / 1.1, y - column - depth - 8.5)
    hu += inside(canal - 8.5, edge) * (14 - hu)
    hu += inside(np.hypot(x / 1.3, y - column - depth - 8.5) - 4.5, edge) * (40 - hu)
    lung = thorax.lung(x, y, z, cage)
    air = patient.lung_hu + 0.3 * y + 14 * slow
    # Oblique fissure of both lungs, horizontal fissure of the right one: sheets of half a
    # millimetre, bulging a little.
    oblique = 0.667 * (y + 2) - 0.745 * (z - 5) + 5 * slow
    for sheet, there in (
        (oblique, np.abs(x) > 20),
        (z - 6 + 0.12 * y - 4 * slow, (x < -30) & (oblique < 0)),
    ):
        share = np.clip(1 - np.abs(sheet) / edge, 0, 1) * min(1.0, 0.5 / edge) * there
        air += share * (30 - air)
    return hu + inside(lung, edge) * (air - hu)


def _vessels(
    thorax: Thorax,
    canvas: Canvas,
    trunk_rng: np.random.Generator,
    tree_rng: np.random.Generator,
    liver_rng: np.random.Generator,
    finding_rng: np.random.Generator,
) -> None:
    """Paint vessels, airways and oesophagus, and the aorta's plaques."""
    tissue = PHASES[thorax.patient.phase]
    paths = trunks(thorax, trunk_rng)
    grown = lung_trees(thorax, tree_rng)
    portal = np.array([-25.0, 6.0, -135.0])
    ends = liver_rng.uniform((-120, -60, -190), (10, 50, -70), (60, 3))
    liver_vessels(canvas, tree(portal, ends, 1.7, liver_rng), tissue["liver vessel"])
    share = np.empty_like(canvas.hu)
    layers = [
        (paths["oesophagus"], 0.0, 42.0),
        *(
            (paths[name] + grown.get(name, []), 0.0, tissue[name])
            for name in ("vein", "lung vein", "lung artery", "artery")
        ),
        (paths["airway"], 1.6, 35.0),
        (grown["airway"], 0.7, -150.0),
        (paths["airway"] + grown["airway"], 0.0, -1000.0),
    ]
    for branches, wall, hu in layers:
        share.fill(0)
        canvas.tubes(share, branches, wall)
        canvas.hu += share * (hu - canvas.hu)
    plaques(thorax, canvas, paths["artery"][0], finding_rng)
