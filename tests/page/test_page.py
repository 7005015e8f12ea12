"""The page in a real browser: it sends, streams and stops, and shows what fusion does."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from page.asking import ask, last, lines
from server.fake_engine import FakeEngine
from server.running import Running, running, until


def weights(page: Any) -> str:
    return str(page.locator(".point").get_attribute("aria-valuetext"))


def test_a_message_is_sent_and_its_answer_shown(page: Any) -> None:
    assert ask(page, "hello there").inner_text() == "HELLO THERE"
    assert page.locator("#conversations li").count() == 1
    assert "tokens/s" in page.locator(".message.assistant .tools").inner_text()


def test_an_answer_streams_without_being_rendered_again(page: Any, scripted: Running) -> None:
    page.fill("#input", "x" * 300)
    page.press("#input", "Enter")
    page.wait_for_selector(".message.running .token")
    page.evaluate("window.first = document.querySelector('.message.running .token')")
    early = len(last(page).inner_text())
    page.wait_for_selector("#send", state="visible")
    assert early < 300
    assert last(page).inner_text() == "X" * 300
    assert page.evaluate("window.first.isConnected")


def test_stop_ends_the_generation_on_the_server_too(page: Any, scripted: Running) -> None:
    page.fill("#input", "y" * 2000)
    page.press("#input", "Enter")
    page.wait_for_selector(".message.running .token")
    page.click("#stop")
    page.wait_for_selector("#send", state="visible")
    assert 0 < len(last(page).inner_text()) < 2000
    assert "stopped" in page.locator(".message.assistant .tools").inner_text()
    until(lambda: "requests_running 0" in httpx.get(scripted.url + "/metrics").text)


def test_an_answer_is_regenerated_and_a_message_edited(page: Any) -> None:
    ask(page, "one")
    ask(page, "two")
    page.click(".message.user >> nth=0 >> text=Edit")
    page.fill(".message.user textarea", "three")
    page.click("text=Send again")
    page.wait_for_selector("#send", state="visible")
    assert page.locator(".message .text").all_inner_texts() == ["three", "THREE"]
    page.click("text=Regenerate")
    page.wait_for_selector("#send", state="visible")
    assert page.locator(".message .text").all_inner_texts() == ["three", "THREE"]


def test_enter_while_an_input_method_composes_does_not_send(page: Any) -> None:
    page.fill("#input", "བོད")
    page.evaluate(
        """() => document.getElementById('input').dispatchEvent(new KeyboardEvent('keydown',
           { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }))"""
    )
    page.evaluate(
        """() => document.getElementById('input').dispatchEvent(new KeyboardEvent('keydown',
           { key: 'Enter', keyCode: 229, bubbles: true, cancelable: true }))"""
    )
    page.press("#input", "Shift+Enter")
    assert page.locator(".message").count() == 0
    assert page.input_value("#input").startswith("བོད")


def test_what_a_model_says_is_never_html(browser: Any) -> None:
    said = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>&lt;b&gt; **x**'
    with running(lambda: FakeEngine(says=said)) as server:
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(server.url)
        assert ask(opened, said).inner_text() == said
        opened.reload()
        opened.wait_for_selector(".message")
        assert last(opened).inner_text() == said
        assert opened.locator(".message img, .message script").count() == 0
        assert opened.evaluate("window.hit") is None
        context.close()


def test_the_point_is_dragged_with_the_mouse(page: Any) -> None:
    box = page.locator(".triangle").bounding_box()
    start = page.locator(".point").bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.6, steps=4)
    page.mouse.up()
    between = weights(page)
    large, cpt = (float(part.split()[1]) for part in between.split(", ")[:2])
    assert abs(large - cpt) < 0.05
    assert 0 < large < 0.5
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.6)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] - 200, steps=4)
    page.mouse.up()
    assert weights(page) == "large_ins 1.00, small_cpt 1.00, small_base −1.00"
    assert page.inner_text("#mark-text") == "Proxy Tuning"


def test_the_point_is_moved_with_the_keyboard(page: Any) -> None:
    page.locator(".point").focus()
    before = weights(page)
    page.keyboard.press("ArrowLeft")
    assert weights(page) == "large_ins 0.15, small_cpt 0.85, small_base 0.00"
    page.keyboard.press("ArrowRight")
    assert weights(page) == before
    page.keyboard.press("Shift+ArrowUp")
    assert weights(page) == "large_ins 0.11, small_cpt 0.91, small_base −0.02"


def test_the_point_sets_the_weights_of_the_next_answer(page: Any, scripted: Running) -> None:
    page.locator(".point").focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    ask(page, "weights")
    assert scripted.engine.submitted[-1].options["weights"] == (1.0, 0.0)


def test_weights_chosen_by_prompt_show_where_they_lie(page: Any, scripted: Running) -> None:
    page.click("[data-mode=auto]")
    ask(page, "auto")
    assert scripted.engine.submitted[-1].options["weights"] == "auto"
    assert page.locator(".seen .last").count() == 1
    assert "0.90" in page.inner_text("#weights-text")
    page.reload()
    page.wait_for_selector(".seen .last", state="attached")
    assert page.get_attribute("[data-mode=auto]", "aria-checked") == "true"


def test_tokens_are_tinted_and_the_switch_takes_the_tint_away(page: Any) -> None:
    ask(page, "tint these letters please")
    tokens = page.locator(".message.assistant .token")
    roles = {tokens.nth(i).get_attribute("data-role") for i in range(tokens.count())}
    assert roles == {"large_ins", "small_cpt", "small_base"}
    colour = "el => getComputedStyle(el).backgroundColor"
    seen = {tokens.nth(i).evaluate(colour) for i in range(tokens.count())}
    assert len(seen) == 3
    page.click("#show-shares")
    assert tokens.first.evaluate(colour) == "rgba(0, 0, 0, 0)"


def test_a_card_tells_what_each_model_would_have_said(page: Any) -> None:
    ask(page, "card")
    page.locator(".message.assistant .token").nth(1).hover()
    card = page.locator("#card")
    card.wait_for(state="visible")
    text = card.inner_text()
    for word in ("large_ins", "small_cpt", "small_base", "fused", "60 %", "61 %"):
        assert word in text
    box = card.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    page.mouse.move(5, 5)
    card.wait_for(state="hidden")
    page.locator(".message.assistant .text").focus()
    page.keyboard.press("ArrowRight")
    card.wait_for(state="visible")
    page.keyboard.press("Escape")
    card.wait_for(state="hidden")


def test_four_systems_answer_side_by_side(page: Any, scripted: Running) -> None:
    page.click("[data-view=compare] >> nth=-1")
    page.fill("#compare-input", "four at once")
    page.press("#compare-input", "Enter")
    page.wait_for_selector("#compare-run", state="visible")
    assert page.locator(".column .text").all_inner_texts() == ["FOUR AT ONCE"] * 4
    assert all("characters/s" in text for text in page.locator(".speed").all_inner_texts())
    asked = [run.options.get("rule") for run in scripted.engine.submitted[-4:]]
    assert sorted(map(str, asked)) == ["None", "proxy", "single:large_ins", "single:small_cpt"]
    boxes = [page.locator(".column").nth(i).bounding_box() for i in range(4)]
    assert len({box["y"] for box in boxes}) == 1
    assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))


def test_a_text_is_completed_without_a_template(page: Any, scripted: Running) -> None:
    page.click("[role=tab][data-view=complete]")
    page.fill("#complete-input", "raw text")
    page.click("#complete-run")
    page.wait_for_selector("#complete-take", state="visible")
    assert page.inner_text("#complete-output .text") == "RAW TEXT"
    assert bytes(scripted.engine.submitted[-1].prompt_token_ids) == b"raw text"
    page.click("#complete-take")
    assert page.input_value("#complete-input") == "raw textRAW TEXT"


def test_settings_and_the_system_message_are_sent(page: Any, scripted: Running) -> None:
    page.click("summary")
    page.fill("#system", "be brief")
    page.fill("#set-temperature", "0.7")
    page.fill("#set-seed", "5")
    ask(page, "hello")
    run = scripted.engine.submitted[-1]
    assert (run.options["temperature"], run.options["seed"]) == (0.7, 5)
    assert bytes(run.prompt_token_ids).startswith(b"<system>be brief<user>")


def test_conversations_outlive_the_page_and_travel_as_json(page: Any, tmp_path: Path) -> None:
    ask(page, "remember me")
    with page.expect_download() as download:
        page.click("#export")
    file = tmp_path / "kept.json"
    download.value.save_as(file)
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert kept["conversations"][0]["messages"][1]["content"] == "REMEMBER ME"
    page.reload()
    page.wait_for_selector(".message")
    assert last(page).inner_text() == "REMEMBER ME"
    assert page.locator(".message.assistant .token[data-role]").count() > 0
    page.evaluate("localStorage.clear()")
    page.reload()
    assert page.locator("#conversations li").count() == 0
    page.set_input_files("#import-file", file)
    page.wait_for_selector("#conversations li")
    page.set_input_files("#import-file", {"name": "x", "mimeType": "", "buffer": b"nonsense"})
    page.wait_for_selector("#banner:text('not JSON')")
    assert page.locator("#conversations li").count() == 1


def test_the_page_stays_usable_when_the_server_is_away(browser: Any) -> None:
    with running(FakeEngine) as server:
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(server.url)
        ask(opened, "kept")
    opened.fill("#input", "lost")
    opened.press("#input", "Enter")
    opened.wait_for_selector("#banner:text('does not answer')")
    assert opened.locator(".message .text").first.inner_text() == "kept"
    assert "does not answer" in opened.locator(".message.assistant .tools").last.inner_text()
    opened.click("#new-chat")
    assert opened.locator("#conversations li").count() == 1
    context.close()


def test_right_to_left_text_begins_at_the_right(page: Any) -> None:
    page.click("#show-shares")
    text = ask(page, "ئۇيغۇر تىلى.")
    box = text.bounding_box()
    first, stop = page.evaluate(
        """() => {
          const node = [...document.querySelectorAll('.message.assistant .text')].at(-1);
          const texts = [];
          const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) texts.push(walker.currentNode);
          const at = (text, i) => {
            const range = document.createRange();
            range.setStart(text, i);
            range.setEnd(text, i + 1);
            return range.getBoundingClientRect();
          };
          const end = texts.at(-1);
          return [at(texts[0], 0).right, at(end, end.length - 1).left];
        }"""
    )
    assert abs(box["x"] + box["width"] - first) < 20
    assert stop < first - 40  # the full stop is at the left end


def test_traditional_mongolian_runs_from_top_to_bottom(page: Any) -> None:
    text = ask(page, "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ ᠦᠨ ᠬᠡᠯᠡ")
    assert text.evaluate("el => getComputedStyle(el).writingMode") == "vertical-lr"
    box = text.bounding_box()
    assert box["height"] > box["width"]
    tops = page.locator(".message.assistant .token").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    assert tops[-1] > tops[0] + 40


def test_tibetan_lines_break_after_the_tsheg(phone: Any) -> None:
    ask(phone, "བོད་ཀྱི་སྐད་ཡིག་ནི་བོད་མི་རྣམས་ཀྱི་སྐད་ཡིག་ཡིན།" * 4)
    found = lines(phone, ".message.assistant .text")
    assert len(found) > 3
    assert all(line.endswith(("་", "།")) for line in found)


def test_a_phone_shows_everything_without_scrolling_sideways(phone: Any) -> None:
    assert ask(phone, "hello").inner_text() == "HELLO"
    wide = "document.documentElement.scrollWidth <= innerWidth"
    assert phone.evaluate(wide)
    phone.tap("#open-panel")
    point = phone.locator(".point").bounding_box()
    assert 0 <= point["x"] <= 390
    before = weights(phone)
    triangle = phone.locator(".triangle").bounding_box()
    phone.touchscreen.tap(
        triangle["x"] + triangle["width"] / 2, triangle["y"] + triangle["height"] * 0.62
    )
    assert weights(phone) != before
    phone.tap("#shade", position={"x": 10, "y": 400})
    phone.locator(".message.assistant .token").first.tap()
    box = phone.locator("#card").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert phone.evaluate(wide)


def test_light_and_dark_follow_the_system(browser: Any, scripted: Running) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        opened = context.new_page()
        opened.goto(scripted.url)
        grounds.append(
            opened.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()")
        )
        context.close()
    light, dark = (sum(map(int, ground.split(","))) for ground in grounds)
    assert light > 600 > 150 > dark


def test_a_server_that_wants_a_key_is_given_one(browser: Any) -> None:
    from trimix_edge.server.security import Access

    with running(FakeEngine, Access(keys=("secret",))) as server:
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(server.url)
        opened.wait_for_selector("#banner:text('key')")
        opened.fill("#key", "secret")
        opened.press("#key", "Tab")
        opened.wait_for_selector("#trio-name:text('fake')")
        opened.keyboard.press("Escape")
        assert ask(opened, "open").inner_text() == "OPEN"
        context.close()
