"""Config files by the names that people give them: paths, shipped configs, and several joined by a plus."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffnr_lightning.workflows.command_line.refusals import nearest

logger = logging.getLogger("diffnr")

# All names share folders and ending: less alike than this is another word.
LEAST_LIKENESS = 0.9

# Configs of the release before that are composed of two now: accepted for one release, with a warning.
COMPOSED = {
    "reconstruct/r2gaussian_diffnr": "r2gaussian+diffnr/loop",
    "reconstruct/r2gaussian_diffnr_align": "r2gaussian+diffnr/align",
    "reconstruct/r2gaussian_diffnr_trial": "r2gaussian+diffnr/align+diffnr/trial",
    "reconstruct/r2gaussian_diffnr_paper": "r2gaussian_paper+diffnr/paper",
    "reconstruct/r2gaussian_diffnr_released": "r2gaussian_paper+diffnr/released",
    "reconstruct/naf_diffnr": "naf+diffnr/align",
    "reconstruct/saxnerf_diffnr": "saxnerf+diffnr/align",
    "reconstruct/siren_diffnr": "siren+diffnr/align",
    "reconstruct/voxel_grid_diffnr": "voxel_grid+diffnr/align",
}
# Folders of configs that are laid over a method, and one that each may be laid over.
OVERLAYS = {"diffnr": "r2gaussian", "samplers": "dds"}


def config_files(text: str) -> list[Path]:
    """Return the config files that a name stands for, in the order in which they merge.

    Args:
        text: a path; the name of a shipped config with or without `configs/` and `.yaml`, of a method
            also without its folder (`naf`); or several of them joined by `+` (`naf+diffnr/align`).

    Raises:
        FileNotFoundError: no such file or shipped config.
        ValueError: an empty name.
    """
    text = os.path.expanduser(text)  # no shell does it behind an equals sign
    if Path(text).is_file():
        return [Path(text)]
    if not all(text.split("+")):
        raise ValueError(
            f"config is {text!r}; names of files, joined by single pluses, are expected."
        )
    return [path for part in text.split("+") for path in _files_of(part)]


def method_name(text: str) -> str:
    """Return what the folder of a method's runs is called: its configs' names without folders and endings."""
    return "+".join(Path(part).stem for part in text.split("+"))


def shipped_config(name: str) -> Path:
    """Return the path of a config that comes with the project.

    Args:
        name: path below ``configs/``, such as ``reconstruct/fdk.yaml``.

    Raises:
        FileNotFoundError: no such config.
    """
    for folder in _config_folders():
        if (folder / name).is_file():
            return folder / name
    names = shipped_names()
    # Of another folder, if that is all that is wrong.
    alike = [known for known in names if Path(known).name == Path(name).name]
    hint = f"; did you mean {' or '.join(alike)}" if alike else nearest(name, names, LEAST_LIKENESS)
    raise FileNotFoundError(f"config {name} is not among the configs that come with diffnr{hint}.")


def shipped_names() -> list[str]:
    """Return the names of all shipped configs, such as ``reconstruct/fdk.yaml``."""
    found = {str(p.relative_to(f)) for f in _config_folders() for p in f.glob("*/*.yaml")}
    return sorted(found)


def expanded(argv: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Replace every ``--config NAME`` by the files that the name stands for.

    Args:
        argv: options as on the command line.

    Returns:
        The options with paths, and these paths in their order.

    Raises:
        FileNotFoundError: no such file or shipped config.
        ValueError: a shipped overlay of methods that no method comes before.
    """
    options: list[str] = []
    files: list[Path] = []
    rest = list(argv)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if option == "--config" and (equals or rest):
            paths = config_files(value if equals else rest.pop(0))
            options += [f"--config={path}" for path in paths]
            files += paths
        else:
            options.append(option + equals + value)
    if not any(option.partition("=")[0] in ("--method", "--method.class_path") for option in argv):
        refuse_bare_overlay(files)
    return options, files


