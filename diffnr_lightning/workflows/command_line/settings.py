"""From config files and command-line options to the arguments of a workflow.

The signature of the workflow is the schema and its docstring the help: nothing is declared twice.
A node ``{class_path, init_args}`` in YAML names a class by its import path.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser
from jsonargparse.typing import register_type

from diffnr_lightning.lazy import Deferred
from diffnr_lightning.workflows.command_line.class_options import check_class_options, class_nodes
from diffnr_lightning.workflows.command_line.config_files import (
    check_one_method,
    check_yaml,
    config_files,
    expanded,
    with_joined_mappings,
)
from diffnr_lightning.workflows.command_line.null_values import check_nulls
from diffnr_lightning.workflows.command_line.option_lists import (
    lists_as_yaml,
    nested_dict,
    restored_entries,
    take_values,
)
from diffnr_lightning.workflows.command_line.refusals import check_words, missing_logger, refusal
from diffnr_lightning.workflows.command_line.signature import (
    check,
    deferred_parameters,
    passed_over,
    with_classes,
)

# A workflow that has a parameter of this name gets the resolved settings there, as a plain dict.
RESOLVED = "resolved"


def _path(text: str) -> Path:
    """Return a path whose tilde stands for the home folder, as shells have it: in configs there is none."""
    return Path(os.path.expanduser(text))


register_type(Path, str, _path, type_check=isinstance, fail_already_registered=False)


class Flatten(NamedTuple):
    """Make the fields of a dataclass options of the command itself: ``--size``, not ``--recipe.size``.

    A parameter asks for it by its type, ``recipe: Annotated[ScanRecipe, Flatten()] = ScanRecipe()``;
    the default says what the options' defaults are.

    Attributes:
        without: fields that are no options, since the workflow sets them itself.
    """

    without: tuple[str, ...] = ()


class Settings:
    """What a workflow is called with.

    Args:
        resolved: plain dict that YAML can hold, every default filled in.
        build: makes the keyword arguments.

    Attributes:
        resolved: the same.
    """

    def __init__(self, resolved: dict[str, Any], build: Callable[[], dict[str, Any]]) -> None:
        self.resolved = resolved
        self._build = build

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments, with objects built when they are first asked for.

        Raises:
            ValueError: what a class refuses of its arguments.
        """
        return self._build()


def settings_parser(
    function: Callable[..., Any],
    prog: str | None = None,
    wanted: Collection[str] | None = None,
) -> ArgumentParser:
    """Return the parser whose options are the parameters of a workflow.

    Args:
        function: the workflow.
        prog: name of the command in help and usage.
        wanted: parameters whose deferred classes are imported, see `with_classes`; None is all.
    """
    parser = ArgumentParser(
        prog=prog or function.__name__,
        description=inspect.getdoc(function).split("\n\nArgs:")[0],
        # "omegaconf" resolves ${...} per file, "omegaconf+" after all files and options are merged.
        parser_mode="omegaconf+",
        exit_on_error=False,
    )
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="YAML file of options, by path or by the name of a shipped one (naf, diffnr/align); "
        "several --config merge from left to right, and options that follow them win.",
    )
    flat = _flattened(function)
    skip = {*flat, *([RESOLVED] if _takes_resolved(function) else [])}
    parser.add_function_arguments(
        with_classes(function, wanted), as_group=False, skip=skip, fail_untyped=True
    )
    for name, (kind, flatten) in flat.items():
        default = inspect.signature(function).parameters[name].default
        parser.add_class_arguments(
            kind, as_group=False, default=default, skip=set(flatten.without), fail_untyped=True
        )
    return parser


def parse(
    function: Callable[..., Any],
    argv: Sequence[str],
    *,
    prog: str | None = None,
    build: bool = True,
) -> Settings:
    """Check options and config files against a workflow's signature, then build its arguments.

    Args:
        function: the workflow.
        argv: options as on the command line. A list takes several values: ``--runs a b c``.
        prog: name of the command in help and usage.
        build: them at once, so that what a class refuses is known; else when they are asked for.

    Returns:
        The arguments; nothing of them is built before all are checked.

    Raises:
        FileNotFoundError: a config file that does not exist.
        ValueError: an unknown option or key, a wrong type, a missing option, a config file that
            is no YAML mapping, or config files for methods of different kinds.
        SystemExit: after ``--help`` or ``--print_config``.
    """
    check_words(argv)
    argv, configs = expanded(argv)
    for config in configs:
        check_yaml(config)
    check_one_method(configs)
    if {"-h", "--help"}.isdisjoint(argv):
        # Before classes are imported, which takes seconds for some.
        _check_without_classes(function, argv, configs)
        wanted = _given(argv, configs) | _with_class_as_default(function)
    else:
        wanted = _given(argv, configs)
    parser = settings_parser(function, prog, wanted)
    argv = with_joined_mappings(argv, configs, _mappings(function))
    settings = _settings(function, parser, lists_as_yaml(parser, argv), configs)
    check_nulls(with_classes(function, ()), settings.resolved)
    if build:
        settings.arguments  # noqa: B018 - what a class refuses is known here, too
    return settings


