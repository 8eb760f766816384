"""`onnxfold passes`."""

from pathlib import Path

import pytest

from onnxfold.passes.presets import BUILTIN, DEFAULT
from tests.cli.commands import onnxfold, process, refused

PLUGIN = '''
from dataclasses import dataclass
from onnxfold.pipeline.passes import EditPass

@dataclass(frozen=True)
class Options:
    depth: int = 3
    mode: str | None = None

PASS = EditPass("mine", lambda rewriter, options: None, """Do nothing.

What it does:
    [nothing] at all.""", options_type=Options)
'''


def test_the_list() -> None:
    outcome = onnxfold("passes")
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert lines[0].split()[:3] == ["pass", "default", "exactness"]
    assert [line.split()[0] for line in lines[1:]] == [step.name for step in BUILTIN]
    lossy = {line.split()[0] for line in lines if "lossy" in line}
    assert lossy == {"insert_qdq", "to_fp16"}
    assert not lossy & {step.name for step in DEFAULT}


@pytest.mark.parametrize("step", BUILTIN, ids=lambda step: step.name)
def test_one_pass(step: object) -> None:
    name = getattr(step, "name", "")
    outcome = onnxfold("passes", name)
    assert outcome.code == 0
    for section in ("What it does:", "When it refuses:", "Exactness:", "Example:"):
        assert section in outcome.stdout
    data = onnxfold("passes", name, "--json").data["passes"]
    assert [entry["name"] for entry in data] == [name]


def test_json() -> None:
    entries = onnxfold("passes", "--json").data["passes"]
    assert {e["name"] for e in entries if e["default"]} == {step.name for step in DEFAULT}
    options = {e["name"]: e["options"] for e in entries}
    assert options["simplify"] == {"timeout_s": {"type": "float", "default": 120.0}}
    assert options["fuse_bn"] == {}


def test_a_plugin_is_listed_and_documented(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    assert "\nmine " in onnxfold("passes", "--plugin", file).stdout
    shown = onnxfold("passes", "mine", "--plugin", file).stdout
    assert "[nothing] at all." in shown
    assert "Option mine:depth=int, by default 3" in shown
    entry = onnxfold("passes", "mine", "--plugin", file, "--json").data["passes"][0]
    assert entry["options"]["mode"] == {"type": "str | None", "default": None}


def test_an_unknown_name() -> None:
    refused(onnxfold("passes", "fuse_bm"), "there is no pass 'fuse_bm'", "did you mean 'fuse_bn'?")
    refused(onnxfold("passes", "zzz"), "there is no pass 'zzz'", "see `onnxfold passes`")


def test_a_terminal_without_greek_letters() -> None:
    outcome = process("passes", "fuse_bn", environment={"PYTHONIOENCODING": "ascii"})
    assert outcome.code == 0, outcome.stderr
    assert "W' = s" in outcome.stdout


def test_a_reader_that_has_seen_enough() -> None:
    program = """
import subprocess, sys
tool = subprocess.Popen([sys.executable, "-m", "onnxfold", "passes", "--json"],
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
tool.stdout.close()
text = tool.stderr.read().decode()
sys.stderr.write(text)
sys.exit(tool.wait())
"""
    outcome = process(program=program)
    assert (outcome.code, outcome.stderr) == (0, "")


def test_a_full_disk_under_the_report() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs a device that is always full")
    with full.open("w") as stdout:
        outcome = process("passes", capture_output=False, stdout=stdout, stderr=-1)
    assert outcome.code == 2
    assert outcome.stderr == (
        "error: the report cannot be printed: no space left on device\n"
        "hint: the command did its work; only the report is lost\n"
    )
