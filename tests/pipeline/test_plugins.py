"""Passes from files and installed packages, good ones and broken ones."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import parser

from onnxfold.errors import PluginError
from onnxfold.model.load import load
from onnxfold.model.proto import to_proto
from onnxfold.passes import drop_identities, presets
from onnxfold.pipeline.manager import PassManager, PipelineRun
from onnxfold.pipeline.plugins import load_plugins, passes_of_file
from onnxfold.pipeline.registry import Registry

EXAMPLE = Path(__file__).parents[1] / "plugin_example"

SOUND = """
from onnxfold.pipeline.passes import EditPass

def edit(rewriter, options):
    pass

first = EditPass("first", edit, "The first.")
second = EditPass("second", edit, "The second.")
"""


def plugin(folder: Path, text: str, name: str = "plugin.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("tail", "names"),
    [
        ("PASS = first", ["first"]),
        ("PASSES = (first, second)", ["first", "second"]),
        ("PASSES = (step for step in [second, first])", ["second", "first"]),
        ("PASS = second\nPASSES = [first]", ["second", "first"]),
    ],
)
def test_a_file_defines_passes(tmp_path: Path, tail: str, names: list[str]) -> None:
    registry = Registry(presets.BUILTIN)
    builtin = len(list(registry))
    warnings = load_plugins(registry, [plugin(tmp_path, SOUND + tail)], entry_points=False)
    assert warnings == ()
    assert [step.name for step in registry][builtin:] == names
    assert registry.get(names[0]).documentation.startswith("The ")


def test_dataclasses_work_in_a_file(tmp_path: Path) -> None:
    text = """
    from __future__ import annotations
    from dataclasses import dataclass
    from onnxfold.pipeline.passes import EditPass

    @dataclass(frozen=True, slots=True)
    class Options:
        times: int = 3
        label: str = "road"

    PASS = EditPass("with_options", lambda rewriter, options: None, "It.", options_type=Options)
    """
    registry = Registry()
    load_plugins(registry, [plugin(tmp_path, text)], entry_points=False)
    (step,) = registry.parse("with_options:times=5:label=sky")
    assert (step.options.times, step.options.label) == (5, "sky")


def test_two_files_of_the_same_name_are_two_plugins(tmp_path: Path) -> None:
    paths = []
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        paths.append(plugin(tmp_path / folder, f"{SOUND}\nPASS = {name}"))
    registry = Registry()
    load_plugins(registry, paths, entry_points=False)
    assert [step.name for step in registry] == ["first", "second"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "import nowhere_at_all",
            "ModuleNotFoundError: No module named 'nowhere_at_all'",
            "line 1",
        ),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero", "see line 3"),
        ("def f(:\n    pass", "SyntaxError", "see line 1"),
        ("import sys\nsys.exit(0)", "SystemExit", "see line 2"),
        ("raise ValueError('one\\ntwo')", "ValueError: one", "see line 1"),
        ("x = 1", "defines no pass", "define PASS"),
        (SOUND, "defines no pass", "define PASS"),
        (SOUND + "PASSES = ()", "is empty", "define PASS"),
        (SOUND + "PASSES = first", "is a EditPass where passes are wanted", "define PASS"),
        (SOUND + "PASS = (first,)", "is not a pass: tuple has no method run", "define PASS"),
        (SOUND + "PASS = EditPass", "is not a pass: EditPass has no method run", "define PASS"),
        (SOUND + "PASS = None", "is not a pass: NoneType has no method run", "define PASS"),
        (
            SOUND + "PASS = EditPass('My Pass', edit, '')",
            "its name is 'My Pass', and should be snake_case",
            "define PASS",
        ),
        (
            SOUND + "PASS = EditPass('a', edit, '', options_type=int)",
            "its options_type is not a dataclass",
            "define PASS",
        ),
        (
            SOUND
            + "import dataclasses\n"
            + "O = dataclasses.make_dataclass('O', ['x'])\n"
            + "PASS = EditPass('a', edit, '', options_type=O)",
            "an option has no default",
            "define PASS",
        ),
    ],
)
def test_a_broken_file_is_one_sentence_and_a_hint(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = plugin(tmp_path, text, "broken.py")
    with pytest.raises(PluginError) as caught:
        load_plugins(Registry(presets.BUILTIN), [path], entry_points=False)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="does not exist"):
        passes_of_file(tmp_path / "none.py")
    with pytest.raises(PluginError, match="is a folder"):
        passes_of_file(tmp_path)


def test_a_file_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_bytes(b"\x00\xff\xfe PASS")
    with pytest.raises(PluginError, match="cannot be loaded"):
        passes_of_file(path)


def test_a_name_that_is_taken_is_an_error(tmp_path: Path) -> None:
    path = plugin(tmp_path, SOUND + "PASS = EditPass('fuse_bn', edit, 'Mine.')")
    with pytest.raises(PluginError, match=r"defines the pass 'fuse_bn', which exists already"):
        load_plugins(Registry(presets.BUILTIN), [path], entry_points=False)


# ------------------------------------------------------------------ installed packages


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the example package."""
    root = tmp_path_factory.mktemp("installed")
    source, target = root / "source", root / "target"
    source.mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    ended = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return target


