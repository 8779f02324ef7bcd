"""The row of a cycle, against counts made by hand and by brute force."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.config import Sleep
from sleep_tune.sleep.candidates import Candidates, candidate_ids, choose, eligible, record_choice, record_wake
from sleep_tune.sleep.instruments import Cycle, cycle_row
from sleep_tune.streams import stream

DOMAINS = ("speech", "books", "news")
DOMAIN_N = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2], np.uint8)


def read(scores_by_cycle: dict[int, dict[int, float]]) -> Candidates:
    candidates = Candidates.none_yet(10)
    for cycle, scores in scores_by_cycle.items():
        record_wake(candidates, np.array(list(scores)), np.array(list(scores.values()), np.float32), cycle, Sleep())
    return candidates


def by_hand() -> tuple[Candidates, Cycle]:
    """Cycle 1 of two: samples 0 and 4 were in the first buffer, 4, 5 and 8 in this one, replayed 3, 0 and 1 times."""
    candidates = read({0: {0: 1.0, 3: 2.0, 4: 6.0}, 1: {5: 4.0, 8: 7.0}})
    record_choice(candidates, np.array([0, 4]), 0)
    buffer_k = np.array([4, 5, 8])
    record_choice(candidates, buffer_k, 1)
    replays_k = np.array([3, 0, 1])
    return candidates, Cycle(1, 12, 345, 2, 4, buffer_k, replays_k, carried=1, retention=[(1, 2.5), (0, float("nan"))])


def test_the_row_of_a_cycle_worked_out_by_hand() -> None:
    candidates, cycle = by_hand()
    row = cycle_row(candidates, cycle, DOMAIN_N, DOMAINS, Sleep(folds=2))
    assert (row["fold"], row["folds"]) == (1, 2)
    assert {name: row[name] for name in ("cycle", "step", "words_seen", "wake_rows", "sleep_rows")} == {
        "cycle": 1, "step": 12, "words_seen": 345, "wake_rows": 2, "sleep_rows": 4,
    }  # fmt: skip
    assert (row["candidates"], row["eligible"], row["buffer"]) == (5, 5, 3)
    assert (row["new_in_buffer"], row["turnover"]) == (2, 2 / 3)
    assert row["selected_ever"] == 4
    assert (row["score_mean"], row["score_p50"], row["buffer_score_mean"]) == (4.0, 4.0, pytest.approx(17 / 3))
    assert [row["score_p25"], row["score_p75"]] == [2.0, 6.0]
    assert (row["replays"], row["replayed"]) == (4, 2)
    assert dict(zip(row["replay_times"], row["replay_samples"], strict=True)) == {0: 1, 1: 1, 3: 1}
    assert (row["candidates_by_age"], row["replays_by_age"]) == ([2, 3], [1, 3])
    assert row["domain"] == list(DOMAINS)
    assert (row["candidates_by_domain"], row["replays_by_domain"]) == ([1, 3, 1], [0, 3, 1])
    assert (row["retention_fold"], row["retention_loss"]) == ([1, 0], [2.5, None])


def test_a_row_is_json() -> None:
    candidates, cycle = by_hand()
    row = cycle_row(candidates, cycle, DOMAIN_N, DOMAINS, Sleep())
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_a_run_that_only_wakes_has_a_row_without_scores() -> None:
    nothing = np.empty(0, np.int64)
    row = cycle_row(Candidates.none_yet(10), Cycle(0, 5, 60, 10, 0, nothing, nothing, 0), DOMAIN_N, DOMAINS, Sleep())
    assert (row["candidates"], row["buffer"], row["replays"]) == (0, 0, 0)
    assert row["turnover"] is None
    assert row["score_mean"] is row["score_p5"] is row["buffer_score_mean"] is None
    assert row["candidates_by_age"] == row["replays_by_age"] == row["replay_times"] == []
    assert row["replays_by_domain"] == [0, 0, 0]


def test_turnover_is_not_defined_where_there_was_no_buffer_before() -> None:
    candidates = read({0: {0: 1.0, 1: 2.0}})
    row = cycle_row(candidates, Cycle(0, 1, 2, 2, 2, np.array([1]), np.array([2]), 0), DOMAIN_N, DOMAINS, Sleep())
    assert (row["new_in_buffer"], row["turnover"]) == (1, None)


@given(
    st.integers(0, 10**6),
    st.sampled_from(["random", "weighted", "strict", "recency"]),
    st.floats(0.05, 1),
    st.integers(0, 3),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["seen", "fold"]),
)
def test_a_row_agrees_with_brute_force(seed: int, strategy: str, ratio: float, cooldown: int, most: int | None, among: str) -> None:
    """Five cycles of ten samples each, replayed at random; every count of the last row is made again sample by sample."""
    sleep = Sleep(strategy=strategy, replay_ratio=ratio, cooldown=cooldown, max_selections=most, candidates=among)
    draw, candidates = np.random.default_rng(seed), Candidates.none_yet(50)
    domain_N = draw.integers(0, 3, 50)
    last: set[int] = set()
    for number in range(5):
        ids = np.arange(10 * number, 10 * number + 10)
        record_wake(candidates, ids, draw.exponential(size=10).astype(np.float32), number, sleep)
        known = candidate_ids(candidates, number, sleep)
        could = eligible(candidates, known, number, sleep)
        buffer_k = choose(candidates, domain_N, number, sleep, stream(seed, "buffer", number))
        carried, last = len(last & set(buffer_k.tolist())), set(buffer_k.tolist())
        record_choice(candidates, buffer_k, number)
    replayed = draw.choice(buffer_k, 37).tolist() if buffer_k.size else []
    cycle = Cycle(4, 1, 1, 10, len(replayed), buffer_k, np.array([replayed.count(each) for each in buffer_k], np.int64), carried)
    row = cycle_row(candidates, cycle, domain_N, DOMAINS, sleep)

    counts = Counter(replayed)
    assert row["eligible"] == could.size
    assert row["candidates"] == known.size == sum(row["candidates_by_age"]) == sum(row["candidates_by_domain"])
    assert row["replays"] == len(replayed) == sum(row["replays_by_age"]) == sum(row["replays_by_domain"])
    assert row["replayed"] == len(counts)
    times = Counter(counts[i] for i in buffer_k.tolist())
    assert dict(zip(row["replay_times"], row["replay_samples"], strict=True)) == times
    ages = Counter(4 - i // 10 for i in replayed)
    assert row["replays_by_age"] == [ages[age] for age in range(len(row["candidates_by_age"]))]
    domains = Counter(int(domain_N[i]) for i in replayed)
    assert row["replays_by_domain"] == [domains[d] for d in range(3)]
    if buffer_k.size:
        assert row["turnover"] == pytest.approx(1 - carried / buffer_k.size)
        assert row["buffer_score_mean"] == pytest.approx(candidates.score_N[buffer_k].mean(), rel=1e-5)
    quantiles = [row[f"score_p{p}"] for p in (5, 25, 50, 75, 95)]
    assert quantiles == pytest.approx(np.percentile(candidates.score_N[known], [5, 25, 50, 75, 95]))


def test_a_row_changes_nothing() -> None:
    candidates, cycle = by_hand()
    before = [array.tobytes() for array in vars(candidates).values()]
    cycle_row(candidates, cycle, DOMAIN_N, DOMAINS, Sleep())
    assert [array.tobytes() for array in vars(candidates).values()] == before
