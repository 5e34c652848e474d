"""The HTML page as text: what it holds, where it leads, and that it needs nothing else."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bpgrad.errors import RecordError
from bpgrad.reporting.page.document import Document
from bpgrad.reporting.page.html import render
from tests.reporting.page.documents import make_document

VOID = {"meta", "link", "img", "br", "rect"}


class Tags(HTMLParser):
    """Checks that every element is closed in order; keeps attributes and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


@pytest.fixture
def document(tmp_path: Path) -> Document:
    return make_document(tmp_path)


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_elements_are_closed_and_ids_unique(document: Document, tmp_path: Path) -> None:
    tags = read(render(document, tmp_path))
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10
    targets = {a["href"] for t, a in tags.found if t == "a" and str(a["href"]).startswith("#")}
    assert targets <= {f"#{name}" for name in ids}
    popovers = {a["popovertarget"] for _, a in tags.found if "popovertarget" in a}
    assert popovers == {a["id"] for _, a in tags.found if "popover" in a}


def test_it_asks_nothing_of_the_network(document: Document, tmp_path: Path) -> None:
    tags = read(render(document, tmp_path))
    policy = next(a for t, a in tags.found if t == "meta" and "http-equiv" in a)
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:;")
    for tag, attributes in tags.found:
        if tag == "img" or (tag == "link" and attributes["rel"] == "icon"):
            assert str(attributes.get("src") or attributes["href"]).startswith("data:")
        if tag == "a":
            assert "//" not in str(attributes["href"])
        assert tag not in ("iframe", "object", "form", "embed")
        assert "src" not in attributes or tag == "img"


def test_names_and_texts_are_escaped(document: Document, tmp_path: Path) -> None:
    page = render(document, tmp_path)
    assert page.count("<script>") == 1  # its own
    assert read(page).text.count('Odd <script>alert("x")</script> & "quoted"') > 5


def test_every_number_leads_to_the_runs_behind_it(document: Document, tmp_path: Path) -> None:
    page = render(document, tmp_path)
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', page, flags=re.DOTALL)
    assert len(rows) == 3 + 1
    for row in rows:
        for cell in re.findall(r"<td.*?</td>", row, flags=re.DOTALL):
            links = re.findall(r'href="(runs/[^"]+)/"', cell)
            assert len(links) == (1 if "cifar10" in cell else 3)
            assert all((tmp_path / link / "metrics.csv").is_file() for link in links)
    # of three seeds each value stands beside the link to its run
    assert "seed 1</a>: 13.47" in rows[0]
    assert "13.47 ± 0.13" in rows[0]


def test_the_papers_value_and_the_difference_stand_below_ours(
    document: Document, tmp_path: Path
) -> None:
    page = render(document, tmp_path)
    assert page.count('<span class="paper">paper 12.0, +1.47</span>') == 1


def test_claims_have_colour_sign_and_numbers(document: Document, tmp_path: Path) -> None:
    page = render(document, tmp_path)
    verdicts = re.findall(r'<span class="verdict (.*?)">(.*?)</span>', page)
    assert verdicts == [
        *(("green", "✓ reproduced"), ("red", "✗ not reproduced")),
        *(("grey undecided", "? undecided"), ("grey", "– not run"), ("green", "✓ reproduced")),
    ]
    assert '<li class="green"><b>2</b>✓ reproduced</li>' in page
    assert '<td data-value="0.25">0.25</td><td>1</td>' in page


def test_the_text_of_a_study_is_converted(document: Document, tmp_path: Path) -> None:
    page = render(document, tmp_path)
    section = page.partition('<section id="study">')[2].partition("</section>")[0]
    assert '<a href="tables/study.csv">link</a>' in section
    assert "<strong>text</strong>" in section
    assert '<table class="sortable">' in section
    assert '<img src="data:image/svg+xml,%3Csvg xmlns=' in section
    assert 'href="studies/study/"' in section
    assert "aaaaaaaaaaaa" in section
    assert page.index('id="beyond"') < page.index('id="study"')


def test_a_widget_stands_in_its_section(document: Document, tmp_path: Path) -> None:
    page = render(document, tmp_path, {"study": "<p>the widget</p>"})
    assert "<p>the widget</p>" in page.partition('<section id="study">')[2]


def test_a_picture_that_is_missing_is_told(document: Document, tmp_path: Path) -> None:
    for suffix in ("svg", "png"):
        (tmp_path / f"figures/study.{suffix}").unlink()
    with pytest.raises(RecordError, match=r"figures/study\.png: the report shows this picture"):
        render(document, tmp_path)


def test_a_large_svg_is_shown_as_png(document: Document, tmp_path: Path) -> None:
    svg = tmp_path / "figures/study.svg"
    svg.write_text(svg.read_text() + "<!-- " + "x" * 1_500_000 + " -->")
    page = render(document, tmp_path)
    assert page.count('<img src="data:image/png;base64,') == 1


def test_the_same_report_gives_the_same_bytes(document: Document, tmp_path: Path) -> None:
    assert render(document, tmp_path) == render(document, tmp_path)
