"""The words of the embedded corpus: nouns with number, kind, gender and topic; verbs with their forms and frames.

Lists are in order of frequency: a word's weight falls with its rank, as Zipf found.
"""

from dataclasses import dataclass
from functools import cache
from zlib import crc32

TOPICS = ("farm", "food", "toys", "clothes", "outside")
# Of all pairs of content words, one in HELD_OUT_SHARE never meets in an utterance of the corpus; minimal pairs are built around those.
HELD_OUT_SHARE = 10


@dataclass(frozen=True, slots=True)
class Noun:
    """`kind` is person, animal, food or thing; `gender` f, m or n; `topic` one of TOPICS, or "" for people, who belong to all."""

    lemma: str
    plural: str
    kind: str
    gender: str
    topic: str


@dataclass(frozen=True, slots=True)
class Verb:
    """`frame` names what must follow: nothing, a thing, food, someone, oneself, or a receiver and a thing (gives)."""

    lemma: str
    third: str
    past: str
    ing: str
    frame: str


def _plural(lemma: str) -> str:
    irregular = {"man": "men", "lady": "ladies", "baby": "babies", "mouse": "mice", "leaf": "leaves", "bunny": "bunnies", "box": "boxes"}
    return irregular.get(lemma, lemma + "s")


def _nouns(kind: str, topic: str, lemmas: str, gender: str = "n") -> list[Noun]:
    return [Noun(lemma, _plural(lemma), kind, gender, topic) for lemma in lemmas.split()]


def _interleave(*lists: list[Noun]) -> tuple[Noun, ...]:
    """The first of every list, then the second of every list: each topic gets frequent and rare words."""
    longest = max(map(len, lists))
    return tuple(some[rank] for rank in range(longest) for some in lists if rank < len(some))


PEOPLE = _interleave(_nouns("person", "", "boy man king", "m"), _nouns("person", "", "girl lady queen", "f"))
ANIMALS = _interleave(_nouns("animal", "farm", "dog cow pig"), _nouns("animal", "outside", "cat duck bear"))
FOOD = tuple(_nouns("food", "food", "apple egg cake nut"))
THINGS = _interleave(
    _nouns("thing", "toys", "ball car doll"),
    _nouns("thing", "clothes", "hat shoe sock"),
    _nouns("thing", "food", "cup spoon"),
    _nouns("thing", "outside", "stick leaf"),
    _nouns("thing", "farm", "box"),
)
NAMES = tuple(
    Noun(name, name, "person", gender, "")
    for name, gender in zip(("mommy", "daddy", "Anna", "Tom", "Lucy", "Ben", "Emma", "Max"), "fm" * 4, strict=True)
)
MASS = ("bread", "rice", "soup")
PLACES = ("in the park", "in the house", "on the bed", "at home", "by the door")
ADJECTIVES = ("big", "little", "red", "new", "old", "wet")


def _verbs(frame: str, forms: str) -> tuple[Verb, ...]:
    split = (line.split() for line in forms.split(", "))
    return tuple(Verb(lemma, third, past, ing, frame) for lemma, third, past, ing in split)


VERBS = {
    "nothing": _verbs(
        "nothing",
        "sleep sleeps slept sleeping, run runs ran running, jump jumps jumped jumping, cry cries cried crying, sing sings sang singing, "
        "dance dances danced dancing, fall falls fell falling",
    ),
    "thing": _verbs(
        "thing",
        "find finds found finding, hold holds held holding, drop drops dropped dropping, push pushes pushed pushing, "
        "carry carries carried carrying, fix fixes fixed fixing",
    ),
    "food": _verbs("food", "eat eats ate eating, cook cooks cooked cooking"),
    "someone": _verbs("someone", "hug hugs hugged hugging, chase chases chased chasing, feed feeds fed feeding"),
    "oneself": _verbs(
        "oneself",
        "wash washes washed washing, hurt hurts hurt hurting, see sees saw seeing, dry dries dried drying, help helps helped helping",
    ),
    "gives": _verbs("gives", "give gives gave giving, show shows showed showing, bring brings brought bringing"),
}


@cache
def held_out(first: str, second: str) -> bool:
    """Whether two content words (lemmas, in either order) are kept apart in the corpus, whatever its seed."""
    return crc32("|".join(sorted((first, second))).encode()) % HELD_OUT_SHARE == 0
