"""Moves of aliases and deletions: what is damaged or was moved, and all orders in which several people do things."""

from __future__ import annotations

import itertools
import json
import random
import threading

import pytest
from registry_cases import Clock, InTurns, Plain, document, empty_place

from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.models.manifest import AliasEvent, Deletion
from eco_ray.models.object_store import open_store
from eco_ray.models.registry import About, LostEvent, Registry


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def where(request, tmp_path):
    return empty_place(request, tmp_path)


@pytest.fixture
def file(tmp_path):
    def made(number):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(b"GGUF\3\0\0\0 number %d" % number)
        return path

    return made


@pytest.fixture
def registry(where, file):
    """Three versions; prod meant 1, then 2."""
    made = Registry(where, by="ann", clock=Clock())
    for number in (1, 2, 3):
        made.push(file(number), "m")
    made.promote("m:1", "prod")
    made.promote("m:2", "prod")
    return made


EVENTS = "models/m/aliases/prod"


# -- deletions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        Deletion(model="m", version=2, at="").to_bytes(),
        Deletion(model="n", version=3, at="").to_bytes(),
        Deletion(model="m", version=3, at="").to_bytes()[:-5],
    ],
)
def test_a_deletion_counts_only_if_it_is_sound_and_of_that_version(registry, where, tmp_path, record):
    store = open_store(where)
    store.put("models/m/deleted/3.json", record)
    assert registry.deleted("m") == {}
    assert registry.gc().removed == ()
    registry.pull("m:3", tmp_path / "back")
    ((path, problem),) = registry.problems("m")
    assert (path, "counts as not deleted" in problem) == ("models/m/deleted/3.json", True)
    registry.delete("m:3", "now really")
    assert registry.deleted("m")[3].why == "now really"
    assert registry.problems("m") == []
    assert len(registry.gc().removed) == 1


def test_who_deletes_again_is_given_what_was_written_then(registry):
    first = registry.delete("m:3", "GDPR")
    assert (first.model, first.version, first.by, first.why) == ("m", 3, "ann", "GDPR")
    assert registry.delete("m:3", "again") == first
    with pytest.raises(NotFoundError, match="no version m:9"):
        registry.delete("m:9")


def test_a_version_whose_record_is_damaged_can_be_deleted_and_garbage_be_collected(registry, where):
    store = open_store(where)
    store.put("models/m/versions/3.json", b"half")
    with pytest.raises(DamagedError):
        registry.gc()
    registry.delete("m:3")
    assert len(registry.gc().removed) == 1


def test_what_an_alias_means_is_never_collected(registry, where, tmp_path):
    """As after somebody died between a move and his look at deletions, or put an old record back."""
    store = open_store(where)
    store.put("models/m/deleted/2.json", Deletion(model="m", version=2, at="").to_bytes())
    assert registry.gc().removed == ()
    assert ("m@prod", "it means m:2, which was deleted; promote another") in registry.problems("m")
    registry.delete("m:3")
    store.put(f"{EVENTS}/3.json", b"half")  # may mean anything
    assert registry.gc().removed == ()
    registry.promote("m:1", "prod")
    assert len(registry.gc().removed) == 2


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "path"), [(9, f"{EVENTS}/9.json"), (1, "models/m/aliases/canary/1.json")])
def test_a_move_counts_only_where_it_was_written(registry, where, number, path):
    store = open_store(where)
    store.put(path, store.read(f"{EVENTS}/1.json", 1 << 20))
    alias = path.split("/")[3]
    with pytest.raises(DamagedError, match=rf"speaks of .*somebody moved it.*promote m:VERSION {alias}"):
        registry.resolve(f"m@{alias}")
    with pytest.raises(DamagedError):
        registry.rollback("m", alias)
    assert registry.promote("m:3", alias).number == number + 1
    assert registry.resolve(f"m@{alias}") == ("m", 3)


def test_an_old_move_that_is_damaged_holds_nobody_up(registry, where):
    open_store(where).put(f"{EVENTS}/1.json", b"")
    assert registry.resolve("m@prod") == ("m", 2)
    assert registry.promote("m:3", "prod").number == 3
    assert registry.rollback("m", "prod").version == 2
    lost, *others = registry.history("m")
    assert isinstance(lost, LostEvent)
    assert (lost.number, [one.version for one in others]) == (1, [2, 3, 2])
    with pytest.raises(DamagedError, match="promote m:VERSION prod"):
        registry.rollback("m", "prod")
    assert [path for path, _ in registry.problems("m")] == [f"{EVENTS}/1.json"]


def test_an_alias_whose_last_move_is_damaged_holds_up_nobody_else(registry, where, file, tmp_path):
    registry.promote("m:3", "canary")
    open_store(where).put("models/m/aliases/canary/1.json", b"")
    assert registry.aliases("m") == {"prod": 2}
    assert list(registry.all_aliases("m")[1]) == ["canary"]
    with pytest.raises(NotAllowedError, match="m@canary may mean m:1"):
        registry.delete("m:1")
    assert registry.push(file(4), "m").version == 4
    registry.pull("m@prod", tmp_path / "back")
    assert registry.promote("m:3", "canary").number == 2
    registry.delete("m:1")


