"""What was rewritten, what nearly was, and what may not be: numbered, so that blame is a search."""

from collections import Counter
from dataclasses import dataclass, field

import onnx_ir as ir


@dataclass(frozen=True, slots=True, order=True)
class RewriteKey:
    """Identifies one rewrite across runs of the same passes over the same model.

    Output names survive rewriting, so the name of the output that is replaced says where; the
    occurrence tells apart several rewrites by one rule that end in the same output.
    """

    pass_name: str
    rule: str
    output: str
    occurrence: int

    def __str__(self) -> str:
        """The form that reports show."""
        return f"{self.pass_name}/{self.rule} at '{self.output}'"


@dataclass(frozen=True, slots=True)
class AppliedRewrite:
    """One rewrite that was made.

    Attributes:
        number: Its place in the run, counted from 1.
        key: What it was.
        sources: Names of the nodes that it removed.
        created: How many nodes it put in their place.
    """

    number: int
    key: RewriteKey
    sources: tuple[str, ...]
    created: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """One pattern that was found and left alone, and why.

    Attributes:
        pass_name: The pass that looked.
        rule: The rule of that pass.
        node: The node at which the pattern ends.
        reason: Why it was left alone, naming the node that stands in the way.
    """

    pass_name: str
    rule: str
    node: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A pass or a rule that raised; what it was about to do was not done."""

    pass_name: str
    rule: str
    node: str
    error: str


@dataclass(slots=True)
class Ledger:
    """Admits, numbers and records the rewrites of one run.

    Attributes:
        limit: Rewrites above this number are not made; None for no limit.
        blocked: Rewrites that may not be made, because an earlier run proved them wrong.
        applied: The rewrites made, in order.
        failures: What raised.
    """

    limit: int | None = None
    blocked: frozenset[RewriteKey] = frozenset()
    applied: list[AppliedRewrite] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    _rejections: dict[tuple[str, str, int], tuple[ir.Node, Rejection]] = field(default_factory=dict)
    _occurrences: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def admit(self, pass_name: str, rule: str, output: str) -> RewriteKey | None:
        """The key under which this rewrite may be made now, or None when it may not."""
        if self.exhausted:
            return None
        key = RewriteKey(pass_name, rule, output, self._occurrences[pass_name, rule, output])
        return None if key in self.blocked else key

    @property
    def exhausted(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and len(self.applied) >= self.limit

    def record(self, key: RewriteKey, sources: tuple[str, ...], created: int) -> None:
        """Note a rewrite that was made."""
        self._occurrences[key.pass_name, key.rule, key.output] += 1
        self.applied.append(AppliedRewrite(len(self.applied) + 1, key, sources, created))

    def reject(self, node: ir.Node, rejection: Rejection) -> None:
        """Note a near miss at `node`; a later look at the same node replaces it."""
        self._rejections[rejection.pass_name, rejection.rule, id(node)] = (node, rejection)

    def forget(self, pass_name: str, rule: str, node: ir.Node) -> None:
        """Drop a near miss at `node` that is none any more."""
        self._rejections.pop((pass_name, rule, id(node)), None)

    @property
    def rejections(self) -> list[Rejection]:
        """The near misses whose node is still there."""
        return [
            rejection for node, rejection in self._rejections.values() if node.graph is not None
        ]
