"""A lossless container for model weights: safetensors in, fewer bytes out, and every byte back (docs/container.md).

    encode(array), decode(data)          one array
    pack(source, target, base=...)       a safetensors file to a container, perhaps as a difference from an older one
    unpack(source, target)               and back, byte by byte
    Container.open(path)                 its tensors by name, without reading the others

What is read is bounded before anything is allocated, and checked by SHA-256 before it is given out. Checksums find
damage, not forgery: if somebody else could have written it, compare `Container.content_id` with one from a trusted
place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import DamagedError, EcoRayError, UsageError
from eco_ray.models.container_index import MAX_CHAIN, MAX_HINT_BYTES, PROLOGUE, BaseRef, Index
from eco_ray.models.container_reader import MAX_ARRAY_BYTES, Container
from eco_ray.models.container_writer import write_container
from eco_ray.models.in_order import usual_workers
from eco_ray.models.plane_coding import Backend, Data
from eco_ray.models.sources import BytesSource, FileSource
from eco_ray.models.tensor_header import check_size, dtype_of, make_header, parse_header
from eco_ray.whole_file import whole_binary_file

__all__ = ["MAX_ARRAY_BYTES", "Container", "Report", "check_safetensors", "decode", "encode", "pack", "unpack"]

_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Report:
    """What `pack` or `unpack` did."""

    tensors: int
    safetensors_bytes: int
    container_bytes: int
    #: versions below the container; 0 if it stands alone
    depth: int
    #: of the safetensors file that `pack` read; empty: not asked
    sha256: str = ""

    @property
    def ratio(self) -> float:
        """Whole container / whole safetensors file."""
        return self.container_bytes / self.safetensors_bytes


def encode(array: NDArray[Any], *, backend: Backend = "zlib") -> bytes:
    """An array of any shape as a container of one tensor, named `array`.

    Bool, integers, float16/32/64, complex64, and bfloat16 and float8 of package ml_dtypes. It is kept in C order and
    little-endian, whatever it was. Raises UsageError for other types.
    """
    array = np.asarray(array)
    dtype = dtype_of(array)
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    data = flat.view(np.uint8).data if flat.size else b""
    parts: list[Data] = []
    header = make_header("array", dtype, array.shape, array.nbytes)
    write_container(parts.append, header, BytesSource(data), backend=backend)
    return b"".join(parts)


def decode(data: bytes | bytearray | memoryview, *, max_bytes: int = MAX_ARRAY_BYTES) -> NDArray[Any]:
    """The array of `encode`: new, writable, in C order, little-endian.

    Raises DamagedError if the container is not what was written, or makes more than `max_bytes`; UsageError if it holds
    several tensors, or a type that needs package ml_dtypes.
    """
    container = Container(BytesSource(data))
    if len(container.names) != 1:
        raise UsageError(f"the container holds {len(container.names)} tensors, not one: open it with Container")
    return container.tensor(container.names[0], max_bytes=max_bytes)


def pack(
    source: str | Path,
    target: str | Path,
    *,
    base: str | Path | None = None,
    backend: Backend = "zlib",
    workers: int | None = None,
    durable: bool = True,
) -> Report:
    """Write a safetensors file as a container; before that takes its place, it and the file are read and compared.

    `base`: a container of an older version, from which only the difference is kept; it is needed to unpack.
    `durable`: False for a container that need not outlive this process.
    Raises DamagedError if the source is no sound safetensors file (then no older file is left at the target),
    UsageError if it is beyond the limits of the format or the chain of versions becomes too long, NotFoundError for a
    missing file, EcoRayError if the target cannot be written or the source changes.
    """
    source, target = Path(source), Path(target)
    workers = workers or usual_workers()
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(FileSource(source))
        _check_target(target, source)
        below = None
        if base is not None:
            below = opened.enter_context(Container.open(base))
            _check_target(target, *below.paths)
        with _none_after_damage(target):
            header = _header_of(source, file)
            reference = None if below is None else _reference(below, Path(str(base)), target, workers)
            with _written(target, durable) as (out, draft):
                start = len(header).to_bytes(_LENGTH_BYTES, "little") + header
                sha = hashlib.sha256(start)
                index = write_container(
                    out.write, header, file, len(start), below, reference, backend, workers, sha.update
                )
                out.flush()
                _compare(draft, below, index, file, start, workers)
    depth = 0 if reference is None else reference.depth
    return Report(len(index.stored), file.size, target.stat().st_size, depth, sha.hexdigest())


def unpack(
    source: str | Path, target: str | Path, *, base: str | Path | None = None, workers: int | None = None
) -> Report:
    """Write the safetensors file that was packed, every byte as it was.

    `base`: the version that the container is a difference from, if it does not lie where it lay.
    Raises DamagedError if any byte is wrong (then no older file is left at the target), NotFoundError for a missing
    file or base, UsageError for a target that is a container or a base that is not needed, EcoRayError if the target
    cannot be written.
    """
    source, target = Path(source), Path(target)
    _check_target(target, source, *([] if base is None else [Path(base)]))
    if _is_container(target):  # perhaps a version that others stand on, or the names were swapped
        raise UsageError(f"{str(target)!r} is a container; name another one to write to")
    with _none_after_damage(target), Container.open(source, base) as container:
        header, stored = container.index.header, container.index.stored
        size = _LENGTH_BYTES + len(header) + sum(one.tensor.byte_count for one in stored)
        _check_room(target, size)
        with _written(target) as (out, _draft):
            out.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
            try:
                for words in container.parts(workers or usual_workers()):
                    out.write(words.data)
            except DamagedError as error:
                raise DamagedError(f"{str(source)!r}: {error}") from None
    return Report(len(stored), size, source.stat().st_size, container.depth)


def check_safetensors(path: str | Path) -> None:
    """Raise DamagedError unless the header of a safetensors file fits the file; as `pack` does."""
    with FileSource(path) as file:
        _header_of(Path(path), file)


def _header_of(source: Path, file: FileSource) -> bytes:
    """The header of a safetensors file, with errors that name it."""
    if _is_container(source):
        raise UsageError(f"{str(source)!r} is a container already; `eco-ray model unpack` reads it")
    try:
        try:
            return _read_header(file)
        except UsageError as error:
            _check_sound(source)  # a damaged length may look like a large one
            raise UsageError(f"{str(source)!r} cannot be packed: {error}") from None
    except DamagedError as error:
        raise DamagedError(f"{str(source)!r} is no sound safetensors file: {error}") from None


def _read_header(file: FileSource) -> bytes:
    """The header, which fits the rest of the file. UsageError for one that is beyond our limits."""
    if file.size < _LENGTH_BYTES:
        raise DamagedError(f"{file.size} bytes are too few")
    size = int.from_bytes(file.read(0, _LENGTH_BYTES), "little")
    if size > file.size - _LENGTH_BYTES:
        raise DamagedError(f"a header of {size} bytes is above the limit of {file.size - _LENGTH_BYTES}")
    check_size(size, UsageError)
    header = bytes(file.read(_LENGTH_BYTES, size))
    told = sum(tensor.byte_count for tensor in parse_header(header, UsageError))
    if told != file.size - _LENGTH_BYTES - size:
        raise DamagedError(f"its header speaks of {told} bytes, and {file.size - _LENGTH_BYTES - size} follow it")
    return header


def _check_sound(source: Path) -> None:
    """DamagedError unless the library of safetensors, whose limits are other ones, takes the header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise DamagedError(" ".join(str(error).split())[:200]) from None


