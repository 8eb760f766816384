"""The `onnxfold` command: stdout is data, stderr is talk."""
