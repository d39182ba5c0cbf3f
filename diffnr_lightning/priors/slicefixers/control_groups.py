"""Memory that a job may still take, where its control group limits it, as those of SLURM and of containers do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Limit, use, and what of the use the system would give back, in the files of both versions of control groups.
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def bytes_below_limit(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the bytes below the nearest limit of a job's groups and those that hold them; None without one.

    Args:
        membership: file that says which groups the job is in.
        root: folder where the groups are.
    """
    left = [
        bytes_left
        for group in _groups(membership, root)
        for names in FILES
        if (bytes_left := _left(group, *names)) is not None
    ]
    return max(min(left), 0) if left else None


def _groups(membership: Path, root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that memory is counted in, and of those that hold them."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        group = base / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))


def _left(group: Path, limit: str, use: str, given_back: str) -> int | None:
    """Return the bytes below the limit of one group; None without one."""
    try:
        most = (group / limit).read_text(encoding="ascii").strip()
        if most == "max":
            return None
        used = int((group / use).read_text(encoding="ascii"))
        counted = dict(
            line.split()
            for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except OSError:
        return None
    return int(most) - used + int(counted.get(given_back, 0))
