"""The HTML page as text: what it holds, where it leads, and that it needs nothing else."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from bpgrad.errors import RecordError
from bpgrad.reporting.display.style import styles_of
from bpgrad.reporting.inference.verdicts import Property, decide_properties, not_run
from bpgrad.reporting.page import readme
from bpgrad.reporting.page.document import Document, JudgedClaim
from bpgrad.reporting.page.html import LARGEST_SVG, LONGEST, render
from tests.reporting.page.documents import ODD, make_document
from tests.reporting.records import compare, make_run

VOID = {"meta", "link", "img", "br", "rect", "input"}


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


@pytest.mark.parametrize("where", ["damage", "cpu", "time", "versions"])
def test_what_a_record_says_is_escaped(where: str, tmp_path: Path) -> None:
    """A damaged file's words, and those of the machine that made a run."""
    document = make_document(tmp_path)
    bad = make_run(tmp_path, "SGD")
    if where == "damage":
        bad = replace(bad, finished=False, meta={}, rows=bad.rows[:0], damage=ODD)
    else:
        (start,) = bad.meta["starts"]
        start |= {"time": ODD, "git_sha": ODD, "git_dirty": True, "versions": {ODD: ODD}}
        start["machine"]["cpu"] = ODD
    section = replace(document.sections[0], comparisons=(compare(make_run(tmp_path, "A"), bad),))
    page = render(replace(document, sections=(section,), claims=()), tmp_path)
    assert page.count("<script>") == 1
    assert ODD in read(page).text


def test_every_number_leads_to_the_runs_behind_it(document: Document, tmp_path: Path) -> None:
    """To the run itself, or to the table of the runs, one for each solver."""
    page = render(document, tmp_path)
    found = re.findall(r'<div id="([^"]+)" popover>(.*?)</div>', page, flags=re.DOTALL)
    tables = dict(found)
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', page, flags=re.DOTALL)
    rows = [row for row in rows if "data-value" in row]
    assert len(rows) == 3 + 1
    assert len(tables) == len(found) == 3
    for row in rows:
        for cell in re.findall(r"<td.*?</td>", row, flags=re.DOTALL):
            opened = re.search(r'popovertarget="([^"]+)"', cell)
            links = re.findall(r'href="(runs/[^"]+)"', tables[opened[1]] if opened else cell)
            assert len(links) == (1 if "cifar10" in cell else 3)
            assert all((tmp_path / unquote(link)).is_file() for link in links)
    # of three seeds each value stands below the link to its run
    assert "13.47 ± 0.13" in rows[0]
    (_, first), *_ = found
    assert re.findall(r">seed (\d)</a>", first) == ["0", "1", "2"]
    assert '<th scope="row">test top-1 error (%)</th><td>13.33</td><td>13.47</td>' in first


def test_the_papers_value_and_the_difference_stand_below_ours(
    document: Document, tmp_path: Path
) -> None:
    page = render(document, tmp_path)
    assert page.count('<span class="paper">paper 12.0, +1.47</span>') == 1


def test_claims_are_a_list_with_colour_sign_and_numbers(document: Document, tmp_path: Path) -> None:
    page = render(document, tmp_path)
    verdicts = re.findall(r'<span class="verdict (.*?)">(.*?)</span>', page)
    assert verdicts == [
        *(("green", "✓ reproduced"), ("red", "✗ not reproduced")),
        *(("grey undecided", "? undecided"), ("grey", "– not run"), ("green", "✓ reproduced")),
    ]
    assert 'data-outcome="reproduced" aria-pressed="false">✓ 2 reproduced</button>' in page
    assert '<td data-value="0.25">0.25</td><td>1</td>' in page
    assert '<li id="C10" data-outcome="reproduced"><details><summary>' in page
    assert '<span class="tag">C10</span>' in page
    assert '<span class="held">1 of 1, 1 seed</span>' in page


