"""Reading the ledger in a database: sums with corrections, the chain, exports; chains are read in pieces."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    and_,
    case,
    cast,
    exists,
    func,
    null,
    or_,
    select,
)

from eco_ray.core.ledger import Correction, HourlyEnergy, NodeEnergy, Overlap, OwnerInterval, Share
from eco_ray.core.units import MJ_PER_KWH, Nature, grams
from eco_ray.store import lives, tables
from eco_ray.store.hours import HOUR_S, NOBODY, Hours, Owner, Part, Whole
from eco_ray.store.kinds import wrong

#: calling the enum for each of 10,000 rows takes longer than reading them
NATURES = {nature.value: nature for nature in Nature}

_I, _S = tables.intervals.c, tables.shares.c
_C, _D = tables.corrections.c, tables.correction_shares.c
_OWNER = (_S.owner_kind, _S.owner_id, _S.attempt, _S.tenant, _S.part)
_CORRECTED_OWNER = (_D.owner_kind, _D.owner_id, _D.attempt, _D.tenant, _D.part)
_OWNER_NAMES = ("owner_kind", "owner_id", "attempt", "tenant", "part", "energy_mj", "requests", "items")
#: requests and items of a correction: it has none
_NO_COUNTS = (cast(null(), BigInteger), cast(null(), BigInteger))


class Effective:
    """The intensities that hold after corrections; plain columns where there are none, which is fast."""

    def __init__(self, connection: Connection) -> None:
        self.any = connection.execute(select(_C.id).limit(1)).first() is not None
        given = connection.execute(select(_C.id).where(_C.intensity.is_not(None)).limit(1)).first()
        self.source: FromClause = tables.intervals
        self.intensity: ColumnElement[float | None] = _I.intensity
        self.kind: ColumnElement[str] = _I.intensity_kind
        self.nature: ColumnElement[str] = _I.intensity_nature
        self.age_s: ColumnElement[float | None] = _I.intensity_age_s
        if given is not None:
            # two joins by equality, which every database does by index or hash: with `id IN (latest ids)` SQLite goes
            # through that whole list for each interval, with a correlated subquery PostgreSQL through all corrections
            last = (
                select(_C.interval_id, func.max(_C.id).label("id"))
                .where(_C.intensity.is_not(None))
                .group_by(_C.interval_id)
                .subquery()
            )
            latest = tables.corrections.alias("latest")
            new = latest.c
            self.source = tables.intervals.outerjoin(last, last.c.interval_id == _I.id).outerjoin(
                latest, new.id == last.c.id
            )
            self.intensity = func.coalesce(new.intensity, _I.intensity)
            self.kind = func.coalesce(new.intensity_kind, _I.intensity_kind)
            self.nature = func.coalesce(new.nature, _I.intensity_nature)
            self.age_s = case((new.interval_id.is_(None), _I.intensity_age_s), else_=None)

    @property
    def held(self) -> dict[str, ColumnElement[Any]]:
        """What sums are made of, by the name of its column."""
        names = ("node", "zone", "start_s", "end_s", "nature", "source", "error_rel", "pue", "energy_mj")
        return {
            **{name: _I[name] for name in (*names, "unallocated_mj")},
            **{"intensity": self.intensity, "intensity_kind": self.kind, "intensity_nature": self.nature},
            "intensity_age_s": self.age_s,
        }

    @property
    def whole(self) -> tuple[ColumnElement[Any], ...]:
        """In the order of Whole's fields."""
        return (
            *(_I.start_s, _I.end_s, _I.node, _I.zone, _I.nature, _I.source, _I.error_rel, _I.pue),
            *(self.intensity, self.kind, self.nature, self.age_s),
        )


