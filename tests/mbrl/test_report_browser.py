"""The report in a real browser: it loads nothing, draws, answers pointer and keys, fits a phone, and is readable.

Skipped where there is no Chromium, unless MBRL_BROWSER_TESTS is set: then it fails.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mbrl.experiments.findings import Summary
from mbrl.experiments.report_html import page
from mbrl.experiments.report_style import number
from tests.mbrl.report_cases import ENTRIES, TASKS, invented_gaps, invented_summary, reduced
from tests.mbrl.test_report import HOSTILE, hostile

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable")
VISIBLE = "svg.hover:visible"
CHARTS = len(TASKS) + 1 + 2
"""One for each task, the profiles, and the model errors of two tasks."""

Open = Callable[..., Any]

# For each piece of text: its colour against that of whatever lies behind it, after WCAG 2.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const ratio = (a, b) => {
    const [dark, bright] = [light(a), light(b)].sort((x, y) => x - y);
    return (bright + 0.05) / (dark + 0.05);
  };
  const found = { text: [], lines: [] };
  for (const element of document.querySelectorAll("main *")) {
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (own && element.tagName !== "title") {
      const colour = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
      found.text.push([ratio(rgb(colour), behind(element)), element.textContent.slice(0, 40)]);
    }
    if (element.matches("path.line")) found.lines.push([ratio(rgb(style.stroke), behind(element)), "line"]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    missing = pytest.fail if os.environ.get("MBRL_BROWSER_TESTS") else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing('needs playwright: pip install ".[dev]"')
    with sync_playwright() as driver:
        own = driver.chromium.executable_path
        path = own if os.path.exists(own) else next(filter(None, map(shutil.which, NAMES)), None)
        if path is None:
            missing("needs a Chromium: apt-get install chromium, or playwright install chromium-headless-shell")
        started = driver.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture(scope="module")
def summary() -> Summary:
    return invented_summary()


@pytest.fixture(scope="module")
def text(summary: Summary) -> str:
    return page(summary, study={"name": "small", "command": "mbrl compare"}, oracle=invented_gaps())


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page, and hold at the end that it neither complained nor asked for anything."""
    contexts, said, asked = [], [], []

    def opened(text: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        file = tmp_path / "report.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert set(asked) <= {(tmp_path / "report.html").as_uri()}


def test_curves_are_drawn(show: Open, text: str) -> None:
    tab = show(text)
    charts = tab.locator(VISIBLE)
    assert charts.count() == CHARTS
    measured = tab.evaluate(
        """() => [...document.querySelectorAll("svg.hover")].filter((svg) => svg.checkVisibility()).map((svg) => {
          const frame = svg.getBoundingClientRect();
          return [...svg.querySelectorAll("path.line")].map((line) => {
            const box = line.getBoundingClientRect();
            const across = box.left >= frame.left && box.right <= frame.right;
            const inside = across && box.top >= frame.top && box.bottom <= frame.bottom;
            return { length: line.getTotalLength(), shown: getComputedStyle(line).stroke, inside };
          });
        })"""
    )
    assert [len(lines) for lines in measured] == [len(ENTRIES)] * (len(TASKS) + 1) + [3, 3]
    assert all(line["length"] > 50 and line["inside"] for lines in measured for line in lines)
    assert len({line["shown"] for line in measured[0]}) == len(ENTRIES)


def test_the_pointer_reads_values_out(show: Open, summary: Summary, text: str) -> None:
    tab = show(text)
    chart = tab.locator(VISIBLE).first
    tip = chart.locator("xpath=../div[@class='tip']")
    assert tip.is_hidden()
    curve = next(c for c in summary.curves if (c.env_id, c.label, c.axis) == ("Pendulum-v1", "pets", "steps"))
    place = chart.evaluate("svg => JSON.parse(svg.querySelector('.series[data-label=pets]').dataset.points)[4]")
    box = chart.bounding_box()
    chart.scroll_into_view_if_needed()
    chart.hover(position={"x": place[0] * box["width"] / 360, "y": 40})
    assert tip.is_visible()
    assert curve.low is not None
    assert curve.high is not None
    value, low, high = (number(bounds[4]) for bounds in (curve.value, curve.low, curve.high))
    assert f"{number(curve.x[4], 4)} real steps" in tip.inner_text()
    assert f"pets: {value} [{low}, {high}]" in tip.inner_text()
    assert chart.locator(".point.on").count() == tip.locator("div").count() >= 2
    tab.mouse.move(0, 0)
    assert tip.is_hidden()


def test_keys_read_values_out(show: Open, text: str) -> None:
    tab = show(text)
    chart = tab.locator(VISIBLE).first
    tip = chart.locator("xpath=../div[@class='tip']")
    chart.focus()
    heads = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home"):
        chart.press(key)
        heads.append(tip.locator("b").inner_text())
    assert heads == ["500 real steps", "1,000 real steps", "500 real steps", "100,000 real steps", "500 real steps"]
    assert "mbpo" in tip.inner_text()
    chart.press("Escape")
    assert tip.is_hidden()


def test_the_axis_is_switched(show: Open, text: str) -> None:
    tab = show(text)
    for axis, lines in (("minutes", 5), ("model_steps", 2), ("flops", 4), ("gradient_steps", 5)):
        tab.locator(f"#axis-{axis}").check(force=True)
        visible = tab.locator("#curves ~ div [data-axis]:visible")
        assert [each.get_attribute("data-axis") for each in visible.all()] == [axis]
        assert visible.locator("svg.hover").first.locator(".series").count() == lines
    listed = tab.locator("#thresholds ~ div [data-axis]:visible")
    assert {each.get_attribute("data-axis") for each in listed.all()} == {"gradient_steps"}
    assert tab.locator("#range-whole").is_checked()  # some runs go on behind the budget
    tab.locator("#range-budget").check(force=True)
    assert tab.locator("#curves ~ div [data-axis]:visible").get_attribute("data-range") == "budget"


def test_to_the_budget_stays_in_the_frame(show: Open, text: str) -> None:
    """Runs that go on behind the budget have points there, which the frame cuts off."""
    tab = show(text, width=375)
    tab.locator("#range-budget").check(force=True)
    chart = tab.locator(VISIBLE).first
    tip = chart.locator("xpath=../div[@class='tip']")
    chart.focus()
    chart.press("End")
    assert "5,000 real steps" in tip.inner_text()
    cursor = chart.evaluate("svg => Number(svg.querySelector('.cursor').getAttribute('x1'))")
    assert 58 <= cursor <= 346
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_legend_hides_lines(show: Open, text: str) -> None:
    tab = show(text)
    key = tab.locator(".legend button", has_text="mbpo").first
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    chart = tab.locator(VISIBLE).first
    assert chart.locator(".series[data-label=mbpo]").is_hidden()
    chart.focus()
    chart.press("Home")
    tip = chart.locator("xpath=../div[@class='tip']")
    assert "mbpo" not in tip.inner_text()
    assert "pets" in tip.inner_text()
    key.click()
    assert chart.locator(".series[data-label=mbpo]").is_visible()


def test_a_phone_does_not_scroll_sideways(show: Open, summary: Summary) -> None:
    long = replace(
        summary,
        warnings=("a" * 300, *summary.warnings),
        runs=tuple(replace(run, path="/" + "very-long/" * 40) for run in summary.runs),
        commits={"c" * 80: 1},
    )
    tab = show(page(long, oracle=invented_gaps(), study={"name": "n" * 60, "command": "mbrl " + "x" * 400}), width=375)
    tab.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    chart = tab.locator(VISIBLE).first
    chart.focus()
    chart.press("End")
    tip = chart.locator("xpath=../div[@class='tip']").bounding_box()
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= 375
    letters = chart.locator("text.tick").first.evaluate("text => text.getBoundingClientRect().height")
    assert letters >= 9  # pixels: readable


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(show: Open, text: str, scheme: str) -> None:
    tab = show(text, scheme=scheme)
    found = tab.evaluate(CONTRAST)
    assert len(found["text"]) > 200
    assert min(found["text"])[0] >= 4.5, min(found["text"])
    # On white, Okabe and Ito's orange and sky blue are fainter than 3: there the table tells them apart.
    assert min(found["lines"])[0] >= (3.0 if scheme == "dark" else 2.0), min(found["lines"])
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_paper_shows_what_is_folded(show: Open, text: str) -> None:
    tab = show(text, scheme="dark")
    closed = "document.querySelectorAll('details:not([open])').length"
    before = tab.evaluate(closed)
    assert before > 3
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(closed) == 0
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(closed) == before
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.locator("nav").is_hidden()


def test_without_a_script_curves_are_there(browser: Any, text: str, tmp_path: Path) -> None:
    """As in a mail program that runs none."""
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    assert tab.locator(VISIBLE).count() == CHARTS
    tab.locator("#axis-minutes").check(force=True)
    assert "minutes" in (tab.locator(VISIBLE).first.get_attribute("aria-label") or "")
    context.close()


def test_attacks_from_run_directories_stay_text(show: Open, summary: Summary) -> None:
    tab = show(page(hostile(reduced(summary)), study={"name": HOSTILE, "command": HOSTILE}))
    assert tab.locator("script").count() == 1
    assert tab.locator("img").count() == 0
    assert tab.locator(".warnings li").first.inner_text() == HOSTILE
    chart = tab.locator(VISIBLE).first
    chart.focus()
    chart.press("Home")
    assert HOSTILE in chart.locator("xpath=../div[@class='tip']").inner_text()
    assert tab.locator(".tip img").count() == 0
