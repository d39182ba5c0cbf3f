"""Turn the sinogram of the dendrite, line integrals times 1000 in a file of MATLAB, into what `diffnr ingest` takes."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.io


def main() -> None:
    """Write transmissions (V, 1, W), of which the flat field is 1 and the dark field 0, and angles (V,)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sinogram", type=Path, help="dendrite_parallel.mat")
    parser.add_argument("archive", type=Path, help="NPZ to write")
    options = parser.parse_args()
    scan = scipy.io.loadmat(options.sinogram)
    transmissions = np.exp(-scan["sinoRD"].T[:, None] / 1000)
    np.savez(
        options.archive, raw=transmissions, flat=1.0, dark=0.0, angles_rad=scan["anglesRad"].ravel()
    )


if __name__ == "__main__":
    main()
