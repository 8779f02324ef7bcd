"""The embedded corpus has the shape of child-directed speech, and its minimal pairs are new to who learned from it."""

import re
from collections import Counter
from itertools import combinations, pairwise

import pytest

from sleep_tune.data import lexicon
from sleep_tune.data.grammar import DOMAINS, corpus
from sleep_tune.data.lexicon import held_out
from sleep_tune.data.minimal_pairs import PARADIGMS, minimal_pairs

NOUNS = {noun for group in (lexicon.PEOPLE, lexicon.ANIMALS, lexicon.FOOD, lexicon.THINGS) for noun in group}
LEMMAS = (
    {form: noun.lemma for noun in NOUNS for form in (noun.lemma, noun.plural)}
    | {form: verb.lemma for verbs in lexicon.VERBS.values() for verb in verbs for form in (verb.lemma, verb.third, verb.past, verb.ing)}
    | {word: word for word in (*lexicon.ADJECTIVES, *lexicon.MASS, *(name.lemma for name in lexicon.NAMES))}
)


def words_of(line: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", line)


def content(line: str) -> list[str]:
    return [LEMMAS[word] for word in words_of(line) if word in LEMMAS]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return [line for domain in corpus(50_000, seed=1).values() for line in domain if line]


def test_the_corpus_has_the_asked_words_in_every_domain() -> None:
    counts = {domain: sum(len(line.split()) for line in lines) for domain, lines in corpus(50_000, seed=1).items()}
    assert len(counts) == len(DOMAINS) >= 3
    for domain in DOMAINS:
        assert 0 <= counts[domain.name] - 50_000 * domain.words < 20


def test_utterances_have_the_shape_of_child_directed_speech(lines: list[str]) -> None:
    assert 5 <= sum(len(line.split()) for line in lines) / len(lines) <= 6
    assert 0.37 <= sum(line.endswith("?") for line in lines) / len(lines) <= 0.41
    assert 0.985 <= sum(line[-1] in ".?!" for line in lines) / len(lines) <= 0.995
    assert 0.19 <= 1 - len(set(lines)) / len(lines) <= 0.25


def test_lines_do_not_follow_their_like_so_that_cleaning_keeps_all_words() -> None:
    for domain in corpus(20_000, seed=3).values():
        lines = list(domain)
        assert all(first != second for first, second in pairwise(lines))


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    first, again, other = ({name: list(lines) for name, lines in corpus(5_000, seed).items()} for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first != {name: list(lines) for name, lines in corpus(5_000, 1, "dev").items()}


def test_topics_drift_so_that_the_parts_of_the_corpus_differ() -> None:
    topics = {form: noun.topic for noun in NOUNS if noun.topic for form in (noun.lemma, noun.plural)}
    lines = list(corpus(100_000, seed=1)["kitchen"])
    thirds = [lines[: len(lines) // 3], lines[-len(lines) // 3 :]]
    early, late = (Counter(topics[word] for line in part for word in words_of(line) if word in topics) for part in thirds)
    assert early["farm"] / early.total() > 1.5 * late["farm"] / late.total()
    assert late["outside"] / late.total() > 1.5 * early["outside"] / early.total()


def test_words_are_used_as_zipf_found(lines: list[str]) -> None:
    counts = sorted(Counter(word for line in lines for word in words_of(line)).values(), reverse=True)
    assert sum(counts[:20]) > 0.35 * sum(counts)
    assert counts[-1] < counts[0] / 100


def test_held_out_combinations_never_meet_in_train_or_dev() -> None:
    for split in ("train", "dev"):
        for domain in corpus(50_000, seed=2, split=split).values():
            for line in domain:
                assert not any(held_out(first, second) for first, second in combinations(content(line), 2)), line


@pytest.mark.parametrize("seed", [1, 2])
def test_every_paradigm_has_a_hundred_pairs_of_held_out_combinations(seed: int, lines: list[str]) -> None:
    pairs, said = minimal_pairs(seed), set(lines)
    assert set(Counter(pair["UID"] for pair in pairs).values()) == {100}
    assert len(PARADIGMS) >= 8
    for pair in pairs:
        good, bad = str(pair["sentence_good"]), str(pair["sentence_bad"])
        assert any(held_out(first, second) for first, second in combinations(content(good), 2)), good
        assert good not in said
        assert bad not in said
        assert {"sentence_good", "sentence_bad", "field", "linguistics_term", "UID"} <= pair.keys()


def test_good_and_bad_differ_by_one_word_or_by_order_only() -> None:
    for pair in minimal_pairs(1):
        good, bad = words_of(str(pair["sentence_good"])), words_of(str(pair["sentence_bad"]))
        assert good != bad
        assert len(good) == len(bad)
        one_word = sum(first != second for first, second in zip(good, bad, strict=True)) == 1
        assert one_word or sorted(good) == sorted(bad), pair
        assert pair["lexically_identical"] == (sorted(good) == sorted(bad))


def word_classes() -> dict[str, str]:
    """Words by what grammar may distinguish; a noun's kind and gender, a verb's form and frame."""
    classes: dict[str, str] = {}
    for noun in (*NOUNS, *lexicon.NAMES):
        kind = "being" if noun.kind in ("person", "animal") else noun.kind
        role = f"{kind}-{noun.gender}"
        classes |= {noun.lemma: f"name-{noun.gender}"} if noun in lexicon.NAMES else {noun.lemma: role, noun.plural: f"{role}-s"}
    for frame, verbs in lexicon.VERBS.items():
        for verb in verbs:
            forms = {"base": verb.lemma, "third": verb.third, "past": verb.past, "ing": verb.ing}
            for form, word in forms.items():
                classes[word] = f"{frame}-{word if word == 'hurt' else form}"
    classes |= dict.fromkeys(["the", "my", "your", "a", "an"], "the")
    return classes | dict.fromkeys(lexicon.ADJECTIVES, "adjective") | dict.fromkeys(lexicon.MASS, "mass")


def test_the_grammar_says_sentences_like_the_good_ones_and_never_like_the_bad_ones() -> None:
    classes = word_classes()

    def template(line: str) -> str:
        line = re.sub("|".join(lexicon.PLACES), "somewhere", line)
        words = " ".join(classes.get(word, word) for word in words_of(line)) + line[-1]
        return words if "sel" in words else re.sub(r"-[fmn]\b", "", words)  # gender matters for himself, herself and themselves

    said = {template(line) for seed in range(2) for domain in corpus(300_000, seed).values() for line in domain if line}
    pairs = minimal_pairs(1)
    wrong = [pair["sentence_bad"] for pair in pairs if template(str(pair["sentence_bad"])) in said]
    assert not wrong
    known = [template(str(pair["sentence_good"])) in said for pair in pairs]
    assert sum(known) / len(known) > 0.8
