"""What a study reads: evaluation data and corpus, found and judged before anything starts."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sleep_tune.config import Config, Directory, Embedded
from sleep_tune.data.collate import BOS
from sleep_tune.data.corpora import Source
from sleep_tune.errors import UserError
from sleep_tune.evaluation.official_data import SOURCE, available_tasks, find_tasks, load_items
from sleep_tune.evaluation.tasks import TASKS
from sleep_tune.fit import check_against
from sleep_tune.sleep.schedule import CorpusSize
from sleep_tune.study.searches import OptunaSearch
from sleep_tune.study.spec import Study, StudySpec

if TYPE_CHECKING:
    from sleep_tune.data.token_store import Prepared


def settle_evaluation(study: Study) -> tuple[Study, list[str]]:
    """The study with the tasks there is data for, and a line on those that a profile asks for in vain.

    Raises UserError where the study itself names one that there is no data for.
    """
    config = study.first
    data = evaluation_data(config)
    there = {*available_tasks(data, fast=True), *available_tasks(data, fast=False)} if data else set()  # comps has no fast set
    if config.evaluation.data is not None and not there:
        raise UserError(f"evaluation.data = {data}: holds no task's data; {SOURCE}")
    there -= {"pairs"}
    there |= {"pairs"} if isinstance(config.data.source, Embedded) else set()
    fields: dict[str, Any] = {"evaluation.data": str(data)} if data else {}
    if study.metric in TASKS and config.evaluation.share is not None:
        fields["evaluation.share"] = None  # search and scheduler need the score at every milestone, whatever it costs
    dropped: dict[str, None] = {}
    for part, wanted in (("milestones", config.evaluation.milestones.tasks), ("final", config.evaluation.final.tasks)):
        missing = [task for task in wanted if task not in there]
        if not missing:
            continue
        if _named(study.spec, part) or study.metric in missing:
            raise UserError(f"evaluation.{part}.tasks = [{', '.join(wanted)}]: {_why(config, data, missing)}")
        fields[f"evaluation.{part}.tasks"] = [task for task in wanted if task in there]
        dropped |= dict.fromkeys(missing)
    lines = [f"left out: {', '.join(dropped)}: {_why(config, data, list(dropped))}"] if dropped else []
    settled = study.with_set(fields)
    if not any(_named(study.spec, part) for part in ("milestones", "final")):
        lines += _unasked(settled.first, there)
    return settled, lines


def _unasked(config: Config, there: Collection[str]) -> list[str]:
    """How to be scored on the official data, where it is there and no task of it is asked for."""
    evaluation = config.evaluation
    official = [task.name for task in TASKS.values() if task.one_model and task.name in there and task.name != "pairs"]
    asked = {*evaluation.milestones.tasks, *evaluation.final.tasks} - {"pairs"}
    if not official or asked:
        return []
    how = f"--set 'evaluation.final.tasks=[{official[0]}]' scores it at the end, evaluation.milestones.tasks on the way"
    return [f"no official task is scored: {evaluation.data} has {', '.join(official)}; {how}"]


def evaluation_data(config: Config) -> Path | None:
    """The official data: the folder or zip that is named, else `evaluation_data` or its zip beside the data directory. Raises UserError."""
    if config.evaluation.data is not None:
        path = Path(config.evaluation.data)
        if not _there(path, "evaluation.data"):
            raise UserError(f"evaluation.data = {path}: no such file or directory; {SOURCE}")
        return path.absolute()
    if not isinstance(config.data.source, Directory):
        return None
    text = Path(os.path.abspath(config.data.source.directory))
    if not _there(text, "data.source.directory"):
        return None
    places = (text.parent / name for name in ("evaluation_data", "evaluation_data.zip"))
    return next((path for path in places if _there(path, "evaluation.data")), None)


def _there(path: Path, field: str) -> bool:
    """Whether the path exists. Raises UserError where not even that can be told: a name too long, a parent that may not be entered."""
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"{field} = {path}: cannot be read ({error.strerror})") from None


def _named(spec: StudySpec, part: str) -> bool:
    return any(field in spec.set for field in ("evaluation", f"evaluation.{part}", f"evaluation.{part}.tasks"))


def _why(config: Config, data: Path | None, missing: list[str]) -> str:
    official = [task for task in missing if task != "pairs"]
    if not official:
        return "the pairs belong to the embedded corpus, which --data replaces"
    if data is None:
        looked = Path(config.data.source.directory).parent if isinstance(config.data.source, Directory) else None
        where = f"nothing at {looked}/evaluation_data" if looked else "no place is given"
        return f"no evaluation data ({where}; --evaluation-data DIR_OR_ZIP); {SOURCE}"
    try:
        find_tasks(data, official, fast=True)
    except UserError as error:
        return str(error)
    return ""


def recipe(config: Config) -> dict[str, Any]:
    """The arguments of `token_store.prepare` and `find_prepared`."""
    source = config.data.source
    if isinstance(source, Embedded):
        asked = Source("embedded", words=source.embedded.words, seed=source.embedded.seed)
    elif isinstance(source, Directory):
        asked = Source("directory", location=source.directory)
    else:
        asked = Source("hub", location=source.hub)
    return {
        "source": asked,
        "words": config.data.words,
        "cleaning": config.data.cleaning,
        "rows": config.data.rows,
        "row_length": config.data.row_length,
        "vocab_size": config.tokenizer.vocab_size,
    }


def found(study: Study) -> "Prepared | None":
    """The study's corpus, if it lies ready in the cache. Raises UserError for text that cannot be used."""
    from sleep_tune.data.token_store import find_prepared

    return find_prepared(**recipe(study.first))


