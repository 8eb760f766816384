"""Runs rules over a model until none applies any more."""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxfold.errors import BadOptionError
from onnxfold.ir.graph import describe, every_node
from onnxfold.rewrite.builder import Refused
from onnxfold.rewrite.ledger import Failure, Rejection
from onnxfold.rewrite.rewriter import RewriteError, Rewriter
from onnxfold.rewrite.rule import AnyRule, Reject

_LOOKS_PER_NODE = 50
"""A rule set that looks at nodes more often than this on average does not terminate."""


def apply_rules(rewriter: Rewriter, pass_name: str, rules: Sequence[AnyRule]) -> None:
    """Apply `rules` at every node, and again wherever something changed, until nothing does.

    A rule that raises is reported in the ledger and not asked again in this run; since rules only
    record, nothing needs to be undone.

    Args:
        rewriter: The model and its ledger.
        pass_name: The pass on whose behalf this happens.
        rules: Tried in this order at each node.

    Raises:
        BadOptionError: A rule says that it cannot do what the user asks for.
        RewriteError: The rules keep rewriting without an end.
    """
    _Run(rewriter, pass_name, rules).until_stable()


class _Run:
    def __init__(self, rewriter: Rewriter, pass_name: str, rules: Sequence[AnyRule]) -> None:
        self._rewriter = rewriter
        self._pass_name = pass_name
        self._by_root: dict[str, list[AnyRule]] = defaultdict(list)
        for rule in rules:
            for op_type in rule.roots:
                self._by_root[op_type].append(rule)
        self._raised: set[str] = set()

    def until_stable(self) -> None:
        model = self._rewriter.model
        looks_left = _LOOKS_PER_NODE * (100 + model.graph.num_nodes())
        while True:
            before = len(self._rewriter.ledger.applied)
            looks_left -= self._sweep(every_node(model.graph), looks_left)
            if len(self._rewriter.ledger.applied) == before or self._rewriter.ledger.exhausted:
                return

    def _sweep(self, nodes: Iterable[ir.Node], looks_left: int) -> int:
        """Look at `nodes` and at all that changes on the way; return the number of looks."""
        queue = deque(node for node in nodes if self._is_root(node))
        waiting = set(queue)
        looks = 0
        while queue and not self._rewriter.ledger.exhausted:
            node = queue.popleft()
            waiting.discard(node)
            if node.graph is None:
                continue
            looks += 1
            if looks > looks_left:
                raise RewriteError(
                    f"pass {self._pass_name} does not come to an end",
                    f"last node: {describe(node)}; please report the model",
                )
            for other in self._look(node):
                if other not in waiting and self._is_root(other):
                    waiting.add(other)
                    queue.append(other)
        return looks

    def _is_root(self, node: ir.Node) -> bool:
        return node.op_type in self._by_root and node.domain == ""

    def _look(self, node: ir.Node) -> list[ir.Node]:
        for rule in self._by_root[node.op_type]:
            if rule.name in self._raised:
                continue
            touched = self._try(rule, node)
            if touched is not None:
                return touched
        return []

    def _try(self, rule: AnyRule, node: ir.Node) -> list[ir.Node] | None:
        """Nodes to look at again when `rule` rewrote `node`, else None."""
        ledger = self._rewriter.ledger
        build = self._rewriter.builder(node)
        try:
            found = rule.match(node)
            outcome = found
            if found is not None and not isinstance(found, Reject):
                outcome = rule.rewrite(found, build)
        except Refused as refused:
            outcome = Reject(refused.reason, node)
        except BadOptionError:  # the user's mistake, not the rule's
            build.discard()
            raise
        except Exception as error:
            build.discard()
            self._raised.add(rule.name)
            ledger.failures.append(_failure(self._pass_name, rule.name, node, error))
            return None
        if outcome is None or isinstance(outcome, Reject):
            build.discard()
            self._note(rule, node, outcome)
            return None
        outputs = [outcome] if isinstance(outcome, ir.Value) else list(outcome)
        try:
            return self._rewriter.replace(
                node, outputs, build, pass_name=self._pass_name, rule=rule.name
            )
        except RewriteError as error:  # the replacement does not fit; nothing was changed
            build.discard()
            self._raised.add(rule.name)
            ledger.failures.append(_failure(self._pass_name, rule.name, node, error))
            return None

    def _note(self, rule: AnyRule, node: ir.Node, outcome: Reject | None) -> None:
        if outcome is None:
            self._rewriter.ledger.forget(self._pass_name, rule.name, node)
            return
        reason = outcome.reason
        if outcome.node is not node:
            reason = f"{reason} ({describe(outcome.node)})"
        rejection = Rejection(self._pass_name, rule.name, describe(node), node.op_type, reason)
        self._rewriter.ledger.reject(node, rejection)


def _failure(pass_name: str, rule: str, node: ir.Node, error: Exception) -> Failure:
    text = str(error).strip().splitlines()
    summary = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    return Failure(pass_name, rule, describe(node), summary)
