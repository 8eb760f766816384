"""Neighbours: graphsurgeon, onnxsim, and running a piece of a graph on a runtime."""
