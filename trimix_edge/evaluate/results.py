"""A folder of results: one line a prediction, resumed after any end, never mixed.

DIR/run.json                          the configuration, and the machine
DIR/predictions/SYSTEM/CELL.jsonl     a line an item, in the order of the data
DIR/hosts.json                        of a rule that chooses on dev data, what it chose
DIR/report.json  DIR/report.md

Of two runs of the same configuration, ended or resumed anyhow, all bytes are the same but what
stands under ``seconds`` and ``speed``, and the machine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trimix_edge.errors import EvaluationError, TargetError
from trimix_edge.files import replacing

RUN, REPORT, REPORT_TEXT, PREDICTIONS = "run.json", "report.json", "report.md", "predictions"
HOSTS = "hosts.json"
FORMAT = 1


@dataclass(frozen=True)
class Prediction:
    """What became of an item.

    Attributes:
        shots: exemplars in its prompt.
        n_prompt, n_tokens: tokens of the prompt, and generated ones.
        n_options: how many letters it could answer with.
        weights: of large_ins, small_cpt and small_base, where it was fused with such.
        finish_reason: as of a generation; ``overflow`` if even the bare prompt does not fit.
        seconds: of its prompt and of its generation.
        n_evaluated: tokens of the prompt that were computed for it, the others being kept from a
            prompt before; None of a run that did not say.
        chosen_by: how the weights were chosen for this prompt, where they were.
        prompt: the text, before any chat template; None where prompts are not kept.
    """

    id: str
    shots: int
    n_prompt: int
    n_tokens: int
    output: str
    reference: str
    n_options: int
    weights: list[float] | None
    finish_reason: str | None
    seconds: dict[str, float]
    n_evaluated: int | None = None
    prompt: str | None = None
    chosen_by: str | None = None

    def line(self) -> bytes:
        content = asdict(self)
        for name in _OPTIONAL:
            if content[name] is None:
                del content[name]
        return json.dumps(content, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Prediction:
        """Read a line.

        Raises:
            ValueError: it is not one that :meth:`line` wrote.
        """
        content = json.loads(line)
        known = cls.__dataclass_fields__.keys()
        if not isinstance(content, dict) or content.keys() | _OPTIONAL != known:
            raise ValueError
        found = cls(**content)
        texts = (found.id, found.output, found.reference)
        counts = (found.shots, found.n_prompt, found.n_tokens, found.n_options)
        weights = [0.0, 0.0, 0.0] if found.weights is None else found.weights
        if (
            not all(isinstance(text, str) for text in texts)
            or not all(isinstance(count, int) for count in counts)
            or not isinstance(found.finish_reason, str | None)
            or not isinstance(found.n_evaluated, int | None)
            or not isinstance(found.prompt, str | None)
            or not isinstance(found.chosen_by, str | None)
            or found.seconds.keys() != {"prompt", "generation"}
            or not isinstance(weights, list)
            or len(weights) != 3
            or not all(isinstance(n, int | float) for n in (*weights, *found.seconds.values()))
        ):
            raise ValueError
        return found


_OPTIONAL = frozenset({"n_evaluated", "prompt", "chosen_by"})


class Log:
    """The predictions of a system on a cell, appended one by one.

    Args:
        ids: the items' ids, in order; what is in the file must be the beginning of them.

    Raises:
        EvaluationError: the file holds something else, or another process writes it.
        TargetError: it can't be written.
    """

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self._path = path
        self.predictions: list[Prediction] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("ab", buffering=0)
        except OSError as error:
            raise TargetError(f"{path}: {error.strerror or error}") from None
        try:
            self._lock()
            self._resume(ids)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        """Hold the file alone while it is open; another process would write the same lines."""
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"{self._path} is being written by another evaluation: wait until it ends"
            ) from None
        except OSError:  # a network's file system may know no locks
            return

    def _resume(self, ids: Sequence[str]) -> None:
        self.predictions, whole = read_predictions(self._path)
        found = [prediction.id for prediction in self.predictions]
        if found != list(ids[: len(found)]):
            raise EvaluationError(
                f"{self._path} holds predictions for other items: choose another --out, or begin "
                f"again with --force"
            )
        self._file.truncate(whole)

    def append(self, prediction: Prediction) -> None:
        """Write a line, at once and whole.

        Raises:
            TargetError: the disk takes no more.
        """
        line = prediction.line()
        try:
            written = self._file.write(line)
        except OSError as error:
            raise TargetError(f"{self._path}: {error.strerror or error}") from None
        if written != len(line):
            raise TargetError(f"{self._path}: the disk is full")
        self.predictions.append(prediction)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def read_predictions(path: Path) -> tuple[list[Prediction], int]:
    """The predictions in a file, and the bytes that they take; half a last line is no prediction.

    Raises:
        EvaluationError: a line before the last is damaged, or the file can't be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror or error}") from None
    lines = data.split(b"\n")[:-1]
    found: list[Prediction] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Prediction.parse(line))
        except (ValueError, TypeError, AttributeError, RecursionError):
            if number == len(lines):  # torn by a power cut, perhaps: it is done again
                break
            raise EvaluationError(
                f"{path}, line {number} is damaged: delete the file, or begin again with --force"
            ) from None
    return found, sum(len(line) + 1 for line in lines[: len(found)])


