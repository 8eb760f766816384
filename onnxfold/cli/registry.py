"""The passes that a command knows: the library, installed plugins, and plugin files."""

from collections.abc import Sequence
from pathlib import Path

from onnxfold.cli.talk import stdout_kept_clean, warn
from onnxfold.passes.presets import BUILTIN
from onnxfold.pipeline.plugins import load_plugins
from onnxfold.pipeline.registry import Registry


def all_passes(files: Sequence[str]) -> Registry:
    """The library with all plugins.

    Args:
        files: Python files given with --plugin.

    Raises:
        PluginError: A file cannot be loaded, or two passes have the same name.
    """
    registry = Registry(BUILTIN)
    with stdout_kept_clean():
        warnings = load_plugins(registry, [Path(file) for file in files])
    for warning in warnings:
        warn(warning)
    return registry
