"""`onnxfold optimize`: the table, the JSON, the options."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.verify import VerifyOptions, verify
from tests.cli.commands import NET, ROOT, Outcome, Words, onnxfold, process, saved
from tests.verify.networks import conv_net

DEMO = ROOT / "examples" / "demo" / "demo.onnx"

SABOTEUR = '''
"""A plugin with a rule that is wrong at one node of many, and talks on stdout."""
from dataclasses import replace
from onnxfold.passes.fuse_bn import PASS as fuse_bn
from onnxfold.pipeline.passes import RulePass

print("the plugin is loaded")

def rules(options):
    def wrong(rule):
        def rewrite(found, build):
            print("the plugin works")
            value = rule.rewrite(found, build)
            for constant in build.constants:
                if "w1" in (constant.name or ""):
                    tensor = constant.const_value
                    numbers = tensor.numpy()
                    constant.const_value = type(tensor)(numbers * numbers.dtype.type(1.01))
            return value
        return replace(rule, rewrite=rewrite)
    return [wrong(rule) for rule in fuse_bn.rules(options)]

PASS = RulePass("clumsy", rules, "Fold, and get one weight wrong.")
'''


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path / "in.onnx")


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


FOLDED = ["Conv", "Relu", "Conv", "Relu", "Conv"]


def test_the_demonstration_network(tmp_path: Path) -> None:
    outcome = onnxfold("optimize", DEMO, "-o", tmp_path / "demo.opt.onnx")
    assert outcome.code == 0
    assert outcome.stderr == ""
    table = outcome.stdout.split("\n\nrewrites: ")[0].splitlines()
    rows = {line.split()[0]: line.split() for line in table if line}
    assert rows["BatchNormalization"][1] == "48"
    assert int(rows["nodes"][2]) < int(rows["nodes"][1])
    for text in ("parameters", "weight bytes", "multiply-adds at 1x3x128x128", "verified"):
        assert f"\n{text}" in outcome.stdout
    assert verify(DEMO, tmp_path / "demo.opt.onnx", VerifyOptions(threads=1)).equal


def test_the_table(source: Path, tmp_path: Path) -> None:
    outcome = onnxfold("optimize", source, "-o", tmp_path / "out.onnx")
    assert outcome.stderr == ""
    lines = outcome.stdout.splitlines()
    assert lines[0].split() == ["before", "after"]
    assert lines[1].split() == ["BatchNormalization", "2", "0"]
    assert "rewrites: 2 (fuse_bn 2)" in lines
    assert lines[-1] == f"written: {tmp_path / 'out.onnx'}"
    assert ops(tmp_path / "out.onnx") == FOLDED


def test_long_names_are_not_cut_without_a_terminal(tmp_path: Path) -> None:
    name = "a_very_long_name_of_an_input_or_output/" * 5 + "[bold]x[/bold] :smile:"
    proto = conv_net(1, 4)
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for index, old in enumerate(names):
                names[index] = name if old == "scores" else old
    proto.graph.output[0].name = name
    path = saved(tmp_path / "in.onnx", proto)
    for width in ("20", "80"):
        outcome = process("verify", path, path, environment={"COLUMNS": width})
        assert outcome.code == 0, outcome.stderr
        assert name in outcome.stdout
        assert "\x1b" not in outcome.stdout
        assert not any(line != line.rstrip() for line in outcome.stdout.splitlines())


def on_terminal(tmp_path: Path, width: int, *arguments: str | Path, **changed: str) -> Outcome:
    """The command on a terminal of that width; stdout and stderr come together."""
    program = f"""
import fcntl, os, pty, struct, sys, termios
child, screen = pty.fork()
if child == 0:
    os.execv(sys.executable, [sys.executable, "-m", "onnxfold", *sys.argv[1:]])
fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 50, {width}, 0, 0))
text = b""
while True:
    try:
        piece = os.read(screen, 65536)
    except OSError:
        break
    if not piece:
        break
    text += piece
sys.stdout.buffer.write(text)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    return process(*arguments, program=program, environment={"TERM": "xterm-256color", **changed})


