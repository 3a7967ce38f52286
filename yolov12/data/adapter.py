# SPDX-License-Identifier: AGPL-3.0-or-later
"""The one place where this room reaches into ultralytics: label caches, fonts, data downloads and the loader.

Each stand-in has the name and the signature of what it replaces. `install` puts it wherever ultralytics has bound the original, since most of
its modules import functions by name.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from yolov12.data import dataroot, datayaml, fonts, labelcache, pictures
from yolov12.errors import ExitError, UserError
from yolov12.log import say, say_once
from yolov12.seams import Seam, replaced

if TYPE_CHECKING:
    from yolov12.data.order import Plan

SEAMS: tuple[Seam, ...] = (
    # Replaced.
    Seam("data/utils.py", 984, "ultralytics.data.utils.load_dataset_cache_file", "1c6cea96ce88"),
    Seam("data/utils.py", 1002, "ultralytics.data.utils.save_dataset_cache_file", "ff400df7acf0"),
    Seam("data/utils.py", 717, "ultralytics.data.utils.check_det_dataset", "249c3aeec11e"),
    Seam("data/utils.py", 839, "ultralytics.data.utils.check_cls_dataset", "2232af93b000"),
    Seam("data/utils.py", 256, "ultralytics.data.utils.check_image", "902e15d6d69e"),
    Seam("data/dataset.py", 276, "ultralytics.data.dataset.YOLODataset._load_or_scan_cache", "f36510a1e2b3"),
    Seam("data/dataset.py", 248, "ultralytics.data.dataset.YOLODataset.verify_labels", "5ac86a20e111"),
    Seam("data/build.py", 349, "ultralytics.data.build.build_dataloader", "4f01bd7501fe"),
    # Subclassed; `in_order` puts ours in its place.
    Seam("data/build.py", 45, "ultralytics.data.build.InfiniteDataLoader", "7b232ee7c2d3"),
    Seam("utils/checks.py", 434, "ultralytics.utils.checks.check_font", "ccf9e94073e9"),
    # Followed rule by rule, in labels.py, pictures.py, dataroot.py, check.py and scanned.py.
    Seam("data/utils.py", 228, "ultralytics.data.utils.get_hash", "49022e7e05bd"),
    Seam("data/dataset.py", 179, "ultralytics.data.dataset.YOLODataset.get_cache_hash", "e6f8977bfec2"),
    Seam("data/utils.py", 439, "ultralytics.data.utils.verify_image_label", "cb95816950c4"),
    Seam("data/utils.py", 134, "ultralytics.data.utils.img2label_paths", "ecc069842dba"),
    Seam("data/base.py", 189, "ultralytics.data.base.BaseDataset.get_img_files", "baca2eb4485f"),
    # Followed number by number in augment/, whose tests compare.
    Seam("data/augment.py", 435, "ultralytics.data.augment.Mosaic", "ff8beab377bd"),
    Seam("data/augment.py", 784, "ultralytics.data.augment.MixUp", "c14822ead256"),
    Seam("data/augment.py", 886, "ultralytics.data.augment.CutMix", "5e8c286cad6f"),
    Seam("data/augment.py", 1062, "ultralytics.data.augment.RandomPerspective", "d7033b49d90b"),
    Seam("data/augment.py", 1454, "ultralytics.data.augment.RandomHSV", "d4f9ab915be0"),
    Seam("data/augment.py", 1531, "ultralytics.data.augment.RandomFlip", "0cc10422e38a"),
    Seam("data/augment.py", 1937, "ultralytics.data.augment.CopyPaste", "9628e031c543"),
    Seam("data/augment.py", 2101, "ultralytics.data.augment.Albumentations", "df462b91222b"),
    Seam("data/augment.py", 2325, "ultralytics.data.augment.Format", "45098df3c231"),
    Seam("data/augment.py", 2832, "ultralytics.data.augment.v8_transforms", "61e0ccbf8db7"),
    Seam("data/dataset.py", 327, "ultralytics.data.dataset.YOLODataset.build_transforms", "be1309198aa1"),
    Seam("data/dataset.py", 389, "ultralytics.data.dataset.YOLODataset.close_mosaic", "62c6ff1f2c2b"),
    # And in loader/.
    Seam("data/base.py", 252, "ultralytics.data.base.BaseDataset.load_image", "088d1a203d12"),
    Seam("utils/patches.py", 22, "ultralytics.utils.patches.imread", "5f6a098f2c0e"),
    # What handover.ByValue wraps; it relies on this one allocating no shared memory.
    Seam("data/dataset.py", 433, "ultralytics.data.dataset.YOLODataset.collate_fn", "124bfcaa1739"),
)

_stock: dict[str, Callable[..., Any]] = {}
"""What `install` replaced, by name; empty until it ran."""
_stock_methods: dict[str, Callable[..., Any]] = {}
"""The same for methods of YOLODataset."""
_promised_bytes: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""Shared memory that the loaders alive in this process may still fill."""


