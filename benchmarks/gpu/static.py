"""Say what every Triton kernel costs without a GPU: compiled for four architectures, and put on a roofline.

    python benchmarks/gpu/static.py [--architectures 80,86,90,100] [--write]

Every launch that the kernels describe (`triton_kernels.PaperLaunch`) is compiled; ``ptxas`` of the wheel
reports registers, spills and shared memory. Bytes and operations come from shapes, as the modules of the
kernels argue. The roofline is the longer of bytes over the card's bandwidth and operations over its
float32 rate, and what is expected of a kernel is three times that and a gap for each launch: an assumption
until a card is measured (`everything.py`). ``--write`` puts the tables into ``benchmarks/README.md`` and
``benchmarks/results/static.json``. Ends with 1 where a kernel spills registers.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

if os.environ.get("TRITON_INTERPRET") == "1":
    sys.exit("TRITON_INTERPRET is 1, which interprets kernels instead of compiling them; unset it.")
# Triton 3.9 announces another default; kernels are launched with fused multiply-adds.
warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import get_ptxas  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from diffnr_lightning.triton_kernels import CARDS, Card, PaperLaunch, triton_modules  # noqa: E402

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
RESULTS = HERE.parent / "results" / "static.json"
BEGIN, END = "<!-- static: begin -->", "<!-- static: end -->"


class Multiprocessor(NamedTuple):
    """What programs share on one multiprocessor.

    Source: CUDA C++ Programming Guide, technical specifications per compute capability.
    """

    warps: int
    programs: int
    shared: int
    registers: int = 65536


MULTIPROCESSORS = {
    80: Multiprocessor(64, 32, 164 << 10),
    86: Multiprocessor(48, 16, 100 << 10),
    90: Multiprocessor(64, 32, 228 << 10),
    100: Multiprocessor(64, 32, 228 << 10),
}
_PTXAS = ("-lineinfo", "--regAllocOptLevel=2")  # what Triton itself gives to ptxas
_REGISTERS_AT_ONCE = 256  # a warp's registers are allotted in units of so many
_SHARED_OF_A_PROGRAM = 1024  # taken by the system, from compute capability 8.0

# A kernel of this kind reaches a third of its roofline or more, and the next starts so much later.
SLOWER_THAN_ROOFLINE = 3.0
LAUNCH_S = 5e-6

_SPLAT = (
    "bin a view",
    "project Gaussians",
    "splat",
    "splat backward",
    "project Gaussians backward",
)
_VOXELISE = ("place Gaussians", "bin 32^3", "voxelise 32^3")
# what: (launches once each, wanted on an H100 in ms or None)
SUMS = {
    "project 36 views": (("project",), 6.0),
    "backproject 36 views": (("backproject, scale of rays", "backproject"), 8.0),
    "splat a view, forward and backward": (_SPLAT, 0.6),
    "voxelise 32^3": (_VOXELISE, 0.2),
    "3D SSIM with gradient, 256^3": (
        tuple(
            f"3D SSIM, {plane}: {visit}"
            for plane in ("axial", "coronal", "sagittal")
            for visit in ("index and slopes", "gradient")
        ),
        8.0,
    ),
    "kernels of an iteration of Gaussians": (
        (
            *_SPLAT,
            *_VOXELISE,
            "voxel_moments 32^3",
            "voxel gradients",
            "total variation 32^3 with gradient",
        ),
        60e3 / 13_500,
    ),
}


class Compiled(NamedTuple):
    """What the compiler says of a kernel."""

    registers: int
    spills: int  # bytes
    shared: int  # bytes
    occupancy: float  # share of the warps that a multiprocessor can hold


def compiled(launch: PaperLaunch, architecture: int) -> Compiled:
    """Compile a launch's kernel for an architecture such as 90."""
    places = {name: i for i, name in enumerate(launch.signature)}
    source = ASTSource(
        fn=launch.kernel,
        signature=dict(launch.signature),
        constexprs={(places[name],): value for name, value in launch.constants.items()},
    )
    options = {"num_warps": launch.warps, "enable_fp_fusion": True}
    binary = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    report = _assembled(binary.asm["ptx"], architecture)
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    spills = sum(int(size) for size in re.findall(r"(\d+) bytes spill", report))
    shared = binary.metadata.shared
    occupancy = _occupancy(registers, shared, launch.warps, MULTIPROCESSORS[architecture])
    return Compiled(registers, spills, shared, occupancy)


