"""What ONNX Runtime's CPU provider runs in INT8, read from the graph that it makes of a model.

The model's nodes are given names that can be told again, the runtime optimizes it as it would for
running and writes down what it made of it, and every node of the model is looked up there: by its
name, which fusions keep, else by the values and weights that survive. Only the two transformers
that change the layout of data are left out: they choose no precision, and rename what they touch.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnxfold.errors import CannotRunError
from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import input_at, is_op
from onnxfold.model import save
from onnxfold.targets.proof import Finding, Precision, Proof, Severity
from onnxfold.targets.proof_graph import (
    MOVEMENT,
    MULTIPLY_ADDS,
    Layer,
    dequantizer,
    infer_quantized_shapes,
    is_dequantizer,
    is_weight,
    layers_of,
)
from onnxfold.targets.proof_ort_reasons import channelwise_activation, reason_for_float
from onnxfold.targets.proof_placement import (
    TAG,
    Placement,
    layer_precision,
    tag,
    tagged,
    unfused_values,
    untagged,
    with_absorbed,
)
from onnxfold.verify.session import RUNTIME_ERRORS, explain

_LAYOUT_TRANSFORMERS = ("NchwcTransformer", "NhwcTransformer")

_INTEGER_KERNELS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QAttention",
        "QGemm",
        "QLinearMatMul",
    }
)
_EIGHT_BITS = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})
_LEAVE_INTEGERS = frozenset({"DequantizeLinear", "Cast", "Shape", "Size", "ArgMax", "ArgMin"})


def prove_ort(model: ir.Model) -> Proof:
    """Compile a model with ONNX Runtime for the CPU and say how every layer runs.

    Args:
        model: Its nodes are renamed and its shapes inferred.

    Raises:
        CannotRunError: The runtime will not load the model.
    """
    infer_quantized_shapes(model)
    layers = layers_of(model)
    nodes = tag(model)
    compiled = _Compiled.of(_optimized(model, nodes).graph)
    traced = {node: compiled.place(node, index) for index, node in enumerate(nodes)}
    sure = {node: place for node, place in traced.items() if place is not None}
    places = with_absorbed(nodes, sure)
    places.update(_refused_when_run(places))
    return Proof(
        target="ort-cpu",
        compiled=True,
        layers=tuple(
            layer_precision(layer, places.get(layer.node), reason_for_float) for layer in layers
        ),
        unfused=unfused_values(model, places),
        runtime_weights=tuple(
            layer.name for layer in layers if _is_dequantized_at_run_time(layer.node, compiled)
        ),
        kernels=Counter(kernel.op_type for kernel in compiled.kernels),
        findings=(
            *_refusals(layers, places),
            *_quantized_by_the_runtime(layers, places),
        ),
    )


def _optimized(model: ir.Model, nodes: list[ir.Node]) -> onnx.ModelProto:
    """What the runtime makes of the model; weights are left out."""
    with tempfile.TemporaryDirectory(prefix="onnxfold-") as folder:
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        save(model, given)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(made)
        for key, value in (("file_name", "weights"), ("min_size_in_bytes", "1024")):
            options.add_session_config_entry(
                f"session.optimized_model_external_initializers_{key}", value
            )
        try:
            ort.InferenceSession(
                str(given),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(_LAYOUT_TRANSFORMERS),
            )
        except RUNTIME_ERRORS as error:
            message, hint = explain(error)
            plain = message.replace(f"Load model from {given} failed:", "")
            raise CannotRunError(untagged(plain, nodes), hint) from error
        return onnx.load(str(made), load_external_data=False)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """A node of the compiled graph.

    Attributes:
        op_type: Its operator, of any domain.
        tags: Indices of the nodes of the model whose names it carries.
        inputs: Names of the values that it reads.
        outputs: Names of the values that it makes.
        integer: Whether it computes on, or moves, 8-bit integers.
    """

    op_type: str
    tags: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integer: bool


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The graph that the runtime made.

    Attributes:
        kernels: Its nodes.
        by_tag: They by the index of a node of the model.
        by_output: They by the names of their outputs.
        by_input: Those that read a value, by its name.
    """

    kernels: tuple[_Kernel, ...]
    by_tag: Mapping[int | None, _Kernel]
    by_output: Mapping[str, _Kernel]
    by_input: Mapping[str, list[_Kernel]] = field(repr=False)

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> "_Compiled":
        kernels = tuple(_kernels(graph))
        by_input: dict[str, list[_Kernel]] = {}
        for kernel in kernels:
            for name in kernel.inputs:
                by_input.setdefault(name, []).append(kernel)
        return cls(
            kernels=kernels,
            by_tag={tag: kernel for kernel in reversed(kernels) for tag in kernel.tags},
            by_output={name: kernel for kernel in kernels for name in kernel.outputs},
            by_input=by_input,
        )

    def place(self, node: ir.Node, index: int) -> Placement | None:
        """What node `index` of the model became, or None when there is no sure trace of it."""
        kernel = self.by_tag.get(index) or self._by_weight(node) or self._by_value(node)
        if kernel is None:
            return None
        precision = Precision.INT8 if kernel.integer else Precision.FLOAT
        return Placement(precision, kernel.op_type)

    def _by_weight(self, node: ir.Node) -> _Kernel | None:
        """The only kernel that reads the weight of a convolution or matrix product."""
        if not is_op(node, *MULTIPLY_ADDS):
            return None
        weight = input_at(node, 1)
        one = dequantizer(weight)
        stored = weight if one is None else one.x
        if stored is None or not is_constant(stored):
            return None
        found = self.by_input.get(stored.name or "", [])
        return found[0] if len(found) == 1 and found[0].op_type != "DequantizeLinear" else None

    def _by_value(self, node: ir.Node) -> _Kernel | None:
        """The kernel whose output is that of the node, or what became of it.

        A fused kernel carries the name of the last value that it makes: walk on to there as long
        as there is one way to go and the nodes on it are gone too.
        """
        moves = is_op(node, *MOVEMENT)
        while True:
            for output in node.outputs:
                kernel = self._maker(output.name or "")
                if kernel is not None:
                    return kernel if moves else self._behind_movement(kernel)
            following = {reader for output in node.outputs for reader, _ in output.uses()}
            if len(following) != 1:
                return None
            (node,) = following
            if tagged(node.name) in self.by_tag or is_dequantizer(node):
                return None

    def _maker(self, name: str) -> _Kernel | None:
        """Who makes a value; it is called otherwise when quantization was moved up to it."""
        return self.by_output.get(name) or self.by_output.get(f"{name}_pre_q")

    def _behind_movement(self, kernel: _Kernel) -> _Kernel:
        """Who computes what a kernel only moves, as products are put in shape behind theirs."""
        before: _Kernel | None = kernel
        while before is not None and before.op_type in MOVEMENT and not before.tags:
            kernel = before
            before = self.by_output.get(kernel.inputs[0])
        return before or kernel


