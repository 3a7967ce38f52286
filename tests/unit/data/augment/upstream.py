# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ultralytics' own training transforms, told a recipe: wherever they would draw a random number they get the one that we drew.

Each number is taken from a list in the order in which upstream asks, and must lie within the bounds that it asks for. A list that runs out, or
is not used up, is a failure: upstream then draws more or fewer numbers than our sampler knows of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ultralytics.cfg import get_cfg
from ultralytics.data import augment as upstream
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils.instance import Instances

from yolov12.data.augment import Recipe, Source


class Pictures:
    """As much of a YOLODataset as the transforms ask for."""

    augment, rect, cache, format_class = True, False, "ram", upstream.Format
    use_segments = use_keypoints = use_obb = False
    data: dict[str, Any] = {}

    def __init__(self, sources: Mapping[int, Source], imgsz: int) -> None:
        self.sources, self.imgsz = sources, imgsz

    def __len__(self) -> int:
        return max(self.sources) + 1

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        source = self.sources[index]
        image = source.image.numpy().copy()
        instances = Instances(source.boxes.copy(), bbox_format="xyxy", normalized=False)
        return {
            "img": image,
            "instances": instances,
            "cls": source.classes[:, None].copy(),
            "im_file": f"{index}.jpg",
            "ori_shape": image.shape[:2],
            "resized_shape": image.shape[:2],
        }


class Script:
    """Stands in for the modules `random` and `numpy.random`."""

    def __init__(self, recipe: Recipe, sample: int) -> None:
        self.recipe = recipe
        hyp = recipe.hyp
        mixup, cutmix = recipe.mixup_layers, recipe.cutmix_layers
        mixed, cut = ([*np.flatnonzero(recipe.owner[layers] == sample)] for layers in (mixup, cutmix))
        self.uniforms: list[float] = [*self._layer(sample), self._gate(bool(mixed))]
        self.indices: list[int] = self._partners(sample)
        self.areas: list[Any] = []
        self.shares = [recipe.mixup_share[i] for i in mixed]
        for i in mixed:
            self._partner_layer(mixup.start + i)
        self.uniforms.append(self._gate(bool(cut)))
        for i in cut:
            self._partner_layer(cutmix.start + i)
            self.areas += [area.astype(int) for area in recipe.cut_areas[i]]
        self.choices = [recipe.cut_choice[i] for i in cut]
        self.gains_left = [recipe.hsv[sample] / np.maximum((hyp.hsv_h, hyp.hsv_s, hyp.hsv_v), 1e-12)]
        self.flips = [0.0 if flag[sample] else 1.0 for flag in (recipe.flipud, recipe.fliplr)]
        self.uniforms.append(0.0 if recipe.bgr[sample] else 1.0)

    @staticmethod
    def _gate(is_open: bool) -> float:
        return 0.0 if is_open else 1.0

    def _layer(self, layer: int) -> list[float]:
        recipe = self.recipe
        x, y = recipe.seam[layer]
        mosaic = bool(recipe.mosaic[layer])
        return [
            self._gate(mosaic),
            *([y, x] if mosaic else []),
            *recipe.perspective[layer],
            recipe.angle_deg[layer],
            recipe.gain[layer],
            *recipe.shear_deg[layer],
            *(recipe.middle[layer] / recipe.hyp.imgsz),
        ]

    def _partners(self, layer: int) -> list[int]:
        return [int(index) for index in self.recipe.indices[layer, 1:] if index >= 0]

    def _partner_layer(self, layer: int) -> None:
        self.indices += [int(self.recipe.indices[layer, 0]), *self._partners(layer)]
        self.uniforms += self._layer(layer)

    # The module `random`.
    def uniform(self, low: float, high: float) -> float:
        value = self.uniforms.pop(0)
        assert min(low, high) - 1e-9 <= value <= max(low, high) + 1e-9, (low, value, high)
        return float(value)

    def random(self) -> float:
        return self.flips.pop(0)

    def randint(self, low: int, high: int) -> int:
        value = self.indices.pop(0)
        assert low <= value <= high
        return value

    # The module `numpy.random`.
    def beta(self, a: float, b: float) -> float:
        assert (a, b) == (32.0, 32.0)
        return self.shares.pop(0)

    def choice(self, free: np.ndarray) -> Any:
        return free[int(self.choices.pop(0) * len(free))]

    def gains(self, low: float, high: float, count: int) -> np.ndarray:
        assert (low, high, count) == (-1, 1, 3)
        return self.gains_left.pop(0)

    # CutMix._rand_bbox.
    def area(self, width: int, height: int) -> Any:
        assert width == height == self.recipe.hyp.imgsz
        return self.areas.pop(0)

    def is_used_up(self) -> bool:
        return not any((self.uniforms, self.indices, self.shares, self.areas, self.flips))


def arguments(**changes: Any) -> Any:
    """Ultralytics' training arguments, the defaults but for `changes`."""
    return get_cfg(overrides=changes)


def transformed(
    recipe: Recipe, sources: Mapping[int, Source], args: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimpleNamespace]:
    """What upstream's transforms make of each sample of the batch: img (3, s, s), cls (n, 1), bboxes (n, 4)."""
    pictures = Pictures(sources, recipe.hyp.imgsz)
    transforms = YOLODataset.build_transforms(pictures, args)
    for sample in range(recipe.batch):
        script = Script(recipe, sample)
        with monkeypatch.context() as patch:
            patch.setattr(upstream, "random", script)
            patch.setattr(np.random, "beta", script.beta)
            patch.setattr(np.random, "choice", script.choice)
            patch.setattr(np.random, "uniform", script.gains)
            patch.setattr(upstream.CutMix, "_rand_bbox", script.area)
            labels = transforms(pictures.get_image_and_label(int(recipe.indices[sample, 0])))
        assert script.is_used_up(), vars(script)
        yield SimpleNamespace(img=labels["img"], cls=labels["cls"], bboxes=labels["bboxes"])
