"""The package is complete, and the README's commands are the ones that CI runs."""

import re
import tomllib
from pathlib import Path
from typing import Any

import onnx
import onnx.parser

import onnxfold
import onnxfold.passes
from onnxfold.pipeline.passes import Pass

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def packages(folder: Path) -> set[str]:
    """The packages on disk below `onnxfold/`, the link to the library left out."""
    return {
        ".".join(init.parent.relative_to(ROOT).parts)
        for init in folder.rglob("__init__.py")
        if "passes" not in init.parts[len(ROOT.parts) :]
    }


def test_every_folder_is_packaged() -> None:
    listed = SETTINGS["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed)
    assert set(listed) == packages(ROOT / "onnxfold") | {"onnxfold.passes"}


def test_no_folder_of_code_lacks_its_init() -> None:
    for file in (ROOT / "onnxfold").rglob("*.py"):
        assert (file.parent / "__init__.py").exists(), file


def test_the_library_is_mapped_from_the_top() -> None:
    assert SETTINGS["tool"]["setuptools"]["package-dir"] == {"onnxfold.passes": "passes"}
    link = ROOT / "onnxfold" / "passes"
    if link.is_symlink():  # git may be told to make no links
        assert link.readlink() == Path("../passes")
    assert (ROOT / "passes" / "presets.py").exists()
    assert onnxfold.passes.__name__ == "onnxfold.passes"


def test_typed_and_licensed() -> None:
    assert (ROOT / "onnxfold" / "py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert SETTINGS["project"]["license"] == "Apache-2.0"


def test_every_dependency_has_a_lower_bound() -> None:
    project = SETTINGS["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    assert all(">=" in dependency for group in lists for dependency in group)


def test_the_two_commands_are_those_of_ci() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S)
    first, second = (block.strip() for block in blocks[:2])
    assert first == "pip install . && onnxfold optimize examples/demo/demo.onnx -o demo.opt.onnx"
    assert second == 'pip install ".[test]" && python -m pytest -n 2'
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()
    assert steps[-1] == second
    assert any(line.startswith("onnxfold optimize examples/demo/demo.onnx -o") for line in steps)


def test_files_that_the_readme_names_exist() -> None:
    for text in (README, *(p.read_text(encoding="utf-8") for p in documents())):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert any((folder / target).exists() for folder in (ROOT, ROOT / "onnxfold")), target


def documents() -> list[Path]:
    return [ROOT / "onnxfold" / "README.md", ROOT / "passes" / "README.md"]


def test_python_in_the_readme_runs(tmp_path: Path) -> None:
    """The three lines, as they stand, on the demonstration network."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    assert len(blocks) == 4
    three, rule, function, quantizing = blocks
    pictures = str(ROOT / "examples/demo/pictures/*-image.png")
    for index, lines in enumerate((three, quantizing)):
        assert len(lines.strip().splitlines()) == 3
        output = tmp_path / f"out{index}.onnx"
        text = lines.replace('"in.onnx"', repr(str(ROOT / "examples/demo/demo.onnx")))
        text = text.replace('"out.onnx"', repr(str(output))).replace('"images"', repr(pictures))
        text = text.replace("openvino", "tensorrt")  # which is not timed
        exec(compile(text, "README.md", "exec"), {})
        assert output.exists()
    source = with_dropout()
    optimized = onnxfold.optimize(source, passes=[pass_of(rule), pass_of(function)])
    assert optimized.report.rewrites_by_pass() == {"div_to_mul": 1, "drop_dropout": 1}
    assert [node.op_type for node in optimized.to_proto().graph.node] == ["Mul", "Relu"]
    assert optimized.report.verdict is not None


def pass_of(code: str) -> Pass:
    assert len(code.strip().splitlines()) <= 22
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    step: Pass = names["PASS"]
    return step


def with_dropout() -> onnx.ModelProto:
    return onnx.parser.parse_model("""
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3] y) <float d = {3}>
{
    q = Div(x, d)
    p = Dropout(q)
    y = Relu(p)
}
""")
