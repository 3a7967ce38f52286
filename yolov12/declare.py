# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a setting is declared, and how its text becomes a value.

A class of settings is a plain dataclass, so that importing it (and so `--help`) costs nothing. The pydantic-settings model that reads the
environment is built from it on first use: importing pydantic-settings alone takes longer than `--help` may.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from yolov12.errors import UserError

PREFIX = "YOLOV12_"
ON = ("1", "true", "yes", "on")
OFF = ("0", "false", "no", "off")


@dataclass(frozen=True)
class Declaration:
    """Everything there is to know about one setting."""

    name: str
    """As a `key=value` argument and as an attribute."""
    default: Any
    accepts: str
    """What may be typed, in words: shown by help and in the error about a wrong value."""
    doc: str
    choices: tuple[str, ...] = ()
    """Of a text setting: the values, in lower case. Where "1" is among them the other words for on and off are read too."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Of a text setting: other words for a choice."""
    pattern: str = ""
    """Of a text setting: values beyond `choices`."""
    at_least: float | None = None
    at_most: float | None = None
    mistake: Callable[[str], str | None] | None = None
    """Recognises a common misunderstanding in the text and answers it."""
    in_script: bool = False
    """Also an argument of `model.train(...)`."""
    in_ultralytics: bool = False
    """Ultralytics has an argument of this name too, which gets the winning value."""
    on_command_line: bool = True
    later: bool = False
    """Declared, and read by nothing yet: who sets it is told so."""

    @property
    def env(self) -> str:
        """Name of its environment variable."""
        return PREFIX + self.name.upper()

    @property
    def is_switch(self) -> bool:
        """Whether naming it alone (`--sync-bn`) can mean on."""
        return isinstance(self.default, bool) or "1" in self.choices


def setting(default: Any, *, accepts: str, doc: str, **more: Any) -> Any:
    """A dataclass field that declares a setting; `more` are further fields of `Declaration`."""
    return field(default=default, metadata={"declaration": {"accepts": accepts, "doc": doc, **more}})


@functools.cache
def declarations(settings: type) -> dict[str, Declaration]:
    """The settings of a class made of `setting` fields, by name, in order."""
    return {
        item.name: Declaration(item.name, item.default, **item.metadata["declaration"])
        for item in dataclasses.fields(settings)
    }


def switch(text: str) -> bool:
    """True or False for exactly the words in `ON` and `OFF`, in any case.

    Raises:
        ValueError: any other text. "2", "y" and "enabled" are not guessed at.
    """
    word = text.strip().lower()
    if word in ON:
        return True
    if word in OFF:
        return False
    raise ValueError(f"{text!r} is not one of {', '.join(ON + OFF)}")


def as_text(value: Any) -> str:
    """A value as it is typed in the environment: True is 1, a list is joined by commas, None is nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return str(value)


def as_argument(value: Any) -> str:
    """A value as it is typed behind `key=`: what `arguments.value_of` reads as the same, but for a list, which it reads as a tuple."""
    if isinstance(value, (list, tuple)):
        inside = ",".join(str(item) for item in value)
        return inside if len(value) > 1 else f"[{inside}]"
    return str(value)


def from_text(declaration: Declaration, kind: Any, text: str) -> Any:
    """What is particular to our settings in reading `text`; numbers and ranges are left to pydantic.

    Raises:
        ValueError: not a value of this setting.
    """
    text = text.strip()
    if not text:
        raise ValueError("blank")
    if declaration.mistake and (answer := declaration.mistake(text)):
        raise ValueError(answer)
    if kind is bool:
        return switch(text)
    if kind == tuple[str, ...]:
        return tuple(item for item in (part.strip() for part in text.strip("[]()").split(",")) if item)
    if kind == Path | None:
        return Path(text).expanduser().absolute()
    if declaration.choices:
        word = text.lower()
        if "1" in declaration.choices and word in ON + OFF:
            word = "1" if switch(word) else "0"
        word = declaration.aliases.get(word, word)
        if word not in declaration.choices and not re.fullmatch(declaration.pattern or r"(?!)", word):
            raise ValueError("not a choice")
        return word
    return text


def read(settings: type, overrides: Mapping[str, str], words: Mapping[str, str]) -> Any:
    """An instance of `settings` from the process's environment.

    Args:
        settings: a dataclass of `setting` fields.
        overrides: environment names with texts that count before the environment.
        words: for an environment name, how the user wrote it where that was not the environment ("amp='x'"); used in the error.

    Raises:
        UserError: the first wrong value: what it is and what to type.
    """
    from pydantic import ValidationError

    try:
        found = _model(settings)(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        env = str(first["loc"][0])
        declaration = declarations(settings)[env.removeprefix(PREFIX).lower()]
        text = str(first["input"])
        typed = words.get(env, f"{env}={text}")
        answer = declaration.mistake(text.strip()) if declaration.mistake else None
        raise UserError(f"{typed}: {answer or f'not a value of this setting; type {declaration.accepts}'}") from None
    return settings(**{name: getattr(found, name) for name in declarations(settings)})


@functools.cache
def _model(settings: type) -> type:
    """The pydantic-settings model with the fields of `settings`."""
    from pydantic import BeforeValidator, Field, create_model
    from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

    class Base(BaseSettings):
        # An empty value counts as not set: compose files pass `YOLOV12_AMP=${YOLOV12_AMP:-}`.
        model_config = SettingsConfigDict(case_sensitive=True, env_ignore_empty=True, validate_default=False)

    kinds = get_type_hints(settings)
    fields: dict[str, Any] = {}
    for name, declaration in declarations(settings).items():

        def parse(value: str, declaration: Declaration = declaration, kind: Any = kinds[name]) -> Any:
            return from_text(declaration, kind, value)

        limits: dict[str, Any] = {"ge": declaration.at_least, "le": declaration.at_most}
        if kinds[name] in (float, float | None):
            limits["allow_inf_nan"] = False
        # An alias and not `env_prefix`: a case-sensitive prefix is joined to the lower-case field name.
        annotated = Annotated[kinds[name], NoDecode, BeforeValidator(parse)]  # type: ignore[valid-type]  # made at run time
        fields[name] = (annotated, Field(default=declaration.default, validation_alias=declaration.env, **limits))
    return create_model("EnvironmentSettings", __base__=Base, **fields)