def test_what_has_no_name_of_ours_is_passed_over(registry, where, file):
    store = open_store(where)
    for path in ("models/m+x/versions/1.json", f"{EVENTS}/x.json", f"{EVENTS}/01.json", f"{EVENTS}/0.json"):
        store.put(path, b"")
    store.put(f"{EVENTS}/1234567890.json", b"")
    store.put("models/m/versions/1234567890.json", b"")
    assert (registry.models(), registry.versions("m"), registry.aliases("m")) == (["m"], [1, 2, 3], {"prod": 2})
    assert registry.gc().removed == ()
    store.put("models/m/versions/999999999.json", b"")
    with pytest.raises(EcoRayError, match=r"999999999\.json leaves no number"):
        registry.push(file(4), "m")


# -- garbage that is none ----------------------------------------------------------------------------------------------


def test_a_collection_touches_parts_and_nothing_else(tmp_path, file):
    root, victim = tmp_path / "r", tmp_path / "victim"
    registry = Registry(str(root))
    registry.push(file(1), "m")
    victim.mkdir()
    begin, digest = "ab", "ab" + "0" * 62
    (victim / "thesis.tex").write_text("x")
    (victim / digest).write_text("x")
    for link in ("zz", begin):
        (root / "blobs" / link).symlink_to(victim)
    (root / "sealed").mkdir()
    (root / "sealed" / ("0" * 16)).symlink_to(victim)
    foreign = ["blobs/cd/" + digest, "blobs/cd/notes.txt", "blobs/sha256/" + digest, "sealed/key/ab/" + digest]
    for path in foreign:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    (root / "blobs/cd" / ("cd" + "0" * 62)).write_text("garbage")
    assert registry.gc().removed == ("blobs/cd/cd" + "0" * 62,)
    assert sorted(one.name for one in victim.iterdir()) == [digest, "thesis.tex"]
    assert all((root / path).exists() for path in foreign)
    registry.verify("m:1")


def test_a_place_that_is_no_registry_is_left_alone(tmp_path, file):
    assert Registry(str(tmp_path / "typo")).gc().removed == ()
    assert not (tmp_path / "typo").exists()
    registry = Registry(str(tmp_path / "r"))
    made = registry.push(file(1), "m")
    (tmp_path / "r/models").rename(tmp_path / "r/models.bak")
    with pytest.raises(NotFoundError, match="has blobs and no models"):
        registry.gc()
    (tmp_path / "r/models.bak").rename(tmp_path / "r/models")
    assert registry.verify("m:1") == made


def test_a_model_behind_a_link_needs_its_parts(tmp_path, file):
    registry = Registry(str(tmp_path / "r"))
    registry.push(file(1), "m")
    (tmp_path / "r/models/m").rename(tmp_path / "m")
    (tmp_path / "r/models/m").symlink_to(tmp_path / "m")
    assert registry.gc().removed == ()


def test_who_pulls_what_is_deleted_and_collected_meanwhile_is_told_so(tmp_path, file):
    store = Plain()
    registry, read = Registry(store), store.read
    registry.push(file(1), "m")

    def read_and_delete(path, most_bytes):
        if path.startswith("blobs"):
            store.read = read
            registry.delete("m:1")
            assert registry.gc().removed
        return read(path, most_bytes)

    store.read = read_and_delete
    with pytest.raises(NotFoundError, match="m:1 was deleted at"):
        registry.pull("m:1", tmp_path / "back")
    assert not (tmp_path / "back").exists()


# -- rollbacks ---------------------------------------------------------------------------------------------------------


def test_what_was_promoted_twice_is_rolled_back_once(registry):
    registry.promote("m:3", "prod")
    registry.promote("m:3", "prod", "again")
    assert registry.rollback("m", "prod").version == 2
    assert registry.rollback("m", "prod").version == 1
    with pytest.raises(NotFoundError, match="meant nothing before"):
        registry.rollback("m", "prod")


def test_an_alias_is_taken_away_and_comes_back(registry):
    gone = registry.unalias("m", "prod", "not used")
    assert (gone.action, gone.version, gone.why) == ("remove", None, "not used")
    with pytest.raises(NotFoundError, match="was removed"):
        registry.resolve("m@prod")
    with pytest.raises(NotFoundError, match="was removed"):
        registry.unalias("m", "prod")
    registry.delete("m:1")
    assert registry.rollback("m", "prod").version == 2
    with pytest.raises(NotFoundError, match="no alias"):
        registry.unalias("m", "none")


# -- several at once ---------------------------------------------------------------------------------------------------


