"""The report site in a browser: it renders, without a word on its console, within reach of everybody, from files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from places import PROJECT
from site_data import HOSTILE, a_run, contrast, recorded_runs
from splvm.evidence.timeline import Evidence
from splvm.history.database import History
from splvm.history.schema import RunRow
from splvm.record.reader import read_evidence
from splvm.site.looks import cell_page, run_pages
from splvm.site.series import phases
from splvm.site.write import write_site

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
    # One browser for all of them.
    pytest.mark.xdist_group("browser"),
]

WIDTH, HEIGHT = 1300, 1000


def hostile(evidence: Evidence) -> Evidence:
    timeline = evidence.timeline
    tasks = tuple(replace(s, value=tuple(replace(t, comm=HOSTILE) for t in s.value)) for s in timeline.tasks)
    return replace(
        evidence, timeline=replace(timeline, tasks=tasks), console=f"[ 1.000000] BUG: {HOSTILE}\n{HOSTILE}\n"
    )


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[RunRow]:
    return recorded_runs(data, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def bad(runs: list[RunRow]) -> list[RunRow]:
    """Two runs whose every text is markup, but the verdict, which a history checks; one of them has its evidence."""
    names = ("release", "spl_version", "reason", "command", "qemu", "variant", "kernel")
    columns = {column.key: getattr(runs[0], column.key) for column in RunRow.__table__.columns}
    other = {column.key: getattr(a_run(7), column.key) for column in RunRow.__table__.columns}
    markup = dict.fromkeys(names, HOSTILE) | {"modules": {"spl.ko": HOSTILE}, "as_expected": False}
    markup |= {"line": HOSTILE, "parameters": ""}
    return [RunRow(**{**columns, **markup}), RunRow(**{**other, **markup, "variant": f"{HOSTILE}2"})]


@pytest.fixture(scope="module")
def site(runs: list[RunRow], bad: list[RunRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the recorded runs, of a regression in another cell, and of the hostile ones."""
    out = tmp_path_factory.mktemp("report") / "site"
    nights = [
        a_run(n, "PROGRESS" if n < 3 else "CRASHED", longest_gap_ms=9.0 + n, kernel="debian-sid") for n in range(5)
    ]
    first = bad[0]
    with History(":memory:") as history:
        history.add([*runs[1:], *nights, *bad])

        def read(path: Path) -> Evidence:
            evidence = read_evidence(path)
            return hostile(evidence) if str(path) == first.directory else evidence

        write_site(history, out, read)
    return out


