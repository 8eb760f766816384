"""External data: mapped and not copied, and never read from outside the model's folder."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxfold.errors import BadModelError
from onnxfold.model import load, save, to_proto
from onnxfold.model.external import MappedTensor
from tests.model.errors import refused
from tests.model.models import (
    canonical,
    conv_model,
    external_entry,
    image,
    parsed,
    run,
    save_external,
)


def _in_initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = conv_model()
    model.graph.initializer.append(tensor)
    return model


def _in_constant_node(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = conv_model()
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], value=tensor))
    return model


def _in_subgraph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = conv_model()
    info = onnx.helper.make_tensor_value_info("p", 1, [4])
    identity = onnx.helper.make_node("Identity", [tensor.name], ["p"])
    body = onnx.helper.make_graph([identity], "body", [], [info], [tensor])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["z"], then_branch=body))
    return model


def _in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = conv_model()
    constant = onnx.helper.make_node("Constant", [], ["o"], value=tensor)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("my.ops", "F", [], ["o"], [constant], opsets))
    model.graph.node.append(onnx.helper.make_node("F", [], ["f"], domain="my.ops"))
    return model


def _in_list_of_a_custom_node(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = conv_model()
    node = onnx.helper.make_node("Foo", ["x"], ["f"], domain="my.ops")
    attribute = node.attribute.add(name="weights", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(tensor)
    model.graph.node.append(node)
    return model


def _in_default_of_a_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = conv_model()
    constant = onnx.helper.make_node("Constant", [], ["o"])
    constant.attribute.add(name="value", ref_attr_name="v", type=onnx.AttributeProto.TENSOR)
    opsets = [onnx.helper.make_opsetid("", 17)]
    function = onnx.helper.make_function("my.ops", "F", [], ["o"], [constant], opsets)
    function.attribute_proto.append(onnx.helper.make_attribute("v", tensor))
    model.functions.append(function)
    model.graph.node.append(onnx.helper.make_node("F", [], ["f"], domain="my.ops"))
    return model


_PLACES = [
    _in_initializer,
    _in_constant_node,
    _in_subgraph,
    _in_function,
    _in_list_of_a_custom_node,
    _in_default_of_a_function,
]

_Place = Callable[[onnx.TensorProto], onnx.ModelProto]


def _write(folder: Path, place: _Place, **entries: object) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4])
    external_entry(tensor, **entries)
    path = folder / "m.onnx"
    path.write_bytes(place(tensor).SerializeToString())
    return path


@pytest.mark.parametrize("place", _PLACES)
def test_read_wherever_it_is_referred_to(tmp_path: Path, place: _Place) -> None:
    values = np.array([1, 2, 3, 4], np.float32)
    (tmp_path / "w.bin").write_bytes(b"????" + values.tobytes() + b"tail")
    path = _write(tmp_path, place, location="w.bin", offset=4, length=16)
    saved = to_proto(load(path).model)
    inline = onnx.numpy_helper.from_array(values, "w")
    assert inline.raw_data in saved.SerializeToString()
    assert b"w.bin" not in saved.SerializeToString()
    expected = to_proto(load(place(inline)).model)
    assert canonical(saved) == canonical(expected)


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize(
    ("location", "what"),
    [
        ("{secret}", "an absolute path"),
        ("C:\\secret", "an absolute path"),
        ("\\secret", "an absolute path"),
        ("../secret", "a path that climbs"),
        ("sub/../../secret", "a path that climbs"),
        ("..\\secret", "a path that climbs"),
        ("", "impossible"),
        (".", "a link out"),
    ],
)
def test_paths_out_of_the_folder(tmp_path: Path, place: _Place, location: str, what: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    location = location.format(secret=secret)
    path = _write(folder, place, location=location)
    described = f"the external data {location!r} of {path}"
    sentence = {
        "an absolute path": f"{described} is an absolute path",
        "a path that climbs": f"{described} climbs out of the model's folder",
        "impossible": f"{described} is not a possible path",
        "a link out": f"{described} is a link out of the model's folder",
    }[what]
    with refused(BadModelError, sentence):
        load(path)


def _symlink(secret: Path, folder: Path) -> None:
    (folder / "w.bin").symlink_to(secret)


def _symlinked_folder(secret: Path, folder: Path) -> None:
    (folder / "sub").symlink_to(secret.parent)


def _hard_link(secret: Path, folder: Path) -> None:
    os.link(secret, folder / "w.bin")


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize(
    ("link", "location", "what"),
    [
        (_symlink, "w.bin", "is a link out of the model's folder"),
        (_symlinked_folder, "sub/secret", "is a link out of the model's folder"),
        (_hard_link, "w.bin", "is a hard link, which may lead out of the model's folder"),
    ],
)
def test_links_out_of_the_folder(
    tmp_path: Path,
    place: _Place,
    link: Callable[[Path, Path], None],
    location: str,
    what: str,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    secret = tmp_path / "elsewhere" / "secret"
    secret.write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    link(secret, folder)
    path = _write(folder, place, location=location)
    with refused(BadModelError, f"the external data {location!r} of {path} {what}") as outcome:
        load(path)
    assert outcome.hint == "replace the link by a copy of the file"


def test_nothing_is_read_before_all_is_checked(tmp_path: Path) -> None:
    # The second reference is bad; the first file must not even have been mapped.
    (tmp_path / "good.bin").write_bytes(bytes(16))
    atime = os.stat(tmp_path / "good.bin").st_atime_ns
    tensors = [onnx.TensorProto(name=name, data_type=1, dims=[4]) for name in ("a", "b")]
    external_entry(tensors[0], location="good.bin")
    external_entry(tensors[1], location="/etc/hostname")
    model = conv_model()
    model.graph.initializer.extend(tensors)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadModelError):
        load(path)
    assert str(tmp_path / "good.bin") not in Path("/proc/self/maps").read_text()
    assert os.stat(tmp_path / "good.bin").st_atime_ns == atime


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "w").write_bytes(bytes(16))
    (tmp_path / "w.bin").symlink_to(tmp_path / "blobs" / "w")
    loaded = load(_write(tmp_path, _in_initializer, location="w.bin"))
    assert loaded.model.graph.initializers["w"].const_value is not None


def test_a_relative_model_path_is_no_way_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    _write(folder, _in_initializer, location=str(tmp_path / "secret"))
    monkeypatch.chdir(folder)
    with refused(
        BadModelError, f"the external data '{tmp_path / 'secret'}' of m.onnx is an absolute path"
    ):
        load("m.onnx")


@pytest.mark.parametrize("place", _PLACES)
def test_missing_data(tmp_path: Path, place: _Place) -> None:
    path = _write(tmp_path, place, location="sub/w.bin")
    with refused(BadModelError, f"the external data 'sub/w.bin' of {path} is missing") as outcome:
        load(path)
    assert outcome.hint == f"put it at {tmp_path / 'sub' / 'w.bin'}"


@pytest.mark.parametrize("place", _PLACES)
def test_data_that_are_too_short(tmp_path: Path, place: _Place) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(19))
    path = _write(tmp_path, place, location="w.bin", offset=4, length=16)
    name = "w"
    with refused(
        BadModelError,
        f"the external data of {path} end at byte 19, before its tensor {name!r}, which ends at 20",
    ):
        load(path)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (
            {"length": 12},
            "the tensor 'w' of {path} has 12 bytes of external data, not the 16 of its shape",
        ),
        (
            {"length": 0},
            "the tensor 'w' of {path} has 0 bytes of external data, not the 16 of its shape",
        ),
        ({"offset": -4}, "{path} gives the tensor 'w' the offset '-4', not a number"),
        ({"offset": "9" * 5000}, "{path} gives the tensor 'w' the offset '" + "9" * 5000 + "', not "
         "a number"),
        ({"length": "x"}, "{path} gives the tensor 'w' the length 'x', not a number"),
    ],
)  # fmt: skip
def test_bad_extents(tmp_path: Path, entries: dict[str, object], sentence: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    path = _write(tmp_path, _in_initializer, location="w.bin", **entries)
    with refused(BadModelError, sentence.format(path=path)):
        load(path)


def test_two_locations_for_one_tensor(tmp_path: Path) -> None:
    # Readers disagree on which of the two counts, so one could be checked and the other read.
    (tmp_path / "w.bin").write_bytes(bytes(16))
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4])
    external_entry(tensor, location="w.bin")
    tensor.external_data.add(key="location", value="/etc/passwd")
    path = tmp_path / "m.onnx"
    path.write_bytes(_in_initializer(tensor).SerializeToString())
    with refused(BadModelError, f"{path} says twice where the tensor 'w' is"):
        load(path)


def test_external_strings(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.STRING, dims=[4])
    external_entry(tensor, location="w.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(_in_initializer(tensor).SerializeToString())
    with refused(
        BadModelError,
        f"the tensor 'w' of {path} has a type that cannot be kept as external data",
    ):
        load(path)


@pytest.mark.parametrize("part", ["values", "indices"])
def test_external_sparse_tensors(tmp_path: Path, part: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    sparse = onnx.helper.make_sparse_tensor(
        onnx.helper.make_tensor("s", 1, [1], [2.0]), onnx.helper.make_tensor("i", 7, [1], [1]), [4]
    )
    external_entry(getattr(sparse, part), location="w.bin")
    model = conv_model()
    model.graph.sparse_initializer.append(sparse)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with refused(BadModelError, f"{path} keeps the sparse tensor 's' as external data"):
        load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    path = _write(tmp_path, _in_initializer, location="w.bin")
    with refused(BadModelError, f"the external data 'w.bin' of {path} is not a regular file"):
        load(path)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_contents_without_a_folder(as_bytes: bool) -> None:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4])
    external_entry(tensor, location="/etc/passwd")
    model = _in_initializer(tensor)
    with refused(
        BadModelError,
        "the model keeps its weights in other files, and it came without a folder",
    ) as outcome:
        load(model.SerializeToString() if as_bytes else model)
    assert outcome.hint == "give the path of the model instead of its contents"


def test_weights_are_mapped_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_external(conv_model(), path)
    loaded = load(path)
    assert loaded.has_external_data
    tensor = loaded.model.graph.initializers["weight"].const_value
    assert isinstance(tensor, MappedTensor)
    assert isinstance(tensor, ir.ExternalTensor)
    array = tensor.numpy()
    assert not array.flags.writeable
    assert not array.flags.owndata
    np.testing.assert_array_equal(
        array, onnx.numpy_helper.to_array(conv_model().graph.initializer[0])
    )
    assert tensor.tobytes() == conv_model().graph.initializer[0].raw_data


def test_arrays_outlive_release_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_external(conv_model(), path)
    loaded = load(path)
    tensor = loaded.model.graph.initializers["weight"].const_value
    assert isinstance(tensor, MappedTensor)
    array = tensor.numpy()
    before = array.copy()
    tensor.release()
    np.testing.assert_array_equal(array, before)
    (tmp_path / "weights.bin").unlink()
    np.testing.assert_array_equal(tensor.numpy(), before)


@pytest.mark.parametrize(
    "dtype",
    ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL", "INT8", "UINT64", "COMPLEX64",
     "FLOAT8E4M3FN", "INT4", "UINT4", "INT64"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4)])
def test_element_types(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    data_type = onnx.TensorProto.DataType.Value(dtype)
    values = np.arange(np.prod(shape, dtype=int)) % 2
    inline = onnx.helper.make_tensor("w", data_type, shape, values.astype(np.float32))
    if not inline.HasField("raw_data"):
        raw = ir.serde.TensorProtoTensor(inline).tobytes()
        inline = onnx.TensorProto(name="w", data_type=data_type, dims=shape, raw_data=raw)
    model = _in_initializer(inline)
    path = tmp_path / "m.onnx"
    external = _in_initializer(inline)
    (tmp_path / "w.bin").write_bytes(bytes(3) + inline.raw_data)  # not aligned
    external_entry(external.graph.initializer[-1], location="w.bin", offset=3)
    path.write_bytes(external.SerializeToString())
    tensor = load(path).model.graph.initializers["w"].const_value
    assert tensor is not None
    reference = ir.serde.TensorProtoTensor(inline)
    assert tensor.numpy().dtype == reference.numpy().dtype
    assert tensor.shape == reference.shape
    np.testing.assert_array_equal(tensor.numpy(), reference.numpy())
    np.testing.assert_array_equal(np.asarray(tensor), reference.numpy())
    assert tensor.tobytes() == inline.raw_data
    assert canonical(to_proto(load(path).model)) == canonical(to_proto(load(model).model))


def test_many_files_do_not_use_up_descriptors(tmp_path: Path) -> None:
    count = 300
    model = parsed('<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) '
                   "{ y = Neg(x) }")  # fmt: skip
    for index in range(count):
        tensor = model.graph.initializer.add(name=f"w{index}", data_type=1, dims=[4])
        (tmp_path / f"w{index}").write_bytes(np.full(4, index, np.float32).tobytes())
        external_entry(tensor, location=f"w{index}")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    before = len(os.listdir("/proc/self/fd"))
    loaded = load(path)
    for index, value in enumerate(loaded.model.graph.initializers.values()):
        assert value.const_value is not None
        np.testing.assert_array_equal(value.const_value.numpy(), np.full(4, index, np.float32))
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    (tmp_path / "w7").write_bytes(bytes(20))
    tensor7 = loaded.model.graph.initializers["w7"].const_value
    assert tensor7 is not None
    with refused(BadModelError, f"the external data 'w7' of {path} changed after it was loaded"):
        tensor7.numpy()


def test_unknown_keys_are_ignored_quietly(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    path = _write(tmp_path, _in_initializer, location="w.bin", checksum="abc", odd="x")
    assert load(path).has_external_data
    assert not recwarn.list


def test_the_model_itself_may_be_a_link(tmp_path: Path) -> None:
    # A runtime looks for the data beside the path that it was given, not behind the link.
    (tmp_path / "real").mkdir()
    save_external(conv_model(), tmp_path / "real" / "m.onnx")
    link = tmp_path / "m.onnx"
    link.symlink_to(tmp_path / "real" / "m.onnx")
    with refused(BadModelError, f"the external data 'weights.bin' of {link} is missing"):
        load(link)


def test_computes_the_same_after_a_round_trip(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    save_external(conv_model(), path)
    save(load(path).model, out)
    onnx.checker.check_model(str(out), full_check=True)
    for a, b in zip(run(path, image()), run(out, image()), strict=True):
        np.testing.assert_array_equal(a, b)
    assert canonical(onnx.load(out)) == canonical(conv_model())
