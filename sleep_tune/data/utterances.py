"""Utterances of the embedded grammar: statements, questions and commands as rules of a scene. Phrases are `phrases.py`'s."""

from collections.abc import Callable
from itertools import combinations

from sleep_tune.data.lexicon import VERBS, Verb, held_out
from sleep_tune.data.phrases import (
    NounPhrase,
    Scene,
    be,
    complement,
    do,
    name,
    noun_phrase,
    possessive,
    present,
    reflexive,
    some_or_any,
    subject,
    thing,
)

# What a rule makes: words without final punctuation, and the content lemmas in them.
Utterance = tuple[tuple[str, ...], tuple[str, ...]]
Rule = Callable[[Scene], Utterance]


def meets_held_out(lemmas: tuple[str, ...]) -> bool:
    """Whether two of these content words are kept apart in the corpus."""
    return any(held_out(first, second) for first, second in combinations(lemmas, 2))


# Statements


def action(scene: Scene, agent: NounPhrase, verb: Verb) -> Utterance:
    """`agent` does `verb`: is eating, eats, ate, can eat."""
    dice = scene.dice
    what = complement(scene, verb, agent)
    past, roll = dice.chance(scene.past), dice.roll()
    if roll < 0.5:
        form: tuple[str, ...] = (be(agent, past), verb.ing)
    elif roll < 0.7 and not past:
        form = (dice.pick(("can", "will")), verb.lemma)
    else:
        form = (verb.past if past else present(verb, agent),)
    place = scene.place() if verb.frame in ("thing", "food", "someone") and dice.chance(0.2) else ()
    return agent.words + form + what.words + place, (*agent.lemmas, verb.lemma, *what.lemmas)


def _acts(frame: str) -> Rule:
    return lambda scene: action(scene, subject(scene), scene.verb(frame))


def beside(scene: Scene, plural: bool, other_plural: bool) -> NounPhrase:
    """The dog near the cats: agreement is with the first noun."""
    first = noun_phrase(scene, scene.noun("being"), plural, "the", adjective=0)
    second = noun_phrase(scene, scene.noun("being"), other_plural, "the", adjective=0)
    return NounPhrase((*first.words, scene.dice.pick(("near", "by")), *second.words), first.lemmas + second.lemmas, plural, 3, first.gender)


def _beside_acts(scene: Scene) -> Utterance:
    plural = scene.dice.chance(0.5)
    who = beside(scene, plural, scene.dice.chance(0.5))
    verb = scene.verb("nothing")
    if scene.dice.chance(0.5):
        adjective = scene.adjective()
        return (*who.words, be(who, scene.dice.chance(scene.past)), adjective), (*who.lemmas, adjective)
    return (*who.words, be(who, scene.dice.chance(scene.past)), verb.ing), (*who.lemmas, verb.lemma)


def polarity(scene: Scene, agent: NounPhrase, verb: Verb, never: bool) -> Utterance:
    """She never eats any apples; she always eats some apples."""
    what = some_or_any(scene, "any" if never else "some", "food" if verb.frame == "food" else "object")
    words = (*agent.words, "never" if never else "always", present(verb, agent), *what.words)
    return words, (*agent.lemmas, verb.lemma, *what.lemmas)


def _habit(scene: Scene) -> Utterance:
    verb = scene.verb(scene.dice.pick(("food", "thing")))
    return polarity(scene, subject(scene), verb, scene.dice.chance(0.6))


def _want(scene: Scene) -> Utterance:
    who = subject(scene)
    if scene.dice.chance(0.4):
        what = some_or_any(scene, "any")
        return (*who.words, do(who), "not", "want", *what.words), who.lemmas + what.lemmas
    what = some_or_any(scene, "some") if scene.dice.chance(0.5) else thing(scene)
    verb = scene.dice.pick(("want", "like", "need"))
    return (*who.words, verb + "s" * who.third_singular, *what.words), who.lemmas + what.lemmas


def _is(scene: Scene) -> Utterance:
    what = thing(scene) if scene.dice.chance(0.5) else subject(scene)
    adjective = scene.adjective()
    return (*what.words, be(what, scene.dice.chance(scene.past)), adjective), (*what.lemmas, adjective)


def _this_is(scene: Scene) -> Utterance:
    plural = scene.dice.chance(0.5)
    determiner = scene.dice.pick(("my", "your", "some" if plural else "a"))
    what = noun_phrase(scene, scene.noun(scene.dice.pick(("being", "object"))), plural, determiner)
    this = scene.dice.pick(("these", "those") if plural else ("this", "that"))
    return (this, be(what), *what.words), what.lemmas


def _has(scene: Scene) -> Utterance:
    who, noun = subject(scene), scene.noun("object")
    what = noun_phrase(scene, noun, scene.dice.chance(0.3), possessive(who), adjective=0.2)
    verb = "lost" if scene.dice.chance(scene.past) else "has" if who.third_singular else "have"
    return (*who.words, verb, *what.words), who.lemmas + what.lemmas


