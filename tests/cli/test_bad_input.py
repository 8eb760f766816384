"""Whatever is wrong: one sentence, a hint, nothing written, nothing lost."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.cli.commands import NET, onnxfold, process, refused, saved, surroundings
from tests.model.models import external_entry, files_in, save_external
from tests.verify.networks import conv_net, copied

EXAMPLE = NET.SerializeToString()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path / "in.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (EXAMPLE[: len(EXAMPLE) // 2], "is cut off"),
        (np.random.default_rng(0).bytes(5000), "is not an ONNX model"),
        (b"hello, this is text\n", "is a text file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "is "),
        (b"PK\x03\x04" + b"\0" * 100, "is "),
    ],
    ids=["empty", "truncated", "random", "text", "picture", "archive"],
)
@pytest.mark.parametrize("flags", [(), ("--no-verify", "--json")])
def test_what_is_no_model(
    tmp_path: Path, content: bytes, message: str, flags: tuple[str, ...]
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    output = tmp_path / "out.onnx"
    output.write_bytes(b"something of value")
    outcome = onnxfold("optimize", path, "-o", output, *flags)
    refused(outcome, f"{path} {message}")
    assert files_in(tmp_path) == {"bad.onnx": content, "out.onnx": b"something of value"}


def test_folders_and_missing_files(source: Path, tmp_path: Path) -> None:
    kept = files_in(tmp_path)
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    refused(onnxfold("optimize", folder, "-o", "x.onnx"), f"{folder} is a folder")
    gone = tmp_path / "gone.onnx"
    refused(onnxfold("optimize", gone, "-o", "x.onnx"), f"{gone} does not exist", "check the path")
    refused(onnxfold("optimize", source, "-o", folder), f"{folder} is a folder", "give a file")
    inside = tmp_path / "nowhere" / "out.onnx"
    refused(onnxfold("optimize", source, "-o", inside), f"{inside} cannot be written: there is no")
    assert files_in(tmp_path) == kept


_UNPRIVILEGED = """
import os, sys
from onnxfold.cli.main import main
def run(*arguments):
    try:
        main(list(arguments))
    except SystemExit as done:
        return done.code
