"""Whole runs on a micro corpus: what is read, how much of it, and that a run goes on to the same weights wherever it stopped."""

from itertools import chain

import numpy as np
import pytest
import torch

from sleep_tune.config import Config
from sleep_tune.data.token_store import open_store
from sleep_tune.presets import presets
from sleep_tune.training import checkpoint
from sleep_tune.training.loop import Run, advance, next_rows

SCHEDULES = sorted(name for name, row in presets().items() if row["kind"] == "schedule")
CPU = torch.device("cpu")


def start(config: Config, corpus):
    run = Run(config, open_store(corpus.directory), CPU)
    return run, run.new_state()


def digest(run, state):
    return [run.network.flat.detach().numpy().tobytes(), state.exposures_N.tobytes(), state.candidates.score_N.tobytes(), state.words_seen]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_preset_trains_to_its_budget(micro, corpus, schedule):
    nearest = presets()[schedule].get("sleep", {}).get("criterion") == "utility"
    run, state = start(micro(schedule, budget=6000, **({"sleep__criterion": {"utility": {"k": 5}}} if nearest else {})), corpus)
    records = list(advance(run, state, 6000))
    assert {record.phase for record in records} == ({"wake"} if run.config.epochs is not None else {"wake", "sleep"})
    assert [record.step for record in records] == list(range(1, len(records) + 1))
    assert all(record.lr > 0 and np.isfinite(record.loss) for record in records)
    assert records[-1].words_seen == state.words_seen
    assert 0 <= 6000 - state.words_seen <= 16  # less than the words of one row
    assert records[-1].loss < records[0].loss


@pytest.mark.parametrize("where", [0.1, 0.35, 0.5, 0.8])
@pytest.mark.parametrize(
    ("schedule", "fields"),
    [
        ("default", {"sleep__folds": 5, "sleep__length": {"ratio": 1}}),
        ("strict_replay", {"sleep__folds": 4, "sleep__update_in_sleep": True, "sleep__context": None, "sleep__recurrence": {"ema": 0.5}}),
        ("weighted_replay", {"sleep__folds": 3, "sleep__length": {"fill": {}}, "sleep__rescore": {"share": 0.3}}),
        (
            "random_replay",
            {"sleep__folds": 3, "sleep__length": {"loss_threshold": {"value": 5.0, "max_steps": 30, "window": 4, "min_steps": 6}}},
        ),
        ("epochs", {"model__dropout": 0.1, "optimizer__weight_decay": 0.01}),
        ("default", {"sleep__folds": 4, "model__dropout": 0.2, "training__accumulation": 3, "sleep__criterion": "gain"}),
    ],
)
def test_a_run_saved_and_loaded_at_any_step_reaches_the_same_weights(micro, corpus, tmp_path, schedule, fields, where):
    config = micro(schedule, **fields)
    calm, calm_state = start(config, corpus)
    calm_records = list(advance(calm, calm_state, config.budget_words))

    run, state = start(config, corpus)
    stop = int(where * len(calm_records))
    records = []
    for record in advance(run, state, config.budget_words):
        records.append(record)
        if record.step == stop:
            break
    checkpoint.save(tmp_path, run, state, {}, "me", 0, keep=1)
    resumed, _ = start(config, corpus)
    loaded = checkpoint.load_newest(tmp_path, resumed, "me", print)
    records += list(advance(resumed, loaded.state, config.budget_words))
    assert digest(resumed, loaded.state) == digest(calm, calm_state)
    key = [(r.step, r.cycle, r.phase, r.words_seen, r.loss) for r in records]
    assert key == [(r.step, r.cycle, r.phase, r.words_seen, r.loss) for r in calm_records]


def test_stopping_at_milestones_changes_nothing(micro, corpus):
    config = micro("default", sleep__folds=5)
    calm, calm_state = start(config, corpus)
    list(advance(calm, calm_state, config.budget_words))
    run, state = start(config, corpus)
    for words in range(100, config.budget_words + 1, 100):
        list(advance(run, state, words))
    assert digest(run, state) == digest(calm, calm_state)


def test_a_wake_reads_its_fold_once_and_a_sleep_only_its_buffer(micro, corpus):
    config = micro("default", sleep__folds=7, sleep__context=None, sleep__length={"repeats": 2.5}, budget=9000)
    run, state = start(config, corpus)
    read = {}
    buffers = {}
    while state.cycle < 7 and (rows := next_rows(run, state)) is not None:
        read.setdefault((state.cycle, state.phase), []).extend(rows.id_B.tolist())
        if state.phase == "sleep":
            buffers[state.cycle] = state.buffer_k.tolist()
        else:
            state.candidates.score_N[rows.id_B] = 1.0
            state.candidates.last_wake_N[rows.id_B] = state.cycle + 1
        state.row += len(rows.words_B)
    wakes = [ids for (_, phase), ids in read.items() if phase == "wake"]
    assert sorted(chain(*wakes[:7])) == list(range(run.store.samples))
    for cycle in range(6):
        counts = np.bincount(read[cycle, "sleep"])
        assert set(np.flatnonzero(counts)) == set(buffers[cycle]) <= set(chain(*wakes[: cycle + 1]))
        assert set(counts[counts > 0]) <= {2, 3}
        assert len(read[cycle, "sleep"]) == np.ceil(2.5 * len(buffers[cycle]))


