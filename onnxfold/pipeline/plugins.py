"""Passes of others: from installed packages, and from files named on the command line.

An installed package names its passes in the entry point group `onnxfold.passes`; what an entry
point refers to is a pass, several of them (any iterable), or a function without parameters that
returns one of these. A plugin file defines `PASS`, one pass, or `PASSES`, several, or both; nothing
else in it is looked at.
"""

import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxfold.errors import PluginError
from onnxfold.pipeline.passes import Pass
from onnxfold.pipeline.registry import Registry
from onnxfold.rewrite.rule import Exactness

ENTRY_POINT_GROUP = "onnxfold.passes"

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")

_CONTRACT_HINT = "define PASS = RulePass(...), EditPass(...) or ModelPass(...), or PASSES = (...)"


def load_plugins(
    registry: Registry, files: Sequence[Path] = (), entry_points: bool = True
) -> tuple[str, ...]:
    """Add the passes of plugins to a registry.

    Args:
        registry: Holds the passes that are known already.
        files: Python files, in the order in which they were given.
        entry_points: Whether to look for passes of installed packages too.

    Returns:
        One sentence for each installed package whose passes cannot be used. They are left out:
        somebody who does not use them is not to be stopped by them.

    Raises:
        PluginError: A file cannot be used, or a plugin has a pass of a name that is taken, because
            then the name would not say any more what runs.
    """
    warnings: list[str] = []
    if entry_points:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
            try:
                passes = _passes_of_entry_point(entry)
            except PluginError as error:
                warnings.append(error.message)
                continue
            for step in passes:
                registry.add(step, _origin(entry))
    for path in files:
        for step in passes_of_file(path):
            registry.add(step, str(path))
    return tuple(warnings)


def passes_of_file(path: Path) -> list[Pass]:
    """The passes that a Python file defines as `PASS` and `PASSES`.

    Args:
        path: The file; it is run anew each time.

    Raises:
        PluginError: There is no such file, it raises, or it defines no pass.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise PluginError(f"the plugin {path} {problem}", "give the path of a Python file")
    module = _run(path)
    found: list[Pass] = []
    if hasattr(module, "PASS"):
        found.append(_checked(module.PASS, f"PASS in {path}"))
    if hasattr(module, "PASSES"):
        found += _several(module.PASSES, f"PASSES in {path}")
    if not found:
        raise PluginError(f"the plugin {path} defines no pass", _CONTRACT_HINT)
    return found


def _run(path: Path) -> ModuleType:
    # Registered while it runs and after: dataclasses look their module up by name.
    name = f"onnxfold_plugin_{path.stem}_{zlib.crc32(os.fsencode(path.resolve())):08x}"
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise PluginError(f"the plugin {path} cannot be loaded", "give the path of a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(
            f"the plugin {path} cannot be loaded: {_summary(error)}", _where(error, path)
        ) from error
    return module


def _summary(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _where(error: BaseException, path: Path) -> str:
    """The line of the plugin at which it raised, as a hint."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"see line {error.lineno} of {path}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"see line {lines[-1]} of {path}" if lines else f"run it alone: python {path}"


def _passes_of_entry_point(entry: importlib.metadata.EntryPoint) -> list[Pass]:
    origin = _origin(entry)
    try:
        offered = entry.load()
        if callable(offered) and not _looks_like_pass(offered):
            offered = offered()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{origin} cannot be loaded: {_summary(error)}") from error
    if _looks_like_pass(offered):
        return [_checked(offered, origin)]
    return _several(offered, origin)


def _origin(entry: importlib.metadata.EntryPoint) -> str:
    package = "a package" if entry.dist is None else f"the package {entry.dist.name}"
    return f"the plugin '{entry.name}' of {package}"


def _several(offered: object, origin: str) -> list[Pass]:
    if not isinstance(offered, Iterable) or isinstance(offered, str | bytes):
        raise PluginError(
            f"{origin} is a {type(offered).__name__} where passes are wanted", _CONTRACT_HINT
        )
    try:
        steps = list(offered)
    except Exception as error:
        raise PluginError(f"{origin} cannot be listed: {_summary(error)}") from error
    if not steps:
        raise PluginError(f"{origin} is empty", _CONTRACT_HINT)
    return [_checked(step, origin) for step in steps]


def _looks_like_pass(offered: object) -> bool:
    return not isinstance(offered, type) and callable(getattr(offered, "run", None))


def _checked(step: Any, origin: str) -> Pass:
    """`step` as a pass.

    Raises:
        PluginError: It is none: an attribute is missing or of another type, or it cannot be named.
    """
    problem = _problem(step)
    if problem is not None:
        raise PluginError(f"{origin} is not a pass: {problem}", _CONTRACT_HINT)
    checked: Pass = step
    return checked


def _problem(step: Any) -> str | None:
    if not _looks_like_pass(step):
        kind = step.__name__ if isinstance(step, type) else type(step).__name__
        return f"{kind} has no method run"
    name = getattr(step, "name", None)
    if not isinstance(name, str) or not _NAME.match(name):
        return f"its name is {name!r}, and should be snake_case"
    if not isinstance(getattr(step, "documentation", None), str):
        return "it has no documentation"
    if not isinstance(getattr(step, "exactness", None), Exactness):
        return "it does not state its exactness"
    options_type = getattr(step, "options_type", None)
    if not isinstance(options_type, type) or not is_dataclass(options_type):
        return "its options_type is not a dataclass"
    try:
        options_type()
    except Exception:
        return "an option has no default"
    return None
