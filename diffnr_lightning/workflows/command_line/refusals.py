"""What jsonargparse refuses, said in one sentence that names option, value and expectation."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

# Packages of Lightning's loggers, each an extra of the same name.
LOGGERS = ("wandb", "tensorboard")
# Stand for bytes of a word that are no UTF-8.
_UNDECODED = re.compile("[\ud800-\udfff]")
_NESTED = re.compile(
    r"Expected an? (<class '[^']+'>|[\w.]+(?:\[[^\]]*\])?)\. Got value: (.*?)(?=\. Got value|$)",
    re.MULTILINE,
)


def refusal(parser: ArgumentParser, message: str, configs: Sequence[Path]) -> str:
    """Return one sentence for a message of jsonargparse; words of our own classes stay as they are.

    Args:
        parser: that refused.
        message: of its exception, of several lines as a rule.
        configs: files that were given, to name the one that holds an unknown key.
    """
    known = [option for action in parser._actions for option in action.option_strings]
    if missing := re.match(r"the following arguments are required: (.+)", message):
        names = ", ".join(f"--{name}" for name in missing[1].split(", "))
        return f"{names} missing: give it as an option or in a config."
    if unknown := re.match(r"unrecognized arguments: (\S+)", message):
        return f"unknown option {unknown[1]}{nearest(unknown[1].partition('=')[0], known)}."
    if unknown := re.match(r"(?:Group '([^']+)' does not accept o|O)ption '([^']+)'", message):
        key = ".".join(part for part in unknown.groups() if part)
        where = next((f"config {path}" for path in configs if _has_key(path, key)), "config")
        keys = [option.lstrip("-") for option in known]
        return f"{where}: unknown key '{key}'{nearest(key, keys)}."
    # Of a list there are two names, the second of which adds to it.
    if empty := re.match(r"argument ([^\s/]+)\S*: expected one argument", message):
        return f"{empty[1]} is given without a value; {_expectation(parser, empty[1])}."
    path = "--" + ".".join(re.findall(r'Parser key "([^"]+)":', message))
    if missing := re.search(r"the following arguments are required: (\w+)", message):
        return f"{path}.{missing[1]} missing: give it as an option or in a config."
    return (
        _no_class(path, message)
        or _unknown_parameter(path, message)
        or _own_class(path, message)
        or _wrong_type(parser, path, message)
        or _own_words(message)
        or _wrong_alternative(path, message)
        or _in_one_line(path, message)
    )


def check_words(argv: Sequence[str]) -> None:
    """Refuse words that no option takes.

    Args:
        argv: options as on the command line.

    Raises:
        ValueError: an empty word, as of a variable of the shell that is not set (an empty path would be the folder that
            one is in), or a value that is no UTF-8, which YAML cannot hold.
    """
    option = "an option"
    for word in argv:
        if word.startswith("--"):
            option = word.partition("=")[0]
        if not word or word == f"{option}=":
            raise ValueError(
                f"{option} is given an empty word, as by a variable of the shell that is not set; give a value or "
                "leave the option out."
            )
        if option != "--config" and _UNDECODED.search(word):
            raise ValueError(
                f"{option} is given {ascii(word)}, which is no UTF-8; rename it (as by convmv) or use a link to it."
            )


def missing_logger(error: BaseException | None) -> str | None:
    """Return the package that one of Lightning's loggers asked for in vain, if that is what happened.

    The loggers ask when they are built, and jsonargparse wraps what they say.
    """
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return next((name for name in LOGGERS if name in str(error)), None)
        error = error.__cause__ or error.__context__
    return None


def _unknown_parameter(path: str, message: str) -> str | None:
    unknown = re.search(
        r"(?:Group '([^']+)' does not accept o|O)ption '([^']+)'|unrecognized arguments: --([^\s=]+)",
        message,
    )
    if not unknown:
        return None
    *parents, key = ".".join(filter(None, unknown.groups())).split(".")
    classes = re.findall(r"class_path[ =]'([^']+)'", message)
    kind = _class_at(classes[-1], parents) if classes else None
    path = ".".join([path, *parents])
    if kind is None:
        return f"{path}: unknown key '{key}'."
    name = classes[-1] if not parents else kind.__name__
    if successor := getattr(kind, "SUCCESSORS", {}).get(key):
        return f"{path}: {name} has no '{key}' any more; {successor} has taken its place."
    return f"{path}: {name} has no '{key}'{nearest(key, inspect.signature(kind).parameters)}."


def _own_class(path: str, message: str) -> str | None:
    """Say why a class cannot be imported, or its options not be read, as one of a package of the user's own."""
    if found := re.search(
        r"Parameter '(\w+)' from '([\w.]+)\.\w+' does not specify a type", message
    ):
        return f"{path}: {found[2]} takes {found[1]!r} without a type; one is expected, such as {found[1]}: float."
    if found := re.search(r"No module named '([\w.]+)'", message):
        return (
            f"{path}: there is no module {found[1]!r}; install its package, or name the folder that holds it in "
            "PYTHONPATH."
        )
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        known = dir(importlib.import_module(found[1]))
        return f"{path}: module {found[1]} has no {found[2]!r}{nearest(found[2], known)}."
    return None


