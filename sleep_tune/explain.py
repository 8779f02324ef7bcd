"""One line about what is wrong with a nested dict, from the model that refused it; and a config as flat dotted fields."""

import types
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ValidationError

from sleep_tune.choices import Choice
from sleep_tune.errors import UserError, nearest

M = TypeVar("M", bound=BaseModel)


def load(model: type[M], raw: dict[str, Any], prefix: str = "") -> M:
    """`raw` as a `model`. Raises UserError: `field = value: what is allowed (nearest name)`."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UserError(_line(model, error.errors(), raw, prefix)) from None


def _line(model: type[BaseModel], errors: list[Any], raw: object, prefix: str) -> str:
    if any(error["type"] != "missing" for error in errors):  # a misspelt field is also a missing one: name what was written
        errors = [error for error in errors if error["type"] != "missing"]
    error = next((e for e in errors if e["type"] == "extra_forbidden"), max(errors, key=lambda e: len(_written(e["loc"], raw))))
    path = _written(error["loc"], raw)
    name = prefix + ".".join(path)
    annotation = _annotation(model, path)
    if error["type"] == "rule":
        return str(error["msg"])
    if error["type"] == "extra_forbidden":
        siblings = _fields(_annotation(model, path[:-1]) if path[:-1] else model)
        return f"unknown field {name}{nearest(path[-1], siblings, prefix + ''.join(f'{part}.' for part in path[:-1]))}"
    if error["type"] == "missing" and isinstance(error["loc"][-1], int):  # a list that is too short
        return f"{name} = {shown(_value(raw, path))}: must be {_allowed(annotation)}"
    if error["type"] == "missing":
        return f"{name}: missing: {_allowed(annotation)}"
    value = _value(raw, path)
    if error["type"] == "invalid_key":
        return f"{name or prefix}: field names must be text"
    if error["type"] == "choice":
        return f"{name} = {shown(value)}: {error['msg']}"
    if error["type"].startswith("union_tag"):
        tags = error.get("ctx", {}).get("expected_tags", "").replace("'", "").split(", ")
        kinds = [tag for tag in tags if tag] or _kinds(annotation)
        key = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else ""
        hint = nearest(str(key), kinds) if key else ""
        return f"{name} = {shown(value)}: must be one of {', '.join(f'{{{kind}: …}}' for kind in kinds)}{hint if 'mean' in hint else ''}"
    if isinstance(value, str) and any(get_origin(kind) is tuple and get_args(kind)[0] is str for kind in map(_bare, _members(annotation))):
        return f"{name} = {value}: must be {_allowed(annotation)}: [{value}]"
    hint = nearest(value, _literals(annotation)) if isinstance(value, str) and _literals(annotation) else ""
    return f"{name} = {shown(value)}: must be {_allowed(annotation)}{hint if 'mean' in hint else ''}"


def _written(loc: tuple[Any, ...], raw: object) -> list[str]:
    """The part of pydantic's location that the user wrote: tags and function names dropped."""
    path: list[str] = []
    for part in loc:
        if (isinstance(raw, dict) and part in raw) or (isinstance(raw, list | tuple) and isinstance(part, int) and part < len(raw)):
            raw = raw[part]
            path.append(str(part))
        elif isinstance(raw, dict) and part == loc[-1] and not (path and str(part) == path[-1]) and not str(part).startswith("literal["):
            path.append(str(part))
    return path


def _value(raw: Any, path: list[str]) -> Any:
    for part in path:
        raw = raw[int(part)] if isinstance(raw, list | tuple) else raw.get(part) if isinstance(raw, dict) else None
    return raw


def shown(value: object) -> str:
    """A value as one writes it in a study file, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return str(value)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, annotations kept; the annotation itself otherwise."""
    if get_origin(annotation) is Annotated and get_origin(get_args(annotation)[0]) in (Union, types.UnionType):
        return list(get_args(get_args(annotation)[0]))
    if get_origin(annotation) in (Union, types.UnionType):
        return list(get_args(annotation))
    return [annotation]


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [bare for member in _members(annotation) if isinstance(bare := _bare(member), type) and issubclass(bare, BaseModel)]