class ResultsFolder:
    """Owner of a folder of results.

    Raises:
        EvaluationError: it holds something else, or results of another configuration, and
            ``force`` is off.
        TargetError: it can't be made, or not be changed.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], *, force: bool) -> None:
        self.path = path
        self._configuration = dict(configuration)
        try:
            self._check(force)
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TargetError(f"{path} can't be used: {error.strerror or error}") from None

    def _check(self, force: bool) -> None:
        path = self.path
        if path.is_dir():
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise TargetError(f"{path}: no permission to read and write there")
            self._sweep()
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not (path / RUN).is_file():
            raise EvaluationError(f"{path} is no folder of results: choose another --out")
        if force:
            self._clear()
            return
        held = read_json(path / RUN).get("configuration")
        if not isinstance(held, dict):
            raise EvaluationError(f"{path / RUN} is damaged: begin again with --force")
        if held != _through_json(self._configuration):
            what = difference(held, self._configuration)
            raise EvaluationError(
                f"{path} holds results of another configuration: {what}; choose another --out, or "
                f"begin again with --force"
            )

    def _sweep(self) -> None:
        """Remove the scratch files of a run that was killed while it wrote."""
        for name in (REPORT, REPORT_TEXT, RUN, HOSTS):
            for scratch in self.path.glob(f".{name}.*.part"):
                scratch.unlink(missing_ok=True)

    def _clear(self) -> None:
        kept = (self.path / name for name in (REPORT, REPORT_TEXT, HOSTS, RUN))
        for file in (*(self.path / PREDICTIONS).glob("*/*.jsonl"), *kept):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise TargetError(f"{file} can't be deleted: {error.strerror or error}") from None

    def describe(self, machine: Mapping[str, Any], skipped: Sequence[str] = ()) -> None:
        """Write ``run.json``; what was skipped is of no effect on what is predicted."""
        content = {"format": FORMAT, "configuration": self._configuration, "machine": machine}
        if skipped:
            content["skipped"] = list(skipped)
        self.write(RUN, json.dumps(content, ensure_ascii=False, indent=1) + "\n")

    def log(self, system: str, cell: str, ids: Sequence[str]) -> Log:
        """See :class:`Log`."""
        return Log(predictions_path(self.path, system, cell), ids)

    def write(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        with replacing(self.path / name) as scratch:
            scratch.write_text(text, encoding="utf-8")


def predictions_path(folder: Path, system: str, cell: str) -> Path:
    return folder / PREDICTIONS / system.replace(":", "-").replace(os.sep, "-") / f"{cell}.jsonl"


def read_json(path: Path) -> dict[str, Any]:
    """An object out of a file.

    Raises:
        EvaluationError: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise EvaluationError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} is damaged: it is not an object")
    return content


def difference(held: object, wanted: object, name: str = "") -> str:
    """The first thing that two configurations do not share, in words; empty if they do."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in (*wanted, *(k for k in held if k not in wanted)):
            inner = f"{name}.{key}" if name else str(key)
            found = difference(held.get(key), wanted.get(key), inner)
            if found:
                return found
        return ""
    if _through_json(held) == _through_json(wanted):
        return ""
    return f"{name} was {_short(held)}, is {_short(wanted)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _through_json(value: object) -> Any:
    return json.loads(json.dumps(value))