def configured(
    function: Callable[..., Any],
    configs: Sequence[Path | str],
    overrides: Mapping[str, Any],
) -> Settings:
    """Return the settings of config files with some values replaced, as one workflow calls another.

    Args:
        function: the workflow.
        configs: YAML files that merge from left to right, by path or name; see `config_files`.
        overrides: plain values that win over those of the files, by the names of the workflow's
            parameters; nested ones as mappings or with dots, such as ``{"noise.photons": 1e4}``.

    Returns:
        What `parse` returns for the same options; nothing is built before its arguments are asked for, so that
        a run that turns out to be finished costs no network.

    Raises:
        FileNotFoundError: a config file that does not exist.
        ValueError: as `parse` does.
    """
    files = [path for config in configs for path in config_files(str(config))]
    for config in files:
        check_yaml(config)
    check_one_method(files)
    # jsonargparse takes the content of a config where it takes its path.
    last = yaml.safe_dump(nested_dict(overrides), sort_keys=False)
    arguments = [f"--config={config}" for config in files]
    arguments = with_joined_mappings(arguments, files, _mappings(function))
    arguments.append(f"--config={last}")
    wanted = _given([], files) | nested_dict(overrides).keys() | _with_class_as_default(function)
    settings = _settings(function, settings_parser(function, wanted=wanted), arguments, files)
    check_nulls(with_classes(function, ()), settings.resolved)
    return settings


def _check_without_classes(
    function: Callable[..., Any], argv: Sequence[str], configs: list[Path]
) -> None:
    """Refuse what is wrong whatever the classes that options and configs name."""
    if any(word.startswith("--print_config") or word.endswith(".help") for word in argv):
        return
    classes = deferred_parameters(function)
    check_class_options(class_nodes(argv, configs, classes))
    parser = settings_parser(function, wanted=())
    kept: list[str] = []
    rest = list(argv)
    while rest:
        option = rest.pop(0)
        name, _, value = option.removeprefix("--").partition("=")
        if name == "config" and value:
            content = _without_passed_over(function, Path(value))
            light = {key: node for key, node in content.items() if key not in classes}
            text = yaml.safe_dump(light)
            if any(f"${{{key}" in text for key in classes):
                return  # a ${...} that needs them
            kept += [f"--config={text}", *(f"--{key}={{}}" for key in content if key in classes)]
        elif name.partition(".")[0] in classes:
            kept.append(f"--{name.partition('.')[0]}={{}}")
            take_values(rest)
        else:
            kept.append(option)
    light = _settings(function, parser, lists_as_yaml(parser, kept), configs)
    check(function, light.arguments)


def _without_passed_over(function: Callable[..., Any], config: Path) -> dict[str, Any]:
    """Return what a config says without the keys that the workflow passes over, see `passes_over`."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key not in passed_over(function)}


def _settings(
    function: Callable[..., Any], parser: ArgumentParser, argv: Sequence[str], configs: list[Path]
) -> Settings:
    """Check options and configs."""
    if passed_over(function):
        given = {f"--config={config}": config for config in configs}
        argv = [
            f"--config={yaml.safe_dump(_without_passed_over(function, given[word]))}"
            if word in given
            else word
            for word in argv
        ]
    try:
        namespace = parser.parse_args(argv)
        restored_entries(namespace)
        resolved = yaml.safe_load(parser.dump(namespace, skip_unset=False))
    except ArgumentError as error:
        raise ValueError(refusal(parser, str(error), configs)) from error
    except Exception as error:
        # OmegaConf's own exceptions (a ${...} that names nothing) share no base with ArgumentError.
        if not type(error).__module__.startswith("omegaconf"):
            raise
        raise ValueError(f"config: {' '.join(str(error).split())}.") from error

    def build() -> dict[str, Any]:
        try:
            arguments = _arguments(function, parser.instantiate(namespace).as_dict())
        except (ValueError, ModuleNotFoundError) as error:
            if missing := missing_logger(error):
                raise ImportError(
                    f"curves needs {missing}, which is not installed; pip install "
                    f"'diffnr-lightning[{missing}]'."
                ) from error
            if isinstance(error, ModuleNotFoundError):
                raise
            # The classes' own words, which jsonargparse wraps where a type has alternatives.
            raise ValueError(refusal(parser, str(error), configs)) from error
        return {**arguments, **({RESOLVED: resolved} if _takes_resolved(function) else {})}

    return Settings(resolved, build)


def _arguments(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Gather the options that are fields of a dataclass."""
    arguments = {key: value for key, value in options.items() if key != "config"}
    for name, (kind, flatten) in _flattened(function).items():
        fields = inspect.signature(kind).parameters.keys() - set(flatten.without)
        default = inspect.signature(function).parameters[name].default
        arguments[name] = replace(default, **{key: arguments.pop(key) for key in fields})
    return arguments


def _takes_resolved(function: Callable[..., Any]) -> bool:
    return RESOLVED in inspect.signature(function).parameters


def _flattened(function: Callable[..., Any]) -> dict[str, tuple[type, Flatten]]:
    """Return dataclass and mark of each parameter that is `Annotated` with `Flatten`."""
    hints = inspect.get_annotations(function, eval_str=True)
    marked = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {
        name: (kind, mark) for name, (kind, mark) in marked.items() if isinstance(mark, Flatten)
    }


def _mappings(function: Callable[..., Any]) -> set[str]:
    """Return the parameters that are mappings by the names of their entries."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if str(p.annotation).startswith("dict[")} - {RESOLVED}


def _given(argv: Sequence[str], configs: Sequence[Path]) -> set[str]:
    """Return the parameters that options or configs give, in whole or in part."""
    options = {re.split(r"[.=]", word[2:])[0] for word in argv if word.startswith("--")}
    contents = [yaml.safe_load(config.read_text(encoding="utf-8")) for config in configs]
    return options.union(*contents)


def _with_class_as_default(function: Callable[..., Any]) -> set[str]:
    """Return the parameters whose default is a class, whose own defaults the record holds too."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if isinstance(p.default, Deferred)}
