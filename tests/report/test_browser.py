"""The page in a real browser: no error, filters, keyboard, light and dark, phone and desktop."""

import shutil

import pytest
import report_work
import sweep_work

from wbdc.report.build_report import build_report
from wbdc.report.page import render_page
from wbdc.report.report_options import ReportOptions
from wbdc.report.subjects import Subject, find_subject

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCHEMES = ("light", "dark")
WIDTHS = (390, 1280)  # of a phone and a desktop
OVERFLOW = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
COUNT_SHOWN = "return document.querySelectorAll('.card:not([hidden])').length"


@pytest.fixture(scope="module")
def driver():
    """A headless Chromium. Skips where it or its driver is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", exc_type=ImportError)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    if not browser or not service:
        pytest.skip("no Chromium with chromedriver; `apt-get install chromium chromium-driver`")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(service))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(workspace, tmp_path_factory):
    """The path of the page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    prepared = next((workspace / "prepared").glob("*/DONE.json")).parent
    subjects = {
        "run": find_subject(workspace, report_work.RUNS[0]),
        "ensemble": find_subject(workspace, "pair"),
        "prepared": Subject("prepared", prepared.name, prepared),
    }
    for kind, subject in subjects.items():
        report = build_report(workspace, subject, ReportOptions(draws=100))
        language = "zh" if kind == "prepared" else "en"
        (folder / f"{kind}.html").write_text(render_page(report, language), encoding="utf-8")
    sweep_work.write_sweep(folder)
    sweep_work.confirm(folder)
    sweep = build_report(folder, find_subject(folder, "rates"), ReportOptions())
    (folder / "sweep.html").write_text(render_page(sweep), encoding="utf-8")
    return folder


def show(driver, path, scheme="light", width=1280):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(path.as_uri())


def choose(driver, name, value):
    driver.execute_script(
        "const field = document.forms.filters.elements[arguments[0]]; field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


@pytest.mark.parametrize("kind", ["run", "ensemble", "prepared", "sweep"])
def test_pages_fit_without_errors_in_light_and_dark(driver, pages, kind):
    colors = set()
    for scheme in SCHEMES:
        for width in WIDTHS:
            show(driver, pages / f"{kind}.html", scheme, width)
            assert driver.execute_script(OVERFLOW) == 0, width
            color = "return getComputedStyle(document.body).backgroundColor"
            colors.add(driver.execute_script(color))
    assert driver.get_log("browser") == []
    assert len(colors) == 2
    broken = "return [...document.images].filter(image => !image.naturalWidth).length"
    assert driver.execute_script(broken) == 0
    assert (driver.execute_script("return document.images.length") > 0) == (kind != "sweep")


def test_hostile_texts_run_nothing(driver, pages):
    show(driver, pages / "run.html")
    assert driver.title == f"{report_work.RUNS[0]} · wbdc"
    texts = driver.execute_script(
        "return [...document.querySelectorAll('.field')].map(p => p.innerText)"
    )
    assert any(report_work.SCRIPT_TEXT in text for text in texts)
    assert driver.execute_script("return document.scripts.length") == 1


def test_filters_and_order(driver, pages):
    show(driver, pages / "ensemble.html")
    count = driver.execute_script("return document.querySelectorAll('.card').length")
    data = driver.execute_script(
        "return [...document.querySelectorAll('.card')].map(c => ({...c.dataset}))"
    )
    assert driver.execute_script(COUNT_SHOWN) == count == len(data) > 3
    other = report_work.RUNS[1]
    cases = {
        ("true", "0000"): lambda d: d["true"] == "0000",
        ("predicted", "0001"): lambda d: d["predicted"] == "0001",
        ("confidence", "0.6"): lambda d: float(d["confidence"]) >= 0.6,
        ("member", f"wrong:{other}"): lambda d: other in d["wrong"],
        ("member", f"right:{other}"): lambda d: other not in d["wrong"],
        ("missing", "frames"): lambda d: "frames" in d["missing"],
        ("group", "*"): lambda d: d["group"] != "",
        ("suggested", "1"): lambda d: d["suggested"] == "1",
    }
    shares = set()
    for (name, value), matches in cases.items():
        choose(driver, name, value)
        expected = sum(map(matches, data))
        assert driver.execute_script(COUNT_SHOWN) == expected, name
        status = driver.execute_script("return document.getElementById('shown').textContent")
        assert status == f"{expected} of {count} mistakes shown"
        shares.add(expected)
        driver.execute_script("document.forms.filters.reset()")
        choose(driver, name, "0" if name == "confidence" else "")
    assert len(shares) > 2
    order = "return [...document.querySelectorAll('.card')].map(c => +c.dataset[arguments[0]])"
    for key in ("confidence", "points"):
        choose(driver, "sort", key)
        values = driver.execute_script(order, key)
        assert values == sorted(values, reverse=True)


def test_a_confusion_links_to_its_mistakes(driver, pages):
    show(driver, pages / "ensemble.html")
    choose(driver, "confidence", "0.99")
    link = "document.querySelector('a.pair')"
    pair = driver.execute_script(f"{link}.click(); return {{...{link}.dataset}}")
    driver.execute_async_script("setTimeout(arguments[0], 50)")  # a reset applies afterwards
    shown = driver.execute_script(
        "return [...document.querySelectorAll('.card:not([hidden])')]"
        ".map(c => [c.dataset.true, c.dataset.predicted])"
    )
    assert shown
    assert all(one == [pair["true"], pair["predicted"]] for one in shown)


def test_the_keyboard_reaches_filters_charts_and_tables(driver, pages):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(driver, pages / "ensemble.html")
    focused = "return document.activeElement.className || document.activeElement.name || ''"
    ActionChains(driver).send_keys(Keys.TAB).perform()
    assert driver.execute_script(focused) == "skip"
    driver.execute_script("document.forms.filters.elements.predicted.focus()")
    ActionChains(driver).send_keys("0100").perform()  # a select jumps to what is typed
    value = driver.execute_script("return document.forms.filters.elements.predicted.value")
    assert value == "0100"
    shown = driver.execute_script(
        "return [...document.querySelectorAll('.card:not([hidden])')].map(c => c.dataset.predicted)"
    )
    assert set(shown) <= {"0100"}
    ActionChains(driver).send_keys(Keys.TAB).perform()
    assert driver.execute_script(focused) == "confidence"


def test_points_of_charts_are_read_by_keyboard(driver, pages):
    """A single validation is drawn as a point, with the name of its fold."""
    show(driver, pages / "run.html")
    tip = "const tip = document.getElementById('tip'); return tip.hidden ? null : tip.textContent"
    assert driver.execute_script(tip) is None
    driver.execute_script("document.querySelector('circle.mark').focus()")
    assert driver.execute_script(tip) == "fold 0"
    press_escape = "const event = new KeyboardEvent('keydown', {key: 'Escape', bubbles: true});"
    driver.execute_script(press_escape + "document.activeElement.dispatchEvent(event)")
    assert driver.execute_script(tip) is None


def test_names_for_screen_readers(driver, pages):
    """Every control, table, chart and picture has an accessible name."""
    show(driver, pages / "ensemble.html")
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = {}
    for node in nodes:
        if not node.get("ignored"):
            role = node.get("role", {}).get("value")
            names.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    for role in ("combobox", "spinbutton", "button", "link", "image", "region", "heading"):
        assert names[role], role
        assert all(names[role]), role
    assert names["heading"][0] == "pair"
