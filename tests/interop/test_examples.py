"""The examples of passes of one's own do what they say, as scripts and as plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxfold.pipeline.plugins import passes_of_file

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "step", "lines"),
    [
        (
            "own_rule.py",
            "div_to_mul",
            ["1. div_to_mul/reciprocal at '/Div_output_0': /Div", "1 divisions replaced, 0 left"],
        ),
        (
            "own_graphsurgeon_pass.py",
            "sum_chains",
            ["176 nodes became 165, 9 of them Sum"],
        ),
    ],
)
def test_example(name: str, step: str, lines: list[str]) -> None:
    path = ROOT / "examples" / name
    ended = subprocess.run(
        [sys.executable, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.splitlines()
    assert said[:-1] == lines
    assert said[-1].startswith("all 1 outputs are within tolerance")
    assert [loaded.name for loaded in passes_of_file(path)] == [step]
