"""The rows of a sleep: whole samples pass by pass, or re-cut contexts that hold exactly the buffer's content."""

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.config import Context
from sleep_tune.data.collate import BOS, EOS, PAD
from sleep_tune.sleep.context import recut, sample_rows, sleep_stream


@st.composite
def corpora(draw):
    """A small store of samples of 2 to L tokens: `<s>` first, then content, `</s>` here and there."""
    length = draw(st.integers(8, 12))
    sizes = draw(st.lists(st.integers(2, length), min_size=1, max_size=12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    tokens = [np.concatenate([[BOS], generator.choice([EOS, 5, 6, 7, 8, 9, 10, 11], size - 1)]) for size in sizes]
    initial = np.zeros(12, bool)
    initial[5:9] = True
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    words = np.array([initial[row].sum() for row in tokens], np.uint16)
    joined = np.concatenate(tokens).astype(np.uint16)
    return SimpleNamespace(
        tokens=joined, offsets=offsets, words_N=words, domain_N=np.zeros(len(sizes), np.uint8), word_initial_V=initial, row_length=length
    )


def content(corpus, ids):
    rows = [corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]] for i in ids]
    return Counter(int(token) for row in rows for token in row if token not in (BOS, PAD))


@given(corpora(), st.data())
def test_a_recut_pass_holds_exactly_the_content_tokens_of_the_buffer(corpus, data):
    samples = len(corpus.words_N)
    buffer = np.array(sorted(data.draw(st.sets(st.integers(0, samples - 1), min_size=1))))
    rows = sleep_stream(corpus, buffer, 0, 3, Context(shuffles=2))
    taken = rows.take(0, rows.pass_rows)
    inside = np.arange(taken.tokens_BL.shape[1]) < taken.length_B[:, None]
    assert (taken.tokens_BL[~inside] == PAD).all()
    assert (taken.tokens_BL[:, 0] == BOS).all()
    assert taken.tokens_BL.shape[1] <= corpus.row_length
    kept = Counter(int(token) for token in taken.tokens_BL[inside] if token != BOS)
    assert kept == content(corpus, buffer)
    assert (taken.length_B[:-1] == corpus.row_length).all()
    assert taken.words_B.sum() == corpus.words_N[buffer].sum()
    assert sorted(rows.exposed(0, rows.pass_rows)) == buffer.tolist()


@given(corpora(), st.data())
def test_the_stream_is_the_same_whatever_batches_it_is_taken_in(corpus, data):
    buffer = np.arange(len(corpus.words_N))
    context = data.draw(st.sampled_from([None, Context(shuffles=2)]))
    whole = sleep_stream(corpus, buffer, 1, 0, context)
    total = 3 * whole.pass_rows
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, total - 1), max_size=4)) if total > 1 else []), total]
    parts = [sleep_stream(corpus, buffer, 1, 0, context).take(a, b - a) for a, b in pairwise(cuts)]
    rows = [row[:n].tolist() for part in parts for row, n in zip(part.tokens_BL, part.length_B, strict=True)]
    together = whole.take(0, total)
    assert rows == [row[:n].tolist() for row, n in zip(together.tokens_BL, together.length_B, strict=True)]
    exposed = np.concatenate([sleep_stream(corpus, buffer, 1, 0, context).exposed(a, b - a) for a, b in pairwise(cuts)])
    assert Counter(exposed.tolist()) == dict.fromkeys(buffer.tolist(), 3)


@given(corpora(), st.integers(0, 50))
def test_without_context_each_row_is_its_sample_and_each_pass_a_permutation(corpus, cycle):
    buffer = np.arange(len(corpus.words_N))
    rows = sleep_stream(corpus, buffer, 2, cycle, None)
    taken = rows.take(0, 2 * rows.pass_rows)
    assert sorted(taken.id_B[: rows.pass_rows]) == sorted(taken.id_B[rows.pass_rows :]) == buffer.tolist()
    for row, length, i, words in zip(taken.tokens_BL, taken.length_B, taken.id_B, taken.words_B, strict=True):
        assert row[:length].tolist() == corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]].tolist()
        assert words == corpus.words_N[i]
    assert sample_rows(corpus, buffer[:1]).id_B.tolist() == [0]


def test_arrangements_repeat_after_the_configured_number_of_shuffles():
    length = 9
    sizes = np.full(8, length)
    tokens = np.tile(np.concatenate([[BOS], np.arange(5, 13)]), 8).astype(np.uint16)
    corpus = SimpleNamespace(
        tokens=tokens, offsets=np.concatenate([[0], np.cumsum(sizes)]), words_N=np.full(8, 8, np.uint16), domain_N=None, row_length=length,
        word_initial_V=np.arange(13) > 4,
    )  # fmt: skip
    rows = sleep_stream(corpus, np.arange(8), 0, 0, Context(shuffles=2))
    passes = [rows.take(number * rows.pass_rows, rows.pass_rows).tokens_BL.tolist() for number in range(4)]
    assert passes[0] == passes[2] != passes[1] == passes[3]


def test_a_recut_worked_out_by_hand():
    # samples: <s> 5 6 </s> | <s> 7 8 9 ; order 1, 0 ; content 7 8 9 5 6 2 ; rotated by 2: 9 5 6 2 7 8 ; rows of <s> + 3
    corpus = SimpleNamespace(tokens=np.array([0, 5, 6, 2, 0, 7, 8, 9], np.uint16), offsets=np.array([0, 4, 8]), row_length=4)
    pieces = recut(corpus, np.array([1, 0]), 2)  # type: ignore[arg-type]
    assert pieces.tokens_ML.tolist() == [[0, 9, 5, 6], [0, 2, 7, 8]]
    assert pieces.first_row_k.tolist() == [0, 1]  # 5, the first token of sample 0, is in row 0; 7, that of sample 1, in row 1
    assert pieces.first_id_k.tolist() == [0, 1]
