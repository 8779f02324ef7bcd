"""Laws of whole runs, over random configurations: what is read when, how much of it, and that a run is a function of its state.

A run is followed from outside: by its step records, its state between steps, and the exposures that each step added.
"""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sleep_tune.config import Config, Fill, LossThreshold, Ratio, Repeats, Steps
from sleep_tune.data.collate import BOS, EOS, PAD
from sleep_tune.sleep.candidates import choose, decay_factor
from sleep_tune.sleep.context import sleep_stream
from sleep_tune.streams import stream
from sleep_tune.training import checkpoint
from sleep_tune.training.loop import Run, advance
from sleep_tune.training.night import rescore
from sleep_tune.training.objectives import label_rows
from sleep_tune.training.optimizer import moments
from sleep_tune.training.probe import DevProbe

CPU = torch.device("cpu")
VOCABULARY, LENGTH, WORD = 40, 12, 20  # tokens 20.. begin a word


def runs(examples):
    """Settings of a test whose examples are whole runs."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def even(first, last):
    """A whole number from `first` to `last`, each as likely as the others: hypothesis's own `integers` mostly tries the smallest."""
    return st.sampled_from(range(first, last + 1))


@st.composite
def budgets(draw, store):
    """Words to see: less than the corpus, or up to six times as many."""
    return int(store.words_N.sum() * draw(st.sampled_from([0.3, 1.1, 2.3, 3.7, 6.0]))) + draw(even(0, 9))


@st.composite
def corpora(draw):
    """7 to 20 samples of 3 to LENGTH tokens: `<s>`, at least one word, `</s>`; three domains."""
    generator = np.random.default_rng(draw(even(0, 999)))
    sizes = generator.integers(3, LENGTH + 1, draw(even(7, 20)))
    rows = [[BOS, WORD, *generator.integers(5, VOCABULARY, size - 3), EOS] for size in sizes]
    initial_V = np.arange(VOCABULARY) >= WORD
    return SimpleNamespace(
        samples=len(rows),
        vocab_size=VOCABULARY,
        tokens=np.concatenate(rows).astype(np.uint16),
        offsets=np.cumsum([0, *map(len, rows)]),
        words_N=np.array([initial_V[row].sum() for row in rows], np.uint16),
        domain_N=generator.integers(0, 3, len(rows)).astype(np.uint8),
        word_initial_V=initial_V,
        row_length=LENGTH,
    )


LENGTHS = {
    "ratio": st.sampled_from([{"ratio": ratio} for ratio in (0, 0.4, 1, 2.5)]),
    "repeats": st.sampled_from([{"repeats": repeats} for repeats in (0.4, 1, 2.5)]),
    "steps": st.sampled_from([{"steps": steps} for steps in (1, 4)]),
    "fill": st.just({"fill": {}}),
    "loss_threshold": st.sampled_from(
        [{"loss_threshold": {"value": v, "max_steps": 6, "window": 2, "min_steps": 3}} for v in (0.1, 3.65, 9)]
    ),
}
STRATEGIES = ["random", "weighted", {"weighted": {"temperature": 0.3}}, "strict", "rank", "stratified", "recency", "easy"]
BLIND = ["random", "recency", {"stratified": {"within": "random"}}]


