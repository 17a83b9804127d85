"""Jobs over HTTP: submitted once, told as the command line tells them, and only to whom they belong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from control_cases import BASE, JOB, Case, ask, attempt, case, following
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_service_key_gate import KEYS, NOW_S, PEPPER, credential, key

from eco_ray.api_model import JobExplanation, JobLine, JobPlan, JobStatus, Submitted
from eco_ray.core.jobs import AttemptState, JobState
from eco_ray.core.keys import Scope
from eco_ray.core.limits import Limiter, Limits
from eco_ray.service.control import cursor
from eco_ray.service.key_gate import KeyGate
from eco_ray.service.problems import Problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Case]:
    with case(tmp_path) as made:
        yield made


def with_keys(tmp_path: Path) -> Any:
    gate = KeyGate(PEPPER, Limiter(Limits()), now=lambda: NOW_S, infer_reads=False)
    more = [key("a", Scope.READ, Scope.DEPLOY), key("t", Scope.READ, Scope.DEPLOY, tenant="text")]
    gate.learn({**KEYS, **{one.id: one for one in more}})
    return case(tmp_path, gate=gate)


def bearer(name: str) -> str:
    return f"Bearer {credential(name).text}"


# -- submitting --------------------------------------------------------------------------------------------------------


def test_a_submitted_job_is_there(api: Case) -> None:
    got = api.ask("POST", f"{BASE}/jobs", JOB)
    assert got.status == 201, got.body
    made = Submitted(**got.json)
    assert got.headers["location"] == f"{BASE}/jobs/{made.id}"
    assert made.id.startswith("train-")
    told = api.ask("GET", got.headers["location"])
    assert JobStatus(**told.json).id == made.id
    assert api.store.get_job(made.id) is not None
    assert JobExplanation(**api.ask("GET", f"{got.headers['location']}/explain").json).events


def test_the_same_key_and_body_are_the_same_job_however_it_is_written(api: Case) -> None:
    first = api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key="k1")
    turned = json.dumps(dict(reversed(JOB.items())), indent=3).encode()
    again = api.ask("POST", f"{BASE}/jobs", turned, Idempotency_Key="k1")
    assert (first.status, again.status) == (201, 200)
    assert first.json == again.json
    assert first.headers["location"] == again.headers["location"]
    other = api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key="k2")
    assert other.json["id"] != first.json["id"]
    assert len(api.store.list_jobs()) == 2


def test_the_same_key_with_another_body_is_refused(api: Case) -> None:
    first = api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key="k")
    got = api.ask("POST", f"{BASE}/jobs", {**JOB, "name": "other"}, Idempotency_Key="k")
    assert (got.status, got.json["title"]) == (409, "key was used")
    assert first.json["id"] in got.json["detail"]
    assert len(api.store.list_jobs()) == 1


def test_who_is_slower_with_a_key_gets_the_job_of_the_faster_or_is_refused(api: Case) -> None:
    # as if another replica took it in between the look and the submission
    seen, api.control.job = api.control.job, lambda job_id: None  # type: ignore[method-assign]
    submit = api.control.submit

    def late(job_id: str, job: Any, nonce: str) -> None:
        submit(job_id, job, nonce if same else "of another body")
        api.control.job = seen  # type: ignore[method-assign]
        submit(job_id, job, nonce)

    api.control.submit = late  # type: ignore[method-assign]
    same = False
    got = api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key="k")
    assert (got.status, got.json["title"]) == (409, "key was used")
    same, api.control.job = True, lambda job_id: None  # type: ignore[method-assign]
    assert api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key="k2").status == 201
    assert len(api.store.list_jobs()) == 2


def test_a_key_outlives_the_controller_and_the_app(tmp_path: Path) -> None:
    with case(tmp_path) as api:
        first = api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key="k")
        api.acts.restart()
        again = api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key="k")
        assert (again.status, again.json["id"]) == (200, first.json["id"])
        assert api.ask("POST", f"{BASE}/jobs", {**JOB, "run": "b"}, Idempotency_Key="k").status == 409


def test_a_refused_job_uses_up_no_key(api: Case) -> None:
    wrong = {**JOB, "resources": {"num_cpus": 1000}}
    got = api.ask("POST", f"{BASE}/jobs", wrong, Idempotency_Key="k")
    assert (got.status, got.json["title"]) == (422, "infeasible")
    assert api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key="k").status == 201


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": "a"}, 400, "run: is missing; add it"),
        ({**JOB, "resurces": {}}, 400, "did you mean 'resources'?"),
        ({**JOB, "workdir": "/etc"}, 400, "is a folder, and none comes with a request"),
        ({**JOB, "runtime_env": {"pip": "/etc/passwd"}}, 400, "is a path or a name of the server"),
        ({**JOB, "runtime_env": {"py_modules": ["/etc"]}}, 400, "which is no URL"),
        ({**JOB, "runtime_env": {"working_dir": "/etc"}}, 400, "working_dir is set from workdir"),
        ({**JOB, "carbon": {"deadline": "2020-01-01T00:00Z"}}, 422, "passed"),
        ({**JOB, "carbon": {"zones": ["XX"]}}, 404, "XX"),
        ([], 400, "an object"),
        ("x" * (1 << 20), 413, "the limit is 1048576"),
        (b"{", 400, "not JSON"),
        (b"[" * 20_000, 413, "the limit is 10000"),
        (b'{"name": "a", "run": "\\ud800"}', 400, ""),
        (b'{"name": "a", "run": "a", "priority": 1e999}', 400, ""),
        (b'{"name": "a", "run": "a", "priority": %s}' % (b"9" * 5000), 400, ""),
        (json.dumps({**JOB, "x" * 9000: 1}).encode(), 400, ""),
        (json.dumps({**JOB, "runtime_env": {"env_vars": {"s" * 9000: 1}}}).encode(), 400, ""),
    ],
)  # fmt: skip
def test_a_wrong_job_is_refused_with_a_cure(api: Case, body: Any, status: int, words: str) -> None:
    for path in ("jobs", "plan"):
        got = api.ask("POST", f"{BASE}/{path}", body)
        assert got.status == status, got.body[:500]
        assert words in got.json["detail"]
        assert len(got.body) < 5000
        assert got.headers["content-type"] == "application/problem+json"
    assert api.store.list_jobs() == []


@pytest.mark.parametrize("told", ["", "a b", "x" * 256, "\xe9", "a\x7f"])
def test_a_wrong_key_is_refused(api: Case, told: str) -> None:
    got = api.ask("POST", f"{BASE}/jobs", JOB, Idempotency_Key=told)
    assert (got.status, got.json["title"]) == (400, "wrong header")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Type": "Application/JSON; charset=utf-8"}, 201),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1", "Host": "127.0.0.1"}, 201),
        ({"Host": "[::1]:8000"}, 201),
        ({"Host": "localhost:8000"}, 201),
        ({"Host": ""}, 403),
    ],
)
def test_a_page_of_a_browser_submits_nothing(api: Case, headers: dict[str, str], status: int) -> None:
    assert api.ask("POST", f"{BASE}/jobs", JOB, **headers).status == status
    assert len(api.store.list_jobs()) == (status == 201)


def test_a_plan_changes_nothing_and_is_that_of_the_controller(api: Case) -> None:
    got = api.ask("POST", f"{BASE}/plan", JOB)
    assert got.status == 200
    assert JobPlan(**got.json).segments
    assert api.store.list_jobs() == []


# -- keys and tenants --------------------------------------------------------------------------------------------------


def test_scopes_say_who_may_what(tmp_path: Path) -> None:
    with with_keys(tmp_path) as api:
        read = {name: api.ask("GET", f"{BASE}/jobs", Authorization=bearer(name)).status for name in "irdeva"}
        assert read == {"i": 403, "r": 200, "d": 403, "e": 401, "v": 401, "a": 200}
        change = {name: api.ask("POST", f"{BASE}/jobs", JOB, Authorization=bearer(name)).status for name in "irdeva"}
        assert change == {"i": 403, "r": 403, "d": 201, "e": 401, "v": 401, "a": 201}
        assert api.ask("GET", f"{BASE}/jobs").status == 401
        assert api.ask("GET", f"{BASE}/openapi.json").status == 200


def test_without_a_key_no_body_is_read_and_nothing_is_looked_for(tmp_path: Path) -> None:
    with with_keys(tmp_path) as api:
        got = api.ask("POST", f"{BASE}/jobs", b"{" * 100_000)
        assert (got.status, "www-authenticate" in got.headers) == (401, True)
        assert api.ask("GET", f"{BASE}/jobs?nonsense").status == 401


def test_a_job_belongs_to_its_tenant(tmp_path: Path) -> None:
    with with_keys(tmp_path) as api:
        mine = api.ask("POST", f"{BASE}/jobs", JOB, Authorization=bearer("a"), Idempotency_Key="k").json["id"]
        assert api.store.get_job(mine).spec.tenant == "vision"  # type: ignore[union-attr]
        # the same key of another tenant is another job
        theirs = api.ask("POST", f"{BASE}/jobs", {**JOB, "run": "b"}, Authorization=bearer("t"), Idempotency_Key="k")
        assert (theirs.status, theirs.json["id"] == mine) == (201, False)
        named = api.ask("POST", f"{BASE}/jobs", {**JOB, "tenant": "text"}, Authorization=bearer("a"))
        assert (named.status, named.json["title"]) == (403, "wrong tenant")
        listed = api.ask("GET", f"{BASE}/jobs", Authorization=bearer("t")).json
        assert [one["id"] for one in listed] == [theirs.json["id"]]
        unknown = api.ask("GET", f"{BASE}/jobs/{mine[:-1]}x", Authorization=bearer("t"))
        for method, path in (
            *(("GET", part) for part in ("", "/explain", "/logs")),
            *(("POST", part) for part in ("/cancel", "/suspend", "/resume")),
        ):
            got = api.ask(method, f"{BASE}/jobs/{mine}{path}", Authorization=bearer("t"))
            assert (got.status, got.json["title"]) == (unknown.status, unknown.json["title"]) == (404, "no such job")
        assert api.store.get_job(mine).state is not JobState.CANCELLED  # type: ignore[union-attr]


def test_of_others_jobs_a_plan_tells_only_how_many_would_move(tmp_path: Path) -> None:
    with with_keys(tmp_path) as api:
        api.put("mine"), api.put("theirs", tenant="text")
        ways = [
            {"id": job_id, "name": "secret", "state": "queued", "from": [], "to": []} for job_id in ("mine", "theirs")
        ]
        api.control.plan = lambda job: {"reason": "r", "message": "m", "segments": [], "gives_way": ways}
        got = api.ask("POST", f"{BASE}/plan", JOB, Authorization=bearer("a"))
        assert ([one["id"] for one in got.json["gives_way"]], got.json["gives_way_others"]) == (["mine"], 1)
        assert "theirs" not in got.body.decode()


# -- lists -------------------------------------------------------------------------------------------------------------


def test_the_list_is_that_of_the_store_the_newest_first(api: Case) -> None:
    for number in range(5):
        api.put(f"j{number}", float(number))
    got = api.ask("GET", f"{BASE}/jobs")
    assert [JobLine(**one).id for one in got.json] == ["j4", "j3", "j2", "j1", "j0"]
    assert "link" not in got.headers
    api.put("j2", 2.0, state=JobState.FAILED)
    assert [one["id"] for one in api.ask("GET", f"{BASE}/jobs?state=failed&state=cancelled").json] == ["j2"]


def test_pages_go_on(api: Case) -> None:
    for number in range(5):
        api.put(f"j{number}", 7.0)  # in the same moment
    path, seen = f"{BASE}/jobs?limit=2&state=queued", []
    while path:
        got = api.ask("GET", path)
        seen.append([one["id"] for one in got.json])
        path = following(got)
    assert seen == [["j4", "j3"], ["j2", "j1"], ["j0"]]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    before=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    during=st.lists(st.tuples(st.integers(5, 9), st.booleans()), max_size=8),
    limit=st.integers(1, 5),
)
def test_whatever_comes_meanwhile_each_job_is_on_one_page(
    tmp_path_factory: pytest.TempPathFactory, before: list[int], during: list[tuple[int, bool]], limit: int
) -> None:
    with case(tmp_path_factory.mktemp("api")) as api:
        there = [api.put(f"b{number}", float(at)) for number, at in enumerate(before)]
        expected = [job.id for job in sorted(there, key=lambda job: (job.submitted_s, job.id), reverse=True)]
        path, seen, come = f"{BASE}/jobs?limit={limit}", [], list(enumerate(during))
        while path:
            got = api.ask("GET", path)
            assert len(got.json) <= limit
            seen += [one["id"] for one in got.json]
            path = following(got)
            for number, (at, ends) in come[:2]:
                api.put(f"d{number}", 10.0 + at)  # later than all that were there
                if ends:
                    job = there[number % len(there)]
                    api.store.save_jobs([replace(job, state=JobState.CANCELLED)])
            come = come[2:]
        assert [job_id for job_id in seen if job_id.startswith("b")] == expected
        assert len(seen) == len(set(seen))


CURSOR = cursor.write((1.0, "a"), "x")


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=50), st.text(max_size=50))
def test_a_cursor_says_what_was_written(at: float, job_id: str, of: str) -> None:
    assert cursor.read(cursor.write((at, job_id), of), of, (float, str)) == [at, job_id]


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Problem) as caught:
        cursor.read(text, "x", (float, str))
    assert (caught.value.status, len(caught.value.detail) < 300) == (400, True)


@pytest.mark.parametrize(
    "text",
    [
        cursor.write((1.0, "a"), "y"),
        cursor.write((1.0,), "x"),
        cursor.write(("a", 1.0), "x"),
        cursor.write((float("inf"), "a"), "x"),
        cursor.write((float("nan"), "a"), "x"),
        cursor.write((True, "a"), "x"),
        CURSOR + "\n",
        cursor.write((1.0, "a" * 2000), "x"),
    ],
)
def test_a_cursor_of_another_list_or_form_is_refused(text: str) -> None:
    assert cursor.read(CURSOR, "x", (float, str)) == [1.0, "a"]
    with pytest.raises(Problem, match="header Link"):
        cursor.read(text, "x", (float, str))


@pytest.mark.parametrize(
    "query",
    [
        "stat=queued", "state=qeued", "limit=0", "limit=501", "limit=1e3", "limit=1&limit=2", "limit=-1",
        "limit=%C2%B2",
        "cursor=x", "limit", "state=%ff", "&".join(["state=queued"] * 51), "state=" + "q" * 5000, "limit=" + "9" * 100,
    ],
)  # fmt: skip
def test_a_wrong_query_is_refused(api: Case, query: str) -> None:
    got = api.ask("GET", f"{BASE}/jobs?{query}")
    assert (got.status, len(got.body) < 1500) == (400, True), got.body


# -- steering ----------------------------------------------------------------------------------------------------------


def test_a_job_is_suspended_resumed_and_cancelled(api: Case) -> None:
    job_id = api.ask("POST", f"{BASE}/jobs", JOB).json["id"]
    api.ask("POST", f"{BASE}/jobs/{job_id}/suspend")
    got = api.ask("POST", f"{BASE}/jobs/{job_id}/resume", {"budget_g": 5, "budget_kwh": 2})
    assert (got.status, got.json) == (202, {"id": job_id, "message": "goes on as planned"})
    job = api.store.get_job(job_id)
    assert job is not None
    assert (job.spec.budget_g, job.spec.budget_j) == (5, 7.2e6)
    again = api.ask("POST", f"{BASE}/jobs/{job_id}/resume")
    assert (again.status, again.json["title"]) == (409, "not now")
    got = api.ask("POST", f"{BASE}/jobs/{job_id}/cancel", {})
    assert (got.status, got.json) == (202, {"id": job_id, "message": "is being cancelled"})


@pytest.mark.parametrize("verb", ["cancel", "suspend", "resume"])
def test_a_job_that_has_ended_is_not_steered(api: Case, verb: str) -> None:
    api.put("over", state=JobState.SUCCEEDED)
    got = api.ask("POST", f"{BASE}/jobs/over/{verb}")
    assert (got.status, got.json["title"]) == (409, "too late")
    assert "succeeded" in got.json["detail"]


@pytest.mark.parametrize(
    "body",
    [{"budget_g": 0}, {"budget_g": -1}, {"budget_kwh": True}, {"budget": 1}, {"budget_g": "5"}, b'{"budget_g": NaN}'],
)
def test_a_wrong_budget_is_refused(api: Case, body: Any) -> None:
    job_id = api.ask("POST", f"{BASE}/jobs", JOB).json["id"]
    api.ask("POST", f"{BASE}/jobs/{job_id}/suspend")
    assert api.ask("POST", f"{BASE}/jobs/{job_id}/resume", body).status == 400
    assert api.ask("POST", f"{BASE}/jobs/{job_id}/cancel", {"force": True}).status == 400


@pytest.mark.parametrize("job_id", ["a b", "x" * 101, "\xfc", "..", "a\n", "a\0", "-a"])
def test_an_id_that_no_job_has_is_not_looked_for(api: Case, job_id: str) -> None:
    api.control.job = lambda job_id: pytest.fail("looked for")  # type: ignore[method-assign]
    got = api.ask("GET", f"{BASE}/jobs/{job_id}")
    assert got.status in (400, 404)
    assert len(got.body) < 800


def test_paths_and_methods(api: Case) -> None:
    got = api.ask("DELETE", f"{BASE}/jobs")
    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    got = api.ask("OPTIONS", f"{BASE}/plan")
    assert (got.status, got.headers["allow"]) == (204, "OPTIONS, POST")
    assert api.ask("GET", f"{BASE}/jobs/").status == api.ask("GET", "/api/v2/jobs").status == 404
    assert (api.ask("HEAD", f"{BASE}/jobs").status, api.ask("HEAD", f"{BASE}/jobs").body) == (200, b"")


def test_what_a_program_told_is_json_whatever_it_is(api: Case) -> None:
    api.put(
        "odd", metrics={"loss": float("nan"), "all": [1.0, float("inf")]}, attempts=(attempt(1, AttemptState.FAILED),)
    )
    got = api.ask("GET", f"{BASE}/jobs/odd")
    assert json.loads(got.body, parse_constant=pytest.fail)["metrics"] == {"loss": None, "all": [1.0, None]}


def test_only_so_many_calls_at_once(tmp_path: Path) -> None:
    import asyncio
    import threading

    from control_cases import ask_async

    go = threading.Event()
    with case(tmp_path) as api:
        api.control.nodes = lambda: (go.wait(5), [])[1]  # type: ignore[method-assign]

        async def many() -> list[int]:
            asked = [
                asyncio.create_task(ask_async(api.app, "GET", f"{BASE}/nodes", Eco_Tenant="ab"[number % 5 == 4]))
                for number in range(6)
            ]
            await asyncio.sleep(0.05)
            go.set()
            return [(await one).status for one in asked]

        assert sorted(asyncio.run(many())) == [200] * 5 + [503]
        assert ask(api.app, "GET", f"{BASE}/nodes", Eco_Tenant="a").status == 200
