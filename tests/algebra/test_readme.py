"""The page of formulas names a test for each; the names must exist, and so must the modules."""

import re
from pathlib import Path

import pytest

import onnxfold.algebra

FOLDER = Path(onnxfold.algebra.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in Path(__file__).parent.glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def _formulas() -> list[list[str]]:
    section = README.split("## Formulas")[1].split("##")[0]
    rows = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]


@pytest.mark.parametrize("row", _formulas(), ids=lambda row: row[0])
def test_every_formula_names_tests_that_exist(row: list[str]) -> None:
    _, formula, module, tests = row
    assert formula
    assert not module or (FOLDER / f"{module.strip('`')}.py").is_file()
    named = re.findall(r"`(test_\w+)`", tests)
    assert named
    assert set(named) <= TESTS


def test_every_test_named_anywhere_on_the_page_exists() -> None:
    assert set(re.findall(r"`(test_\w+)`", README)) <= TESTS


def test_every_module_is_on_the_page() -> None:
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "refusal"}
    assert modules == {name for name in modules if f"`{name}`" in README or f"`{name}." in README}