def test_the_second_rules_stand_for_a_claim_once_they_have_runs() -> None:
    first, second = decide_properties([Property("falls", 1.0, True)]), not_run("figure7")
    claim = JudgedClaim("C1", "it falls", "rule", first, second_rule="rule", second=second)
    assert claim.shown is first
    decided = decide_properties([Property("falls", 0.0, False)])
    assert replace(claim, second=decided).shown is decided
    assert claim.sentence == "It falls."


def test_the_order_is_what_was_found_claims_practice_theory_and_how_it_was_made(
    document: Document, tmp_path: Path
) -> None:
    page = render(document, tmp_path)
    text = readme.render(document)
    marks = ["One finding.", "and what holds", "In practice", "In theory", "Not run yet"]
    for shown in (page.partition("<main")[2], text):
        places = [shown.index(words) for words in [*marks, "How this was made", "How it was made."]]
        assert places == sorted(places)
    assert 'href="#figure7"><img src="data:' in page
    assert "![Odd &lt;script>" in text
    assert "Prose with xᵢ." in page
    assert "Prose with xᵢ." in text


def test_a_section_is_heading_claims_and_picture_and_the_rest_is_folded(
    document: Document, tmp_path: Path
) -> None:
    first, study = document.sections
    first = replace(first, claims=document.claims[:2], caption="The caption.")
    folded = replace(document, sections=(first, study))
    page, text = render(folded, tmp_path), readme.render(folded)
    for shown, fold, start in (
        (page, '<details class="more">', '<section id="{}">'),
        (text, "<details><summary>Numbers and notes</summary>", "### {}"),
    ):
        for name, title, open_, closed in (
            ("figure7", "Odd", ["C1", "C2", "The caption."], ["Prose with xᵢ.", "13.47"]),
            ("study", "A study", ["s picture"], ["with a ", "evaluations"]),
        ):
            section = shown.partition(start.format(name if shown is page else title))[2]
            before, _, after = section.partition(fold)
            after = after.partition("</details>")[0]
            assert [words for words in open_ if words not in before] == []
            assert [words for words in closed if words not in after or words in before] == []
    assert '<a href="#C1" title="Claim C1 Odd' in page
    assert "`C1` ✓ **reproduced**, 1 of 1 checks agree, 3 seeds." in text


def test_a_study_without_a_picture_opens_with_its_first_paragraph(document: Document) -> None:
    section = replace(document.sections[1], body="The answer\nis this.\n\nA table.\n\nMore.")
    assert section.opening == "The answer\nis this."
    assert section.rest == "A table.\n\nMore."


def test_a_table_is_not_folded(document: Document, tmp_path: Path) -> None:
    table = replace(document.sections[0], shows="table")
    page = render(replace(document, sections=(table,), small=""), tmp_path)
    section = page.partition('<section id="figure7">')[2]
    assert "13.47" in section.partition("<details")[0]
    text = readme.render(replace(document, sections=(table,), small=""))
    assert "13.47" in text.partition("### Odd")[2].partition("<details")[0]


def test_many_numbers_of_a_claim_are_folded(document: Document, tmp_path: Path) -> None:
    def shown(count: int) -> str:
        verdict = decide_properties([Property(f"p{k}", 1.0, True) for k in range(count)])
        claims = (JudgedClaim("C1", "it falls", "rule", verdict),)
        return render(replace(document, claims=claims), tmp_path)

    fold = f"<details><summary>The numbers, {LONGEST + 1} rows</summary>"
    assert fold in shown(LONGEST + 1)
    assert read(shown(LONGEST + 1)).open == []
    assert "The numbers," not in shown(LONGEST)


