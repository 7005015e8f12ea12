"""What all tests share, their child processes too: a cache folder of their own, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import tempfile

# A shell starts what runs in the background with SIGINT ignored, and children inherit that: tests
# of Ctrl-C would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["TRIMIX_EDGE_CACHE"] = tempfile.mkdtemp(prefix="trimix-edge-tests-")