def refuse_bare_overlay(files: Sequence[Path]) -> None:
    """Refuse a shipped overlay that comes first, and would change the settings of a method that nobody chose.

    Args:
        files: configs in the order in which they merge.

    Raises:
        ValueError: there is one.
    """
    folder = files[0].parent if files else Path()
    if folder.name not in OVERLAYS or folder.parent not in _config_folders():
        return
    name = f"{folder.name}/{files[0].stem}"
    raise ValueError(
        f"config {name} is laid over a method, and none comes before it; name one, such as --config "
        f"{OVERLAYS[folder.name]}+{name}."
    )


def check_yaml(config: Path) -> None:
    """Refuse in words what jsonargparse would report without the name of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no YAML mapping, holds a key twice or one that is no word, or a single key without a
            value, which jsonargparse takes for a word.
    """
    if not config.is_file():
        raise FileNotFoundError(f"config {config} does not exist.")
    try:
        text = config.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"config {config} is not valid YAML{where}: {getattr(error, 'problem', error)}."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"config {config} holds no mapping; lines of 'key: value' are expected.")
    for key in content:
        if not isinstance(key, str):
            raise ValueError(
                f"config {config} has the key {key!r}, which YAML reads as {type(key).__name__}; names of options are "
                "expected."
            )
        if text.strip() == f"{key}:":
            raise ValueError(
                f"config {config} has {key} without a value; one, or null, is expected."
            )
    for first, second in _repeated_keys(yaml.compose(text, yaml.SafeLoader), set()):
        raise ValueError(
            f"config {config} has the key {second.value} twice, at lines {first.start_mark.line + 1} and "
            f"{second.start_mark.line + 1}; leave one out."
        )


def _repeated_keys(
    node: yaml.Node, seen: set[int]
) -> Iterator[tuple[yaml.ScalarNode, yaml.ScalarNode]]:
    """Yield the keys that a mapping of a document has twice, of which YAML's readers take the last without a word.

    Args:
        node: of the document.
        seen: nodes that were looked at; an alias stands for one of them.
    """
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    keys: dict[str, yaml.ScalarNode] = {}
    for item in node.value:
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                yield keys[key.value], key
            keys[key.value] = key
        yield from _repeated_keys(value, seen)


def check_one_method(configs: Sequence[Path]) -> None:
    """Refuse config files of which one names another kind of method than one before it, or a method over its overlay.

    The options of another kind would replace the method as a whole, by one with the defaults of that kind; a method
    over its overlay replaces a part of what this one says, under its name.

    Args:
        configs: files that merge from left to right, each a YAML mapping.

    Raises:
        ValueError: `diffnr/align` over `fdk`, or `naf` over `diffnr/align`, for example.
    """
    first: tuple[Path, str] | None = None
    methods = [(folder / "reconstruct").resolve() for folder in _config_folders()]
    overlay: Path | None = None
    for config in configs:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        if overlay and config.resolve().parent in methods:
            raise ValueError(
                f"config {config} is a method and stands behind {overlay}, of whose settings it would replace some; "
                "give the method first."
            )
        if "variant" in content:
            overlay = config
        node = content.get("method")
        if not isinstance(node, dict) or not isinstance(node.get("class_path"), str):
            continue
        kind = node["class_path"].rpartition(".")[2]
        if first and first[1] != kind:
            raise ValueError(
                f"config {config} is for a method of class {kind}, and {first[0]} gives one of "
                f"class {first[1]}; leave one of the two out."
            )
        first = first or (config, kind)


