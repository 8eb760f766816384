"""What a newcomer sees first."""

import shlex
from pathlib import Path

import pytest

from tests.cli.commands import onnxfold, process

COMMANDS = ("bench", "calibrate", "optimize", "passes", "quantize", "verify")

LAZY = """
import sys
from onnxfold.cli.main import main
try:
    main(["--help"])
finally:
    heavy = {"numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "networkx"} & sys.modules.keys()
    assert not heavy, heavy
"""


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_commands_examples_and_exit_codes(flag: str) -> None:
    outcome = onnxfold(flag)
    assert outcome.code == 0
    for text in (*COMMANDS, "Examples:", "Exit codes: 0 done, 1 not equal, 2 usage", "70 a bug"):
        assert text in outcome.stdout
    assert outcome.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples_that_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = onnxfold(command, "--help")
    assert outcome.code == 0
    examples = [
        line.strip() for line in outcome.stdout.splitlines() if line.startswith("    onnxfold ")
    ]
    assert len(examples) >= 2
    monkeypatch.chdir(tmp_path)
    for example in examples:
        words = shlex.split(example.split(" > ")[0])
        assert words[1] == command
        code = onnxfold(*words[1:]).code
        # The files of the examples do not exist; their options do.
        assert code == (0 if command == "passes" else 2)
        assert "no such option" not in onnxfold(*words[1:]).stderr


def test_without_arguments_it_says_how_to_use_it() -> None:
    outcome = onnxfold()
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert outcome.stderr == onnxfold("--help").stdout


def test_version() -> None:
    outcome = onnxfold("--version")
    assert outcome.code == 0
    assert outcome.stdout.startswith("onnxfold ")


def test_help_imports_nothing_heavy() -> None:
    outcome = process(program=LAZY)
    assert outcome.code == 0, outcome.stderr
    assert "Examples:" in outcome.stdout


def test_module_and_command_are_the_same() -> None:
    outcome = process("--help")
    assert outcome.code == 0
    assert outcome.stdout.startswith("Usage: onnxfold [OPTIONS]")
