"""Conversations in a real browser: in two tabs, left and opened again, copied."""

from __future__ import annotations

from typing import Any

from page.asking import ask, last
from server.fake_engine import FakeEngine
from server.running import Running, running

from trimix_edge.config import RuleChoice


def test_a_second_tab_takes_up_what_the_first_saves(page: Any, scripted: Running) -> None:
    ask(page, "one")
    other = page.context.new_page()
    other.goto(scripted.url)
    other.wait_for_selector(".message")
    ask(page, "two")
    other.locator(".message").nth(3).wait_for()
    page.click("#new-chat")
    ask(page, "three")
    other.locator("#conversations li").nth(1).wait_for()
    other.click("text=Entropy")  # saves
    page.reload()
    page.wait_for_selector(".message")
    assert page.locator("#conversations li").count() == 2
    assert last(page).inner_text() == "THREE"
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#conversations li button.icon").last.click()
    other.wait_for_selector(".message", state="detached")
    assert other.locator("#conversations li").count() == 1


def test_another_tab_does_not_touch_an_answer_that_is_being_written(
    page: Any, scripted: Running
) -> None:
    other = page.context.new_page()
    other.goto(scripted.url)
    page.fill("#input", "z" * 400)
    page.press("#input", "Enter")
    page.wait_for_selector(".message.running .token")
    ask(other, "hello")
    page.locator("#conversations li").nth(1).wait_for()
    page.wait_for_selector("#send", state="visible")
    assert last(page).inner_text() == "Z" * 400
    other.locator("#conversations li").nth(1).wait_for()


def test_the_open_conversation_can_be_clicked_while_it_answers(page: Any) -> None:
    page.fill("#input", "w" * 300)
    page.press("#input", "Enter")
    page.wait_for_selector(".message.running .token")
    page.click("#conversations li button >> nth=0")
    page.wait_for_selector("#send", state="visible")
    assert last(page).inner_text() == "W" * 300


def test_an_answer_that_was_left_is_there_when_it_is_opened_again(page: Any) -> None:
    ask(page, "first")
    page.click("#new-chat")
    page.fill("#input", "v" * 1000)
    page.press("#input", "Enter")
    page.wait_for_selector(".message.running .token")
    page.evaluate(
        """() => {
          const open = (n) => document.querySelectorAll('#conversations li')[n].firstChild.click();
          open(1);
          open(0);
        }"""
    )
    page.wait_for_selector("#send", state="visible")
    assert 0 < len(last(page).inner_text()) < 1000


def test_an_answer_is_copied_where_the_browser_gives_no_clipboard(
    browser: Any, scripted: Running
) -> None:
    """As for every other machine of a classroom, which asks over plain HTTP."""
    context = browser.new_context()
    opened = context.new_page()
    opened.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', {value: null})")
    opened.goto(scripted.url)
    ask(opened, "copy me")
    opened.click("button:text-is('Copy')")
    opened.focus("#input")
    opened.keyboard.press("Control+V")
    assert opened.input_value("#input") == "COPY ME"
    context.close()


def test_the_rule_that_the_server_was_started_with_is_named(browser: Any) -> None:
    class Averaging(FakeEngine):
        def __init__(self) -> None:
            super().__init__()
            self.rule = RuleChoice("average")

    with running(Averaging) as server:
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(server.url)
        opened.wait_for_selector("#weights-text:text('as the server was started: average')")
        opened.focus(".point")
        opened.keyboard.press("ArrowLeft")
        assert "large_ins" in opened.inner_text("#weights-text")
        context.close()
