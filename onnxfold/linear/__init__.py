"""Linear parts of a graph: what a node means as arithmetic, and how that arithmetic moves.

Reads the graph through `onnxfold.ir`, takes every number from `onnxfold.algebra`, and records what
it wants with a `Builder`. The passes of the library are thin rules over this.
"""
