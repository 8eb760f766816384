"""Records the nodes and constants that a rewrite wants, without touching the graph."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.algebra.refusal import Cause, Refusal
from onnxfold.algebra.rounding import round_array, unit_roundoff
from onnxfold.rewrite.tensor_store import TensorStore

AttributeValue = int | float | str | Sequence[int] | Sequence[float] | ir.TensorProtocol


class Refused(Exception):
    """The numbers do not allow the rewrite that is being recorded; the driver reports why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Builder:
    """A recording of new nodes and constants.

    Names are settled when the recording is applied; what is given here are wishes.

    Attributes:
        nodes: The recorded nodes, in an order in which each follows its inputs.
        constants: The recorded constants, as values that no graph owns yet.
    """

    def __init__(self, version: int | None, store: TensorStore) -> None:
        """Start an empty recording.

        Args:
            version: The operator set version that the new nodes follow.
            store: Where the numbers of new constants are kept.
        """
        self._version = version
        self._store = store
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, AttributeValue] | None = None,
        *,
        name: str | None = None,
    ) -> ir.Value:
        """Record a default-domain node with one output and return that output."""
        given = attributes or {}
        return self._record(
            op_type,
            inputs,
            [_attribute(key, value) for key, value in given.items()],
            name,
        )

    def several(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> tuple[ir.Value, ...]:
        """Record a default-domain node with so many outputs and return them."""
        given = [_attribute(key, value) for key, value in (attributes or {}).items()]
        first = self._record(op_type, inputs, given, None, outputs)
        node = first.producer()
        assert node is not None
        return tuple(node.outputs)

    def like(
        self,
        node: ir.Node,
        inputs: Sequence[ir.Value | None],
        changed: Mapping[str, AttributeValue] | None = None,
    ) -> ir.Value:
        """Record a copy of a single-output `node` with other inputs and some attributes changed.

        The copy wishes to keep the name of the original, its type and its shape.
        """
        replaced = changed or {}
        attributes = [
            ir.Attr(attribute.name, attribute.type, attribute.value)
            for attribute in node.attributes.data.values()
            if attribute.name not in replaced
        ]
        attributes += [_attribute(key, value) for key, value in replaced.items()]
        output = self._record(node.op_type, inputs, attributes, node.name)
        original = node.outputs[0]
        output.type = original.type
        output.shape = None if original.shape is None else ir.Shape(original.shape)
        return output

    def _record(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr],
        name: str | None,
        outputs: int = 1,
    ) -> ir.Value:
        trimmed = list(inputs)
        while trimmed and trimmed[-1] is None:
            trimmed.pop()
        node = ir.Node(
            "",
            op_type,
            trimmed,
            attributes,
            num_outputs=outputs,
            version=self._version,
            name=name,
        )
        self.nodes.append(node)
        return node.outputs[0]

    def constant(
        self,
        numbers: NDArray[np.float64],
        dtype: ir.DataType,
        name: str | None = None,
        *,
        beside: NDArray[np.float64] | None = None,
    ) -> ir.Value:
        """Record a floating-point constant, rounded here and only here.

        Args:
            numbers: The exact result of the fold, in float64.
            dtype: The floating-point type of the model at this place.
            name: The value whose place the constant takes, as a wish for its name.
            beside: The magnitude beside which each number counts, such as the largest weight of
                its channel; broadcasts against `numbers`. The largest number when None. A number
                below the normal range of `dtype` is kept where the error is within half a unit in
                the last place of this magnitude.

        Raises:
            Refused: The numbers do not fit `dtype`.
        """
        rounded = round_array(numbers, dtype.numpy())
        if isinstance(rounded, Refusal) and rounded.cause is Cause.UNDERFLOW:
            cast = numbers.astype(dtype.numpy())
            error = np.abs(cast.astype(np.float64) - numbers)
            largest = np.abs(numbers).max() if beside is None else beside
            if (error <= unit_roundoff(dtype.numpy()) * largest).all():
                rounded = cast
        if isinstance(rounded, Refusal):
            raise Refused(rounded.reason)
        return self.tensor(rounded, dtype, name)

    def tensor(
        self, array: NDArray[np.generic], dtype: ir.DataType, name: str | None = None
    ) -> ir.Value:
        """Record a constant that needs no rounding."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape))
        value.const_value = self._store.keep(np.asarray(array, order="C"), dtype)
        self.constants.append(value)
        return value

    def discard(self) -> None:
        """Withdraw the recording: its nodes stop counting as readers of their inputs."""
        for node in self.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        self.nodes.clear()
        self.constants.clear()


def _attribute(name: str, value: AttributeValue) -> ir.Attr:
    """An attribute of the type that its value says."""
    # The library finds out the type of a list by asking, slowly, for everything else first.
    kind: ir.AttributeType | None = None
    if isinstance(value, tuple | list) and value:
        if all(isinstance(item, int) for item in value):
            kind = ir.AttributeType.INTS
        elif all(isinstance(item, float) for item in value):
            kind = ir.AttributeType.FLOATS
    return ir.convenience.convert_attribute(name, value, kind)