@st.composite
def sleeps(draw, samples, lengths=("ratio", "repeats", "steps", "fill", "loss_threshold"), blind=False):
    """A sleep as a config has it, for `samples` samples; `blind`: its strategy looks at no score."""
    recut = draw(st.sampled_from([None, {"shuffles": 2}]))
    fields = {
        "folds": even(1, 6),
        "fold_order": st.sampled_from(["shuffled", "corpus", "domain"]),
        "within": st.sampled_from(["shuffled", "kept"]),
        "passes": st.sampled_from([1, 2, "auto"]),
        "max_wake_steps": st.sampled_from([None, None, 1, 2]),
        "candidates": st.sampled_from(["seen", "fold"]),
        "replay_ratio": st.sampled_from([0.05, 0.3, 0.5, 1.0]),
        "length": st.one_of([LENGTHS[name] for name in lengths]),
        "criterion": st.sampled_from(["loss", "loss", "gain"]),
        "recurrence": st.sampled_from(["min", "latest", {"ema": 0.5}]),
        "rescore": st.sampled_from(["none", "all", {"share": 0.4}]),
        "decay": st.sampled_from([0.0, 0.0533, 0.7]),
        "decay_floor": st.sampled_from([0.0, 0.2]),
        "max_selections": st.sampled_from([None, None, 2]),
        "cooldown": st.sampled_from([0, 0, 1]),
    }
    sleep = {name: draw(field) for name, field in fields.items()}
    if samples // sleep["folds"] > 1 and sleep["max_wake_steps"] is None:
        sleep["criterion"] = draw(st.sampled_from([sleep["criterion"], {"utility": {"k": 1}}, {"need": {"k": 1, "among": "seen"}}]))
    if sleep["criterion"] != "loss" and sleep["rescore"] != "none":
        sleep["rescore"] = "all"
    sleep["strategy"] = draw(st.sampled_from(BLIND if blind else STRATEGIES))
    sleep["context"] = recut
    if recut is None and sleep["criterion"] == "loss":
        sleep["update_in_sleep"] = draw(st.booleans())
    return sleep


HOMEOSTASIS = st.fixed_dictionaries(
    {
        "importance": st.sampled_from(["fisher", "taylor_signed", "magnitude", "random"]),
        "moments": st.sampled_from(["keep", "scale", "reset"]),
    }
)
FREEZING = st.fixed_dictionaries(
    {"choice": st.sampled_from(["random", "causal"]), "mode": st.sampled_from(["complete", "partial"]), "warmup": st.just(0.1)}
)


def made(micro, sleep, budget, batch_rows=3, **fields) -> Config:
    """A micro config with this sleep."""
    small = {"model__layers": 1, "model__width": 8, "training__batch_rows": batch_rows, "data__row_length": LENGTH}
    return micro("default", budget=budget, sleep=sleep, **small, **fields)


class Trace:
    """What a run did: a list of steps (cycle, phase, ids, rows, words, lr, loss), and what was known at the end of each cycle."""

    def __init__(self, config, store):
        self.config, self.store = config, store
        self.run = Run(config, store, CPU)
        self.state = self.run.new_state()
        self.steps, self.cycles = [], {}
        self.run.on_cycle = self._cycle_over
        before, rows, words = self.state.exposures_N.copy(), (0, "", 0), 0
        for record in advance(self.run, self.state, config.budget_words):
            phase = (record.cycle, record.phase)
            done = self.state.row - (rows[2] if rows[:2] == phase else 0)
            ids = np.repeat(np.arange(store.samples), self.state.exposures_N - before)
            self.steps.append(
                SimpleNamespace(phase=phase, ids=ids, rows=done, words=record.words_seen - words, lr=record.lr, loss=record.loss)
            )
            before, rows, words = self.state.exposures_N.copy(), (*phase, self.state.row), record.words_seen
            if record.phase == "sleep":
                self.steps[-1].buffer = self.state.buffer_k.copy()
        state = self.state
        self.ended = self.run.cycles is not None and state.cycle >= self.run.cycles  # by its schedule

    def _cycle_over(self, state):
        self.cycles[state.cycle] = SimpleNamespace(
            buffer=state.buffer_k.copy(), candidates=copy.deepcopy(state.candidates), words=state.words_seen, began=state.sleep_began
        )

    def of(self, cycle, kind):
        return [step for step in self.steps if step.phase == (cycle, kind)]

    def woken(self, cycle):
        """Ids read in the wake of `cycle`, ascending."""
        return np.sort(np.concatenate([np.empty(0, int), *(step.ids for step in self.of(cycle, "wake"))]))

    @property
    def sleep(self):
        return self.config.sleep


