"""The minimum cut is the cheapest of all choices, and backends tell what kernels cost."""

import itertools

import numpy as np
import onnx
import pytest

from onnxfold.errors import BadOptionError
from onnxfold.quantize.kernel_times import Kernel, KernelTimes, times_of
from onnxfold.quantize.kernel_times_openvino import openvino_kernel_times
from onnxfold.quantize.kernel_times_ort import ort_kernel_times
from onnxfold.quantize.profitable import profitable_layers
from onnxfold.quantize.regions import float_regions
from onnxfold.targets.proof import Precision
from onnxfold.targets.prove import prove
from tests.quantize.flow import Quantizer, demo, demo_feeds, demo_quantizer
from tests.toolkit import parse


def random_graph(generator: np.random.Generator, size: int) -> onnx.ModelProto:
    """Sums of earlier values, each read by several others."""
    lines, values = [], ["x"]
    for index in range(size):
        left, right = generator.choice(values, 2)
        lines.append(f"v{index} = Add ({left}, {right})")
        values.append(f"v{index}")
    body = "\n".join(lines)
    return parse(f"g (float[4] x) => (float[4] v{size - 1}) {{ {body} }}")


def cost_of(
    model: onnx.ModelProto,
    excluded: frozenset[str],
    convertible: frozenset[str],
    floats: KernelTimes,
    integers: KernelTimes,
) -> float:
    """Seconds of one choice, straight from its definition."""
    in_integers = convertible - excluded
    nodes = {node.output[0]: node for node in model.graph.node}
    cost = sum(integers.nodes[name] for name in in_integers)
    cost += sum(floats.nodes[name] for name in convertible & excluded)
    readers: dict[str, set[str]] = {}
    for name, node in nodes.items():
        for value in node.input:
            readers.setdefault(value, set()).add(name)
    readers.setdefault(model.graph.output[0].name, set()).add("output")
    for value, found in readers.items():
        others = {reader in in_integers for reader in found}
        if (value in in_integers) != others.pop() or others:
            cost += integers.conversions[value]
    return cost


@pytest.mark.parametrize("seed", range(40))
def test_no_choice_is_cheaper(seed: int) -> None:
    generator = np.random.default_rng(seed)
    model = random_graph(generator, 8)
    names = [node.output[0] for node in model.graph.node]
    convertible = frozenset(name for name in names if generator.random() < 0.8)
    floats, integers = KernelTimes(), KernelTimes()
    for name in names:
        floats.nodes[name] = generator.integers(1, 100) * 1e-6
        integers.nodes[name] = generator.integers(1, 100) * 1e-6
    for name in ("x", *names):
        integers.conversions[name] = generator.integers(1, 30) * 1e-6
    found = float_regions(model, floats, integers, convertible)
    assert found <= convertible
    every = (
        frozenset(chosen)
        for count in range(len(convertible) + 1)
        for chosen in itertools.combinations(sorted(convertible), count)
    )
    best = min(cost_of(model, each, convertible, floats, integers) for each in every)
    own = cost_of(model, found, convertible, floats, integers)
    assert own == pytest.approx(best, abs=1e-8)


def test_slow_integers_next_to_each_other_leave_together() -> None:
    body = (
        "a = Add (x, x) b = Add (a, a) c = Add (b, b) d = Add (c, c) e = Add (d, d) y = Add (e, e)"
    )
    model = parse(f"g (float[4] x) => (float[4] y) {{ {body} }}")
    names = ("a", "b", "c", "d", "e", "y")
    floats = KernelTimes(nodes=dict.fromkeys(names, 11e-6))
    integers = KernelTimes(
        nodes={**dict.fromkeys(names, 1e-6), "c": 15e-6, "d": 15e-6},
        conversions=dict.fromkeys(("x", *names), 3e-6),
    )
    assert float_regions(model, floats, integers, names) == {"c", "d"}
    assert float_regions(model, floats, integers, names, caution=2) == frozenset()


