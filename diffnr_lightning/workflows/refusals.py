"""What jsonargparse refuses, said in one sentence that names option, value and expectation."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentParser

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
        return f"unknown option {unknown[1]}{_nearest(unknown[1].partition('=')[0], known)}."
    if unknown := re.match(r"(?:Group '([^']+)' does not accept o|O)ption '([^']+)'", message):
        key = ".".join(part for part in unknown.groups() if part)
        where = next((f"config {path}" for path in configs if _has_key(path, key)), "config")
        keys = [option.lstrip("-") for option in known]
        return f"{where}: unknown key '{key}'{_nearest(key, keys)}."
    path = "--" + ".".join(re.findall(r'Parser key "([^"]+)":', message))
    return (
        _unknown_parameter(path, message)
        or _wrong_type(parser, path, message)
        or _own_words(message)
        or _in_one_line(path, message)
    )


def _unknown_parameter(path: str, message: str) -> str | None:
    unknown = re.search(r"Option '([^']+)' is not accepted", message)
    if not unknown:
        return None
    classes = re.findall(r"class_path[ =]'([^']+)'", message)
    name = classes[-1] if classes else "it"
    return f"{path}: {name} has no '{unknown[1]}'{_nearest(unknown[1], _parameters(name))}."


def _wrong_type(parser: ArgumentParser, path: str, message: str) -> str | None:
    action = next((a for a in parser._actions if path in a.option_strings), None)
    hint = getattr(action, "_typehint", None)
    given = re.search(r"(?:Given|Got) value: (.*)$", message, re.DOTALL)
    simple = hint is not None and (not inspect.isclass(hint) or hint in (int, float, bool, str))
    if given and simple:
        return f"{path} is {given[1].strip()!r}; {_type_name(hint)} is expected."
    if found := _NESTED.search(message):
        return f"{path} is {found[2]!r}; {_type_name(found[1])} is expected."
    return None


def _own_words(message: str) -> str | None:
    """Return the sentence of a constructor among the alternatives of a type."""
    if "Errors:" not in message:
        return None
    entries = re.split(r"\n\s*- ", message.partition("Errors:")[2].partition("\nGiven value")[0])
    ours = [e for e in entries if e.strip() and not re.match(r"Expected|Problem|Not of type", e)]
    return " ".join(ours[0].split()) if ours else None


def _in_one_line(path: str, message: str) -> str:
    text = " ".join(re.sub(r'Parser key "[^"]+":', "", message).split()).rstrip(".")
    return f"{path}: {text}." if path != "--" else f"{text}."


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
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
    if literal := re.fullmatch(r"Literal\[(.+)\]", text):
        return "one of " + literal[1].replace("'", "")
    return text.replace(" | None", " or null").replace("None", "null")
