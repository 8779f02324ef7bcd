"""The embedded corpus: a seeded probabilistic grammar of child-directed English, written for this project.

Utterances are drawn in scenes: a domain (where one talks), a speaker and a topic. Speakers and topics drift along the corpus, so that its
parts differ and forgetting can be seen. Utterances are `utterances.py`'s, minimal pairs `minimal_pairs.py`'s.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sleep_tune.data.lexicon import TOPICS
from sleep_tune.data.phrases import Dice, Scene
from sleep_tune.data.utterances import RULES, meets_held_out
from sleep_tune.streams import stream

Split = Literal["train", "dev"]


@dataclass(frozen=True)
class Domain:
    """Where one talks: its share of the corpus, of questions and commands among utterances, and of the past among statements."""

    name: str
    words: float
    questions: float
    commands: float
    past: float


DOMAINS = (
    Domain("kitchen", 0.4, 0.45, 0.15, 0.15),
    Domain("playground", 0.35, 0.41, 0.15, 0.25),
    Domain("bedtime", 0.25, 0.36, 0.08, 0.5),
)
# Share of questions among what a speaker says, over the domain's, and how likely the speaker is at the start and at the end of the corpus.
SPEAKERS = {"mother": (1.15, 4, 2), "father": (1.0, 2, 3), "grandmother": (0.9, 2, 1), "child": (0.65, 1, 3)}
SCENE_UTTERANCES = 30
FORMULA_SHARE, REPEAT_SHARE, UNFINISHED_SHARE = 0.08, 0.04, 0.01
_FORMULAS = {
    "?": ("what is that", "what happened", "what is this", "are you ready", "where did it go", "what are you doing", "is it good"),
    ".": ("okay", "yes", "no", "here you are", "well done", "oh dear", "that is right", "I know", "come on", "thank you", "let us go"),
}
_WEIGHTED = {kind: (tuple(rules), [sum(list(rules.values())[: n + 1]) for n in range(len(rules))]) for kind, rules in RULES.items()}


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
