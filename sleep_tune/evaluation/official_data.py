"""Finds and reads the official evaluation data: a folder, the official zip as it is, or one task's directory or file.

Nothing is unpacked: members of archives are read into memory. Errors are one line: what was found, what is missing, and where
the data come from.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sleep_tune.errors import UserError, nearest
from sleep_tune.evaluation.data_trees import Tree, content_of, folder_tree, packed_tree, zip_tree
from sleep_tune.evaluation.official_tables import table_rows
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.strict_json import BadJson, parse
from sleep_tune.evaluation.tasks import TASKS, BadItem, Item, Numbering, Task, TaskItems, sample

# The node that the README of babylm/evaluation-pipeline-2025 links to.
SOURCE = "the official evaluation_data folder or zip is at https://osf.io/ryjfm/ (see babylm/evaluation-pipeline-2025)"
_ARCHIVES = (".tar.gz", ".tgz", ".zip")
_TABLES = {name for task in TASKS.values() for name in task.table}


@dataclass(frozen=True)
class Found:
    """The files of a task: in directory `path` of `tree`."""

    tree: Tree
    path: str
    files: tuple[str, ...]
    dataset: str  # the directory's name in the official layout

    def __str__(self) -> str:
        return f"{len(self.files)} file{'s' * (len(self.files) != 1)} in {self.tree.name}/{self.path}".rstrip("/.")


def load_items(
    data: Path, tasks: Sequence[str], fast: bool, items_per_uid: int | None = None, seed: int = 0, rules: str = "honest"
) -> list[TaskItems]:
    """Read `tasks` from `data` under a rule set. Raises UserError for data that is missing, empty or malformed."""
    if rules not in RULES:
        raise UserError(f"rules = {rules}: unknown{nearest(rules, RULES)}")
    found = find_tasks(data, tasks, fast)
    return [_load_task(TASKS[name], where, items_per_uid, seed, rules) for name, where in found.items()]


def available_tasks(data: Path, fast: bool) -> dict[str, str]:
    """The tasks that `data` holds, each with what was found, in the order of `TASKS`. Opens no data file."""
    return {name: str(found) for name in TASKS if (found := _find(data, TASKS[name], fast)) is not None}


def all_tasks(data: Path, fast: bool) -> tuple[list[str], list[str]]:
    """Every BabyLM task that `data` holds, and a line on those it lacks. Raises UserError for no data, and for one task's."""
    if not data.exists() or _is_one_task(data):
        what = "one task's data: name the task" if data.exists() else f"no such file or directory; {SOURCE}"
        raise UserError(f"evaluation data = {data}: {what}")
    there = list(available_tasks(data, fast))
    missing = [task.name for task in TASKS.values() if task.name not in there and task.name != "pairs" and (task.fast or not fast)]
    if not there:
        raise UserError(_missing(data, missing, fast))
    return there, [f"not scored: {_missing(data, missing, fast)}"] if missing else []


def find_tasks(data: Path, tasks: Sequence[str], fast: bool) -> dict[str, Found]:
    """Where each of `tasks` is in `data`. Raises UserError that names what was found and what is missing."""
    check_tasks(tasks)
    if not data.exists():
        raise UserError(f"evaluation data = {data}: no such file or directory; {SOURCE}")
    if _is_one_task(data) and len(tasks) > 1:
        raise UserError(f"evaluation data = {data}: one task's data, but the tasks are {', '.join(tasks)}")
    found = {name: _find(data, TASKS[name], fast) for name in tasks}
    missing = [name for name, where in found.items() if where is None]
    if missing:
        raise UserError(_missing(data, missing, fast))
    return {name: where for name, where in found.items() if where is not None}


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises UserError for a task that does not exist, or for none."""
    for name in tasks:
        if name not in TASKS:
            raise UserError(f"task = {name}: unknown{nearest(name, TASKS)}")
    if not tasks:
        raise UserError(f"tasks = : name at least one (allowed: {', '.join(TASKS)})")


def find_directory(data: Path, task: Task) -> Found | None:
    """All files of a directory of the full set that is no zero-shot task's. Raises UserError for data that are not there."""
    if not data.exists():
        raise UserError(f"evaluation data = {data}: no such file or directory; {SOURCE}")
    return _find(data, task, fast=False)


def read_items(task: Task, found: Found, file: str, rules: str) -> tuple[Item, ...]:
    """The items of one of the files found, numbered. Raises UserError with the line of what is wrong."""
    numbering = Numbering()
    return tuple(numbering.number(item) for item in _read_file(task, found, file, rules))


def _missing(data: Path, missing: Sequence[str], fast: bool) -> str:
    there = available_tasks(data, fast)
    wanted = ", ".join(f"{name} ({_place(TASKS[name], fast)})" for name in missing)
    locked = [name for name in missing if _locked(data, TASKS[name], fast)]
    hint = f"; {', '.join(locked)}: its zip asks for a password: unpack it beside the others first" if locked else ""
    return f"evaluation data = {data}: missing {wanted}; found {', '.join(there) or 'no task'}{hint}; {SOURCE}"


def _place(task: Task, fast: bool) -> str:
    if task.name == "pairs":
        return "a jsonl file of its own"
    if fast and task.fast is None:
        return f"not part of the fast set; full_eval/{task.full}"
    files = f": {' and '.join(task.table)}" if task.table else ""
    return (f"fast_eval/{task.fast}" if fast else f"full_eval/{task.full}") + files


def _is_one_task(data: Path) -> bool:
    names = folder_tree(data).names("") if data.is_dir() else [data.name]
    return any(name.endswith(".jsonl") or name in _TABLES for name in names)