def _no_class(path: str, message: str) -> str | None:
    """Say what a class is named by, where a value names none, and what became of a file that was given instead."""
    if file := re.search(r"Unable to load config ['\"]([^'\"]+)['\"]", message):
        # The group is named twice.
        option = "--" + ".".join(dict.fromkeys(path.lstrip("-").split(".")))
        return f"{option} is {file[1]!r}; a file that can be read is expected."
    if "Expected an instantiatable class" in message and "." not in path:
        return f"{path} has options but no class; --config with the name of a config, or a class_path, is expected too."
    given = re.search(
        r"Expected a dot import path string: (.*?)\.?$|Not a valid subclass of \w+\. Got value: (.*?)$",
        message,
        re.MULTILINE,
    )
    # Only a class by itself has configs of its own; one within another is told by its alternatives.
    if not given or "." in path:
        return None
    value = (given[1] or given[2] or "").strip()
    return (
        f"{path} is {value!r}; a class_path with its init_args is expected, or, as an option of its own, "
        "--config with the name of a config that holds them."
    )


def _wrong_alternative(path: str, message: str) -> str | None:
    """Say what the innermost type with alternatives expects, of those that a message nests."""
    head, found, rest = message.partition("Given value: ")
    subtypes = re.findall(r"Subtypes: \[(.*)\]", head)
    if not (found and subtypes) or "Expected" not in head.rpartition("Subtypes: ")[2]:
        return None
    kinds = re.findall(r"<class '([^']+)'>|([^,\[]+\[[^\]]*\]|[^,]+)", subtypes[-1])
    names = [_alternative(kind or other.strip()) for kind, other in kinds if kind or other.strip()]
    return f"{path} is {_as_typed(rest.splitlines()[0])!r}; {' or '.join(names)} is expected."


