"""What all tests share: a cache folder of their own, for their child processes too."""

from __future__ import annotations

import os
import tempfile

os.environ["TRIMIX_EDGE_CACHE"] = tempfile.mkdtemp(prefix="trimix-edge-tests-")
