"""Every command of the README and of docs/ runs, or its comment says what it needs.

The convention is the readers' own: `# needs …` after a command. Such a command is not run; its verb
and its flags must exist. The rest runs in a folder of its own that holds the README.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "200",
}


class Command(NamedTuple):
    where: str
    line: str
    needs: str


def commands_of(path: Path) -> list[Command]:
    found = []
    for language, block in FENCE.findall(path.read_text("utf-8")):
        if language != "sh":
            continue
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            command, *comment = re.split(r"\s#\s*", line, maxsplit=1)
            needs = re.match(r"needs (.+)", comment[0]) if comment else None
            if command.strip():
                found.append(Command(path.name, command.strip(), needs[1] if needs else ""))
    return found


COMMANDS = [command for path in TEXTS for command in commands_of(path)]
RUN = [c for c in COMMANDS if not c.needs and not c.line.startswith("make ")]
NOT_RUN = [c for c in COMMANDS if c.needs and c.line.startswith("trimix-edge ")]


def ids(commands: list[Command]) -> list[str]:
    return [f"{c.where}: {c.line}" for c in commands]


@cache
def help_of(verb: str) -> str:
    done = subprocess.run(
        ["trimix-edge", verb, "--help"], capture_output=True, encoding="utf-8", env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_stand_in_blocks_that_are_found() -> None:
    for path in TEXTS:
        text = path.read_text("utf-8")
        outside = re.sub(FENCE, "", text)
        assert not re.search(r"^ {4,}(\.venv/bin/)?trimix-edge ", outside, re.MULTILINE)
        unmarked = [block for language, block in FENCE.findall(text) if not language]
        assert not [block for block in unmarked if "trimix-edge " in block], path.name
        assert ".venv/bin/trimix-edge" not in text, path.name
    assert len(RUN) >= 10
    assert {c.where for c in COMMANDS} >= {"README.md", "usage.md", "quantisation.md"}


@pytest.mark.parametrize("command", RUN, ids=ids(RUN))
def test_a_command_runs(command: Command, tmp_path: Path) -> None:
    shutil.copy(ROOT / "README.md", tmp_path)
    arguments = shlex.split(command.line)
    if arguments[:2] == ["python", "examples/dzongkha_trio/slices.py"]:
        arguments[1] = str(ROOT / arguments[1])
    done = subprocess.run(
        arguments, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300,
        env=ENVIRONMENT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", NOT_RUN, ids=ids(NOT_RUN))
def test_a_command_that_needs_something_has_a_verb_and_flags_that_exist(command: Command) -> None:
    _, verb, *rest = shlex.split(command.line)
    shown = help_of(verb)
    for flag in (argument.split("=")[0] for argument in rest if argument.startswith("--")):
        assert re.search(rf"{flag}\b", shown), f"{verb} has no {flag}"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.line.startswith("make ")], ids=str)
def test_a_target_exists(command: Command) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert command.line.split()[1] in targets


def test_the_loop_of_the_readme_is_the_example() -> None:
    blocks = FENCE.findall((ROOT / "README.md").read_text("utf-8"))
    (loop,) = [block for language, block in blocks if language == "python"]
    assert loop == (ROOT / "examples" / "loop.py").read_text("utf-8")


def test_the_output_of_the_readme_is_what_its_first_command_prints() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (shown,) = re.findall(r"^ {4}(\S*[\u0f40-\u0fbc].*)$", text, re.MULTILINE)
    first = next(c.line for c in RUN if c.line.startswith("trimix-edge generate"))
    done = subprocess.run(
        shlex.split(first), capture_output=True, encoding="utf-8", env=ENVIRONMENT, check=True
    )
    assert done.stdout.strip() == shown


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("machine", ["pi5-8gb", "laptop-ddr4"])
def test_the_needs_of_a_real_trio_are_what_plan_prints(machine: str) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(
        r"^\| (qwen\S+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", readme, re.MULTILINE
    )
    assert len(rows) == 3
    for preset, files, memory, *speeds in rows:
        done = subprocess.run(
            ["trimix-edge", "plan", preset, "--machine", machine],
            capture_output=True, encoding="utf-8", env=ENVIRONMENT, check=True,
        )  # fmt: skip
        (line,) = re.findall(r"^ *Q4_K_M .* f16 +(.+)$", done.stdout, re.MULTILINE)
        printed = re.split(r" {2,}", line.strip())
        speed = speeds[0 if machine == "pi5-8gb" else 1]
        assert [files, memory] == printed[:2]
        assert speed == f"{printed[4]}, {printed[6]}"
