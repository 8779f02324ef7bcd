"""What a study's trials are scored on at their milestones: sizes decide it, not clocks, so that a plan can tell it."""

import math
from typing import TYPE_CHECKING

from sleep_tune.study.spec import Study
from sleep_tune.words import show_words

if TYPE_CHECKING:
    from sleep_tune.data.token_store import Prepared
    from sleep_tune.evaluation.finished import Part


def live_scores(study: Study, corpus: "Prepared") -> tuple[list[str], list[str]]:
    """What is scored on the way and where, and warnings: of tasks that the time share allows at no milestone; a line each."""
    evaluation = study.first.evaluation
    official = [task for task in evaluation.milestones.tasks if task != "pairs"]
    if not official:
        return [], []
    from sleep_tune.data.token_store import open_store
    from sleep_tune.scoring import Scorer

    store, milestones = open_store(corpus.directory), study.milestones()
    tokens_per_word = len(store.tokens) / max(1, store.words)
    scorer = Scorer(study.first, corpus)
    way = scorer.way(milestones, tokens_per_word)
    parts = [part for parts, _ in way.plans for part in parts]
    what = ", ".join(f"{part.items.task} {_count(part)}" for part in parts)
    if way.milestones:
        return [f"{what}, at {len(way.milestones)} of {len(milestones)} milestones, from {show_words(min(way.milestones))} words on"], []
    words = sum(plan.n_tokens for _, plan in way.plans) / scorer.word_cost(tokens_per_word)  # trained on, that cost as much
    share = evaluation.share or math.inf
    needed = math.ceil(100 * words / study.budget_words) / 100
    once = [f"evaluation.share={needed:g}"] * (needed <= 1) + [f"{math.ceil(words / share):,} words seen"]
    mend = f"{' or '.join(once)} would score once, at the end; evaluation.share=null at every milestone"
    return [], [f"scored at no milestone: {what}: they cost more than evaluation.share = {share:g} of the training; {mend}"]


def _count(part: "Part") -> str:
    size, each = len(part.items.items), part.subset.items_per_uid
    return f"{size:,} item{'s' * (size != 1)}" + ("" if each is None else f" ({each} of every UID)")
