"""`python -m onnxfold` is the `onnxfold` command."""

from onnxfold.cli.main import main

if __name__ == "__main__":
    main()
