"""The tables of the store. A change here is a new SCHEMA_VERSION and a step in the upgrade path.

Energy is BIGINT mJ, time is DOUBLE seconds since the epoch: both round-trip exactly on SQLite and PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

#: what this code reads and writes; kept in `meta` under SCHEMA_KEY
SCHEMA_VERSION = 7
SCHEMA_KEY = "schema_version"
#: key of the ledger's head in `meta`: how many entries, id and hash of the last one
HEAD_KEY = "ledger_head"
#: keys that only the store itself writes
OWN_KEYS = (SCHEMA_KEY, HEAD_KEY)

metadata = MetaData()

# SQLite counts rows only in a column of exactly the type INTEGER, which holds 64 bits there
_RowId = BigInteger().with_variant(Integer(), "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    #: JSON
    Column("value", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    #: order of insertion, which is the order of submission; a job that is saved again keeps it
    Column("seq", _RowId, Identity(), primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("submitted_s", Double, nullable=False),
    Column("deadline_s", Double, nullable=False),
    #: how many there are; the attempts themselves are in `record`
    Column("attempts", Integer, nullable=False),
    Column("progress", Double),
    Column("finished_s", Double),
    #: the whole job as JSON (codec.py); the columns above are copies for lists and filters
    Column("record", Text, nullable=False),
    sqlite_autoincrement=True,
)

job_log = Table(
    "job_log",
    metadata,
    Column("seq", _RowId, Identity(), primary_key=True),
    Column("job_id", Text, nullable=False, index=True),
    Column("time_s", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("message", Text, nullable=False),
)

intervals = Table(
    "intervals",
    metadata,
    #: place in the chain, counted together with those of `corrections`
    Column("id", _RowId, Identity(), primary_key=True),
    Column("node", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("zone", Text, nullable=False),
    Column("start_s", Double, nullable=False),
    Column("end_s", Double, nullable=False),
    Column("energy_mj", BigInteger, nullable=False),
    Column("idle_mj", BigInteger, nullable=False),
    #: stored although energy - shares gives it, so that `residual_mj` can find damage
    Column("unallocated_mj", BigInteger, nullable=False),
    Column("system_cpu_s", Double, nullable=False),
    Column("nature", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("error_rel", Double, nullable=False),
    #: JSON list
    Column("flags", Text, nullable=False),
    #: gCO2e/kWh; NULL: unknown
    Column("intensity", Double),
    Column("intensity_source", Text, nullable=False),
    Column("pue", Double, nullable=False),
    # from here on new in schema 2; the defaults are for rows that were there before
    #: part of energy_mj
    Column("gpu_mj", BigInteger, nullable=False, server_default="0"),
    #: empty: unknown
    Column("intensity_kind", Text, nullable=False, server_default=""),
    #: empty: unknown
    Column("intensity_nature", Text, nullable=False, server_default=""),
    #: NULL: unknown
    Column("intensity_age_s", Double),
    #: chain.py says of what
    Column("hash", Text, nullable=False, server_default=""),
    UniqueConstraint("node", "boot_id", "seq"),
    Index("ix_intervals_start_s", "start_s"),
    # new in schema 4: whether another life of the agent has booked a time already
    Index("ix_intervals_node_end_s", "node", "end_s"),
    sqlite_autoincrement=True,
)

shares = Table(
    "shares",
    metadata,
    Column("id", _RowId, Identity(), primary_key=True),
    Column("interval_id", _RowId, ForeignKey("intervals.id"), nullable=False, index=True),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("energy_mj", BigInteger, nullable=False),
    # new in schema 2
    Column("tenant", Text, nullable=False, server_default=""),
    # from here on new in schema 3
    #: replica of a model
    Column("part", Text, nullable=False, server_default=""),
    #: NULL: unknown, or a job
    Column("requests", BigInteger),
    Column("items", BigInteger),
    Index("ix_shares_owner", "owner_kind", "owner_id"),
)

corrections = Table(
    "corrections",
    metadata,
    #: place in the chain, counted together with those of `intervals`
    Column("id", _RowId, primary_key=True, autoincrement=False),
    Column("interval_id", _RowId, ForeignKey("intervals.id"), nullable=False, index=True),
    Column("node", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("made_s", Double, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("nature", Text, nullable=False),
    #: differences
    Column("energy_mj", BigInteger, nullable=False),
    Column("unallocated_mj", BigInteger, nullable=False),
    #: in the place of the one before; NULL: it stays
    Column("intensity", Double),
    Column("intensity_source", Text, nullable=False),
    Column("intensity_kind", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

correction_shares = Table(
    "correction_shares",
    metadata,
    Column("id", _RowId, Identity(), primary_key=True),
    Column("correction_id", _RowId, ForeignKey("corrections.id"), nullable=False, index=True),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    #: difference
    Column("energy_mj", BigInteger, nullable=False),
    # new in schema 3
    Column("part", Text, nullable=False, server_default=""),
)

#: new in schema 5
transfers = Table(
    "transfers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("time_s", Double, nullable=False, index=True),
    Column("owner_id", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("moved_bytes", BigInteger, nullable=False),
    Column("reused_bytes", BigInteger, nullable=False),
    Column("energy_mj", BigInteger, nullable=False),
    Column("nature", Text, nullable=False),
    Column("source", Text, nullable=False),
)

#: new in schema 6
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False, index=True),
    #: words, parted by spaces
    Column("scopes", Text, nullable=False),
    Column("created_s", Double, nullable=False),
    #: NULL: valid until it is revoked
    Column("expires_s", Double),
    Column("revoked_s", Double),
    Column("replaced_by", Text),
    #: HMAC of the secret; the secret is kept nowhere, and the HMAC's own key not in this database
    Column("digest", Text, nullable=False),
)

#: new in schema 6
audit = Table(
    "audit",
    metadata,
    Column("id", _RowId, Identity(), primary_key=True),
    Column("time_s", Double, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,
)

#: new in schema 7
avoided = Table(
    "avoided",
    metadata,
    Column("id", Text, primary_key=True),
    Column("start_s", Double, nullable=False, index=True),
    Column("end_s", Double, nullable=False),
    Column("node", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("hits", BigInteger, nullable=False),
    Column("energy_mj", BigInteger, nullable=False),
    Column("zone", Text, nullable=False),
    #: NULL: unknown
    Column("intensity_g_per_kwh", Double),
    Column("intensity_kind", Text, nullable=False),
    Column("pue", Double, nullable=False),
    Column("nature", Text, nullable=False),
    Column("source", Text, nullable=False),
)

series = Table(
    "series",
    metadata,
    Column("zone", Text, primary_key=True),
    Column("time_s", Double, primary_key=True),
    Column("g_per_kwh", Double, nullable=False),
    Column("step_s", Double, nullable=False),
    Column("source", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("nature", Text, nullable=False),
)
