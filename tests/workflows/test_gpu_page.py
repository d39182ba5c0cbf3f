"""What docs/gpu.md states of memory and time is what is predicted."""

import re

from peak_memory import scan_of

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.priors import CompactDenoiser, PatchDenoiser, load_default, save_denoiser
from diffnr_lightning.priors.denoisers import denoiser_folders
from diffnr_lightning.priors.slicefixers.memory import Load
from diffnr_lightning.triton_kernels import CARDS
from diffnr_lightning.workflows import doctor
from diffnr_lightning.workflows.command_line.config_files import config_files
from diffnr_lightning.workflows.command_line.settings import configured
from diffnr_lightning.workflows.machine import estimate, memory


def rows_of_slices(repository):
    """Yield words of docs/gpu.md for a prior and the GiB that it states at 256^2 and at 512^2."""
    page = (repository / "docs/gpu.md").read_text(encoding="utf-8")
    table = page.partition("| slices at once |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        yield what, *cells


def test_the_page_states_what_slices_take(repository):
    rows = list(rows_of_slices(repository))
    assert len(rows) == 4
    for what, *stated in rows:
        count, words = int(what.split(",")[0]), what.split("`")
        for edge, gib in zip((256, 512), stated, strict=True):
            needed = load_default().repair_bytes(count, edge, edge)
            if "compact" not in what:
                options = dict(word.split(": ") for word in words[1::2])
                tile = int(options["tile"]) if "tile" in options else None
                load = Load(count, edge**2, precision=options["precision"], tile=tile)
                needed = load.counted_bytes()
            assert f"{estimate.MARGIN * needed / 2**30:.1f}" == gib, (what, edge)


def rows_of_the_page(repository):
    """Yield configs and the GiB that docs/gpu.md states for them, at 256^3 and at 512^3."""
    base = ""
    for line in (repository / "docs/gpu.md").read_text(encoding="utf-8").splitlines():
        what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        names = re.findall("`([^`]+)`", what)
        if line.startswith("| the same with"):
            yield f"{base}+{names[0]}", *cells[:2]
        elif line.startswith("| `reconstruct"):
            base = names[-1]
            yield from ((name, *cells[:2]) for name in names)


def test_the_page_states_what_is_predicted(repository):
    rows = list(rows_of_the_page(repository))
    assert len(rows) > 12
    for names, *stated in rows:
        files = [file for name in names.split("+") for file in config_files(name)]
        given = configured(doctor, files, {}).arguments
        for size, gib in zip((256, 512), stated, strict=True):
            needed = memory.estimate(
                given["method"],
                VolumeGrid((size,) * 3, 1.0),
                scan_of(size, 36),
                weighted=given["weights"] == "auto",
            )
            assert f"{needed.peak / 2**30:.1f}" == gib, (names, size)
            # The paper's settings fit a card of 24 GB.
            assert estimate.CONTEXT < needed.peak < 24e9
            assert 0 < needed.seconds(CARDS[2]) < needed.seconds(CARDS[0])


def test_the_page_states_what_samplers_need(repository, tmp_path, monkeypatch):
    """With networks of the size of the package's, whatever they learned."""
    for name in ("slices", "ellipses"):
        save_denoiser(tmp_path / name, CompactDenoiser())
    save_denoiser(tmp_path / "patches", PatchDenoiser())
    monkeypatch.setattr(denoiser_folders, "BUNDLED", tmp_path)
    page = (repository / "docs/gpu.md").read_text(encoding="utf-8")
    table = page.partition("| sampler |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len(rows[2:]) > 4
    for name, *gib, old, new in rows[2:]:
        given = configured(doctor, config_files(name.strip("`")), {}).arguments
        for size, stated in zip((256, 512), gib, strict=True):
            needed = memory.estimate(
                given["method"], VolumeGrid((size,) * 3, 1.0), scan_of(size, 36), weighted=True
            )
            assert f"{needed.peak / 2**30:.1f}" == stated, (name, size)
            if size == 256:
                assert [old, new] == [f"{needed.seconds(c):.0f} s" for c in (CARDS[0], CARDS[2])]