def with_path(folder: Path, code: str) -> list[str]:
    """What `code` prints in a process that finds packages in `folder`."""
    start = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(EXAMPLE.parents[1])!r}]\n"
    ended = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


LIST = """
from onnxfold.passes import presets
from onnxfold.pipeline.plugins import load_plugins
from onnxfold.pipeline.registry import Registry
registry = Registry(presets.BUILTIN)
for warning in load_plugins(registry):
    print("warning:", warning)
print(*(step.name for step in registry))
"""


def test_a_package_installed_by_pip_brings_its_pass(installed: Path) -> None:
    (names,) = with_path(installed, LIST)
    assert names.split()[-1] == "drop_double_negation"
    assert "fuse_bn" in names.split()


def test_the_pass_of_a_package_runs(installed: Path) -> None:
    lines = with_path(
        installed,
        LIST
        + """
from onnx import parser
from onnxfold.model.load import load
from onnxfold.pipeline.manager import PassManager
text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y)'
text += '{ a = Neg(x)  b = Neg(a)  y = Relu(b) }'
run = PassManager(registry.parse("drop_double_negation")).run(load(parser.parse_model(text)).model)
print(*(node.op_type for node in run.model.graph), len(run.ledger.applied))
""",
    )
    assert lines[-1] == "Relu 1"


def broken_package(folder: Path, name: str, target: str, code: str) -> None:
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[onnxfold.passes]\n{name} = {target}\n")


