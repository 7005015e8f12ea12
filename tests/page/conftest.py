"""A real Chromium, a real server. Everything is skipped where Chromium is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from server.fake_engine import FakeEngine
from server.running import Running, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE = {"width": 390, "height": 800}
DESK = {"width": 1280, "height": 800}


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def scripted() -> Iterator[Running]:
    """A server that says the last message back in capitals, a byte a token."""
    with running(lambda: FakeEngine(delay=0.004)) as server:
        yield server


class Watch:
    """What a page has complained of, and whom it has asked."""

    def __init__(self, page: Any) -> None:
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type == "error" else None,
        )
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))


@pytest.fixture
def page(browser: Any, scripted: Running) -> Iterator[Any]:
    """The page on a desk; fails the test if it logs an error or asks another server."""
    context = browser.new_context(viewport=DESK, reduced_motion="reduce")
    opened = context.new_page()
    watch = Watch(opened)
    opened.goto(scripted.url)
    opened.wait_for_selector("#trio-name:text('fake')")
    yield opened
    context.close()
    assert watch.errors == []
    assert watch.hosts == {f"127.0.0.1:{scripted.port}"}


@pytest.fixture
def phone(browser: Any, scripted: Running) -> Iterator[Any]:
    context = browser.new_context(
        viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True
    )
    opened = context.new_page()
    watch = Watch(opened)
    opened.goto(scripted.url)
    opened.wait_for_selector("#composer")
    yield opened
    context.close()
    assert watch.errors == []
