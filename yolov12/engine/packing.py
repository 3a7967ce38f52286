# SPDX-License-Identifier: AGPL-3.0-or-later
"""What torch.save writes, pickled once for all the files that are made of it, while training waits for it.

A thread that pickles holds Python's lock, and training stands still for as long. Here all but the numbers is pickled once, in the form that
torch.save gives it, whatever the number of files. The thread then has only bytes to write, without the lock.

    the pickle names a tensor's storage by a number <- torch.load joins the two -> the archive's record data/NUMBER has its bytes

Each tensor has a storage of its own, as in stock's files: a tool that saves one of them writes one, and not all. Only what this package alone
reads may share one: each record costs the thread more than its bytes do. So a tensor and a view of it are two in the file, which share nothing.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.serialization import DEFAULT_PROTOCOL

from yolov12.engine.hostcopy import Copies, Piece
from yolov12.uncollected import uncollected

_BEGIN = pickle.PROTO + bytes([DEFAULT_PROTOCOL])
_EMPTY = (OrderedDict, ())
"""How an ordered dictionary without entries is pickled. A model has 6,000, for hooks that nobody set, and Python is slow to find out."""


class Rounded:
    """Stands in a pickle for the type of storages that are fp32 in one file and fp16 in another."""


_ROUNDED = f"c{Rounded.__module__}\n{Rounded.__qualname__}\n".encode()
_TYPES = {torch.float32: b"ctorch\nFloatStorage\n", torch.float16: b"ctorch\nHalfStorage\n"}
"""What stands there in the end; protocol 2 spells a class like this, once in a pickle."""


class Packed:
    """A dictionary as it is now, to be written later, by another thread too, while the original goes on changing.

    Args:
        content: what to keep.
        copies: what stands in for its tensors. The originals must still be alive. A tensor without a copy is copied now, alone.
        rounded: numbers of flat tensors, all in fp32, which `save` may be given in fp16.
        joined: numbers of flat tensors that are a single storage in the file, too.
        more: one more entry, key and value, which not every file has.
    """

    def __init__(
        self,
        content: dict[str, Any],
        copies: Copies,
        rounded: Collection[int] = (),
        joined: Collection[int] = (),
        more: tuple[str, Any] | None = None,
    ) -> None:
        self._rounded = rounded
        tensors = _Tensors(copies, rounded, joined)
        with uncollected():
            pickler = _Pickler(tensors)
            self._content = pickler.put(content)
            self._pieces = tuple(tensors.pieces)
            # A pickle is a program for a stack: with the dictionary on it, this puts a key and a value there and enters them.
            self._more = b"" if more is None else pickler.put(more[0]) + pickler.put(more[1]) + pickle.SETITEM
            self._pieces_with_more = tuple(tensors.pieces)
            del pickler  # and all that it remembers

    def save(self, path: Path, flats: Sequence[Tensor], with_more: bool = True) -> None:
        """Write it as torch.save does.

        Args:
            path: of the file.
            flats: those of the copies, or others in place of rounded ones, all of these in one precision.
            with_more: whether the entry `more` is in it.
        """
        program = _BEGIN + self._content + (self._more if with_more else b"") + pickle.STOP
        for precision in {flats[number].dtype for number in self._rounded}:
            program = program.replace(_ROUNDED, _TYPES[precision])
        pieces = self._pieces_with_more if with_more else self._pieces
        storages = [piece.storage(flats) for piece in pieces]
        # torch.save takes a "pickle module"; its writing of zip archives is what is wanted of it.
        ready = types.SimpleNamespace(__name__=__name__, Pickler=_Ready)
        torch.save((program, storages), path, pickle_module=ready)


class _Ready:
    """What torch.save gets for a pickler. It derives a class from it, whose `persistent_id` takes the storages that it is to write."""

    persistent_id: Callable[[torch.UntypedStorage], tuple[Any, ...]]

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        del protocol
        self._file = file

    def dump(self, ready: tuple[bytes, list[torch.UntypedStorage]]) -> None:
        program, storages = ready
        for number, storage in enumerate(storages):
            _, _, key, _, _ = self.persistent_id(storage)
            if key != str(number):
                raise pickle.PicklingError(
                    f"torch.save calls storage {number} {key!r}: another format than packing.py writes"
                )
        self._file.write(program)


class _Storage:
    """A tensor's storage, as a pickle names it."""

    __slots__ = ("name",)

    def __init__(self, kind: type, number: int, count: int) -> None:
        self.name = ("storage", kind, str(number), "cpu", count)