@st.composite
def traces(draw, micro, **kinds):
    """A random run, followed to its end."""
    store = draw(corpora())
    budget = draw(budgets(store))
    config = made(micro, draw(sleeps(store.samples, **kinds)), budget, draw(even(1, 4)), seed=draw(even(0, 9)))
    return Trace(config, store)


@runs(25)
@given(st.data())
def test_a_wake_exposes_each_sample_of_its_fold_once_and_nothing_else(micro, data):
    trace = data.draw(traces(micro))
    for cycle in {step.phase[0] for step in trace.steps}:
        fold, ids = trace.run.folds.of(cycle), trace.woken(cycle)
        limit = math.inf if trace.sleep.max_wake_steps is None else trace.sleep.max_wake_steps * trace.config.training.batch_rows
        assert np.unique(ids).size == ids.size
        assert set(ids) <= set(fold)
        if cycle in trace.cycles or trace.of(cycle, "sleep"):  # the wake came to its end
            assert ids.size == min(fold.size, limit)
    if trace.sleep.max_wake_steps is None and trace.sleep.folds - 1 in trace.cycles:  # one pass of wakes: the corpus
        words = sum(step.words for step in trace.steps if step.phase[1] == "wake" and step.phase[0] < trace.sleep.folds)
        assert words == trace.store.words_N.sum()


@runs(25)
@given(st.data())
def test_a_sleep_uses_the_buffer_only_which_lies_within_the_candidates_and_has_its_size(micro, data):
    trace = data.draw(traces(micro))
    last_selected = np.full(trace.store.samples, -(10**6))
    selections = np.zeros(trace.store.samples, int)
    for cycle, known in trace.cycles.items():
        now = trace.woken(cycle)
        candidates = now if trace.sleep.candidates == "fold" else np.unique(np.concatenate([trace.woken(c) for c in range(cycle + 1)]))
        allowed = cycle - last_selected > trace.sleep.cooldown
        if trace.sleep.max_selections is not None:
            allowed &= selections < trace.sleep.max_selections
        eligible = candidates[allowed[candidates]]
        wanted = min(candidates.size, max(1, math.floor(trace.sleep.replay_ratio * candidates.size + 1e-9)))
        assert known.buffer.size == min(wanted, eligible.size)
        assert set(known.buffer) <= set(eligible)
        assert (np.diff(known.buffer) > 0).all()
        last_selected[known.buffer], selections[known.buffer] = cycle, selections[known.buffer] + 1
        for step in trace.of(cycle, "sleep"):
            np.testing.assert_array_equal(step.buffer, known.buffer)
            assert set(step.ids) <= set(known.buffer)
        score_N, read_N = known.candidates.score_N, known.candidates.last_wake_N > 0
        np.testing.assert_array_equal(np.flatnonzero(read_N), np.unique(np.concatenate([trace.woken(c) for c in range(cycle + 1)])))
        np.testing.assert_array_equal(np.isfinite(score_N), read_N)
        assert (score_N[read_N] >= 0).all()


@runs(10)
@given(st.data())
def test_a_buffer_is_a_function_of_the_candidates_the_seed_and_the_cycle(micro, data):
    store = data.draw(corpora())
    sleep = data.draw(sleeps(store.samples)) | {"max_selections": None, "cooldown": 0, "update_in_sleep": False}
    trace = Trace(made(micro, sleep, data.draw(budgets(store)), seed=data.draw(even(0, 9))), store)
    for cycle, known in trace.cycles.items():
        generator = stream(trace.config.seed, "buffer", cycle)
        np.testing.assert_array_equal(known.buffer, choose(known.candidates, store.domain_N, cycle, trace.sleep, generator))


