"""What holds for every file: who may import whom, sizes, names, the parts of a pass."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxfold.passes.presets import BUILTIN, DEFAULT

ROOT = Path(__file__).parents[1]
FRAMEWORK = sorted(
    file
    for file in (ROOT / "onnxfold").rglob("*.py")
    if "passes" not in file.parent.relative_to(ROOT).parts
)
LIBRARY = sorted((ROOT / "passes").glob("*.py"))
PASS_FILES = [file for file in LIBRARY if file.name not in ("__init__.py", "presets.py")]
CODE = [*FRAMEWORK, *LIBRARY, *sorted((ROOT / "tests").rglob("*.py"))]

_LATE = {
    *("algebra", "ir", "rewrite", "linear", "pipeline", "model", "verify", "cost", "interop"),
    *("bench", "calibrate", "targets", "quantize", "precision"),
}
MAY_IMPORT = {
    "algebra": {"algebra"},
    "ir": {"ir", "errors"},
    "cost": {"cost", "ir", "algebra", "errors"},
    "rewrite": {"rewrite", "ir", "algebra", "errors"},
    "linear": {"linear", "rewrite", "ir", "algebra", "cost"},
    "model": {"model", "errors"},
    "verify": {"verify", "errors"},
    "interop": _LATE - {"cost"} | {"errors"},
    "bench": {"bench", "verify", "errors"},
    "calibrate": {"calibrate", "model", "ir", "verify", "errors"},
    "precision": {"precision", "rewrite", "verify", "ir", "errors"},
    "targets": {"targets", "quantize", "calibrate", "cost", "model", "verify", "ir", "errors"},
    "quantize": {
        *("quantize", "targets", "calibrate", "bench", "linear", "rewrite", "verify", "ir"),
        *("model", "errors"),
    },
    "pipeline": {"pipeline", "rewrite", "ir", "cost", "verify", "errors"},
    "optimization": _LATE | {"optimization", "errors", "passes"},
    "quantization": _LATE | {"quantization", "optimization", "errors", "passes"},
    "cli": _LATE | {"optimization", "quantization", "errors", "passes", "cli"},
    "errors": set(),
    "__main__": {"cli"},
}
"""Which parts of onnxfold each part may import; `passes` only where pipelines are looked up."""

NUMBERS_ONLY = {"numpy"}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a file imports, and whether it does so at once."""
    module = tree(file)
    top = {id(node) for node in module.body}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or "", id(node) in top


def part(module: str) -> str:
    """`onnxfold.ir.graph` is of the part `ir`."""
    return module.split(".")[1] if "." in module else "__init__"


def part_of(file: Path) -> str:
    inside = file.relative_to(ROOT / "onnxfold").parts
    return inside[0].removesuffix(".py")


def by_path(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FRAMEWORK, ids=by_path)
def test_layers(file: Path) -> None:
    own = part_of(file)
    if own == "__init__":
        return
    for module, _ in imports(file):
        if module.split(".")[0] == "onnxfold":
            assert part(module) in MAY_IMPORT[own], f"{own} imports {module}"


def test_every_part_has_its_layer() -> None:
    assert {part_of(file) for file in FRAMEWORK} - {"__init__"} == MAY_IMPORT.keys()


@pytest.mark.parametrize("file", FRAMEWORK, ids=by_path)
def test_only_the_main_job_and_the_command_know_the_library(file: Path) -> None:
    for module, at_once in imports(file):
        if module.startswith("onnxfold.passes"):
            assert part_of(file) in ("cli", "optimization", "quantization")
            # Commands are imported when they are called; the main job looks passes up when asked.
            assert part_of(file) == "cli" or not at_once


def test_the_algebra_knows_only_numbers() -> None:
    standard = sys.stdlib_module_names
    for file in (ROOT / "onnxfold" / "algebra").glob("*.py"):
        for module, _ in imports(file):
            first = module.split(".")[0]
            assert first in standard or first in NUMBERS_ONLY | {"onnxfold"}, f"{file}: {module}"


