"""Writing is all or nothing, also over the file that was read."""

import errno
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxfold.errors import CannotWriteError
from onnxfold.model import check_target, load, save, staged, to_proto
from tests.model.errors import refused
from tests.model.models import canonical, conv_model, files_in, image, run, save_external

_CHANNELS = 64


def _negated(model: ir.Model) -> ir.Model:
    """The model with its weight negated, computed only when it is written."""
    value = model.graph.initializers["weight"]
    old = value.const_value
    assert old is not None
    value.const_value = ir.LazyTensor(
        lambda: ir.tensor(-old.numpy()),
        old.dtype,
        ir.Shape(old.shape.numpy()),
        metadata_props=dict(old.metadata_props),
    )
    return model


def _negated_proto(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    negated = -onnx.numpy_helper.to_array(tensor)
    tensor.raw_data = negated.tobytes()
    return model


def _external(folder: Path, name: str = "m.onnx", location: str = "weights.bin") -> Path:
    path = folder / name
    save_external(conv_model(channels=_CHANNELS), path, location)
    return path


class TestPlace:
    def test_folder(self, tmp_path: Path) -> None:
        model = load(conv_model()).model
        for path in (tmp_path, f"{tmp_path}{os.sep}"):
            with refused(CannotWriteError, f"{path} is a folder") as outcome:
                save(model, path)
            assert outcome.hint == f"give a file, as {tmp_path / 'out.onnx'}"
        new = f"{tmp_path / 'new'}{os.sep}"
        with refused(CannotWriteError, f"{new} is a folder"):
            save(model, new)
        assert not list(tmp_path.iterdir())

    def test_missing_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "out.onnx"
        with refused(
            CannotWriteError, f"{path} cannot be written: there is no folder {tmp_path / 'a'}"
        ) as outcome:
            save(load(conv_model()).model, path)
        assert outcome.hint == "make the folder first"
        assert not list(tmp_path.iterdir())

    def test_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("mine")
        path = tmp_path / "a" / "out.onnx"
        with refused(
            CannotWriteError, f"{path} cannot be written: {tmp_path / 'a'} is not a folder"
        ):
            save(load(conv_model()).model, path)
        assert files_in(tmp_path) == {"a": b"mine"}

    def test_impossible_paths(self, tmp_path: Path) -> None:
        model = load(conv_model()).model
        with refused(CannotWriteError, "'' is not a possible path"):
            save(model, "")
        with refused(CannotWriteError, r"'a\x00b' is not a possible path"):
            save(model, "a\0b")
        path = tmp_path / ("a" * 300)
        with refused(CannotWriteError, f"{path} cannot be written: file name too long"):
            save(model, path)
        assert not list(tmp_path.iterdir())

    def test_device(self) -> None:
        # As root a rename would put a regular file in the device's place.
        with refused(CannotWriteError, f"{os.devnull} is not a regular file"):
            save(load(conv_model()).model, os.devnull)
        assert not stat.S_ISREG(os.stat(os.devnull).st_mode)

    def test_check_target_writes_nothing(self, tmp_path: Path) -> None:
        assert check_target(tmp_path / "out.onnx") == tmp_path / "out.onnx"
        assert not list(tmp_path.iterdir())

    def test_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        save(load(conv_model()).model, "out.onnx")
        assert list(files_in(tmp_path)) == ["out.onnx"]


_SAVE_UNPRIVILEGED = """
import os, sys
from onnxfold.errors import CannotWriteError
from onnxfold.model import load, save
model = load(sys.argv[1]).model
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    save(model, sys.argv[2])
except CannotWriteError as error:
    print(error.message); print(error.hint); sys.exit(error.exit_code)
"""


def _save_unprivileged(source: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _SAVE_UNPRIVILEGED, str(source), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
class TestPermissions:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "m.onnx"
        onnx.save(conv_model(), path)
        return path

    def test_folder_that_may_be_written(self, source: Path, open_tmp_path: Path) -> None:
        # What the other tests run is able to write at all.
        done = _save_unprivileged(source, open_tmp_path / "out.onnx")
        assert done.returncode == 0, done.stderr
        assert list(files_in(open_tmp_path)) == ["out.onnx"]

    def test_folder_that_may_not(self, source: Path, open_tmp_path: Path) -> None:
        folder = open_tmp_path / "locked"
        folder.mkdir()
        old = folder / "out.onnx"
        old.write_bytes(b"old")
        old.chmod(0o666)
        folder.chmod(0o555)
        try:
            done = _save_unprivileged(source, old)
        finally:
            folder.chmod(0o755)
        assert done.stdout.splitlines() == [
            f"{old} cannot be written: no file may be made in {folder}",
            "write to another folder, or make this one writable",
        ], done.stderr
        assert done.returncode == 2
        assert files_in(folder) == {"out.onnx": b"old"}

    def test_file_that_may_not(self, source: Path, open_tmp_path: Path) -> None:
        # Renaming over it would be allowed, since its folder may be written to.
        old = open_tmp_path / "out.onnx"
        old.write_bytes(b"old")
        old.chmod(0o444)
        done = _save_unprivileged(source, old)
        assert done.stdout.splitlines() == [
            f"{old} may not be written",
            "make it writable, or write to another file",
        ], done.stderr
        assert done.returncode == 2
        assert files_in(open_tmp_path) == {"out.onnx": b"old"}

    @pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
    def test_new_files_follow_the_umask(self, tmp_path: Path, mask: int) -> None:
        model = load(conv_model(channels=_CHANNELS)).model
        before = os.umask(mask)
        try:
            save(model, tmp_path / "out.onnx", external_data=True)
        finally:
            os.umask(before)
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
    def test_replaced_files_keep_their_mode(self, tmp_path: Path, mode: int) -> None:
        out = tmp_path / "out.onnx"
        out.write_bytes(b"old")
        out.chmod(mode)
        save(load(conv_model(channels=_CHANNELS)).model, out, external_data=True)
        assert stat.S_IMODE(out.stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / "out.onnx.data").stat().st_mode) == mode

    @pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")
    def test_replaced_files_keep_their_owner(self, tmp_path: Path) -> None:
        out = tmp_path / "out.onnx"
        out.write_bytes(b"old")
        os.chown(out, 65534, 65533)
        save(load(conv_model()).model, out)
        assert (out.stat().st_uid, out.stat().st_gid) == (65534, 65533)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Lets the process write no file beyond a size; undone afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFailure:
    @pytest.mark.parametrize("external", [False, True])
    @pytest.mark.parametrize("limit", [0, 1000, 5000])
    def test_file_size_limit(
        self, tmp_path: Path, small_files: Callable[[int], None], external: bool, limit: int
    ) -> None:
        out = tmp_path / "out.onnx"
        out.write_bytes(b"old")
        model = load(conv_model(channels=_CHANNELS)).model
        small_files(limit)
        with refused(
            CannotWriteError,
            f"{out} cannot be written: the file would be too large for its disk or a limit",
        ):
            save(model, out, external_data=external)
        small_files(resource.RLIM_INFINITY)
        assert files_in(tmp_path) == {"out.onnx": b"old"}

    def test_model_file_fails_after_its_data_were_written(
        self, tmp_path: Path, small_files: Callable[[int], None]
    ) -> None:
        out = tmp_path / "out.onnx"
        proto = conv_model(channels=_CHANNELS)
        proto.doc_string = "long" * 10_000
        model = load(proto).model
        small_files(10_000)
        with pytest.raises(CannotWriteError):
            save(model, out, external_data=True)
        small_files(resource.RLIM_INFINITY)
        assert files_in(tmp_path) == {}

    @pytest.mark.parametrize("external", [False, True])
    def test_full_disk(self, tmp_path: Path, external: bool) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
            capture_output=True,
            check=False,
        ) if shutil.which("mount") else None  # fmt: skip
        if mounted is None or mounted.returncode != 0:
            pytest.skip("may not mount a small disk here; test_file_size_limit stands in")
        try:
            out = disk / "out.onnx"
            small = load(conv_model()).model
            save(small, out)
            before = files_in(disk)
            large = load(conv_model(channels=4096)).model
            with refused(CannotWriteError, f"{out} cannot be written: its disk is full") as outcome:
                save(large, out, external_data=external)
            assert "MB are free there" in outcome.hint
            assert files_in(disk) == before
            (disk / "fill").write_bytes(bytes(1000))  # room was given back
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
    @pytest.mark.parametrize("external", [False, True])
    def test_a_tensor_that_cannot_be_computed(
        self, tmp_path: Path, error: type[BaseException], external: bool
    ) -> None:
        out = tmp_path / "out.onnx"
        out.write_bytes(b"old")
        model = load(conv_model(channels=_CHANNELS)).model
        bias = model.graph.initializers["weight"]

        def fail() -> ir.TensorProtocol:
            raise error

        old = bias.const_value
        assert old is not None
        shape = ir.Shape(old.shape.numpy())
        bias.const_value = ir.LazyTensor(fail, old.dtype, shape, name="weight")
        with pytest.raises(error):
            save(model, out, external_data=external)
        assert files_in(tmp_path) == {"out.onnx": b"old"}
        assert isinstance(model.graph.initializers["weight"].const_value, ir.LazyTensor)

    def test_a_tensor_of_another_size_than_it_says(self, tmp_path: Path) -> None:
        model = load(conv_model(channels=_CHANNELS)).model
        value = model.graph.initializers["weight"]
        value.const_value = ir.LazyTensor(
            lambda: ir.tensor(np.zeros(3, np.float32)), ir.DataType.FLOAT, ir.Shape([_CHANNELS, 27])
        )
        with pytest.raises(ValueError, match="12 bytes instead of 6,912"):
            save(model, tmp_path / "out.onnx", external_data=True)
        assert files_in(tmp_path) == {}

    def test_too_large_for_one_file(self, tmp_path: Path) -> None:
        model = load(conv_model()).model
        value = model.graph.initializers["weight"]

        def never() -> ir.TensorProtocol:
            raise AssertionError("the weights were computed although they could not be written")

        value.const_value = ir.LazyTensor(
            never, ir.DataType.FLOAT, ir.Shape([1 << 29]), name="weight"
        )
        with refused(
            CannotWriteError,
            f"{tmp_path / 'out.onnx'} would hold 2.1 GB in one file, and protobuf ends at 2 GB",
        ) as outcome:
            save(model, tmp_path / "out.onnx", external_data=False)
        assert outcome.hint == "let its weights go to a file of their own"
        assert files_in(tmp_path) == {}

    def test_too_large_for_one_file_goes_into_two(self, tmp_path: Path) -> None:
        model = load(conv_model()).model
        value = model.graph.initializers["weight"]
        seen: list[str] = []

        def look() -> ir.TensorProtocol:
            seen.extend(files_in(tmp_path))
            raise KeyboardInterrupt

        value.const_value = ir.LazyTensor(look, ir.DataType.FLOAT, ir.Shape([1 << 29]))
        with pytest.raises(KeyboardInterrupt):
            save(model, tmp_path / "out.onnx")
        assert seen == ["out.onnx.data"]
        assert files_in(tmp_path) == {}


