import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxfold.verify.perturb import Reach, nudge, perturbed
from onnxfold.verify.tolerance import Noise, allowance, allowed_flips, measure
from tests.verify.networks import conv_net, values


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_nudge_is_one_unit_in_the_last_place_either_way(dtype: type[np.floating]) -> None:
    array = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    moved = nudge(array, 1, np.random.default_rng(1))
    up, down = np.nextafter(array, dtype(np.inf)), np.nextafter(array, dtype(-np.inf))
    assert np.all((moved == up) | (moved == down))
    assert 400 < np.count_nonzero(moved == up) < 600


def test_a_nudge_holds_for_bfloat16() -> None:
    array = np.linspace(-3, 3, 64).astype(ml_dtypes.bfloat16)
    moved = nudge(array, 1, np.random.default_rng(0)).astype(np.float32)
    change = np.abs(moved - array.astype(np.float32)) / np.abs(array.astype(np.float32))
    assert np.all((change > 2.0**-9) & (change < 2.0**-6))


def test_what_a_nudge_leaves_alone() -> None:
    limits = np.finfo(np.float32)
    kept = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, limits.max, limits.smallest_subnormal], np.float32
    )
    moved = nudge(kept, 1, np.random.default_rng(0))
    assert moved.tobytes() == kept.tobytes()


def test_all_weights_of_a_network_move_and_the_original_does_not() -> None:
    proto = conv_net(2, 4)
    before = proto.SerializeToString()
    moved = perturbed(proto, Reach.KERNELS, 1, seed=0)
    assert proto.SerializeToString() == before
    assert moved.share == 1.0
    assert not isinstance(moved.source, str)
    for tensor in proto.graph.initializer:
        old = values(proto, tensor.name)
        found = next(t for t in moved.source.graph.initializer if t.name == tensor.name)  # type: ignore[union-attr]
        new = numpy_helper.to_array(found).astype(np.float64)
        assert np.all(new != old), tensor.name
        assert np.allclose(new, old, rtol=3e-7, atol=0), tensor.name


def test_numbers_that_are_no_weights_stay() -> None:
    proto = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 8] x, float[1, 3, h, w] like) => (float[1, 3, p, q] y, float[2] out)
    <float[3] w = {1.5, 2.5, 3.5}, float[2] half = {0.5, 0.5}, float power = {2.0},
     float[2] out = {1.5, 2.5}, float scalar = {3.0}>
    {
      a = Constant<value = float[2] {1.0, 1.0}>()
      s = Shape<start = 2>(like)
      f = Cast<to = 1>(s)
      scaled = Mul(f, half)
      scales = Concat<axis = 0>(a, scaled)
      square = Pow(x, power)
      t = Mul(square, scalar)
      r = Resize(t, , scales)
      w4 = Unsqueeze(w, axes)
      y = Mul(r, w4)
    }""")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "axes"))
    moved = perturbed(proto, Reach.WEIGHTS, 1, seed=0).source
    names = ["w", "half", "power", "out", "scalar"]
    changed = {name for name in names if np.any(values(proto, name) != values(moved, name))}  # type: ignore[arg-type]
    assert changed == {"w"}
    constant = moved.graph.node[0].attribute[0].t  # type: ignore[union-attr]
    assert numpy_helper.to_array(constant).tolist() == [1.0, 1.0]


def test_each_slice_is_held_to_its_own_noise() -> None:
    reference = np.ones((1, 2, 32, 32), np.float32)
    moved = reference.copy()
    moved[:, 0] += 1e-3
    moved[:, 1] += 1e-5
    noise = measure(reference, moved)
    assert noise is not None
    allowed = allowance(reference, noise)
    assert np.allclose(allowed[:, 0], 1e-2, rtol=0.01)
    assert np.allclose(allowed[:, 1], 1e-3, rtol=0.01)  # the plain noise of the whole output


def test_no_noise_leaves_a_few_units_in_the_last_place() -> None:
    reference = np.full((4, 4), 2.0, np.float32)
    allowed = allowance(reference, Noise())
    assert np.allclose(allowed, 16 * np.finfo(np.float32).eps)
    assert allowance(np.zeros((4, 4), np.float32), None).max() == 0


def test_another_shape_is_no_measurement() -> None:
    assert measure(np.zeros(3, np.float32), np.zeros(4, np.float32)) is None


@pytest.mark.parametrize(
    ("rate", "size", "allowed"), [(0.0, 10, 0), (0.0, 4096, 1), (0.001, 4096, 10), (0.5, 1, 1)]
)
def test_how_many_labels_may_flip(rate: float, size: int, allowed: int) -> None:
    assert allowed_flips(rate, size) == allowed
