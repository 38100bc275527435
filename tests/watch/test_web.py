"""`mempool web`: one page, seen in a real browser, that shows four plots with data and lets nobody else look or steer."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from programs import Program

from mempool.testing import wait_until
from mempool.web.sampling import SAMPLES, SERIES, Sampler
from mempool.web.server import page_of

pytestmark = pytest.mark.long_on_both

BUSY = """
from mempool import Faulty
mempool.watch.publish(steer=True)
source = Faulty(Objects(object))
pool = Pool(source, 8, limit=12, name="frames")
def work():
    while True:
        with pool.lease():
            threading.Event().wait(0.02)
for _ in range(15):
    threading.Thread(target=work, daemon=True).start()
other = Pool(Objects(object), 3, name="<b>other</b>")
ready()
"""


class Server:
    """`mempool web` under test."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "mempool", "web", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#(\S+)", self.address)
        assert found is not None, (self.address, self.process.communicate())
        self.port, self.token = int(found[1]), found[2]

    def ask(self, path: str, body: Any = None, *, token: bool = True, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            if token:
                sent["X-Mempool-Token"] = self.token
            method = "GET" if body is None else "POST"
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def report(self, pool: str = "") -> dict[str, Any]:
        status, body, _ = self.ask(f"/data?pool={pool}&since=0")
        assert status == 200, body
        report: dict[str, Any] = json.loads(body)
        return report

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.communicate(timeout=60)
        finally:
            self.process.kill()


@pytest.fixture
def busy(folder: Path) -> Iterator[Program]:
    with Program(BUSY) as program:
        yield program


@pytest.fixture
def server(busy: Program) -> Iterator[Server]:
    one = Server()
    try:
        yield one
    finally:
        one.end()


@pytest.fixture
def steering(busy: Program) -> Iterator[Server]:
    one = Server("--steer")
    try:
        yield one
    finally:
        one.end()


# -- who may look


def test_a_name_that_was_made_to_point_here_is_refused(server: Server) -> None:
    """DNS rebinding: the browser believes that this is evil.example, and sends that as the Host."""
    for path in ("/", "/data"):
        assert server.ask(path, Host=f"evil.example:{server.port}")[0] == 403, path
        assert server.ask(path, Host="127.0.0.1")[0] == 403, path
        assert server.ask(path, Host=f"localhost:{server.port}")[0] == 200, path


def test_a_page_of_another_site_is_refused(server: Server) -> None:
    for origin in ("http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"):
        assert server.ask("/data", Origin=origin)[0] == 403, origin
        assert server.ask("/data", Origin=f"http://127.0.0.1:{server.port}")[0] == 200


def test_figures_need_the_token_and_the_page_does_not_tell_it(server: Server) -> None:
    assert server.ask("/data", token=False)[0] == 403
    assert server.ask("/data", token=False, X_Mempool_Token="x" * 32)[0] == 403
    status, page, headers = server.ask("/", token=False)
    assert status == 200
    assert server.token.encode() not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert server.ask("/etc/passwd")[0] == 404
    assert server.ask("/../page.js")[0] == 404


def test_it_only_shows_unless_it_may_steer(server: Server) -> None:
    request = {"pool": server.report()["chosen"], "reserve": 9, "expect": 8}
    status, body, _ = server.ask("/resize", request)
    assert (status, b"--steer" in body) == (403, True)


def test_with_steer_it_resizes_what_its_user_saw(steering: Server) -> None:
    wait_until(lambda: len(steering.report()["pools"]) == 2)
    chosen = next(pool["key"] for pool in steering.report()["pools"] if "frames" in pool["name"])
    assert steering.ask("/resize", {"pool": chosen, "reserve": 9, "expect": 8}, token=False)[0] == 403
    assert steering.ask("/resize", {"pool": chosen, "reserve": 9, "expect": 8}, Origin="http://evil.example")[0] == 403
    assert steering.ask("/resize", {"pool": chosen, "reserve": 9, "expect": 7})[0] == 409
    status, body, _ = steering.ask("/resize", {"pool": chosen, "reserve": 9, "expect": 8})
    assert (status, json.loads(body)["promised"]) == (200, 9)
    for nonsense in (
        [],
        {},
        {"pool": chosen, "reserve": "9", "expect": 9},
        {"pool": "x", "reserve": 1, "expect": 1},
        "x" * 9000,
    ):
        assert steering.ask("/resize", nonsense)[0] in {400, 409}
    wait_until(lambda: "resized from 8 to 9" in steering.report(chosen)["said"])


# -- what it shows


def test_the_page_is_small_and_needs_no_network() -> None:
    """One file: at most 120 kB, with its library and that one's licence beside it."""
    page = page_of("nonce", may_steer=False)
    assert len(page) <= 120_000
    text = page.decode()
    assert "uPlot" in text
    assert re.findall(r"(?:src|href)=\"(?!data:)", text) == []
    assert re.findall(r"(?:fetch\(|@import|url\()['\"`]?https?:", text) == []
    assert "MIT" in files("mempool.web").joinpath("uplot.LICENSE").read_text()


def test_ten_minutes_are_kept_a_sample_a_second(folder: Path) -> None:
    from mempool import Objects, Pool, watch

    watch.publish()
    pool = Pool(Objects(object), 2, name="kept")
    sampler = Sampler()
    for second in range(SAMPLES + 30):
        sampler.look(1000.0 + second)
    pool.resize(reserve=5)
    sampler.look(2000.0)
    report = sampler.report("", 0.0)
    assert [len(column) for column in report["series"]] == [SAMPLES] * len(SERIES)
    assert report["series"][1][-2:] == [2, 5]
    assert "resized from 2 to 5" in report["said"]
    assert len(report["numbers"]) == 8
    assert sampler.report(report["chosen"], 1999.0)["series"][0] == [2000.0]


CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
#: Run in the page: how many colours beside the background each plot shows, and whether anything is wider than the window.
LOOK = """() => ({
  plots: [...document.querySelectorAll('#plots canvas')].map(canvas => {
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const seen = new Set();
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] > 100) seen.add(`${data[i] >> 4},${data[i+1] >> 4},${data[i+2] >> 4}`);
    return seen.size;
  }),
  titles: [...document.querySelectorAll('figcaption')].map(e => e.textContent),
  numbers: [...document.querySelectorAll('dl dd')].map(e => e.textContent),
  wide: document.documentElement.scrollWidth > innerWidth,
  options: [...document.querySelectorAll('#pool option')].map(e => e.textContent),
  bold: document.querySelectorAll('b').length,
  said: document.getElementById('said').textContent,
  back: getComputedStyle(document.body).backgroundColor,
  fault: document.getElementById('fault').textContent,
})"""


#: Keeps each time that is written on a plot, and those that are written on it twice in one drawing.
TIMES = """
window.times = [], window.twice = [];
const draws = CanvasRenderingContext2D.prototype, {clearRect, fillText} = draws;
draws.clearRect = function (...all) { this.canvas.drawn = []; return clearRect.apply(this, all); };
draws.fillText = function (text, ...rest) {
  if (/^\\d\\d:\\d\\d:\\d\\d$/.test(text)) {
    const drawn = this.canvas.drawn ||= [];
    if (drawn.includes(text)) window.twice.push(text);
    drawn.push(text), window.times.push(text);
  }
  return fillText.call(this, text, ...rest);
};
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.long_on_both
@pytest.mark.sample(4)
def test_four_plots_are_seen_with_data(server: Server, width: int, scheme: str) -> None:
    """In a real browser; MEMPOOL_SHOTS=DIR keeps a picture of each."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
            faults: list[str] = []
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.add_init_script(TIMES)
            page.goto(server.address)
            until = time.monotonic() + 90
            # A narrow axis has a step in five seconds: the first few samples may lie between two of them.
            while (
                min((seen := page.evaluate(LOOK))["plots"] or [0]) < 3
                or len(server.report()["series"][0]) < 4
                or not page.evaluate("() => window.times.length")
            ):
                assert time.monotonic() < until, (seen, faults)
                page.wait_for_timeout(200)
            assert len(seen["plots"]) == 4
            assert page.evaluate("() => window.twice") == [], "an axis has steps shorter than a second"
            assert seen["titles"][0] == "Promised, spare, out"
            assert len(seen["numbers"]) == 8
            assert not seen["wide"]
            assert seen["bold"] == 0, "a pool's name was taken for HTML"
            assert any("<b>other</b>" in option for option in seen["options"])
            assert (seen["back"] == "rgb(20, 23, 26)") == (scheme == "dark")
            page.focus("#plots")
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowLeft")
            lines = page.evaluate("() => [...document.querySelectorAll('.u-cursor-x')].map(e => e.style.transform)")
            # The fourth has an axis on its right, too: there the same moment lies further left.
            assert len(set(lines[:3])) == 1, lines
            assert all(float(re.findall(r"[-\d.]+", line)[0]) > 100 for line in lines), lines
            assert all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in asked)
            assert faults == []
            if shots := os.environ.get("MEMPOOL_SHOTS"):
                page.screenshot(path=f"{shots}/web-{scheme}-{width}.png", full_page=True)
        finally:
            browser.close()


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")
def test_without_the_token_the_browser_shows_nothing(server: Server) -> None:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.port}/#wrong")
            page.wait_for_function("() => document.getElementById('fault').textContent.includes('token is wrong')")
            assert page.evaluate(LOOK)["numbers"] == []
        finally:
            browser.close()