class Browser:
    """A headless chromium that says what went wrong on a page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, fragment: str = "") -> None:
        # Another fragment alone would load nothing anew.
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + fragment)
        WebDriverWait(self.driver, 60, 0.05).until(lambda _: self.drawn())

    @contextmanager
    def width(self, pixels: int) -> Iterator[None]:
        """Make the page as wide as this."""
        size = {"width": pixels, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def drawn(self) -> bool:
        script = "return [...document.querySelectorAll('[data-plot]')].every(place => place.dataset.drawn > 0)"
        return bool(self.driver.execute_script(script))

    def all(self, selector: str) -> list[WebElement]:
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def complaints(self) -> list[Any]:
        """What the console has, since it was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def violations(self, scheme: str) -> list[str]:
        """What axe finds, in light or dark colours."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        # Its Python wrapper only does this, with files it leaves open.
        self.driver.execute_script(_axe())
        script = """
            const done = arguments[0];
            axe.run().then(done, error => done({violations: [{id: String(error), nodes: []}]}));
        """
        found = self.driver.execute_async_script(script)["violations"]
        return [f"{it['id']}: {[node['html'][:200] for node in it['nodes'][:3]]}" for it in found]

    def shown(self) -> set[str]:
        """Names of the cells of the overview that can be seen."""
        return {it.get_attribute("data-text") or "" for it in self.all(".matrix td[data-text]") if it.is_displayed()}


def _axe() -> str:
    spec = find_spec("axe_selenium_python")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(argument)
    options.binary_location = CHROMIUM or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(120)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def samples(site: Path, runs: list[RunRow]) -> dict[str, Path]:
    """A page of each kind, the fullest."""
    stalled = next(run for run in runs if Path(run.directory).name == "stalled-cycle")
    return {
        "overview": site / "index.html",
        "cell": site / "cells" / cell_page(runs[-1].cell),
        "run": site / "runs" / run_pages([stalled])[stalled.id],
        "compare": site / "compare.html",
    }


@pytest.mark.parametrize("name", ["overview", "cell", "run", "compare"])
def test_a_page_renders_and_everybody_can_use_it(browser: Browser, samples: dict[str, Path], name: str) -> None:
    browser.open(samples[name])
    for scheme in ("light", "dark"):
        assert browser.violations(scheme) == []
    assert browser.complaints() == []
    assert len(browser.all("h1")) == 1


def test_plots_are_drawn(browser: Browser, samples: dict[str, Path]) -> None:
    browser.open(samples["run"])
    assert len(browser.all("#timeline .scatterlayer .trace")) >= 8
    assert len(browser.all("#timeline .xaxislayer-above .xtick")) >= 3, "one axis"
    assert len(browser.all("#timeline .shapelayer path")) >= 5, "phases"
    assert browser.all("#timeline .annotation-text")
    browser.open(samples["cell"])
    assert len(browser.all("#trend .scatterlayer .trace")) >= 4
    assert len(browser.all("#trend .scatterlayer .trace:first-child .point")) >= 6


# Everything in a plot that is to be read, and plotly's buttons: what it is, its words and its box within the plot's.
TEXTS = """
    const kinds = {
        legend: ".infolayer > g[class^=legend]", title: ".annotation-text", axis: ".g-xtitle text, .g-ytitle text",
        tick: ".xaxislayer-above text, .yaxislayer-above text", buttons: ".modebar-group",
        area: ".nsewdrag",
    };
    return [...document.querySelectorAll(".plot")].map(plot => {
        const outer = plot.getBoundingClientRect();
        const texts = Object.entries(kinds).flatMap(([kind, selector]) =>
            [...plot.querySelectorAll(selector)].map(it => {
                const { left, top, right, bottom } = it.getBoundingClientRect();
                const box = [left - outer.left, top - outer.top, right - outer.left, bottom - outer.top];
                const turned = /rotate\\((?!0)/.test(it.getAttribute("transform") ?? "");
                return { kind, words: it.textContent, box, turned };
            }).filter(({ box }) => box[2] > box[0]));
        const entries = [...plot.querySelectorAll(".legendtext")].map(it => it.textContent);
        return { name: plot.id, width: outer.width, height: outer.height, texts, entries };
    });
"""


def faults(plot: dict[str, Any]) -> list[str]:
    """Words of a plot that are cut off by its edge, or lie over others."""
    found = []
    for number, it in enumerate(plot["texts"]):
        left, top, right, bottom = it["box"]
        if left < -1 or top < -1 or right > plot["width"] + 1 or bottom > plot["height"] + 1:
            found.append(f"cut off: {it['kind']} {it['words']!r}")
        for other in plot["texts"][:number]:
            # Slanted labels lie side by side although their boxes overlap; those of rows may touch the lines they name.
            if (it["turned"] and other["turned"]) or {it["kind"], other["kind"]} == {"area", "tick"}:
                continue
            a, b, c, d = other["box"]
            if min(right, c) - max(left, a) > 1 and min(bottom, d) - max(top, b) > 1:
                found.append(f"{it['kind']} {it['words']!r} over {other['kind']} {other['words']!r}")
    return found


@pytest.mark.parametrize("width", [1400, 800])
def test_all_words_of_a_plot_can_be_read(
    browser: Browser, site: Path, runs: list[RunRow], bad: list[RunRow], width: int
) -> None:
    """In plots of runs of every kind, one whose threads have endless names among them, and in that of a cell."""
    directories = {Path(run.directory).name: run for run in runs}
    kinds = ("healthy", "stalled-cycle", "lost-hung", "slow-unwoken", "crashed")
    shown = [bad[0], *(directories[name] for name in kinds)]
    names = run_pages(runs) | run_pages(bad)
    seen = set()
    with browser.width(width):
        for page in [*(site / "runs" / names[run.id] for run in shown), site / "cells" / cell_page(runs[-1].cell)]:
            browser.open(page)
            found = browser.driver.execute_script(TEXTS)
            assert found, page.name
            for plot in found:
                assert faults(plot) == [], f"{plot['name']} of {page.name}"
                assert len(plot["entries"]) == len(set(plot["entries"])), "each colour is explained once"
                seen |= {(plot["name"], it["kind"]) for it in plot["texts"]}
            outside = """
                const [outer, texts] = [document.querySelector(".waits"), document.querySelectorAll(".waits text")];
                return [...texts].filter(it => it.getBoundingClientRect().right > outer.getBoundingClientRect().right)
            """
            assert browser.driver.execute_script(outside) == []
    assert seen >= {(plot, kind) for plot in ("timeline", "latency") for kind in ("legend", "axis", "tick", "buttons")}
    assert {("timeline", "title"), ("trend", "title"), ("trend", "tick")} <= seen


def test_names_of_phases_and_threads_are_whole(
    browser: Browser, site: Path, bad: list[RunRow], runs: list[RunRow]
) -> None:
    evidence = read_evidence(Path(runs[-1].directory))
    for run, read in ((runs[-1], evidence), (bad[0], hostile(read_evidence(Path(bad[0].directory))))):
        browser.open(site / "runs" / run_pages([run])[run.id])
        (timeline,) = (it for it in browser.driver.execute_script(TEXTS) if it["name"] == "timeline")
        # A line's end took the place of a space.
        ticks = {it["words"].replace(" ", "") for it in timeline["texts"] if it["kind"] == "tick"}
        wanted = [name for name, _, _ in phases(read.timeline)]
        wanted += [f"{task.comm}({task.pid})".replace(" ", "") for task in read.timeline.tasks[-1].value]
        assert len(wanted) > 3 and set(wanted) <= ticks


def test_plots_fit_on_paper(browser: Browser, samples: dict[str, Path]) -> None:
    """Each is on one sheet while it is printed, dark on light, and as large as its place afterwards."""
    browser.open(samples["run"])
    event = "dispatchEvent(new Event(arguments[0]))"
    before = browser.driver.execute_script(TEXTS)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    try:
        browser.driver.execute_script(event, "beforeprint")
        for plot in browser.driver.execute_script(TEXTS):
            size = browser.driver.execute_script(
                "const it = document.querySelector(`#${arguments[0]} .main-svg`).getBoundingClientRect();"
                "return [it.width, it.height]",
                plot["name"],
            )
            # Letter less the margins that browsers leave: 190 by 250 mm, 96 pixels to the inch.
            assert size[0] <= 718 and size[1] <= 945, plot["name"]
            assert faults(plot | {"width": size[0], "height": size[1]}) == []
            assert "buttons" not in {it["kind"] for it in plot["texts"]}
        colours = "return ['body', '.plot text'].map(it => getComputedStyle(document.querySelector(it)))"
        body, text = browser.driver.execute_script(f"{colours}.map((it, at) => at ? it.fill : it.color)")
        assert (body, text) == ("rgb(27, 31, 36)", "rgb(0, 0, 0)")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.driver.execute_script(event, "afterprint")
    after = browser.driver.execute_script(TEXTS)
    assert [(it["width"], it["height"]) for it in after] == [(it["width"], it["height"]) for it in before]
    drawn = browser.driver.execute_script("return document.querySelector('#timeline .main-svg').clientWidth")
    assert drawn > 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["deadlock", "result"])
def test_pictures_of_the_documents_can_be_read(browser: Browser, name: str, scheme: str) -> None:
    """No words lie over others or beyond the picture, or the frame they begin in; all differ from the background."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.driver.get((PROJECT / "docs" / f"{name}.svg").as_uri())
    script = """
        const box = it => {
            const { left, top, right, bottom } = it.getBoundingClientRect();
            return [left, top, right, bottom];
        };
        const view = document.documentElement.viewBox.baseVal, matrix = document.documentElement.getScreenCTM();
        const words = [...document.querySelectorAll("text")].map(it =>
            ({ kind: "text", words: it.textContent, box: box(it), turned: false, fill: getComputedStyle(it).fill }));
        const frames = [...document.querySelectorAll("rect.box, rect.rescue")].map(box);
        const fill = getComputedStyle(document.querySelector(".paper")).fill;
        const [width, height] = [view.width * matrix.a + matrix.e, view.height * matrix.d + matrix.f];
        return { texts: words, frames, width, height, fill };
    """
    picture = browser.driver.execute_script(script)
    lines = [it for it in picture["texts"] if set(it["words"]) - set("\u00a0│╭╮╰╯─")]
    # Lines of a terminal touch each other.
    beside = [it | {"box": [it["box"][0], it["box"][1] + 4, it["box"][2], it["box"][3] - 4]} for it in lines]
    assert len(lines) > 10 and faults(picture | {"texts": beside}) == []
    for left, top, right, bottom in picture["frames"]:
        begun = [it["box"] for it in lines if left < it["box"][0] < right and top < it["box"][1] < bottom]
        assert len(begun) == 2 and all(it[2] < right and it[3] < bottom for it in begun)
    paper = [int(it) for it in re.findall(r"\d+", picture["fill"])]
    assert (max(paper) < 64) == (scheme == "dark")
    for it in lines:
        ink = [int(it) for it in re.findall(r"\d+", it["fill"])]
        assert contrast(ink, paper) >= 4.5, f"{it['words']}, as WCAG 1.4.3 asks of text"


def test_a_point_leads_to_its_run(browser: Browser, samples: dict[str, Path]) -> None:
    browser.open(samples["cell"])
    script = """
        const place = document.getElementById("trend");
        const target = place.data[0].customdata.findLast(Boolean);
        place.emit("plotly_click", {points: [{customdata: "https://example.invalid/"}]});
        place.emit("plotly_click", {points: [{customdata: target}]});
        return target.split("/").pop();
    """
    target = browser.driver.execute_script(script)
    WebDriverWait(browser.driver, 20).until(lambda driver: driver.current_url.endswith(target))


def test_a_page_without_its_plots_would_be_seen(browser: Browser, samples: dict[str, Path], tmp_path: Path) -> None:
    """The checks above can fail: with plotly.js missing, an element without a name, a script within the page."""
    site = samples["run"].parents[1]
    broken = tmp_path / "runs" / "broken.html"
    broken.parent.mkdir()
    text = samples["run"].read_text().replace("<main", "<img src='data:,'><script>alert(1)</script><main", 1)
    broken.write_text(text)
    for name in ("site.css", "site.js"):
        shutil.copy(site / name, tmp_path / name)
    browser.driver.get(broken.as_uri())
    assert not browser.drawn()
    said = " ".join(browser.complaints())
    assert "plotly.min.js" in said and "Plotly is not defined" in said and "Content Security Policy" in said
    assert any(it.startswith("image-alt") for it in browser.violations("light"))


def test_filters(browser: Browser, samples: dict[str, Path]) -> None:
    browser.open(samples["overview"])
    every = browser.shown()
    assert len(every) >= 10
    Select(browser.all("[name=kernel]")[0]).select_by_visible_text("debian-sid")
    assert browser.shown() == {"held-worker debian-sid stock"}
    assert browser.all("#count")[0].text == f"1 of {len(every)} cells"
    assert browser.driver.current_url.endswith("#kernel=debian-sid")
    assert len([it for it in browser.all(".matrix thead th") if it.is_displayed()]) == 3, "other columns are gone"
    browser.all("[type=reset]")[0].click()
    WebDriverWait(browser.driver, 10).until(lambda _: browser.shown() == every)
    Select(browser.all("[name=verdict]")[0]).select_by_visible_text("IMMUNE")
    # One run of the scenario on that kernel is of a bug that was put back.
    immune = {it for it in every if it.startswith("reclaim-cycle debian-12") and "clock=virtual" not in it}
    assert browser.shown() == immune != set()
    assert browser.complaints() == []


def test_filters_by_the_keyboard(browser: Browser, samples: dict[str, Path]) -> None:
    browser.open(samples["overview"])
    text = browser.all("[name=text]")[0]
    text.send_keys("sync-grow")
    assert browser.shown() == {"reclaim-cycle debian-11 sync-grow window=2"}
    text.clear()
    # Over kernel, variant and verdict to the checkbox.
    text.send_keys(Keys.TAB * 1)
    for _ in range(3):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(Keys.SPACE)
    shown = browser.shown()
    assert "held-worker debian-sid stock" in shown and "reclaim-cycle debian-11 sync-grow window=2" not in shown
    assert browser.driver.current_url.endswith("#unexpected=1")


def test_a_view_is_in_the_address(browser: Browser, samples: dict[str, Path]) -> None:
    browser.open(samples["overview"], "#text=debian-12+unscoped&verdict=IMMUNE")
    assert browser.shown() == {"reclaim-cycle debian-12 unscoped window=2"}
    assert browser.all("[name=text]")[0].get_attribute("value") == "debian-12 unscoped"
    browser.open(samples["compare"], "#where=long-lived+debian-12+window%3D2")
    pairs = [it for it in browser.all(".pair") if it.is_displayed()]
    assert [it.get_attribute("data-where") for it in pairs] == ["long-lived debian-12 window=2"]
    assert browser.complaints() == []


def test_text_of_a_guest_does_nothing(browser: Browser, site: Path, bad: list[RunRow]) -> None:
    """On every page that has it: no dialog, no element of its own, nothing that the policy had to stop."""
    names = run_pages(bad)
    pages = [site / "runs" / names[run.id] for run in bad] + [site / "cells" / cell_page(run.cell) for run in bad]
    for page in [*pages, site / "index.html", site / "compare.html"]:
        browser.open(page)
        assert "alert(1)" in browser.driver.find_element(By.TAG_NAME, "main").text
        assert not browser.all("img, iframe, main b, .plot a, main script:not([type='application/json'])")
        assert browser.complaints() == [], page.name


def test_the_command_can_be_copied(browser: Browser, samples: dict[str, Path]) -> None:
    browser.open(samples["run"])
    button = browser.all("[data-copy]")[0]
    button.click()
    WebDriverWait(browser.driver, 10).until(lambda _: button.text != "Copy")
    selected = browser.driver.execute_script("return getSelection().toString().trim()")
    assert selected.startswith("splvm run reclaim-cycle --kernel debian-11 --variant sync-grow")


def test_nothing_is_asked_of_a_network(browser: Browser, samples: dict[str, Path]) -> None:
    for page in samples.values():
        browser.open(page)
        script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        asked = browser.driver.execute_script(script)
        assert [name for name in asked if not name.startswith(("file:", "data:", "blob:"))] == []
