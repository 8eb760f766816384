"""`onnxfold quantize --report`: one page with all that the JSON says."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.cli.page import Page
from onnxfold.cli.provenance import model_files
from tests.cli.commands import ROOT, Outcome, Words, onnxfold, refused, saved
from tests.cli.test_readme import lines
from tests.model.models import save_external
from tests.verify.networks import conv_net

DEMO = "examples/demo/demo.onnx"
PICTURES = ROOT / "examples" / "demo" / "pictures" / "*-image.png"
EMPTY = frozenset({"meta"})
QUICK = ("--threads", "1", "--workers", "1", "--seconds", "0.01", "--force", "--method", "mse")


def fingerprint(path: Path) -> tuple[int, str]:
    content = path.read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


class Read(HTMLParser):
    """A page as programs see it; every element must be closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = defaultdict(list)
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self._table = ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href", "onload"} & dict(attrs).keys()
        self.tags.add(tag)
        if tag not in EMPTY:
            self._open.append(tag)
        if tag == "table":
            self._table = dict(attrs)["id"] or ""
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[self._table][-1][-1] += data
        elif data.strip():
            self.texts.append(data)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The line of the README as it stands, with what makes it quicker."""
    folder = tmp_path_factory.mktemp("page")
    (words,) = (words for words in lines() if words[0] == "quantize")
    assert words[1] == DEMO
    quicker: Words = (*QUICK, "--samples", "2", "--no-equalize", "--no-bias-correction")
    elsewhere: Words = ("-o", folder / "out.onnx", "--calibration", folder / "kept.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        page = folder / "report.html"
        return folder, onnxfold(*words, *quicker, *elsewhere, "--report", page, "--json")


def test_it_says_what_the_json_says(quantized: tuple[Path, Outcome]) -> None:
    folder, outcome = quantized
    assert outcome.code == 0, outcome.stderr
    data = outcome.data
    page = Read((folder / "report.html").read_text(encoding="utf-8"))
    layers = page.tables["layers"][1:]
    assert [row[0] for row in layers] == [layer["layer"] for layer in data["layers"]]
    assert [row[3] for row in layers] == [layer["precision"] for layer in data["layers"]]
    assert all(row[6] for row in layers if row[3] == "float")
    assert len(page.tables["speed"]) == 1 + len(data["latencies"])
    assert page.tables["speed"][1][0].startswith("ONNX Runtime ")
    assert page.tables["accuracy"][1][3] == f"{data['accuracy'][0]['sqnr']:.1f} dB"
    assert [row[0] for row in page.tables["methods"][1:]] == list(data["methods"])
    assert page.tables["methods"][1][3] == "yes"
    assert f"warning: {data['warnings'][0]}" in page.texts
    for note in data["notes"]:
        assert note in page.texts
    rewrites = dict(page.tables["passes"][1:])
    assert int(rewrites["fuse_bn"]) == data["passes"][0]["rewrites_by_pass"]["fuse_bn"]


def test_it_says_what_it_was_made_from(quantized: tuple[Path, Outcome]) -> None:
    folder, outcome = quantized
    page = Read((folder / "report.html").read_text(encoding="utf-8"))
    expected = [
        [role, path, f"{size:,}", digest]
        for role, path in (
            ("model", DEMO),
            ("calibration", str(folder / "kept.npz")),
            ("result", str(folder / "out.onnx")),
        )
        for size, digest in [fingerprint(ROOT / path)]
    ]
    assert page.tables["files"][1:] == expected
    assert [each["sha256"] for each in outcome.data["files"]] == [row[3] for row in expected]
    versions = dict(page.tables["versions"][1:])
    assert versions == outcome.data["versions"]
    assert versions["onnx"] == onnx.__version__


def test_it_needs_nothing_else_and_nothing_is_left(quantized: tuple[Path, Outcome]) -> None:
    folder, _ = quantized
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    assert not {"script", "link", "img"} & Read(text).tags
    assert "url(" not in text
    names = {each.name for each in folder.iterdir()}
    assert names == {"out.onnx", "kept.npz", "report.html"}


def test_a_target_that_is_not_timed(tmp_path: Path) -> None:
    source = saved(tmp_path / "in.onnx", conv_net(2, 16))
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(1, 3, 24, 24)).astype("f"))
    outcome = onnxfold(
        *("quantize", source, "-o", source, "--target", "tensorrt", "--data", tmp_path / "d.npz"),
        *("--report", tmp_path / "r.html", *QUICK),
    )
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-2:] == [
        f"written: {source}",
        f"written: {tmp_path / 'r.html'}",
    ]
    page = Read((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert [text for text in page.texts if text.startswith("trtexec ")]
    roles = [(row[0], row[1]) for row in page.tables["files"][1:]]
    assert roles == [("model", str(source)), ("result", str(source))]  # in its own place
    assert page.tables["files"][1][3] != page.tables["files"][2][3]


def test_text_is_text() -> None:
    page = Page("<script>&")
    page.paragraph("a < b & \ud800")
    page.items(['<img src="x">'])
    page.table("t", ("<b>", "n"), [("</td><td>", "1")], numbers=frozenset("n"))
    read = Read(page.to_bytes().decode())
    assert read.tags == {
        *("html", "head", "meta", "title", "style", "body", "h1", "p", "ul", "li", "div"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert read.tables["t"] == [["<b>", "n"], ["</td><td>", "1"]]
    assert {"a < b & ?", '<img src="x">', "<script>&"} <= set(read.texts)


def test_weights_in_files_of_their_own_are_hashed(tmp_path: Path) -> None:
    save_external(conv_net(1, 4), tmp_path / "in.onnx")
    first, *others = model_files("model", tmp_path / "in.onnx")
    assert first.role == "model"
    found = {Path(each.path).name for each in others}
    assert found == {each.name for each in tmp_path.iterdir()} - {"in.onnx"}
    assert {each.role for each in others} == {"weights"}


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    source, gone = saved(tmp_path / "in.onnx"), tmp_path / "gone" / "r.html"
    common = ("quantize", source, "-o", tmp_path / "out.onnx", "--target", "ort-cpu")
    given = (*common, "--data", PICTURES, "--report")
    refused(onnxfold(*given, gone), f"{gone} cannot be written: there is no folder", "make the")
    refused(onnxfold(*given, tmp_path), f"{tmp_path} is a folder", "give a file")
    for other in (source, tmp_path / "out.onnx"):
        refused(onnxfold(*given, other), f"--report would overwrite {other}", "give it a file of")
        outcome = onnxfold(*common, "--data", PICTURES, "--calibration", other)
        refused(outcome, f"--calibration would overwrite {other}", "give it a file of its own")
    assert [each.name for each in tmp_path.iterdir()] == ["in.onnx"]