source, warm, target = sys.argv[1:]
assert run("optimize", source, "-o", warm) == 0  # all is imported while it can be
sys.stdout = open(os.devnull, "w")
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(run("optimize", source, "-o", target))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="onnxfold-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", ["folder", "file", "source"])
def test_no_permission(open_folder: Path, mode: str) -> None:
    source = saved(open_folder / "in.onnx")
    source.chmod(0o644)
    locked = open_folder / "locked"
    locked.mkdir()
    target = locked / "out.onnx"
    target.write_bytes(b"something of value")
    locked.chmod(0o555 if mode == "folder" else 0o777)
    target.chmod(0o666 if mode == "source" else 0o444)
    if mode == "source":
        if os.geteuid() != 0:
            pytest.skip("the file is read before the rights are dropped")
        source.chmod(0o000)
    outcome = process(source, open_folder / "warm.onnx", target, program=_UNPRIVILEGED)
    named = source if mode == "source" else target
    outcome = replace(outcome, stdout="")
    refused(outcome, str(named))
    assert files_in(locked) == {"out.onnx": b"something of value"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("external", [False, True])
def test_full_disk(tmp_path: Path, small_disk: Path, external: bool) -> None:
    wide = conv_net(2, 48, dims=(1, 3, 8, 8))
    source = tmp_path / "in.onnx"
    if external:
        save_external(wide, source)
    else:
        onnx.save(wide, source)
    target = small_disk / "out.onnx"
    target.write_bytes(b"something of value")
    outcome = onnxfold("optimize", source, "-o", target)
    refused(outcome, f"{target} cannot be written: its disk is full", "0 MB are free there")
    assert files_in(small_disk) == {"out.onnx": b"something of value"}


def test_full_disk_under_temporary_files(tmp_path: Path, small_disk: Path) -> None:
    """Constants are spilled to the disk of temporary files; when it is full nothing is folded."""
    source = tmp_path / "in.onnx"
    save_external(conv_net(2, 64, dims=(1, 3, 8, 8)), source)
    output = tmp_path / "out.onnx"
    outcome = process("optimize", source, "-o", output, environment={"TMPDIR": str(small_disk)})
    assert "Traceback" not in outcome.stderr
    assert outcome.code == 0, outcome.stderr
    assert "\nskipped: fuse_bn/after_linear at " in outcome.stdout
    assert "because of OSError: " in outcome.stdout
    assert "note: " not in outcome.stdout
    assert onnxfold("verify", source, output).code == 0
    assert ours(small_disk) == []


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("--passes", "fuse_bm"), "there is no pass 'fuse_bm'", "did you mean 'fuse_bn'?"),
        (("--passes", ","), "the list of passes is empty", "see `onnxfold passes`"),
        (("--passes", "fuse_bn:x=1"), "pass 'fuse_bn' has no option 'x'", "its options: none"),
        (
            ("--passes", "fold_constants:max_bytes=abc"),
            "option 'max_bytes' of pass 'fold_constants' cannot be 'abc'",
            "it takes a whole number",
        ),
        (
            ("--passes", "to_fp16:calibration=C:/c.npz"),
            "pass 'to_fp16' has no option '/c.npz'",
            "its options: keep_io, calibration, max_activation, keep; a value with : or , stands",
        ),
        (("--passes", 'to_fp16:keep="a,b'), "a double quote is open in the list", "close it"),
        (
            ("--passes", 'fuse_bn,to_fp16:calibration="gone,c:1.npz"'),
            "the calibration gone,c:1.npz cannot be read: no such file",
            "check the path",
        ),
        (("--passes", "fuse_bn,to_fp16:keep=c9"), "nothing in the model is called 'c9'", "give"),
        (("--passes", "fuse_bn,insert_qdq"), "insert_qdq has no calibration", "make one with"),
        (("--input-shape", "x:1x3"), "input 'x' has 4 axes, and 1x3 has 2", "its declared shape"),
        (("--input-shape", "x:1x4x8x8"), "input 'x' cannot have shape 1x4x8x8", "its declared"),
        (("--input-shape", "q:1x3x8x8"), "the model has no input 'q'", "its inputs: x"),
        (("--input-shape", "x:1x3x0x8"), "'x:1x3x0x8' is no input shape", "write it as name:1x3"),
        (("--input-shape", "1x3x8x8"), "'1x3x8x8' is no input shape", "write it as name:1x3"),
        (("--rtol", "-1"), "rtol is -1.0, which is not", "try --rtol 1e-4"),
        (("--rtol", "nan"), "rtol is nan, which is not", "try --rtol 1e-4"),
        (("--rtol", "much"), "invalid value for '--rtol'", "see `onnxfold optimize --help`"),
        (("--threads", "0"), "invalid value for '--threads'", "see `onnxfold optimize --help`"),
        (("--rewrite-limit", "-1"), "invalid value for '--rewrite-limit'", "see `onnxfold"),
        (("--frobnicate",), "no such option", "see `onnxfold optimize --help`"),
        (("more.onnx",), "got unexpected extra argument", "see `onnxfold optimize --help`"),
        (("--plugin", "gone.py"), "the plugin gone.py does not exist", "give the path"),
        (("--data", "gone.npz"), "gone.npz does not exist", "check the path"),
    ],
)
def test_bad_options(
    source: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, hint: str
) -> None:
    kept = files_in(tmp_path)
    outcome = onnxfold("optimize", source, "-o", tmp_path / "out.onnx", *arguments)
    refused(outcome, message, hint)
    assert files_in(tmp_path) == kept


def test_unknown_commands() -> None:
    refused(onnxfold("optimise"), "there is no command 'optimise'", "did you mean 'optimize'?")
    refused(onnxfold("fly"), "there is no command 'fly'", "see `onnxfold --help`")
    refused(onnxfold("optimize", "in.onnx"), "missing option '-o'", "see `onnxfold optimize")
    refused(onnxfold("verify", "in.onnx"), "missing argument 'B.onnx'", "see `onnxfold verify")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("def f(:", "cannot be loaded: SyntaxError"),
        ("import sys; sys.exit(0)", "cannot be loaded: SystemExit"),
        ("x = 1", "defines no pass"),
        ("from onnxfold.passes.fuse_bn import PASS", "defines the pass 'fuse_bn', which exists"),
        ("PASS = 3", ""),
    ],
)
def test_plugins_that_cannot_be_used(source: Path, tmp_path: Path, text: str, message: str) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(text)
    outcome = onnxfold("optimize", source, "-o", tmp_path / "out.onnx", "--plugin", plugin)
    assert message in outcome.stderr
    refused(outcome, "")
    assert not (tmp_path / "out.onnx").exists()


def ours(folder: Path) -> list[str]:
    """Temporary files of onnxfold; the runtime leaves one of its own."""
    return [path.name for path in folder.iterdir() if "onnxfold-" in path.name]


def with_data_at(location: str) -> onnx.ModelProto:
    made = copied(NET)
    external_entry(made.graph.initializer[0], location=location, offset=0)
    return made


