"""Fresh names never equal old ones, and a second fold does not make them longer."""

import numpy as np

from onnxfold.model import load
from onnxfold.rewrite.names import Names
from tests.toolkit import parse


def names(body: str = "y = Relu(x)", inputs: str = "float[1] x") -> Names:
    return Names(load(parse(f"g ({inputs}) => (float[1] y) {{ {body} }}")).model)


def test_values() -> None:
    fresh = names()
    assert fresh.value("w") == "w.folded"
    assert fresh.value("w") == "w.folded.1"
    assert fresh.value("w.folded.1") == "w.folded.2"
    assert fresh.value("layer.1") == "layer.1.folded"
    assert fresh.value("w.folded.folded.3") == "w.folded.3"
    assert fresh.value(None) == "folded.folded"


def test_a_name_given_back_can_be_used_again() -> None:
    fresh = names()
    assert fresh.value("w") == "w.folded"
    fresh.free_value("w.folded")
    assert fresh.value("w") == "w.folded"


def test_nodes_keep_their_names_when_they_can() -> None:
    fresh = names()
    assert fresh.node("conv") == "conv"
    assert fresh.node("conv") == "conv.1"
    fresh.free_node("conv")
    assert fresh.node("conv") == "conv"


def test_a_name_of_two_branches_stays_taken_until_both_are_gone() -> None:
    branch = "() => (float[1] {0}) {{ w = Relu(x) {0} = Neg(w) }}"
    fresh = names(
        f"y = If(f) <then_branch = t {branch.format('a')}, else_branch = e {branch.format('b')}>",
        "float[1] x, bool f",
    )
    fresh.free_value("w")
    fresh.free_node("")
    fresh.claim_value("w.folded")
    assert fresh.value("w") == "w.folded.1"


def test_thousands_of_equal_wishes_take_linear_time() -> None:
    fresh = names()
    given = [fresh.node("Conv") for _ in range(50_000)]
    assert len(set(given)) == len(given)
    assert np.unique([len(name) for name in given]).max() == len("Conv.49999")
