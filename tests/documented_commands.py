"""Whether commands that documents show exist, with their options."""

import importlib
from functools import cache

from diffnr_lightning import cli
from diffnr_lightning.workflows.command_line.settings import settings_parser


def check_command(words):
    """Assert that a command line without `diffnr` names a command and options that there are."""
    command, *rest = words
    assert command in cli.COMMANDS
    known = options_of(command)
    for word in rest:
        if word.startswith("--"):
            option = word.partition("=")[0]
            # Options below a class, such as --method.init_args.x, depend on the class.
            assert option in known or f"--{option[2:].partition('.')[0]}.help" in known, option


@cache
def options_of(command):
    workflows = importlib.import_module("diffnr_lightning.workflows")
    parser = settings_parser(getattr(workflows, command.replace("-", "_")))
    return {option for action in parser._actions for option in action.option_strings}
