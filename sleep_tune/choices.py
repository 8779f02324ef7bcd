"""Fields that come in kinds: a name from a table with its parameters, or a one-key mapping `{kind: ...}`."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model, model_serializer
from pydantic_core import PydanticCustomError

from sleep_tune.errors import nearest


class Choice(BaseModel):
    """A row of a table of functions, by name, with keyword parameters that differ from the function's defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str
    parameters: dict[str, Any] = {}

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {self.name: dict(self.parameters)} if self.parameters else self.name


@cache
def parameter_model(function: Callable[..., Any]) -> type[BaseModel]:
    """A strict model of a function's keyword-only parameters, from their annotations and defaults."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def parameters_of(model: type[BaseModel]) -> str:
    """A kind's parameters, as they are written."""
    return "{" + ", ".join(f"{field}: …" for field in model.model_fields) + "}" if model.model_fields else "no parameters"


def resolved(choice: Choice, table: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """All parameters of a choice from `table`, those left out with the function's defaults."""
    return parameter_model(table[choice.name]).model_validate(choice.parameters).model_dump()


def choice_from(table: Mapping[str, Callable[..., Any]]) -> BeforeValidator:
    """Reads `name` or `{name: {parameter: value}}` as a `Choice` whose parameters suit the function of that name."""

    def read(raw: object) -> Choice:
        if isinstance(raw, Choice):
            return raw
        pairs = {raw: {}} if isinstance(raw, str) else raw
        if not isinstance(pairs, dict) or len(pairs) != 1:
            raise PydanticCustomError(
                "choice",
                "must be a name or one {brace}name: parameters{close}{names}",
                {"names": nearest("", table), "brace": "{", "close": "}"},
            )
        name, given = next(iter(pairs.items()))
        if name not in table:
            raise PydanticCustomError("choice", "unknown{names}", {"names": nearest(str(name), table)})
        model = parameter_model(table[name])
        try:
            parameters = model.model_validate({} if given is None else given)
        except ValidationError as error:
            from sleep_tune.explain import allowed_in

            first = error.errors()[0]
            at = ".".join(str(part) for part in first["loc"])
            if not first["loc"]:
                raise PydanticCustomError("choice", "{name} takes {names}", {"name": name, "names": parameters_of(model)}) from None
            if first["type"] == "extra_forbidden":
                message = f"unknown parameter{nearest(at, model.model_fields)}" if model.model_fields else "takes no parameters"
            else:
                message = f"must be {allowed_in(model, str(first['loc'][0]))}"
            raise PydanticCustomError("choice", "{name}.{at}: {message}", {"name": name, "at": at, "message": message}) from None
        return Choice(name=name, parameters=parameters.model_dump(exclude_defaults=True))

    return BeforeValidator(read)


def key_of(value: object) -> str | None:
    """The tag of a one-key mapping, or of the model read from one."""
    if isinstance(value, BaseModel):
        return next(iter(type(value).model_fields))
    if isinstance(value, dict) and len(value) == 1:
        return str(next(iter(value)))
    return None


def _tuple_of(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _text_of(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _known_tasks(value: object) -> object:
    from sleep_tune.evaluation.finetune_settings import GLUE, GROUP
    from sleep_tune.evaluation.tasks import TASKS

    for name in value if isinstance(value, tuple | list) else ():
        if name in (*(task.name for task in TASKS.values() if not task.one_model), *GLUE, GROUP):
            command = "python -m sleep_tune.evaluation"
            raise PydanticCustomError("choice", "{task} is scored by {command}, not by a study", {"task": name, "command": command})
    scored = [task.name for task in TASKS.values() if task.one_model]
    for name in value if isinstance(value, tuple | list) else ():
        if name not in scored:
            raise PydanticCustomError("choice", "unknown task {task}{names}", {"task": str(name), "names": nearest(str(name), scored)})
    return value


as_text = BeforeValidator(_text_of)  # YAML reads 2025 as a number
tuples = BeforeValidator(_tuple_of)
task_names = BeforeValidator(_known_tasks)
