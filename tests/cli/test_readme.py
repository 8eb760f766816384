"""What the README says about the command: its lines run as they stand, its options exist."""

import re
import shlex
from pathlib import Path

import click
import onnx
import pytest

from onnxfold.cli.main import cli
from tests.cli.commands import ROOT, onnxfold, saved
from tests.toolkit import parse

README = (ROOT / "README.md").read_text(encoding="utf-8")


def lines() -> list[list[str]]:
    """Every line that begins with the command, in blocks of either kind."""
    found = re.findall(r"^(?:    |)(onnxfold .+)$", README, re.M)
    return [shlex.split(line)[1:] for line in found]


def test_the_lines_that_are_known() -> None:
    """A new one needs a test; the first one of the README and `quantize` have theirs elsewhere."""
    assert [words[0] for words in lines()] == ["optimize", "optimize", "bench", "quantize"]


def test_a_pass_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    (plugin,) = (block for block in blocks if "div_to_mul" in block)
    (tmp_path / "my_pass.py").write_text(plugin, encoding="utf-8")
    saved(tmp_path / "in.onnx")
    outcome = onnxfold(*lines()[0])
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "out.onnx").exists()


def test_for_one_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(
        parse("g (float[N,3,H,W] image) => (float[N,3,H,W] y) { y = Relu(image) }"), "in.onnx"
    )
    outcome = onnxfold(*lines()[1])
    assert outcome.code == 0, outcome.stderr


def test_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.onnx", "out.onnx"):
        saved(tmp_path / name)
    outcome = onnxfold(*lines()[2], "--rounds", "1")
    assert outcome.code == 0, outcome.stderr


def test_options_exist() -> None:
    context = click.Context(cli)
    known = {"--help"}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            known.update(parameter.opts, parameter.secondary_opts)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", README))
    assert named <= known, named - known
