"""Phrases of the embedded grammar: noun phrases, verb forms that agree, objects that verbs ask for. Utterances are `grammar.py`'s."""

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from numpy.random import Generator

from sleep_tune.data.lexicon import ADJECTIVES, ANIMALS, FOOD, MASS, NAMES, PEOPLE, PLACES, THINGS, VERBS, Noun, Verb

T = TypeVar("T")

KINDS = {
    "person": PEOPLE,
    "being": PEOPLE + ANIMALS,
    "animal": ANIMALS,
    "food": FOOD,
    "thing": THINGS,
    "object": THINGS + FOOD,
    "name": NAMES,
}
_SINGULAR = ("the", "the", "a", "a", "this", "this", "that", "that", "my", "your")
_PLURAL = ("the", "the", "these", "these", "those", "those", "my", "your", "some", "two", "three")
_TOPIC_BOOST = 6.0


class Dice:
    """Uniform draws from one generator, taken in blocks: a call of NumPy for every word would cost more than the grammar."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._values: Iterator[float] = iter(())

    def roll(self) -> float:
        """A number in [0, 1)."""
        for value in self._values:
            return value
        self._values = iter(self._generator.random(4096).tolist())
        return self.roll()

    def chance(self, probability: float) -> bool:
        """True with `probability`."""
        return self.roll() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, all equally likely."""
        return items[int(self.roll() * len(items))]

    def weighted(self, items: Sequence[T], cumulative: Sequence[float]) -> T:
        """One of `items`, likely in proportion to the steps of `cumulative`."""
        return items[min(bisect(cumulative, self.roll() * cumulative[-1]), len(items) - 1)]


def zipf(items: Sequence[object], boosts: Sequence[float] | None = None) -> list[float]:
    """Cumulative weights by rank, 1/(rank + 2), times `boosts`."""
    return list(accumulate((boosts[rank] if boosts else 1.0) / (rank + 3) for rank in range(len(items))))


_VERB_WEIGHTS = {frame: zipf(verbs) for frame, verbs in VERBS.items()}
_ADJECTIVE_WEIGHTS = zipf(ADJECTIVES)


@dataclass(frozen=True)
class Scene:
    """Where an utterance is drawn: dice, the words that this topic makes likely, and how often one speaks of the past."""

    dice: Dice
    noun_weights: Mapping[str, Sequence[float]]
    past: float

    @staticmethod
    def of(dice: Dice, topic: str, past: float) -> "Scene":
        """A scene about `topic`, or about everything if it is empty."""
        boosts = {kind: [_TOPIC_BOOST if topic and noun.topic == topic else 1.0 for noun in nouns] for kind, nouns in KINDS.items()}
        return Scene(dice, {kind: zipf(nouns, boosts[kind]) for kind, nouns in KINDS.items()}, past)

    def noun(self, kind: str) -> Noun:
        """A noun of one of KINDS."""
        return self.dice.weighted(KINDS[kind], self.noun_weights[kind])

    def verb(self, frame: str) -> Verb:
        """A verb of `frame`."""
        return self.dice.weighted(VERBS[frame], _VERB_WEIGHTS[frame])

    def adjective(self) -> str:
        """An adjective."""
        return self.dice.weighted(ADJECTIVES, _ADJECTIVE_WEIGHTS)

    def place(self) -> tuple[str, ...]:
        """A place, as words."""
        return tuple(self.dice.pick(PLACES).split())


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """Words, the content lemmas in them, and what verbs and anaphors agree with."""

    words: tuple[str, ...]
    lemmas: tuple[str, ...] = ()
    plural: bool = False
    person: int = 3
    gender: str = "n"

    @property
    def third_singular(self) -> bool:
        """Whether a present verb takes its -s form."""
        return self.person == 3 and not self.plural


PRONOUNS = {
    "I": NounPhrase(("I",), person=1),
    "you": NounPhrase(("you",), person=2),
    "he": NounPhrase(("he",), gender="m"),
    "she": NounPhrase(("she",), gender="f"),
    "we": NounPhrase(("we",), person=1, plural=True),
    "they": NounPhrase(("they",), plural=True),
}
_SPEAKERS_PRONOUNS = ("you", "you", "I", "he", "she", "we", "they", "they")


