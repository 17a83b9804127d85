"""Requests that wait are computed together: one inference for all of them, of whose cost each has its share by rows."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from eco_ray.core.ports import Arrays, Runtime

#: rows that are computed before a look whether anybody waits for them still; twice as many each time, while they take
#: less than so long [s]
_PIECE_ROWS, _PIECE_S = 16, 0.1
#: of several requests of few rows each, which wait for an answer as a rule
_MANY_ROWS = 128


class LeftError(Exception):
    """Nobody waits for the rows any more."""


def _nobody_leaves() -> bool:
    return False


class Item(NamedTuple):
    """Inputs of one request that are to be computed, perhaps with others."""

    inputs: Arrays
    datatypes: Mapping[str, str]
    rows: int
    #: CPU time and wall time that it took already [s]
    cpu_s: float = 0.0
    wall_s: float = 0.0
    #: instead of the inference, and alone
    compute: Callable[[Arrays], Arrays] | None = None
    #: whether nobody waits for it any more; asked in the thread that computes
    left: Callable[[], bool] = _nobody_leaves


class Outcome(NamedTuple):
    """What an item's batch cost, and what came of the item."""

    #: the error where there are no outputs
    arrays: Arrays | Exception
    #: CPU time and wall time of the batch [s], with what its items took before
    cpu_s: float
    wall_s: float
    #: the item's rows among those of the batch, in (0, 1]
    share: float = 1.0


class Batcher(Protocol):
    """Computes an item together with others that are given to it about then.

    What makes one is given `Compute`, and calls it with several items: `ray.serve.batch` fits as it is.
    """

    async def __call__(self, item: Item) -> Outcome:
        """The outcome of one item. Raises nothing for what is wrong with it."""
        ...


#: the outcomes of items, in their order; computes them in the worker, when it is their turn
Compute = Callable[[list[Item]], Awaitable[list[Outcome]]]


def is_open(runtime: Runtime) -> bool:
    """Whether rows of several requests may be computed as one: all first dimensions are open, and of rows apart.

    Of models that people bring, a runtime tells `rows_apart`; the others have no rows that see each other.
    """
    shapes = [shape for tensor in (*runtime.inputs, *runtime.outputs) for shape in tensor.shapes]
    return all(shape[:1] == (-1,) for shape in shapes) and getattr(runtime, "rows_apart", True)


def together(runtime: Runtime, items: Sequence[Item], most_rows: int, joins: bool) -> list[Outcome]:
    """The outcomes of items. With `joins`, those are computed as one whose shapes but for the rows are equal.

    Their datatypes have to be equal, too, and their rows together at most `most_rows`.
    """
    if len(items) == 1:
        return [_alone(runtime, items[0], joins)]
    found: dict[int, Outcome] = {}
    groups: dict[Hashable, list[int]] = {}
    for at, item in enumerate(items):
        key = _kind(item) if joins and item.compute is None else None
        group = groups.setdefault(at if key is None else key, [])
        if group and sum(items[one].rows for one in group) + item.rows > most_rows:
            found.update(_as_one(runtime, items, group, joins))
            group.clear()
        group.append(at)
    for group in groups.values():
        found.update(_as_one(runtime, items, group, joins))
    return [found[at] for at in range(len(items))]


def _kind(item: Item) -> Hashable:
    """What items have in common that may be one; None: the item has no rows."""
    if any(array.shape[:1] != (item.rows,) for array in item.inputs.values()):
        return None
    return tuple(sorted((name, item.datatypes[name], array.shape[1:]) for name, array in item.inputs.items()))


def _alone(runtime: Runtime, item: Item, joins: bool) -> Outcome:
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    arrays: Arrays | Exception
    try:
        compute = item.compute or runtime.infer
        pieces = joins and item.rows > _PIECE_ROWS and _kind(item) is not None
        arrays = _in_pieces(compute, item.inputs, item.rows, item.left) if pieces else compute(item.inputs)
    except Exception as error:  # the model's code is not ours
        arrays = error
    return Outcome(arrays, item.cpu_s + time.thread_time() - cpu_s, item.wall_s + time.perf_counter() - wall_s)


def _in_pieces(compute: Callable[[Arrays], Arrays], inputs: Arrays, rows: int, left: Callable[[], bool]) -> Arrays:
    """The outputs, some rows after the other. Raises LeftError as soon as nobody waits for them."""
    found: list[Arrays] = []
    begin, size = 0, _PIECE_ROWS
    while begin < rows:
        if left():
            raise LeftError
        began_s, end = time.perf_counter(), min(rows, begin + size)
        found.append(compute({name: array[begin:end] for name, array in inputs.items()}))
        if any(len(array) != end - begin for array in found[-1].values()):
            return compute(inputs)  # its rows are none
        if time.perf_counter() - began_s < _PIECE_S:
            size *= 2
        begin = end
    return {name: np.concatenate([piece[name] for piece in found]) for name in found[0]}


def _as_one(runtime: Runtime, items: Sequence[Item], group: Sequence[int], joins: bool) -> dict[int, Outcome]:
    """By number."""
    batch = [items[at] for at in group]
    if len(batch) == 1:
        return {group[0]: _alone(runtime, batch[0], joins)}
    rows = sum(item.rows for item in batch)
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    try:
        parts = _parts(runtime, batch, rows)
    except Exception:  # one of them may be all that is wrong
        parts = None
    cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
    if parts is None:
        each = [(item, item.rows / rows) for item in batch]
        spent = [one._replace(cpu_s=one.cpu_s + cpu_s * of, wall_s=one.wall_s + wall_s * of) for one, of in each]
        return {at: _alone(runtime, item, joins) for at, item in zip(group, spent, strict=True)}
    cpu_s += sum(item.cpu_s for item in batch)
    wall_s += sum(item.wall_s for item in batch)
    return {
        at: Outcome(part, cpu_s, wall_s, item.rows / rows) for at, item, part in zip(group, batch, parts, strict=True)
    }


def _parts(runtime: Runtime, batch: Sequence[Item], rows: int) -> list[Arrays]:
    names = batch[0].inputs
    inputs = {name: np.concatenate([item.inputs[name] for item in batch]) for name in names}
    if rows > _MANY_ROWS or any(item.rows > _PIECE_ROWS for item in batch):
        arrays = _in_pieces(runtime.infer, inputs, rows, lambda: all(item.left() for item in batch))
    else:
        arrays = runtime.infer(inputs)
    if any(len(array) != rows for array in arrays.values()):
        raise ValueError(f"the model gave other than {rows} rows for a batch of {rows}; one by one then")
    ends = np.cumsum([item.rows for item in batch]).tolist()
    return [
        {name: array[end - item.rows : end] for name, array in arrays.items()}
        for item, end in zip(batch, ends, strict=True)
    ]
