# SPDX-License-Identifier: AGPL-3.0-or-later
"""`recipe=NAME`: presets of training arguments from recipes.yaml, below whatever the user typed."""

from __future__ import annotations

import difflib
import functools
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov12.errors import UserError

FILE = Path(__file__).with_name("recipes.yaml")
SIZES = "nsmlx"


@dataclass(frozen=True)
class Argument:
    """One argument of a recipe."""

    key: str
    values: Mapping[str, Any]
    """By size of the model; the key "" where the value is the same for all."""
    why: str
    source: str

    def value(self, size: str) -> Any:
        """For a model of this size."""
        return self.values[""] if "" in self.values else self.values[size]


@dataclass(frozen=True)
class Recipe:
    """A preset."""

    name: str
    is_for: str
    needs: str
    """What the user must bring: the "size" of a YOLOv12 in `model=`, trained "weights" there, or "nothing"."""
    tried_on: tuple[str, ...]
    """Records that used it."""
    arguments: tuple[Argument, ...]


@functools.cache
def known() -> dict[str, Recipe]:
    """Every recipe of recipes.yaml by name."""
    import yaml

    return {name: _recipe(name, entry) for name, entry in yaml.safe_load(FILE.read_text(encoding="utf-8")).items()}


def _recipe(name: str, entry: Mapping[str, Any]) -> Recipe:
    found = []
    for key, fields in entry["arguments"].items():
        values = {"": fields["value"]} if "value" in fields else {size: fields[size] for size in SIZES}
        found.append(Argument(key, values, fields["why"], fields["source"]))
    return Recipe(name, entry["is_for"], entry["needs"], tuple(entry["tried_on"]), tuple(found))


def apply(name: Any, options: Mapping[str, Any], default_model: str) -> tuple[dict[str, Any], str]:
    """The options with the recipe's below them, and a line that says what came from where.

    Args:
        name: of the recipe.
        options: what the user typed; it wins.
        default_model: what is trained where neither names a model.

    Raises:
        UserError: no such recipe, or the model is none that it is for.
    """
    recipe = named(name)
    model = str(options.get("model") or default_model)
    size = _size(recipe, model)
    presets = {argument.key: argument.value(size) for argument in recipe.arguments}
    yours = {key: options[key] for key in presets if key in options and options[key] != presets[key]}
    taken = [f"{key}={value}" for key, value in presets.items() if key not in yours]
    line = f"recipe={name}: {' '.join(taken) or 'nothing'}"
    if yours:
        line += f"; yours win: {' '.join(f'{key}={value}' for key, value in yours.items())}"
    return presets | dict(options), f"{line}; tried on: {tried_on(recipe)}"


def named(name: Any) -> Recipe:
    """The recipe of this name.

    Raises:
        UserError: there is none; all are named.
    """
    recipes = known()
    if str(name) in recipes:
        return recipes[str(name)]
    near = difflib.get_close_matches(str(name), recipes, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"recipe={name}: {meant}there are {', '.join(recipes)} (docs/recipes.md says what each is for)")


def tried_on(recipe: Recipe) -> str:
    """The records, in words."""
    return ", ".join(recipe.tried_on) or "nothing yet"


def _size(recipe: Recipe, model: str) -> str:
    """The size of the model, as far as the recipe needs it."""
    if recipe.needs == "weights" and not model.endswith(".pt"):
        raise UserError(
            f"recipe={recipe.name} goes on from trained weights, and {model} has none: type model=yolov12n.pt"
        )
    if recipe.needs != "size":
        return ""
    found = re.match(r"yolov?12([nsmlx])\b", Path(model).name)
    if found is None:
        raise UserError(
            f"recipe={recipe.name} has values for each size of YOLOv12, and {model} names none: type model=yolov12n.yaml"
        )
    return found[1]


def table() -> Iterator[str]:
    """docs/recipes.md's block, line by line."""
    for recipe in known().values():
        needs = {"size": "; `model=` names a YOLOv12", "weights": "; `model=` is a .pt", "nothing": ""}[recipe.needs]
        yield f"### `recipe={recipe.name}`"
        yield ""
        yield f"For {recipe.is_for}{needs}. Tried on: {tried_on(recipe)}."
        yield ""
        yield "| argument | value | why | source |"
        yield "|---|---|---|---|"
        for argument in recipe.arguments:
            values = ", ".join(f"{size} {value}" if size else str(value) for size, value in argument.values.items())
            yield f"| `{argument.key}` | {values} | {argument.why} | {argument.source} |"
        yield ""


if __name__ == "__main__":
    # A reader that has seen enough (`| head`) ends this without a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print("\n".join(table()))
