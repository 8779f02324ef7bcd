"""One tiny schedule written out by hand, row by row, and a real run that has to follow it.

Seven samples of 3 1 4 1 5 9 2 words, 3 folds in the corpus's order, read as they stand, two rows a batch:

    fold 0: 0 1 (4 words)      fold 1: 2 3 (5 words)      fold 2: 4 5 6 (16 words; batches 4 5 | 6)

Half of the samples read so far are replayed, strictly by score x factor; the factor is 1, .5, .3 (the floor; .25 without it) after
0, 1, 2 wakings. Scores are set by hand where a wake would have measured them (MEASURED); a sample read again keeps its least.

    cycle  scores   priorities of 0 .. 6, * chosen                           why
    0      4 2      4*   2                                                   k = 1 of 2
    1      1 3      2*   1    1    3*                                        k = 2 of 4
    2      2 .5 .75 1.2* .6   .5   1.5*  2*   .5   .75                       k = 3 of 7
    3      3 5      3*   2*   .3   .9    1*   .25  .375                      min(4, 3), min(2, 5); 4 is one waking old
    4      6 1      1.5* 1*   1*   1     .6   .15  .225                      min(1, 6), min(3, 1); the tie to the lower ids
    5               the budget ends

A pass of the buffer is its samples in an order that is drawn; these orders, from the streams of seed 0, are all that no pencil gives:

    cycle 1: 3 0 | 0 3       cycle 2: 0 4 3 | 3 4 0       cycle 3: 1 0 4       cycle 4: 2 0 1
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sleep_tune.config import load_config
from sleep_tune.data.collate import BOS, EOS
from sleep_tune.presets import combine, set_field
from sleep_tune.training.loop import Run, advance

WORDS = [3, 1, 4, 1, 5, 9, 2]
MEASURED = [[4, 2], [1, 3], [2, 0.5, 0.75], [3, 5], [6, 1], [2, 8, 0.1]]

RATIO = [  # as many steps asleep as awake: 1 1 2 1 1; 72 words. (cycle, phase, ids of the batch, words seen after it)
    (0, "wake", [0, 1], 4),
    (0, "sleep", [0, 0], 10),
    (1, "wake", [2, 3], 15),
    (1, "sleep", [3, 0], 19),
    (2, "wake", [4, 5], 33),
    (2, "wake", [6], 35),
    (2, "sleep", [0, 4], 43),
    (2, "sleep", [3, 3], 45),
    (3, "wake", [0, 1], 49),
    (3, "sleep", [1, 0], 53),
    (4, "wake", [2, 3], 58),
    (4, "sleep", [2, 0], 65),
    (5, "wake", [4], 70),  # 5 more words, then 9 that the budget does not hold
]
REPEATS = [  # every sample of the buffer twice, one pass over the folds: the schedule ends before its budget
    (0, "wake", [0, 1], 4),
    (0, "sleep", [0, 0], 10),
    (1, "wake", [2, 3], 15),
    (1, "sleep", [3, 0], 19),
    (1, "sleep", [0, 3], 23),
    (2, "wake", [4, 5], 37),
    (2, "wake", [6], 39),
    (2, "sleep", [0, 4], 47),
    (2, "sleep", [3, 3], 49),
    (2, "sleep", [4, 0], 57),
]


def corpus():
    """Samples of `<s>`, one token a word, `</s>`."""
    rows = [[BOS, *range(5, 5 + words), EOS] for words in WORDS]
    return SimpleNamespace(
        samples=7,
        vocab_size=20,
        tokens=np.concatenate(rows).astype(np.uint16),
        offsets=np.cumsum([0, *map(len, rows)]),
        words_N=np.array(WORDS, np.uint16),
        domain_N=np.zeros(7, np.uint8),
        word_initial_V=np.arange(20) >= 5,
        row_length=16,
    )


def config(budget, length, passes):
    raw = combine(["tiny", "default"])
    fields = {
        "seed": 0,
        "budget_words": budget,
        "model.width": 8,
        "model.heads": 2,
        "model.ffn": 8,
        "training": {"batch_rows": 2, "precision": "fp32"},
        "sleep.folds": 3,
        "sleep.fold_order": "corpus",
        "sleep.within": "kept",
        "sleep.passes": passes,
        "sleep.replay_ratio": 0.5,
        "sleep.strategy": "strict",
        "sleep.decay": 0.5,
        "sleep.decay_floor": 0.3,
        "sleep.length": length,
        "sleep.context": None,
    }
    for field, value in fields.items():
        raw = set_field(raw, field, value)
    return load_config(raw)


def followed(run, state):
    """The run's steps as the tables above have them, ids ascending in a batch; the scores of every wake are those of MEASURED."""
    trace, before = [], state.exposures_N.copy()
    for record in advance(run, state, run.config.budget_words):
        trace.append((record.cycle, record.phase, np.repeat(np.arange(7), state.exposures_N - before).tolist(), record.words_seen))
        before = state.exposures_N.copy()
        if record.phase == "wake" and state.row == run.wake_ids(state.cycle).size:
            state.measured_F[:] = MEASURED[state.cycle]
    return trace


@pytest.mark.parametrize(
    ("budget", "length", "passes", "expected"),
    [(72, {"ratio": 1.0}, "auto", RATIO), (100, {"repeats": 2.0}, 1, REPEATS)],
    ids=["ratio", "repeats"],
)
def test_a_run_follows_the_trace_written_out_by_hand(budget, length, passes, expected):
    run = Run(config(budget, length, passes), corpus(), torch.device("cpu"))
    state = run.new_state()
    assert followed(run, state) == [(cycle, phase, sorted(ids), words) for cycle, phase, ids, words in expected]
    assert state.over
    ids = [i for _, _, batch, _ in expected for i in batch]
    assert state.exposures_N.tolist() == [ids.count(i) for i in range(7)]


def test_the_scores_and_past_selections_at_the_end_are_those_of_the_trace():
    run = Run(config(72, {"ratio": 1.0}, "auto"), corpus(), torch.device("cpu"))
    state = run.new_state()
    followed(run, state)
    known = state.candidates
    assert known.score_N.tolist() == [3, 2, 1, 1, 2, 0.5, 0.75]
    assert (known.last_wake_N.astype(int) - 1).tolist() == [3, 3, 4, 4, 2, 2, 2]  # the wake of cycle 5 did not end
    assert known.selections_N.tolist() == [5, 2, 1, 2, 2, 0, 0]
    assert (known.last_selected_N.astype(int) - 1).tolist() == [4, 4, 4, 2, 3, -1, -1]
    assert state.exposures_N.tolist() == [8, 3, 3, 5, 3, 1, 1]


def test_a_sample_carried_over_from_the_last_buffer_is_counted():
    run = Run(config(72, {"ratio": 1.0}, "auto"), corpus(), torch.device("cpu"))
    state, seen = run.new_state(), {}
    run.on_cycle = lambda state: seen.__setitem__(state.cycle, (state.buffer_k.tolist(), state.carried))
    followed(run, state)
    assert seen == {0: ([0], 0), 1: ([0, 3], 1), 2: ([0, 3, 4], 2), 3: ([0, 1, 4], 2), 4: ([0, 1, 2], 2)}
