"""What the registry writes of a version and of an alias: JSON documents that are never changed.

The first line of each is the SHA-256 of all the rest of it, so that a half or an edited one is told apart; each says
for which place it was written, so that one that was moved is, too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from eco_ray.core.units import Nature
from eco_ray.errors import DamagedError, UsageError
from eco_ray.models.signature import Signature

#: bytes of a document at most, looked at before it is parsed
MAX_BYTES = 4 << 20
#: bytes of a part at most; it is held in memory, twice where it is sealed
MAX_PART_BYTES = 32 << 20
#: parts of a blob at most: those of a version and of its base take a quarter of a document
MAX_PARTS = 4096

Format = Literal["safetensors", "onnx", "pt2", "gguf", "pickle"]
#: ecoz: the lossless container; raw: the file itself
Coding = Literal["ecoz", "raw"]

#: how a file is known by the end of its name; pickles of any kind are refused unless they are asked for
SAFE_FORMATS: dict[str, Format] = {".safetensors": "safetensors", ".onnx": "onnx", ".pt2": "pt2", ".gguf": "gguf"}
PICKLES: dict[str, Format] = {".pt": "pickle", ".pth": "pickle", ".bin": "pickle", ".pkl": "pickle", ".ts": "pickle"}
#: paths of the files beside a model
_EXTRA = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,99}/){0,3}[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = r"^[0-9a-f]{64}$"
#: the first line of a document, with the SHA-256 of what comes after it between these
_START, _AFTER = b'{"document_sha256": "', b'",\n'
_HEAD_BYTES = len(_START) + 64 + len(_AFTER)

#: what people wrote: nothing in it moves a cursor, colours a terminal or turns the direction of writing
Text = Annotated[str, Field(pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]


def is_name(name: str) -> bool:
    """Whether it may be the name of a model or an alias."""
    return _NAME.fullmatch(name) is not None


def is_extra(path: str) -> bool:
    """Whether it may be the path of a file in a version of several files."""
    return _EXTRA.fullmatch(path) is not None


def _extra_path(path: str) -> str:
    if not is_extra(path):
        raise ValueError(f"{path[:120]!r} is no path of a file in a version")
    return path


class Document(BaseModel):
    """What is written once: JSON that begins with the SHA-256 of all bytes after its first line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_bytes(self) -> bytes:
        """As it is kept. Raises UsageError if it is larger than anybody would read, or says what nobody could."""
        try:
            rest = json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False)[2:].encode()
            made = _START + hashlib.sha256(rest).hexdigest().encode() + _AFTER + rest
            if len(made) <= MAX_BYTES:
                self.from_bytes(made, "it")  # such as deep nesting, or half a character
        except (ValueError, TypeError, RecursionError, DamagedError) as error:
            raise UsageError(f"the record cannot be written: {' '.join(str(error).split())[:200]}") from None
        if len(made) > MAX_BYTES:
            raise UsageError(f"the record has {len(made)} bytes, above the limit of {MAX_BYTES}; tell less of it")
        return made

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Raises DamagedError unless it is what was written."""
        rest = data[_HEAD_BYTES:]
        if data[:_HEAD_BYTES] != _START + hashlib.sha256(rest).hexdigest().encode() + _AFTER:
            raise DamagedError(f"{where} is damaged: it is not what was written, its SHA-256 is another")
        try:
            return cls.model_validate_json(b"{" + rest)
        except ValidationError as error:
            short = " ".join(error.errors(include_url=False)[0]["msg"].split())[:160]
            raise DamagedError(f"{where} is damaged: {short}") from None


Kind = TypeVar("Kind", bound=Document)


def written(kind: type[Kind], **values: Any) -> Kind:
    """A new document. Raises UsageError for what it cannot say."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = " ".join(map(str, first["loc"]))
        raise UsageError(f"{where}: {str(first['input'])[:80]!r} cannot be written: {first['msg']}") from None


class Part(Document):
    """A piece of a blob: an object of its own."""

    sha256: str = Field(pattern=_SHA256)
    size: int = Field(ge=0, le=MAX_PART_BYTES)


