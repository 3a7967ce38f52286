# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is wrong in a label file, line by line.

The rules are those by which ultralytics drops a picture whose label file it dislikes (`verify_image_label`, data/utils.py:439-540 of 8.4.190),
with its tolerances and its float32 arithmetic, so that a file passes here if it is used there; a test compares the two. Stock
drops the picture and goes on. Here each line at fault is named instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BOX = ("x_center", "y_center", "width", "height")
_HIGHEST = 1.01
_LOWEST = -0.01
"""Upstream forgives 1 % beyond the picture, but no negative width or height."""


@dataclass(frozen=True)
class Rules:
    """What a label line must look like."""

    classes: int
    task: str = "detect"
    keypoints: tuple[int, int] | None = None
    """`kpt_shape` of the data yaml: how many, and 2 or 3 numbers each."""
    single_class: bool = False
    """single_cls=True: class numbers are ignored."""
    counted_by: str = "names"
    """Key of the data yaml that says how many classes there are: `names` or `nc`."""

    @property
    def pose_columns(self) -> int:
        """Columns of a line with keypoints; 0 if the data set has none."""
        return 5 + self.keypoints[0] * self.keypoints[1] if self.keypoints else 0


@dataclass(frozen=True)
class Problem:
    """One line at fault."""

    line: int
    what: str


def check(text: str, rules: Rules) -> tuple[int, list[Problem]]:
    """How many objects the label file `text` describes, and what is wrong with it, in line order."""
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if rules.task != "pose" and rules.keypoints:  # pose labels serve a box task without their keypoints
        rows = [(number, words[:5] if len(words) == rules.pose_columns else words) for number, words in rows]
    if _plainly_sound(rows, rules):
        return len(rows), []
    polygons = rules.task in ("segment", "obb") or (rules.task != "pose" and any(len(words) > 6 for _, words in rows))
    problems = [Problem(number, fault) for number, words in rows if (fault := _column_fault(words, polygons, rules))]
    faulty = {problem.line for problem in problems}
    sound = [row for row in rows if row[0] not in faulty]
    values, not_numbers = _numbers(sound)
    faulty.update(problem.line for problem in not_numbers)
    sound = [row for row in sound if row[0] not in faulty]
    out_of_range = _range_faults(sound, values, polygons, rules) if sound else []
    return len(rows), sorted([*problems, *not_numbers, *out_of_range], key=lambda problem: problem.line)


def _plainly_sound(rows: list[tuple[int, list[str]]], rules: Rules) -> bool:
    """Whether every line is a box, or every line a polygon, well inside the limits.

    A short cut: arrays cost more to set up than a file of a few lines takes to read. False only means that the rules are to be looked at.
    """
    columns = {len(words) for _, words in rows}
    boxes = columns <= {5} and rules.task not in ("segment", "obb", "pose")
    polygons = all(count > 6 and count % 2 for count in columns) and rules.task != "pose"
    if not (boxes or polygons):
        return False
    for _, words in rows:
        try:
            cls, *coordinates = map(float, words)
        except ValueError:
            return False
        if not (cls.is_integer() and 0.0 <= cls < rules.classes and all(0.0 <= value <= 1.0 for value in coordinates)):
            return False
    return True


def _column_fault(words: list[str], polygons: bool, rules: Rules) -> str:
    columns = len(words)
    if rules.task == "pose":
        wanted = rules.pose_columns
        return "" if columns == wanted else f"{columns} columns, kpt_shape {list(rules.keypoints or ())} needs {wanted}"
    if not polygons:
        return "" if columns == 5 else f"{columns} columns, a box has 5: class x_center y_center width height"
    if columns == 5:
        if rules.task in ("segment", "obb"):
            return f"a box (5 columns), {rules.task} needs polygons: class x1 y1 x2 y2 ..."
        return "a box (5 columns) in a file that also has polygons"
    return "" if columns >= 3 and columns % 2 else f"{columns} columns, a polygon has a class and pairs of x and y"


def _numbers(rows: list[tuple[int, list[str]]]) -> tuple[np.ndarray, list[Problem]]:
    """All words of all lines as one float32 array, without the lines that hold something else, and these lines' problems."""
    try:
        return np.array([word for _, words in rows for word in words], dtype=np.float32), []
    except ValueError:
        problems, kept = [], []
        for number, words in rows:
            if strange := [word for word in words if not _is_number(word)]:
                problems.append(Problem(number, f"{strange[0]!r} is not a number"))
            else:
                kept.append((number, words))
        return _numbers(kept)[0], problems


def _is_number(word: str) -> bool:
    try:
        np.array([word], dtype=np.float32)
    except ValueError:
        return False
    return True


def _range_faults(rows: list[tuple[int, list[str]]], values: np.ndarray, polygons: bool, rules: Rules) -> list[Problem]:
    """Lines whose class or coordinates are impossible; `values` are the words of `rows`, joined."""
    lengths = np.array([len(words) for _, words in rows])
    starts = np.cumsum(lengths) - lengths
    classes = values[starts]
    low, high = _limits(int(lengths[0]) - 1 if not polygons else len(_BOX), rules)
    with np.errstate(invalid="ignore"):  # inf and NaN are what this looks for
        table = _boxes_around(values, starts, lengths) if polygons else values.reshape(len(rows), -1)[:, 1:]
        outside = ~((table >= low) & (table <= high))  # negated, so that NaN counts as outside
        whole = (classes >= 0) & (classes % 1 == 0)
    beyond = whole & (classes >= rules.classes) & (not rules.single_class)
    problems = []
    for index in np.flatnonzero(~whole | beyond | outside.any(1)):
        number = rows[index][0]
        if not whole[index]:
            problems.append(Problem(number, f"class {classes[index]:g} is not a whole number from 0 on"))
        elif beyond[index]:
            few = "1 class (0)" if rules.classes == 1 else f"{rules.classes} classes (0-{rules.classes - 1})"
            problems.append(Problem(number, f"class {int(classes[index])}, but `{rules.counted_by}` gives {few}"))
        else:
            column = int(np.flatnonzero(outside[index])[0])
            problems.append(Problem(number, _outside_fault(column, float(table[index, column]), polygons)))
    return problems


def _limits(columns: int, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each column after the class, float32 (columns,)."""
    low = np.full(columns, _LOWEST, np.float32)
    low[2:4] = 0.0
    high = np.full(columns, _HIGHEST, np.float32)
    if rules.keypoints and columns > 4 and rules.keypoints[1] == 3:
        high[6::3] = np.inf  # visibility
    return low, high


def _boxes_around(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Boxes (N, 4: centre, size) around N polygons, whose words lie joined in `values` with a class in front of each."""
    points = np.delete(values, starts).reshape(-1, 2)
    pairs = (lengths - 1) // 2
    first = np.cumsum(pairs) - pairs
    lowest, highest = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
    return np.concatenate([(lowest + highest) / 2, highest - lowest], 1)


def _outside_fault(column: int, value: float, polygons: bool) -> str:
    name = _BOX[column] if column < len(_BOX) else f"column {column + 2}"
    what = f"the polygon's {name}" if polygons else name
    if not np.isfinite(value):
        return f"{what} is {value}"
    return f"{what} {value:g} is outside 0..1 (coordinates are fractions of the picture)"
