"""What the page's tests do again and again."""

from __future__ import annotations

from typing import Any


def ask(page: Any, text: str) -> Any:
    """Send a message and wait for the answer; returns its text element."""
    page.fill("#input", text)
    page.press("#input", "Enter")
    page.wait_for_selector("#send", state="visible")
    return last(page)


def last(page: Any) -> Any:
    return page.locator(".message.assistant .text").last


def lines(page: Any, selector: str) -> list[str]:
    """The lines of a text as the browser has broken them, by the boxes of its characters."""
    found: list[str] = page.evaluate(
        """(selector) => {
          const node = [...document.querySelectorAll(selector)].at(-1);
          const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
          const lines = [];
          let top = null;
          while (walker.nextNode()) {
            const text = walker.currentNode;
            for (let i = 0; i < text.length; i++) {
              const range = document.createRange();
              range.setStart(text, i);
              range.setEnd(text, i + 1);
              const box = range.getClientRects()[0];
              const placed = box && box.width;
              if (placed && (top === null || Math.abs(box.top - top) > 8)) {
                lines.push('');
                top = box.top;
              }
              if (lines.length) lines.push(lines.pop() + text.data[i]);
            }
          }
          return lines;
        }""",
        selector,
    )
    return found
