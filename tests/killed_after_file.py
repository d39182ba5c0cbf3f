"""A command that is killed at a moment that no clock decides: as soon as it has put a file in its place."""

import os
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path


def kill_after_file(pattern, count, *arguments):
    """Run a command that ends as by `kill -9` once it has put `count` files of such a name in their places."""
    command = [sys.executable, __file__, pattern, *map(str, (count, *arguments))]
    package = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def _kill_after(pattern, count):
    replace, seen = os.replace, []

    def replace_and_die(source, target, **options):
        replace(source, target, **options)
        if fnmatch(os.path.basename(target), pattern):
            seen.append(target)
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die


if __name__ == "__main__":
    from diffnr_lightning import cli

    _kill_after(sys.argv[1], int(sys.argv[2]))
    sys.exit(cli.main(sys.argv[3:]))
