import io

import pytest
from rich.console import Console

from diffnr_lightning.reports.paper_table import PaperLine, print_paper_table


def line(noise, ours):
    return PaperLine(
        "FDK", "bodies", 24, noise, "r2", "PSNR", None, ours, None, 1, 2.0, 2, "", comparable=True
    )


@pytest.mark.parametrize("width", [100, 140])
def test_lines_of_several_kinds_of_noise_say_which(width):
    def shown(*lines):
        text = io.StringIO()
        print_paper_table("A table", lines, [], Console(file=text, width=width))
        return text.getvalue()

    several = shown(line("tigre 1e4", 22.4), line("physical 1e5", 22.9))
    assert "tigre 1e4" in several and "physical 1e5" in several
    assert "tigre 1e4" not in shown(line("tigre 1e4", 22.4), line("tigre 1e4", 22.9))
