"""Runs the command, in this process and in one of its own."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from click.testing import CliRunner

from onnxfold.cli.main import cli
from tests.verify.networks import DYNAMIC, conv_net

ROOT = Path(__file__).parents[2]
NET = conv_net(2, 4, dims=DYNAMIC)


Words = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Outcome:
    words: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        return json.loads(self.stdout)


def onnxfold(*arguments: str | Path) -> Outcome:
    """The command in this process, through click's own runner."""
    apart = "mix_stderr" in inspect.signature(CliRunner).parameters  # click before 8.2
    settings: dict[str, Any] = {"mix_stderr": False} if apart else {}
    runner = CliRunner(**settings)
    words = tuple(map(str, arguments))
    result = runner.invoke(cli, words, prog_name="onnxfold")
    return Outcome(words, result.exit_code, result.stdout, result.stderr)


def process(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    program: str | None = None,
    **options: Any,
) -> Outcome:
    """`python -m onnxfold` (or `python -c program`) in a process of its own."""
    streams: dict[str, Any] = {"capture_output": True} | options
    done = subprocess.run(
        [
            sys.executable,
            *(["-m", "onnxfold"] if program is None else ["-c", program]),
            *map(str, arguments),
        ],
        env=surroundings(environment),
        text=True,
        encoding="utf-8",
        check=False,
        **streams,
    )
    return Outcome(tuple(map(str, arguments)), done.returncode, done.stdout, done.stderr)


def surroundings(changed: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "PYTHONIOENCODING")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **(changed or {})}


def refused(outcome: Outcome, message: str, hint: str = "", *, code: int = 2) -> None:
    """One sentence that begins like this, one hint, no traceback; on stdout JSON or nothing."""
    lines = outcome.stderr.splitlines()
    assert len(lines) == 2, outcome.stderr
    told = {
        "message": lines[0].removeprefix("error: "),
        "hint": lines[1].removeprefix("hint: "),
        "exit_code": code,
    }
    if "--json" in outcome.words:
        assert outcome.data == {"error": told}
    else:
        assert outcome.stdout == ""
    assert lines[0].startswith(f"error: {message}"), outcome.stderr
    assert lines[1].startswith(f"hint: {hint}"), outcome.stderr
    assert len(lines[1]) > len("hint: ")
    assert not any(line.endswith(".") for line in lines)
    assert "Traceback" not in outcome.stderr
    assert outcome.code == code


def saved(path: Path, proto: onnx.ModelProto = NET) -> Path:
    onnx.save(proto, path)
    return path