def test_what_runs_inside_another_kernel_goes_with_it() -> None:
    body = "c = Conv (x, w) r = Relu (c) y = Conv (r, w)"
    weight = np.ones((3, 3, 1, 1), np.float32)
    model = parse(f"g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) {{ {body} }}", {"w": weight})
    floats = KernelTimes(nodes={"c": 9e-6, "r": 0.0, "y": 1e-6})
    integers = KernelTimes(
        nodes={"c": 1e-6, "r": 0.0, "y": 9e-6},
        conversions={"x": 1e-6, "c": 1e-6, "r": 1e-6, "y": 1e-6},
    )
    assert float_regions(model, floats, integers, ("c", "r", "y")) == {"y"}
    slow = KernelTimes({"c": 20e-6, "r": 0.0, "y": 1e-6}, integers.conversions)
    floats.nodes["y"] = 9e-6
    assert float_regions(model, floats, slow, ("c", "r", "y")) == {"c", "r"}


def test_nothing_convertible_nothing_chosen() -> None:
    model = parse("g (float[4] x) => (float[4] y) { y = Add (x, x) }")
    assert float_regions(model, KernelTimes(), KernelTimes(), ()) == frozenset()


def test_a_kernel_goes_to_the_layer_that_it_covers() -> None:
    body = "c = Conv (x, w) r = Relu (c) s = Add (r, x) y = Sigmoid (s)"
    weight = np.ones((3, 3, 1, 1), np.float32)
    model = parse(f"g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) {{ {body} }}", {"w": weight})
    fused, last = Kernel(("s",), 5.0, "FusedConv", elements=48), Kernel(("y",), 2.0, "Sigmoid")
    found = times_of(model, [fused, last])
    assert found.nodes == {"s": 0.0, "r": 0.0, "c": 5.0, "y": 2.0}
    assert found.kinds["r"] == "FusedConv"
    assert found.elements["s"] == 48
    assert found.total == 7.0


def test_every_layer_of_the_demonstration_takes_time_on_onnx_runtime() -> None:
    quantized = demo_quantizer().build()
    floats = ort_kernel_times(demo(), demo_feeds(1)[0], runs=3)
    integers = ort_kernel_times(quantized, demo_feeds(1)[0], runs=3)
    layers = demo_quantizer().layers()
    assert len(layers) == 25
    for times in (floats, integers):
        assert all(times.nodes[layer] > 0 for layer in layers)
    assert all("QLinear" in integers.kinds[layer] for layer in layers)
    assert not floats.conversions
    assert "image" in integers.conversions
    known = {node.output[0] for node in demo().graph.node}
    assert floats.nodes.keys() <= known
    assert integers.nodes.keys() <= known


def test_every_layer_of_the_demonstration_takes_time_on_openvino() -> None:
    pytest.importorskip("openvino")
    quantized = Quantizer(demo(), demo_feeds(2), "openvino").build()
    floats = openvino_kernel_times(demo(), demo_feeds(1)[0], runs=3)
    integers = openvino_kernel_times(quantized, demo_feeds(1)[0], runs=3)
    for times in (floats, integers):
        assert all(times.nodes[layer] > 0 for layer in demo_quantizer().layers())
        assert times.total > 0


def test_the_choice_is_one_of_those_that_were_timed() -> None:
    quantizer = demo_quantizer()
    found = profitable_layers(demo(), quantizer.build, "ort-cpu", demo_feeds(1)[0], seconds=0.5)
    assert found.chosen in found.milliseconds
    assert {"float", "int8"} <= found.milliseconds.keys()
    times = found.milliseconds
    assert found.speed_up == times["float"] / times[found.chosen]
    running = {layer.layer for layer in prove(found.quantized, "ort-cpu").of(Precision.INT8)}
    assert running & set(quantizer.layers()) == set(quantizer.layers()) - found.excluded
    assert found.seconds.keys() >= set(quantizer.layers())


def test_a_target_that_is_not_here_cannot_be_timed() -> None:
    with pytest.raises(BadOptionError, match="cannot be timed"):
        profitable_layers(demo(), demo_quantizer().build, "tensorrt", demo_feeds(1)[0])