@pytest.mark.parametrize("length", sorted(LENGTHS))
@runs(8)
@given(st.data())
def test_sleeps_are_as_long_as_their_rule_says_row_for_row(micro, length, data):
    trace = data.draw(traces(micro, lengths=(length,)))
    assume(trace.cycles)
    size = trace.config.training.batch_rows
    for cycle, known in trace.cycles.items():
        steps, wake = trace.of(cycle, "sleep"), len(trace.woken(cycle))
        rows, words = sum(step.rows for step in steps), sum(step.words for step in steps)
        if not known.buffer.size:
            assert not steps
            continue
        match trace.sleep.length:
            case Ratio(ratio=ratio):
                whole = math.floor(ratio * math.ceil(wake / size) + 0.5)
                assert rows == size * (0 if ratio == 0 else max(1, whole))
                assert all(step.rows == size for step in steps)
            case Repeats(repeats=repeats):
                content = np.diff(trace.store.offsets)[known.buffer].sum() - known.buffer.size  # without `<s>`
                one_pass = known.buffer.size if trace.sleep.context is None else math.ceil(content / (LENGTH - 1))
                assert rows == math.ceil(repeats * one_pass - 1e-9)
                if trace.sleep.context is None:
                    times = np.bincount(np.concatenate([step.ids for step in steps]), minlength=trace.store.samples)[known.buffer]
                    assert set(times) <= {math.floor(repeats), math.ceil(repeats)}
            case Steps(steps=wanted):
                assert (len(steps), rows) == (wanted, wanted * size)
            case Fill():
                left = trace.run.cycles - cycle  # sleeps, this one included
                to_come = sum(int(trace.store.words_N[trace.run.wake_ids(later)].sum()) for later in range(cycle + 1, trace.run.cycles))
                share = None if left == 1 else (trace.config.budget_words - known.began - to_come) // left
                if share is not None:  # the last sleep ends with the budget
                    assert words <= max(0, share)
                    after = sleep_stream(trace.store, known.buffer, trace.config.seed, cycle, trace.sleep.context).take(rows, size)
                    assert words + after.words_B.sum() > share
            case LossThreshold(loss_threshold=rule):
                means = [np.mean([step.loss for step in steps[max(0, i - rule.window) : i]]) for i in range(1, len(steps) + 1)]
                under = [i for i, mean in enumerate(means, 1) if i >= max(rule.min_steps, rule.window) and mean < rule.value]
                assert len(steps) == min([rule.max_steps, *under])


@runs(30)
@given(st.data())
def test_a_run_ends_before_the_first_row_that_its_budget_does_not_hold(micro, data):
    trace = data.draw(traces(micro))
    run, state = trace.run, trace.state
    left = trace.config.budget_words - state.words_seen
    assert left >= 0
    if trace.ended or left == 0:
        return
    ids = run.wake_ids(state.cycle)
    following = run.store.words_N[ids[state.row]] if state.phase == "wake" else run.stream_of(state).take(state.row, 1).words_B[0]
    assert left < following


@runs(15)
@given(st.data())
def test_the_rows_under_a_smaller_budget_are_a_prefix(micro, data):
    store = data.draw(corpora())
    # where scores or losses decide what is read, the learning rate does, and with it the budget
    sleep = data.draw(sleeps(store.samples, lengths=("ratio", "repeats", "steps"), blind=True))
    large = data.draw(budgets(store))
    both = (int(large * data.draw(st.sampled_from([0.2, 0.6, 0.95]))) + 1, large)
    shorter, longer = (Trace(made(micro, sleep, budget), store) for budget in both)
    for few, many in zip(shorter.steps[:-1], longer.steps, strict=False):
        assert (few.phase, few.words, few.ids.tolist()) == (many.phase, many.words, many.ids.tolist())
    if shorter.steps:
        cut, whole = shorter.steps[-1], longer.steps[len(shorter.steps) - 1]
        assert cut.phase == whole.phase
        assert cut.words <= whole.words
        assert cut.rows <= whole.rows
        assert set(cut.ids) <= set(whole.ids)


