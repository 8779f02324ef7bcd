"""What every row of the tables promises: strategies, criteria, models. A row that is added is tested here."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sleep_tune.config import Choice, Model, Sleep, Training
from sleep_tune.sleep.candidates import Candidates, choose, record_wake
from sleep_tune.sleep.criteria import CRITERIA, measures
from sleep_tune.sleep.strategies import STRATEGIES, Pool
from sleep_tune.streams import stream
from sleep_tune.training.models import new_network
from sleep_tune.training.registry import MODELS

VARIANTS = [
    *((name, {}) for name in STRATEGIES),
    ("weighted", {"temperature": 0.05}),
    ("weighted", {"temperature": 50.0}),
    ("rank", {"exponent": 0.0}),
    ("rank", {"exponent": 5.0}),
    *(("stratified", {"within": within, "by": "equal"}) for within in ("random", "weighted", "strict", "rank")),
    ("recency", {"half_life": 0.01}),
]
strategies = pytest.mark.parametrize(("name", "parameters"), VARIANTS, ids=str)
criteria = pytest.mark.parametrize("name", sorted(CRITERIA))
models = pytest.mark.parametrize("name", sorted(MODELS))
magnitudes = st.one_of(st.just(0.0), st.floats(2.0**-100, 2.0**100, width=32), st.floats(0, 100, width=32))  # 1e-30 to 1e30
scores = hnp.arrays(np.float32, st.integers(1, 60), elements=magnitudes)


@st.composite
def pools(draw):
    """Candidates with gaps in their ids, of any score, factor, age and domain."""
    score_n = draw(scores)
    n = score_n.size
    return Pool(
        np.cumsum(draw(hnp.arrays(np.int64, n, elements=st.integers(1, 5)))),
        score_n,
        draw(hnp.arrays(np.float64, n, elements=st.floats(0.001, 1))),
        draw(hnp.arrays(np.uint32, n, elements=st.integers(1, 500))),
        draw(hnp.arrays(np.uint8, n, elements=st.integers(0, 4))),
    )


@strategies
@settings(max_examples=20, deadline=None)
@given(pool=pools(), data=st.data(), seed=st.integers(0, 2**32))
def test_selected_ids_are_distinct_sorted_and_equal_for_equal_inputs_which_stay_unchanged(name, parameters, pool, data, seed):
    k = data.draw(st.integers(1, pool.size))
    before = [values.copy() for values in vars(pool).values()]
    for values in vars(pool).values():
        values.flags.writeable = False
    chosen_k = STRATEGIES[name](pool, k, stream(seed, "buffer", 1), **parameters)
    assert chosen_k.size == k
    assert (np.diff(chosen_k) > 0).all()
    assert np.isin(chosen_k, pool.id_n).all()
    np.testing.assert_array_equal(chosen_k, STRATEGIES[name](pool, k, stream(seed, "buffer", 1), **parameters))
    for values, old in zip(vars(pool).values(), before, strict=True):
        np.testing.assert_array_equal(values, old)


@strategies
@settings(max_examples=20, deadline=None)
@given(pool=pools(), seed=st.integers(0, 2**32))
def test_every_candidate_is_selected_where_k_is_their_number(name, parameters, pool, seed):
    np.testing.assert_array_equal(STRATEGIES[name](pool, pool.size, stream(seed, "buffer"), **parameters), pool.id_n)


@strategies
@settings(max_examples=20, deadline=None)
@given(score_n=scores, cycle=st.integers(0, 5), data=st.data())
def test_a_replay_ratio_of_one_selects_every_candidate(name, parameters, score_n, cycle, data):
    sleep = Sleep(
        strategy=Choice(name=name, parameters=parameters), replay_ratio=1.0, candidates=data.draw(st.sampled_from(["seen", "fold"]))
    )
    read_n = np.flatnonzero(data.draw(hnp.arrays(np.bool_, score_n.size)))
    candidates = Candidates.none_yet(score_n.size)
    record_wake(candidates, read_n, score_n[read_n], cycle, sleep)
    buffer_k = choose(candidates, np.arange(score_n.size) % 3, cycle, sleep, stream(0, "buffer", cycle))
    np.testing.assert_array_equal(buffer_k, read_n)


@strategies
@pytest.mark.parametrize("value", [0.0, 1e-30, 2.5, 1e30])
@pytest.mark.parametrize("n", [1, 2, 40_000])
def test_equal_scores_of_any_magnitude_are_no_obstacle(name, parameters, n, value):
    pool = Pool(np.arange(n), np.full(n, value, np.float32), np.ones(n), np.ones(n, np.uint32), np.arange(n) % 2)
    for k in {1, n // 2, n} - {0}:
        assert np.unique(STRATEGIES[name](pool, k, stream(0, "buffer"), **parameters)).size == k


@strategies
@settings(max_examples=20, deadline=None)
@given(score_n=scores, power=st.integers(-8, 8), data=st.data())
def test_scaling_all_scores_by_a_power_of_two_changes_no_selection(name, parameters, score_n, power, data):
    def chosen(values_n):
        n = values_n.size
        pool = Pool(np.arange(n), values_n, 0.3 ** (np.arange(n) % 4), np.arange(n) % 4 + 1, np.arange(n) % 3)
        return STRATEGIES[name](pool, k, stream(1, "buffer"), **parameters)

    score_n = np.where(score_n < 1e-30, 0, score_n).astype(np.float32)  # subnormals lose bits when scaled
    k = data.draw(st.integers(1, score_n.size))
    np.testing.assert_array_equal(chosen(score_n), chosen(score_n * np.float32(2.0**power)))


@criteria
@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_scores_are_finite_not_negative_and_follow_their_samples(name, data, seed):
    n = data.draw(st.integers(1, 60))
    positive = hnp.arrays(np.float32, n, elements=st.floats(0, 2.0**100, width=32))
    cosine = hnp.arrays(np.float32, n, elements=st.floats(-1, 1, width=32))
    measured = [data.draw(cosine if what == "need" else positive) for what in measures(name)]
    before = [values_n.copy() for values_n in measured]
    score_n = CRITERIA[name](*measured)
    assert score_n.shape == (n,)
    assert np.isfinite(score_n).all()
    assert (score_n >= 0).all()
    for values_n, old_n in zip(measured, before, strict=True):
        np.testing.assert_array_equal(values_n, old_n)
    order_n = stream(seed, "probe").permutation(n)
    np.testing.assert_array_equal(CRITERIA[name](*(values_n[order_n] for values_n in measured)), score_n[order_n])


@criteria
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_samples_that_measure_alike_score_alike(name, value):
    measured = [np.full(5, min(value, 1.0) if what == "need" else value, np.float32) for what in measures(name)]
    assert np.unique(CRITERIA[name](*measured)).size == 1


@models
def test_every_model_is_built_at_a_tiny_size_with_the_sizes_it_was_told(name):
    sizes = {"layers": 1, "heads": 2, "width": 8, "ffn": 16, "positions": 32}
    network = new_network(Model(name=name, **sizes), 300, 0, Training(batch_rows=2, precision="fp32"), torch.device("cpu"))
    assert torch.isfinite(network.flat).all()
    assert sum(size.numel() for _, size in network.places.values()) == network.flat.numel()
    assert network.leaves["word"].shape == (300, 8)
    assert MODELS[name].about
    assert set(MODELS[name].objectives) <= {"mlm", "clm"}
    assert MODELS[name].objectives


@models
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_initial_weights_of_a_model_follow_from_the_seed(name, seed):
    model = Model(name=name, layers=1, heads=2, width=8, ffn=16, positions=32)

    def weights(of):
        return new_network(model, 300, of, Training(batch_rows=2, precision="fp32"), torch.device("cpu")).flat.detach()

    assert torch.equal(weights(seed), weights(seed))
    assert not torch.equal(weights(seed), weights(seed + 1))
