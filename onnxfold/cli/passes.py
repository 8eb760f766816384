"""`onnxfold passes`."""

import inspect
from typing import Any

import click

from onnxfold.cli import options as shared
from onnxfold.cli.output import print_json, print_line, print_rows
from onnxfold.cli.registry import all_passes
from onnxfold.passes.presets import DEFAULT
from onnxfold.pipeline.passes import Pass
from onnxfold.pipeline.registry import option_fields


@click.command(name="passes")
@click.argument("name", required=False)
@shared.plugin_option
@shared.json_option
def command(name: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """List the passes, or print what NAME does, when it refuses, and its options.

    \b
    Examples:
      onnxfold passes
      onnxfold passes fuse_bn
    """
    registry = all_passes(plugins)
    chosen = list(registry) if name is None else [registry.get(name)]
    if as_json:
        print_json({"passes": [_as_dict(step) for step in chosen]})
    elif name is None:
        rows = [(s.name, _default(s), str(s.exactness), _summary(s)) for s in chosen]
        print_rows(("pass", "default", "exactness", "what it does"), rows)
    else:
        _document(chosen[0])


def _document(step: Pass) -> None:
    print_line(f"{step.name} ({step.exactness})\n")
    print_line(inspect.cleandoc(step.documentation))
    for key, kind, default in option_fields(step):
        print_line(f"\nOption {step.name}:{key}={_kind(kind)}, by default {default}")


def _as_dict(step: Pass) -> dict[str, object]:
    return {
        "name": step.name,
        "default": any(step.name == other.name for other in DEFAULT),
        "exactness": str(step.exactness),
        "documentation": inspect.cleandoc(step.documentation),
        "options": {
            key: {"type": _kind(kind), "default": default}
            for key, kind, default in option_fields(step)
        },
    }


def _kind(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _default(step: Pass) -> str:
    return "yes" if any(step.name == other.name for other in DEFAULT) else ""


def _summary(step: Pass) -> str:
    lines = inspect.cleandoc(step.documentation).splitlines()
    return lines[0].rstrip(".") if lines else ""