def test_swatches_have_the_colours_of_the_figure(document: Document, tmp_path: Path) -> None:
    """Of all tasks together, as the figure draws them; none where all are of one colour."""
    labels = ("A, lr = 1", "A, lr = 2", "B, L = 1")
    sweep = tuple(
        compare(make_run(tmp_path / task, label, task=task), task=task)
        for label, task in zip(labels, ("mnist", "cifar10", "digits"), strict=True)
    )
    for shows, count in (("sweep", 2), ("epochs", 3), ("variants", 0)):
        section = replace(document.sections[0], comparisons=sweep, shows=shows, printed={})
        page = render(replace(document, sections=(section,)), tmp_path)
        swatches = re.findall(r'class="swatch" style="background:(.*?)"', page)
        assert len(set(swatches)) == count
        if swatches:
            expected = styles_of(shows, labels)
            assert swatches == [expected[label].color for label in labels]


def test_the_text_of_a_study_is_converted(document: Document, tmp_path: Path) -> None:
    page = render(document, tmp_path)
    section = page.partition('<section id="study">')[2].partition("</section>")[0]
    assert '<a href="tables/study.csv">link</a>' in section
    assert "<strong>text</strong>" in section
    assert '<table class="sortable">' in section
    assert '<img src="data:image/svg+xml,<svg xmlns=' in section
    assert 'href="studies/study/table.csv"' in section
    assert "aaaaaaaaaaaa" in section
    assert page.index('id="theory"') < page.index('id="study"')


def test_a_widget_stands_in_its_section(document: Document, tmp_path: Path) -> None:
    page = render(document, tmp_path, {"study": "<p>the widget</p>"})
    assert "<p>the widget</p>" in page.partition('<section id="study">')[2]


def test_a_picture_that_is_missing_is_told(document: Document, tmp_path: Path) -> None:
    for suffix in ("svg", "png"):
        (tmp_path / f"figures/study.{suffix}").unlink()
    with pytest.raises(RecordError, match=r"figures/study\.png: the report shows this picture"):
        render(document, tmp_path)


def test_a_table_has_no_figure(document: Document, tmp_path: Path) -> None:
    first, *others = document.sections
    document = replace(document, sections=(replace(first, shows="table"), *others), small="")
    for suffix in ("svg", "png"):
        (tmp_path / f"figures/figure7.{suffix}").unlink()
    section = render(document, tmp_path).partition('<section id="figure7">')[2]
    section = section.partition("</section>")[0]
    assert 'href="tables/figure7.csv"' in section
    assert "figures/figure7" not in section + readme.render(document)
    assert "(tables/figure7.csv)" in readme.render(document)


def test_a_large_svg_is_shown_as_png(document: Document, tmp_path: Path) -> None:
    svg = tmp_path / "figures/study.svg"
    svg.write_text(svg.read_text() + "<!-- " + "x" * LARGEST_SVG + " -->")
    page = render(document, tmp_path)
    assert page.count('<img src="data:image/png;base64,') == 1


def test_what_the_models_do_is_shown_once(document: Document, tmp_path: Path) -> None:
    """Of each solver the run of the first seed, though two sections have the same runs."""
    section = next(section for section in document.sections if section.comparisons)
    runs = {run.seed: run for run in section.comparisons[0].runs if run.solver == "Adam"}
    for seed, run in runs.items():
        (run.directory / "pictures").mkdir()
        image = Image.new("RGB", (4, 3), (seed, 0, 0))
        image.save(run.directory / "pictures" / f"cat {seed}.webp")
    twice = replace(document, sections=(section, section))
    page = render(twice, tmp_path)
    folder = runs[0].directory.relative_to(tmp_path).as_posix()
    link = f'<p>Adam, seed 0: <a href="{folder}/pictures/cat%200.webp">cat 0</a></p>'
    assert page.count(link) == page.count("/pictures/") == 1
    assert f"![cat%200]({folder}/pictures/cat%200.webp)" in readme.render(twice)


def test_the_same_report_gives_the_same_bytes(document: Document, tmp_path: Path) -> None:
    assert render(document, tmp_path) == render(document, tmp_path)