def _kinds(annotation: Any) -> list[str]:
    return [next(iter(model.model_fields)) for model in _models(annotation)]


def _fields(annotation: Any) -> list[str]:
    return [field for model in _models(annotation) for field in model.model_fields]


def _annotation(model: type[BaseModel], path: list[str]) -> Any:
    """The annotation of the field at `path`, with its constraints; Any where the path leaves the tree."""
    annotation: Any = model
    for part in path:
        found = next((m.model_fields[part] for m in _models(annotation) if part in m.model_fields), None)
        if found is None:
            members = get_args(_bare(annotation))
            annotation = members[min(int(part), len(members) - 1)] if part.isdigit() and members else Any
            continue
        annotation = Annotated[(found.annotation, *found.metadata)] if found.metadata else found.annotation
    return annotation


def _literals(annotation: Any) -> list[str]:
    return [str(value) for member in _members(annotation) if get_origin(_bare(member)) is Literal for value in get_args(_bare(member))]


def _interval(annotation: Any) -> str:
    low = high = ""
    facts = list(get_args(annotation)[1:]) if get_origin(annotation) is Annotated else []
    for fact in [inner for f in facts for inner in getattr(f, "metadata", [f])]:
        if isinstance(fact, Gt | Ge):
            low = f"({fact.gt}" if isinstance(fact, Gt) else f"[{fact.ge}"
        if isinstance(fact, Lt | Le):
            high = f"{fact.lt})" if isinstance(fact, Lt) else f"{fact.le}]"
        if isinstance(fact, MinLen):
            return " that is not empty"
    if low and high:
        return f" in {low}, {high}"
    if low:
        return f" {'>' if low[0] == '(' else '>='} {low[1:]}"
    return f" {'<' if high[-1] == ')' else '<='} {high[:-1]}" if high else ""


def _allowed(annotation: Any) -> str:
    """What a field takes, in words: `in (0, 1]`, `a whole number >= 1`, `one of a, b`."""
    said: list[str] = []
    for member in _members(annotation):
        bare = _bare(member)
        if bare is type(None):
            said.append("null")
        elif get_origin(bare) is Literal:
            said.append(" | ".join(str(value) for value in get_args(bare)))
        elif bare is int or bare is float:
            said.append(("a whole number" if bare is int else "a number") + _interval(member))
        elif bare is bool:
            said.append("true or false")
        elif bare is str:
            said.append("text" + _interval(member))
        elif get_origin(bare) is tuple:
            inner = [argument for argument in get_args(bare) if argument is not Ellipsis]
            said.append(f"a list{'' if Ellipsis in get_args(bare) else f' of {len(inner)}'}, each {_allowed(inner[0])}")
        elif isinstance(bare, type) and issubclass(bare, BaseModel):
            said.append("{" + ", ".join(f"{field}: …" for field in bare.model_fields) + "}")
    if len(said) == 1 and said[0].startswith("a number in "):
        return said[0].removeprefix("a number ")
    return " or ".join(said) or "something else"


def _whole(item: BaseModel, default: Any) -> bool:
    return default is None or len(type(item).model_fields) == 1


def allowed_in(model: type[BaseModel], field: str) -> str:
    """What the `field` of `model` takes, in words."""
    return _allowed(_annotation(model, [field]))


def flat(value: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Dotted field -> plain value, as in a study file. Kinds, choices and groups that may be null stay whole; of `sleep` and `epochs`, the
    one that is set.
    """
    row: dict[str, Any] = {}
    for name, about in type(value).model_fields.items():
        item = getattr(value, name)
        if isinstance(item, BaseModel) and not isinstance(item, Choice) and not (prefix and _whole(item, about.default)):
            row |= flat(item, f"{prefix}{name}.")
        elif item is not None or prefix:
            row[f"{prefix}{name}"] = (
                item.model_dump(mode="json") if isinstance(item, BaseModel) else list(item) if isinstance(item, tuple) else item
            )
    return row
