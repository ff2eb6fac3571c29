"""Pages as a browser shows them: light and dark, on a wide screen and on a phone."""

from __future__ import annotations

import contextlib
import functools
import http.server
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from website.faults import Fault

THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SCREENS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
_LOOK = Path(__file__).with_name("look.js").read_text()
_HAS_THEME = "theme => document.documentElement.dataset.theme === theme"
_LOAD_IMAGES = """Promise.all([...document.images].map((image) => {
  image.loading = "eager";
  return image.decode().catch(() => null);
}))"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # which keeps connections

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's address on this machine. Of files, a browser runs no modules."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def looked_at(
    site: Path,
    pages: Sequence[Path],
    *,
    browser: str | None,
    screenshots: Path | None,
    contrast: float,
) -> Iterator[Fault]:
    """What is wrong with pages as they are shown. Pictures of them go into `screenshots`."""
    from playwright.sync_api import sync_playwright

    with served(site) as address, sync_playwright() as playwright:
        # Chromium as root, as in a container, starts without a sandbox alone. The pages are ours.
        # Other sites have no address; to stop requests one by one would turn the cache off.
        alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", alone])
        for screen, options in SCREENS.items():
            context = chromium.new_context(color_scheme="light", **options)
            page = context.new_page()
            heard: list[tuple[str, str]] = []
            _listen(page, address, heard)
            for number, file in enumerate(pages):
                print(f"{screen}: {number} of {len(pages)}", end="\r", file=sys.stderr, flush=True)
                name = file.relative_to(site).as_posix()
                heard.clear()
                page.emulate_media(color_scheme="light")
                page.goto(address + name, wait_until="load")
                # Those further down are loaded when they come into sight.
                page.evaluate(_LOAD_IMAGES)
                # A color that is on its way from one theme to the other is no fault.
                page.add_style_tag(content="* { transition: none !important }")
                for theme in THEMES:
                    page.emulate_media(color_scheme=theme)
                    page.wait_for_function(_HAS_THEME, arg=theme)
                    width = options["viewport"]["width"]
                    look = {"width": width, "contrast": contrast}
                    for fault in page.evaluate(_LOOK, look):
                        yield Fault(f"{name} ({screen}, {theme})", *fault)
                    if screenshots:
                        stem = name.removesuffix(".html").replace("/", "-")
                        path = screenshots / f"{stem}.{screen}.{theme}.png"
                        page.screenshot(path=path, full_page=True)
                yield from (Fault(f"{name} ({screen})", *each) for each in heard)
            context.close()
        chromium.close()


def _listen(page: Any, address: str, heard: list[tuple[str, str]]) -> None:
    """Writes down what a page complains of, and what it asks other sites for, which it must not:
    a reader may be offline, and nobody else needs to know what he reads.
    """

    def asked(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            heard.append(("asks another site", request.url))

    def answered(response: Any) -> None:
        if response.status >= 400:
            heard.append(("failed request", f"{response.status} {response.url}"))

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            heard.append(("console", f"{message.type}: {message.text}"))

    page.on("request", asked)
    page.on("response", answered)
    page.on("console", said)
    page.on("pageerror", lambda error: heard.append(("script error", str(error))))
    page.on(
        "requestfailed",
        lambda request: (
            heard.append(("failed request", request.url))
            if request.url.startswith(address)
            else None
        ),
    )
