"""Values of a dataclass of options: from defaults, a YAML file and what was given, checked; as a stamp holds them."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import pydantic_core
from pydantic.fields import FieldInfo

from pipeline.base.errors import ConfigError
from pipeline.base.files import read_yaml

# Where to compute: torch knows further names, for machines that nothing here was tried on.
Device = typing.Annotated[str, pydantic.StringConstraints(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")]
DeviceOrAuto = typing.Annotated[str, pydantic.StringConstraints(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")]


def load_options(cls: type, config_file: Path | None, given: Mapping[str, Any]) -> Any:
    """Returns `cls` with values from its defaults, then a YAML file, then `given`.

    In the file as on the command line the word none means no value where an option may have none.

    Raises:
      ConfigError: an unknown option, a missing one, or a value that the type of the field refuses.
    """
    fields = fields_of(cls)
    values: dict[str, Any] = {}
    if config_file is not None:
        loaded = read_yaml(config_file)
        if not isinstance(loaded, dict) and loaded is not None:
            raise ConfigError(f"{config_file}: needs lines like 'name: value'")
        for key, value in (loaded or {}).items():
            name = str(key).replace("-", "_")
            if name not in fields:
                raise ConfigError(f"{config_file}: unknown option {key!r}; known: {', '.join(fields)}")
            if name in values:
                raise ConfigError(f"{config_file}: {key!r} is given twice, with - and with _")
            optional = type(None) in typing.get_args(fields[name].annotation)
            values[name] = None if optional and isinstance(value, str) and value.lower() == "none" else value
    values.update(given)

    def said(name: str, problem: str) -> ConfigError:
        where = f"{config_file}: " if config_file is not None and name not in given else ""
        got = f" (got {values[name]!r})" if name in values else ""
        flag = f"--{name.replace('_', '-')}" if name else "options"
        return ConfigError(f"{where}{flag}: {problem}{got}")

    try:
        options = cls(**values)
    except pydantic.ValidationError as err:
        first = err.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "missing":
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is required, on the command line or in the file of --config") from None
        raise said(name, first["msg"].removeprefix("Value error, ")) from None
    for name in fields:
        problem = _problem(getattr(options, name))
        if problem is not None:
            raise said(name, problem)
    return options


def options_json(options: Any) -> dict[str, Any]:
    """Returns the options that count for the stamp as JSON values."""
    if isinstance(options, Mapping):
        return dict(pydantic_core.to_jsonable_python(dict(options)))
    values = pydantic.TypeAdapter(type(options)).dump_python(options, mode="json")

    def counts(name: str, field: FieldInfo) -> bool:
        rule = extra_of(field).get("stamp", True)
        assert rule in (True, False, "if_set"), (name, rule)
        return bool(rule) and (
            rule != "if_set" or getattr(options, name) != field.get_default(call_default_factory=True)
        )

    return {name: values[name] for name, field in fields_of(type(options)).items() if counts(name, field)}


def fields_of(cls: type) -> dict[str, FieldInfo]:
    """Name -> field of a pydantic dataclass."""
    fields: dict[str, FieldInfo] | None = getattr(cls, "__pydantic_fields__", None)
    assert fields is not None, f"{cls.__name__} is not a pydantic dataclass"
    return fields


def extra_of(field: FieldInfo) -> Mapping[str, Any]:
    """What a field says with json_schema_extra."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _problem(value: Any) -> str | None:
    """What speaks against the numbers of a value: no setting is NaN or infinite, which stamps cannot hold, and compiled
    loops count to 64 bits.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "needs a finite number"
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return "needs a number of at most 64 bits"
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next(filter(None, map(_problem, parts)), None)
