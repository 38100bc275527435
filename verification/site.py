"""Looks at the documentation as its readers do: `make site-check`, or `python -m verification.site [--out DIR]`.

It builds the site, serves it on 127.0.0.1 and opens every page in Chromium, as wide as a telephone and as a small laptop,
in the light and in the dark theme. There it measures that nothing is wider than the window, that no answer in a code block
is cut off, that pictures are there and their letters large enough to be read, and that the search finds first what a reader
means. Pictures of all pages are left in DIR. Needs Chromium (Debian: apt-get install chromium); CHROMIUM names another.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
WIDTHS = (390, 1280)
HEIGHT = 844
THEMES = ("light", "dark")
LETTERS_MIN = 8.0  # pixels, of a picture's smallest letters on a telephone
SETTLE_SECONDS = 30
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: What a reader types, and the address that must be found: first, or anywhere.
SEARCHES = (
    ("timeout", "reference/pool.html#mempool.Pool.alloc", True),
    ("Pool.alloc", "reference/pool.html#mempool.Pool.alloc", True),
    ("to_thread", "how-to/threads-and-a-loop.html", False),
    ("wait_until", "reference/testing.html#mempool.testing.wait_until", False),
    ("shutdown", "how-to/shut-down.html", True),
    ("SIGTERM", "how-to/shut-down.html", False),
    ("install", "install.html", True),
)
#: Run in the page: sentences about what is wrong there.
FAULTS = """() => {
  const faults = [];
  const page = document.documentElement;
  if (page.scrollWidth > window.innerWidth) {
    const wide = [...document.querySelectorAll('.md-content *')].filter(e =>
      e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest('.md-typeset__scrollwrap'));
    faults.push(`the page is ${page.scrollWidth} px wide in a window of ${window.innerWidth}: ` +
      wide.slice(0, 3).map(e => `<${e.localName} class="${e.className}"> ${e.textContent.trim().slice(0, 40)}`).join('; '));
  }
  for (const code of document.querySelectorAll('.md-content pre > code')) {
    const right = code.getBoundingClientRect().right;
    for (const answer of code.querySelectorAll('.c1')) {
      for (const line of answer.getClientRects()) {
        if (line.right > right) { faults.push(`an answer is cut off: ${answer.textContent}`); break; }
      }
    }
    if (code.scrollWidth > code.clientWidth) faults.push(`code is cut off: ${code.textContent.trim().slice(0, 60)}`);
  }
  for (const image of document.querySelectorAll('.md-content img')) {
    if (!image.complete || !image.naturalWidth) faults.push(`no picture: ${image.src}`);
    if (!image.alt) faults.push(`no words for who cannot see ${image.src}`);
  }
  return faults;
}"""
#: The pictures of a page: address, how wide they are drawn, how wide they are shown.
IMAGES = "() => [...document.querySelectorAll('.md-content img')].map(i => [i.src, i.clientWidth])"
RESULTS = ".md-search-result__link"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the site, and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the folder, while it is served."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def browser(chromium: str, width: int, theme: str) -> Iterator[Page]:
    """A window of a new Chromium that knows nothing of earlier ones."""
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile,
            executable_path=chromium,
            headless=True,
            args=list(FLAGS),
            viewport={"width": width, "height": HEIGHT},
            color_scheme="dark" if theme == "dark" else "light",
        )
        try:
            yield context.pages[0]
        finally:
            context.close()


def small_letters(page: Page, folder: Path, address: str) -> list[str]:
    """Pictures whose smallest letters would be too small at the width at which they are shown."""
    faults = []
    for source, shown in page.evaluate(IMAGES):
        text = (folder / source.removeprefix(address)).read_text("utf-8")
        drawn = float(re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+)', text)[1])  # type: ignore[index]
        sizes = re.findall(r"font(?:-size=\"|: |-size: )(?:bold |normal )*([\d.]+)(?:px)?", text)
        smallest = min(map(float, sizes)) * shown / drawn
        if smallest < LETTERS_MIN:
            faults.append(f"{Path(source).name}: letters of {smallest:.1f} px, at least {LETTERS_MIN:g} can be read")
    return faults


def searched(page: Page, address: str) -> list[str]:
    """What the search does not find, or not first."""
    faults = []
    for words, target, first in SEARCHES:
        page.goto(f"{address}index.html")
        page.click(".md-search__input")
        page.keyboard.type(words)
        page.wait_for_selector(RESULTS, state="attached", timeout=SETTLE_SECONDS * 1000)
        found = [link.split("?")[0] for link in hrefs(page, address)]
        # The first result is a page, and those below it are its sections.
        hits = [link for link in found if "#" in link or "#" not in target][:1] if first else found
        if not any(link.startswith(target) for link in hits):
            faults.append(f"search: {words!r} {'begins with' if first else 'finds'} {found[:5]}, not {target}")
    return faults


def hrefs(page: Page, address: str) -> list[str]:
    """Where the results of a search lead, in order, as page.html#anchor."""
    links: list[str] = page.eval_on_selector_all(RESULTS, "links => links.map(a => a.href)")
    return [re.sub(r"\?[^#]*", "", link).removeprefix(address) for link in links]


def look(chromium: str, folder: Path, out: Path, only: str) -> list[str]:
    """Open every page in every way. Returns what is wrong."""
    pages = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.html") if file.name != "404.html")
    pages = [name for name in pages if only in name]
    faults = []
    with served(folder) as address:
        for width in WIDTHS:
            for theme in THEMES:
                with browser(chromium, width, theme) as page:
                    for name in pages:
                        page.goto(address + name, wait_until="load")
                        told: list[str] = page.evaluate(FAULTS)
                        if width == min(WIDTHS):
                            told += small_letters(page, folder, address)
                        scheme: Any = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
                        if scheme != ("slate" if theme == "dark" else "default"):
                            told.append(f"the theme is {scheme}")
                        faults += [f"{name}, {width} px, {theme}: {fault}" for fault in told]
                        picture = out / f"{name.removesuffix('.html').replace('/', '-')}-{width}-{theme}.png"
                        page.screenshot(path=picture, full_page=True)
                    if width == max(WIDTHS) and theme == "light" and not only:
                        faults += searched(page, address)
    print(f"{len(pages)} pages, {len(WIDTHS)} widths, {len(THEMES)} themes; pictures of them are in {out}")
    return faults


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=ROOT / "build" / "site-check", help="where the pictures go")
    options.add_argument("--only", default="", help="only pages whose name has this in it, and no search")
    chosen = options.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("no Chromium found: apt-get install chromium, or name one with CHROMIUM=/path", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as built:
        build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", built]
        subprocess.run(build, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
        chosen.out.mkdir(parents=True, exist_ok=True)
        faults = look(chromium, Path(built), chosen.out, chosen.only)
    print("\n".join(faults) or "nothing is wrong")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