class _Made:
    """What a reader makes by a call."""

    __slots__ = ("how",)

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.how = (function, arguments)


class _Pickler(pickle.Pickler):
    """Pickles as torch.save does, but tensors by `tensors`. What it has seen in one object it knows again in the next."""

    def __init__(self, tensors: _Tensors) -> None:
        self._buffer = io.BytesIO()
        super().__init__(self._buffer, DEFAULT_PROTOCOL)
        self.dispatch_table = _Reducers(tensors)

    def put(self, found: Any) -> bytes:
        """The instructions that put an object on the reader's stack."""
        self._buffer.seek(0)
        self._buffer.truncate()
        self.dump(found)
        return self._buffer.getvalue().removeprefix(_BEGIN).removesuffix(pickle.STOP)

    def persistent_id(self, found: Any) -> tuple[Any, ...] | None:
        return found.name if type(found) is _Storage else None


class _Reducers(dict[type, Callable[[Any], Any]]):
    """How objects of a class are pickled. Unlike `reducer_override`, a table is asked without a call into Python for classes that are in it."""

    def __init__(self, tensors: _Tensors) -> None:
        super().__init__(copyreg.dispatch_table)
        self[OrderedDict] = _of_ordered
        self[_Made] = attrgetter("how")
        self._tensors = tensors

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        if not issubclass(kind, Tensor):
            raise KeyError(kind)
        self[kind] = self._tensors
        return self._tensors


class _Tensors:
    """How tensors are pickled: as their copies."""

    def __init__(self, copies: Copies, rounded: Collection[int], joined: Collection[int]) -> None:
        self._copies, self._rounded, self._joined = copies, frozenset(rounded), frozenset(joined)
        self._whole: dict[int, _Storage] = {}
        self.pieces: list[Piece] = []
        """The bytes of the storages, in the order of their numbers."""

    def __call__(self, original: Tensor) -> tuple[Any, ...]:
        piece = self._copies.piece(original)
        flat = self._copies.flats[piece.flat]
        form = _form(flat.dtype)
        if piece.flat not in self._joined:
            storage, start = self._add(piece, form), 0
        else:
            if piece.flat not in self._whole:
                self._whole[piece.flat] = self._add(Piece(piece.flat, 0, flat.numel(), (1,)), form)
            storage, start = self._whole[piece.flat], piece.start
        shape = tuple(original.shape)
        is_parameter = isinstance(original, nn.Parameter)
        needs_gradient = original.requires_grad and not is_parameter
        made = _Made(form.maker, storage, start, shape, piece.strides, needs_gradient, OrderedDict(), *form.more)
        if not is_parameter:
            return made.how
        if state := torch._utils._get_obj_state(original):  # attributes that somebody gave it
            return _parameter_maker(with_state=True), (made, original.requires_grad, OrderedDict(), state)
        return _parameter_maker(), (made, original.requires_grad, OrderedDict())

    def _add(self, piece: Piece, form: _Form) -> _Storage:
        kind = Rounded if piece.flat in self._rounded else form.storage
        self.pieces.append(piece)
        return _Storage(kind, len(self.pieces) - 1, piece.count * form.per_element)


def _of_ordered(found: OrderedDict[Any, Any]) -> Any:
    return found.__reduce_ex__(DEFAULT_PROTOCOL) if found or found.__dict__ else _EMPTY


class _Form(NamedTuple):
    """How torch.save tells of tensors of one dtype."""

    storage: type
    per_element: int
    """What the storage's length is counted in."""
    maker: Callable[..., Any]
    """What the reader calls with the storage, offset, shape, strides, whether it requires a gradient, hooks, and `more`."""
    more: tuple[Any, ...]


@cache
def _form(dtype: torch.dtype) -> _Form:
    one = torch.empty(1, dtype=dtype, device="cpu")
    maker, (storage, _, _, _, _, _, *more) = one.__reduce_ex__(DEFAULT_PROTOCOL)
    if isinstance(storage, torch.UntypedStorage):  # dtypes that came after typed storages, as uint16
        return _Form(torch.UntypedStorage, one.itemsize, maker, tuple(more))
    name = one.type().removeprefix("torch.").replace("Tensor", "Storage")
    return _Form(getattr(torch, name), 1, maker, tuple(more))


@cache
def _parameter_maker(with_state: bool = False) -> Callable[..., Any]:
    one = nn.Parameter(torch.empty(0, device="cpu"))
    if with_state:
        one.attribute = None  # type: ignore[attr-defined]  # any
    return one.__reduce_ex__(DEFAULT_PROTOCOL)[0]
