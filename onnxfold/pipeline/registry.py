"""Finds passes by name, and reads `name:option=value` as people type it."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from onnxfold.errors import BadOptionError, PluginError
from onnxfold.pipeline.passes import ConfiguredPass, Pass

_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Registry:
    """The passes that a run can name."""

    def __init__(self, passes: Iterable[Pass] = ()) -> None:
        self._passes: dict[str, Pass] = {}
        for step in passes:
            self.add(step)

    def add(self, step: Pass, origin: str = "") -> None:
        """Add a pass.

        Args:
            step: The pass.
            origin: Where it comes from, for the error message.

        Raises:
            PluginError: There is a pass of that name already.
        """
        if step.name in self._passes:
            raise PluginError(
                f"{origin or 'a plugin'} defines the pass '{step.name}', which exists already",
                "rename the pass in the plugin",
            )
        self._passes[step.name] = step

    def __iter__(self) -> Iterator[Pass]:
        """The passes in the order in which they were added."""
        return iter(self._passes.values())

    def get(self, name: str) -> Pass:
        """The pass of that name.

        Raises:
            BadOptionError: There is none; the hint gives the nearest name.
        """
        if (step := self._passes.get(name)) is not None:
            return step
        near = difflib.get_close_matches(name, self._passes, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "see `onnxfold passes`"
        raise BadOptionError(f"there is no pass '{name}'", hint)

    def parse(self, specification: str) -> list[ConfiguredPass]:
        """Read a comma-separated list of passes.

        Args:
            specification: For instance `fold_constants:max_bytes=4096,fuse_bn`. What stands in
                double quotes is taken as it is: `to_fp16:calibration="C:/a,b.npz"`.

        Raises:
            BadOptionError: A pass, an option or a value is not known.
        """
        if specification.count('"') % 2:
            raise BadOptionError("a double quote is open in the list of passes", "close it")
        names = [part.strip() for part in _parts(specification, ",") if part.strip()]
        if not names:
            raise BadOptionError("the list of passes is empty", "see `onnxfold passes`")
        return [self._configured(name) for name in names]

    def _configured(self, text: str) -> ConfiguredPass:
        name, *assignments = _parts(text, ":")
        step = self.get(name)
        values = dict(_assignment(step, assignment) for assignment in assignments)
        try:
            options = step.options_type(**values)
        except Exception as error:  # the options of a plugin may check themselves
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise BadOptionError(
                f"pass '{name}' does not take these options: {reason}",
                f"see `onnxfold passes {name}`",
            ) from error
        return ConfiguredPass(step, options)


def option_fields(step: Pass) -> Sequence[tuple[str, type[Any], Any]]:
    """Name, type and default of every option of a pass."""
    hints, defaults = get_type_hints(step.options_type), step.options_type()
    return [
        (field.name, hints[field.name], getattr(defaults, field.name))
        for field in fields(step.options_type)
        if field.init
    ]


def _parts(text: str, separator: str) -> list[str]:
    """`text` cut at each `separator` that does not stand in double quotes."""
    return re.split(rf'{separator}(?=(?:[^"]*"[^"]*")*[^"]*\Z)', text)


def _assignment(step: Pass, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    known = {name: kind for name, kind, _ in option_fields(step)}
    if not equals or key not in known:
        options = ", ".join(known)
        hint = f"{options}; a value with : or , stands in double quotes" if known else "none"
        raise BadOptionError(f"pass '{step.name}' has no option '{key}'", f"its options: {hint}")
    return key, _value(step, key, known[key], value.replace('"', ""))


def _value(step: Pass, key: str, kind: type[Any], text: str) -> Any:
    if kind is bool and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    if kind is str:
        return text
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    raise BadOptionError(
        f"option '{key}' of pass '{step.name}' cannot be '{text}'",
        f"it takes {_KINDS.get(kind, 'what cannot be given as text')}",
    )
