"""A headless Chromium for tests of pages; without one they are skipped."""
import shutil
from contextlib import contextmanager

import pytest

BROWSERS = 'google-chrome', 'chromium', 'chromium-browser'
SIZES = (1400, 900), (390, 844)   # a screen and a phone, pixels

@contextmanager
def open_browser(offline=True):
    "A browser with a profile of its own, and with no network but this machine's where it is `offline`."
    program, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which('chromedriver')
    if program is None or driver is None: pytest.skip('needs Chromium or Chrome, and chromedriver, on the PATH')
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    for argument in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-background-networking'):
        options.add_argument(argument)
    if offline: options.add_argument('--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1')
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try: yield opened
    finally: opened.quit()

def resize(browser, width, height):
    "As a device of this size shows a page: a window has a least width."
    metrics = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)

WIDE = """
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width) return [];
const wide = [...document.querySelectorAll('main *')].filter(tag => tag.getBoundingClientRect().right > width + 1);
const names = wide.slice(0, 3).map(tag => tag.outerHTML.slice(0, 120));
return ['scrolls sideways at ' + width + ' pixels: ' + names.join(' | ')];
"""

def own_errors(browser):
    "Errors of the console, without those about files of other hosts."
    for entry in browser.get_log('browser'):
        if entry['level'] == 'SEVERE' and not entry['message'].startswith('https:'):
            yield f'the console says {entry["message"][:200]}'
