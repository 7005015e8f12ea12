"""The process that renders templates: bounded by itself, and gone when it should be."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from trimix_edge.decoding import templates
from trimix_edge.decoding.chat import Message, render_chat
from trimix_edge.decoding.templates import TemplateRenderer, renderer
from trimix_edge.errors import TemplateError

USER: list[Message] = [{"role": "user", "content": "x"}]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def own() -> Iterator[TemplateRenderer]:
    """A renderer with a child of its own."""
    renderer = TemplateRenderer()
    yield renderer
    renderer.close()


def child_of(renderer: TemplateRenderer) -> psutil.Process:
    assert renderer._child is not None
    return psutil.Process(renderer._child._process.pid)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MAX_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
def test_a_template_that_does_not_end_is_stopped_and_the_next_one_rendered(
    own: TemplateRenderer,
) -> None:
    with pytest.raises(TemplateError, match=r"does not end: it was stopped after 0\.5 seconds"):
        own.render(ENDLESS, {})
    assert own.render("{{ x }}", {"x": "ཀ"}) == "ཀ"


@pytest.mark.usefixtures("impatient")
def test_threads_share_the_renderer_and_each_gets_its_own_text() -> None:
    """Also while some of their templates have no end."""
    found: dict[int, str] = {}

    def render(i: int) -> None:
        if i % 4 == 0:
            with pytest.raises(TemplateError, match="does not end"):
                render_chat(ENDLESS, USER)
            found[i] = str(i)
        else:
            found[i] = render_chat(
                "{{ messages[0].content }}", [{"role": "user", "content": f"{i}"}]
            )

    threads = [threading.Thread(target=render, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: str(i) for i in range(12)}


def test_this_process_keeps_its_address_space() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    seen = []

    def look() -> None:
        while not done.is_set():
            seen.append(resource.getrlimit(resource.RLIMIT_AS))
            time.sleep(0.001)

    done = threading.Event()
    thread = threading.Thread(target=look)
    thread.start()
    with pytest.raises(TemplateError, match="memory"):
        render_chat("{{ 'a'.ljust(10000000000) }}", USER)
    done.set()
    thread.join()
    assert set(seen) == {before}


def test_the_parent_watches_the_memory_where_the_system_does_not(
    own: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.render("", {})
    monkeypatch.setattr(templates, "MAX_MEMORY", child_of(own).memory_info().rss // 2)
    with pytest.raises(TemplateError, match="memory"):
        own.render(ENDLESS, {})


def test_one_child_renders_many_templates_and_knows_no_secrets(
    own: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    for i in range(5):
        assert own.render("{{ i }}", {"i": i}) == str(i)
    first = child_of(own)
    assert "HF_TOKEN" not in first.environ()
    with pytest.raises(TemplateError):
        own.render("{{ raise_exception('no') }}", {})
    assert child_of(own) == first, "a refusal is no damage"


def test_a_child_that_has_died_is_replaced(own: TemplateRenderer) -> None:
    own.render("a", {})
    first = child_of(own)
    first.kill()
    first.wait()
    assert own.render("b", {}) == "b"
    assert child_of(own) != first


def test_a_child_that_cannot_be_started_is_told(
    own: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    own.warm_up()
    with pytest.raises(TemplateError, match="can't be started: No such file"):
        own.render("a", {})
    monkeypatch.undo()
    own.warm_up()
    first = child_of(own)
    assert own.render("a", {}) == "a"
    assert child_of(own) == first


def test_a_fork_starts_a_child_of_its_own() -> None:
    renderer.render("a", {})
    ours = child_of(renderer).pid
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            assert renderer.render("b", {}) == "b"
            os.write(writer, str(child_of(renderer).pid).encode())
            renderer.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert int(os.read(reader, 20)) != ours
    assert renderer.render("c", {}) == "c"
    assert child_of(renderer).pid == ours