@runs(20)
@given(st.data())
def test_words_seen_are_the_words_of_the_rows(micro, data):
    trace = data.draw(traces(micro))
    initial_V, at = trace.store.word_initial_V, {}
    assert trace.state.words_seen == sum(step.words for step in trace.steps)
    for step in trace.steps:
        row = at.get(step.phase, 0)
        at[step.phase] = row + step.rows
        if step.phase[1] == "wake" or trace.sleep.context is None:
            assert step.rows == step.ids.size
            assert step.words == trace.store.words_N[step.ids].sum()
        else:
            rows = sleep_stream(trace.store, step.buffer, trace.config.seed, step.phase[0], trace.sleep.context).take(row, step.rows)
            assert step.words == initial_V[rows.tokens_BL].sum()


@runs(15)
@given(st.data(), st.sampled_from([0.0, 0.1, 0.5]))
def test_the_learning_rate_is_positive_and_one_function_of_words_for_every_schedule(micro, data, warmup):
    store = data.draw(corpora())
    budget = data.draw(budgets(store))
    sleep = data.draw(sleeps(store.samples))
    trace = Trace(made(micro, sleep, budget, optimizer__warmup=warmup, optimizer__learning_rate=0.002), store)
    before = 0
    for step in trace.steps:
        u = (2 * before + step.words) / (2 * budget)
        assert step.lr > 0
        assert step.lr == pytest.approx(0.002 * min(u / warmup if warmup else 1, (1 - u) / (1 - warmup)), rel=1e-9)
        before += step.words


@runs(15)
@given(st.data())
def test_a_factor_follows_its_law_and_rises_only_at_a_wake(micro, data):
    trace = data.draw(traces(micro))
    before, woken = np.ones(trace.store.samples), np.full(trace.store.samples, -1)
    for cycle, known in trace.cycles.items():
        woken[trace.woken(cycle)] = cycle
        ids = np.flatnonzero(woken >= 0)
        factor = decay_factor(cycle + 1 - known.candidates.last_wake_N[ids].astype(int), trace.sleep)
        law = [max((1 - trace.sleep.decay) ** int(cycle - woken[i]), trace.sleep.decay_floor) for i in ids]
        np.testing.assert_allclose(factor, law, atol=1e-6)
        assert ((factor >= trace.sleep.decay_floor) & (factor <= 1)).all()
        assert np.isin(ids[factor > before[ids]], trace.woken(cycle)).all()
        before[ids] = factor


@runs(30)
@given(st.data(), st.sampled_from(["mlm", "clm"]))
def test_padding_of_sleep_rows_is_neither_attended_nor_labelled(micro, data, objective):
    store = data.draw(corpora())
    buffer = np.array(sorted(data.draw(st.sets(st.integers(0, store.samples - 1), min_size=1))))
    config = made(micro, data.draw(sleeps(store.samples)), 100)
    if objective == "clm":
        config = config.model_copy(update={"objective": "clm"})
    endless = sleep_stream(store, buffer, 0, 0, config.sleep.context)
    rows = endless.take(data.draw(even(0, 20)), data.draw(even(1, 8)))
    batch = label_rows(rows, config, 0.5, VOCABULARY, np.random.default_rng(0), CPU)
    length = rows.tokens_BL.shape[1]
    inside = np.arange(length) < rows.length_B[:, None]
    assert (rows.tokens_BL[~inside] == PAD).all()
    assert not (rows.tokens_BL[inside] == PAD).any()
    row, column = batch.row_M.numpy(), batch.at_M.numpy() % length
    assert (column < rows.length_B[row]).all()
    assert not np.isin(batch.target_M.numpy(), [BOS, PAD]).any()
    attended = inside if batch.bias_B11L is None else (batch.bias_B11L == 0).numpy()[:, 0, 0]
    np.testing.assert_array_equal(attended, inside)


def weights_and_more(run, state):
    known = state.candidates
    arrays = [state.exposures_N, *vars(known).values(), state.buffer_k, state.exposed_k, state.measured_F, state.frozen_U]
    counters = (state.cycle, state.phase, state.row, state.step, state.words_seen, state.carried, state.short_buffers, state.over)
    moved = [each for part in moments(run.optimizer) for each in (part.mean, part.square)]
    tensors = [run.network.flat.detach(), state.importance_P, *moved]
    return [*(tensor.numpy().tobytes() for tensor in tensors), *(array.tobytes() for array in arrays), state.importance_rows, counters]


