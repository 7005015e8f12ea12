"""Where compiled kernels are kept, or not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import trimix_kernels

PROGRAM = """
import numpy as np
from trimix_kernels import argmax, is_cached

best = np.empty(1, np.int32)
argmax(np.array([[0.0, 2.0, 1.0]], np.float32), best)
print(best[0], is_cached(argmax))
"""


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_kernels_run_where_no_folder_can_be_written(tmp_path: Path) -> None:
    """As in a container that is read-only. A file in the place of a folder stops root too."""
    package = tmp_path / "trimix_kernels"
    source = Path(trimix_kernels.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    home = str(tmp_path / "home")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": path, "HOME": home, "XDG_CACHE_HOME": home},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stdout, done.returncode) == ("1 False\n", 0), done.stderr
