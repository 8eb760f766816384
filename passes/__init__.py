"""The pass library of onnxfold: one file, one pass; `presets` says which run, and when."""

if __name__ != "onnxfold.passes":
    raise ImportError("the pass library is imported as onnxfold.passes, never as passes")
