"""Minimal pairs that test what the embedded corpus teaches, in BLiMP's format.

Every good sentence is one that the grammar could say but never does: it holds two content words that are kept apart there. The bad one
differs by one word, or by the order of the same words.
"""

from collections.abc import Callable, Iterator
from functools import partial

from sleep_tune.data.lexicon import PEOPLE, THINGS, VERBS, Verb
from sleep_tune.data.phrases import Dice, NounPhrase, Scene, be, complement, name, noun_phrase, present, reflexive, subject, thing
from sleep_tune.data.utterances import action, asked, beside, meets_held_out, polarity
from sleep_tune.streams import stream

Words = tuple[str, ...]
# A drawn pair: the good sentence, the bad one, final punctuation, and the content lemmas of the good one; None if this draw gives no pair.
Pair = tuple[Words, Words, str, tuple[str, ...]] | None

PAIRS_A_PARADIGM = 100
_OTHER_NUMBER = {"this": "these", "these": "this", "that": "those", "those": "that", "is": "are", "are": "is", "was": "were", "were": "was"}
_OTHER_GENDER = {"himself": "herself", "herself": "himself"}
_TRANSITIVE = VERBS["thing"] + VERBS["someone"]
# Verbs that English, too, refuses in these frames: "the dog is pushing in the garden" and "Tom found Anna the ball" are fine.
_ALWAYS_TRANSITIVE = tuple(verb for verb in _TRANSITIVE if verb.lemma in ("find", "hold", "drop", "carry", "fix", "hug", "chase"))
_NEVER_DITRANSITIVE = tuple(verb for verb in _TRANSITIVE if verb.lemma in ("hold", "drop", "push", "chase"))


def minimal_pairs(seed: int, count: int = PAIRS_A_PARADIGM) -> list[dict[str, str | int | bool]]:
    """`count` pairs of every paradigm, as BLiMP's records; which words are kept apart does not depend on the seed."""
    records: list[dict[str, str | int | bool]] = []
    for number, (uid, (field, term, draw)) in enumerate(PARADIGMS.items()):
        scene = Scene.of(Dice(stream(seed, "grammar", 2, number)), "", 0.3)
        for pair_id, (good, bad) in enumerate(_different_pairs(partial(draw, scene), count)):
            record = {"sentence_good": good, "sentence_bad": bad, "field": field, "linguistics_term": term, "UID": uid}
            same_words = sorted(good[:-1].split()) == sorted(bad[:-1].split())
            records.append(record | {"simple_LM_method": True, "lexically_identical": same_words, "pair_id": pair_id})
    return records


def _different_pairs(draw: Callable[[], Pair], count: int) -> Iterator[tuple[str, str]]:
    """`count` pairs with different good sentences, each with a held-out combination."""
    seen: set[str] = set()
    for _ in range(1000 * count):
        pair = draw()
        if pair is None or not meets_held_out(pair[3]):
            continue
        good, bad = (" ".join(words) + pair[2] for words in pair[:2])
        if good not in seen:
            seen.add(good)
            yield good, bad
        if len(seen) == count:
            return
    raise AssertionError(f"the lexicon gives only {len(seen)} of {count} pairs")


def _swapped(words: Words, old: str, new: str) -> Words:
    """`words` with the first `old` replaced."""
    place = words.index(old)
    return (*words[:place], new, *words[place + 1 :])


def _person(scene: Scene, plural: bool) -> NounPhrase:
    """Someone whose gender is known: Anna, the boy, the girls."""
    if not plural and scene.dice.chance(0.6):
        return name(scene)
    return noun_phrase(scene, scene.dice.pick(PEOPLE), plural, "the", adjective=0)


def _someone(scene: Scene, plural: bool) -> NounPhrase:
    """The dog, the big dogs."""
    return noun_phrase(scene, scene.noun("being"), plural, scene.dice.pick(("the", "the", "my", "your")), adjective=0.15)


def _form(scene: Scene, who: NounPhrase, verb: Verb) -> Words:
    """washed, is washing, was washing, can wash."""
    return scene.dice.pick(((verb.past,), (be(who), verb.ing), (be(who, past=True), verb.ing), ("can", verb.lemma), ("will", verb.lemma)))


def _perhaps_place(scene: Scene) -> Words:
    return scene.place() if scene.dice.chance(0.4) else ()


def determiner_noun_agreement(scene: Scene) -> Pair:
    """Look at these red balls. / *this"""
    plural = scene.dice.chance(0.5)
    determiner = scene.dice.pick(("these", "those") if plural else ("this", "that"))
    what = noun_phrase(scene, scene.noun(scene.dice.pick(("being", "object"))), plural, determiner, adjective=1)
    start = scene.dice.pick(("look at", "look at", "I want", "you like", "we need", "they want"))
    good = (*start.split(), *what.words)
    return good, _swapped(good, determiner, _OTHER_NUMBER[determiner]), ".", what.lemmas


def subject_verb_agreement(scene: Scene) -> Pair:
    """The dogs are sleeping. / *is"""
    who, verb = _someone(scene, scene.dice.chance(0.5)), scene.verb("nothing")
    what = complement(scene, verb, who)
    if scene.dice.chance(0.5):
        is_ = be(who, scene.dice.chance(0.3))
        good = (*who.words, is_, verb.ing, *what.words)
        return good, _swapped(good, is_, _OTHER_NUMBER[is_]), ".", (*who.lemmas, verb.lemma)
    form = present(verb, who)
    good = (*who.words, form, *what.words)
    return good, _swapped(good, form, verb.third if form == verb.lemma else verb.lemma), ".", (*who.lemmas, verb.lemma)


