"""A headless browser for tests of pages, which skip where there is no chromium, and its checks of accessibility."""

import importlib.resources
import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium or chromedriver is not installed")


@contextmanager
def browser(folder, width, height=900):
    """Yield a browser whose window is as wide as asked for, with its profile in `folder`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}",
    ):
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=Service(executable_path=CHROMEDRIVER, log_output=os.devnull))
    try:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        found.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield found
    finally:
        found.quit()


def show_as(driver, width, theme="light"):
    """Show pages in a window of this width, with the colors of "light" or "dark"."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def broken_rules(driver, only=None, but=(), outside=()):
    """The rules of axe-core that the page breaks, each with the elements that do.

    only: One rule, in place of all. but: Rules to leave out. outside: Selectors of what is not looked at.
    """
    axe = importlib.resources.files(pytest.importorskip("axe_core_python")) / "axe.min.js"
    options = {"rules": {rule: {"enabled": False} for rule in but}, "resultTypes": ["violations"]}
    if only is not None:
        options["runOnly"] = {"type": "rule", "values": [only]}
    driver.set_script_timeout(100)
    driver.execute_script(axe.read_text(encoding="utf-8"))
    found = driver.execute_async_script(
        """const done = arguments[arguments.length - 1];
        axe.run({exclude: arguments[0]}, arguments[1]).then(r => done(r.violations), error => done(String(error)))""",
        [[selector] for selector in outside],
        options,
    )
    assert isinstance(found, list), found
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]


_CONTROLS = """return [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')]
    .filter(e => e.tabIndex >= 0 && !e.disabled && !e.matches('.skip, [tabindex="-1"]')
        && e.checkVisibility({checkVisibilityCSS: true}))"""
_NOTE = """window.reached = new Map();
document.addEventListener('focusin', ({target}) => {
    const style = getComputedStyle(target);
    reached.set(target, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0);
});
document.activeElement.blur();
"""


def not_reached(driver):
    """The controls of the page that Tab does not reach, and those whose focus cannot be seen."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    driver.execute_script(_NOTE)
    number = driver.execute_script(_CONTROLS + ".length")
    ActionChains(driver).send_keys(Keys.TAB * (number + 5)).perform()
    return driver.execute_script(_CONTROLS + ".filter(e => !reached.get(e)).map(e => e.outerHTML.slice(0, 200))")
