"""Where a target wants integers: which values, on which grids, for which readers.

A plan names values and layers, never objects, so that it holds for every copy of the graph it was
made for. The *name of a layer* is that of its node's first output.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnxfold.calibrate.scheme import Range, Scheme

Read = tuple[str, int]
"""A layer and which of its inputs."""


@dataclass(frozen=True, slots=True)
class Site:
    """A value that is handed on as integers: one QuantizeLinear and one DequantizeLinear.

    Attributes:
        value: Its name.
        scheme: The integers; the same in all sites of a group.
        group: What sites share scale and zero point with it: those of the same group name.
        readers: Who reads it back from integers; None for everybody, outputs of the model included.
        is_source: Whether its statistics count for the range of its group. Not where the value only
            moves about what another site of the group holds.
        bounds: What the value cannot leave, whatever was observed; None when nothing is known.
    """

    value: str
    scheme: Scheme
    group: str
    readers: tuple[Read, ...] | None
    is_source: bool = True
    bounds: Range | None = None


@dataclass(frozen=True, slots=True)
class WeightSite:
    """A constant operand that becomes signed integers around zero.

    Attributes:
        layer: Who reads it.
        index: As which input.
        axis: Along which axis of the operand there is a scale each; None for a single one.
    """

    layer: str
    index: int
    axis: int | None


@dataclass(frozen=True, slots=True)
class BiasSite:
    """A bias that becomes 32-bit integers, on the grid of the products that it is added to.

    Attributes:
        layer: The layer whose products these are.
        x: The site that it reads, whose scale times that of the weight is the scale of the bias.
        reader: Who adds the bias: the layer itself, or the Add behind a MatMul.
        index: Which of its inputs the bias is.
    """

    layer: str
    x: str
    reader: str
    index: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a target wants quantized.

    Attributes:
        sites: Activations, in the order of the graph.
        weights: The weights of the layers that run in INT8.
        biases: Their biases, where the target wants integers there.
        float_layers: Every layer with multiply-adds that stays float, and why.
        shielded: Float layers that read integers back through a DequantizeLinear of their own,
            with one scale per channel: the backend would quantize their weights otherwise.
        fenced: Values that come back from integers, maybe moved about since, for a decomposed
            activation that reads them more than once: it reads one Clip without limits, because
            the backend would dequantize for each read and not recognise the activation any more.
        shapes_of_integers: Whether an operator that asks for nothing but a shape reads it off the
            integers, so that they are not dequantized for it.
    """

    sites: tuple[Site, ...]
    weights: tuple[WeightSite, ...]
    biases: tuple[BiasSite, ...]
    float_layers: Mapping[str, str] = field(default_factory=dict)
    shielded: frozenset[str] = frozenset()
    fenced: frozenset[str] = frozenset()
    shapes_of_integers: bool = False

    @property
    def layers(self) -> frozenset[str]:
        """The layers that run in INT8."""
        return frozenset(site.layer for site in self.weights)

    def groups(self) -> dict[str, list[Site]]:
        """The sites that share a grid, by the name of the group."""
        found: dict[str, list[Site]] = defaultdict(list)
        for site in self.sites:
            found[site.group].append(site)
        return dict(found)

    def sources(self) -> dict[str, Scheme]:
        """The values whose ranges the plan needs, and the integers that they are for."""
        return {site.value: site.scheme for site in self.sites if site.is_source}


def observed_values(plans: Iterable[Plan]) -> tuple[str, ...]:
    """The values whose ranges any of these plans needs, each once."""
    return tuple(dict.fromkeys(value for plan in plans for value in plan.sources()))
