"""What the registry writes of a version and of an alias: JSON documents that are never changed.

Each carries the SHA-256 of all the rest of it, so that a half or an edited one is told apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from eco_ray.core.units import Nature
from eco_ray.errors import DamagedError, UsageError
from eco_ray.models.signature import Signature

#: bytes of a document at most, looked at before it is parsed
MAX_BYTES = 4 << 20
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


def is_extra(path: str) -> bool:
    """Whether it may be the path of a file in a version of several files."""
    return _EXTRA.fullmatch(path) is not None


def _extra_path(path: str) -> str:
    if not is_extra(path):
        raise ValueError(f"{path[:120]!r} is no path of a file in a version")
    return path


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_bytes(self) -> bytes:
        """As it is kept. Raises UsageError if it is larger than anybody would read."""
        text = _canonical(self.model_dump(mode="json"))
        made = json.dumps({"document_sha256": _digest(text), **json.loads(text)}, indent=1).encode()
        if len(made) > MAX_BYTES:
            raise UsageError(f"the record has {len(made)} bytes, above the limit of {MAX_BYTES}; tell less of it")
        return made

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Raises DamagedError unless it is what was written."""
        try:
            values = json.loads(data)
            told = values.pop("document_sha256")
            if told != _digest(_canonical(values)):
                raise DamagedError(f"{where} is not what was written: its SHA-256 is another")
            return cls.model_validate(values)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            short = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise DamagedError(f"{where} is damaged: {' '.join(short.split())[:160]}") from None


class Part(_Document):
    """A piece of a blob: an object of its own."""

    sha256: str = Field(pattern=_SHA256)
    size: int = Field(ge=0)


class Blob(_Document):
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


class Training(_Document):
    """What the training of a version took."""

    energy_j: float | None = None
    operational_g: float | None = None
    nature: Nature = Nature.ASSUMED
    source: str = ""


class Extra(_Document):
    """A file beside the model in a version of several files (bundle.py)."""

    path: Annotated[str, AfterValidator(_extra_path)]
    sha256: str = Field(pattern=_SHA256)
    size: int = Field(ge=0)
    blob: Blob


class Manifest(_Document):
    """One version of a model."""

    registry: Literal[1] = 1
    name: str
    version: int = Field(ge=1)
    created: str
    format: Format
    #: of the file that was pushed
    sha256: str = Field(pattern=_SHA256)
    size: int = Field(ge=0)
    blob: Blob
    #: of a version of several files: the model's name among them; empty: there is the model alone
    main: Annotated[str, AfterValidator(lambda main: main and _extra_path(main))] = ""
    extras: tuple[Extra, ...] = Field(default=(), max_length=64)
    framework: str = ""
    #: None: not known
    signature: Annotated[Signature | None, BeforeValidator(lambda told: told or None)] = None
    metrics: dict[str, float | int | str | bool] = Field(default_factory=dict)
    #: job, data, parent (name:VERSION), recipe and what else is known of where it comes from
    lineage: dict[str, Any] = Field(default_factory=dict)
    training: Training | None = None
    tags: tuple[str, ...] = ()
    by: str = ""

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


class AliasEvent(_Document):
    """That an alias was moved; the newest one says where it is."""

    alias: str
    number: int = Field(ge=1)
    #: version that it means from then on; None: none
    version: int | None = Field(default=None, ge=1)
    at: str
    action: Literal["promote", "rollback", "remove"]
    by: str = ""
    why: str = ""


class Deletion(_Document):
    """That a version was deleted; its manifest stays."""

    version: int = Field(ge=1)
    at: str
    by: str = ""
    why: str = ""


def checked_name(name: str, what: str = "model") -> str:
    """The name of a model or an alias. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{what} name {name[:120]!r} is not allowed: use 1 to 100 letters, digits, '.', '_' or '-', beginning with "
            "a letter or digit"
        )
    return name


def parse_reference(reference: str) -> tuple[str, int | str]:
    """(name, version) of name:VERSION, (name, alias) of name@alias. Raises UsageError."""
    name, colon, version = reference.partition(":")
    if colon and version.isascii() and version.isdigit() and len(version) <= 9 and int(version) > 0:
        return checked_name(name), int(version)
    name, at, alias = reference.partition("@")
    if at:
        return checked_name(name), checked_name(alias, "alias")
    raise UsageError(f"{reference[:120]!r} names no version: give name:VERSION (such as mnist:3) or name@alias")


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
