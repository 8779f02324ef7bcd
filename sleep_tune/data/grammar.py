"""The embedded corpus: a seeded probabilistic grammar of child-directed English, written for this project.

Utterances are drawn in scenes: a domain (where one talks), a speaker and a topic. Speakers and topics drift along the corpus, so that its
parts differ and forgetting can be seen. Words are `lexicon.py`'s, phrases `phrases.py`'s, minimal pairs `minimal_pairs.py`'s.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from sleep_tune.data.lexicon import TOPICS, VERBS, Verb, held_out
from sleep_tune.data.phrases import (
    Dice,
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
from sleep_tune.streams import stream

Split = Literal["train", "dev"]
# What a rule makes: words without final punctuation, and the content lemmas in them.
Utterance = tuple[tuple[str, ...], tuple[str, ...]]
Rule = Callable[[Scene], Utterance]


@dataclass(frozen=True)
class Domain:
    """Where one talks: its share of the corpus, of questions and commands among utterances, and of the past among statements."""

    name: str
    words: float
    questions: float
    commands: float
    past: float


DOMAINS = (
    Domain("kitchen", 0.4, 0.44, 0.12, 0.15),
    Domain("playground", 0.35, 0.40, 0.12, 0.25),
    Domain("bedtime", 0.25, 0.36, 0.06, 0.5),
)
# Share of questions among what a speaker says, over the domain's, and how likely the speaker is at the start and at the end of the corpus.
SPEAKERS = {"mother": (1.15, 4, 2), "father": (1.0, 2, 3), "grandmother": (0.9, 2, 1), "child": (0.65, 1, 3)}
SCENE_UTTERANCES = 30
FORMULA_SHARE, REPEAT_SHARE, UNFINISHED_SHARE = 0.08, 0.04, 0.01
_FORMULAS = {
    "?": ("what is that", "what happened", "what is this", "are you ready", "where did it go", "what are you doing", "is it good"),
    ".": ("okay", "yes", "no", "here you are", "well done", "oh dear", "that is right", "I know", "come on", "thank you", "let us go"),
}


def corpus(words: int, seed: int, split: Split = "train") -> dict[str, Iterator[str]]:
    """Lines of every domain, together the first to reach `words` words by at most one line a domain; "" ends a scene.

    The held-out `dev` comes from streams of its own and runs through the same drift.
    """
    return {
        domain.name: _domain_lines(domain, round(words * domain.words), Dice(stream(seed, "grammar", ("train", "dev").index(split), rank)))
        for rank, domain in enumerate(DOMAINS)
    }


def _domain_lines(domain: Domain, words: int, dice: Dice) -> Iterator[str]:
    done = 0
    while done < words:
        if done:
            yield ""
        for line in _scene_lines(domain, done / words, dice):
            yield line
            done += line.count(" ") + 1
            if done >= words:
                return


def _scene_lines(domain: Domain, position: float, dice: Dice) -> Iterator[str]:
    """A scene's utterances at `position` in [0, 1) of the corpus: one speaker, mostly one topic, now and then a line again."""
    scene = Scene.of(dice, _topic(position, dice), domain.past)
    questions = domain.questions * _speaker(position, dice)
    said: list[str] = []
    while len(said) < SCENE_UTTERANCES:
        if len(said) > 2 and dice.chance(REPEAT_SHARE):
            line = dice.pick(said[:-1])
        else:
            line = _line(scene, "?" if dice.chance(questions) else ".", domain.commands)
        if not said or line != said[-1]:
            said.append(line)
            yield line


def _topic(position: float, dice: Dice) -> str:
    """Topics have their time: each is likeliest about its own place in the corpus, and never quite absent."""
    peaks = ((rank + 0.5) / len(TOPICS) for rank in range(len(TOPICS)))
    weights = [0.15 + math.exp(-(((position - peak) / 0.2) ** 2)) for peak in peaks]
    return dice.weighted(TOPICS, [sum(weights[: rank + 1]) for rank in range(len(TOPICS))])


def _speaker(position: float, dice: Dice) -> float:
    """How much more than others the speaker of a scene asks."""
    weights = [start + (end - start) * position for _, start, end in SPEAKERS.values()]
    name_ = dice.weighted(tuple(SPEAKERS), [sum(weights[: rank + 1]) for rank in range(len(weights))])
    return SPEAKERS[name_][0]


def _line(scene: Scene, mark: str, commands: float) -> str:
    dice = scene.dice
    end = "" if dice.chance(UNFINISHED_SHARE) else mark
    if dice.chance(FORMULA_SHARE):
        return dice.pick(_FORMULAS[mark]) + end
    kind = "questions" if mark == "?" else "commands" if dice.chance(commands / (1 - 0.4)) else "statements"
    rules, weights = _WEIGHTED[kind]
    rule = dice.weighted(rules, weights)
    while True:
        words, lemmas = rule(scene)
        if not meets_held_out(lemmas):
            return " ".join(words) + end


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
        _acts("someone"): 4,
        _acts("oneself"): 4,
        _acts("gives"): 16,
        _names_self: 20,
        _beside_acts: 17,
        _habit: 5,
        _want: 5,
        _is: 4,
        _this_is: 4,
        _has: 5,
        _there_is: 3,
    },
    "questions": {_what: 8, _do_you_know: 3, _where: 7, _whether: 14, _who: 4, _want_any: 3, _is_it: 3},
    "commands": {_look_at: 6, _do_it: 4},
}
_WEIGHTED = {kind: (tuple(rules), [sum(list(rules.values())[: n + 1]) for n in range(len(rules))]) for kind, rules in RULES.items()}
