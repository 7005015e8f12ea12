"""Turn the trained checkpoints into the GGUF files of a trio.

python convert.py --to ../../trimix_edge/trios/dzongkha
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import Progress
from trimix_convert import convert_checkpoint

from trimix_edge import Role

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--to", type=Path, default=HERE / "work" / "trio", metavar="DIR")
    parser.add_argument("--outtype", default="q8_0")
    args = parser.parse_args()

    args.to.mkdir(parents=True, exist_ok=True)
    reports = []
    with Progress() as progress:
        for role in Role:
            task = progress.add_task(str(role))
            reports.append(
                convert_checkpoint(
                    args.work / role.value,
                    args.to / f"{role}.gguf",
                    outtype=args.outtype,
                    progress=lambda done, total, task=task: progress.update(
                        task, completed=done, total=total
                    ),
                )
            )
    for report in reports:
        print(f"{report.target.name:16} {report.n_parameters / 1e6:6.2f} M parameters "
              f"{report.target.stat().st_size / 1e6:6.2f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
