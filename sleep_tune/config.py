"""The config tree of one trial: every field, its type, range and default, judged once, here.

`load_config` answers a nested dict with a frozen `Config` or one line that names the field, the value and what is allowed.
Where presets and study files are read and merged is `presets/__init__.py`'s and `study.spec`'s.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from sleep_tune.choices import Choice, as_text, choice_from, key_of, task_names, tuples
from sleep_tune.digests import canonical_json, digest
from sleep_tune.sleep.criteria import CRITERIA
from sleep_tune.sleep.strategies import IGNORE_DECAY, STRATEGIES
from sleep_tune.training.registry import MODELS

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]  # tables keep whole numbers in 64 bits
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Unit = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


def broken(field: str, value: object, rule: str) -> PydanticCustomError:
    """A cross-field rule that does not hold, in the form every other error has."""
    return PydanticCustomError("rule", "{line}", {"line": f"{field} = {value}: {rule}"})


class Frozen(BaseModel):
    """Immutable, strictly typed, no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Nothing(Frozen):
    """A kind that has no parameters, written `{}`."""


class EmbeddedText(Frozen):
    """The built-in grammar's corpus."""

    words: Annotated[int, Field(ge=1000)] = 50_000
    seed: Count = 0


class Embedded(Frozen):
    embedded: EmbeddedText


class Directory(Frozen):
    directory: Annotated[str, Field(min_length=1)]


class Hub(Frozen):
    hub: Annotated[str, Field(min_length=1)]


Source = Annotated[
    Annotated[Embedded, Tag("embedded")] | Annotated[Directory, Tag("directory")] | Annotated[Hub, Tag("hub")], Discriminator(key_of)
]


class Data(Frozen):
    """What is read: source, how much of it, cleaning, and how it is cut into samples."""

    source: Source
    words: PositiveInt | None
    cleaning: Literal["light", "none"] = "light"
    rows: Literal["packed", "lines"]
    row_length: Annotated[int, Field(ge=8)]


class Tokenizer(Frozen):
    vocab_size: Annotated[int, Field(ge=300, le=65_000)]


