"""The second gate: does a config fit its corpus? What cannot run is refused, what is unwise is said."""

from sleep_tune.choices import resolved
from sleep_tune.config import Config, Ratio, Sleep
from sleep_tune.errors import UserError
from sleep_tune.sleep.criteria import CRITERIA, measures
from sleep_tune.sleep.schedule import CorpusSize, outlook
from sleep_tune.sleep.strategies import IGNORE_SCORES
from sleep_tune.words import show_words

MOST_EXPOSURES = 10  # BabyLM's limit is on the words seen in all: on the mean over the corpus, not on one sample's replays


def exposures(config: Config, corpus_words: int) -> float:
    """How often the budget sees each word of the corpus, on average."""
    return config.budget_words / max(1, corpus_words)


def check_against(config: Config, size: CorpusSize) -> list[str]:
    """Warnings about `config` on a corpus of `size`, one line each. Raises UserError where it cannot run on it."""
    warnings: list[str] = []
    if config.sleep is None:
        matched = config.epochs is not None and config.epochs.matched_to is not None  # reads what its pair has read
        if not matched and config.budget_words < 0.98 * size.words:
            warnings.append(f"coverage {config.budget_words / size.words:.0%}: the budget ends before every sample was read once")
    else:
        if config.sleep.folds > size.samples:
            rows = f"rows of {config.data.row_length} tokens"
            raise UserError(f"sleep.folds = {config.sleep.folds}: must be <= {size.samples}, the samples of the corpus ({rows})")
        _check_need(config, config.sleep, size)
        warnings += _sleep_warnings(config, size)
    if exposures(config, size.words) > MOST_EXPOSURES + 1e-4:
        warnings.append(f"{exposures(config, size.words):.3g} exposures of each word on average: BabyLM allows {MOST_EXPOSURES}")
    return warnings


def _check_need(config: Config, sleep: Sleep, size: CorpusSize) -> None:
    """Every sample has k others in its fold to be near to. Raises UserError."""
    if "need" not in measures(sleep.criterion.name):
        return
    k = resolved(sleep.criterion, CRITERIA)["k"]
    smallest = size.samples // sleep.folds
    if sleep.max_wake_steps is not None:
        smallest = min(smallest, sleep.max_wake_steps * config.training.batch_rows)
    if k >= smallest:
        raise UserError(f"sleep.criterion.{sleep.criterion.name}.k = {k}: must be < {smallest}, the samples of the smallest fold")


def _sleep_warnings(config: Config, size: CorpusSize) -> list[str]:
    assert config.sleep is not None
    plan = outlook(config.sleep, size, config.training.batch_rows, config.budget_words)
    warnings = []
    strategy, unread = config.sleep.strategy.name, []
    if strategy in IGNORE_SCORES:
        asked = {"criterion": config.sleep.criterion.name != "loss", "rescore": config.sleep.rescore != "none"}
        unread = [name for name, costly in asked.items() if costly]
    if unread:
        named = " and ".join(f"sleep.{name}" for name in unread)
        warnings.append(f"sleep.strategy = {strategy}: does not look at scores: {named} cost time and change nothing")
    if not plan.sleeps and config.sleep.length != Ratio(ratio=0.0):
        fold = show_words(size.words / config.sleep.folds)
        warnings.append(f"budget_words = {config.budget_words}: ends before the first sleep (one fold is {fold} words)")
    freezing = config.sleep.freezing
    if config.sleep.homeostasis is not None and not plan.last_waking:
        warnings.append("sleep.homeostasis: never acts: the budget ends before the first waking")
    if freezing is not None and plan.last_waking < max(1.0, freezing.warmup * config.budget_words):
        warnings.append(f"sleep.freezing: never acts: no waking after its warm-up of {freezing.warmup:g} of the budget")
    if plan.used < 0.98:
        rule = "its trials are ranked at fewer words (sleep.passes, sleep.length)"
        warnings.append(f"the schedule ends at {plan.used:.0%} of the budget: {rule}")
    if plan.coverage < 0.98:
        warnings.append(f"coverage {plan.coverage:.0%}: the budget ends before every sample was read awake once")
    length = config.sleep.length
    if isinstance(length, Ratio) and plan.sleeps > 1 and plan.asleep_per_awake > 1.2 * length.ratio:
        why = "re-cut rows are full" if config.sleep.context else "a wake's last batch is short, a sleep's are full"
        words = f"sleep sees {plan.asleep_per_awake:.2g} times wake's words"
        warnings.append(f"sleep.length.ratio = {length.ratio:g} counts steps: {words} ({why})")
    return warnings
