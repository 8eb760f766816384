"""Runs onnxsim on one file; started in a process of its own, which it may crash.

Usage: python -P onnxsim_process.py SOURCE TARGET PROBLEM

The simplified model is written to TARGET. When that fails, PROBLEM holds one line that says why,
and the exit code is 1.
"""

import sys
from pathlib import Path
from typing import Any


def main(source: str, target: str) -> None:
    """Simplify the model in `source` into `target`.

    Raises:
        ValueError: onnxsim does not trust its own result.
    """
    import onnxsim  # slow, and it takes whatever it likes along: never in the caller's process

    # Its own checks stay off: the result is verified against the input like any other rewrite.
    options: dict[str, Any] = {"check_n": 0, "certify": False, "output_path": target}
    _, good = onnxsim.simplify(source, **options)
    if not good:
        raise ValueError("the checker rejects its result")


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        Path(sys.argv[3]).write_text(f"{type(error).__name__}: {lines[0]}", encoding="utf-8")
        sys.exit(1)
