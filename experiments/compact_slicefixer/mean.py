"""Write the weighted mean of two files of weights of one network.

python experiments/compact_slicefixer/mean.py FIRST SECOND SHARE OUT

SHARE is that of the second; the header is the second's too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file


def main() -> None:
    """Read both, average, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("share", type=float)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with safe_open(options.first, "pt") as first, safe_open(options.second, "pt") as second:
        mean = {
            name: first.get_tensor(name)
            .float()
            .lerp(second.get_tensor(name).float(), options.share)
            .to(first.get_tensor(name).dtype)
            for name in first.keys()
        }
        header = second.metadata()
    save_file(mean, options.out, header)


if __name__ == "__main__":
    main()