def _there_is(scene: Scene) -> Utterance:
    plural = scene.dice.chance(0.5)
    noun = scene.noun(scene.dice.pick(("being", "object")))
    what = noun_phrase(scene, noun, plural, scene.dice.pick(("two", "three", "some")) if plural else "a")
    return ("there", be(what, scene.dice.chance(scene.past)), *what.words, *scene.place()), what.lemmas


# Questions


def asked(scene: Scene, agent: NounPhrase, verb: Verb) -> tuple[str, str]:
    """The auxiliary and the form of `verb` that a question about `agent` takes."""
    past, roll = scene.dice.chance(scene.past), scene.dice.roll()
    if roll < 0.55:
        return be(agent, past), verb.ing
    return (do(agent, past) if roll < 0.85 else "can"), verb.lemma


def _what(scene: Scene) -> Utterance:
    agent, verb = subject(scene), scene.verb(scene.dice.pick(("food", "thing")))
    auxiliary, form = asked(scene, agent, verb)
    return ("what", auxiliary, *agent.words, form), (*agent.lemmas, verb.lemma)


def _do_you_know(scene: Scene) -> Utterance:
    agent, verb = subject(scene), scene.verb(scene.dice.pick(("food", "thing")))
    return ("do", "you", "know", "what", *agent.words, be(agent), verb.ing), (*agent.lemmas, verb.lemma)


def _where(scene: Scene) -> Utterance:
    if scene.dice.chance(0.5):
        what = thing(scene)
        return ("where", be(what, scene.dice.chance(scene.past)), *what.words), what.lemmas
    agent, verb = subject(scene), scene.verb("nothing")
    auxiliary, form = asked(scene, agent, verb)
    return ("where", auxiliary, *agent.words, form), (*agent.lemmas, verb.lemma)


def _whether(scene: Scene) -> Utterance:
    agent, verb = subject(scene), scene.verb(scene.dice.pick(tuple(VERBS)))
    auxiliary, form = asked(scene, agent, verb)
    what = complement(scene, verb, agent)
    return (auxiliary, *agent.words, form, *what.words), (*agent.lemmas, verb.lemma, *what.lemmas)


def _who(scene: Scene) -> Utterance:
    verb = scene.verb(scene.dice.pick(("nothing", "food", "thing", "someone")))
    someone = NounPhrase(("who",))
    past = scene.dice.chance(scene.past)
    what = complement(scene, verb, someone)
    form = (be(someone, past), verb.ing) if scene.dice.chance(0.6) else (verb.past if past else verb.third,)
    return ("who", *form, *what.words), (verb.lemma, *what.lemmas)


def _want_any(scene: Scene) -> Utterance:
    who, what = subject(scene), some_or_any(scene, "any")
    return (do(who), *who.words, "want", *what.words), who.lemmas + what.lemmas


def _is_it(scene: Scene) -> Utterance:
    what = thing(scene, scene.dice.pick(("being", "object")))
    adjective = scene.adjective()
    return (be(what), *what.words, adjective), (*what.lemmas, adjective)


# Commands


def _look_at(scene: Scene) -> Utterance:
    plural = scene.dice.chance(0.5)
    determiner = scene.dice.pick(("these", "those", "the") if plural else ("this", "that", "the"))
    what = noun_phrase(scene, scene.noun(scene.dice.pick(("being", "object"))), plural, determiner, adjective=0.6)
    return ("look", "at", *what.words), what.lemmas


def _do_it(scene: Scene) -> Utterance:
    verb = scene.verb(scene.dice.pick(("thing", "food", "gives", "gives", "oneself", "someone")))
    what = complement(scene, verb, NounPhrase(("you",), person=2))
    start = () if scene.dice.chance(0.7) else ("do", "not")
    return (*start, verb.lemma, *what.words), (verb.lemma, *what.lemmas)


def _names_self(scene: Scene) -> Utterance:
    """Reflexives of people, whose gender only they and possessives show."""
    who = name(scene) if scene.dice.chance(0.6) else noun_phrase(scene, scene.noun("person"), scene.dice.chance(0.4), "the", adjective=0)
    verb = scene.verb("oneself")
    past = scene.dice.chance(scene.past)
    form = scene.dice.pick(((be(who, past), verb.ing), (verb.past,), (scene.dice.pick(("can", "will")), verb.lemma)))
    place = scene.place() if scene.dice.chance(0.35) else ()
    return (*who.words, *form, reflexive(who), *place), (*who.lemmas, verb.lemma)


RULES: dict[str, dict[Rule, float]] = {
    "statements": {
        _acts("nothing"): 9,
        _acts("thing"): 7,
        _acts("food"): 4,
        _acts("someone"): 3,
        _acts("oneself"): 3,
        _acts("gives"): 16,
        _names_self: 25,
        _beside_acts: 17,
        _habit: 5,
        _want: 5,
        _is: 3,
        _this_is: 3,
        _has: 7,
        _there_is: 3,
    },
    "questions": {_what: 8, _do_you_know: 3, _where: 7, _whether: 14, _who: 4, _want_any: 3, _is_it: 3},
    "commands": {_look_at: 7, _do_it: 3},
}
