"""One call: settings in, a folder of results and a report out."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimix_edge.config import Role
from trimix_edge.decoding.run import Generation
from trimix_edge.evaluate.plan import Plan, Progress, Settings
from trimix_edge.evaluate.report import read_run, report
from trimix_edge.evaluate.results import REPORT, REPORT_TEXT, ResultsFolder
from trimix_edge.evaluate.run import Note, predict
from trimix_edge.evaluate.show import markdown
from trimix_edge.evaluate.systems import System
from trimix_edge.llama import backend_info
from trimix_edge.trimix import TriMix


class TrioAnswerer:
    """A loaded trio, as the loop wants it."""

    def __init__(self, trimix: TriMix) -> None:
        self._trimix = trimix

    @property
    def n_ctx(self) -> int:
        return self._trimix.n_ctx

    def rewind(self, n_kept: int, system: System) -> None:
        """Forget what the system's models have read, but for its beginning."""
        self._trimix.forget(n_kept)

    def tokenize(self, prompt: str, *, chat: bool) -> list[int]:
        return self._trimix.tokenize(prompt, chat=chat)

    def generate(self, prompts: list[str], **options: Any) -> list[Generation]:
        return self._trimix.generate_all(prompts, **options)


def evaluate(
    settings: Settings,
    out: Path | None = None,
    *,
    force: bool = False,
    on_progress: Progress | None = None,
    on_folder: Callable[[Path], None] | None = None,
    on_note: Note | None = None,
) -> dict[str, Any]:
    """Evaluate, or go on where an evaluation of the same settings stopped.

    Args:
        out: the folder of results; None for one of this configuration's own, so that the same
            call finds it again.
        on_folder: called with the folder before the work begins.

    Returns:
        What ``report.json`` holds; see :func:`~trimix_edge.evaluate.report.report`.

    Raises:
        TriMixError: one of its kinds; nothing that was predicted is lost.
    """
    plan = Plan.make(settings, on_progress)
    # A manifest is anybody's file: its name must not lead out of the folder.
    name = re.sub(r"[^\w-]+", "-", settings.manifest.name)[:80]
    folder = out or Path("evaluations") / f"{name}-{plan.fingerprint}"
    results = ResultsFolder(folder, plan.configuration, force=force)
    results.describe(machine(settings), plan.skipped)
    if on_folder is not None:
        on_folder(folder)
    if on_note is not None:
        for text in plan.skipped:
            on_note(text)

    def load(stack: ExitStack) -> TrioAnswerer:
        manifest, roles = settings.manifest, {r for s in settings.systems for r in s.roles}

        def loading(role: Role, fraction: float) -> None:
            if on_progress is not None:
                on_progress(f"loading {role}", fraction, 1.0)

        trimix = TriMix.load(
            manifest.path,
            models=manifest.models,
            rule=settings.systems[0].rule,
            weights=settings.systems[0].options["weights"],
            context=replace(settings.context, reads="reads" in plan.configuration["context"]),
            n_parallel=settings.parallel,
            # As many threads as fit this moment's load would change the last bits of logits.
            n_threads=settings.context.n_threads or backend_info().physical_cores,
            roles=roles,
            on_progress=loading,
        )
        stack.enter_context(trimix)
        for system in settings.systems:  # kernels are compiled now, and on no item's time
            trimix.generate("0", chat=False, max_tokens=2, **system.options)
        return TrioAnswerer(trimix)

    predict(plan, results, load, on_progress, on_note)
    found = report(read_run(folder), settings.selection.seed, judge=settings.judge)
    results.write(REPORT, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    results.write(REPORT_TEXT, markdown(found))
    return found


def machine(settings: Settings) -> dict[str, Any]:
    """Where it runs: of no effect on what is predicted, but on the seconds."""
    info = backend_info()
    return {
        "python": platform.python_version(),
        "os": platform.system(),
        "architecture": platform.machine(),
        "physical_cores": info.physical_cores,
        "threads": settings.context.n_threads or info.physical_cores,
        "features": sorted(name for name, on in info.features.items() if on == "1"),
        "devices": [text for _, text in info.devices],
    }
