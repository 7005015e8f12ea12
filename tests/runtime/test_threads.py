"""The number of threads follows the clock."""

from __future__ import annotations

from trimix_edge.decoding.threads import ThreadCount


def play(threads: ThreadCount, seconds: dict[int, float], n: int, kind: str = "one") -> list[int]:
    """Which counts are chosen for ``n`` decodes that take so long."""
    chosen = []
    for _ in range(n):
        count = threads.choose()
        threads.learn(count, kind, seconds[count])
        chosen.append(count)
    return chosen


def test_all_cores_are_used_while_they_are_the_fastest() -> None:
    chosen = play(ThreadCount(4, fixed=False), {4: 1.0, 2: 1.9, 1: 3.7}, 1000)
    assert chosen.count(4) > 980


def test_one_thread_is_used_while_others_wait_at_barriers_and_all_again_afterwards() -> None:
    threads = ThreadCount(2, fixed=False)
    play(threads, {2: 1.0, 1: 1.8}, 100)
    busy = play(threads, {2: 60.0, 1: 8.0}, 100)
    assert busy[5:].count(1) > 90
    # The trials of two threads have cost much: the next one comes when that is one per cent.
    quiet = play(threads, {2: 1.0, 1: 1.8}, 20_000)
    assert quiet[-1000:].count(2) > 980


def test_decodes_of_different_kinds_are_compared_with_their_own() -> None:
    threads = ThreadCount(2, fixed=False)
    for _ in range(200):  # prompts take a hundred times as long, on any number of threads
        play(threads, {2: 1.0, 1: 1.8}, 1, "token")
        play(threads, {2: 100.0, 1: 180.0}, 1, "prompt")
    chosen = play(threads, {2: 1.0, 1: 1.8}, 200, "token")
    assert chosen.count(2) > 190


def test_a_number_that_was_asked_for_is_kept() -> None:
    threads = ThreadCount(3, fixed=True)
    assert set(play(threads, {3: 100.0}, 50)) == {3}
