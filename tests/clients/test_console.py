"""The console in a browser: chats, hostile answers, the keyboard alone, narrow pages, restarts, axe-core."""

import pytest

pytest.importorskip("selenium")

import browser as chromium
from browser import PHONE, Browser, Keys, Stage
from conftest import KEY

pytestmark = pytest.mark.skipif(bool(chromium.missing()), reason=f"NOT RUN: {chromium.missing()}")

LONG = "Write a long story about a lighthouse."
HOSTILE = [
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>",
    "<a href='javascript:window.hacked = 3'>click</a> &lt;b&gt; {{7*7}}\n",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 bell\x00 back\x08 form\x0c \x9b1m delete\x7f\r\n",
    "right\u202eto left\u2066 tag\U000e0041 end\n",
]


@pytest.fixture(scope="module")
def chrome():
    browser = Browser()
    yield browser
    browser.quit()


@pytest.fixture
def open_page(chrome, server):
    """Opens the console of the common server, or of another address; the tab is closed at the end."""

    def open_page(url=server.url, key=KEY, **options):
        page = chrome.page(url, key=key, **options)
        if key:
            page.is_ready()
        return page

    yield open_page
    page = chromium.Page(chrome.driver)
    complaints = page.complaints()
    chrome.close_tabs()
    assert complaints == []


@pytest.fixture
def stage(server):
    stage = Stage(server.port)
    yield stage
    stage.close()