def prepared(study: Study, say: Callable[[str], None]) -> "Prepared":
    """The study's corpus, built where it is not in the cache yet. Raises UserError for text that cannot be used."""
    from sleep_tune.data.token_store import prepare

    return prepare(**recipe(study.first), say=say)


def read_items(study: Study) -> Iterator[str]:
    """Reads all items that the trials will be scored on; a line for each task. Raises UserError for data that is malformed.

    The first trial would meet it only after its training.
    """
    evaluation = study.first.evaluation
    if evaluation.data is None:
        return
    data = Path(evaluation.data)
    fast = available_tasks(data, fast=True)
    for name in dict.fromkeys((*evaluation.milestones.tasks, *evaluation.final.tasks)):
        if name != "pairs":
            for task in load_items(data, [name], name in fast, rules=evaluation.rules):
                uids = len({item.uid for item in task.items})
                yield f"evaluation data: {name}: {len(task.items):,} items of {uids} UID{'s' * (uids != 1)}"


def fits(study: Study, corpus: "Prepared") -> list[str]:
    """Warnings about the trials on this corpus, one line each with how many configurations it is about. Raises UserError."""
    size = corpus_size(corpus)
    configs = [*study.searched(), *study.always()[:: len(study.spec.seeds)]]
    lines = counted((line for config in configs for line in check_against(config, size)), len(configs))
    if isinstance(study.spec.search, OptunaSearch) and lines:
        return [f"at the corners of the space: {line}" for line in lines]
    return lines


def corpus_size(corpus: "Prepared") -> CorpusSize:
    """The training text in numbers."""
    from sleep_tune.data.token_store import open_store

    store = open_store(corpus.directory)
    content = int((store.tokens != BOS).sum())
    return CorpusSize(store.samples, store.words, (store.row_length - 1) * store.words / max(1, content))


def counted(lines: Iterable[str], of: int) -> list[str]:
    """Each line once, with how many of `of` configurations it is about."""
    counts = Counter(lines)
    return [line if count == of else f"{line} ({count} of {of} configurations)" for line, count in counts.items()]