def _alternative(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if "[" not in name and module and not module.startswith(("typing", "pathlib", "collections")):
        return f"the import path of a {kind}"
    return _type_name(name)


def _wrong_type(parser: ArgumentParser, path: str, message: str) -> str | None:
    action = next((a for a in parser._actions if path in a.option_strings), None)
    hint = getattr(action, "_typehint", None)
    given = re.search(r"(?:Given|Got) value: (.*)$", message, re.DOTALL)
    simple = hint is not None and (not inspect.isclass(hint) or hint in (int, float, bool, str))
    if given and re.fullmatch(r"[-+]?\.?(nan|inf|infinity)", given[1].strip(), re.IGNORECASE):
        if float in _alternatives(hint):
            return f"{path} is {given[1].strip()}; a finite number is expected."
    read = re.search(r"Given value type: <class '(int|float|bool|datetime\.date)'>", message)
    if given and read and str in _alternatives(hint):
        return f"{path} is {given[1].strip()}, which YAML reads as {read[1]}; text in quotes is expected."
    if given and simple:
        return f"{path} is {_as_typed(given[1])!r}; {_expectation(parser, path)}."
    if found := _NESTED.search(message):
        if found[1] in ("<class 'tuple'>", "<class 'list'>"):
            return f"{path} is {found[2]!r}; a list is expected, such as '[{found[2]}]'."
        return f"{path} is {found[2]!r}; {_type_name(found[1])} is expected."
    return None


def _expectation(parser: ArgumentParser, path: str) -> str:
    """Say what an option takes, with an example where it takes several values side by side."""
    action = next((a for a in parser._actions if path in a.option_strings), None)
    hint = getattr(action, "_typehint", None)
    several = [kind for kind in _alternatives(hint) if get_origin(kind) in (list, tuple, Sequence)]
    expected = f"{_type_name(hint) if hint else 'one'} is expected"
    if not several:
        return expected
    values = action.default or [1] * len(get_args(several[0]))
    if not isinstance(values, tuple | list) or any(isinstance(value, dict) for value in values):
        return expected
    example = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    words = " or ".join(_in_words(kind) for kind in _alternatives(hint))
    verb = "are" if words.endswith("numbers") else "is"
    return f"{words} {verb} expected, such as {path} {example}"


def _in_words(hint: Any) -> str:
    kinds = get_args(hint)
    if get_origin(hint) not in (list, tuple, Sequence):
        return "one number" if hint in (int, float) else _type_name(hint)
    if kinds[-1] is ... or len(kinds) == 1:
        return f"one or more of {_type_name(kinds[0]).removeprefix('one of ')}"
    number = {2: "two", 3: "three"}.get(len(kinds), str(len(kinds)))
    return f"{number} numbers" if set(kinds) <= {int, float} else _type_name(hint)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _as_typed(given: str) -> str:
    """Return a value of a message without the brackets and quotes that a list was given."""
    try:
        value = yaml.safe_load(given)
    except yaml.YAMLError:
        return given.strip()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "null" if given.strip() == "None" else given.strip()


def _own_words(message: str) -> str | None:
    """Return the sentence of a constructor among the alternatives of a type."""
    if "Errors:" not in message:
        return None
    entries = re.split(r"\n\s*- ", message.partition("Errors:")[2].partition("\nGiven value")[0])
    ours = [e for e in entries if e.strip() and not re.match(r"Expected|Problem|Not of type", e)]
    if ours:
        return " ".join(ours[0].split())
    for entry in entries:
        # Of no ValueError, such as that a package is missing.
        problem = re.match(r"Problem with given class_path '([^']+)':(.+)", entry, re.DOTALL)
        if problem and not re.search("Parser key|Expected|Does not validate", problem[2]):
            return f"{problem[1]} cannot be made: {' '.join(problem[2].split()).rstrip('.')}."
    return None


def _in_one_line(path: str, message: str) -> str:
    text = " ".join(re.sub(r'Parser key "[^"]+":', "", message).split()).rstrip(".")
    return f"{path}: {text}." if path != "--" else f"{text}."


def _class_at(class_path: str, parents: Sequence[str]) -> type | None:
    """Return the class of a parameter of a parameter of a class; None where there is none."""
    module, _, name = class_path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        for parent in parents:
            hint = get_type_hints(kind.__init__)[parent]
            kind = next(option for option in _alternatives(hint) if inspect.isclass(option))
    except (ImportError, AttributeError, ValueError, KeyError, NameError, StopIteration):
        return None
    return kind if inspect.isclass(kind) else None


def nearest(name: str, known: Iterable[str], least: float = 0.6) -> str:
    """Return the words that propose the name most like one that is not known, nothing if none is.

    Args:
        name: as it was given.
        known: names.
        least: likeness from 0 to 1 that a proposal has, more where names have much in common.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=least)
    return f"; did you mean {close[0]}" if close else ""


def _has_key(path: Path, dotted: str) -> bool:
    node: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in dotted.split("."):
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def _type_name(hint: Any) -> str:
    text = hint.__name__ if inspect.isclass(hint) and not get_args(hint) else str(hint)
    for verbose, plain in (("typing.", ""), ("pathlib.", ""), ("NoneType", "null")):
        text = text.replace(verbose, plain)
    text = re.sub(r"Optional\[(.+)\]$", r"\1 or null", re.sub(r"<class '([^']+)'>", r"\1", text))
    text = re.sub(r"Union\[(.+)\]$", lambda m: " or ".join(m[1].split(", ")), text)
    text = re.sub(
        r"^Literal\[([^\]]+)\]", lambda literal: "one of " + literal[1].replace("'", ""), text
    )
    return text.replace(" | None", " or null").replace("None", "null")