def _find(data: Path, task: Task, fast: bool) -> Found | None:
    """The task's files: those of the directory or file given, else the fast or full directory, else the full set's fast slice."""
    if data.is_file() and data.name in _TABLES:
        return _in_directory(folder_tree(data.parent), "", task, (), task.full) if data.name in task.table else None
    if data.suffix == ".jsonl" and data.is_file():
        if task.table:
            return None
        return Found(folder_tree(data.parent), "", (data.name,), data.stem)
    if _is_one_task(data):
        return _in_directory(folder_tree(data), "", task, (), data.resolve().stem)
    if task.name == "pairs":
        return None
    tree = zip_tree(data, SOURCE) if data.is_file() else folder_tree(data)
    places = [("fast_eval", task.fast, ()), ("full_eval", task.full, task.fast_files)] if fast else [("full_eval", task.full, task.files)]
    for part, directory, stems in places:
        if directory is None or (part == "full_eval" and fast and task.fast != task.full and not task.fast_files):
            continue  # a fast set that cannot be cut out of the full one
        for root in _roots(data, part):
            dataset = task.fast if fast and task.fast else directory
            found = _in_directory(tree, f"{root}{directory}", task, stems, dataset) or _in_archive(
                tree, root.rstrip("/"), directory, task, stems, dataset
            )
            if found:
                return found
    return None


def _roots(data: Path, part: str) -> list[str]:
    """Where full_eval or fast_eval may be: below `data`, below its evaluation_data, or `data` itself."""
    return [f"{part}/", f"evaluation_data/{part}/", *([""] if data.resolve().name == part else [])]


def _in_directory(tree: Tree, path: str, task: Task, stems: Sequence[str], dataset: str) -> Found | None:
    """A directory's jsonl files; where the task has fixed `stems` or a table, all of its files must be there."""
    if task.table:
        return Found(tree, path, task.table, dataset) if set(task.table) <= set(tree.names(path)) else None
    files = tuple(name for name in tree.names(path) if name.endswith(".jsonl") and (not stems or PurePosixPath(name).stem in stems))
    return Found(tree, path, files, dataset) if files and len(files) >= len(stems) else None


def _in_archive(tree: Tree, parent: str, directory: str, task: Task, stems: Sequence[str], dataset: str) -> Found | None:
    """The same from `<directory>.tar.gz` or `.zip` beside the other tasks, read in memory."""
    for suffix in _ARCHIVES:
        if f"{directory}{suffix}" in tree.names(parent):
            path = f"{parent}/{directory}{suffix}".lstrip("/")
            inner = packed_tree(f"{tree.name}/{path}", content_of(tree, path))
            for inside in (directory, ""):
                found = inner and _in_directory(inner, inside, task, stems, dataset)
                if found:
                    return found
    return None


def _locked(data: Path, task: Task, fast: bool) -> bool:
    """Whether the task is there only as a zip with a password (EWoK's)."""
    tree = zip_tree(data, SOURCE) if data.is_file() else folder_tree(data)
    directory = task.fast if fast else task.full
    roots = _roots(data, "fast_eval" if fast else "full_eval")
    return directory is not None and any(f"{directory}.zip" in tree.names(root.rstrip("/")) for root in roots)


def _load_task(task: Task, found: Found, items_per_uid: int | None, seed: int, rules: str) -> TaskItems:
    numbering = Numbering()
    files = [_read_table(task, found, rules)] if task.table else [_read_file(task, found, file, rules) for file in found.files]
    items = tuple(numbering.number(item) for file in files for item in file)
    if not items:
        raise UserError(f"{found.tree.name}/{found.path}: no item of {task.name} is left under rules {rules}")
    # the reading times of a few words explain nothing: reading is always scored whole
    whole = items_per_uid is None or task.aggregate == "reading"
    chosen = items if whole else sample(items, task.name, items_per_uid or 0, seed)
    return TaskItems(task.name, found.dataset, rules, seed, chosen, sampled=len(chosen) < len(items))


def _read_file(task: Task, found: Found, file: str, rules: str) -> Iterator[Item]:
    """The items of one jsonl file. Raises UserError with the line of what is wrong."""
    path = f"{found.path}/{file}".lstrip("/")
    where, stem = f"{found.tree.name}/{path}", PurePosixPath(file).stem
    for number, line in enumerate(_text(found.tree, path, where).removesuffix("\n").split("\n"), start=1):
        try:
            raw = parse(line)
            if not isinstance(raw, dict):
                raise BadItem("must be a JSON object")
            item = task.read(raw, stem, RULES[rules].edition)
        except BadJson as error:
            raise UserError(f"{where} line {number}: {error if line.strip() else 'an empty line'}") from None
        except BadItem as error:
            raise UserError(f"{where} line {number}: {error} (task {task.name})") from None
        if item is not None:
            yield item


def _read_table(task: Task, found: Found, rules: str) -> Iterator[Item]:
    """The items of a task whose files are a table. Raises UserError with the line of what is wrong."""
    paths = [f"{found.path}/{file}".lstrip("/") for file in found.files]
    texts = {f"{found.tree.name}/{path}": _text(found.tree, path, f"{found.tree.name}/{path}") for path in paths}
    for where, raw in table_rows(task.name, texts):
        try:
            item = task.read(raw, "", RULES[rules].edition)
        except BadItem as error:
            raise UserError(f"{where}: {error} (task {task.name})") from None
        if item is not None:
            yield item


def _text(tree: Tree, path: str, where: str) -> str:
    content = content_of(tree, path)
    try:
        decoded = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} line {content[: error.start].count(10) + 1}: not UTF-8 text") from None
    if decoded in ("", "\n"):
        raise UserError(f"{where}: empty")
    return decoded