class Blob(Document):
    """What a file was turned into to be kept: its parts, one after the other."""

    coding: Coding
    parts: tuple[Part, ...] = Field(default=(), max_length=MAX_PARTS)
    #: id of the key that its parts are sealed with; None: they are not
    sealed_with: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    #: blob that this one is a difference from, which stands alone
    base: Blob | None = None

    @property
    def size(self) -> int:
        """Bytes of its parts, before they are sealed."""
        return sum(part.size for part in self.parts)

    def path(self, part: Part) -> str:
        """Where a part of it is kept."""
        folder = "blobs" if self.sealed_with is None else f"sealed/{self.sealed_with}"
        return f"{folder}/{part.sha256[:2]}/{part.sha256}"

    def paths(self) -> set[str]:
        """Where everything is that it takes to make the file."""
        return {self.path(part) for part in self.parts} | (self.base.paths() if self.base else set())


class Training(Document):
    """What the training of a version took."""

    energy_j: float | None = None
    operational_g: float | None = None
    nature: Nature = Nature.ASSUMED
    source: Text = ""


class Extra(Document):
    """A file beside the model in a version of several files (bundle.py)."""

    path: Annotated[str, AfterValidator(_extra_path)]
    sha256: str = Field(pattern=_SHA256)
    size: int = Field(ge=0)
    blob: Blob


class Manifest(Document):
    """One version of a model."""

    registry: Literal[1] = 1
    name: str
    version: int = Field(ge=1)
    created: Text
    format: Format
    #: of the file that was pushed
    sha256: str = Field(pattern=_SHA256)
    size: int = Field(ge=0)
    blob: Blob
    #: of a version of several files: the model's name among them; empty: there is the model alone
    main: Annotated[str, AfterValidator(lambda main: main and _extra_path(main))] = ""
    extras: tuple[Extra, ...] = Field(default=(), max_length=64)
    framework: Text = ""
    #: None: not known
    signature: Annotated[Signature | None, BeforeValidator(lambda told: told or None)] = None
    metrics: dict[Text, float | int | Text | bool] = Field(default_factory=dict)
    #: job, data, parent (name:VERSION), recipe and what else is known of where it comes from
    lineage: dict[str, Any] = Field(default_factory=dict)
    training: Training | None = None
    tags: tuple[Text, ...] = ()
    by: Text = ""

    @model_validator(mode="after")
    def _files_differ(self) -> Self:
        names = [self.main, *(one.path for one in self.extras)]
        if len(set(names)) < len(names) or (self.extras and not self.main):
            raise ValueError("two files of one name")
        return self

    @property
    def reference(self) -> str:
        """name:VERSION"""
        return f"{self.name}:{self.version}"

    def paths(self) -> set[str]:
        """Where everything is that it takes to make its files."""
        return self.blob.paths().union(*(one.blob.paths() for one in self.extras))


class AliasEvent(Document):
    """That an alias was moved; the newest one says where it is."""

    model: str
    alias: str
    number: int = Field(ge=1)
    #: version that it means from then on; None: none
    version: int | None = Field(default=None, ge=1)
    #: number of the move that a rollback goes back to; 0: there is none
    back: int = Field(ge=0)
    at: Text
    action: Literal["promote", "rollback", "remove"]
    by: Text = ""
    why: Text = ""


class Deletion(Document):
    """That a version was deleted; its manifest stays."""

    model: str
    version: int = Field(ge=1)
    at: Text
    by: Text = ""
    why: Text = ""


def checked_name(name: str, what: str = "model") -> str:
    """The name of a model or an alias. Raises UsageError."""
    if not is_name(name):
        raise UsageError(
            f"{what} name {name[:120]!r} is not allowed: use 1 to 100 letters, digits, '.', '_' or '-', beginning with "
            "a letter or digit"
        )
    return name


def check_lineage(value: Any) -> None:
    """Raises UsageError where a text anywhere in it is not printable, or a number is none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{value} is no number that JSON has; leave it out")
    if isinstance(value, str) and not value.isprintable():
        raise UsageError(f"{value[:80]!r} has characters in it that are not printable; leave them out")
    if isinstance(value, Mapping):
        check_lineage([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for one in value:
            check_lineage(one)


def parse_reference(reference: str) -> tuple[str, int | str]:
    """(name, version) of name:VERSION, (name, alias) of name@alias. Raises UsageError."""
    name, colon, version = reference.partition(":")
    if colon and version.isascii() and version.isdigit() and len(version) <= 9 and int(version) > 0:
        return checked_name(name), int(version)
    name, at, alias = reference.partition("@")
    if at:
        return checked_name(name), checked_name(alias, "alias")
    raise UsageError(f"{reference[:120]!r} names no version: give name:VERSION (such as mnist:3) or name@alias")