def install() -> None:
    """Replace the functions of ultralytics that this module stands in for. Calling it again does nothing."""
    if _stock:
        return
    import ultralytics.data.build
    import ultralytics.data.dataset
    import ultralytics.utils.plotting

    replacements: tuple[tuple[Any, str, Any], ...] = (
        (ultralytics.data.utils, "load_dataset_cache_file", load_dataset_cache_file),
        (ultralytics.data.utils, "save_dataset_cache_file", save_dataset_cache_file),
        (ultralytics.data.utils, "check_det_dataset", check_det_dataset),
        (ultralytics.data.utils, "check_cls_dataset", check_cls_dataset),
        (ultralytics.data.utils, "check_image", check_image),
        (ultralytics.data.build, "build_dataloader", build_dataloader),
        (ultralytics.utils.checks, "check_font", fonts.check_font),
    )
    for module, name, stand_in in replacements:
        _stock[name] = vars(module)[name]
        # inspect.getsource follows this, so that a seam's digest stays that of the pinned source.
        stand_in.__wrapped__ = _stock[name]
        _rebind(name, _stock[name], stand_in)
    ultralytics.data.utils.check_font = fonts.check_beforehand
    dataset: Any = ultralytics.data.dataset.YOLODataset
    methods: dict[str, Any] = {"_load_or_scan_cache": _load_or_scan_cache, "verify_labels": _verify_labels}
    for name, method in methods.items():
        _stock_methods[name] = method.__wrapped__ = vars(dataset)[name]
        setattr(dataset, name, method)


def load_dataset_cache_file(path: Path) -> dict[str, Any]:
    """The label cache that belongs to stock's `path`, read from our own file beside it; stock's file is never opened.

    Raises:
        FileNotFoundError, labelcache.UnreadableError: none there or not whole; the caller then scans the data set again.
    """
    file = labelcache.place(path)
    try:
        return labelcache.load(file)
    except labelcache.UnreadableError as error:
        say_once(f"label cache {file}", f"label cache: {error}; the data set is scanned again")
        raise


def save_dataset_cache_file(prefix: str, path: Path, x: dict[str, Any], version: str) -> None:
    """Keep a scan's result `x` beside the labels, or say why not; `x` gets its `version` either way, as upstream's callers expect."""
    del prefix  # upstream's colours for "train:" and "val:"
    x["version"] = version
    file = labelcache.place(path)
    try:
        labelcache.save(file, x)
    except (ExitError, OSError, labelcache.NotStorableError) as error:
        say_once(f"label cache {file}", f"label cache: not saved ({error}); the next run scans the data set again")
    else:
        say(f"label cache: {file}")


def _load_or_scan_cache(self: Any, cache_path: Path, cache_hash: str) -> tuple[dict[str, Any], bool]:
    """Upstream's method, told the name of the file that is really read.

    Its caller says what it found in a cache under the name of stock's file, so that is said here, and the caller hears that there was none.
    """
    from ultralytics.utils import LOCAL_RANK, LOGGER

    file = labelcache.place(cache_path)
    cache, was_there = _stock_methods["_load_or_scan_cache"](self, file, cache_hash)
    if was_there and "results" in cache and LOCAL_RANK in {-1, 0}:  # a grounding data set has none
        LOGGER.info(f"{self.prefix}{file}: {self.scan_summary(*cache['results'][:4])}")
        if cache["msgs"]:
            LOGGER.info("\n".join(cache["msgs"]))
    return cache, False


