"""What batches cost: the cheapest one that holds some tokens, what is learned, what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge.config import Role
from trimix_edge.decoding import batch_costs
from trimix_edge.decoding.batch_costs import MAX_TOKENS, SIZES, BatchCosts, CostFile, measure

ROLE = Role.LARGE_INS
MACHINE = {"threads": 2, "machine": ["a", "b"]}
FINGERPRINTS = {Role.LARGE_INS: "one", Role.SMALL_CPT: "two"}


def costs(**seconds: float) -> BatchCosts:
    return BatchCosts({ROLE: {int(size.removeprefix("of_")): s for size, s in seconds.items()}})


tables = st.dictionaries(st.sampled_from(SIZES), st.floats(0.01, 100), min_size=1)


@given(tables, st.integers(1, MAX_TOKENS))
def test_tokens_cost_what_the_cheapest_batch_that_holds_them_costs(
    table: dict[int, float], n: int
) -> None:
    found = BatchCosts({ROLE: dict(table)})
    holds = {size: seconds for size, seconds in table.items() if size >= n}
    if holds:
        assert found.of(ROLE, n) == min(holds.values())
        assert table[found.padded(ROLE, n)] == min(holds.values())
        assert found.padded(ROLE, n) >= n
    else:
        assert found.padded(ROLE, n) == n
        assert found.of(ROLE, n) == pytest.approx(table[max(table)] * n / max(table))


def test_three_tokens_go_into_a_batch_of_four_where_that_is_cheaper() -> None:
    found = costs(of_1=1.0, of_2=1.8, of_3=2.7, of_4=1.2, of_6=2.9)
    assert [found.padded(ROLE, n) for n in range(1, 7)] == [1, 4, 4, 4, 6, 6]


def test_a_role_that_was_not_measured_is_not_padded() -> None:
    assert costs(of_4=1.0).padded(Role.SMALL_CPT, 3) == 3


def test_what_is_learned_moves_a_size_most_and_all_others_a_little() -> None:
    found = costs(of_1=1.0, of_4=2.0)
    found.learn(ROLE, 4, 3.0)
    table = found.seconds[ROLE]
    assert 1.0 < table[1] < 1.1
    assert table[4] / 2.0 > table[1] / 1.0
    for _ in range(300):
        found.learn(ROLE, 4, 3.0)
    assert found.of(ROLE, 4) == pytest.approx(3.0, rel=0.01)


def test_one_stall_of_the_system_hardly_counts() -> None:
    found = costs(of_1=1.0)
    found.learn(ROLE, 1, 1000.0)
    assert found.seconds[ROLE][1] < 1.2


def test_sizes_and_roles_that_were_not_measured_learn_nothing() -> None:
    found = costs(of_1=1.0)
    found.learn(ROLE, 3, 9.0)
    found.learn(Role.SMALL_BASE, 1, 9.0)
    assert found.seconds == {ROLE: {1: 1.0}}


class Models:
    """Models whose batches take what a script says, by a clock of their own."""

    max_rows, n_ctx = 8, 6

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.role, self.held = 0.0, ROLE, 0
        monkeypatch.setattr(batch_costs, "perf_counter", lambda: self.now)

    def start(self, roles: list[Role]) -> int:
        (self.role,) = roles
        return 0

    def truncate(self, n_past: int) -> None:
        self.held = n_past

    def decode(self, tokens: list[int], n_rows: int = 1) -> None:
        assert len(tokens) == n_rows
        assert self.held == 0
        self.held = len(tokens)
        self.now += (1.0 if self.role is ROLE else 0.1) * (1 + len(tokens))


def test_each_size_that_fits_is_timed_for_each_role(monkeypatch: pytest.MonkeyPatch) -> None:
    models, seen = Models(monkeypatch), []
    found = measure(models, [ROLE, Role.SMALL_CPT], lambda *progress: seen.append(progress))
    assert found.seconds == {
        ROLE: pytest.approx({size: 1.0 + size for size in (1, 2, 3, 4, 6)}),
        Role.SMALL_CPT: pytest.approx({size: 0.1 + 0.1 * size for size in (1, 2, 3, 4, 6)}),
    }
    assert models.held == 0
    assert seen[-1] == (Role.SMALL_CPT, 5, 5)


def two_roles() -> BatchCosts:
    return BatchCosts({Role.LARGE_INS: {1: 1.0, 4: 2.5}, Role.SMALL_CPT: {1: 0.1, 4: 0.2}})


def test_measurements_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "costs.json"
    CostFile(MACHINE, path).save(two_roles(), FINGERPRINTS)
    found = CostFile(dict(reversed(MACHINE.items())), path).load(FINGERPRINTS)
    assert found is not None
    assert found.seconds == two_roles().seconds
    assert [p.name for p in path.parent.iterdir()] == ["costs.json"]


def test_other_models_machines_and_settings_are_not_known(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    CostFile(MACHINE, path).save(two_roles(), FINGERPRINTS)
    assert CostFile({**MACHINE, "threads": 3}, path).load(FINGERPRINTS) is None
    assert CostFile(MACHINE, path).load({**FINGERPRINTS, Role.SMALL_BASE: "three"}) is None
    assert CostFile(MACHINE, path).load({Role.LARGE_INS: "other"}) is None


def test_a_second_model_is_added_to_the_first(tmp_path: Path) -> None:
    file = CostFile(MACHINE, tmp_path / "costs.json")
    file.save(two_roles(), FINGERPRINTS)
    file.save(BatchCosts({Role.SMALL_BASE: {1: 7.0}}), {Role.SMALL_BASE: "three"})
    found = file.load({**FINGERPRINTS, Role.SMALL_BASE: "three"})
    assert found is not None
    assert found.seconds[Role.SMALL_BASE] == {1: 7.0}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": 1}'])
def test_a_file_that_is_damaged_is_empty_and_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(content)
    file = CostFile(MACHINE, path)
    assert file.load(FINGERPRINTS) is None
    file.save(two_roles(), FINGERPRINTS)
    assert file.load(FINGERPRINTS) is not None


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        [1.0],
        {},
        {"1": -1.0},
        {"1": 0},
        {"1": float("nan")},
        {"1": 1e9},
        {"1": "x"},
        {"x": 1.0},
        {"1": None},
        {"0": 1.0},
        {"-2": 1.0, "1": 1.0},
        {"1": 1.0, str(MAX_TOKENS + 1): 1.0},
    ],
)
def test_measurements_that_cant_be_are_not_believed(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "costs.json"
    file = CostFile(MACHINE, path)
    file.save(two_roles(), FINGERPRINTS)
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({key: entry for key in entries}))
    assert file.load(FINGERPRINTS) is None


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_place_that_cant_be_written_is_left_alone(tmp_path: Path, kind: str) -> None:
    """Root may write into any folder, so something of another kind is in the way."""
    blocked = tmp_path / "blocked"
    path = blocked / "costs.json"
    if kind == "file":
        blocked.write_text("not a folder")
    else:
        (path / "not a file").mkdir(parents=True)
    file = CostFile(MACHINE, path)
    file.save(two_roles(), FINGERPRINTS)
    assert file.load(FINGERPRINTS) is None
    if kind == "folder":
        assert [p.name for p in blocked.iterdir()] == ["costs.json"]
    else:
        assert blocked.read_text() == "not a folder"


def test_scaled_costs_keep_their_proportions() -> None:
    costs = BatchCosts({Role.SMALL_CPT: {1: 4.0, 4: 6.0}, Role.LARGE_INS: {1: 8.0}})
    assert costs.of(Role.SMALL_CPT, 3) == 6.0
    costs.scale([Role.SMALL_CPT], 0.25)
    assert (costs.of(Role.SMALL_CPT, 1), costs.of(Role.SMALL_CPT, 3)) == (1.0, 1.5)
    assert costs.of(Role.LARGE_INS, 1) == 8.0
