"""Progress of a job is shown under the name that it has."""

import io

from rich.console import Console

from diffnr_lightning.workflows.command_line import progress


def test_names_with_brackets_are_no_markup(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")  # a dumb one shows no bar
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    with progress.progress_bar("ct[kind] [/b]: fdk") as advance:
        advance(1, 2, "loss [a]")
    assert "ct[kind] [/b]: fdk" in shown.getvalue() and "loss [a]" in shown.getvalue()