def _reference(below: Container, base: Path, target: Path, workers: int) -> BaseRef:
    """What the container will say of its base, once every byte of that is known to be right."""
    if below.depth >= MAX_CHAIN:
        raise UsageError(
            f"{str(base)!r} stands on {below.depth} versions, and the limit is {MAX_CHAIN}: pack without --base, or "
            "with an earlier version as base"
        )
    try:
        for _ in below.parts(workers):
            pass
    except DamagedError as error:
        raise DamagedError(f"{str(base)!r}: {error}") from None
    hint = os.path.relpath(base.resolve(), target.parent.resolve())
    if not _is_utf8(hint):
        raise UsageError(f"the path of the base, {hint!r}, is not UTF-8; rename it")
    if len(hint.encode()) > MAX_HINT_BYTES:
        raise UsageError(f"the path of the base has {len(hint)} characters; the limit is {MAX_HINT_BYTES} bytes")
    return BaseRef(below.index.content_id, hint, below.depth + 1)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _compare(
    draft: Path, below: Container | None, index: Index, source: FileSource, start: bytes, workers: int
) -> None:
    """Read the written container back and the source, which begins with `start`, again: EcoRayError if they differ."""
    with FileSource(draft) as file:
        written = Container(file, below)
        same = written.index.header == index.header and written.index.content_id == index.content_id
        if not (same and source.read(0, len(start)) == start and written.makes(source, len(start), workers)):
            raise EcoRayError(
                f"{str(source.path)!r} was changed while it was packed, or disk or memory of this machine are at "
                "fault; pack it again when it is whole"
            )


def _check_target(target: Path, *read: Path) -> None:
    try:
        found = target.stat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise UsageError(f"{str(target)!r} cannot be written: {error.strerror}; name another one to write to") from None
    if found and not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{str(target)!r} is no regular file; name another one to write to")
    if found and any(_is_same(target, path) for path in read):
        raise UsageError(f"{str(target)!r} is read and would be written; name another one to write to")
    if not target.parent.is_dir():
        raise UsageError(f"there is no directory {str(target.parent)!r}; make it, or name another one to write to")


def _is_same(target: Path, path: Path) -> bool:
    try:
        return target.samefile(path)
    except OSError:  # what cannot be read is told where it is read
        return False


def _is_container(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == PROLOGUE[:4]
    except OSError:
        return False


@contextlib.contextmanager
def _none_after_damage(target: Path) -> Iterator[None]:
    """After damage no older file is at the target, where it would look like what was to be written."""
    try:
        yield
    except DamagedError:
        with contextlib.suppress(OSError):
            target.unlink(missing_ok=True)
        raise


def _check_room(target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise EcoRayError(f"{str(target)!r} takes {size} bytes, and {free} are free there; make room")


@contextlib.contextmanager
def _written(target: Path, durable: bool = True) -> Iterator[tuple[BinaryIO, Path]]:
    """`whole_binary_file` with errors of ours."""
    try:
        with whole_binary_file(target, durable=durable) as file_and_draft:
            yield file_and_draft
    except OSError as error:
        raise EcoRayError(f"{str(target)!r} cannot be written: {error.strerror or error}") from None
