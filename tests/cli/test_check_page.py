"""nearsight check --html: one self-contained page with what was found and pictures of the matrices."""

from __future__ import annotations

import re
import shutil
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from nearsight.formats.registry import read, write
from nearsight.properties.check import check
from nearsight.properties.portrait import Portrait
from tests.formats.damage import DAMAGES

DATA = Path(__file__).parents[1] / "formats" / "data"
GRAPHENE, H2O = DATA / "graphene_lda_sz", DATA / "openmx" / "h2o"
VOID = {"meta", "img", "br", "line"}


class Page(HTMLParser):
    """What a page holds; every element that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[bytes] = []
        self.text = ""
        self.feed(text)
        assert self.open == []
        assert not re.search(r"(src|href)=\"(?!data:image/png|#)", text) and "<script" not in text

    def handle_starttag(self, tag, attrs):
        source = dict(attrs).get("src")
        if source:
            self.pictures.append(b64decode(source.split(",")[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs) if tag == "img" else None

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_page_tells_what_the_terminal_tells_with_pictures(nearsight, tmp_path):
    result = nearsight("check", GRAPHENE, "--html", tmp_path / "g.html")
    assert result.status == 0 and "page in" in result.out
    page = Page((tmp_path / "g.html").read_text())
    findings = check(read(GRAPHENE))
    assert all(f.law in page.text and f.found in page.text for f in findings)
    assert (
        f"all {len(findings)} laws that were asked hold" in page.text
        and 'class="broken"' not in (tmp_path / "g.html").read_text()
    )
    assert len(page.pictures) == 5 and all(p[:8] == b"\x89PNG\r\n\x1a\n" for p in page.pictures)


def test_a_page_of_many_names_the_broken_ones(nearsight, tmp_path):
    shutil.copytree(GRAPHENE, tmp_path / "set" / "sound")
    shutil.copytree(GRAPHENE, tmp_path / "set" / "torn")
    (tmp_path / "set" / "torn" / "overlap.h5").write_bytes(b"<b>no</b>")
    write(tmp_path / "set" / "units", DAMAGES["units x 27.2"][0](read(GRAPHENE)))
    alone = tmp_path / "set" / "S<alone>"
    shutil.copytree(GRAPHENE, alone)
    (alone / "hamiltonian.h5").unlink()
    (alone / "density_matrix.h5").unlink(missing_ok=True)
    result = nearsight("check", tmp_path / "set", "--html", tmp_path / "set.html")
    assert result.status == 1 and "2 of 4 are not" in result.err
    text = (tmp_path / "set.html").read_text()
    page = Page(text)
    assert "Not sound" in page.text and "27.2" in page.text and "overlap.h5" in page.text and "S<alone>" in page.text
    assert text.count('class="broken">broken') >= 2 and len(page.pictures) >= 3 * 3


def test_where_no_page_can_be_is_said_first(nearsight, tmp_path):
    for place in (tmp_path, tmp_path / "page.pdf", GRAPHENE / "info.json" / "x.html"):
        result = nearsight("check", GRAPHENE, "--html", place)
        assert result.status == 1 and len(result.err.strip().splitlines()) == 1 and "holds" not in result.out


def test_what_is_drawn_is_of_the_matrices():
    c = read(GRAPHENE)
    p = Portrait.of(c)
    H, S = p.sizes["H"], p.sizes["S"]
    assert float(p.by_atoms["S"].max()) == pytest.approx(1.0, abs=1e-6)
    assert float(p.by_atoms["H"].max()) == pytest.approx(float(H.max())) and torch.allclose(
        p.by_atoms["H"], p.by_atoms["H"].T
    )
    far = p.distance > 0.8 * p.distance.max()
    assert float(H[far].max()) < 0.05 * float(H.max()) and float(S[far].max()) < 0.05
    assert float(p.lowest.min()) > 0 and p.bands.energies.shape[1] == len(p.path.k)
    assert float(p.asymmetry["S"].max()) < 1e-6 and float(p.asymmetry["H"].max()) < 0.1
    assert set(p.kinds) == {"C-C"} and Portrait.of(read(H2O)).bands is not None


def test_what_would_take_too_long_is_left_out_and_said(nearsight, tmp_path, monkeypatch):
    monkeypatch.setattr("nearsight.properties.portrait.MOST_ORBITALS", 3)
    assert nearsight("check", GRAPHENE, "--html", tmp_path / "g.html").status == 0
    page = Page((tmp_path / "g.html").read_text())
    assert "not drawn for 8 orbitals" in page.text and len(page.pictures) == 3