@pytest.mark.parametrize("file", PASS_FILES, ids=by_path)
def test_passes_do_not_know_each_other(file: Path) -> None:
    for module, _ in imports(file):
        assert not module.startswith("onnxfold.passes"), module
        assert not module.startswith(("onnxfold.cli", "onnxfold.optimization")), module


@pytest.mark.parametrize("file", [*FRAMEWORK, *LIBRARY], ids=by_path)
def test_a_file_is_small_and_says_what_it_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree(file))
    assert file.stem not in ("utils", "helpers", "common", "misc", "base")


@pytest.mark.parametrize("file", [*FRAMEWORK, *LIBRARY], ids=by_path)
def test_nothing_prints(file: Path) -> None:
    if file.name == "onnxsim_process.py":
        return
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{file}:{node.lineno}"


@pytest.mark.parametrize("file", FRAMEWORK, ids=by_path)
def test_no_state_in_modules(file: Path) -> None:
    for node in ast.walk(tree(file)):
        assert not isinstance(node, ast.Global), f"{file}:{node.lineno}"
    for node in tree(file).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.List | ast.ListComp
        ):
            names = node.targets if isinstance(node, ast.Assign) else [node.target]
            assert [ast.unparse(name) for name in names] == ["__all__"], f"{file}:{node.lineno}"


def test_nothing_in_the_tests_is_a_mock() -> None:
    for file in (ROOT / "tests").rglob("*.py"):
        for module, _ in imports(file):
            assert not module.startswith(("unittest.mock", "pytest_mock")), file


def test_every_pass_on_disk_is_listed() -> None:
    assert {step.name for step in BUILTIN} == {file.stem for file in PASS_FILES}
    assert set(DEFAULT) <= set(BUILTIN)
    assert all(str(step.exactness) != "lossy" for step in DEFAULT)


SECTIONS = ("What it does:", "When it applies:", "When it refuses:", "Exactness:", "Example:")


@pytest.mark.parametrize("step", BUILTIN, ids=lambda step: step.name)
def test_every_pass_explains_itself(step: object) -> None:
    text = str(getattr(step, "documentation", ""))
    lines = text.splitlines()
    assert lines[0].endswith(".")
    places = [lines.index(section) for section in SECTIONS]
    assert places == sorted(places)
    exactness = lines[lines.index("Exactness:") + 1].strip()
    assert exactness.startswith(str(getattr(step, "exactness", "")))
    example = "\n".join(lines[places[-1] :])
    assert "before:" in example
    assert "after:" in example


def test_the_catalogue_is_up_to_date() -> None:
    """`python -m tests.test_house_rules` writes it."""
    assert CATALOGUE.read_text(encoding="utf-8") == catalogue()


CATALOGUE = ROOT / "passes" / "README.md"


def catalogue() -> str:
    """The catalogue of passes, from their docstrings."""
    order = [step.name for step in DEFAULT]
    parts = [
        "# The passes",
        "One file, one pass. This page is made from their docstrings by\n"
        "`python -m tests.test_house_rules`, and a test compares the two.",
        f"By default these run, in this order: {', '.join(f'`{name}`' for name in order)}.\n"
        "`presets.py` says why in this order. `--passes a,b` runs others instead.",
    ]
    for step in BUILTIN:
        title, _, rest = step.documentation.strip().partition("\n")
        asked = "" if step in DEFAULT else " (only when asked for)"
        parts += [f"## {step.name}{asked}", title, f"```text\n{rest.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def test_the_readme_names_every_pass() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## Passes")[1].split("##")[0]
    assert {step.name for step in BUILTIN} == set(re.findall(r"^\| `(\w+)`", table, re.M))


def test_the_public_names_are_there() -> None:
    import onnxfold

    for name in onnxfold.__all__:
        assert getattr(onnxfold, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        _ = onnxfold.optimise


def test_the_project_speaks_of_itself_alone() -> None:
    foreign = re.compile(r"(?<![\w/])/(work|opt/env)/")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = [name for name in listed.stdout.split("\0") if name.endswith((".py", ".md", ".toml"))]
    for name in names:
        text = (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).is_file() else ""
        assert not foreign.search(text), name


if __name__ == "__main__":
    CATALOGUE.write_text(catalogue(), encoding="utf-8")
