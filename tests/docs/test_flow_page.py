"""The flow page: its numbers are the package's, and in a browser it does what it says."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import flow_reference

PAGE = flow_reference.PAGE


def on_page() -> dict:
    """The page's reference values."""
    found = flow_reference.BLOCK.search(PAGE.read_text())
    assert found is not None
    return json.loads(found[0].removeprefix(found[1]).removesuffix(found[2]))


def assert_close(one, other):
    """Equal to rounding, whatever the nesting."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), [other[key] for key in one]
    if isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_close(*pair)
    else:
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)


def test_its_reference_values_are_the_packages():
    """If this fails, the package's flow changed: run ``python docs/flow_reference.py`` and look at the page."""
    assert_close(on_page(), flow_reference.reference())


def test_it_is_one_file_that_asks_the_network_for_nothing():
    assert not re.findall(r"https?://|\bsrc=|<link|@import|url\(|fetch\(|XMLHttpRequest", PAGE.read_text())


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, with the page's console kept."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver, the Debian packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-background-networking")
    options.add_argument("--disable-component-update")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser):
    """The page, freshly loaded on a laptop."""
    screen(browser, 1280, 800)
    browser.get(PAGE.as_uri())
    return browser


def screen(browser, width: int, height: int, mobile: bool = False) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def set_input(page, name: str, value: float) -> None:
    """Move a slider as a user does: its value changes, and it says so."""
    script = "const input = document.getElementById(arguments[0]); input.value = arguments[1];"
    page.execute_script(script + "input.dispatchEvent(new Event('input'));", name, value)


@pytest.mark.browser
class TestInABrowser:
    def test_it_loads_without_a_message_and_its_formulas_agree_with_the_package(self, page):
        assert page.get_log("browser") == []
        assert page.execute_script("return check()") < 1e-9

    def test_a_wrong_number_would_be_noticed(self, page):
        assert page.execute_script("reference.one.ends[50][2] += 0.01; return check()") > 5e-3

    def test_dragging_a_mode_moves_the_density(self, page):
        canvas = page.find_element("id", "one")
        old, new = on_page()["one"]["centres"][0], -0.6
        densities = "const {flow} = one.settings(); return arguments[0].map(x => density(flow, x, 1))"
        at_old, at_new = page.execute_script(densities, [old, new])
        assert at_old > 0.3 > 0.05 > at_new
        start = page.execute_script("return one.handle(0)")
        distance = page.execute_script("return one.px(arguments[0])", new) - start["x"]
        from selenium.webdriver import ActionChains

        half = canvas.size["width"] / 2, canvas.size["height"] / 2  # selenium measures from the centre
        actions = ActionChains(page).move_to_element_with_offset(canvas, start["x"] - half[0], start["y"] - half[1])
        actions.click_and_hold().move_by_offset(round(distance), 0).release().perform()
        at_old, at_new = page.execute_script(densities, [old, new])
        assert at_new > 0.3 > 0.05 > at_old

    @pytest.mark.parametrize("steps", [1, 50])
    def test_particles_end_where_the_packages_solver_takes_them(self, page, steps):
        set_input(page, "steps", steps)
        script = "const {flow, steps} = one.settings(); return arguments[0].map(x => carry(flow, x, steps).at(-1))"
        ends = page.execute_script(script, on_page()["one"]["noise"])
        assert ends == pytest.approx(on_page()["one"]["ends"][str(steps)], rel=1e-9)
        shown = page.execute_script("return one.ends")
        spread = max(shown) - min(shown)
        assert spread < 1e-9 if steps == 1 else spread > 3

    def test_stochastic_particles_reach_the_same_modes_in_the_same_shares(self, page):
        page.find_element("id", "stochastic").click()
        ways = page.execute_script("return [one.ways[0], carry(one.settings().flow, one.ways[0][0], 50)]")
        assert ways[0] != pytest.approx(ways[1], abs=0.05)
        ends, centres = page.execute_script("return one.ends"), on_page()["one"]["centres"]
        for centre in centres:
            assert sum(abs(end - centre) < 0.65 for end in ends) / len(ends) == pytest.approx(1 / 3, abs=0.08)

    def test_updates_move_the_policy_to_the_rewarded_mode(self, page):
        rewarded = "return two.q.filter((_, i) => reference.two.samples[i] > 1).reduce((a, b) => a + b)"
        assert page.execute_script(rewarded) == pytest.approx(4 / 12)
        for _ in range(3):
            page.find_element("id", "update").click()
        assert page.execute_script(rewarded) > 0.99
        assert sum(end > 0.8 for end in page.execute_script("return two.ends")) / 500 > 0.95

    def test_without_the_shift_weights_are_negative_and_no_update_is_offered(self, page):
        page.find_element("id", "shift").click()
        weights = page.execute_script("return two.settings().flow.weights")
        assert min(weights) < 0
        assert sum(weights) == pytest.approx(0, abs=1e-12)
        assert not page.find_element("id", "update").is_enabled()
        assert page.get_log("browser") == []

    def test_painting_gives_a_sample_its_reward(self, page):
        from selenium.webdriver import ActionChains

        canvas = page.find_element("id", "two")
        script = "return [two.px(reference.two.samples[6]), two.strips.rewards.top + 20, two.height]"
        x, y, height = page.execute_script(script)
        half = canvas.size["width"] / 2
        ActionChains(page).move_to_element_with_offset(canvas, x - half, y - height / 2).click().perform()
        assert page.execute_script("return two.rewards[6]") > 0.9
        assert page.execute_script("return two.weights()[6] === Math.max(...two.weights())")

    @pytest.mark.parametrize("width", [360, 768])
    def test_nothing_sticks_out_on_a_small_screen(self, page, width):
        screen(page, width, 780, mobile=True)
        page.get(PAGE.as_uri())
        assert page.execute_script("return document.documentElement.scrollWidth") == width