@st.composite
def whole_configs(draw, micro, store):
    """Also what happens to the network at waking, and dropout."""
    sleep = draw(sleeps(store.samples))
    sleep["homeostasis"], sleep["freezing"] = draw(st.one_of(st.none(), HOMEOSTASIS)), draw(st.one_of(st.none(), FREEZING))
    budget = draw(budgets(store))
    network = draw(st.sampled_from([{}, {"model__tied": True}, {"model__name": "gpt2_tiny", "objective": "clm"}]))
    return made(micro, sleep, budget, draw(even(1, 4)), model__dropout=draw(st.sampled_from([0.0, 0.2])), **network)


@runs(15)
@given(st.data())
def test_a_run_stopped_at_any_step_goes_on_to_the_same_ids_scores_and_weights(micro, tmp_path_factory, data):
    store = data.draw(corpora())
    config = data.draw(whole_configs(micro, store))
    calm = Trace(config, store)
    assume(len(calm.steps) > 1)
    stop = data.draw(even(1, len(calm.steps) - 1))
    run = Run(config, store, CPU)
    state = run.new_state()
    for record in advance(run, state, config.budget_words):
        if record.step == stop:
            break
    directory = tmp_path_factory.mktemp("stopped")
    checkpoint.save(directory, run, state, {}, "me", 0, keep=1)
    resumed = Run(config, store, CPU)
    loaded = checkpoint.load_newest(directory, resumed, "me", print)
    assert loaded is not None
    list(advance(resumed, loaded.state, config.budget_words))
    assert weights_and_more(resumed, loaded.state) == weights_and_more(calm.run, calm.state)


@runs(10)
@given(st.data())
def test_evaluating_and_drawing_numbers_elsewhere_changes_no_later_id_mask_or_weight(micro, data):
    store = data.draw(corpora())
    config = data.draw(whole_configs(micro, store))
    calm = Trace(config, store)
    run = Run(config, store, CPU)
    state, probe = run.new_state(), DevProbe(config, store, CPU)
    generator = np.random.default_rng(0)
    for _ in advance(run, state, config.budget_words):
        torch.rand(3)
        generator.random()
        probe.loss(run.network)
    assert weights_and_more(run, state) == weights_and_more(calm.run, calm.state)


@runs(8)
@given(st.data(), st.sampled_from(["loss", "gain"]))
def test_rescoring_unchanged_weights_twice_changes_nothing(micro, data, criterion):
    store = data.draw(corpora())
    sleep = data.draw(sleeps(store.samples)) | {"criterion": criterion, "update_in_sleep": False, "rescore": "all"}
    run = Run(made(micro, sleep, 2 * int(store.words_N.sum())), store, CPU)
    state = run.new_state()
    for _ in advance(run, state, run.config.budget_words):
        if state.phase == "sleep":
            break
    assume(state.phase == "sleep" and not state.over)
    weights = run.network.flat.detach().clone()
    rescore(run, state)
    once = state.candidates.score_N.copy()
    rescore(run, state)
    np.testing.assert_array_equal(state.candidates.score_N, once)
    assert torch.equal(run.network.flat.detach(), weights)


@pytest.mark.parametrize("exposures", [2, 3, 5])
@runs(3)
@given(st.data())
def test_one_fold_replayed_whole_without_context_is_as_many_exposures_of_every_sample(micro, exposures, data):
    store = data.draw(corpora())
    strategy = data.draw(st.sampled_from(STRATEGIES))
    sleep = {"folds": 1, "passes": 1, "replay_ratio": 1.0, "length": {"repeats": exposures - 1}, "strategy": strategy}
    trace = Trace(made(micro, sleep, 10 * exposures * int(store.words_N.sum()), data.draw(even(1, 4))), store)
    assert set(trace.state.exposures_N.tolist()) == {exposures}
    assert trace.state.words_seen == exposures * store.words_N.sum()
    assert trace.ended