def _kernels(graph: onnx.GraphProto) -> Iterable[_Kernel]:
    """The nodes, in order, with what is integer among their values followed from the inputs."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    integers = {name for name, dtype in types.items() if dtype in _EIGHT_BITS}
    integers.update(
        value.name for value in graph.input if value.type.tensor_type.elem_type in _EIGHT_BITS
    )
    for node in graph.node:
        integer = _is_integer(node, integers)
        if integer and node.op_type not in _LEAVE_INTEGERS and not _makes_floats(node):
            integers.update(node.output)
        yield _Kernel(
            op_type=node.op_type,
            tags=tuple(int(tag) for tag in TAG.findall(node.name)),
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            integer=integer,
        )


def _is_integer(node: onnx.NodeProto, integers: set[str]) -> bool:
    if node.op_type in _INTEGER_KERNELS or node.op_type.startswith("QLinear"):
        return True
    if node.op_type == "QuantizeLinear":
        return len(node.input) < 3 or node.input[2] in integers
    read = [name for name in node.input if name]
    return bool(read) and read[0] in integers


def _makes_floats(node: onnx.NodeProto) -> bool:
    """Whether an integer kernel gives floats: those that are told no output scale."""
    if node.op_type == "QGemm":
        return len(node.input) < 9 or not node.input[8]
    return node.op_type in _INTEGER_KERNELS - {"QLinearMatMul"}


def _is_dequantized_at_run_time(node: ir.Node, compiled: _Compiled) -> bool:
    """Whether the weight of the layer goes through a DequantizeLinear in every run."""
    weight = input_at(node, 1) if is_op(node, *MULTIPLY_ADDS) else None
    one = dequantizer(weight)
    if one is None or not is_weight(one):
        return False
    kernel = compiled.by_tag.get(tagged(one.node.name))
    return kernel is not None and kernel.op_type == "DequantizeLinear"


def _refused_when_run(places: Mapping[ir.Node, Placement]) -> dict[ir.Node, Placement]:
    """The integer kernels that ONNX Runtime makes and cannot run: it has none per channel."""
    found: dict[ir.Node, Placement] = {}
    for node, place in places.items():
        value = channelwise_activation(node)
        if value is not None and place.precision is Precision.INT8:
            reason = f"{value!r} is quantized per channel, which {place.kernel} refuses to run"
            found[node] = Placement(Precision.UNKNOWN, place.kernel, reason)
    return found


def _refusals(layers: list[Layer], places: Mapping[ir.Node, Placement]) -> Iterable[Finding]:
    for layer in layers:
        place = places.get(layer.node)
        if place is not None and place.reason:
            yield Finding(
                rule="ort-activation-per-channel",
                severity=Severity.ERROR,
                layer=layer.name,
                message=f"ONNX Runtime will fail at {layer.name!r} when it runs: {place.reason}",
                hint="quantize activations with one scale",
            )


def _quantized_by_the_runtime(
    layers: list[Layer], places: Mapping[ir.Node, Placement]
) -> Iterable[Finding]:
    """Layers with a float weight that ONNX Runtime quantizes on its own."""
    for layer in layers:
        place = places.get(layer.node)
        weight = input_at(layer.node, 1)
        if layer.node.op_type not in MULTIPLY_ADDS or place is None or not is_constant(weight):
            continue
        if place.precision is Precision.INT8:
            yield Finding(
                rule="ort-quantizes-weight",
                severity=Severity.WARNING,
                layer=layer.name,
                message=f"ONNX Runtime quantizes the float weight of {layer.name!r} itself, with "
                "one scale for the whole tensor",
                hint="quantize it per channel, or feed the layer from the value before its "
                "QuantizeLinear to keep it in float",
            )
