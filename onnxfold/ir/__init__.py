"""The graph in memory: `onnx_ir` values and nodes, with typed and read-only views of them.

Nothing here edits a graph except `shapes.infer_shapes`, which only fills in what is known about
values. Edits belong to `onnxfold.rewrite`.
"""