class TestStaged:
    @pytest.mark.parametrize("external", [False, True])
    def test_commit(self, tmp_path: Path, external: bool) -> None:
        out = tmp_path / "out.onnx"
        out.write_bytes(b"old")
        model = conv_model(channels=_CHANNELS)
        expected = run(model, image())
        with staged(load(model).model, out, external_data=external) as pending:
            assert out.read_bytes() == b"old"
            assert pending.path.parent == tmp_path
            np.testing.assert_array_equal(run(pending.path, image())[0], expected[0])
            assert canonical(to_proto(load(pending.path).model)) == canonical(model)
            pending.commit()
        names = ["out.onnx", "out.onnx.data"] if external else ["out.onnx"]
        assert list(files_in(tmp_path)) == names
        np.testing.assert_array_equal(run(out, image())[0], expected[0])
        assert canonical(to_proto(load(out).model)) == canonical(model)

    @pytest.mark.parametrize("external", [False, True])
    def test_without_commit_nothing_remains(self, tmp_path: Path, external: bool) -> None:
        out = tmp_path / "out.onnx"
        out.write_bytes(b"old")
        model = load(conv_model(channels=_CHANNELS)).model
        with staged(model, out, external_data=external) as pending:
            assert pending.path.is_file()
        assert files_in(tmp_path) == {"out.onnx": b"old"}

    @pytest.mark.parametrize("external", [False, True])
    def test_a_failed_check(self, tmp_path: Path, external: bool) -> None:
        out = tmp_path / "out.onnx"
        model = load(conv_model(channels=_CHANNELS)).model
        # An error of the check is not taken for one of writing.
        with (
            pytest.raises(OSError, match="check failed"),
            staged(model, out, external_data=external),
        ):
            raise OSError(errno.EIO, "check failed")
        assert files_in(tmp_path) == {}

    def test_target_that_becomes_a_folder(self, tmp_path: Path) -> None:
        out = tmp_path / "out.onnx"
        model = load(conv_model(channels=_CHANNELS)).model
        with (
            refused(CannotWriteError, f"{out} cannot be written: is a directory"),
            staged(model, out, external_data=True) as pending,
        ):
            out.mkdir()
            pending.commit()
        assert files_in(tmp_path) == {}

    def test_commit_twice_is_once(self, tmp_path: Path) -> None:
        out = tmp_path / "out.onnx"
        with staged(load(conv_model()).model, out) as pending:
            pending.commit()
            pending.commit()
        assert list(files_in(tmp_path)) == ["out.onnx"]


