"""The HTML page in a real browser: no errors, no requests, sorting, phone width."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from bpgrad.reporting.page import interactive
from bpgrad.reporting.page.html import render
from tests.reporting.page.browser import CHROMIUM, Page, browser
from tests.reporting.page.documents import make_document

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)
# The widest table that the report has: of two metrics, with deviations over the seeds.
TABLE = "#figure7 table.results"
LONGEST = "BPGrad (released code)"
CUT = """
[...document.querySelectorAll(".scroll")].filter((one) => one.querySelector("table")
  && one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel)
"""
SOLVERS = (
    "[...document.querySelectorAll('#figure7 table.results')[0].tBodies[0].rows]"
    ".map(row => row.cells[0].textContent)"
)
HEADS = "document.querySelectorAll('#figure7 table.results')[0].tHead.rows[0].cells"


UNFOLD = "document.querySelectorAll('details').forEach(d => d.open = true)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    (results / "index.html").write_text(render(make_document(results), results))
    return results / "index.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [375, 1280])
def test_it_loads_without_a_complaint_and_fits(
    tab: Page, path: Path, width: int, dark: bool
) -> None:
    tab.open(path, width=width, dark=dark)
    tab.evaluate(UNFOLD)
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.complaints() == []
    assert tab.requests() == [path.as_uri()]
    back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is not dark
    if width == 1280:
        assert tab.evaluate(f"document.querySelector('{TABLE}').tHead.rows[0].cells.length") == 8
        tab.evaluate(f"document.querySelector('{TABLE} .swatch').nextSibling.data = '{LONGEST}'")
        tab.evaluate(f"document.querySelector('{TABLE}').tBodies[0].rows[2].remove()")  # an odd one
        assert tab.evaluate(CUT) == []


def test_pictures_are_there(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    sizes = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == 3
    assert min(sizes) > 0


def test_a_request_to_elsewhere_would_be_refused_and_noticed(tab: Page, path: Path) -> None:
    broken = path.with_name("broken.html")
    picture = '<img src="https://example.com/x.png">'
    broken.write_text(path.read_text().replace("</main>", f"{picture}</main>"))
    tab.open(broken, width=1280)
    assert any("Content Security Policy" in words for words in tab.complaints())


def test_a_click_on_a_heading_sorts_and_says_so(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    tab.evaluate(UNFOLD)
    before = tab.evaluate(SOLVERS)
    assert [name[:4] for name in before] == ["Adam", "BPGr", "Odd "]
    orders = []
    for _ in range(3):
        tab.evaluate(f"{HEADS}[2].querySelector('button').click()")
        names = [name[:4] for name in tab.evaluate(SOLVERS)]
        orders.append((tab.evaluate(f"{HEADS}[2].getAttribute('aria-sort')"), names))
    assert orders == [
        ("ascending", ["BPGr", "Adam", "Odd "]),
        ("descending", ["Odd ", "Adam", "BPGr"]),
        (None, ["Adam", "BPGr", "Odd "]),
    ]
    tab.evaluate(f"{HEADS}[2].querySelector('button').click()")
    tab.evaluate(f"{HEADS}[0].querySelector('button').click()")
    assert tab.evaluate(f"[...{HEADS}].filter(head => head.hasAttribute('aria-sort')).length") == 1


def test_the_keyboard_sorts(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    tab.evaluate(UNFOLD)
    tab.evaluate(f"{HEADS}[2].querySelector('button').focus()")
    tab.press("Enter")
    assert tab.evaluate(f"{HEADS}[2].getAttribute('aria-sort')") == "ascending"
    assert tab.evaluate(SOLVERS)[0].startswith("BPGr")


def test_numbers_sort_by_size(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    tab.evaluate(UNFOLD)
    tab.evaluate("document.querySelector('#study table').tHead.rows[0].cells[1].firstChild.click()")
    rows = "[...document.querySelector('#study table').tBodies[0].rows]"
    assert tab.evaluate(f"{rows}.map(row => row.cells[0].textContent.trim())") == ["a", "c", "b"]


CLAIMS = "[...document.querySelectorAll('.claims > li')].filter(c => !c.hidden).map(c => c.id)"


def test_claims_are_chosen_by_outcome_and_by_text(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    everything = ["C1", "C2", "C3", "C4", "C10"]
    assert tab.evaluate(CLAIMS) == everything
    button = "document.querySelector('.filter [data-outcome=\"reproduced\"]')"
    tab.evaluate(f"{button}.click()")
    assert tab.evaluate(CLAIMS) == ["C1", "C10"]
    assert tab.evaluate(f"{button}.ariaPressed") == "true"
    field = "document.querySelector('.filter input')"
    tab.evaluate(f"{field}.value = 'c10'; {field}.dispatchEvent(new Event('input'))")
    assert tab.evaluate(CLAIMS) == ["C10"]
    tab.evaluate(f"{field}.value = 'xyz'; {field}.dispatchEvent(new Event('input'))")
    assert tab.evaluate(CLAIMS) == []
    assert tab.evaluate("document.querySelector('.none').hidden") is False


def test_an_address_opens_its_claim(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    tab.evaluate("location.hash = '#C10'; openTarget()")
    assert tab.evaluate("document.querySelector('#C10 details').open") is True


def test_on_paper_everything_is_there(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    table = "document.querySelector('#figure7 table').checkVisibility()"
    assert tab.evaluate(table) is False
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(table) is True
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(table) is False


# What a screen reader needs; axe-core, where AXE names its file, looks for far more.
UNNAMED = """
[...document.querySelectorAll("a, button, input, [role=region], nav, summary, img")].filter(
  (one) => !(one.ariaLabel || one.textContent.trim() || one.alt || one.labels?.length
    || one.querySelector("img")?.alt)
).map((one) => one.outerHTML.slice(0, 80))
"""
REGIONS = "[...document.querySelectorAll('[role=region]')].map((one) => one.ariaLabel)"
HEADINGS = "[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))"


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_accessible(tab: Page, path: Path, dark: bool) -> None:
    tab.open(path, width=1280, dark=dark)
    tab.evaluate(UNFOLD)
    assert tab.evaluate(UNNAMED) == []
    regions = tab.evaluate(REGIONS)
    assert len(regions) == len(set(regions)) > 3
    levels = tab.evaluate(HEADINGS)
    assert levels[0] == 1
    assert all(level <= before + 1 for before, level in pairwise(levels))
    if axe := os.environ.get("AXE"):
        tab.evaluate(f"{Path(axe).read_text(encoding='utf-8')};0")
        found = tab.call(
            "Runtime.evaluate",
            expression="axe.run().then(r => r.violations.map(v => `${v.id}: ${v.nodes[0].html}`))",
            awaitPromise=True,
            returnByValue=True,
        )
        assert found["result"]["value"] == []


# The page of the records, if it is rebuilt from them: what a reader sees first must stay short.
REPORT = Path(__file__).parents[3] / "results" / "index.html"


@pytest.mark.parametrize("shown", ["made up", "committed"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_reaches_the_claims(
    tab: Page, path: Path, width: int, height: int, shown: str
) -> None:
    tab.open(path if shown == "made up" else REPORT, width=width, height=height)
    bottom = tab.evaluate("document.querySelector('.claims li').getBoundingClientRect().bottom")
    assert bottom < height


def test_what_a_narrow_screen_cuts_off_fades(tab: Page, path: Path) -> None:
    fade = "getComputedStyle(document.querySelector('{}')).getPropertyValue('--fade')"
    for width, expected in ((390, "48px"), (1280, "0px")):
        tab.open(path, width=width)
        for _ in range(2):  # what can be scrolled is known once it has been drawn
            tab.call("Page.captureScreenshot", format="png")
        assert tab.evaluate(fade.format("#figure7 .picture")) == expected
        assert tab.evaluate(fade.format(".picture.small")) == "0px"


def test_a_solver_s_name_stays_while_its_numbers_are_scrolled(tab: Page, path: Path) -> None:
    tab.open(path, width=375)
    tab.evaluate(UNFOLD)
    where = "document.querySelector('#figure7 .results tbody th').getBoundingClientRect().left"
    before = tab.evaluate(where)
    moved = "const box = document.querySelector('#figure7 .results').parentElement"
    assert (
        tab.evaluate(f"(() => {{ {moved}; box.scrollLeft = 200; return box.scrollLeft; }})()") > 0
    )
    assert tab.evaluate(where) == pytest.approx(before, abs=1)


def test_a_section_shows_no_table(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    tables = "[...document.querySelectorAll('#figure7 table, #study table')]"
    # Two of results, one of the study, two of records, and what three solvers' numbers open.
    assert tab.evaluate(f"{tables}.length") == 5 + 3
    assert tab.evaluate(f"{tables}.filter(t => t.checkVisibility()).length") == 0


def test_the_report_is_read_in_a_few_minutes(tab: Page) -> None:
    """Sentence, findings and claims are read, and of the sections no table but Tables 1 to 3.

    Sentences are read at some 240 words a minute, and these in two; labels are looked at.
    """
    tab.open(REPORT, width=1280)
    tab.evaluate("document.querySelectorAll('.claims .tag').forEach(e => e.remove())")
    sentences = "header, .claims .says, #claims .caption"
    said = f"[...document.querySelectorAll('{sentences}')].map(e => e.innerText).join(' ')"
    assert len(tab.evaluate(said).split()) < 500
    tab.open(REPORT, width=1280)
    words = "document.querySelector('{}').innerText.split(/\\s+/).length"
    assert tab.evaluate(words.format("header")) + tab.evaluate(words.format("#claims")) < 800
    for name, count in tab.evaluate(
        "[...document.querySelectorAll('main section')].map(s => "
        "[s.id, s.innerText.split(/\\s+/).length])"
    ):
        if name.startswith("table"):
            continue
        assert count < (800 if name == "claims" else 150), name
    tables = "[...document.querySelectorAll('section[id]:not([id^=table]) table')]"
    assert tab.evaluate(f"{tables}.filter(t => t.checkVisibility()).length") == 0


def test_the_search_in_the_plane_stays_alive_and_says_why_it_ends(
    tab: Page, tmp_path: Path
) -> None:
    page = tmp_path / "widget.html"
    page.write_text(f"<!DOCTYPE html><title>x</title>{interactive.widget()}", encoding="utf-8")
    tab.open(page, width=1280)
    square = "document.querySelectorAll('#bp figure')[1]"
    slider = f"{square}.querySelectorAll('input')"
    tab.evaluate(f"{slider}[0].value = 3; {slider}[1].value = 0.9")
    tab.evaluate(f"{square}.querySelectorAll('button')[1].click()")
    assert tab.evaluate(f"{square}.querySelectorAll('button')[1].textContent") == "Stop"
    ended = tab.call(
        "Runtime.evaluate",
        expression=f"new Promise(done => {{ const look = () => {square}.querySelectorAll('button')"
        "[1].textContent === 'Stop' ? requestAnimationFrame(look) : "
        f"done({square}.querySelector('.said').textContent); look(); }})",
        awaitPromise=True,
        returnByValue=True,
    )["result"]["value"]
    assert "401 samples" in ended
    assert "Not covered yet: stopped after 400 more samples" in ended
    assert tab.complaints() == []


def test_a_mean_opens_the_table_of_its_runs_at_its_line(tab: Page, path: Path) -> None:
    tab.open(path, width=375)
    tab.evaluate(UNFOLD)
    button = "document.querySelectorAll('#figure7 td button')[2]"  # after the seeds and a metric
    tab.evaluate(f"{button}.click()")
    lines = "[...document.querySelector(':popover-open').querySelectorAll('tr')]"
    heads = tab.evaluate(f"{HEADS}.length")
    assert tab.evaluate(f"{lines}.length") == heads - 1  # without the solver's
    (asked,) = tab.evaluate(f"{lines}.filter(l => l.className === 'asked').map(l => l.innerText)")
    title, *values = asked.split("\t")
    assert title == tab.evaluate(f"{HEADS}[3].innerText").replace("\n", " ")
    mean = float(tab.evaluate(f"{button}.innerText").split()[0])
    assert len(values) == 3
    assert sum(map(float, values)) / 3 == pytest.approx(mean, rel=1e-3)
    links = tab.evaluate(
        "[...document.querySelector(':popover-open').querySelectorAll('a')].map(a => a.href)"
    )
    assert len(links) == 3
    assert all(Path(link.removeprefix("file://")).is_file() for link in links)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
