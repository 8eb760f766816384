import numpy as np
import onnx
import pytest
from onnx import parser

from onnxfold.errors import BadOptionError, CannotRunError
from onnxfold.verify import Verifier, VerifyOptions
from tests.verify.networks import DYNAMIC, conv_net

OPTIONS = VerifyOptions(threads=1)


def shapes(proto: onnx.ModelProto, options: VerifyOptions = OPTIONS) -> list[tuple[int, ...]]:
    """The shapes of the first input over all feeds."""
    return [next(iter(feed.arrays.values())).shape for feed in Verifier(proto, options).feeds()]


def parsed(inputs: str, body: str, outputs: str, opset: int = 17) -> onnx.ModelProto:
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )


def test_dynamic_axes_get_odd_unequal_and_batched_sizes() -> None:
    found = shapes(conv_net(1, 4, dims=DYNAMIC))
    assert found[0] == (1, 3, 64, 64)
    assert any(h % 2 and w % 2 and h != w for _, _, h, w in found)
    assert any(n == 2 and h != w for n, _, h, w in found)


def test_a_static_model_gets_its_own_shape_only() -> None:
    assert set(shapes(conv_net(1, 4))) == {(1, 3, 24, 24)}


def test_feeds_are_signed_heavy_at_the_border_zero_and_large() -> None:
    feeds = {f.label.split(" (")[0]: f.arrays["x"] for f in Verifier(conv_net(1, 4)).feeds()}
    first = feeds["normal, heavy border"]
    assert np.abs(first[..., 0, :]).min() >= 4
    assert np.abs(first[..., -1]).min() >= 4
    inside = first[..., 1:-1, 1:-1]
    assert inside.min() < -2
    assert inside.max() > 2
    assert not feeds["zeros"].any()
    assert np.abs(feeds["large"]).max() > 400
    assert np.abs(feeds["normal"]).max() < 6


def test_feeds_depend_on_the_seed_alone() -> None:
    proto = conv_net(1, 4, dims=DYNAMIC)

    def drawn(seed: int) -> list[bytes]:
        return [f.arrays["x"].tobytes() for f in Verifier(proto, VerifyOptions(seed=seed)).feeds()]

    assert drawn(3) == drawn(3)
    assert drawn(3)[0] != drawn(4)[0]


def test_sizes_that_the_reference_refuses_are_replaced() -> None:
    # Pooling by 32, upsampling by 32 and a skip: only multiples of 32 run.
    proto = parsed(
        "float[N, 3, H, W] x",
        """p = AveragePool <kernel_shape = [32, 32], strides = [32, 32]> (x)
           s = Constant <value_floats = [1.0, 1.0, 32.0, 32.0]> ()
           u = Resize <mode = "nearest"> (p, , s)
           y = Add(u, x)""",
        "float[N, 3, H, W] y",
    )
    found = shapes(proto)
    assert len(set(found)) >= 2
    assert all(h % 32 == 0 and w % 32 == 0 for _, _, h, w in found)
    assert any(n == 2 for n, *_ in found)


def test_a_fixed_reshape_behind_dynamic_axes_finds_its_one_size() -> None:
    proto = parsed(
        "float[N, 3, H, W] x",
        """s = Constant <value_ints = [1, 3, 50176]> ()
           y = Reshape(x, s)""",
        "float[a, b, c] y",
    )
    assert set(shapes(proto)) == {(1, 3, 224, 224)}


def test_given_sizes_are_used() -> None:
    options = VerifyOptions(input_shapes={"x": (2, 3, 40, 56)})
    assert set(shapes(conv_net(1, 4, dims=DYNAMIC), options)) == {(2, 3, 40, 56)}


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"y": (1, 3, 8, 8)}, "x"),
        ({"x": (1, 4, 8, 8)}, "Nx3xHxW"),
        ({"x": (1, 3, 8)}, "4 sizes"),
    ],
)
def test_given_sizes_that_do_not_fit(given: dict[str, tuple[int, ...]], hint: str) -> None:
    verifier = Verifier(conv_net(1, 4, dims=DYNAMIC), VerifyOptions(input_shapes=given))
    with pytest.raises(BadOptionError) as caught:
        verifier.prepare()
    assert hint in caught.value.message + caught.value.hint


def test_sizes_refused_by_the_model_say_so() -> None:
    proto = parsed(
        "float[N, 7] x",
        """s = Constant <value_ints = [11, 13]> ()
           y = Reshape(x, s)""",
        "float[11, 13] y",
    )
    with pytest.raises(CannotRunError, match="Reshape") as caught:
        Verifier(proto).prepare()
    assert "--input-shape" in caught.value.hint


def test_inputs_that_share_a_symbol_share_its_size() -> None:
    proto = parsed(
        "float[N, 3, H, W] a, float[N, 3, H, W] b, float s",
        "t = Add(a, b)  y = Mul(t, s)",
        "float[N, 3, H, W] y",
    )
    feeds = Verifier(proto).feeds()
    assert len(feeds) >= 4
    for feed in feeds:
        assert feed.arrays["a"].shape == feed.arrays["b"].shape
        assert feed.arrays["s"].shape == ()
    assert feeds[0].arrays["a"].tobytes() != feeds[0].arrays["b"].tobytes()


