"""Remove nodes and initializers that no output of the model depends on.

What it does:
    Removes, from the end of the graph to its beginning, nodes none of whose outputs is read, and
    then initializers that nobody reads. In bodies of If, Loop and Scan too.
When it applies:
    Always; inputs and outputs of the model stay, read or not.
When it refuses:
    Nothing.
Exactness:
    exact.
Example:
    before: a = Relu(x)  y = Neg(x)
    after:  y = Neg(x)
"""

import onnx_ir as ir

from onnxfold.ir.graph import nested_graphs
from onnxfold.pipeline.passes import EditPass, NoOptions
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness


def edit(rewriter: Rewriter, _: NoOptions) -> None:
    """Remove dead nodes from the end to the beginning, then unread initializers."""
    for graph in (rewriter.model.graph, *nested_graphs(rewriter.model.graph)):
        for node in list(reversed(graph)):
            rewriter.remove_if_dead(node, pass_name="drop_dead", rule="node")
        _drop_initializers(rewriter, graph)


def _drop_initializers(rewriter: Rewriter, graph: ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        rewriter.drop_initializer(value)


PASS = EditPass("drop_dead", edit, __doc__ or "", exactness=Exactness.EXACT)