def node_energy(connection: Connection) -> list[NodeEnergy]:
    """Sums by node."""
    now = Effective(connection)

    def carbon_g(energy_mj: ColumnElement[int]) -> ColumnElement[float]:
        total = func.sum(energy_mj * now.intensity * _I.pue) / float(MJ_PER_KWH)
        return case((func.count() == func.count(now.intensity), total))

    columns = (
        *(func.sum(_I.energy_mj), func.sum(_I.energy_mj - _I.unallocated_mj)),
        *(carbon_g(_I.energy_mj), carbon_g(_I.unallocated_mj)),
    )
    unsound = func.sum(wrong(connection, now.held))
    sums = select(_I.node, *columns, unsound).select_from(now.source).group_by(_I.node)
    totals: dict[str, list[Any]] = {}
    for node, *values, bad in connection.execute(sums):
        _refuse(bad)
        totals[node] = values
    zones = select(_I.node, _I.zone).group_by(_I.node, _I.zone).order_by(func.max(_I.end_s), _I.zone)
    zone_of: dict[str, str] = {node: zone for node, zone in connection.execute(zones)}  # noqa: C416 (Row)
    natures: dict[str, list[Nature]] = {}
    for node, nature in connection.execute(select(_I.node, _I.nature).distinct()):
        natures.setdefault(node, []).append(NATURES[nature])
    for whole, energy_mj, rest_mj, nature, _ in _differences(connection, now):
        sums_of = totals[whole.node]
        sums_of[0] += energy_mj
        sums_of[1] += energy_mj - rest_mj
        natures[whole.node].append(NATURES[nature])
        for place, mj in ((2, energy_mj), (3, rest_mj)):
            if sums_of[place] is not None and whole.intensity is not None:
                sums_of[place] += grams(mj, whole.intensity, whole.pue)
    # sorted here: databases sort text by their own rules
    return [
        NodeEnergy(node, zone_of[node], int(mj), int(attributed_mj), g, spare_g, Nature.weakest(natures[node]))
        for node, (mj, attributed_mj, g, spare_g) in sorted(totals.items())
    ]


def owner_intervals(
    connection: Connection,
    owner_kind: str | None,
    owner_id: str | None,
    since_s: float | None,
    until_s: float | None,
) -> list[OwnerInterval]:
    """Shares with their interval."""
    now = Effective(connection)
    _refuse_lost(connection)

    def found(
        table: FromClause,
        owner: tuple[ColumnElement[Any], ...],
        energy_mj: Any,
        nature: Any,
        counts: tuple[ColumnElement[Any], ...],
    ) -> list[Any]:
        place = (_I.node, _I.zone, _I.start_s, _I.end_s, energy_mj, now.intensity, _I.pue, nature, _I.source)
        parts = zip(_OWNER_NAMES, (*owner, energy_mj, *counts), strict=True)
        bad = wrong(connection, {**now.held, **dict(parts), "nature": nature})
        query = select(_I.id, bad, *owner[:3], *place, *owner[3:], *counts).select_from(table)
        if owner_kind is not None:
            query = query.where(owner[0] == owner_kind)
        if owner_id is not None:
            query = query.where(owner[1] == owner_id)
        if since_s is not None:
            query = query.where(_I.start_s >= since_s)
        if until_s is not None:
            query = query.where(_I.start_s < until_s)
        return list(connection.execute(query))

    plain = now.source.join(tables.shares, _S.interval_id == _I.id)
    merged: dict[tuple[Any, ...], list[Any]] = {}
    given = found(plain, _OWNER, _S.energy_mj, _I.nature, (_S.requests, _S["items"]))
    if now.any:
        corrected = now.source.join(tables.corrections, _C.interval_id == _I.id).join(
            tables.correction_shares, _D.correction_id == _C.id
        )
        given += found(corrected, _CORRECTED_OWNER, _D.energy_mj, _C.nature, _NO_COUNTS)
    for interval_id, bad, *row in given:
        _refuse(bad)
        row[10] = NATURES[row[10]]
        if not now.any:
            merged[(len(merged),)] = row
            continue
        key = (interval_id, *row[:3], *row[12:14])
        old = merged.setdefault(key, row)
        if old is not row:
            old[7] += row[7]
            old[10] = Nature.weakest([old[10], row[10]])
            if old[7] == 0 and not any(old[14:]):  # moved away as a whole
                del merged[key]
    parts = [OwnerInterval(*row) for row in merged.values()]
    return sorted(parts, key=lambda part: (part.start_s, part.node, part.owner_kind, part.owner_id))


