"""A container that is open for reading: its tensors by name, or all of them chunk by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import DamagedError, NotFoundError, UsageError
from eco_ray.models.chunks import CHUNK_BYTES, decode_chunk
from eco_ray.models.container_index import BaseRef, Index, Source, Stored, chunk_words, read_index
from eco_ray.models.in_order import in_order
from eco_ray.models.planes import Words, word_type
from eco_ray.models.sources import FileSource
from eco_ray.models.tensor_header import Tensor

#: what a single array takes at most, unless the caller allows more
MAX_ARRAY_BYTES = 64 << 30


class Container:
    """A container; several threads may read from it."""

    def __init__(self, source: Source, base: Container | None = None) -> None:
        """Read the index. `base` is the version that it is a difference from; it stays open and the caller's.

        Raises DamagedError, and NotFoundError if `base` is not that version.
        """
        self.index: Index = read_index(source)
        self._source = source
        self._by_name = {one.tensor.name: one for one in self.index.stored}
        #: files of it and of the versions below that `open` opened
        self.paths: tuple[Path, ...] = ()
        self._base = base
        if base is not None and self.index.base is not None:
            _check(base, self.index.base)

    @classmethod
    def open(cls, path: str | Path, base: str | Path | None = None) -> Self:
        """Open a file, and the versions that it stands on: `base`, or where they lay when it was packed.

        Raises NotFoundError if one of them is missing or another version, DamagedError if one is not what it says,
        UsageError for a `base` that it does not need.
        """
        return cls._open(Path(path), base, None)

    @classmethod
    def _open(cls, path: Path, base: str | Path | None, expected: BaseRef | None) -> Self:
        source = FileSource(path)
        try:
            container = cls(source)
        except DamagedError as error:
            source.close()
            raise DamagedError(f"{str(path)!r} is damaged: {error}") from None
        container.paths = (path,)
        try:
            if expected is not None:
                _check(container, expected)  # before its own base is looked for: a file may name itself
            wanted = container.index.base
            if wanted is None and base is not None:
                raise UsageError(f"{str(path)!r} stands alone and needs no base; leave --base out")
            if wanted is not None:
                below = container._base = Container._open(_find_base(path, wanted, base), None, wanted)
                container.paths += below.paths
        except BaseException:
            container.close()
            raise
        return container

    def close(self) -> None:
        """Close its file, and those of the versions below that `open` opened."""
        self._source.close()
        if self._base is not None:
            self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def depth(self) -> int:
        """Versions that stand below it: 0 if it stands alone."""
        return 0 if self.index.base is None else self.index.base.depth

    @property
    def content_id(self) -> str:
        """Hexadecimal SHA-256 of the header and the tensors' digests.

        If it is the one that you know from a trusted place, what is read is what was packed, names included; without
        that, checksums find damage, not forgery.
        """
        return self.index.content_id.hex()

    @property
    def names(self) -> list[str]:
        """Of its tensors, in the order of their bytes."""
        return list(self._by_name)

    def info(self, name: str) -> Tensor:
        """Type and shape of a tensor; NotFoundError if there is none of that name."""
        return self._stored(name).tensor

    def tensor(self, name: str, *, max_bytes: int = MAX_ARRAY_BYTES) -> NDArray[Any]:
        """A tensor as a new array; only its own bytes are read.

        Raises as `words`, and UsageError for a type that NumPy does not have.
        """
        tensor = self.info(name)
        dtype = tensor.numpy_dtype()
        words = self.words(name, max_bytes=max_bytes)
        try:
            return words.view(dtype).reshape(tensor.shape)
        except ValueError as error:  # NumPy multiplies all dimensions but the zeros
            raise DamagedError(f"tensor {name[:80]!r} has a shape that NumPy refuses: {error}") from None

    def words(self, name: str, *, max_bytes: int = MAX_ARRAY_BYTES) -> Words:
        """The bit patterns of a tensor as unsigned little-endian words, shape (N,).

        Raises NotFoundError for an unknown name, DamagedError if the bytes are not what was written or would be more
        than `max_bytes`.
        """
        stored = self._stored(name)
        size, word_bytes = stored.tensor.byte_count, stored.tensor.dtype.word_bytes
        if size > max_bytes:
            raise DamagedError(f"tensor {name[:80]!r} has {size} bytes, above the limit of {max_bytes}; allow more")
        try:
            words = np.empty(size // word_bytes, word_type(word_bytes))
        except MemoryError:
            raise DamagedError(f"tensor {name[:80]!r} has {size} bytes, more than can be had") from None
        at = 0
        for part in _verified(stored, map(partial(self._decode, stored), range(len(stored.chunks)))):
            words[at : at + part.size] = part
            at += part.size
        return words

    def parts(self, workers: int) -> Iterator[Words]:
        """All words, chunk by chunk in the order of the file, decoded by `workers` threads.

        Raises DamagedError at the end of a tensor that is not what was written, so trust none before.
        """
        decoded = in_order(lambda job: self._decode(*job), self._places(), workers)
        for stored in self.index.stored:
            yield from _verified(stored, decoded)

    def makes(self, data: Source, first: int, workers: int) -> bool:
        """Whether its tensors are, byte by byte, what `data` has from byte `first` on; their SHA-256 are not looked at.

        Raises DamagedError where a chunk cannot be decoded or `data` ends before.
        """

        def same(job: tuple[Stored, int]) -> bool:
            stored, place = job
            words = self._decode(stored, place)
            raw = data.read(first + stored.tensor.start + place * CHUNK_BYTES, words.nbytes)
            return np.array_equal(words, np.frombuffer(raw, words.dtype))

        return all(in_order(same, self._places(), workers))

    def _places(self) -> Iterator[tuple[Stored, int]]:
        """All chunks, in the order of the file."""
        return ((stored, place) for stored in self.index.stored for place in range(len(stored.chunks)))

    def base_words(self, tensor: Tensor, place: int) -> Words | None:
        """A chunk of the same tensor in this version, to be a difference from; None if it has none like it.

        It is not checked by SHA-256 here: what is made of it is.
        """
        stored = self._by_name.get(tensor.name)
        if stored is None or (stored.tensor.dtype, stored.tensor.shape) != (tensor.dtype, tensor.shape):
            return None
        return self._decode(stored, place)

    def _decode(self, stored: Stored, place: int) -> Words:
        tensor, chunk = stored.tensor, stored.chunks[place]
        base = self._base.base_words(tensor, place) if chunk.against and self._base is not None else None
        body = self._source.read(stored.starts[place], chunk.size)
        count = chunk_words(tensor, place)
        try:
            return decode_chunk(chunk, body, count, tensor.dtype.word_bytes, tensor.dtype.is_float, base)
        except DamagedError as error:
            raise DamagedError(f"tensor {tensor.name[:80]!r} is damaged: {error}") from None

    def _stored(self, name: str) -> Stored:
        if name not in self._by_name:
            raise NotFoundError(f"no tensor {name[:80]!r}; there are {', '.join(map(repr, self.names[:5])) or 'none'}")
        return self._by_name[name]


def _verified(stored: Stored, decoded: Iterator[Words]) -> Iterator[Words]:
    """The next chunks, and at their end the check that they are the tensor."""
    sha = hashlib.sha256()
    for words in islice(decoded, len(stored.chunks)):
        sha.update(words.data)
        yield words
    if sha.digest() != stored.digest:
        raise DamagedError(f"tensor {stored.tensor.name[:80]!r} is damaged: it does not have its SHA-256")


def _check(base: Container, wanted: BaseRef) -> None:
    """Raise NotFoundError unless it is the version that is wanted, however it was coded."""
    if base.index.content_id != wanted.content_id:
        raise NotFoundError(
            f"the base {wanted.hint!r} is not the version that this container is a difference from: it is content "
            f"{base.index.content_id.hex()[:12]}..., not {wanted.content_id.hex()[:12]}...: see --base"
        )
    if base.depth >= wanted.depth:  # each version below stands on fewer
        raise NotFoundError(
            f"the base {wanted.hint!r} stands on {base.depth} versions, more than the {wanted.depth - 1} that it stood "
            "on: pack it anew without --base"
        )


def _find_base(path: Path, wanted: BaseRef, given: str | Path | None) -> Path:
    if given is not None:
        return Path(given)
    for candidate in (path.parent / wanted.hint, path.parent / Path(wanted.hint).name):
        if not Path(wanted.hint).is_absolute() and "\0" not in wanted.hint and candidate.is_file():
            return candidate
    raise NotFoundError(
        f"{str(path)!r} is a difference from {wanted.hint!r}, which is not there (content "
        f"{wanted.content_id.hex()[:12]}...); put it back, or name it with --base"
    )
