"""Writes a plan into a graph: Q/DQ pairs, integer weights and integer biases.

Readers are rewritten, one at a time: values keep their names, and so do layers. Only an output of
the model must be dequantized under its own name; what was computed under that name before is called
otherwise then, and its node notes which layer it is under `LAYER_KEY`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.calibrate.scheme import Quantization, Range, quantization_of
from onnxfold.ir.constants import constant_tensor, release
from onnxfold.ir.graph import has_other_readers, input_at, is_op
from onnxfold.quantize.grids import grids_of
from onnxfold.quantize.plan import BiasSite, Plan, Read, Site, WeightSite
from onnxfold.quantize.weights import (
    LIMIT,
    WeightMethod,
    quantized_bias,
    quantized_weight,
    scales_for_bias,
    weight_scales,
)
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rewriter import Rewriter

LAYER_KEY = "onnxfold.layer"
"""Metadata of a node whose output had to be renamed: the name of the layer in the float model."""

_CHANNEL_AXIS = 1


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """How weights become integers.

    Attributes:
        method: How their scales are chosen.
        limit: The largest integer of a weight.
    """

    method: WeightMethod = WeightMethod.MSE
    limit: int = LIMIT


def insert(
    rewriter: Rewriter,
    plan: Plan,
    ranges: Mapping[str, Range],
    options: EmitOptions | None = None,
    *,
    pass_name: str = "insert_qdq",
) -> None:
    """Insert what a plan asks for; each node that reads something else than before is a rewrite.

    Args:
        rewriter: Of the float model that the plan was made for.
        plan: What to insert.
        ranges: The range of every value of `plan.sources()`.
        options: How weights become integers.
        pass_name: On whose behalf.

    Raises:
        BadOptionError: A range is missing.
    """
    grids = grids_of(plan, ranges)
    _Emitter(rewriter, plan, grids, options or EmitOptions(), pass_name).run()


@dataclass(slots=True)
class _Shared:
    """Values that several rewrites use, once the first of them is made."""

    grids: dict[str, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    quantized: dict[str, ir.Value] = field(default_factory=dict)
    dequantized: dict[str, ir.Value] = field(default_factory=dict)
    fences: dict[str, ir.Value] = field(default_factory=dict)
    weights: dict[tuple[str, int | None, bytes], ir.Value] = field(default_factory=dict)

    def copy(self) -> "_Shared":
        return _Shared(
            dict(self.grids),
            dict(self.quantized),
            dict(self.dequantized),
            dict(self.fences),
            dict(self.weights),
        )


class _Emitter:
    def __init__(
        self,
        rewriter: Rewriter,
        plan: Plan,
        grids: Mapping[str, Quantization],
        options: EmitOptions,
        pass_name: str,
    ) -> None:
        self._rewriter = rewriter
        self._plan = plan
        self._grids = grids
        self._options = options
        self._pass_name = pass_name
        self._sites = {site.value: site for site in plan.sites}
        self._everybody = {site.value for site in plan.sites if site.readers is None}
        self._reads: dict[Read, Site] = {
            read: site for site in plan.sites for read in site.readers or ()
        }
        self._weights = {site.layer: site for site in plan.weights}
        self._biases = {site.reader: site for site in plan.biases}
        self._offsets = self._biases_by_layer()
        self._x_scales = {
            site.layer: grids[self._sites[site.x].group].scale for site in plan.biases
        }
        self._scales: dict[str, NDArray[np.float32]] = {}
        self._shared = _Shared()
        self._under_own_name: set[str] = set()

    def _biases_by_layer(self) -> dict[str, NDArray[np.float32]]:
        wanted = {site.reader: site for site in self._plan.biases}
        found = {}
        for node in self._rewriter.model.graph:
            site = wanted.get((node.outputs[0].name or "") if node.outputs else "")
            if site is not None:
                found[site.layer] = _floats(node.inputs[site.index]).reshape(-1)
        return found

    def run(self) -> None:
        for node in list(self._rewriter.model.graph):
            if node.outputs:
                self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        layer = node.outputs[0].name or ""
        build = self._rewriter.builder(node)
        before, self._shared = self._shared, self._shared.copy()
        inputs = [self._operand(node, i, v, build) for i, v in enumerate(node.inputs)]
        if layer in self._weights:
            self._quantize_weight(self._weights[layer], node, inputs, build)
        if layer in self._biases:
            self._quantize_bias(self._biases[layer], node, inputs, build)
        own = [self._is_written_out(output) for output in node.outputs]
        if inputs == list(node.inputs) and not any(own):
            return
        copy = _copy(node, inputs, build)
        if own[0]:
            copy.metadata_props[LAYER_KEY] = layer
        outputs = [
            self._pair(new, self._sites[old.name or ""], build) if is_own else new
            for old, new, is_own in zip(node.outputs, copy.outputs, own, strict=True)
        ]
        names = [old.name or "" for old, is_own in zip(node.outputs, own, strict=True) if is_own]
        made = self._rewriter.replace(
            node, outputs, build, pass_name=self._pass_name, rule=node.op_type
        )
        if made is None:
            self._shared = before
        else:
            self._under_own_name.update(names)

    def _is_written_out(self, value: ir.Value) -> bool:
        """Whether an output of the model is to be what comes back from integers."""
        return value.is_graph_output() and value.name in self._everybody

    def _operand(
        self, node: ir.Node, index: int, value: ir.Value | None, build: Builder
    ) -> ir.Value | None:
        if value is None or value.name in self._under_own_name:
            return value
        read = self._read_back(node, index, value, build)
        return self._fenced(value, read, build) if value.name in self._plan.fenced else read

    def _read_back(self, node: ir.Node, index: int, value: ir.Value, build: Builder) -> ir.Value:
        layer = node.outputs[0].name or ""
        site = self._reads.get((layer, index))
        if site is None and value.name in self._everybody:
            site = self._sites[value.name]
        if site is None or site.value != value.name:
            return value
        if self._plan.shapes_of_integers and is_op(node, "Shape", "Size"):
            return self._quantized(value, site, build)
        if layer in self._plan.shielded and index == 0:
            return self._shielded(value, site, build)
        if site.value not in self._shared.dequantized:
            self._shared.dequantized[site.value] = self._pair(value, site, build)
        return self._shared.dequantized[site.value]

    def _fenced(self, value: ir.Value, read: ir.Value, build: Builder) -> ir.Value:
        """What readers of `value` get, which is `read`, behind a Clip without limits."""
        name = value.name or ""
        if name not in self._shared.fences:
            fence = build.op("Clip", [read], name=f"{name}.fence")
            fence.type, fence.shape = value.type, value.shape
            self._shared.fences[name] = fence
        return self._shared.fences[name]

    def _pair(self, value: ir.Value, site: Site, build: Builder) -> ir.Value:
        """What comes back of `value` from integers."""
        constant = constant_tensor(value)
        if constant is not None:
            return self._constant_pair(constant, value, site, build)
        quantized = self._quantized(value, site, build)
        scale, zero = self._grid(site, build)
        return _recorded("DequantizeLinear", [quantized, scale, zero], ir.DataType.FLOAT, build)

    def _quantized(self, value: ir.Value, site: Site, build: Builder) -> ir.Value:
        if site.value not in self._shared.quantized:
            scale, zero = self._grid(site, build)
            dtype = ir.DataType.from_numpy(site.scheme.dtype)
            quantized = _recorded("QuantizeLinear", [value, scale, zero], dtype, build)
            self._shared.quantized[site.value] = quantized
        return self._shared.quantized[site.value]

    def _grid(self, site: Site, build: Builder) -> tuple[ir.Value, ir.Value]:
        if site.group not in self._shared.grids:
            grid = self._grids[site.group]
            self._shared.grids[site.group] = _scale_and_zero(
                np.asarray(grid.scale), grid, site.group, build
            )
        return self._shared.grids[site.group]

    def _constant_pair(
        self, tensor: ir.TensorProtocol, value: ir.Value, site: Site, build: Builder
    ) -> ir.Value:
        array = np.asarray(tensor.numpy(), np.float32)
        release(tensor)
        limits = Range(min(0.0, float(array.min())), max(0.0, float(array.max())))
        grid = quantization_of(limits, site.scheme)
        integers = np.rint(array / grid.scale) + grid.zero_point
        held = np.clip(integers, site.scheme.lowest, site.scheme.highest).astype(grid.dtype)
        quantized = build.tensor(held, ir.DataType.from_numpy(grid.dtype), value.name)
        scale, zero = _scale_and_zero(np.asarray(grid.scale), grid, site.value, build)
        return _recorded("DequantizeLinear", [quantized, scale, zero], ir.DataType.FLOAT, build)

    def _shielded(self, value: ir.Value, site: Site, build: Builder) -> ir.Value:
        """The value read back with one scale per channel, all of them equal."""
        extent = value.shape[_CHANNEL_AXIS] if value.shape is not None else None
        assert isinstance(extent, int)
        grid = self._grids[site.group]
        scale, zero = _scale_and_zero(np.full(extent, grid.scale), grid, site.value, build)
        inputs = [self._quantized(value, site, build), scale, zero]
        return _recorded("DequantizeLinear", inputs, ir.DataType.FLOAT, build, _CHANNEL_AXIS)

    def _quantize_weight(
        self, site: WeightSite, node: ir.Node, inputs: list[ir.Value | None], build: Builder
    ) -> None:
        weight = _floats(node.inputs[site.index])
        scales = weight_scales(weight, site.axis, self._options.method, self._options.limit)
        if site.layer in self._offsets:
            x_scale = self._x_scales[site.layer]
            scales = scales_for_bias(scales, self._offsets[site.layer], x_scale)
            self._scales[site.layer] = scales
        else:
            _unshare_bias(node, inputs, build)
        inputs[site.index] = self._weight(node, site, weight, scales, build)

    def _quantize_bias(
        self, site: BiasSite, node: ir.Node, inputs: list[ir.Value | None], build: Builder
    ) -> None:
        value = node.inputs[site.index]
        assert value is not None
        bias, scales = self._offsets[site.layer], self._scales[site.layer]
        integers, own = quantized_bias(bias, scales, self._x_scales[site.layer])
        held = build.tensor(integers, ir.DataType.INT32, value.name)
        scale = build.tensor(own, ir.DataType.FLOAT, f"{value.name}.scale")
        axis = None if own.ndim == 0 else 0
        inputs[site.index] = _recorded(
            "DequantizeLinear", [held, scale], ir.DataType.FLOAT, build, axis
        )

    def _weight(
        self,
        node: ir.Node,
        site: WeightSite,
        weight: NDArray[np.float32],
        scales: NDArray[np.float32],
        build: Builder,
    ) -> ir.Value:
        value = node.inputs[site.index]
        assert value is not None
        key = (value.name or "", site.axis, scales.tobytes())
        if key not in self._shared.weights:
            integers = quantized_weight(weight, scales, site.axis, self._options.limit)
            held = build.tensor(integers, ir.DataType.INT8, value.name)
            scale = build.tensor(scales, ir.DataType.FLOAT, f"{value.name}.scale")
            zeros = np.zeros(scales.shape, np.int8)
            zero = build.tensor(zeros, ir.DataType.INT8, f"{value.name}.zero_point")
            self._shared.weights[key] = _recorded(
                "DequantizeLinear", [held, scale, zero], ir.DataType.FLOAT, build, site.axis
            )
        return self._shared.weights[key]


def _scale_and_zero(
    scale: NDArray[np.float32], grid: Quantization, name: str, build: Builder
) -> tuple[ir.Value, ir.Value]:
    zero = np.full(scale.shape, grid.zero_point, grid.dtype)
    return (
        build.tensor(scale, ir.DataType.FLOAT, f"{name}.scale"),
        build.tensor(zero, ir.DataType.from_numpy(grid.dtype), f"{name}.zero_point"),
    )


def _recorded(
    op_type: str,
    inputs: list[ir.Value],
    dtype: ir.DataType,
    build: Builder,
    axis: int | None = None,
) -> ir.Value:
    """A Q or DQ node, named after what it converts."""
    wish = f"{inputs[0].name}.{'quantized' if op_type == 'QuantizeLinear' else 'dequantized'}"
    output = build.op(op_type, inputs, None if axis is None else {"axis": axis}, name=wish)
    output.name = wish
    output.type = ir.TensorType(dtype)
    shape = inputs[0].shape
    output.shape = None if shape is None else ir.Shape(shape)
    return output


def _copy(node: ir.Node, inputs: list[ir.Value | None], build: Builder) -> ir.Node:
    """Record a copy of a node, with any number of outputs, that reads other inputs."""
    copy = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        [ir.Attr(each.name, each.type, each.value) for each in node.attributes.values()],
        overload=node.overload,
        num_outputs=len(node.outputs),
        version=node.version,
        name=node.name,
    )
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.type = old.type
        new.shape = None if old.shape is None else ir.Shape(old.shape)
    build.nodes.append(copy)
    return copy


def _unshare_bias(node: ir.Node, inputs: list[ir.Value | None], build: Builder) -> None:
    """Give the layer a float bias of its own: OpenVINO does not fuse one that others read too."""
    value = input_at(node, 2)
    tensor = constant_tensor(value)
    if value is not None and tensor is not None and has_other_readers(value):
        inputs[2] = build.tensor(_floats(value), ir.DataType.FLOAT, value.name)


def _floats(value: ir.Value | None) -> NDArray[np.float32]:
    tensor = constant_tensor(value)
    assert tensor is not None
    array = np.array(tensor.numpy(), np.float32)
    release(tensor)
    return array