def hourly(connection: Connection, since_s: float | None, until_s: float | None) -> list[HourlyEnergy]:
    """Sums by hour: those within an hour are added up by the database, the few over its turn are split here."""
    now = Effective(connection)
    _refuse_lost(connection)
    hours = Hours(since_s, until_s)
    if connection.dialect.name == "sqlite":
        hour: ColumnElement[Any] = cast(_I.start_s / HOUR_S, BigInteger)
    else:
        hour = cast(func.floor(_I.start_s / HOUR_S), BigInteger)
    turns = [_I.end_s > (hour + 1) * HOUR_S]
    overlaps = []
    if since_s is not None:
        turns.append(_I.start_s < since_s)
        overlaps.append(_I.end_s > since_s)
    if until_s is not None:
        turns.append(_I.end_s > until_s)
        overlaps.append(_I.start_s < until_s)
    unknown = now.intensity.is_(None).label("unknown")
    inside = and_(*(~turn for turn in turns))

    def grouped(
        source: FromClause,
        owner: tuple[ColumnElement[Any], ...],
        energy_mj: ColumnElement[Any],
        requests: ColumnElement[Any],
    ) -> None:
        named = dict(zip(_OWNER_NAMES[:-1], (*owner, energy_mj, requests), strict=True)) if owner else {}
        key = (
            hour.label("hour"),
            _I.node,
            _I.zone,
            *owner,
            _I.nature,
            _I.source,
            now.kind,
            now.nature,
            _I.pue,
            unknown,
        )
        sums = (
            func.sum(energy_mj),
            func.coalesce(func.sum(energy_mj * now.intensity * _I.pue), 0.0),
            func.sum(energy_mj * _I.error_rel),
            func.coalesce(func.max(now.age_s), 0.0),
            func.count() - func.count(now.age_s),
            func.sum(requests),
            func.min(_I.start_s),
            func.max(_I.end_s),
            func.sum(wrong(connection, {**now.held, **named})),
        )
        counted = or_(energy_mj != 0, requests > 0)
        query = select(*key, *sums).select_from(source).where(inside, counted).group_by("hour", *key[1:-1], "unknown")
        for row in connection.execute(query):
            names, (mj, g_mj, error_mj, age_s, no_age, count, *reach, bad) = tuple(row[: len(key)]), row[len(key) :]
            _refuse(bad)
            names = names if owner else (*names[:3], *NOBODY, *names[3:])
            count = None if count is None else int(count)
            hours.add(names, int(mj), g_mj / MJ_PER_KWH, float(error_mj), age_s, no_age, count, (reach[0], reach[1]))

    grouped(now.source.join(tables.shares, _S.interval_id == _I.id), _OWNER, _S.energy_mj, _S.requests)
    grouped(now.source, (), _I.unallocated_mj, _NO_COUNTS[0])
    bad_one = wrong(connection, now.held)
    odd = select(_I.id, bad_one, _I.unallocated_mj, *now.whole).select_from(now.source).where(or_(*turns), *overlaps)
    for interval_id, bad, rest_mj, *fields in connection.execute(odd.order_by(_I.id)).all():
        _refuse(bad)
        parts = dict(zip(_OWNER_NAMES[:-1], (*_OWNER, _S.energy_mj, _S.requests), strict=True))
        own = select(wrong(connection, parts), *_OWNER, _S.energy_mj, _S.requests)
        shares: list[Part] = []
        for bad_share, *owner, mj, count in connection.execute(own.where(_S.interval_id == interval_id)):
            _refuse(bad_share)
            shares.append((_owner(owner), mj, count))
        hours.spread(Whole(*fields), [*shares, (NOBODY, rest_mj, None)])
    for whole, _, rest_mj, nature, differences in _differences(connection, now):
        hours.spread(whole, [*differences, (NOBODY, rest_mj, None)], nature)
    return hours.rows()


