"""A wrong rewrite is found, taken back alone, and reported; everything else stays."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxfold.errors import NotEqualError
from onnxfold.interop.graphsurgeon import graphsurgeon_pass
from onnxfold.model import load
from onnxfold.optimization import Optimization, OptimizeOptions, optimize
from onnxfold.passes import fuse_bn, presets
from onnxfold.pipeline.blame import first_bad
from onnxfold.pipeline.passes import ConfiguredPass, NoOptions, Pass, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.ledger import AppliedRewrite, RewriteKey
from onnxfold.rewrite.rewriter import RULE_KEY, Rewriter
from onnxfold.rewrite.rule import AnyRule, Reject, Replacement
from onnxfold.verify import VerifyOptions, verify
from tests import zoo
from tests.pipeline import saboteurs as s
from tests.verify.networks import model, tensor

QUICK = OptimizeOptions(threads=1)


def run(source: onnx.ModelProto, *passes: Pass | ConfiguredPass) -> Optimization:
    """Optimize in memory, and prove once more that the result is right."""
    result = optimize(source, passes=passes, options=QUICK)
    assert result.report.verdict is not None
    assert result.report.verdict.equal
    assert verify(source, result.to_proto(), VerifyOptions(threads=1, seed=7)).equal
    onnx.checker.check_model(result.to_proto(), full_check=True)
    return result


def taken_back(result: Optimization) -> list[str]:
    return [str(entry.rewrite.key) for entry in result.report.rolled_back]


def made(result: Optimization) -> list[str]:
    return [rewrite.key.output for rewrite in result.report.applied]


@pytest.mark.parametrize("wrong", [0, 3, 7])
def test_one_weight_of_many_is_scaled(wrong: int) -> None:
    work = s.mostly(s.rescaled(1.0), s.rescaled(1.01), f"conv{wrong}")
    result = run(s.chain(), s.at_every("Conv", work))
    assert taken_back(result) == [f"saboteur/again at 'c{wrong}'"]
    assert made(result) == [*(f"c{i}" for i in range(8) if i != wrong), "scores"]
    (entry,) = result.report.rolled_back
    assert "is not equal on" in entry.reason
    assert entry.rewrite.sources == (f"conv{wrong}",)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (s.another_type, "candidate does not"),
        (s.another_shape, ""),
        (s.dangling, "the ONNX checker refuses it"),
        (s.not_a_number, "is not equal on"),
    ],
)
def test_what_is_no_model_or_no_number(work: s.Work, reason: str) -> None:
    result = run(s.chain(), s.at_every("Relu", s.mostly(s.same, work, "relu5")))
    assert taken_back(result) == ["saboteur/again at 'r5'"]
    assert made(result) == [f"r{i}" for i in range(8) if i != 5]
    assert reason in result.report.rolled_back[0].reason
    assert not result.report.failures


def test_a_border_is_seen() -> None:
    source = s.chain(2)
    source.graph.initializer.append(tensor("t", np.full((1, 6, 1, 1), 0.5, np.float32)))
    source.graph.node.insert(2, helper.make_node("Add", ["r0", "t"], ["a"], "shift"))
    source.graph.node[3].input[0] = "a"
    result = run(source, s.at_every("Conv", s.shift_through_border))
    assert taken_back(result) == ["saboteur/again at 'c1'"]
    assert made(result) == ["c0", "scores"]


@pytest.mark.parametrize("labels", [True, False])
def test_swapped_labels_are_seen(labels: bool) -> None:
    work = s.mostly(s.same, s.swapped_classes, "classifier")
    result = run(s.chain(3, labels=labels), s.at_every("Conv", work))
    assert taken_back(result) == ["saboteur/again at 'scores'"]
    assert made(result) == ["c0", "c1", "c2"]


def test_two_wrong_rewrites_of_one_pass() -> None:
    work = s.mostly(s.same, s.rescaled(1.01), "conv1", "conv6")
    result = run(s.chain(), s.at_every("Conv", work))
    assert taken_back(result) == ["saboteur/again at 'c1'", "saboteur/again at 'c6'"]
    assert made(result) == ["c0", "c2", "c3", "c4", "c5", "c7", "scores"]


def test_wrong_rewrites_of_two_passes() -> None:
    result = run(
        s.chain(4),
        s.at_every("Relu", s.mostly(s.same, s.not_a_number, "relu2"), name="first"),
        s.at_every("Conv", s.mostly(s.same, s.rescaled(0.99), "conv2"), name="second"),
    )
    assert sorted(taken_back(result)) == ["first/again at 'r2'", "second/again at 'c2'"]
    assert made(result) == ["r0", "r1", "r3", "c0", "c1", "c3", "scores"]


def test_two_errors_that_hide_each_other() -> None:
    """Twice the one and half the other is right: there is nothing to take back."""
    chain = s.chain(1)
    chain.graph.node.append(helper.make_node("Relu", ["scores"], ["y"], "last"))
    del chain.graph.output[:]
    chain.graph.output.append(helper.make_tensor_value_info("y", 1, ["N", 4, "H", "W"]))
    biasless = chain.graph.node[0].input.pop()
    chain.graph.initializer.remove(next(t for t in chain.graph.initializer if t.name == biasless))
    halves = s.mostly(s.rescaled(2.0), s.rescaled(0.5), "classifier")
    result = run(chain, s.at_every("Conv", halves))
    assert taken_back(result) == []


def test_wrong_only_in_company() -> None:
    """A makes a LeakyRelu of a Relu before a Relu; B drops a Relu behind what was a Relu."""
    source = s.chain(2)
    source.graph.node.insert(2, helper.make_node("Relu", ["r0"], ["rr"], "second"))
    source.graph.node[3].input[0] = "rr"

    def leaky(node: ir.Node, build: Builder) -> ir.Value:
        if node.name != "relu0":
            return s.same(node, build)
        return build.op("LeakyRelu", [node.inputs[0]], {"alpha": 0.3})

    def drop(rewriter: Rewriter) -> None:
        for node in list(rewriter.model.graph):
            if node.op_type != "Relu" or node.inputs[0] is None:
                continue
            before = node.inputs[0].producer()
            if (
                before is not None
                and "Relu" in before.op_type
                and RULE_KEY in before.metadata_props
            ):
                rewriter.replace(
                    node, [node.inputs[0]], rewriter.builder(node), pass_name="b", rule="drop"
                )

    a = s.at_every("Relu", s.mostly(s.same, leaky, "relu0"), name="a")
    result = run(source, a, s.edit_pass(drop, "b"))
    assert taken_back(result) == ["b/drop at 'rr'"]
    assert made(result) == ["r0", "r1", "rr"] or made(result) == ["r0", "rr", "r1"]
    assert [e.key.pass_name for e in result.report.applied] == ["a", "a", "a"]


def test_a_whole_model_pass_is_taken_back_and_others_stay() -> None:
    @graphsurgeon_pass("sharpen")
    def sharpen(graph) -> None:  # type: ignore[no-untyped-def]
        """Scale a weight, as a function on a graphsurgeon graph."""
        weight = graph.tensors()["w1"]
        weight.values = weight.values * np.float32(1.01)

    before = s.at_every("Conv", s.same, name="before")
    after = s.at_every("Relu", s.same, name="after")
    result = run(s.chain(3), before, sharpen, after)
    assert [e.rewrite.key.pass_name for e in result.report.rolled_back] == ["sharpen"]
    assert result.report.rewrites_by_pass() == {"before": 4, "after": 3}


def test_a_whole_model_pass_that_adopts_nonsense() -> None:
    def cut(copy: ir.Model) -> None:
        copy.graph.outputs[0].name = "renamed"

    result = run(s.chain(2), s.model_pass(cut), s.at_every("Conv", s.same))
    (failure,) = result.report.failures
    assert failure.pass_name == "rewriter"
    assert "interface" in failure.error
    assert made(result) == ["c0", "c1", "scores"]


def test_too_many_wrong_rewrites(tmp_path: Path) -> None:
    source, output = s.written(s.chain(22), tmp_path / "in.onnx"), tmp_path / "out.onnx"
    said: list[str] = []
    with pytest.raises(NotEqualError) as caught:
        optimize(
            source,
            output,
            passes=[s.at_every("Relu", s.not_a_number)],
            options=OptimizeOptions(threads=1, input_shapes={"x": (1, 3, 9, 8)}),
            progress=said.append,
        )
    assert caught.value.message.startswith("the result is wrong even without 20 rewrites: ")
    assert caught.value.hint == "the last was saboteur/again at 'r19'; leave its pass out"
    assert caught.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]
    looks = [text for text in said if text.startswith("looking for the rewrite to blame: ")]
    assert 20 <= len(looks) < 32  # and not 20 whole searches


def test_a_replacement_of_another_type_is_refused_at_once() -> None:
    work = s.mostly(s.same, s.declared_other_type, "relu5")
    result = run(s.chain(), s.at_every("Relu", work), s.at_every("Conv", s.same, name="other"))
    (failure,) = result.report.failures
    assert (failure.pass_name, failure.rule) == ("saboteur", "again")
    assert "FLOAT16" in failure.error
    assert taken_back(result) == []
    assert made(result)[:5] == [f"r{i}" for i in range(5)]
    assert result.report.rewrites_by_pass()["other"] == 9


def test_a_rule_that_raises_is_not_asked_again() -> None:
    work = s.mostly(s.same, s.raising, "relu2")
    result = run(s.chain(5), s.at_every("Relu", work), s.at_every("Conv", s.same, name="other"))
    (failure,) = result.report.failures
    assert failure.error == "KeyError: 'scale'"
    assert "relu2" in failure.node
    assert made(result) == ["r0", "r1", *(f"c{i}" for i in range(5)), "scores"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), RecursionError("deep")])
def test_a_pass_that_raises_half_way_leaves_nothing_behind(error: BaseException) -> None:
    def edit(rewriter: Rewriter) -> None:
        node = rewriter.model.graph[0]
        build = rewriter.builder(node)
        rewriter.replace(node, [s.same(node, build)], build, pass_name="meddler", rule="x")
        s.scale_in_place(rewriter.model.graph, "w2", 3.0)
        raise error

    result = run(s.chain(4), s.edit_pass(edit), s.at_every("Relu", s.same))
    (failure,) = result.report.failures
    assert failure.pass_name == "meddler"
    assert failure.error == f"{type(error).__name__}: {error}"
    assert made(result) == ["r0", "r1", "r2", "r3"]
    assert taken_back(result) == []
    assert [timing.name for timing in result.report.timings] == ["saboteur"]


def test_a_pass_that_edits_without_the_rewriter_is_found() -> None:
    passes: list[Pass] = [
        s.at_every("Relu", s.same, name="first"),
        s.edit_pass(lambda rewriter: s.scale_in_place(rewriter.model.graph, "w1", 1.01)),
        s.at_every("Conv", s.same, name="last"),
    ]
    result = run(s.chain(3), *passes)
    (failure,) = result.report.failures
    assert failure.pass_name == "meddler"
    assert failure.error.startswith("it edited the graph without the rewriter, and output scores")
    assert result.report.rewrites_by_pass() == {"first": 3, "last": 4}
    assert taken_back(result) == []


def test_the_model_itself_is_to_blame(tmp_path: Path) -> None:
    """A tolerance that the model's own rounding breaks is nobody's fault, and is said."""
    scale = tensor("s", np.float32(1.1))
    source = model(
        [helper.make_node("Mul", ["x", "s"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [scale],
    )

    def shake(rewriter: Rewriter) -> None:
        s.scale_in_place(rewriter.model.graph, "s", 1.5)

    result = optimize(source, passes=[s.edit_pass(shake), s.edit_pass(shake, "other")])
    assert [failure.pass_name for failure in result.report.failures] == ["meddler", "other"]
    assert result.report.applied == ()
    assert load(result.to_proto()).model.graph.initializers["s"].const_value is not None


def test_nothing_is_taken_back_without_verification() -> None:
    work = s.mostly(s.same, s.rescaled(1.01), "conv1")
    options = OptimizeOptions(verify=False)
    result = optimize(s.chain(2), passes=[s.at_every("Conv", work)], options=options)
    assert result.report.verdict is None
    assert result.report.rolled_back == ()
    assert result.report.notes == (
        "the result is not verified: nothing shows that it computes the same",
    )


def test_an_invalid_result_is_taken_back_without_verification() -> None:
    work = s.mostly(s.same, s.dangling, "relu1")
    options = OptimizeOptions(verify=False)
    result = optimize(s.chain(3), passes=[s.at_every("Relu", work)], options=options)
    assert taken_back(result) == ["saboteur/again at 'r1'"]
    onnx.checker.check_model(result.to_proto(), full_check=True)


def test_blame_within_a_limited_run() -> None:
    work = s.mostly(s.same, s.rescaled(1.01), "conv2", "conv5")
    options = OptimizeOptions(rewrite_limit=4, threads=1)
    result = optimize(s.chain(), passes=[s.at_every("Conv", work)], options=options)
    assert taken_back(result) == ["saboteur/again at 'c2'"]
    assert made(result) == ["c0", "c1", "c3", "c4"]


def test_external_data_is_searched_without_copies_left_behind(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(s.chain(), path, save_as_external_data=True, location="in.data", size_threshold=0)
    work = s.mostly(s.same, s.rescaled(1.01), "conv3")
    output, temporary = tmp_path / "out.onnx", tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    most = 0

    def count(_: str) -> None:
        nonlocal most
        most = max(most, len(list(temporary.glob("onnxfold-*"))))

    result = optimize(
        path, output, passes=[s.at_every("Conv", work)], options=QUICK, progress=count
    )
    assert taken_back(result) == ["saboteur/again at 'c3'"]
    assert most == 1  # what one run spills is removed before the next
    assert not list(temporary.glob("*onnxfold-*"))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["in.data", "in.onnx", "out.onnx", "out.onnx.data"]
    assert verify(path, output, VerifyOptions(threads=1)).equal
    assert verify(path, result.to_proto(), VerifyOptions(threads=1)).equal


def rewrites(count: int) -> tuple[AppliedRewrite, ...]:
    keys = (RewriteKey("p", "r", f"v{i}", 0) for i in range(count))
    return tuple(AppliedRewrite(i + 1, key, (), 1) for i, key in enumerate(keys))


@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize("known_good", [None, 0, 1, 2, 5])
def test_search_finds_every_place_in_few_runs(count: int, known_good: int | None) -> None:
    first = known_good or 0
    for bad in {*range(first + 1, min(count, 20) + 1), max(count, first + 1)}:
        if bad > count:
            continue
        asked: list[int] = []

        def is_good(limit: int, bad: int = bad, asked: list[int] = asked) -> bool:
            asked.append(limit)
            return limit < bad

        assert first_bad(rewrites(count), is_good, known_good).number == bad
        assert len(set(asked)) == len(asked)
        assert all(first < limit < count for limit in asked)
        assert len(asked) <= 2 * count.bit_length()


def test_each_reason_is_that_of_its_own_rewrite() -> None:
    weights = [tensor(f"w{i}", np.full((2, 3, 1, 1), i + 1.0, np.float32)) for i in range(2)]
    source = model(
        [helper.make_node("Conv", ["x", f"w{i}"], [f"y{i}"], f"conv{i}") for i in range(2)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 5, 5])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, 2, 5, 5]) for i in range(2)],
        weights,
    )
    result = run(source, s.at_every("Conv", s.rescaled(1.01)))
    assert taken_back(result) == ["saboteur/again at 'y0'", "saboteur/again at 'y1'"]
    reasons = [entry.reason for entry in result.report.rolled_back]
    assert [reason.split(" is not equal")[0] for reason in reasons] == ["output y0", "output y1"]


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5.script", "unet_mobilenet_v2.dynamo"])
def test_one_wrong_fold_in_a_real_network(name: str) -> None:
    """`fuse_bn` itself, with one of its many folds one percent off."""

    def clumsy(rule: AnyRule) -> AnyRule:
        def rewrite(found: object, build: Builder) -> Replacement | Reject:
            value = rule.rewrite(found, build)
            if any(node.name == victim for node in build.nodes):
                for constant in build.constants:
                    numbers = s.array_of(constant)
                    constant.const_value = ir.tensor((numbers * 1.01).astype(np.float32))
            return value

        return replace(rule, rewrite=rewrite)

    source = zoo.load(name)
    convs = [node.name for node in source.graph.node if node.op_type == "Conv"]
    victim = convs[len(convs) // 2]
    rules = [clumsy(rule) for rule in fuse_bn.rules(NoOptions())]
    step = RulePass("clumsy", lambda _: rules, "Fold, and get one wrong.")
    passes = [step if each is fuse_bn.PASS else each for each in presets.DEFAULT]
    right = optimize(source, options=OptimizeOptions(verify=False)).report.rewrites_by_pass()
    result = optimize(source, passes=passes, options=QUICK)
    assert len(result.report.rolled_back) == 1
    assert victim in result.report.rolled_back[0].rewrite.sources
    assert result.report.rewrites_by_pass()["clumsy"] == right["fuse_bn"] - 1
    assert result.report.verdict is not None
    assert result.report.verdict.equal
