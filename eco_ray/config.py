"""Settings of the product: options > ECO_RAY_* > eco-ray.toml > defaults. Every default of ours stands here, once.

    ECO_RAY_SLOT=30m eco-ray job plan x.yaml          # any key in capitals; a nested key with __ between its parts
    echo 'slot = "30m"' > eco-ray.toml                # in the current directory, then in ~/.config/eco_ray/

Both files are read; the one in the current directory wins key by key. `planner`, `serve`, ... of a cluster file
describe that cluster: they win over eco-ray.toml and lose to options and environment (`cluster_file`).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from eco_ray import schema
from eco_ray.errors import UsageError
from eco_ray.schema import Duration, PositiveDuration, Whole, between
from eco_ray.storage_url import without_credentials
from eco_ray.times import compact_duration
from eco_ray.yaml_file import read_limited

PREFIX = "ECO_RAY_"
FILE_NAME = "eco-ray.toml"
_PASSWORD_IN_URL = re.compile(r"(://[^:/@]*):.*@", re.DOTALL)
_SECRET_IN_QUERY = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key|credential)[^=&]*=)[^&]*", re.IGNORECASE)

# limits that settings and cluster files share
Slot = Annotated[Duration, between(1, 86_400)]
PauseTimeout = Annotated[Duration, between(0.1, 3_600)]
SamplePeriod = Annotated[Duration, between(0.1, 60)]


def _default_state_dir() -> Path:
    """The state of this user's cluster; it may be a symlink."""
    base = os.environ.get("XDG_STATE_HOME")
    # absolute() keeps the symlink, resolve() would follow it
    return (Path(base) if base else Path.home() / ".local" / "state").absolute() / "eco_ray" / "current"


def _default_store_url(fields: dict[str, Any]) -> str:
    return f"sqlite:///{fields['state_dir'] / 'eco_ray.db'}"


def config_files() -> list[Path]:
    """The eco-ray.toml files that exist, the strongest first."""
    base = os.environ.get("XDG_CONFIG_HOME")
    user = (Path(base) if base else Path.home() / ".config") / "eco_ray"
    return [path for path in (Path.cwd() / FILE_NAME, user / FILE_NAME) if path.is_file()]


class Settings(BaseSettings):
    """Everything that can be set. Keys in files and environment are without the unit (`slot`, ECO_RAY_SLOT)."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_prefix_target="all",  # the prefix also goes before aliases: ECO_RAY_SLOT for slot_s
        env_nested_delimiter="__",
        env_ignore_empty=True,
        validate_default=False,  # defaults are seconds, what people write has a unit
        extra="forbid",
        frozen=True,
    )

    #: where a cluster keeps its database, tokens, logs and packages
    state_dir: Path = Field(default_factory=_default_state_dir)
    #: SQLAlchemy URL of jobs and ledger, with its password: print it with `mask_url` only
    store_url: str = Field(default_factory=_default_store_url, min_length=1, repr=False)
    #: Ray cluster: `auto`, HOST:PORT; None: the cluster that `eco-ray up` started
    address: str | None = None
    #: how commands print
    output: Literal["table", "json", "yaml"] = "table"
    #: HTTP port of served models
    serve_port: Whole = Field(default=8000, ge=1, le=65_535)
    #: address that served models listen on
    serve_host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    #: who may ask: on loopback anybody, elsewhere who has an API key (auto); or always who has a key
    serve_keys: Literal["auto", "required"] = "auto"
    #: replicas that models deployed with `--shared` have together
    serve_shared_replicas: Whole = Field(default=1, ge=1, le=1_000)
    #: models that each of them has loaded at once, and their files [MB]; the one used longest ago goes
    serve_shared_models: Whole = Field(default=32, ge=1, le=1_000)
    serve_shared_mb: Whole = Field(default=1_000, ge=1, le=1_000_000)
    #: fewer replicas of a model were enough for so long before some end [s]
    serve_down_hold_s: PositiveDuration = Field(default=60.0, alias="serve_down_hold")
    #: emptying nodes so that their autoscaler ends them: done, or only told of in `eco-ray status`
    consolidation: Literal["drain", "report"] = "drain"
    #: write all that the controller is told and decides into the state directory, for `eco-ray simulate --replay`
    record_events: bool = False
    #: YAML file with what each tenant may use; None: no limits
    limits_file: Path | None = None
    #: latest finish after the earliest start, for jobs without deadline and max_delay [s of grid time]
    default_max_delay_s: PositiveDuration = Field(default=86_400.0, alias="default_max_delay")
    #: step of the planner [s of grid time]
    slot_s: Slot = Field(default=900.0, alias="slot")
    #: how far the planner looks [s of grid time]
    horizon_s: PositiveDuration = Field(default=345_600.0, alias="horizon")
    #: how long an attempt may take to write its checkpoint and leave [s of wall time]
    pause_timeout_s: PauseTimeout = Field(default=30.0, alias="pause_timeout")
    #: how often node agents read power [s of wall time]
    sample_period_s: SamplePeriod = Field(default=1.0, alias="sample_period")
    #: directory or fsspec URL of the model registry; None: `models` in the state directory
    registry_url: str | None = None
    #: directory or fsspec URL of jobs' checkpoints, the same for all nodes; None: `checkpoints` in the state directory
    checkpoint_url: str | None = None
    #: file with the key that new versions are sealed with; None: ECO_RAY_REGISTRY_KEY, or they are not sealed
    registry_key_file: Path | None = None
    #: what pulls from a registry far away keep on this machine for the next ones [GB]; 0: nothing
    registry_cache_gb: Whole = Field(default=10, ge=0, le=100_000)
    #: file with the pepper of API keys; None: `key-pepper` in the state directory, made at first use
    key_pepper_file: Path | None = None
    #: largest snapshot of a work directory [MB]
    max_package_mb: Whole = Field(default=100, ge=1, le=10_000)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("state_dir", "registry_key_file", "key_pepper_file", "limits_file", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("checkpoint_url", mode="after")
    @classmethod
    def _reached_by_all_nodes(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value:
            return str(Path(value).expanduser().absolute())
        if value is not None and without_credentials(value) != value:
            raise ValueError(
                f"{mask_url(value)} has a user, a password or a query, and Ray shows the environment of each job; "
                "give the nodes their credentials (AWS_... in their environment, or a role)"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options, environment, files; no .env, no secrets directory."""
        return init_settings, env_settings, _TomlFiles(settings_cls)


