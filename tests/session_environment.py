"""What tests see of the machine and the shell that they run in: the same everywhere."""

import re
from collections.abc import MutableMapping


def hide_gpus(environment: MutableMapping[str, str], marks: str) -> None:
    """Let a session see no GPU whose expression of marks (`-m`) does not ask for the mark `gpu`."""
    if not re.search(r"\bgpu\b", re.sub(r"\bnot\s+gpu\b", "", marks)):
        environment["CUDA_VISIBLE_DEVICES"] = ""