def greedy(page):
    """The model then answers LONG with thousands of tokens."""
    page.run("document.getElementById('temperature').value = 0")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(open_page):
    page = open_page(key="")
    page.wait(lambda: page.one("#key-dialog").is_displayed(), "the page asks for a key")
    assert page.text("#models") == ""
    page.press("wrong", Keys.ENTER)
    page.wait(lambda: "does not know" in page.text("#key-hint"), "a wrong key is told")
    page.press(Keys.CONTROL, "a")
    page.press(KEY, Keys.ENTER)
    page.is_ready()
    stored = page.run("return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert stored == [[KEY], [], ""]


def test_a_chat_streams_and_stops(open_page):
    page = open_page()
    greedy(page)
    page.ask(LONG)
    seen = page.wait(lambda: page.text(".assistant .text"), "the answer begins")
    page.wait(lambda: len(page.text(".assistant .text")) > len(seen), "the answer goes on")
    page.press(Keys.ESCAPE)
    answer = page.answered()
    figures = page.text(".figures")
    assert "stopped" in figures and "TTFT" in figures and "tokens/s" in figures, figures
    assert len(answer) > len(seen)
    # What was said so far is part of the next question.
    page.run("document.getElementById('max_tokens').value = 4")
    page.ask("And then?")
    page.answered()
    assert len(page.all(".assistant")) == 2 and "4 tokens" in page.text(".figures")
    assert "length" in page.text(".figures")


def test_the_engine_is_seen_at_work(open_page, server):
    page = open_page()
    greedy(page)
    page.ask(LONG)
    page.wait(lambda: page.text("#spark-running .value") == "1", "the request is seen to run")
    page.wait(lambda: float(page.text("#spark-generated .value").replace(",", "")) > 0, "tokens are counted")
    page.wait(lambda: page.text("#requests tr:first-child .state") == "running", "the request has a row")
    page.wait(lambda: page.text("#count-used")[0] != "0", "its blocks are counted")
    assert page.one("#map-box").is_displayed() and "in use" in page.one("#map").get_attribute("aria-label")
    page.press(Keys.ESCAPE)
    page.answered()
    page.wait(lambda: page.text("#spark-running .value") == "0", "its end is seen")
    page.wait(lambda: page.text("#requests tr:first-child .state") == "abort", "its row says how it ended")
    assert "prefill" in page.text("#requests tr:first-child .bars")
    assert "weights" in page.text("#memory-legend") and "architecture" in page.text("#plan")
    assert "loaded" in page.text("#models")


def test_hostile_answers_stay_text(open_page, stage):
    page = open_page(stage.url)
    line = "x" * 1_000_000
    stage.answers.append([{"content": text} for text in HOSTILE] + [{"content": line}, "[DONE]"])
    page.ask("Attack")
    answer = page.answered()
    assert page.run("return window.hacked") is None
    assert page.all("#log script, #log img, #log a") == []
    for text in ["<script>window.hacked = 1</script>", "&lt;b&gt; {{7*7}}", "␛[31mred␛[0m", "␛]0;title␇", "bell␀", "back␈", "form␌"]:
        assert text in answer, text
    for text in ["⟨U+009B⟩1m", "delete␡\n", "right⟨U+202E⟩to", "left⟨U+2066⟩", "tag⟨U+E0041⟩ end"]:
        assert text in answer, text
    assert answer.count("x") >= 1_000_000 and page.overflow() <= 0
    # Thoughts, names and arguments of calls are no better trusted.
    call = {"index": 0, "function": {"name": "<b>f", "arguments": '{"a": "<img src=x>\x1b"}'}}
    stage.answers.append([{"reasoning": "<script>hm\x1b"}, {"tool_calls": [call]}, "[DONE]"])
    page.ask("Again")
    page.answered()
    assert page.text(".reasoning .text") == "<script>hm␛" and page.text(".call strong") == "<b>f"
    assert page.text(".call .text") == '{"a": "<img src=x>␛"}'
    assert page.all("#log script, #log img, #log b") == []


def test_broken_streams_are_told(open_page, stage):
    page = open_page(stage.url)
    for answer, told in [
        ([{"content": "half"}], "the connection ended"),
        ([{"content": "half"}, '{"error": {"message": "<i>no</i>"}}'], "<i>no</i>"),
        (["{not json"], "JSON"),
    ]:
        stage.answers.append(answer)
        page.ask("Break")
        page.answered()
        assert told in page.text(".failure"), page.text(".failure")
    stage.answers.append([{"content": "whole"}, "[DONE]"])
    page.all("#log .actions button")[-1].click()
    page.wait(lambda: page.text(".assistant .text") == "whole", "asked again, it is answered")


def test_everything_is_reached_by_keys(open_page):
    page = open_page()
    page.run("document.activeElement.blur()")
    page.press(Keys.TAB)
    assert page.run("return document.activeElement.className") == "skip"
    seen = set()
    for _ in range(30):
        page.press(Keys.TAB)
        if name := page.focused():
            seen.add(name)
        outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.run("return document.activeElement === document.body"), page.focused()
    assert {"model", "open-key", "theme", "open-help", "log", "prompt", "send", "clear"} <= seen, seen
    page.run("document.getElementById('log').focus()")
    page.press("?")
    page.wait(lambda: page.one("#help").is_displayed(), "? lists the keys")
    page.press(Keys.ESCAPE)
    page.wait(lambda: not page.one("#help").is_displayed(), "Esc closes the list")
    page.press("p")
    assert page.run("return document.getElementById('parameters').open")
    page.press("t")
    assert page.run("return document.documentElement.dataset.theme") == "dark"
    page.press("t", "t")
    assert page.run("return document.documentElement.dataset.theme") is None
    page.press("/")
    assert page.focused() == "prompt"
    page.press("/ and ?")
    assert page.one("#prompt").get_attribute("value") == "/ and ?"


def test_a_restart_is_survived(open_page, start):
    server = start()
    page = open_page(server.url)
    page.run("document.getElementById('max_tokens').value = 8")
    page.ask("Hello")
    page.answered()
    server.kill()
    page.wait(lambda: "does not answer" in page.text("#notice-text"), "the page misses the server")
    again = start(port=server.port)
    page.wait(lambda: "was restarted" in page.text("#notice-text"), "the page sees another server")
    page.is_ready()
    assert again.port == server.port
    page.ask("And now?")
    page.answered()
    assert len(page.all(".assistant")) == 2 and page.all(".failure") == []


def test_a_phone_is_wide_enough(open_page, stage):
    page = open_page(stage.url, size=PHONE)
    stage.answers.append([{"content": "word" * 500 + "\n\tindented"}, {"tool_calls": [{"function": {"name": "f" * 200}}]}, "[DONE]"])
    page.ask("w" * 200)
    page.answered()
    assert page.overflow() <= 0
    page.one("#parameters summary").click()
    assert page.overflow() <= 0
    page.one("#show-engine").click()
    page.wait(lambda: page.one("#engine").is_displayed(), "the engine is shown")
    assert page.overflow() <= 0 and not page.one("#chat").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [chromium.WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_serious(open_page, stage, scheme, size):
    page = open_page(stage.url, size=size, scheme=scheme)
    assert page.run("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    stage.answers.append([{"reasoning": "hm"}, {"content": "text"}, {"tool_calls": [call]}])
    page.ask("Show all")
    page.answered()
    page.run("document.querySelectorAll('details').forEach((own) => { own.open = true; })")
    assert page.findings() == []
    page.one("#show-engine" if size == PHONE else "#open-help").click()
    assert page.findings() == []


def test_it_loads_at_once(open_page):
    page = open_page()
    script = "const [own] = performance.getEntriesByType('navigation'); return own.domContentLoadedEventEnd"
    sizes = "return performance.getEntriesByType('resource').filter((own) => own.name.includes('/console/') && !own.name.includes('/state/')).map((own) => own.decodedBodySize)"
    assert 0 < page.run(script) < 2000
    assert sum(page.run(sizes)) < 100_000
