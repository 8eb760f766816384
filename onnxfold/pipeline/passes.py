"""What a pass is: three kinds, one contract."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnx_ir as ir

from onnxfold.rewrite.driver import apply_rules
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import AnyRule, Exactness


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a pass that has none."""


class Pass(Protocol):
    """One named step of a pipeline.

    Attributes:
        name: snake_case and short, because people type it.
        documentation: What `onnxfold passes NAME` prints; the first line is the summary.
        exactness: What the pass promises about the numbers.
        options_type: A frozen dataclass whose fields are the options, each with a default.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def documentation(self) -> str: ...  # noqa: D102
    @property
    def exactness(self) -> Exactness: ...  # noqa: D102
    @property
    def options_type(self) -> type[Any]: ...  # noqa: D102

    def run(self, rewriter: Rewriter, options: Any) -> None:
        """Rewrite `rewriter.model`; every change goes through `rewriter`."""
        ...


@dataclass(frozen=True, slots=True)
class RulePass:
    """A pass that applies rules at every node until none applies any more."""

    name: str
    rules: Callable[[Any], Sequence[AnyRule]]
    documentation: str
    exactness: Exactness = Exactness.REASSOCIATED
    options_type: type[Any] = NoOptions

    def run(self, rewriter: Rewriter, options: Any) -> None:
        """Apply the rules that these options ask for."""
        apply_rules(rewriter, self.name, self.rules(options))


@dataclass(frozen=True, slots=True)
class EditPass:
    """A pass that looks at the whole model and asks the rewriter for single edits."""

    name: str
    edit: Callable[[Rewriter, Any], None]
    documentation: str
    exactness: Exactness = Exactness.EXACT
    options_type: type[Any] = NoOptions

    def run(self, rewriter: Rewriter, options: Any) -> None:
        """Make the edits."""
        self.edit(rewriter, options)


@dataclass(frozen=True, slots=True)
class ModelPass:
    """A pass that turns one model into another: foreign tools and graphsurgeon functions.

    It counts as a single rewrite, which is made whole or not at all.
    """

    name: str
    transform: Callable[[ir.Model, Any], ir.Model]
    documentation: str
    exactness: Exactness = Exactness.REASSOCIATED
    options_type: type[Any] = NoOptions

    def run(self, rewriter: Rewriter, options: Any) -> None:
        """Adopt the transformed model when its interface is that of the old one."""
        rewriter.adopt(lambda model: self.transform(model, options), pass_name=self.name)


@dataclass(frozen=True, slots=True)
class ConfiguredPass:
    """A pass together with the options it is to run with."""

    step: Pass
    options: Any

    @property
    def name(self) -> str:
        """The name of the pass."""
        return self.step.name


def configured(step: Pass | ConfiguredPass) -> ConfiguredPass:
    """`step` with its default options, unless it has options already."""
    return step if isinstance(step, ConfiguredPass) else ConfiguredPass(step, step.options_type())