@pytest.mark.parametrize(
    ("location", "prepare"),
    [
        ("/etc/hostname", lambda folder: None),
        ("../outside.bin", lambda folder: None),
        (
            "link.bin",
            lambda folder: (folder / "link.bin").symlink_to(folder.parent / "outside.bin"),
        ),
        ("missing.bin", lambda folder: None),
    ],
    ids=["absolute", "climbing", "link", "missing"],
)
def test_external_data_elsewhere(
    tmp_path: Path, location: str, prepare: Callable[[Path], None]
) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(4096))
    folder = tmp_path / "model"
    folder.mkdir()
    prepare(folder)
    source = saved(folder / "in.onnx", with_data_at(location))
    for flags in ((), ("--no-verify",)):
        outcome = onnxfold("optimize", source, "-o", folder / "out.onnx", *flags)
        assert location in outcome.stderr
        refused(outcome, "")
    refused(onnxfold("verify", source, source), "")
    assert not (folder / "out.onnx").exists()


def unknown_operator() -> onnx.ModelProto:
    made = copied(NET)
    made.opset_import.append(helper.make_opsetid("acme", 1))
    made.graph.node[-1].output[0] = "mine"
    made.graph.node.append(helper.make_node("Sharpen", ["mine"], ["scores"], domain="acme"))
    return made


def misspelt_operator() -> onnx.ModelProto:
    made = copied(NET)
    made.graph.node[2].op_type = "Reluu"
    return made


def future_opset() -> onnx.ModelProto:
    made = copied(NET)
    made.opset_import[0].version = 99
    return made


@pytest.mark.parametrize("make", [unknown_operator, misspelt_operator, future_opset])
def test_what_the_runtime_lacks(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    source, output = saved(tmp_path / "in.onnx", make()), tmp_path / "out.onnx"
    outcome = onnxfold("optimize", source, "-o", output)
    refused(outcome, "the model cannot be verified here: ", code=3)
    assert "or accept an unverified result with --no-verify" in outcome.stderr
    assert not output.exists()
    unproven = onnxfold("optimize", source, "-o", output, "--no-verify")
    assert unproven.code == 0
    assert "note: the result is not verified" in unproven.stdout
    made = onnx.load(output)
    assert "BatchNormalization" not in {node.op_type for node in made.graph.node[:2]}
    refused(onnxfold("verify", source, output), "", code=3)


def test_output_over_the_input_is_all_or_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", unknown_operator())
    kept = files_in(tmp_path)
    refused(onnxfold("optimize", path, "-o", path), "the model cannot be verified here", code=3)
    assert files_in(tmp_path) == kept
    save_external(NET, path)
    assert onnxfold("optimize", path, "-o", path).code == 0
    assert onnxfold("verify", saved(tmp_path / "old.onnx"), path).code == 0


def test_the_disk_is_not_asked_for_much_memory(source: Path, tmp_path: Path) -> None:
    """A shape of a terabyte is no bug of ours."""
    outcome = onnxfold(
        *("optimize", source, "-o", tmp_path / "out.onnx"),
        *("--input-shape", "x:1x3x1000000x1000000"),
    )
    refused(outcome, "", code=3)
    assert not (tmp_path / "out.onnx").exists()


def test_a_bug_is_called_a_bug(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxfold.cli.optimize as command

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("first line\nsecond line")

    monkeypatch.setattr(command, "optimize", broken)
    outcome = onnxfold("optimize", source, "-o", tmp_path / "out.onnx")
    refused(outcome, "a bug in onnxfold: AssertionError: first line", "please report it", code=70)


_SLOW = """
import sys, time
from onnxfold.pipeline.passes import EditPass
def edit(rewriter, options):
    open(sys.argv[sys.argv.index("-o") + 1] + ".started", "w").close()
    time.sleep(60)
PASS = EditPass("slow", edit, "Sleeps.")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    source, temporary = tmp_path / "in.onnx", tmp_path / "tmp"
    temporary.mkdir()
    save_external(conv_net(2, 64, dims=(1, 3, 8, 8)), source)
    (tmp_path / "slow.py").write_text(_SLOW)
    kept = files_in(tmp_path)
    output = tmp_path / "out.onnx"
    tool = subprocess.Popen(
        [
            *(sys.executable, "-m", "onnxfold", "optimize", str(source), "-o", str(output)),
            *("--plugin", str(tmp_path / "slow.py"), "--passes", "fuse_bn,slow"),
            *("--input-shape", "x:1x3x8x8"),
        ],
        env=surroundings({"TMPDIR": str(temporary)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = Path(f"{output}.started")
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline and tool.poll() is None:
        time.sleep(0.05)
    assert ours(temporary)
    tool.send_signal(number)
    stdout, stderr = tool.communicate(timeout=60)
    started.unlink()
    assert tool.returncode == 130, stderr
    assert stdout == ""
    assert stderr.splitlines()[-2:] == [
        "error: interrupted",
        "hint: no file was left half written",
    ]
    assert files_in(tmp_path) == kept
    assert ours(temporary) == []
    assert ours(tmp_path) == []