class TestInPlace:
    def test_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        onnx.save(conv_model(), path)
        save(_negated(load(path).model), path)
        assert canonical(onnx.load(path)) == canonical(_negated_proto(conv_model()))
        assert list(files_in(tmp_path)) == ["m.onnx"]

    def test_over_external_data_of_somebody_else(self, tmp_path: Path) -> None:
        path = _external(tmp_path, location="m.onnx.data")
        original = (tmp_path / "m.onnx.data").read_bytes()
        loaded = load(path)
        with staged(_negated(loaded.model), path) as pending:
            assert canonical(onnx.load(path)) == canonical(conv_model(channels=_CHANNELS))
            pending.commit()
        expected = _negated_proto(conv_model(channels=_CHANNELS))
        assert canonical(onnx.load(path)) == canonical(expected)
        # Whoever wrote it may need it for something else: told, and not removed.
        assert pending.unused_data == (tmp_path / "m.onnx.data",)
        assert (tmp_path / "m.onnx.data").read_bytes() == original
        assert set(files_in(tmp_path)) == {"m.onnx", "m.onnx.data", "m.onnx.1.data"}

    def test_again_and_again_leaves_no_garbage(self, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        save(load(conv_model(channels=_CHANNELS)).model, path, external_data=True)
        names = []
        for _ in range(4):
            loaded = load(path)
            with staged(_negated(loaded.model), path) as pending:
                pending.commit()
            assert pending.unused_data == ()
            names.append(sorted(set(files_in(tmp_path)) - {"m.onnx"}))
            # What was loaded goes on working, although its file is gone.
            assert canonical(to_proto(load(path).model)) == canonical(to_proto(loaded.model))
        assert names == [["m.onnx.1.data"], ["m.onnx.data"]] * 2
        assert canonical(onnx.load(path)) == canonical(conv_model(channels=_CHANNELS))

    def test_failure_leaves_the_old_pair(
        self, tmp_path: Path, small_files: Callable[[int], None]
    ) -> None:
        path = _external(tmp_path)
        before = files_in(tmp_path)
        model = _negated(load(path).model)
        small_files(2000)
        with pytest.raises(CannotWriteError):
            save(model, path)
        small_files(resource.RLIM_INFINITY)
        assert files_in(tmp_path) == before

    def test_data_that_a_copy_of_the_model_still_needs(self, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        save(load(conv_model(channels=_CHANNELS)).model, path, external_data=True)
        shutil.copy(path, tmp_path / "backup.onnx")
        save(_negated(load(path).model), path)
        assert canonical(onnx.load(tmp_path / "backup.onnx")) == canonical(
            conv_model(channels=_CHANNELS)
        )

    def test_other_peoples_files_are_never_written_to(self, tmp_path: Path) -> None:
        for name in ("out.onnx.data", "out.onnx.1.data"):
            (tmp_path / name).write_bytes(b"mine")
        save(load(conv_model(channels=_CHANNELS)).model, tmp_path / "out.onnx", external_data=True)
        assert (tmp_path / "out.onnx.data").read_bytes() == b"mine"
        assert (tmp_path / "out.onnx.1.data").read_bytes() == b"mine"
        assert load(tmp_path / "out.onnx").has_external_data
        assert (tmp_path / "out.onnx.2.data").is_file()

    def test_from_external_to_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        save(load(conv_model(channels=_CHANNELS)).model, path, external_data=True)
        save(load(path).model, path, external_data=False)
        assert list(files_in(tmp_path)) == ["m.onnx"]
        assert canonical(onnx.load(path)) == canonical(conv_model(channels=_CHANNELS))

    def test_killed_between_the_two_renames_there_is_always_a_pair(self, tmp_path: Path) -> None:
        # Every state that a reader may see: before, while and after, the target has its data.
        path = tmp_path / "m.onnx"
        save(load(conv_model(channels=_CHANNELS)).model, path, external_data=True)
        script = """
import os, sys
from onnxfold.model import load, staged
with staged(load(sys.argv[1]).model, sys.argv[1]) as pending:
    os.kill(os.getpid(), 9)
"""
        subprocess.run([sys.executable, "-c", script, str(path)], check=False)
        assert canonical(onnx.load(path)) == canonical(conv_model(channels=_CHANNELS))
        assert len(files_in(tmp_path)) > 2  # nobody could clean up
        save(_negated(load(path).model), path)
        expected = _negated_proto(conv_model(channels=_CHANNELS))
        assert canonical(onnx.load(path)) == canonical(expected)


class TestLinks:
    def test_a_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        real = tmp_path / "real" / "out.onnx"
        link = tmp_path / "out.onnx"
        link.symlink_to(real)
        save(load(conv_model()).model, link)
        assert link.is_symlink()
        assert real.is_file()
        save(_negated(load(conv_model()).model), link)
        assert link.is_symlink()
        assert canonical(onnx.load(real)) == canonical(_negated_proto(conv_model()))

    def test_external_data_behind_a_link_would_not_be_found(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        link = tmp_path / "out.onnx"
        link.symlink_to(tmp_path / "real" / "out.onnx")
        with refused(
            CannotWriteError,
            f"{link} is a link into another folder, where its external data would not be found",
        ) as outcome:
            save(load(conv_model(channels=_CHANNELS)).model, link, external_data=True)
        assert outcome.hint == f"give the real path, {tmp_path / 'real' / 'out.onnx'}"
        assert files_in(tmp_path / "real") == {}

    def test_a_link_in_the_same_folder(self, tmp_path: Path) -> None:
        link = tmp_path / "latest.onnx"
        link.symlink_to("v1.onnx")
        save(load(conv_model(channels=_CHANNELS)).model, link, external_data=True)
        assert set(files_in(tmp_path)) == {"latest.onnx", "v1.onnx", "v1.onnx.data"}
        assert canonical(to_proto(load(link).model)) == canonical(conv_model(channels=_CHANNELS))

    def test_a_hard_linked_copy_is_not_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        onnx.save(conv_model(), path)
        os.link(path, tmp_path / "backup.onnx")
        save(_negated(load(path).model), path)
        assert canonical(onnx.load(tmp_path / "backup.onnx")) == canonical(conv_model())


class TestExternalData:
    def test_as_the_input_had_it(self, tmp_path: Path) -> None:
        path = _external(tmp_path)
        save(load(path).model, tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx.data").is_file()
        saved = onnx.load(tmp_path / "out.onnx", load_external_data=False)
        assert [tensor.data_location for tensor in saved.graph.initializer] == [
            1,
            0,
        ]  # bias is small
        assert canonical(onnx.load(tmp_path / "out.onnx")) == canonical(
            conv_model(channels=_CHANNELS)
        )

    def test_when_all_external_weights_were_computed_anew(self, tmp_path: Path) -> None:
        loaded = load(_external(tmp_path))
        for value in loaded.model.graph.initializers.values():
            assert value.const_value is not None
            value.const_value = ir.tensor(np.array(value.const_value.numpy()), name=value.name)
        save(loaded.model, tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx.data").is_file()

    def test_not_where_the_input_had_none(self, tmp_path: Path) -> None:
        save(load(conv_model(channels=_CHANNELS)).model, tmp_path / "out.onnx")
        assert list(files_in(tmp_path)) == ["out.onnx"]

    def test_nothing_large_enough(self, tmp_path: Path) -> None:
        save(load(conv_model(channels=1)).model, tmp_path / "out.onnx", external_data=True)
        assert list(files_in(tmp_path)) == ["out.onnx"]

    def test_spilled_constants_are_written_into_the_model(self, tmp_path: Path) -> None:
        # A pass may keep its constants in a file of its own, which is no reason for external data.
        numbers = np.arange(64, dtype=np.float32)
        (tmp_path / "spill").mkdir()
        (tmp_path / "spill" / "s").write_bytes(numbers.tobytes())
        model = load(conv_model(channels=64)).model
        model.graph.initializers["bias"].const_value = ir.ExternalTensor(
            "s", 0, 256, ir.DataType.FLOAT, shape=ir.Shape([64]), name="",
            base_dir=tmp_path / "spill",
        )  # fmt: skip
        for external in (None, True):
            out = tmp_path / f"{external}.onnx"
            save(model, out, external_data=external)
            saved = onnx.load(out)
            np.testing.assert_array_equal(
                onnx.numpy_helper.to_array(saved.graph.initializer[1]), numbers
            )
        assert (tmp_path / "True.onnx.data").is_file()
        assert not (tmp_path / "None.onnx.data").exists()

    def test_shared_data_are_written_once(self, tmp_path: Path) -> None:
        model = load(conv_model(channels=_CHANNELS)).model
        weight = model.graph.initializers["weight"].const_value
        copy = ir.Value(name="again", const_value=weight)
        model.graph.register_initializer(copy)
        save(model, tmp_path / "out.onnx", external_data=True)
        size = (tmp_path / "out.onnx.data").stat().st_size
        assert weight is not None
        assert size < 1.1 * weight.nbytes
        loaded = load(tmp_path / "out.onnx").model
        save(loaded, tmp_path / "next.onnx")
        assert (tmp_path / "next.onnx.data").stat().st_size == size
        names = [t.name for t in onnx.load(tmp_path / "next.onnx").graph.initializer]
        assert names == ["weight", "bias", "again"]

    def test_tensors_begin_where_they_can_be_mapped(self, tmp_path: Path) -> None:
        model = conv_model(channels=_CHANNELS)
        for index in range(3):
            array = np.full(40_000 + index, index, np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"w{index}"))
        save(load(model).model, tmp_path / "out.onnx", external_data=True)
        saved = onnx.load(tmp_path / "out.onnx", load_external_data=False)
        offsets = [
            int(entry.value)
            for tensor in saved.graph.initializer
            for entry in tensor.external_data
            if entry.key == "offset"
        ]
        assert len(offsets) == 4
        assert offsets[0] % 64 == 0
        assert all(offset % 4096 == 0 for offset in offsets[1:])
        assert canonical(onnx.load(tmp_path / "out.onnx")) == canonical(model)

    def test_lazy_tensors_are_computed_once_and_one_at_a_time(self, tmp_path: Path) -> None:
        model = conv_model()
        for index in range(5):
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.zeros(1000, np.float32), f"w{index}")
            )
        loaded = load(model).model
        alive: set[int] = set()
        order: list[tuple[int, int]] = []

        class Counted(np.ndarray):
            key = -1

            def __del__(self) -> None:
                alive.discard(self.key)

        def compute(index: int) -> ir.TensorProtocol:
            array = np.full(1000, index, np.float32).view(Counted)
            array.key = index
            alive.add(index)
            order.append((index, len(alive)))
            return ir.Tensor(array)

        for index in range(5):
            loaded.graph.initializers[f"w{index}"].const_value = ir.LazyTensor(
                partial(compute, index), ir.DataType.FLOAT, ir.Shape([1000])
            )
        save(loaded, tmp_path / "out.onnx", external_data=True)
        assert order == [(index, 1) for index in range(5)]
        saved = onnx.load(tmp_path / "out.onnx")
        for index in range(5):
            array = onnx.numpy_helper.to_array(saved.graph.initializer[2 + index])
            np.testing.assert_array_equal(array, np.full(1000, index))

    def test_data_in_attributes_and_branches(self, tmp_path: Path) -> None:
        numbers = np.arange(600, dtype=np.float32)
        tensor = onnx.numpy_helper.from_array(numbers, "w")
        info = [onnx.helper.make_tensor_value_info(name, 1, [600]) for name in ("p", "q", "y")]
        make = onnx.helper.make_node
        then = onnx.helper.make_graph([make("Add", ["c", "w"], ["p"])], "t", [], info[:1], [tensor])
        other = onnx.helper.make_graph([make("Neg", ["c"], ["q"])], "e", [], info[1:2])
        graph = onnx.helper.make_graph(
            [
                make("Constant", [], ["c"], value=tensor),
                make("If", ["flag"], ["y"], then_branch=then, else_branch=other),
            ],
            "g",
            [onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])],
            info[2:],
        )
        opsets = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(graph, ir_version=9, opset_imports=opsets)
        path = tmp_path / "m.onnx"
        onnx.save(
            model, path, save_as_external_data=True, location="m.bin", size_threshold=0,
            convert_attribute=True,
        )  # fmt: skip
        save(load(path).model, tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx").stat().st_size < 1500
        for flag, expected in ((True, numbers * 2), (False, -numbers)):
            feeds = {"flag": np.array(flag)}
            np.testing.assert_array_equal(run(tmp_path / "out.onnx", feeds)[0], expected)
