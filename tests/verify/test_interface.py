"""What a caller sees must not change, whatever the numbers say."""

import re

import onnx
import pytest
from onnx import parser

from onnxfold.verify import verify


def model(text: str, ir: int = 8) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["": 17]> g {text}')


BASE = "(float[N, 4] a, float[N, 4] b) => (float[N, 4] y, float[N, 4] z) {y = Add(a, b) z = Neg(a)}"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (BASE.replace(" b)", " c)").replace("b) =", "c) ="), "inputs are not the same"),
        (
            "(float[N, 4] b, float[N, 4] a) => (float[N, 4] y, float[N, 4] z)"
            "{y = Add(a, b) z = Neg(a)}",
            "inputs come in another order",
        ),
        (
            "(float[N, 4] a, float[N, 4] b) => (float[N, 4] z, float[N, 4] y)"
            "{y = Add(a, b) z = Neg(a)}",
            "outputs come in another order",
        ),
        ("(float[N, 4] a, float[N, 4] b) => (float[N, 4] y) {y = Add(a, b)}", "a, b|y, z became y"),
        (BASE.replace("float[N, 4] a,", "float[1, 4] a,"), r"input a was \(N, 4\)"),
        (BASE.replace("float[N, 4] a,", "float[N, M] a,"), r"became \(N, M\)"),
        (BASE.replace("=> (float[N, 4] y", "=> (float[1, 4] y"), r"output y .* became \(1, 4\)"),
        (
            "(double[N, 4] a, double[N, 4] b) => (double[N, 4] y, double[N, 4] z)"
            "{y = Add(a, b) z = Neg(a)}",
            r"tensor\(float\) and became tensor\(double\)",
        ),
    ],
)
def test_a_change_is_not_equal(changed: str, said: str) -> None:
    verdict = verify(model(BASE), model(changed))
    assert not verdict.equal
    assert re.search(said, verdict.reason), verdict.reason


def test_another_symbol_for_the_same_axis_is_no_change() -> None:
    assert verify(model(BASE), model(BASE.replace("[N,", "[batch,"))).equal


def test_sizes_inferred_from_static_inputs_are_no_change() -> None:
    before = model("(float[1, 4] a) => (float[unk, 4] y) {y = Neg(a)}")
    after = model("(float[1, 4] a) => (float[1, 4] y) {y = Neg(a)}")
    assert verify(before, after).equal
    assert not verify(after, before).equal


def test_an_overridable_default_must_stay_one() -> None:
    body = "=> (float[1, 2] y) <float[1, 2] w = {1, 2}> {y = Mul(a, w)}"
    before = model(f"(float[1, 2] a, float[1, 2] w) {body}")
    after = model(f"(float[1, 2] a) {body}")
    verdict = verify(before, after)
    assert not verdict.equal
    assert "overridable inputs" in verdict.reason


def test_weights_among_the_inputs_of_old_files_are_no_interface() -> None:
    before = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 8]> g (float[1, 2] a, float[1, 2] w) =>'
        "(float[1, 2] y) <float[1, 2] w = {1, 2}> {y = Mul(a, w)}"
    )
    after = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 8]> g (float[1, 2] a, float[1, 2] v) =>'
        "(float[1, 2] y) <float[1, 2] v = {1, 2}> {y = Mul(a, v)}"
    )
    assert verify(before, after).equal