@pytest.mark.parametrize("width", [30, 70, 200])
def test_numbers_are_whole_on_every_terminal(source: Path, tmp_path: Path, width: int) -> None:
    pytest.importorskip("pty")
    outcome = on_terminal(tmp_path, width, "optimize", DEMO, "-o", tmp_path / "out.onnx")
    assert outcome.code == 0, outcome.stdout
    assert "…" not in outcome.stdout.split("before", 1)[1]
    for text in ("1,470,104", "151,380,992", "100.0000%", "equal on 4 feeds"):
        assert text in outcome.stdout
    assert "\x1b[1m" in outcome.stdout  # headings are bold


def test_no_color(tmp_path: Path) -> None:
    pytest.importorskip("pty")
    coloured = on_terminal(tmp_path, 80, "optimize", "gone.onnx", "-o", "x")
    assert "\x1b[31merror\x1b[0m: gone.onnx does not exist" in coloured.stdout
    plain = on_terminal(tmp_path, 80, "optimize", "gone.onnx", "-o", "x", NO_COLOR="1")
    assert "error: gone.onnx does not exist\nhint: check the path\n" in plain.stdout
    assert "\x1b[31m" not in plain.stdout


def test_json_says_all_that_the_table_says_and_more(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    outcome = onnxfold("optimize", source, "-o", output, "--json")
    assert outcome.code == 0
    assert outcome.stderr == ""
    data = outcome.data
    assert (data["input"], data["output"]) == (str(source), str(output))
    assert data["before"]["nodes"]["BatchNormalization"] == 2
    assert data["after"]["node_count"] == 5
    for side in ("before", "after"):
        assert {"parameters", "weight_bytes", "multiply_adds", "at_shapes"} <= data[side].keys()
    assert data["rewrites_by_pass"] == {"fuse_bn": 2}
    first = data["rewrites"][0]
    assert (first["number"], first["pass"], first["rule"]) == (1, "fuse_bn", "after_linear")
    assert first["output"] == "n0"
    assert set(first["sources"]) == {"c0", "n0"}
    assert {p["name"] for p in data["passes"]} >= {"fuse_bn", "drop_dead"}
    (record,) = data["verification"]["outputs"]
    assert record["name"] == "scores"
    assert "rounding noise" in record["tolerance_origin"]
    assert record["max_abs_error"] <= record["tolerance"]
    assert data["verification"]["feeds"]
    for empty in ("rejections", "failures", "rolled_back", "notes"):
        assert data[empty] == []


def test_json_names_node_and_reason_of_what_was_left_alone(tmp_path: Path) -> None:
    run: Words = ["optimize", DEMO, "-o", tmp_path / "out.onnx", "--passes", "fuse_bn"]
    data = onnxfold(*run, "--json").data
    left = [r for r in data["rejections"] if r["op_type"] == "BatchNormalization"]
    assert len({r["node"] for r in left}) == data["after"]["nodes"]["BatchNormalization"]
    assert {r["pass"] for r in left} == {"fuse_bn"}
    assert all(r["reason"] for r in left)


def test_a_plugin_that_is_wrong_is_taken_back(source: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "clumsy.py"
    plugin.write_text(SABOTEUR)
    output = tmp_path / "out.onnx"
    run: Words = ["optimize", source, "-o", output, "--plugin", plugin, "--passes", "clumsy"]
    outcome = process(*run, "--json")
    assert outcome.code == 0, outcome.stderr
    data = outcome.data  # what the plugin printed is not in it
    assert "the plugin is loaded" in outcome.stderr
    assert "the plugin works" in outcome.stderr
    (taken,) = data["rolled_back"]
    assert (taken["pass"], taken["output"]) == ("clumsy", "n1")
    assert "is not equal on" in taken["reason"]
    assert [r["output"] for r in data["rewrites"]] == ["n0"]
    assert ops(output).count("BatchNormalization") == 1
    table = onnxfold(*run)
    assert "\ntaken back: clumsy/after_linear at 'n1', because output scores is not" in table.stdout
    assert verify(source, output, VerifyOptions(threads=1)).equal
    unproven = onnxfold(*run, "--no-verify")
    assert unproven.code == 0
    assert not verify(source, output, VerifyOptions(threads=1)).equal


def test_a_pass_that_throws_is_reported(source: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from onnxfold.pipeline.passes import EditPass\n"
        "def edit(rewriter, options):\n    rewriter.model.graph.sort()\n    1 / 0\n"
        'PASS = EditPass("broken", edit, "Breaks.")\n'
    )
    output = tmp_path / "out.onnx"
    run: Words = [
        "optimize",
        source,
        "-o",
        output,
        "--plugin",
        plugin,
        "--passes",
        "broken,fuse_bn",
    ]
    outcome = onnxfold(*run)
    assert outcome.code == 0
    assert outcome.stderr == ""
    assert "\nskipped: broken, because of ZeroDivisionError: division by zero\n" in outcome.stdout
    assert ops(output) == FOLDED
    (failure,) = onnxfold(*run, "--json").data["failures"]
    assert failure == {
        "pass": "broken",
        "rule": "",
        "node": "",
        "error": "ZeroDivisionError: division by zero",
    }


def test_unverified_results_are_called_so(source: Path, tmp_path: Path) -> None:
    run: Words = ["optimize", source, "-o", tmp_path / "out.onnx", "--no-verify"]
    outcome = onnxfold(*run)
    assert outcome.code == 0
    assert ["verified", "no"] in [line.split() for line in outcome.stdout.splitlines()]
    assert "\nnote: the result is not verified" in outcome.stdout
    assert onnxfold(*run, "--json").data["verification"] is None


def test_passes_run_in_the_order_given(source: Path, tmp_path: Path) -> None:
    run: Words = ["optimize", source, "-o", tmp_path / "out.onnx", "--json", "--passes"]
    data = onnxfold(*run, "drop_dead, fold_constants:max_bytes=16,drop_dead").data
    assert [p["name"] for p in data["passes"]] == ["drop_dead", "fold_constants", "drop_dead"]


def test_rewrite_limit(source: Path, tmp_path: Path) -> None:
    data = onnxfold(
        "optimize", source, "-o", tmp_path / "out.onnx", "--json", "--rewrite-limit", "1"
    ).data
    assert [r["number"] for r in data["rewrites"]] == [1]
    assert data["after"]["nodes"]["BatchNormalization"] == 1


def test_input_shape_and_own_data(source: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "sample.npz", x=np.ones((1, 3, 10, 12), np.float32))
    output = tmp_path / "out.onnx"
    data = onnxfold(
        *("optimize", source, "-o", output, "--json"),
        *("--input-shape", "x:1x3x10x12", "--data", tmp_path / "sample.npz", "--threads", "1"),
    ).data
    assert data["after"]["at_shapes"] == {"x": [1, 3, 10, 12]}
    dims = onnx.load(output).graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 5, 10, 12]
    assert any("data" in label for label in data["verification"]["feeds"])


def test_tolerances(source: Path, tmp_path: Path) -> None:
    run: Words = ["optimize", source, "-o", tmp_path / "out.onnx", "--json"]
    data = onnxfold(*run, "--rtol", "1e-3", "--atol", "0").data
    assert data["verification"]["outputs"][0]["tolerance_origin"].startswith("given by --rtol")


def test_output_may_be_the_input(source: Path) -> None:
    assert onnxfold("optimize", source, "-o", source).code == 0
    assert ops(source) == FOLDED
    assert [path.name for path in source.parent.iterdir()] == ["in.onnx"]


def test_progress_is_on_stderr(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.onnx", conv_net(2, 4))
    outcome = process("optimize", path, "-o", tmp_path / "out.onnx", "--json")
    assert outcome.code == 0
    json.loads(outcome.stdout)
    assert all(" s: " in line for line in outcome.stderr.splitlines())


def test_a_name_with_a_colon_can_be_pinned(tmp_path: Path) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(NET)
    proto.graph.input[0].name = "image:0"
    proto.graph.node[0].input[0] = "image:0"
    path = saved(tmp_path / "in.onnx", proto)
    outcome = onnxfold(
        "optimize", path, "-o", tmp_path / "o.onnx", "--input-shape", "image:0:1x3x8x8"
    )
    assert outcome.code == 0