KEYS = tuple(field.alias or name for name, field in Settings.model_fields.items())


class _TomlFiles(PydanticBaseSettingsSource):
    """The eco-ray.toml files; remembers which one gave each key."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("__call__ gives all fields at once")

    def __call__(self) -> dict[str, Any]:
        return {key: value for key, (value, _) in _toml_values().items()}


def _toml_values() -> dict[str, tuple[Any, Path]]:
    found: dict[str, tuple[Any, Path]] = {}
    for path in reversed(config_files()):
        try:
            values = tomllib.loads(read_limited(path, "settings file"))
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f'{path}: {error}; texts and durations need quotes, for example slot = "15m"') from None
        for key, value in values.items():
            if key not in KEYS:
                raise UsageError(f"{path}: {schema.unknown('setting', key, KEYS)}")
            found[key] = (value, path)
    return found


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from options (None: not given), environment, files and defaults. Raises UsageError."""
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for key in given:
        if key not in KEYS:
            raise UsageError(schema.unknown("option", key, KEYS))
    try:
        settings = Settings(**given)
    except ValidationError as failure:
        labels: dict[schema.Path, str] = {
            (key,): f"{key} (from {place})" for key, place in _find_origins(given).items()
        }
        raise UsageError(schema.explain(Settings, failure, "settings", labels=labels)) from None
    settings._origins.update(_find_origins(given))
    return settings


def origin(settings: Settings) -> dict[str, str]:
    """Where each key comes from: `flag`, `env ECO_RAY_X`, `eco-ray.toml:PATH` or `default`."""
    return {key: settings._origins.get(key, "default") for key in KEYS}


def shown(settings: Settings) -> dict[str, str | int | None]:
    """Each key as it would be written in a file, passwords masked: for `config show`."""
    values: dict[str, str | int | None] = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name in ("store_url", "registry_url") and value is not None:
            value = mask_url(value)
        elif name.endswith("_s"):
            value = compact_duration(value)
        values[field.alias or name] = value if isinstance(value, int) or value is None else str(value)
    return values


def mask_url(url: str) -> str:
    """The URL with *** for its password and for query values that look like secrets."""
    # up to the last @: a password may hold /, : and @ itself
    return _SECRET_IN_QUERY.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***@", url))


def _find_origins(flags: Mapping[str, Any]) -> dict[str, str]:
    found = {key: f"{FILE_NAME}:{path}" for key, (_, path) in _toml_values().items()}
    names = {name.upper(): name for name, value in os.environ.items() if value}
    for key in KEYS:
        name = names.get(PREFIX + key.upper())
        if name:
            found[key] = f"env {name}"
    return found | dict.fromkeys(flags, "flag")