def at_once(store, order, *works):
    """Do things at once, the calls of the store in an order; what each came to."""
    turns, done = InTurns(store, order), {}

    def run(number, work):
        try:
            done[number] = work(Registry(turns.store(number)))
        except EcoRayError as error:
            done[number] = error
        finally:
            turns.end(number)

    threads = [threading.Thread(target=run, args=(number, work)) for number, work in enumerate(works)]
    for thread in threads:
        thread.start()
    turns.play(len(works))
    for thread in threads:
        thread.join()
    return [done[number] for number in range(len(works))]


def orders(several, calls, most):
    """Orders of so many calls of several parties: some by chance, and those in which two do not mix."""
    chance = random.Random(7)
    for _ in range(most):
        yield [chance.randrange(several) for _ in range(calls)]
    for first, second in itertools.permutations(range(several), 2):  # one does all between two calls of the other
        for at in range(0, calls, several - 1):
            yield [first] * at + [second] * calls


def begun(file):
    store = Plain()
    registry = Registry(store)
    for number in (1, 2, 3):
        registry.push(file(number), "m")
    registry.promote("m:3", "prod")
    registry.promote("m:2", "prod")
    return store, registry


MOVES = {
    "promote": lambda registry: registry.promote("m:1", "prod"),
    "new alias": lambda registry: registry.promote("m:1", "new"),
    "rollback": lambda registry: registry.rollback("m", "prod"),
}


@pytest.mark.parametrize("move", list(MOVES))
def test_a_version_is_never_deleted_and_meant(file, tmp_path, move):
    version, won = (3 if move == "rollback" else 1), set()
    for order in orders(2, 24, 80):
        store, registry = begun(file)
        moved, deleted = at_once(store, order, MOVES[move], lambda registry: registry.delete(f"m:{version}"))
        moved, deleted = isinstance(moved, AliasEvent), isinstance(deleted, Deletion)
        assert not (moved and deleted), order
        won.add((moved, deleted))
        check(registry, version, moved, deleted, tmp_path)
    assert {(True, False), (False, True)} <= won


def check(registry, version, moved, deleted, folder):
    assert (version in registry.deleted("m")) == deleted
    means = {alias: one for alias, one in registry.aliases("m").items() if one is not None}
    assert (version in means.values()) == moved
    if not moved:
        assert means == {"prod": 2}
    registry.gc()
    for alias in means:
        registry.pull(f"m@{alias}", folder / "back")
    for one in (1, 2, 3):
        if one not in registry.deleted("m"):
            registry.verify(f"m:{one}")


def test_two_who_delete_one_who_promotes_and_one_who_collects(file, tmp_path):
    for order in orders(4, 60, 60):
        store, registry = begun(file)
        moved, *deleted, _ = at_once(
            store,
            order,
            MOVES["promote"],
            lambda registry: registry.delete("m:1"),
            lambda registry: registry.delete("m:1"),
            lambda registry: registry.gc(),
        )
        moved, deleted = isinstance(moved, AliasEvent), any(isinstance(one, Deletion) for one in deleted)
        assert not (moved and deleted), order
        check(registry, 1, moved, deleted, tmp_path)


def test_of_two_who_roll_back_at_once_one_goes_back_and_one_is_told(file):
    for order in orders(2, 12, 60):
        store, registry = begun(file)
        registry.promote("m:1", "prod")
        done = at_once(store, order, *2 * [lambda registry: registry.rollback("m", "prod")])
        told = [one for one in done if isinstance(one, EcoRayError)]
        if told:  # else one looked at what the other had done
            assert "somebody else in the same moment" in str(told[0])
        assert registry.resolve("m@prod") == ("m", 2 if told else 3)


def test_who_died_while_deleting_is_named_with_the_cure(registry, where):
    store = open_store(where)
    store.put("models/m/deleting/3/x.json", json.dumps("died").encode())
    with pytest.raises(NotAllowedError, match=r"is being deleted; .*models/m/deleting/3/x\.json"):
        registry.promote("m:3", "prod")
    assert 3 not in registry.deleted("m")
    registry.delete("m:3")
    assert store.names("models/m/deleting/3") == []


# -- documents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2**40, 10**30, 33 << 20])
def test_no_part_is_larger_than_we_make_them(registry, where, size):
    told = registry.manifest("m:3").model_dump(mode="json")
    told["blob"]["parts"][0]["size"] = size
    open_store(where).put("models/m/versions/3.json", document(told))
    with pytest.raises(DamagedError, match=r"versions/3\.json is damaged"):
        registry.manifest("m:3")
    found = dict(registry.manifests("m"))
    assert [isinstance(found[version], DamagedError) for version in (1, 2, 3)] == [False, False, True]


def test_what_could_not_be_read_again_is_not_written(registry, file):
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    for wrong in ({"a": deep}, {"a": float("nan")}, {"a": "\ud800"}):
        with pytest.raises(UsageError):
            registry.push(file(5), "m", About(lineage=wrong))
    assert registry.versions("m") == [1, 2, 3]
