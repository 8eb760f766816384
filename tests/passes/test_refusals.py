"""Every reason that a pass can give is given, and then nothing is changed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxfold.passes.presets import BUILTIN, DEFAULT
from onnxfold.pipeline.manager import PassManager
from tests.passes.refusals import AFTER, BEFORE, Refusal
from tests.passes.refusals_of_others import FOLD, PAD, UNPACK
from tests.toolkit import rewritten, unchanged

REFUSALS = [*AFTER, *BEFORE, *PAD, *FOLD, *UNPACK]
_ROOT = Path(__file__).parents[2]
_TOO_LARGE = "its constants are too large to be computed in one piece"


@pytest.mark.parametrize(
    "case", REFUSALS, ids=[f"{i}-{case.reason[:60]}" for i, case in enumerate(REFUSALS)]
)
def test_near_miss_is_left_alone_and_reported(case: Refusal) -> None:
    model = case.model()
    if case.valid:
        unchanged(model, *case.passes, reason=case.reason)
        return
    after, ledger = rewritten(model, case.passes)
    assert not ledger.failures, ledger.failures
    assert not ledger.applied
    assert case.reason in [re.sub(r" \(\w+ of .*$", "", r.reason) for r in ledger.rejections]
    assert len(after.graph.node) == len(model.graph.node)


def test_constants_beyond_a_gigabyte_are_not_computed() -> None:
    huge = ir.Value(name="k", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2**28 + 1]))
    huge.const_value = ir.Tensor(np.zeros(2**28 + 1, np.float32), name="k")
    node = ir.node("Neg", [huge])
    node.outputs[0].name = "y"
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=[huge], opset_imports={"": 18})
    step = next(step for step in BUILTIN if step.name == "fold_constants")
    run = PassManager([step]).run(ir.Model(graph, ir_version=9))
    assert [each.reason for each in run.ledger.rejections] == [_TOO_LARGE]
    assert not run.ledger.applied


def test_every_reason_in_the_sources_is_provoked() -> None:
    given = [*(case.reason for case in REFUSALS), _TOO_LARGE]
    found = dict(_reasons())
    assert len(found) > 40
    never = {
        pattern: place
        for pattern, place in found.items()
        if not any(re.fullmatch(pattern, reason) for reason in given)
        and not any(part in re.sub(r"\\(.)", r"\1", pattern) for part in _expected_of_regions())
    }
    assert never == {}


def _expected_of_regions() -> list[str]:
    """The reasons, or parts of them, that the tests of the region engine expect."""
    files = (
        _ROOT / "tests/passes/test_merge_branches.py",
        _ROOT / "tests/passes/test_fold_data.py",
        _ROOT / "tests/passes/test_fold_linear.py",
        _ROOT / "tests/passes/test_fold_skip.py",
        _ROOT / "tests/passes/test_fold_upsample.py",
        _ROOT / "tests/passes/test_merge_sequential.py",
        _ROOT / "tests/linear/test_reading.py",
    )
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ")
    ]


def _reasons() -> Iterator[tuple[str, str]]:
    """Every sentence in the passes and in what they use of the linear engine, as a pattern."""
    for file in sorted(_sources()):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in _outside_of_prose(tree):
            pattern = _pattern(node)
            if pattern is not None and pattern.count("\\ ") >= 3 and "|" not in pattern:
                yield pattern, file.name


def _sources() -> set[Path]:
    """The files of the passes under test, and the modules of the linear engine they import."""
    found: set[Path] = set()
    pending = [_ROOT / "passes" / f"{step.name}.py" for step in DEFAULT]
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module is not None and module.startswith("onnxfold.linear."):
                pending.append(_ROOT / "onnxfold" / "linear" / f"{module.split('.')[-1]}.py")
    return found


def _outside_of_prose(tree: ast.AST) -> Iterator[ast.expr]:
    """Expressions, but no docstrings, no annotations and no parts of f-strings."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.expr):
            yield child
        if not isinstance(child, ast.JoinedStr):
            yield from _outside_of_prose(child)


def _pattern(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant):
        return re.escape(node.value) if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    return "".join(
        re.escape(part.value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
        else ".*"
        for part in node.values
    )