def with_joined_mappings(
    argv: Sequence[str], configs: Sequence[Path], names: Collection[str]
) -> list[str]:
    """Return options with a config that joins mappings of configs, which by themselves replace each other.

    Other settings of configs merge. Without it `dds2d` with twenty steps would couple its slices again. A `variant`
    that begins with a plus is added to the one before it.

    Args:
        argv: options with paths of configs, as `expanded` returns them.
        configs: these paths in their order, each a YAML mapping.
        names: of the parameters that are mappings, beside the `options` of a method.
    """
    together = {
        **_joined_options(configs),
        **_joined_parameters(configs, names),
        **_joined_variants(configs),
    }
    if not together:
        return list(argv)
    end = len(argv) - argv[::-1].index(f"--config={configs[-1]}")
    return [*argv[:end], f"--config={yaml.safe_dump(together, sort_keys=False)}", *argv[end:]]


def _joined_parameters(configs: Sequence[Path], names: Collection[str]) -> dict[str, Any]:
    """Return the mappings of all files together, where the last of them is not complete."""
    together: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for config in configs:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        for name in content.keys() & set(names):
            last[name] = content[name]
            together[name] = joined(together.get(name) if last[name] else None, last[name])
    return {name: value for name, value in together.items() if value != last[name]}


def _joined_variants(configs: Sequence[Path]) -> dict[str, Any]:
    """Return the variants of all files together, where one of them begins with a plus; else nothing."""
    given = [yaml.safe_load(config.read_text(encoding="utf-8")) for config in configs]
    variants = [str(content["variant"] or "") for content in given if "variant" in content]
    if not any(variant.startswith("+") for variant in variants):
        return {}
    together: list[str] = []
    for variant in variants:
        before = together if variant.startswith("+") else []
        together = [*before, variant.removeprefix("+").strip()]
    return {"variant": " + ".join(filter(None, together))}


def joined(before: Any, now: Any) -> Any:
    """Join two mappings; the arguments of a class go where another class comes."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return now
    if now.get("class_path", before.get("class_path")) != before.get("class_path"):
        return now
    return {**before, **{key: joined(before.get(key), value) for key, value in now.items()}}


def _joined_options(configs: Sequence[Path]) -> dict[str, Any]:
    """Return a config that gives a method the `options` of all files together, as other settings merge.

    It is empty where the last options are complete. Options are those of a function by its `name`: under another name
    they begin anew.
    """
    together: dict[str, Any] = {}
    last: dict[str, Any] | None = None
    kind, name = None, None
    for config in configs:
        node = yaml.safe_load(config.read_text(encoding="utf-8")).get("method")
        given = node.get("init_args") if isinstance(node, dict) else None
        if not isinstance(given, dict):
            continue
        kind = node.get("class_path", kind)
        if given.get("name", name) != name:
            name, together = given["name"], {}
        if "options" in given:
            last = given["options"] or {}
            together = {**together, **last} if last else {}
    if together == (last or {}):
        return {}
    return {"method": {"class_path": kind, "init_args": {"options": together}}}


def _files_of(part: str) -> list[Path]:
    if Path(part).is_file():
        return [Path(part)]
    name = part.removeprefix("configs/").removesuffix(".yaml")
    name = name if "/" in name else f"reconstruct/{name}"
    if name in COMPOSED:
        logger.warning(
            "config %s is composed now and goes with the next release: use %s",
            part,
            " ".join(f"--config {_full(piece)}" for piece in COMPOSED[name].split("+")),
        )
        return config_files(COMPOSED[name])
    try:
        return [shipped_config(f"{name}.yaml")]
    except FileNotFoundError as error:
        # What looks like a path is one; else the name was meant to be one of ours.
        if part.startswith("configs/") or not Path(part).suffix:
            raise
        hint = nearest(part, shipped_names(), LEAST_LIKENESS)
        raise FileNotFoundError(f"config {part} does not exist{hint}.") from error


def _full(piece: str) -> str:
    return f"{piece if '/' in piece else f'reconstruct/{piece}'}.yaml"


def _config_folders() -> list[Path]:
    """A checkout has configs/ beside the package; an installed wheel has it inside."""
    package = Path(__file__).resolve().parents[2]
    return [
        folder for folder in (package.parent / "configs", package / "configs") if folder.is_dir()
    ]
