"""The report in a real browser. Needs playwright and a Chromium: Debian's, or the one of $CHROMIUM."""

import os
import shutil

import pytest

from eval_tasks.measures import measure
from eval_tasks.report.write import write_report
from eval_tasks.results import read_results
from tests.eval_tasks.synthetic import make_suite, write

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: mulo[browser]")

WIDTHS = (400, 1400)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LONG = "a-label-without-any-place-to-break-it-" * 3


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium, or set $CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A report on two suites, with a gap, a divergence and a long label."""
    folder = tmp_path_factory.mktemp("report")
    wide = make_suite(series=("mlp-d3_digits",), values=(32, 128, 512), num_points=30)
    tasks = make_suite(
        "arch", series=("vit-w64_cifar10", "rnn-w64"), axis="task", values=(64,), num_points=30
    )
    for record in wide:
        record["optimizer"] = LONG if record["optimizer"] == "adam-1e-3" else record["optimizer"]
    results = read_results([write(folder / "results.jsonl", [*wide[:-1], *tasks])])
    return write_report(results, measure(results), folder)[0].as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the report; what it asks for and complains of is kept on the page object's lists."""
    opened = []

    def open_it(width):
        page = browser.new_page(viewport={"width": width, "height": 900})
        opened.append(page)
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page, requests, complaints

    yield open_it
    for page in opened:
        page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_fetched_and_nothing_is_complained_of(open_page, address, width):
    page, requests, complaints = open_page(width)
    page.mouse.wheel(0, 100_000)
    assert requests == [address]
    assert complaints == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_renders(open_page, width):
    page, _, _ = open_page(width)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    boxes = page.evaluate(
        """[...document.querySelectorAll('figure')].map(figure => {
             const box = figure.querySelector('svg').getBoundingClientRect();
             const shown = [...figure.querySelectorAll('svg path, svg use')].filter(
               part => part.getBoundingClientRect().width > 0).length;
             return {width: box.width, height: box.height, right: box.right, shown,
                     texts: figure.querySelectorAll('svg text').length};
           })"""
    )
    # Of the suite wide a speed-up, scores, two losses, three curves; of arch a speed-up, scores, two curves.
    assert len(boxes) == 7 + 4
    for box in boxes:
        assert box["width"] > 250
        assert box["height"] > 60
        assert box["right"] <= width
        assert box["shown"] > 5
        assert box["texts"] > 3


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_does_not_scroll_sideways(open_page, width):
    page, _, _ = open_page(width)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", WIDTHS)
def test_text_in_figures_can_be_read(open_page, width):
    page, _, _ = open_page(width)
    heights = page.evaluate(
        "[...document.querySelectorAll('figure svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(height for height in heights if height) >= 8


def column(page, name, place):
    return page.locator(f"table.{name}").first.locator(f"tbody td:nth-child({place + 1})").all_inner_texts()


def test_a_table_sorts_on_click_and_the_other_way_on_the_next(open_page):
    page, _, _ = open_page(1400)
    heading = page.locator("table.results").first.locator("th").nth(4)
    losses = column(page, "results", 4)

    def numbers(texts):
        return [float(text.split()[0]) for text in texts]

    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert numbers(column(page, "results", 4)) == sorted(numbers(losses), reverse=True)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert numbers(column(page, "results", 4)) == sorted(numbers(losses))
    page.locator("table.results").first.locator("th").nth(1).locator("button").click()
    labels = column(page, "results", 1)
    assert labels == sorted(labels)
    assert heading.get_attribute("aria-sort") is None


def test_what_has_no_value_stays_at_the_end(open_page):
    page, _, _ = open_page(1400)
    table = page.locator("table.results").last
    button = table.locator("th").nth(4).locator("button")
    for _ in range(2):
        button.click()
        texts = table.locator("tbody tr td:nth-child(5)").all_inner_texts()
        assert "diverged" in texts[-1]
        assert "diverged" not in texts[0]


def test_a_label_cannot_run_a_script(browser, tmp_path):
    records = make_suite(series=("a",), values=(32,), num_points=10)
    for record in records:
        record["optimizer"] = f"<img src=x onerror=document.title=1>{record['optimizer']}"
    results = read_results([write(tmp_path / "results.jsonl", records)])
    page = browser.new_page()
    page.goto(write_report(results, measure(results), tmp_path)[0].as_uri())
    assert page.title() == "mulo-eval report"
    assert page.locator("img").count() == 0
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), "
                  "{textContent: 'document.title = 2'}))")  # fmt: skip
    assert page.title() == "mulo-eval report"
    page.close()
