"""Sparse-view CT reconstruction with neural representations and repairing priors, on Lightning."""

import os

__version__ = "0.1.0"

# torch and numba each bring an OpenMP pool into the process. Threads of one that spin while they
# wait starve the other, by a factor of twelve on two shared cores; the variable is read only when
# the pools start, so it is set before either is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