def test_words_seen_are_the_words_of_the_rows_and_one_pass_is_the_corpus(micro, corpus):
    config = micro("epochs", budget=corpus.train_words)
    run, state = start(config, corpus)
    list(advance(run, state, config.budget_words))
    assert state.words_seen == corpus.train_words
    assert set(state.exposures_N) == {1}


def test_one_fold_replayed_whole_exposes_every_sample_equally(micro, corpus):
    fields = {"sleep__folds": 1, "sleep__replay_ratio": 1.0, "sleep__context": None, "sleep__length": {"repeats": 2}, "sleep__passes": 1}
    config = micro("default", budget=4 * corpus.train_words, **fields)
    run, state = start(config, corpus)
    list(advance(run, state, config.budget_words))
    assert set(state.exposures_N) == {3}
    assert state.over  # the schedule ended before its budget
    assert state.words_seen == 3 * corpus.train_words


def test_exposures_count_each_samples_words_also_in_recut_contexts(micro, corpus):
    config = micro("default", sleep__folds=3, sleep__replay_ratio=0.4, sleep__length={"repeats": 3})
    run, state = start(config, corpus)
    list(advance(run, state, 3000))
    # a re-cut pass holds each buffer sample once: the words exposed differ from words seen by the open pass alone
    counted = int((state.exposures_N.astype(np.int64) * run.store.words_N).sum())
    assert abs(counted - state.words_seen) <= 2 * run.store.row_length


def test_a_smaller_budget_reads_a_prefix_of_the_same_rows(micro, corpus):
    ids = []
    for budget in (2000, 4000):
        run, state = start(micro("strict_replay", sleep__folds=5, sleep__context=None, budget=budget, sleep__strategy="random"), corpus)
        read = []
        while (rows := next_rows(run, state)) is not None and len(read) < 400:
            read += rows.id_B.tolist()
            if state.phase == "wake":
                state.candidates.last_wake_N[rows.id_B] = state.cycle + 1
            state.row, state.words_seen = state.row + len(rows.words_B), state.words_seen + int(rows.words_B.sum())
        ids.append(read)
    shorter = min(len(ids[0]), 200)
    assert shorter > 100
    assert ids[0][:shorter] == ids[1][:shorter]


def test_a_loss_that_is_not_finite_ends_the_run_before_the_update(micro, corpus):
    run, state = start(micro("epochs"), corpus)
    list(advance(run, state, 500))
    with torch.no_grad():
        run.network.flat[: run.network.decayed] = torch.nan
    steps = state.step
    assert list(advance(run, state, 4000)) == []
    assert state.diverged
    assert state.over
    assert state.step == steps


def test_dropout_draws_from_its_own_stream_and_probing_moves_nothing(micro, corpus):
    from sleep_tune.training.probe import DevProbe

    config = micro("weighted_replay", sleep__folds=4, model__dropout=0.2)
    calm, calm_state = start(config, corpus)
    list(advance(calm, calm_state, 2000))
    run, state = start(config, corpus)
    probe = DevProbe(config, open_store(corpus.dev_directory), CPU)
    for _ in advance(run, state, 2000):
        torch.rand(3)
        probe.loss(run.network)
    assert digest(run, state) == digest(calm, calm_state)


def trained(config, corpus):
    run, state = start(config, corpus)
    list(advance(run, state, config.budget_words))
    return run, state


def test_nothing_shrinks_when_the_budget_holds_no_row_of_another_wake(micro, corpus):
    fields = {"sleep__folds": 5, "sleep__homeostasis": {"importance": "magnitude", "shrink": 0.5}, "sleep__length": {"ratio": 1}}
    run, state = start(micro("sh_off", budget=4000, **fields), corpus)
    ends = next(record.words_seen for record in advance(run, state, 4000) if state.phase == "sleep" and state.row == state.sleep_rows)
    norms = [float(trained(micro("sh_off", budget=words, **fields), corpus)[0].network.flat.detach().norm()) for words in (ends, ends + 1)]
    assert norms[1] == pytest.approx(norms[0], rel=0.01)


def test_a_wake_that_the_budget_cuts_carries_nothing_over(micro, corpus):
    config = micro("weighted_replay", budget=4000, sleep__folds=5, sleep__length={"ratio": 1})
    run, state = start(config, corpus)
    carried = [state.carried for _ in advance(run, state, 4000) if state.phase == "wake"]
    assert len(carried) > 10
    assert set(carried) == {0}


def test_a_gain_that_is_not_finite_ends_the_run_as_diverged(micro, corpus):
    run, state = start(micro("utility", budget=4000, sleep__folds=5, sleep__criterion="gain", optimizer__learning_rate=1e12), corpus)
    with np.errstate(all="ignore"):
        list(advance(run, state, 4000))
    assert state.diverged
    assert np.isfinite(state.measured_F).all()
