"""The terminal that tables are printed on."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class Terminal(Console):
    """A console on standard output that ends no work where its reader has seen enough, as `head` does."""

    def on_broken_pipe(self) -> None:
        """Print no more; rich would end the process, with what is written after the table left out."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
