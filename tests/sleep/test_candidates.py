"""Scores by recurrence, decay, and who may be replayed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.config import Ema, Sleep
from sleep_tune.sleep.candidates import (
    Candidates,
    candidate_ids,
    choose,
    decay_factor,
    eligible,
    record_choice,
    record_rescored,
    record_sleep,
    record_wake,
)
from sleep_tune.streams import stream


def woken(scores_by_cycle, sleep):
    """Candidates after the wakes listed: {cycle: {id: score}}."""
    candidates = Candidates.none_yet(10)
    for cycle, scores in scores_by_cycle.items():
        record_wake(candidates, np.array(list(scores)), np.array(list(scores.values()), np.float32), cycle, sleep)
    return candidates


@pytest.mark.parametrize(("recurrence", "expected"), [("min", [2, 1]), ("latest", [2, 4]), (Ema(ema=0.5), [2.5, 2.5])])
def test_a_sample_woken_again_keeps_its_least_latest_or_averaged_score(recurrence, expected):
    candidates = woken({0: {3: 3.0, 7: 1.0}, 1: {3: 2.0, 7: 4.0}}, Sleep(recurrence=recurrence))
    assert candidates.score_N[[3, 7]].tolist() == expected


losses = st.floats(0, 2.0**100, width=32)


@given(st.lists(losses, min_size=1, max_size=8), st.sampled_from([0.1, 0.5, 1.0]), st.data())
def test_a_least_score_is_never_above_the_latest_or_an_average(scores, share, data):
    asleep = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    after = {}
    for name, recurrence in (("min", "min"), ("latest", "latest"), ("ema", Ema(ema=share))):
        sleep = Sleep(recurrence=recurrence, update_in_sleep=True)
        candidates = Candidates.none_yet(1)
        for cycle, (score, in_sleep) in enumerate(zip(scores, [False, *asleep[1:]], strict=True)):
            if in_sleep:
                record_sleep(candidates, np.array([0]), np.array([score], np.float32), sleep)
            else:
                record_wake(candidates, np.array([0]), np.array([score], np.float32), cycle, sleep)
        after[name] = float(candidates.score_N[0])
    assert (after["min"], after["latest"]) == (min(scores), scores[-1])
    assert after["min"] <= after["latest"]
    assert after["min"] <= after["ema"] * (1 + 1e-6)


@given(
    st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.0533, 0.5, 0.99]),
    st.sampled_from([0.0, 0.2, 1.0]),
)
def test_a_factor_is_one_at_a_wake_and_only_shrinks_until_the_next(wakes, decay, floor):
    sleep, candidates = Sleep(decay=decay, decay_floor=floor), Candidates.none_yet(10)
    before = np.ones(10)
    for cycle, read in enumerate(wakes):
        ids = np.array(sorted(read), int)
        record_wake(candidates, ids, np.ones(ids.size), cycle, sleep)
        known = candidate_ids(candidates, cycle, sleep)
        record_rescored(candidates, known, np.full(known.size, 2.0))
        record_sleep(candidates, known, np.full(known.size, 1.0), sleep)
        record_choice(candidates, known, cycle)
        factor = decay_factor(cycle + 1 - candidates.last_wake_N.astype(int), sleep)
        others = np.setdiff1d(known, ids)
        assert (factor[ids] == 1).all()
        assert (factor[others] <= before[others]).all()
        assert (factor[others] >= floor).all()
        before = factor


def test_candidates_are_all_samples_seen_or_those_of_the_cycle():
    candidates = woken({0: {3: 1.0}, 1: {5: 1.0, 2: 1.0}}, Sleep())
    assert candidate_ids(candidates, 1, Sleep()).tolist() == [2, 3, 5]
    assert candidate_ids(candidates, 1, Sleep(candidates="fold")).tolist() == [2, 5]


@given(st.floats(0, 0.99), st.floats(0, 1), st.integers(0, 200))
def test_the_decay_factor_follows_its_law_and_stays_between_floor_and_one(decay, floor, age):
    factor = float(decay_factor(age, Sleep(decay=decay, decay_floor=floor)))
    assert floor <= factor <= 1
    assert factor == pytest.approx(max((1 - decay) ** age, floor), abs=1e-12)


def test_the_published_decay_reaches_its_floor_after_thirty_cycles():
    factors = decay_factor(np.arange(40), Sleep())
    assert factors[0] == 1.0
    assert factors[29] > 0.2
    assert factors[30] == 0.2


def test_decay_lets_a_younger_sample_win_over_a_higher_old_score():
    sleep = Sleep(decay=0.7, strategy="strict", replay_ratio=0.5)
    candidates = woken({0: {1: 5.0}, 1: {2: 3.0}}, sleep)
    assert choose(candidates, np.zeros(10, np.uint8), 1, sleep, stream(0, "buffer")).tolist() == [2]


def test_rescoring_replaces_scores_and_keeps_ages():
    candidates = woken({0: {1: 5.0}, 3: {2: 3.0}}, Sleep())
    record_rescored(candidates, np.array([1]), np.array([9.0]))
    assert candidates.score_N[1] == 9.0
    assert candidates.last_wake_N[[1, 2]].tolist() == [1, 4]


def test_a_sample_replayed_again_is_scored_by_recurrence_without_growing_younger():
    candidates = woken({0: {1: 5.0}}, Sleep())
    record_sleep(candidates, np.array([1]), np.array([4.0]), Sleep(update_in_sleep=True))
    assert candidates.score_N[1] == 4.0
    assert candidates.last_wake_N[1] == 1


def test_cooldown_and_most_selections_make_samples_sit_out():
    candidates = woken({0: {1: 1.0, 2: 1.0, 3: 1.0}}, Sleep())
    record_choice(candidates, np.array([1]), cycle=0)
    record_choice(candidates, np.array([2]), cycle=1)
    ids = np.array([1, 2, 3])
    assert eligible(candidates, ids, 2, Sleep(cooldown=1)).tolist() == [1, 3]
    assert eligible(candidates, ids, 3, Sleep(cooldown=1)).tolist() == [1, 2, 3]
    assert eligible(candidates, ids, 9, Sleep(max_selections=1)).tolist() == [3]
    assert choose(candidates, np.zeros(10, np.uint8), 9, Sleep(max_selections=1, replay_ratio=1.0), stream(0, "buffer")).tolist() == [3]


def test_a_candidate_costs_at_most_twenty_bytes():
    candidates = Candidates.none_yet(1000)
    assert sum(array.nbytes for array in vars(candidates).values()) + 4 * 1000 <= 20 * 1000  # exposures are the other 4


@pytest.mark.parametrize(("recurrence", "expected"), [("min", 1.0), ("latest", 2.0), (Ema(ema=0.5), 2.0)])
def test_a_sample_twice_in_a_batch_is_scored_once_after_the_other(recurrence, expected):
    candidates = woken({0: {4: 3.0}}, Sleep())  # 3, then 1, then 2
    record_sleep(candidates, np.array([4, 4]), np.array([1.0, 2.0]), Sleep(update_in_sleep=True, recurrence=recurrence))
    assert candidates.score_N[4] == expected
