"""A pass written as a function on a graphsurgeon graph: chains of Add become one Sum.

    python examples/own_graphsurgeon_pass.py [MODEL]

Functions like this one exist in many TensorRT projects. With a decorator they run under the same
manager as every other pass: counted, verified, and undone when they are wrong. No clean-up, no
sorting and no export is needed at the end. As a plugin:

    onnxfold optimize MODEL -o OUT --plugin examples/own_graphsurgeon_pass.py --passes sum_chains
"""

import sys
from pathlib import Path

import onnx_graphsurgeon as gs

from onnxfold.interop.graphsurgeon import graphsurgeon_pass
from onnxfold.model.load import load
from onnxfold.model.proto import to_proto
from onnxfold.pipeline.manager import PassManager
from onnxfold.verify import verify

DEMO = Path(__file__).parent / "demo" / "demo.onnx"


@graphsurgeon_pass("sum_chains")
def sum_chains(graph: gs.Graph) -> None:
    """Replace an Add whose operands are read by nobody else by one Sum of all terms."""
    outputs = {tensor.name for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op not in ("Add", "Sum"):
            continue
        terms = []
        for tensor in node.inputs:
            inner = tensor.inputs[0] if tensor.inputs else None
            alone = len(tensor.outputs) == 1 and tensor.name not in outputs
            if alone and inner is not None and inner.op in ("Add", "Sum"):
                terms += list(inner.inputs)
            else:
                terms.append(tensor)
        if len(terms) > 2:
            node.op, node.inputs = "Sum", terms


PASS = sum_chains


def main(path: Path) -> int:
    """Run the pass over a model, and verify the result."""
    loaded = load(path)
    before = loaded.model.graph.num_nodes()
    run = PassManager([sum_chains]).run(loaded.model)
    for failure in run.ledger.failures:
        print(f"{failure.pass_name} was skipped: {failure.error}")
    sums = sum(node.op_type == "Sum" for node in run.model.graph)
    print(f"{before} nodes became {run.model.graph.num_nodes()}, {sums} of them Sum")
    verdict = verify(path, to_proto(run.model))
    print(verdict.reason)
    return 0 if verdict.equal else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO))