class Model(Frozen):
    """A row of the model registry and the sizes that override the registry's."""

    name: str
    layers: PositiveInt
    heads: PositiveInt
    width: PositiveInt
    ffn: PositiveInt
    positions: Annotated[int, Field(ge=16)]
    dropout: BelowOne
    init_std: Positive
    tied: bool = False

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_registry(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
            return raw
        from sleep_tune.errors import nearest

        if raw["name"] not in MODELS:
            raise broken("model.name", raw["name"], f"unknown model{nearest(raw['name'], MODELS)}")
        return {**MODELS[raw["name"]].sizes, **{key: value for key, value in raw.items() if value is not None}}

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Model":
        if self.width % self.heads:
            raise broken("model.heads", self.heads, f"must divide model.width = {self.width}")
        return self


class LinearRate(Frozen):
    """A rate that goes linearly with the words seen, from the first value at the beginning to the second at the end of the budget."""

    linear: Annotated[tuple[Share, Share], tuples]


def _kind_of_rate(value: object) -> str:
    return "linear" if isinstance(value, dict | LinearRate) else "number"


Rate = Annotated[Annotated[Share, Tag("number")] | Annotated[LinearRate, Tag("linear")], Discriminator(_kind_of_rate)]


class Masking(Frozen):
    """Share of the non-special tokens that are predicted, and how they are shown: [mask, random, keep]; [1, 0, 0] is all-mask."""

    rate: Rate = 0.15
    split: Annotated[tuple[Unit, Unit, Unit], tuples] = (0.8, 0.1, 0.1)

    @model_validator(mode="after")
    def _split_is_a_distribution(self) -> "Masking":
        if abs(sum(self.split) - 1) > 1e-9:
            raise broken("masking.split", list(self.split), "must add up to 1")
        return self


class Optimizer(Frozen):
    """AdamW, with a linear rise over `warmup` (share of the budget) and a linear fall to the end."""

    learning_rate: Positive
    betas: Annotated[tuple[BelowOne, BelowOne], tuples] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    clip: Positive | None = 1.0
    warmup: BelowOne = 0.1


class Training(Frozen):
    batch_rows: PositiveInt
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    determinism: Literal["strict", "fast"] = "strict"
    accumulation: PositiveInt = 1  # parts of a batch that are computed one after another, for their memory; a step is one all the same

    @model_validator(mode="after")
    def _parts_hold_rows(self) -> "Training":
        if self.accumulation > self.batch_rows:
            raise broken("training.accumulation", self.accumulation, f"must be at most training.batch_rows = {self.batch_rows}")
        return self


MOST_REPLAYS = 1e6  # far beyond any budget, and whole numbers stay whole


class Ratio(Frozen):
    ratio: Annotated[float, Field(ge=0, le=MOST_REPLAYS)]


class Repeats(Frozen):
    repeats: Annotated[float, Field(gt=0, le=MOST_REPLAYS)]


class Steps(Frozen):
    steps: PositiveInt


class Fill(Frozen):
    fill: Nothing


class LossThresholdRule(Frozen):
    """Sleep until the mean loss of the last `window` batches is under `value`, or `max_steps`."""

    value: Positive
    max_steps: PositiveInt
    window: PositiveInt = 20
    min_steps: PositiveInt = 20


class LossThreshold(Frozen):
    loss_threshold: LossThresholdRule


Length = Annotated[
    Annotated[Ratio, Tag("ratio")]
    | Annotated[Repeats, Tag("repeats")]
    | Annotated[Steps, Tag("steps")]
    | Annotated[Fill, Tag("fill")]
    | Annotated[LossThreshold, Tag("loss_threshold")],
    Discriminator(key_of),
]


class Ema(Frozen):
    ema: Annotated[float, Field(gt=0, le=1)]


class RescoreShare(Frozen):
    share: Share


class Homeostasis(Frozen):
    """At waking, weights of low importance shrink (Tononi & Cirelli): the share `protect` of highest importance stays, the others
    are multiplied by `shrink`.

    fisher_batches: evenly spaced batches of a wake that Fisher information is summed on, null: all. score_samples: samples of the fold
    for the Taylor importances.
    """

    importance: Literal["fisher", "taylor_signed", "taylor_abs", "magnitude", "random"]
    shrink: Share = 0.95
    protect: Unit = 0.2
    scope: Literal["per_tensor", "global"] = "per_tensor"
    targets: Literal["all", "matrices"] = "all"
    moments: Literal["keep", "scale", "reset"] = "keep"
    fisher_batches: PositiveInt | None = 32
    score_samples: PositiveInt = 256

    @model_validator(mode="after")
    def _nothing_unread(self) -> "Homeostasis":
        for field, kinds in (("fisher_batches", ("fisher",)), ("score_samples", ("taylor_signed", "taylor_abs"))):
            if getattr(self, field) != type(self).model_fields[field].default and self.importance not in kinds:
                allowed = f"is read by importance {' and '.join(kinds)} only, not by {self.importance}"
                raise broken(f"sleep.homeostasis.{field}", getattr(self, field), allowed)
        return self


class Freezing(Frozen):
    """At waking, neurons of linear maps freeze (Zhu & Warstadt): up to `ceiling` of a map's, `rate` of those left each time, once `warmup`
    of the budget is seen. complete: no update; partial: a tenth of it.
    """

    choice: Literal["random", "causal"]
    targets: Literal["mlp", "attention", "all"] = "mlp"
    ceiling: Share = 0.5
    rate: Share = 0.1
    warmup: BelowOne = 0.25
    mode: Literal["complete", "partial"] = "complete"


class Context(Frozen):
    """Re-cut sleep contexts (Xiao et al. 2023): `shuffles` arrangements, then the same ones again with new masks."""

    shuffles: PositiveInt


class Sleep(Frozen):
    """The cycle of wake and sleep. Defaults are CLIMB-Sleep's published ones."""

    folds: PositiveInt = 50
    fold_order: Literal["shuffled", "corpus", "domain"] = "shuffled"
    within: Literal["shuffled", "kept"] = "shuffled"
    passes: PositiveInt | Literal["auto"] = "auto"
    max_wake_steps: PositiveInt | None = None
    candidates: Literal["seen", "fold"] = "seen"
    replay_ratio: Share = 0.2
    length: Length = Ratio(ratio=9.0)
    criterion: Annotated[Choice, choice_from(CRITERIA)] = Choice(name="loss")
    recurrence: Literal["min", "latest"] | Ema = "min"
    rescore: Literal["none", "all"] | RescoreShare = "none"
    update_in_sleep: bool = False
    strategy: Annotated[Choice, choice_from(STRATEGIES)] = Choice(name="weighted")
    decay: BelowOne = 0.0533
    decay_floor: Unit = 0.2
    max_selections: Annotated[int, Field(ge=1, le=65_535)] | None = None
    cooldown: Count = 0
    context: Context | None = None
    homeostasis: Homeostasis | None = None
    freezing: Freezing | None = None

    @model_validator(mode="after")
    def _rules(self) -> "Sleep":
        if self.update_in_sleep and self.context is not None:
            raise broken("sleep.update_in_sleep", "true", "needs sleep.context = null: a re-cut row is no sample that a score could go to")
        if self.update_in_sleep and self.criterion.name != "loss":
            allowed = f"needs sleep.criterion = loss: a {self.criterion.name} is comparable within its fold only"
            raise broken("sleep.update_in_sleep", "true", allowed)
        rule = self.length.loss_threshold if isinstance(self.length, LossThreshold) else None
        for least in ("min_steps", "window"):
            if rule and rule.max_steps < getattr(rule, least):
                allowed = f"must be >= {least} = {getattr(rule, least)}, or the loss decides nothing"
                raise broken("sleep.length.loss_threshold.max_steps", rule.max_steps, allowed)
        if isinstance(self.rescore, RescoreShare) and self.criterion.name != "loss":
            allowed = f"needs sleep.criterion = loss: a {self.criterion.name} is a place among the samples scored with it (none or all)"
            raise broken("sleep.rescore", f"{{share: {self.rescore.share:g}}}", allowed)
        return self


class Epochs(Frozen):
    """Plain passes over the corpus, as many as the budget holds.

    matched_to: the trial (its directory is beside this one's) whose steps, words and unique words these passes repeat: its control.
    """

    matched_to: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$"), as_text] | None = None


class MilestoneEvaluation(Frozen):
    """What is scored on the way, on the fast set or, where the time share does not hold that, on a sample of it. `dev_loss` always is."""

    tasks: Annotated[tuple[str, ...], tuples, task_names] = ()
    items_per_uid: PositiveInt | None = None
    dev_words: PositiveInt


class FinalEvaluation(Frozen):
    """What the final model is scored on. set: of tasks that have a fast set, that or the full one; items_per_uid null: all of its items."""

    tasks: Annotated[tuple[str, ...], tuples, task_names]
    set: Annotated[Literal["fast", "full"], as_text] = "fast"
    items_per_uid: PositiveInt | None = None


class Evaluation(Frozen):
    """`share`: scoring tasks on the way costs at most this share of the training before it: fewer items are scored, always the same, and
    with one of every UID fewer milestones; null: no limit.

    retention: share of training that probing the earlier folds may cost; null: they are not probed.
    """

    milestones: MilestoneEvaluation
    final: FinalEvaluation
    share: Share | None = 0.1
    retention: Share | None = 0.03
    rules: Annotated[Literal["honest", "2025", "2026"], as_text] = "honest"
    data: str | None = None


class Checkpoint(Frozen):
    """When a trial's state is saved: at milestones, and every `every_s` seconds between them (null: not), as the cost allows: 5 %."""

    keep: PositiveInt = 2
    every_s: Positive | None = 600.0
    milestone_models: bool = False


class Resources(Frozen):
    """What one trial is given. Its workers, a process each, share it: each trains on its part of every batch, on a GPU of its own."""

    cpus: Positive = 1.0
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    workers: PositiveInt = 1

    @property
    def threads(self) -> int:
        """Of each worker."""
        return max(1, int(self.cpus / self.workers))

    @model_validator(mode="after")
    def _a_gpu_for_each_worker(self) -> "Resources":
        if self.workers > 1 and self.gpus not in (0, self.workers):
            raise broken("resources.workers", self.workers, f"needs resources.gpus = 0 or {self.workers}, not {self.gpus:g}")
        return self


class Tracking(Frozen):
    wandb: Literal["off", "offline", "online", "auto"] = "auto"
    tensorboard: bool = True


class Config(Frozen):
    """Everything one trial is told. `seed` to `epochs` decide its weights; the rest does not."""

    seed: Count = 0
    budget_words: PositiveInt
    data: Data
    tokenizer: Tokenizer
    model: Model
    objective: Literal["mlm", "clm"] = "mlm"
    masking: Masking = Masking()
    optimizer: Optimizer
    training: Training
    sleep: Sleep | None = None
    epochs: Epochs | None = None
    evaluation: Evaluation
    checkpoint: Checkpoint = Checkpoint()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _rules(self) -> "Config":
        if (self.sleep is None) == (self.epochs is None):
            raise broken("sleep, epochs", "both" if self.sleep else "neither", "exactly one of the two is set")
        objectives = MODELS[self.model.name].objectives
        if self.objective not in objectives:
            fitting = [name for name, row in MODELS.items() if self.objective in row.objectives]
            allowed = f"model.name = {self.model.name} is trained by {', '.join(objectives)} (for {self.objective}: {', '.join(fitting)})"
            raise broken("objective", self.objective, allowed)
        layers = self.sleep.criterion.parameters.get("layers") if self.sleep is not None else None
        if layers is not None and layers > self.model.layers:
            name = self.sleep.criterion.name if self.sleep is not None else ""
            raise broken(f"sleep.criterion.{name}.layers", layers, f"must be <= model.layers = {self.model.layers}")
        if self.resources.workers > self.training.batch_rows:
            raise broken("resources.workers", self.resources.workers, f"must be <= training.batch_rows = {self.training.batch_rows}")
        usable = self.model.positions - MODELS[self.model.name].reserved_positions
        if self.data.row_length > usable:
            raise broken(
                "data.row_length", self.data.row_length, f"must be <= {usable}, what model.positions = {self.model.positions} holds"
            )
        return self


WEIGHT_GROUPS = ("data", "tokenizer", "model", "objective", "masking", "optimizer", "training", "sleep", "epochs")


def configuration_id(config: Config, corpus_digest: str) -> str:
    """12 hex characters for what decides a trial's weights, its seed apart; defaults left out, so that later fields change no id."""
    return digest(canonical_json([corpus_digest, _deciding(config)]), size=6)


def trial_id(config: Config, corpus_digest: str) -> str:
    """12 hex characters for what decides a trial's weights, its seed included."""
    return digest(canonical_json([corpus_digest, _deciding(config), config.seed]), size=6)


def _deciding(config: Config) -> dict[str, Any]:
    dumped = config.model_dump(mode="json", exclude_defaults=True)
    kept = {group: dumped[group] for group in WEIGHT_GROUPS if group in dumped}
    kept["data"] = {key: value for key, value in kept["data"].items() if key != "source"}  # the corpus digest stands for it
    if config.objective == "clm":
        kept.pop("masking", None)  # nothing is masked
    if config.sleep is not None and (config.sleep.strategy.name in IGNORE_DECAY or config.sleep.candidates == "fold"):
        kept["sleep"] = {key: value for key, value in kept["sleep"].items() if key not in ("decay", "decay_floor")}
    return {"budget_words": config.budget_words, **kept}


def load_config(raw: dict[str, Any]) -> Config:
    """The config that `raw` (nested dict) says. Raises UserError, one line, naming the first field at fault."""
    from sleep_tune.explain import load

    return load(Config, raw)


def varied(configs: Sequence[Config]) -> list[str]:
    """Dotted fields, seed apart, whose value differs between `configs`; tagged unions count as one field."""
    from sleep_tune.explain import flat

    rows = [flat(config) for config in configs]
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name != "seed" and len({canonical_json(row.get(name)) for row in rows}) > 1]
