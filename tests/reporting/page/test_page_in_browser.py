"""The HTML page in a real browser: no errors, no requests, sorting, phone width."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpgrad.reporting.page.html import render
from tests.reporting.page.browser import CHROMIUM, Page, browser
from tests.reporting.page.documents import make_document

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)
SOLVERS = (
    "[...document.querySelectorAll('#figure7 table.results')[0].tBodies[0].rows]"
    ".map(row => row.cells[0].textContent)"
)
HEADS = "document.querySelectorAll('#figure7 table.results')[0].tHead.rows[0].cells"


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
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.complaints() == []
    assert tab.requests() == [path.as_uri()]
    back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is not dark


def test_pictures_are_there(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    sizes = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == 2
    assert min(sizes) > 0


def test_a_request_to_elsewhere_would_be_refused_and_noticed(tab: Page, path: Path) -> None:
    broken = path.with_name("broken.html")
    picture = '<img src="https://example.com/x.png">'
    broken.write_text(path.read_text().replace("</main>", f"{picture}</main>"))
    tab.open(broken, width=1280)
    assert any("Content Security Policy" in words for words in tab.complaints())


def test_a_click_on_a_heading_sorts_and_says_so(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
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
    tab.evaluate(f"{HEADS}[2].querySelector('button').focus()")
    tab.press("Enter")
    assert tab.evaluate(f"{HEADS}[2].getAttribute('aria-sort')") == "ascending"
    assert tab.evaluate(SOLVERS)[0].startswith("BPGr")


def test_numbers_sort_by_size_and_ids_in_their_order(tab: Page, path: Path) -> None:
    tab.open(path, width=1280)
    tables = {"#study table": 1, "table.claims": 0}
    found = []
    for table, column in tables.items():
        head = f"document.querySelector('{table}').tHead.rows[0].cells[{column}]"
        tab.evaluate(f"{head}.querySelector('button').click()")
        rows = f"[...document.querySelector('{table}').tBodies[0].rows]"
        found.append(
            tab.evaluate(f"{rows}.map(row => row.cells[0].textContent.trim().slice(0, 3))")
        )
    assert found[0] == ["a", "c", "b"]
    assert [name.strip() for name in found[1]] == ["C1", "C2", "C3", "C4", "C10"]


def test_a_mean_opens_the_list_of_its_runs(tab: Page, path: Path) -> None:
    tab.open(path, width=375)
    button = "document.querySelector('#figure7 td button')"
    tab.evaluate(f"{button}.click()")
    links = tab.evaluate(
        "[...document.querySelector(':popover-open').querySelectorAll('a')].map(a => a.href)"
    )
    assert len(links) == 3
    assert all(Path(link.removeprefix("file://")).is_dir() for link in links)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