def distractor_agreement(scene: Scene) -> Pair:
    """The dog near the cats is sleeping. / *are"""
    plural = scene.dice.chance(0.5)
    who, verb = beside(scene, plural, not plural), scene.verb("nothing")
    is_ = be(who, scene.dice.chance(0.3))
    good = (*who.words, is_, verb.ing)
    return good, _swapped(good, is_, _OTHER_NUMBER[is_]), ".", (*who.lemmas, verb.lemma)


def anaphor_gender_agreement(scene: Scene) -> Pair:
    """Anna washed herself. / *himself"""
    who, verb = _person(scene, False), scene.verb("oneself")
    oneself = reflexive(who)
    good = (*who.words, *_form(scene, who, verb), oneself, *_perhaps_place(scene))
    return good, _swapped(good, oneself, _OTHER_GENDER[oneself]), ".", (*who.lemmas, verb.lemma)


def anaphor_number_agreement(scene: Scene) -> Pair:
    """The girls washed themselves. / *herself"""
    plural = scene.dice.chance(0.5)
    who, verb = _person(scene, plural), scene.verb("oneself")
    other = NounPhrase(who.words, who.lemmas, not plural, 3, who.gender)
    form = scene.dice.pick(((verb.past,), ("can", verb.lemma), ("will", verb.lemma)))  # none agrees with its subject
    place = _perhaps_place(scene)
    good, bad = ((*who.words, *form, reflexive(antecedent), *place) for antecedent in (who, other))
    return good, bad, ".", (*who.lemmas, verb.lemma)


def npi_licensing(scene: Scene) -> Pair:
    """The boy never eats any apples. / *always"""
    verb = scene.verb(scene.dice.pick(("food", "thing")))
    good, lemmas = polarity(scene, subject(scene), verb, never=True)
    return good, _swapped(good, "never", "always"), ".", lemmas


def question_inversion(scene: Scene) -> Pair:
    """What is the dog eating? / *What the dog is eating?"""
    who, verb = subject(scene), scene.verb(scene.dice.pick(("food", "thing")))
    auxiliary, form = asked(scene, who, verb)
    good = ("what", auxiliary, *who.words, form)
    return good, ("what", *who.words, auxiliary, form), "?", (*who.lemmas, verb.lemma)


def transitive_frame(scene: Scene) -> Pair:
    """The boy is sleeping in the garden. / *holding"""
    who, verb, other = subject(scene), scene.verb("nothing"), scene.dice.pick(_ALWAYS_TRANSITIVE)
    good = (*who.words, be(who), verb.ing, *scene.place())
    return good, _swapped(good, verb.ing, other.ing), ".", (*who.lemmas, verb.lemma)


def ditransitive_frame(scene: Scene) -> Pair:
    """Tom gave Anna the ball. / *hugged"""
    who, verb, other = subject(scene), scene.verb("gives"), scene.dice.pick(_NEVER_DITRANSITIVE)
    to, what = _person(scene, scene.dice.chance(0.3)), thing(scene, adjective=0)
    form, wrong = (verb.past, other.past) if scene.dice.chance(0.5) else (verb.ing, other.ing)
    start = who.words if form == verb.past else (*who.words, be(who))
    rest = (*to.words, *what.words)
    return (*start, form, *rest), (*start, wrong, *rest), ".", (*who.lemmas, verb.lemma, *to.lemmas, *what.lemmas)


def animate_subject(scene: Scene) -> Pair:
    """The dog is eating the apple. / *The spoon"""
    verb = scene.verb(scene.dice.pick(("food", "thing", "someone")))
    plural = scene.dice.chance(0.5)
    who, other = noun_phrase(scene, scene.noun("being"), plural, "the", adjective=0), scene.dice.pick(THINGS)
    good, lemmas = action(scene, who, verb)
    return good, _swapped(good, who.words[-1], other.plural if plural else other.lemma), ".", lemmas


def auxiliary_form(scene: Scene) -> Pair:
    """Did the dog find the ball? / *found"""
    who, verb = subject(scene), scene.verb(scene.dice.pick(("nothing", "thing", "food")))
    what = complement(scene, verb, who)
    lemmas = (*who.lemmas, verb.lemma, *what.lemmas)
    wrong = scene.dice.pick((verb.third, verb.past, verb.ing))
    if wrong == verb.lemma:  # cut, hurt
        return None
    if scene.dice.chance(0.5):
        start: Words = (*who.words, scene.dice.pick(("can", "will")))
        return (*start, verb.lemma, *what.words), (*start, wrong, *what.words), ".", lemmas
    start = (scene.dice.pick(("did", "can")), *who.words)
    return (*start, verb.lemma, *what.words), (*start, wrong, *what.words), "?", lemmas


# UID -> field, linguistic term, and the rule that draws a pair.
PARADIGMS: dict[str, tuple[str, str, Callable[[Scene], Pair]]] = {
    "determiner_noun_agreement": ("morphology", "determiner_noun_agreement", determiner_noun_agreement),
    "subject_verb_agreement": ("morphology", "subject_verb_agreement", subject_verb_agreement),
    "distractor_agreement": ("morphology", "subject_verb_agreement", distractor_agreement),
    "anaphor_gender_agreement": ("morphology", "anaphor_agreement", anaphor_gender_agreement),
    "anaphor_number_agreement": ("morphology", "anaphor_agreement", anaphor_number_agreement),
    "auxiliary_form": ("morphology", "verb_form", auxiliary_form),
    "npi_licensing": ("semantics", "npi_licensing", npi_licensing),
    "question_inversion": ("syntax", "filler_gap_dependency", question_inversion),
    "transitive_frame": ("syntax", "argument_structure", transitive_frame),
    "ditransitive_frame": ("syntax", "argument_structure", ditransitive_frame),
    "animate_subject": ("syntax", "s-selection", animate_subject),
}