@pytest.mark.parametrize(
    ("target", "code", "reason"),
    [
        (
            "bad:PASS",
            "raise RuntimeError('no licence')",
            "cannot be loaded: RuntimeError: no licence",
        ),
        ("bad:PASS", "import sys; sys.exit(1)", "cannot be loaded: SystemExit: 1"),
        ("bad:PASS", "", "cannot be loaded: AttributeError"),
        ("bad:make", "def make(): raise KeyError('x')", "cannot be loaded: KeyError: 'x'"),
        ("bad:make", "def make(): return 3", "is a int where passes are wanted"),
        ("bad:PASSES", "PASSES = ['fuse_bn']", "is not a pass: str has no method run"),
        ("bad:PASSES", "PASSES = (1 / 0 for _ in '1')", "cannot be listed: ZeroDivisionError"),
        ("nowhere:PASS", "", "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_broken_package_is_a_warning(tmp_path: Path, target: str, code: str, reason: str) -> None:
    broken_package(tmp_path, "bad", target, code)
    warning, names = with_path(tmp_path, LIST)
    assert warning.startswith("warning: the plugin 'bad' of the package bad ")
    assert reason in warning
    assert "fuse_bn" in names.split()


def test_an_entry_point_may_be_several_passes_or_a_function(tmp_path: Path) -> None:
    broken_package(tmp_path, "many", "many:passes", SOUND + "def passes(): return [first, second]")
    (names,) = with_path(tmp_path, LIST)
    assert names.split()[-2:] == ["first", "second"]


def test_a_package_may_not_take_a_name(tmp_path: Path) -> None:
    broken_package(tmp_path, "taker", "taker:PASS", SOUND + "PASS = EditPass('fuse_bn', edit, '')")
    code = LIST.replace("load_plugins(registry)", "attempt()")
    code = (
        """
def attempt():
    try:
        return load_plugins(registry)
    except Exception as error:
        return [type(error).__name__ + " " + error.message]
"""
        + code
    )
    message, _ = with_path(tmp_path, code)
    assert message == (
        "warning: PluginError the plugin 'taker' of the package taker defines the pass 'fuse_bn', "
        "which exists already"
    )


# ------------------------------------------------------------------ passes that raise


def model_with_identity() -> ir.Model:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y)'
    return load(parser.parse_model(text + "{ i = Identity(x)  a = Neg(i)  y = Relu(a) }")).model


def run_plugin(tmp_path: Path, text: str) -> PipelineRun:
    """Run the pass of a plugin file, and one more after it."""
    steps = passes_of_file(plugin(tmp_path, text))
    return PassManager([*steps, drop_identities.PASS]).run(model_with_identity())


RULE = """
import onnx_ir as ir
from onnxfold.pipeline.passes import EditPass, ModelPass, RulePass
from onnxfold.rewrite.rule import Rule

def good_match(node):
    return node.inputs[0]

def bad_match(node):
    raise LookupError("in match")

def good_rewrite(found, build):
    return build.op("Abs", [found])

def bad_rewrite(found, build):
    build.op("Abs", [found])
    raise LookupError("in rewrite")

def wrong_type(found, build):
    value = build.op("IsNaN", [found])
    value.dtype = ir.DataType.BOOL
    return value

def endless(found, build):
    return build.op("Neg", [build.op("Neg", [build.op("Neg", [found])])])

def rule_pass(match, rewrite):
    rule = Rule("odd", frozenset({"Neg"}), match, rewrite)
    return RulePass("mine", lambda options: (rule,), "It.")

def raise_in_edit(rewriter, options):
    raise LookupError("in edit")

def remove_then_raise(rewriter, options):
    nodes = list(rewriter.model.graph)
    build = rewriter.builder(nodes[1])
    rewriter.replace(nodes[1], [nodes[1].inputs[0]], build, pass_name="mine", rule="r")
    raise LookupError("after an edit")

def raise_in_transform(model, options):
    model.graph.remove(list(model.graph)[-1])
    raise LookupError("in transform")

def rename_output(model, options):
    model.graph.outputs[0].name = "other"
    return model

def rename_input(model, options):
    model.graph.inputs[0].name = "other"
    return model

def change_type(model, options):
    model.graph.outputs[0].dtype = ir.DataType.DOUBLE
    return model

def dangle(model, options):
    list(model.graph)[-1].replace_input_with(0, ir.val("nowhere"))
    return model

def repeat_name(model, options):
    nodes = list(model.graph)
    nodes[0].outputs[0].name = nodes[1].outputs[0].name
    return model

def unsort(model, options):
    nodes = list(model.graph)
    model.graph.remove(nodes[0])
    model.graph.append(nodes[0])
    return model

def return_nothing(model, options):
    return None
"""


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("rule_pass(bad_match, good_rewrite)", "LookupError: in match"),
        ("rule_pass(good_match, bad_rewrite)", "LookupError: in rewrite"),
        ("rule_pass(good_match, wrong_type)", "'a' is FLOAT and its replacement BOOL"),
        ("RulePass('mine', lambda options: 1 / 0, '')", "ZeroDivisionError: division by zero"),
        ("EditPass('mine', raise_in_edit, '')", "LookupError: in edit"),
        ("ModelPass('mine', raise_in_transform, '')", "LookupError: in transform"),
        ("ModelPass('mine', rename_output, '')", "outputs ['y'] became ['other']"),
        ("ModelPass('mine', rename_input, '')", "inputs ['x'] became ['other']"),
        ("ModelPass('mine', change_type, '')", "'y' changed from FLOAT to DOUBLE"),
        ("ModelPass('mine', dangle, '')", "reads 'nowhere', which nothing before it computes"),
        ("ModelPass('mine', repeat_name, '')", "two values are called 'a'"),
        ("ModelPass('mine', unsort, '')", "reads 'i', which nothing before it computes"),
        ("ModelPass('mine', return_nothing, '')", "AttributeError"),
    ],
)
def test_a_pass_that_breaks_is_reported_and_the_run_goes_on(
    tmp_path: Path, tail: str, reason: str
) -> None:
    run = run_plugin(tmp_path, RULE + "PASS = " + tail)
    (failure,) = run.ledger.failures
    assert failure.pass_name == "mine"
    assert reason in failure.error
    assert "\n" not in failure.error
    assert [applied.key.pass_name for applied in run.ledger.applied] == ["drop_identities"]
    assert [node.op_type for node in run.model.graph] == ["Neg", "Relu"]
    check(run)


def test_the_edits_before_a_pass_raised_stay(tmp_path: Path) -> None:
    run = run_plugin(tmp_path, RULE + "PASS = EditPass('mine', remove_then_raise, '')")
    assert [failure.error for failure in run.ledger.failures] == ["LookupError: after an edit"]
    assert [applied.key.pass_name for applied in run.ledger.applied] == ["mine", "drop_identities"]
    assert [node.op_type for node in run.model.graph] == ["Relu"]
    check(run)


def test_a_pass_without_an_end_is_stopped(tmp_path: Path) -> None:
    run = run_plugin(tmp_path, RULE + "PASS = rule_pass(good_match, endless)")
    (failure,) = run.ledger.failures
    assert "pass mine does not come to an end" in failure.error
    check(run)


def check(run: PipelineRun) -> None:
    proto = to_proto(run.model)
    onnx.checker.check_model(proto, full_check=True)
    ort.InferenceSession(proto.SerializeToString())
