"""Passes as people type them, and whose mistake it is when one stops."""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxfold.errors import BadModelError, BadOptionError, OnnxfoldError
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.passes.presets import BUILTIN
from onnxfold.pipeline.passes import ConfiguredPass, EditPass, ModelPass, Pass, RulePass
from onnxfold.pipeline.registry import Registry
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness, Rule
from tests.verify.networks import conv_net

NET = conv_net(1, 4)
QUICK = OptimizeOptions(threads=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("to_fp16:keep=a;b", "a;b"),
        ('to_fp16:keep="a,b"', "a,b"),
        ('to_fp16:keep="C:/my files/a,b=c.npz"', "C:/my files/a,b=c.npz"),
        ('to_fp16:keep=/a" "b:keep_io=no', "/a b"),
        ('to_fp16:keep="to_fp16:keep=x"', "to_fp16:keep=x"),
        ('to_fp16:keep=""', ""),
        ("to_fp16:keep=C\\d", "C\\d"),
    ],
)
def test_quotes(text: str, value: str) -> None:
    listed = Registry(BUILTIN).parse(f"fuse_bn, {text},, share_duplicates")
    assert [each.name for each in listed] == ["fuse_bn", "to_fp16", "share_duplicates"]
    assert listed[1].options.keep == value


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pass raises."""

    error: OnnxfoldError = BadOptionError("the file is not there", "check the path")  # noqa: RUF009


def broken_edit(_: Rewriter, options: Wanted) -> None:
    raise options.error


def broken_model(_: ir.Model, options: Wanted) -> ir.Model:
    raise options.error


def broken_rule(options: Wanted) -> tuple[Rule[ir.Node]]:
    def rewrite(_: ir.Node, __: Builder) -> ir.Value:
        raise options.error

    return (Rule("broken", frozenset({"Conv"}), lambda node: node, rewrite),)


KINDS: list[Pass] = [
    EditPass("broken", broken_edit, "Raises.", options_type=Wanted),
    EditPass("broken", broken_edit, "Raises.", exactness=Exactness.LOSSY, options_type=Wanted),
    ModelPass("broken", broken_model, "Raises.", options_type=Wanted),
    RulePass("broken", broken_rule, "Raises.", options_type=Wanted),
]


@pytest.mark.parametrize("step", KINDS)
def test_a_mistake_of_the_user_ends_the_run(step: Pass, tmp_path: Path) -> None:
    with pytest.raises(BadOptionError, match="the file is not there"):
        optimize(NET, tmp_path / "out.onnx", passes=[step], options=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_a_lossy_pass_does_not_take_ends_the_run(tmp_path: Path) -> None:
    (step,) = (step for step in KINDS if step.exactness is Exactness.LOSSY)
    broken = ConfiguredPass(step, Wanted(BadModelError("it is too old")))
    with pytest.raises(BadModelError, match="it is too old"):
        optimize(NET, tmp_path / "out.onnx", passes=[broken], options=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [step for step in KINDS if step.exactness != "lossy"])
def test_a_failure_of_the_pass_does_not(step: Pass, tmp_path: Path) -> None:
    broken = ConfiguredPass(step, Wanted(BadModelError("the graph has a cycle")))
    report = optimize(NET, tmp_path / "out.onnx", passes=[broken], options=QUICK).report
    assert [each.error for each in report.failures] == ["BadModelError: the graph has a cycle"]
    assert (tmp_path / "out.onnx").exists()