def _differences(connection: Connection, now: Effective) -> Iterator[tuple[Whole, int, int, str, list[Part]]]:
    """Corrections of energy: interval, difference of its energy and of its rest, nature, differences of owners."""
    if not now.any:
        return
    of: dict[int, list[Part]] = {}
    parts = dict(zip(_OWNER_NAMES[:-2], (*_CORRECTED_OWNER, _D.energy_mj), strict=True))
    for bad, correction_id, *owner, mj in connection.execute(
        select(wrong(connection, parts), _D.correction_id, *_CORRECTED_OWNER, _D.energy_mj).order_by(_D.id)
    ):
        _refuse(bad)
        of.setdefault(correction_id, []).append((_owner(owner), mj, None))
    own = {"energy_mj": _C.energy_mj, "unallocated_mj": _C.unallocated_mj, "nature": _C.nature}
    query = (
        select(_C.id, wrong(connection, own), _C.energy_mj, _C.unallocated_mj, _C.nature, *now.whole)
        .select_from(now.source.join(tables.corrections, _C.interval_id == _I.id))
        .where(or_(_C.energy_mj != 0, _C.unallocated_mj != 0, exists().where(_D.correction_id == _C.id)))
    )
    for correction_id, bad, energy_mj, rest_mj, nature, *fields in connection.execute(query.order_by(_C.id)):
        _refuse(bad)
        yield Whole(*fields), energy_mj, rest_mj, nature, of.get(correction_id, [])


def _refuse(bad: int) -> None:
    """Sums of rows with a value that cannot be are none; ledger_chain.damaged() then says which row it is."""
    if bad:
        raise ValueError("a row of the ledger cannot be read")


def _refuse_lost(connection: Connection) -> None:
    """Rows that no span finds, because their start is no time: on SQLite text sorts after all numbers."""
    late = select(_I.id).where(_I.start_s > sys.float_info.max).limit(1)
    _refuse(connection.execute(late).first() is not None)


def _owner(columns: Sequence[Any]) -> Owner:
    kind, name, attempt, tenant, part = columns
    return kind, name, attempt, tenant, part


def overlaps(connection: Connection) -> tuple[Overlap, ...]:
    """Lives of an agent that overlap. Rows whose times cannot be read are left out: `verify_chain` names them."""
    sound = wrong(connection, {"start_s": _I.start_s, "end_s": _I.end_s}) == 0
    spans = select(_I.node, _I.boot_id, func.min(_I.id), func.min(_I.start_s), func.max(_I.end_s))
    found = [lives.Life(*row) for row in connection.execute(spans.where(sound).group_by(_I.node, _I.boot_id))]

    def spans_of(life: lives.Life, since_s: float, until_s: float) -> list[tuple[float, float]]:
        of_life = select(_I.start_s, _I.end_s).where(_I.node == life.node, _I.boot_id == life.boot_id)
        within = of_life.where(sound, _I.end_s > since_s, _I.start_s < until_s)
        return [(start_s, end_s) for start_s, end_s in connection.execute(within)]

    return lives.overlaps(found, spans_of)


def corrections(connection: Connection) -> list[Correction]:
    """All corrections, oldest first."""
    shares: dict[int, list[Share]] = {}
    for correction_id, kind, name, attempt, tenant, part, mj in connection.execute(
        select(_D.correction_id, *_CORRECTED_OWNER, _D.energy_mj).order_by(_D.id)
    ):
        shares.setdefault(correction_id, []).append(Share(kind, name, attempt, mj, tenant, part))
    return [
        Correction(
            node=row.node,
            boot_id=row.boot_id,
            seq=row.seq,
            reason=row.reason,
            author=row.author,
            made_s=row.made_s,
            nature=Nature(row.nature),
            energy_mj=row.energy_mj,
            shares=tuple(shares.get(row.id, ())),
            intensity_g_per_kwh=row.intensity,
            intensity_source=row.intensity_source,
            intensity_kind=row.intensity_kind,
        )
        for row in connection.execute(select(tables.corrections).order_by(_C.id))
    ]


def intervals_of(connection: Connection, zone: str, since_s: float, until_s: float) -> list[tuple[str, str, int]]:
    """(node, boot_id, seq) of a zone's intervals within a span."""
    query = select(_I.node, _I.boot_id, _I.seq).where(_I.zone == zone, _I.start_s >= since_s, _I.end_s <= until_s)
    return [(node, boot_id, seq) for node, boot_id, seq in connection.execute(query.order_by(_I.id))]