def noun_phrase(scene: Scene, noun: Noun, plural: bool, determiner: str = "", adjective: float = 0.2) -> NounPhrase:
    """`determiner` (drawn if empty), perhaps an adjective, and `noun` in its number."""
    dice = scene.dice
    adjectives = (scene.adjective(),) if dice.chance(adjective) else ()
    head = (*adjectives, noun.plural if plural else noun.lemma)
    determiner = determiner or dice.pick(_PLURAL if plural else _SINGULAR)
    if determiner == "a" and head[0][0] in "aeiou":
        determiner = "an"
    return NounPhrase((determiner, *head), (*adjectives, noun.lemma), plural, 3, noun.gender)


def name(scene: Scene) -> NounPhrase:
    """A name: Anna."""
    noun = scene.noun("name")
    return NounPhrase((noun.lemma,), (noun.lemma,), False, 3, noun.gender)


def subject(scene: Scene) -> NounPhrase:
    """Who does it: a pronoun, a name, or people and animals."""
    roll = scene.dice.roll()
    if roll < 0.2:
        return PRONOUNS[scene.dice.pick(_SPEAKERS_PRONOUNS)]
    if roll < 0.4:
        return name(scene)
    return noun_phrase(scene, scene.noun("being"), scene.dice.chance(0.5))


def receiver(scene: Scene) -> NounPhrase:
    """Who gets it: me, her, Anna, the baby."""
    roll = scene.dice.roll()
    if roll < 0.35:
        return NounPhrase((scene.dice.pick(("me", "me", "him", "her", "us", "them")),))
    return name(scene) if roll < 0.65 else noun_phrase(scene, scene.noun("being"), scene.dice.chance(0.3), adjective=0.1)


def thing(scene: Scene, kind: str = "object", adjective: float = 0.3) -> NounPhrase:
    """A thing, or things."""
    return noun_phrase(scene, scene.noun(kind), scene.dice.chance(0.4), adjective=adjective)


def some_or_any(scene: Scene, word: str, kind: str = "food") -> NounPhrase:
    """`word` (some, any) with a plural or a mass noun: any apples, any milk."""
    if kind == "food" and scene.dice.chance(0.4):
        mass = scene.dice.pick(MASS)
        return NounPhrase((word, mass), (mass,))
    return noun_phrase(scene, scene.noun(kind), True, word, adjective=0)


def reflexive(antecedent: NounPhrase) -> str:
    """The reflexive pronoun that agrees with `antecedent`."""
    if antecedent.person == 1:
        return "ourselves" if antecedent.plural else "myself"
    if antecedent.person == 2:
        return "yourself"
    return "themselves" if antecedent.plural else {"f": "herself", "m": "himself", "n": "itself"}[antecedent.gender]


def possessive(owner: NounPhrase) -> str:
    """The possessive that agrees with `owner`."""
    if owner.person == 1:
        return "our" if owner.plural else "my"
    if owner.person == 2:
        return "your"
    return "their" if owner.plural else {"f": "her", "m": "his", "n": "its"}[owner.gender]


def be(phrase: NounPhrase, past: bool = False) -> str:
    """am, is, are, was, were."""
    if past:
        return "was" if not phrase.plural and phrase.person != 2 else "were"
    if phrase.person == 1 and not phrase.plural:
        return "am"
    return "is" if phrase.third_singular else "are"


def do(phrase: NounPhrase, past: bool = False) -> str:
    """do, does, did."""
    return "did" if past else "does" if phrase.third_singular else "do"


def present(verb: Verb, phrase: NounPhrase) -> str:
    """The present form of `verb` that agrees with `phrase`."""
    return verb.third if phrase.third_singular else verb.lemma


def complement(scene: Scene, verb: Verb, agent: NounPhrase) -> NounPhrase:
    """What `verb` asks for after it; words that agree agree with `agent`."""
    dice = scene.dice
    if verb.frame == "nothing":
        return NounPhrase(scene.place() if dice.chance(0.45) else ())
    if verb.frame == "oneself" and dice.chance(0.75):
        return NounPhrase((reflexive(agent),))
    if verb.frame in ("someone", "oneself"):
        return name(scene) if dice.chance(0.3) else noun_phrase(scene, scene.noun("being"), dice.chance(0.4), adjective=0.15)
    if verb.frame == "gives":
        to, what = receiver(scene), thing(scene, adjective=0.1)
        words = (*to.words, *what.words) if dice.chance(0.8) else (*what.words, "to", *to.words)
        return NounPhrase(words, to.lemmas + what.lemmas)
    return thing(scene, "food" if verb.frame == "food" else "object")
