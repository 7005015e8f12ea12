"""What was said in ``trimix-edge chat``, and the commands that are about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trimix_edge.errors import TargetError, UsageError
from trimix_edge.files import check_target, replacing

if TYPE_CHECKING:
    from trimix_edge.decoding.chat import Message

HELP = """\
/reset        forget the conversation, but for the system message
/system TEXT  set the system message; without a text, take it away
/save FILE    write the conversation into a new file, as JSON
/help         show this
/exit         leave; so does Ctrl-D
A line that begins with // is sent with one /. Ctrl-C interrupts an answer."""


class Conversation:
    """The messages so far.

    Attributes:
        messages: what the model is given, the system message first if there is one.
        is_over: whether ``/exit`` was given.
    """

    def __init__(self, system: str | None, tell: Callable[[str], None]) -> None:
        self.messages: list[Message] = []
        self.is_over = False
        self._tell = tell
        self._set_system(system or "")

    def obey(self, line: str) -> bool:
        """Follow a line that is a command; False for one that is a message."""
        if not line.startswith("/") or line.startswith("//"):
            return False
        name, _, argument = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._set_system,
            "/save": self._save,
            "/help": lambda _: self._tell(HELP),
            "/exit": self._leave,
            "/quit": self._leave,
        }
        try:
            if name not in commands:
                raise UsageError(f"there is no command {name}: /help lists them")
            commands[name](argument.strip())
        except (TargetError, UsageError) as error:
            self._tell(str(error))
        return True

    def ask(self, line: str) -> None:
        """Add a message of the user."""
        text = line[1:] if line.startswith("//") else line
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add what the model said."""
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Forget the last message."""
        self.messages.pop()

    @property
    def _system(self) -> list[Message]:
        return [message for message in self.messages[:1] if message["role"] == "system"]

    def _reset(self, argument: str) -> None:
        self.messages = self._system

    def _set_system(self, text: str) -> None:
        rest = self.messages[len(self._system) :]
        system: Message = {"role": "system", "content": text}
        self.messages = [system, *rest] if text else rest

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("/save needs the name of a file")
        target = Path(name).expanduser()
        if target.exists():
            raise TargetError(f"{target} exists: choose another name")
        check_target(target, overwrite=False)
        with replacing(target) as scratch:
            text = json.dumps(self.messages, ensure_ascii=False, indent=1)
            scratch.write_text(text + "\n", encoding="utf-8")
        self._tell(f"{len(self.messages)} messages saved in {target}")

    def _leave(self, argument: str) -> None:
        self.is_over = True
