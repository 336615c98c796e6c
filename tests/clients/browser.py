"""A headless Chromium, a page of the console in it, and a stage: the real page before answers that a test writes."""

import base64
import http.client
import http.server
import json
import pathlib
import shutil
import tempfile
import threading
import time

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = pathlib.Path(__file__).resolve().parents[2]
AXE = ROOT / ".venv" / "axe" / "axe.min.js"
CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
WIDE = (1280, 860)
PHONE = (360, 740)


def missing():
    """What lacks for browser tests, or nothing."""
    if not CHROMIUM or not DRIVER:
        return "Chromium is not there: install Debian's chromium and chromium-driver"
    return "" if AXE.exists() else "axe-core is not there: make browser"


class Browser:
    """A Chromium with a fresh profile."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="quire-chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in [*FLAGS, f"--user-data-dir={self.profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(DRIVER))

    def quit(self):
        self.driver.quit()
        shutil.rmtree(self.profile, ignore_errors=True)

    def page(self, url, size=WIDE, scheme="light", key=""):
        """The console in a tab of its own, whose session knows `key` alone."""
        self.driver.switch_to.new_window("tab")
        page = Page(self.driver)
        page.resize(size)
        page.prefer(scheme)
        if key:
            self.driver.get(f"{url}/console/icon.svg")
            self.driver.execute_script("sessionStorage.setItem('quire-key', arguments[0])", key)
        self.driver.get(f"{url}/console")
        return page

    def close_tabs(self):
        """All but the first."""
        for tab in self.driver.window_handles[1:]:
            self.driver.switch_to.window(tab)
            self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])


class Page:
    """The console as a test sees it."""

    def __init__(self, driver):
        self.driver = driver

    def resize(self, size):
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        """The text of the last such element; none: nothing."""
        script = "const all = document.querySelectorAll(arguments[0]); return all.length ? all[all.length - 1].textContent : ''"
        return self.driver.execute_script(script, selector).replace("\u00a0", " ")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys):
        """Keys go to what has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self):
        return self.run("return document.activeElement.id")

    def wait(self, condition, what, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            try:
                if result := condition():
                    return result
            except StaleElementReferenceException:
                pass
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}; the page says {self.text('main')[:600]!r}"
            time.sleep(0.05)

    def is_ready(self):
        return self.wait(lambda: self.text("#health") == "ready", "the page knows the server")

    def ask(self, text):
        self.one("#prompt").click()
        self.press(text, Keys.ENTER)

    def is_idle(self):
        return self.one("#stop").get_attribute("hidden") is not None

    def answered(self, seconds=60):
        self.wait(self.is_idle, "the answer has ended", seconds)
        return self.text(".assistant .text")

    def overflow(self):
        """Pixels by which the page, or a part of it that scrolls, is wider than there is room."""
        parts = "[document.documentElement, ...document.querySelectorAll('#log, #engine, .fields')]"
        return self.run(f"return Math.max(...{parts}.map((own) => own.scrollWidth - own.clientWidth))")

    def findings(self):
        """Serious and critical findings of axe-core, in a line each."""
        self.run(AXE.read_text())
        script = "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then((all) => done(all.violations))"
        found = self.driver.execute_async_script(script)
        lines = [f"{own['id']} ({own['impact']}): {[node['html'][:160] for node in own['nodes']][:4]}" for own in found]
        return [line for line, own in zip(lines, found) if own["impact"] in ("serious", "critical")]

    def complaints(self):
        """What the browser logged as an error, but for answers of the network."""
        entries = self.driver.get_log("browser")
        return [own["message"] for own in entries if own["level"] == "SEVERE" and own["source"] != "network"]

    def picture(self):
        """A PNG of what is seen."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        return base64.b64decode(shot["data"])


class Stage:
    """Passes everything on to a server, but chats: those get the deltas that a test gives to `answers`."""

    def __init__(self, port):
        self.answers = []
        stage = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                headers = {name: self.headers[name] for name in ("Authorization",) if self.headers[name]}
                connection.request("GET", self.path, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for delta in stage.answers.pop(0):
                    data = delta if isinstance(delta, str) else json.dumps({"choices": [{"index": 0, "delta": delta}]})
                    self.wfile.write(f"data: {data}\n\n".encode())
                    self.wfile.flush()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
