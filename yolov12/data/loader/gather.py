# SPDX-License-Identifier: AGPL-3.0-or-later
"""From indices to decoded pictures in the store: read by processes or threads, decoded on the GPU where it may be, each picture at most once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from yolov12.data.loader import decoders
from yolov12.data.loader.ahead import CLOSING_S
from yolov12.data.loader.cachefile import CacheFile
from yolov12.data.loader.fetch import Fetched, fetch, on_the_cpu
from yolov12.data.loader.reader_pool import ReaderPool
from yolov12.data.loader.resize import fit_tensor, upright
from yolov12.data.loader.store import Store
from yolov12.data.loader.threads import Threads
from yolov12.log import warn

T = TypeVar("T")

DECODED_BYTES = 256 * 2**20
"""Of pictures in their full size that one call of a GPU decoder makes; a batch of photos from a phone would take gigabytes."""
RESIZED_BYTES = 32 * 2**20
"""Of pictures in their full size that are resized together, which takes five times as much."""


class Gatherer:
    """Brings pictures into a store. `ask` may run ahead of `bring`; only one thread may call them."""

    def __init__(
        self,
        files: Sequence[str],
        imgsz: int,
        store: Store,
        threads: int,
        decoder: decoders.Decoder | None = None,
        cache: CacheFile | None = None,
        readers: ReaderPool | None = None,
    ) -> None:
        """`files` are the pictures' paths by index; without a `decoder` the processes of `readers` decode, or where there are none the threads."""
        self.readers = readers
        self.files, self.imgsz, self.store, self.decoder, self.cache = files, imgsz, store, decoder, cache
        self.on_cpu: Counter[str] = Counter()
        """Pictures that the plain path decoded although there is a GPU decoder, by reason."""
        self.original: dict[int, tuple[int, int]] = {}
        """(height, width) before resizing of all pictures that were decoded so far."""
        self._refused: set[int] = set()
        self._pinned = store.block.is_cuda
        self._pool = Threads(threads, "yolov12-read")
        self._asked: dict[int, Future[Fetched]] = {}

    def ask(self, indices: Iterable[int]) -> None:
        """Let reading begin with these, as far as they are not there."""
        new = [index for index in dict.fromkeys(indices) if index not in self.store and not self._is_asked(index)]
        for index in new:
            if not self._is_for_readers(index):
                self._ask_threads(index)
        if self.readers is not None:
            self.readers.ask([index for index in new if index not in self._asked])

    def _is_asked(self, index: int) -> bool:
        return index in self._asked or (self.readers is not None and index in self.readers)

    def _is_for_readers(self, index: int) -> bool:
        return self.readers is not None and index not in self._refused and self.readers.serves(index)

    def _ask_threads(self, index: int) -> None:
        on_gpu = self.decoder is not None and index not in self._refused
        self._asked[index] = self._pool.submit(
            fetch, index, self.files[index], self.imgsz, on_gpu, self._pinned, self.cache
        )

    def bring(self, indices: Sequence[int]) -> dict[int, str]:
        """Have all of these in the store, as those that were used last; the reasons for those that can not be read, by index."""
        wanted = list(dict.fromkeys(indices))
        self.store.touch(
            [index for index in wanted if index in self.store]
        )  # those that are missing must not push them out
        missing = [index for index in wanted if index not in self.store]
        self.ask(missing)
        if self.readers is not None:
            for one in self.readers.take(missing):
                if isinstance(one, Fetched):
                    self._keep(one)
                else:  # what is wrong with it, threads find out
                    self._refused.add(one)
                    self._ask_threads(one)
        fetched = [self._asked[index].result() for index in missing if index in self._asked]
        fetched += self._decode_on_gpu([one for one in fetched if one.encoded])
        for one in fetched:
            if one.image is not None:
                self._keep(one)
        for index in wanted:  # also those that came into the store another way meanwhile
            self._asked.pop(index, None)
        # In the caller's order, whichever came first: who may still draw on a picture counts back from the last one in that order (recent.py).
        self.store.touch([index for index in wanted if index in self.store])
        return {one.index: one.failure for one in fetched if one.failure}

    def stop(self) -> None:
        """Let whoever waits for the processes go on, before `close`. Any thread may call it."""
        if self.readers is not None:
            self.readers.stop()

    def close(self) -> None:
        """End processes and threads; what they have not begun is dropped. One that gets no answer from its file system is left behind."""
        if self.readers is not None and (left := self.readers.close(CLOSING_S)):
            warn(
                f"loader: {left} reading process(es) got no answer from the file system within {CLOSING_S:g} s and are left behind"
            )
        if busy := self._pool.close(CLOSING_S):
            warn(
                f"loader: {busy} reading thread(s) got no answer from the file system within {CLOSING_S:g} s and are left behind"
            )
        self._asked.clear()

    def _keep(self, one: Fetched) -> None:
        """Put a picture that lies in host memory into the store."""
        assert one.image is not None
        self.store.put(one.index, one.image)
        self.original[one.index] = one.original
        if one.on_cpu:
            self.on_cpu[one.on_cpu] += 1

    def _decode_on_gpu(self, encoded: Sequence[Fetched]) -> list[Fetched]:
        """Decode these into the store; those that the decoder refuses come back from the plain path, decoded or with a failure."""
        refused: list[Future[Fetched]] = []
        for part in _up_to(encoded, DECODED_BYTES):
            images, reasons = decoders.decode(self.decoder, [one.encoded for one in part])  # type: ignore[arg-type]
            pairs = [(one, image) for one, image in zip(part, images, strict=True) if image is not None]
            for group in _alike(pairs, lambda pair: (pair[1].shape, pair[0].header.orientation)):
                for chunk in _chunks(group, RESIZED_BYTES // group[0][1].numel()):
                    self._keep_on_gpu(chunk)
            for place in reasons:
                one = part[place]
                self._refused.add(one.index)
                why = "the GPU decoder refused it"
                path = self.files[one.index]
                refused.append(self._pool.submit(on_the_cpu, one.index, path, self.imgsz, why, self._pinned))
        return [future.result() for future in refused]

    def _keep_on_gpu(self, pairs: Sequence[tuple[Fetched, Tensor]]) -> None:
        """Put pictures of one size, as a decoder left them, into the store."""
        assert pairs[0][0].header is not None
        orientation = pairs[0][0].header.orientation
        images: Sequence[Tensor] | Tensor = [image for _, image in pairs]
        if orientation != 1 or max(images[0].shape[:2]) != self.imgsz:
            images = fit_tensor(upright(torch.stack(list(images)), orientation), self.imgsz)
        for (one, decoded), image in zip(pairs, images, strict=True):
            self.store.put(one.index, image)
            height, width = upright(decoded, orientation).shape[:2]
            self.original[one.index] = (height, width)


def _alike(items: Iterable[T], trait: Any) -> list[list[T]]:
    """The items in groups with the same trait."""
    groups: dict[Any, list[T]] = defaultdict(list)
    for item in items:
        groups[trait(item)].append(item)
    return list(groups.values())


def _chunks(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, max(most, 1))):
        yield chunk


def _up_to(encoded: Sequence[Fetched], limit_bytes: int) -> Iterator[list[Fetched]]:
    """The files in parts whose pictures take up to `limit_bytes`, or single ones that take more."""
    part: list[Fetched] = []
    size = 0
    for one in encoded:
        assert one.header is not None
        more = 3 * one.header.height * one.header.width
        if part and size + more > limit_bytes:
            yield part
            part, size = [], 0
        part.append(one)
        size += more
    if part:
        yield part