def _verify_labels(self: Any, labels: list[dict[str, Any]], cache_path: Path) -> None:
    """Upstream's method, told the name of the file that its warning should name."""
    _stock_methods["verify_labels"](self, labels, labelcache.place(cache_path))


def check_image(im_file: str) -> tuple[str, tuple[int, int]]:
    """Upstream's check, asked only about pictures that `yolov12 data check` has not found damaged.

    Upstream takes a file that it can not tell for a HEIC picture and asks for a package to read it (utils/patches.py:95), which is a wrong trail
    for all other files.

    Raises:
        OSError: the picture is damaged; says how, in the words of `data check`.
    """
    verdict, why = pictures.damage(im_file)
    if verdict == "skip":
        raise OSError(why)
    try:
        return _stock["check_image"](im_file)
    except ModuleNotFoundError as error:
        if error.name != "pi_heif":
            raise
        raise OSError(pictures.why_unidentified(im_file)) from error


def check_det_dataset(dataset: str | Path, autodownload: bool = True, split: str = "") -> dict[str, Any]:
    """Upstream's reading of a data yaml, except that a `download:` field is followed only for a data set of ultralytics' own list.

    Such a field may be a script, and upstream runs it. The yamls that ultralytics ships are part of the pinned library, and naming one of
    them names a public data set; any other yaml came from somewhere else.

    Raises:
        UserError: data are missing and are not fetched; says what to fetch and where to put it.
    """
    name = str(dataset)
    allowed, reason = may_download(name)
    if "://" in name and not allowed:
        raise UserError(
            f"data={name} is not fetched ({reason}): fetch and unpack it, then give the path of its data yaml"
        )
    try:
        with _root_as_found(name):
            return _stock["check_det_dataset"](dataset, autodownload=autodownload and allowed, split=split)
    except FileNotFoundError as error:
        file = Path(name) if Path(name).is_file() else datayaml.shipped(name)
        if allowed or file is None or file.suffix not in (".yaml", ".yml"):
            raise
        content = datayaml.read(file)
        advice = datayaml.download_advice(content, dataroot.find(file, content).folder)
        if not advice:
            raise
        raise UserError(f"{str(error).splitlines()[0]}: {advice} ({reason})") from error