def test_token_ids_stay_in_the_vocabulary() -> None:
    table = onnx.numpy_helper.from_array(np.ones((2, 4), np.float32), "table")
    proto = parsed("int64[N, L] ids", "y = Gather(table, ids)", "float[N, L, 4] y")
    proto.graph.initializer.append(table)
    for feed in Verifier(proto).feeds():
        assert feed.arrays["ids"].max() <= 1
    assert any(feed.arrays["ids"].any() for feed in Verifier(proto).feeds())


def test_masks_booleans_and_bytes_by_their_type() -> None:
    proto = parsed(
        "int64[1, 8] mask, bool[1, 8] keep, uint8[1, 8, 8, 3] image",
        """a = Cast <to = 1> (mask)  b = Cast <to = 1> (keep)
           c = Cast <to = 1> (image)  y = Add(a, b)""",
        "float[1, 8] y, float[1, 8, 8, 3] c",
    )
    first = Verifier(proto).feeds()[0].arrays
    assert set(np.unique(first["mask"])) == {0, 1}
    assert first["keep"].dtype == np.bool_
    assert first["keep"].any()
    assert first["image"].dtype == np.uint8
    assert first["image"].max() > 200


def test_overflow_in_the_reference_damps_the_feed() -> None:
    proto = parsed("float[1, 64] x", "y = Exp(x)", "float[1, 64] y")
    verifier = Verifier(proto)
    assert all(np.isfinite(outputs["y"]).all() for outputs in verifier.expected())
    assert max(np.abs(feed.arrays["x"]).max() for feed in verifier.feeds()) > 6


def test_inputs_with_defaults_need_no_feed() -> None:
    text = """<ir_version: 3, opset_import: ["": 8]>
    g (float[1, 4] x, float[1, 4] w) => (float[1, 4] y) <float[1, 4] w = {1, 2, 3, 4}>
    { y = Mul(x, w) }"""
    proto = parser.parse_model(text)
    verifier = Verifier(proto)
    assert [set(feed.arrays) for feed in verifier.feeds()] == [{"x"}] * 4
    assert verifier.check(proto).equal


def test_a_model_without_inputs_runs_once() -> None:
    proto = parsed("", "y = Constant <value_floats = [1.0, 2.0]> ()", "float[2] y")
    assert len(Verifier(proto).feeds()) == 1
    assert Verifier(proto).check(proto).equal


def test_max_feeds_and_a_time_limit_leave_out_the_last() -> None:
    proto = conv_net(2, 4, dims=DYNAMIC)
    assert len(Verifier(proto, VerifyOptions(max_feeds=1)).feeds()) == 1
    verifier = Verifier(proto, VerifyOptions(time_limit=0.0))
    assert len(verifier.feeds()) == 2
    assert any("only 2 feeds" in note for note in verifier.check(proto).notes)


class TestOwnData:
    def test_it_is_used_beside_the_others(self) -> None:
        proto = conv_net(1, 4)
        data = [{"x": np.full((1, 3, 24, 24), value)} for value in (0.5, 0.25)]  # float64
        feeds = Verifier(proto, data=data).feeds()
        assert [feed.label for feed in feeds[1:3]] == ["data 0", "data 1"]
        assert feeds[1].arrays["x"].dtype == np.float32
        assert len(feeds) == 6

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            ({"X": np.zeros((1, 3, 24, 24))}, "did you mean x"),
            ({}, "lacks input x"),
            ({"x": np.zeros((1, 4, 24, 24))}, "1x4x24x24"),
            ({"x": np.zeros((3, 24, 24))}, "3x24x24"),
            ({"x": np.full((1, 3, 24, 24), "a")}, "float32"),
        ],
    )
    def test_what_does_not_fit(self, item: dict[str, np.ndarray], said: str) -> None:
        with pytest.raises(BadOptionError) as caught:
            Verifier(conv_net(1, 4), data=[item]).prepare()
        assert said in f"{caught.value.message} {caught.value.hint}"

    def test_it_alone_serves_a_model_for_which_nothing_can_be_made_up(self) -> None:
        proto = parsed("string[N] words", "y = Identity(words)", "string[N] y")
        with pytest.raises(CannotRunError, match="words"):
            Verifier(proto).prepare()
        verdict = Verifier(proto, data=[{"words": np.array(["a", "b"])}]).check(proto)
        assert verdict.equal
        assert "only the given data" in verdict.notes[0]


@pytest.mark.parametrize(
    "wrong", [{"rtol": -1.0}, {"atol": float("nan")}, {"max_feeds": 0}, {"seed": -1}]
)
def test_options_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(BadOptionError):
        VerifyOptions(**wrong)  # type: ignore[arg-type]


def test_extents_of_one_input_that_share_a_name_get_sizes_of_their_own() -> None:
    proto = parsed("float[d, 3, d, d] x", "y = Relu(x)", "float[a, b, c, e] y")
    shapes = {feed.arrays["x"].shape for feed in Verifier(proto).feeds()}
    assert any(height != width for _, _, height, width in shapes)
    assert all(channels == 3 and height > batch for batch, channels, height, _ in shapes)


def test_a_model_that_needs_squares_gets_them() -> None:
    proto = parsed("float[1, 3, s, s] x", "t = Transpose<perm=[0,1,3,2]>(x)  y = Add(x, t)",
                   "float[1, 3, s, s] y")  # fmt: skip
    feeds = Verifier(proto).feeds()
    assert len({feed.arrays["x"].shape for feed in feeds}) > 1
    assert all(height == width for _, _, height, width in (f.arrays["x"].shape for f in feeds))
