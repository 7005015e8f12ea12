"""How many threads llama.cpp computes with, where other programs want the cores too.

Threads wait for each other some hundred times a token. Where another program has taken a core, each
wait can take milliseconds, and one thread alone is many times faster than two. So the clock decides
(:class:`~trimix_edge.decoding.bandit.EpsilonGreedy`): all cores, half of them, ..., one.
"""

from __future__ import annotations

from collections.abc import Hashable

from trimix_edge.decoding.bandit import EpsilonGreedy

_FADE = 1.01
"""A fastest time that is never reached again, as a context has grown, is forgotten in the end."""


class ThreadCount:
    """Chooses the number of threads of each decode.

    Decodes of different kinds are compared by their share of the fastest time of their kind.

    Args:
        most: physical cores.
        fixed: whether this many are used always.
    """

    def __init__(self, most: int, *, fixed: bool) -> None:
        counts = [most]
        while counts[-1] > 1 and not fixed:
            counts.append(counts[-1] // 2)
        self._most = most
        self.policy = EpsilonGreedy(counts, window=3) if len(counts) > 1 else None
        self._fastest: dict[Hashable, float] = {}

    def choose(self) -> int:
        """Threads for the next decode."""
        return self._most if self.policy is None else self.policy.choose()

    def learn(self, n_threads: int, kind: Hashable, seconds: float) -> None:
        """Note how long a decode took.

        Args:
            kind: what its time depends on beside the threads: its models and its tokens.
        """
        if self.policy is None:
            return
        before = self._fastest.get(kind)
        self._fastest[kind] = seconds if before is None else min(seconds, before * _FADE)
        if before is not None:  # the first one of a kind says nothing
            self.policy.learn(n_threads, self._fastest[kind], seconds)