@contextmanager
def _root_as_found(name: str) -> Iterator[None]:
    """Within it, upstream finds the folder of a data set where `dataroot` does: also beside the yaml."""
    import ultralytics.data.utils as upstream
    from ultralytics.utils import YAML

    try:
        file = datayaml.find(name)
        root = dataroot.find(file, datayaml.read(file))
    except UserError:  # upstream has its own words for that
        yield
        return
    dataroot.announce(file, root)
    if root.is_upstreams:
        yield
        return

    def load(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return YAML.load(*args, **kwargs) | {"path": str(root.folder)}

    with replaced(upstream, YAML=SimpleNamespace(load=load)):
        yield


def check_cls_dataset(dataset: str | Path, split: str = "") -> dict[str, Any]:
    """Upstream's reading of a classification folder; with YOLOV12_OFFLINE=1 a missing one is an error instead of a download.

    Raises:
        UserError: offline, and there is no such folder.
    """
    from ultralytics.utils import DATASETS_DIR

    allowed, reason = may_download(str(dataset))
    if not allowed and not any(Path(place).exists() for place in (dataset, DATASETS_DIR / str(dataset))):
        raise UserError(
            f"data={dataset} is not here and is not fetched ({reason}): put its folder at {DATASETS_DIR / str(dataset)}"
        )
    return _stock["check_cls_dataset"](dataset, split=split)


def may_download(dataset: str) -> tuple[bool, str]:
    """Whether `data=dataset` may use the network: for an address or a name of ultralytics' list, which the user typed, it may."""
    from ultralytics.utils import ROOT

    from yolov12 import settings

    if settings.current().offline:
        return False, "YOLOV12_OFFLINE=1"
    path = Path(dataset)
    if path.exists() and ROOT not in path.resolve().parents:
        return False, "only data sets that ultralytics lists are fetched"
    return True, "named by the user"


def build_dataloader(dataset: Any, batch: int, workers: int, *args: Any, **kwargs: Any) -> Any:
    """Upstream's loader; where /dev/shm is too small for its batches, its workers hand them over by value, and one line says so."""
    from yolov12.data import handover

    loader = _stock["build_dataloader"](dataset, batch, workers, *args, **kwargs)
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
    image = bytes_per_image(dataset)
    wanted = handover.wanted_bytes(loader.num_workers, loader.prefetch_factor or 0, loader.batch_size, image, ranks)
    free = handover.free_bytes()
    left = None if free is None else max(free - sum(_promised_bytes.values()), 0)
    strategy, reason = handover.choose(wanted, left)
    if strategy == "shared":
        _promised_bytes[loader] = wanted
    else:
        loader.collate_fn = handover.ByValue(loader.collate_fn)
        say_once(
            "handover",
            f"loader: workers hand batches over without shared memory: {reason} (docker run --shm-size=8g avoids the copies)",
        )
    return loader


@contextmanager
def in_order(plan: Callable[[int, bool], Plan]) -> Iterator[None]:
    """Within it, the loaders that upstream builds give samples by `plan(samples, shuffle)` instead of by upstream's samplers."""
    import ultralytics.data.build as upstream

    with replaced(upstream, InfiniteDataLoader=_loader_in_order(upstream.InfiniteDataLoader, plan)):
        yield


def _loader_in_order(base: Any, plan: Callable[[int, bool], Plan]) -> type:
    from yolov12.data.order import Endless, Order, Seeded

    class OrderedLoader(base):
        """Upstream's loader, which knows at which place of which epoch it is.

        Iterating gives what is left of the epoch that was set; without `set_epoch` the next iteration gives the next epoch.
        """

        def __init__(self, dataset: Any, **options: Any) -> None:
            shuffle = options["shuffle"] or getattr(options["sampler"], "shuffle", False)
            self.iterator: Any
            self.order = Order(plan(len(dataset), shuffle))
            dataset.__getitems__ = Seeded(dataset)
            options |= {"sampler": self.order, "shuffle": False, "drop_last": self.order.plan.drop_last}
            super().__init__(dataset=dataset, **options)
            object.__setattr__(self, "batch_sampler", Endless(self.order))  # as upstream does with its own
            self.position: tuple[int, int] | None = (0, 0)
            """(epoch, samples of all ranks seen in it) where the next iteration begins; None where one was not finished."""

        def __len__(self) -> int:
            return self.order.plan.batches()

        def set_epoch(self, epoch: int, seen: int = 0) -> None:
            """Begin there. What workers have prepared for another place is dropped."""
            if self.position != (epoch, seen):
                self.reset()
                self.position = (epoch, seen)

        def __iter__(self) -> Iterator[Any]:
            if self.position is None:
                self.set_epoch(self.order.epoch)
            epoch, seen = self.position or (self.order.epoch, 0)
            self.order.set_epoch(epoch, seen)
            self.position = None
            if self.iterator is None:
                self.iterator = self._get_iterator()
            for _ in range(self.order.plan.batches(seen)):
                yield next(self.iterator)
            self.position = (epoch + 1, 0)

    return OrderedLoader


def bytes_per_image(dataset: Any) -> int:
    """Upper estimate of what one sample of an ultralytics data set takes in a batch, padding aside; 640 x 640 where it does not tell."""
    first = getattr(dataset, "datasets", [dataset])[0]
    if not hasattr(first, "imgsz"):  # classification: float32, and only its transforms know the size
        steps = getattr(getattr(first, "torch_transforms", None), "transforms", [])
        sizes = [side for step in steps for side in _sides(getattr(step, "size", None) or 0)]
        return 3 * 4 * max(sizes, default=640) ** 2
    side = max(_sides(first.imgsz))
    image = getattr(first, "channels", 3) * side**2
    # Masks and depth maps: at most one float per pixel.
    return image + (0 if _boxes_only(first) else 4 * side**2)


def _boxes_only(dataset: Any) -> bool:
    from ultralytics.data.augment import Format

    return not getattr(dataset, "use_segments", False) and getattr(dataset, "format_class", Format) is Format


def _sides(size: Any) -> list[int]:
    return [int(side) for side in size] if isinstance(size, (tuple, list)) else [int(size)]


def _rebind(name: str, old: Any, new: Any) -> None:
    """Put `new` wherever a loaded module of ultralytics has `old` under `name`; later imports find it at the source."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] == "ultralytics" and vars(module).get(name) is old:
            setattr(module, name, new)