def _assembled(ptx: str, architecture: int) -> str:
    """Return what ptxas says of a kernel."""
    name = re.search(r"\.target (\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [get_ptxas(architecture).path, "-v", *_PTXAS, f"--gpu-name={name}", str(path)]
        command += ["-o", os.devnull]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def _occupancy(registers: int, shared: int, warps: int, of: Multiprocessor) -> float:
    per_warp = -(-registers * 32 // _REGISTERS_AT_ONCE) * _REGISTERS_AT_ONCE
    programs = min(
        of.programs,
        of.warps // warps,
        of.registers // (per_warp * warps),
        of.shared // (shared + _SHARED_OF_A_PROGRAM),
    )
    return programs * warps / of.warps


def roofline_s(launch: PaperLaunch, card: Card) -> float:
    """Return the least seconds that one launch takes on a card."""
    return max(launch.bytes / card.bytes_per_s, launch.flops / card.flops_per_s)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches of all modules."""
    modules = map(importlib.import_module, triton_modules())
    return [launch for module in modules for launch in module.paper_launches()]


def kernel_table(launches: list[PaperLaunch], found: dict[int, list[Compiled]]) -> list[str]:
    """Return the rows of the table of kernels."""
    names = [f"sm_{architecture}" for architecture in found]
    head = ["launch", "MB", "Gflop", *(f"{n}: registers, occupancy" for n in names), "shared"]
    rows = [head + [f"{card.name} ms" for card in CARDS]]
    for n, launch in enumerate(launches):
        each = [results[n] for results in found.values()]
        cells = [launch.name, f"{launch.bytes / 1e6:.1f}", f"{launch.flops / 1e9:.2f}"]
        cells += [
            f"{c.registers}, {c.occupancy:.0%}" + f", {c.spills} bytes spilled" * (c.spills > 0)
            for c in each
        ]
        cells += [str(max(c.shared for c in each))]
        cells += [f"{1e3 * roofline_s(launch, card):.4f}" for card in CARDS]
        rows.append(cells)
    return _markdown(rows)


def sums(launches: list[PaperLaunch]) -> list[tuple[str, list[float], list[float], float | None]]:
    """Return for each of `SUMS`: name, roofline ms, expected ms (one for each card), wanted ms."""
    by_name = {launch.name: launch for launch in launches}
    out = []
    for name, (parts, wanted) in SUMS.items():
        roofline = [sum(roofline_s(by_name[part], card) for part in parts) for card in CARDS]
        expected = [SLOWER_THAN_ROOFLINE * s + LAUNCH_S * len(parts) for s in roofline]
        out.append((name, [1e3 * s for s in roofline], [1e3 * s for s in expected], wanted))
    return out


def sum_table(launches: list[PaperLaunch]) -> list[str]:
    """Return the rows of the table of sums."""
    rows = [["what", *(f"{c.name}: roofline, expected ms" for c in CARDS), "wanted on an H100"]]
    for name, roofline, expected, wanted in sums(launches):
        pairs = [f"{r:.3f}, {e:.3f}" for r, e in zip(roofline, expected, strict=True)]
        rows.append([name, *pairs, "" if wanted is None else f"{wanted:.1f}"])
    return _markdown(rows)


def _markdown(rows: Iterable[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * lines[0].count(" | ") + "---|", *lines[1:]]


def section(launches: list[PaperLaunch], found: dict[int, list[Compiled]]) -> str:
    """Return what stands in the README between its marks."""
    cards = "; ".join(
        f"{c.name} {c.bytes_per_s / 1e9:.0f} GB/s, {c.flops_per_s / 1e12:.1f} Tflop/s ({c.source})"
        for c in CARDS
    )
    spilled = sum(c.spills > 0 for results in found.values() for c in results)
    return "\n".join(
        [
            BEGIN,
            "",
            f"By `python benchmarks/gpu/static.py --write`, triton {triton.__version__}. "
            f"Peak rates: {cards}. Expected is {SLOWER_THAN_ROOFLINE:g} times the roofline and "
            f"{1e6 * LAUNCH_S:g} microseconds a launch, which is an assumption. "
            f"Kernels that spill registers: {spilled or 'none'}.",
            "",
            *sum_table(launches),
            "",
            "One launch of each kernel at the paper's size:",
            "",
            *kernel_table(launches, found),
            "",
            END,
        ]
    )


def main() -> None:
    """Compile, print, and end with 1 where a kernel spills."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", default=",".join(map(str, MULTIPROCESSORS)))
    parser.add_argument(
        "--write", action="store_true", help="into the README and results/static.json"
    )
    options = parser.parse_args()
    launches = paper_launches()
    found = {
        architecture: [compiled(launch, architecture) for launch in launches]
        for architecture in map(int, options.architectures.split(","))
    }
    text = section(launches, found)
    print(text)
    spilled = [
        f"{launch.name} (sm_{architecture}): {result.spills} bytes"
        for architecture, results in found.items()
        for launch, result in zip(launches, results, strict=True)
        if result.spills
    ]
    if options.write:
        readme = README.read_text(encoding="utf-8")
        before, after = readme.split(BEGIN)[0], readme.split(END)[1]
        README.write_text(before + text + after, encoding="utf-8")
        record = {
            "triton": triton.__version__,
            "kernels": [
                {
                    "name": launch.name, "bytes": launch.bytes, "flops": launch.flops,
                    **{f"sm_{a}": found[a][n]._asdict() for a in found},
                }
                for n, launch in enumerate(launches)
            ],
            "sums": [
                {
                    "name": name, "wanted_ms": wanted,
                    "roofline_ms": dict(zip([c.name for c in CARDS], roofline, strict=True)),
                    "expected_ms": dict(zip([c.name for c in CARDS], expected, strict=True)),
                }
                for name, roofline, expected, wanted in sums(launches)
            ],
        }  # fmt: skip
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if spilled:
        sys.exit("registers are spilled: " + "; ".join(spilled))


if __name__ == "__main__":
    main()
