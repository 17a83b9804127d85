"""ENTSO-E's client against a server that answers as ../shared/contracts/entsoe.json says."""

import logging
import time
import tracemalloc

import pytest
from grid_server import GridServer, as_xml

from eco_ray.core.intensity import SignalKind
from eco_ray.errors import NotFoundError, UsageError
from eco_ray.grid.entsoe import EIC, Entsoe, open_source
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.keys import Secret
from eco_ray.grid.live import utc
from eco_ray.grid.sources import SourceOptions

HOUR = 3600.0
START = 1_790_834_400.0  # 2026-10-01T06:00Z
FR = EIC["FR"]
KEY = "0a1b2c3d-1111-2222-3333-444455556666"


def iso(at):
    return utc(at, "%Y-%m-%dT%H:%MZ")


def period(start, step, count, values):
    """`values`: position -> MW."""
    points = "".join(f"<Point><position>{p}</position><quantity>{v}</quantity></Point>" for p, v in values.items())
    end = start + count * {"PT15M": 900, "PT30M": 1800, "PT60M": 3600}.get(step, 3600)
    return (
        f"<Period><timeInterval><start>{iso(start)}</start><end>{iso(end)}</end></timeInterval>"
        f"<resolution>{step}</resolution>{points}</Period>"
    )


def series(psr, *periods, code=FR, direction="in", curve="A03", unit="MAW"):
    return (
        f'<TimeSeries><mRID>1</mRID><{direction}BiddingZone_Domain.mRID codingScheme="A01">{code}'
        f"</{direction}BiddingZone_Domain.mRID><quantity_Measure_Unit.name>{unit}</quantity_Measure_Unit.name>"
        f"<curveType>{curve}</curveType><MktPSRType><psrType>{psr}</psrType></MktPSRType>{''.join(periods)}</TimeSeries>"
    )


def document(*timeseries, kind="A75", root="GL_MarketDocument", before=""):
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{before}'
        f'<{root} xmlns="urn:iec62325.351:tc57wg16:451-6:generationloaddocument:3:0"><type>{kind}</type>'
        f"<process.processType>A16</process.processType>{''.join(timeseries)}</{root}>"
    )


def acknowledgement(code="999", text="No matching data found for Data item AGGREGATED_GENERATION_PER_TYPE_R3"):
    return (
        '<?xml version="1.0" encoding="UTF-8"?><Acknowledgement_MarketDocument '
        'xmlns="urn:iec62325.351:tc57wg16:451-1:acknowledgementdocument:7:0"><mRID>1</mRID>'
        f"<Reason><code>{code}</code><text>{text}</text></Reason></Acknowledgement_MarketDocument>"
    )


NUCLEAR = series("B14", period(START, "PT60M", 3, {1: 41000, 3: 40500}))
GAS = series("B04", period(START, "PT60M", 3, {1: 1200, 2: 1500, 3: 1800}))
HOURS = [((41000, 1200), (41000, 1500), (40500, 1800))]


def mixed(nuclear, gas, factors=(12.0, 490.0)):
    return (nuclear * factors[0] + gas * factors[1]) / (nuclear + gas)


@pytest.fixture
def server():
    with GridServer() as server:
        server.on("/api", as_xml(document(NUCLEAR, GAS)))
        yield server


def entsoe(server, key=KEY, **options):
    found = Secret(key, "test") if key else None
    return Entsoe(SourceOptions(url=server.url, key=lambda _: found, **options))


def ask(server, hours=3, **options):
    return entsoe(server, **options).actual("FR", START, START + hours * HOUR)


def test_omitted_positions_repeat_the_one_before(server):
    found = ask(server)
    assert found.values_g_per_kwh.tolist() == pytest.approx([mixed(*pair) for pair in HOURS[0]])
    assert (found.start_s, found.step_s, found.end_s) == (START, HOUR, START + 3 * HOUR)
    assert found.kind is SignalKind.AVERAGE_LIFECYCLE
    assert "IPCC life-cycle factors, without imports" in found.source


def test_the_question_begins_a_day_earlier_and_carries_the_key_nowhere_else(server):
    ask(server)
    asked = server.requests[0]
    assert asked.query == {
        "securityToken": KEY,
        "documentType": "A75",
        "processType": "A16",
        "in_Domain": FR,
        "periodStart": "202609300600",
        "periodEnd": "202610010900",
    }
    assert KEY not in str(asked.headers)


def test_direct_factors(server):
    found = ask(server, kind=SignalKind.AVERAGE_DIRECT)
    assert found.values_g_per_kwh[0] == pytest.approx(mixed(41000, 1200, (0.0, 370.0)))
    assert found.kind is SignalKind.AVERAGE_DIRECT
    assert "direct" in found.source


@pytest.mark.parametrize(
    ("psr", "lifecycle", "direct"),
    [
        ("B01", 230, 0),
        ("B02", 820, 760),
        ("B03", 820, 760),
        ("B04", 490, 370),
        ("B05", 820, 760),
        ("B06", 840, 753),
        ("B09", 38, 0),
        ("B11", 24, 0),
        ("B12", 24, 0),
        ("B14", 12, 0),
        ("B16", 48, 0),
        ("B17", 230, 0),
        ("B18", 11, 0),
        ("B19", 11, 0),
        ("B20", 490, 370),
    ],
)
def test_each_type_has_its_factor(server, psr, lifecycle, direct):
    server.on("/api", as_xml(document(series(psr, period(START, "PT60M", 3, {1: 70})))))
    assert ask(server).values_g_per_kwh.tolist() == pytest.approx([lifecycle] * 3)
    assert ask(server, kind=SignalKind.AVERAGE_DIRECT).values_g_per_kwh.tolist() == pytest.approx([direct] * 3)


def test_pumps_and_storage_are_not_generation(server):
    pumped = series("B10", period(START, "PT60M", 3, {1: 9000}))
    pumping = series("B10", period(START, "PT60M", 3, {1: 9000}), direction="out")
    server.on("/api", as_xml(document(NUCLEAR, pumped, GAS, pumping)))
    assert ask(server).values_g_per_kwh[0] == pytest.approx(mixed(41000, 1200))


def test_types_with_steps_of_their_own_meet_on_the_longest(server):
    quarters = series("B04", period(START, "PT15M", 4, {1: 1000, 2: 1400}), period(START + HOUR, "PT15M", 8, {1: 700}))
    server.on("/api", as_xml(document(NUCLEAR, quarters)))
    found = ask(server)
    assert found.step_s == HOUR
    assert found.values_g_per_kwh.tolist() == pytest.approx([mixed(41000, 1300), mixed(41000, 700), mixed(40500, 700)])


def test_quarter_hours_stay_quarter_hours(server):
    both = [series(psr, period(START, "PT15M", 8, {1: mw, 5: 2 * mw})) for psr, mw in (("B14", 4000), ("B04", 100))]
    server.on("/api", as_xml(document(*both)))
    found = ask(server, hours=1)
    assert found.step_s == 900
    assert len(found.values_g_per_kwh) == 4


def test_steps_for_which_a_usual_type_is_not_reported_yet_are_left_out(server):
    late = series("B04", period(START, "PT60M", 2, {1: 1200}))
    server.on("/api", as_xml(document(NUCLEAR, late)))
    assert ask(server).end_s == START + 2 * HOUR
    # reported within the day before, and not at all since
    yesterday = series("B04", period(START - 20 * HOUR, "PT60M", 19, {1: 1200}))
    server.on("/api", as_xml(document(NUCLEAR, yesterday)))
    with pytest.raises(SourceError, match="no step for which all types are reported yet") as error:
        ask(server)
    assert error.value.fault is Fault.NO_DATA
    # a type that gave nothing is not missed
    off = series("B06", period(START - 20 * HOUR, "PT60M", 19, {1: 0}))
    server.on("/api", as_xml(document(NUCLEAR, GAS, off)))
    assert ask(server).end_s == START + 3 * HOUR


def test_half_a_step_is_not_a_step(server):
    part = series("B04", period(START, "PT15M", 6, {1: 1200}))
    server.on("/api", as_xml(document(NUCLEAR, part)))
    assert ask(server).end_s == START + HOUR


def test_a_curve_of_fixed_blocks_repeats_nothing(server):
    blocks = series("B04", period(START, "PT60M", 3, {1: 1200, 3: 1800}), curve="A01")
    server.on("/api", as_xml(document(NUCLEAR, blocks)))
    found = ask(server)
    assert (found.start_s, found.end_s) == (START + 2 * HOUR, START + 3 * HOUR)


def test_a_long_span_is_asked_in_pieces_and_pieces_without_data_are_left_out(server):
    server.on("/api", as_xml(acknowledgement()), as_xml(acknowledgement()), as_xml(document(NUCLEAR, GAS)))
    found = entsoe(server).actual("FR", START - 29 * 24 * HOUR, START + 3 * HOUR)
    assert len(server.requests) == 3
    assert found.start_s == START


@pytest.mark.parametrize("status", [200, 400])
def test_no_data_is_an_acknowledgement(server, status):
    server.on("/api", as_xml(acknowledgement(), status))
    with pytest.raises(SourceError, match="reason 999: no matching data" if status == 200 else "HTTP 400") as error:
        ask(server)
    assert error.value.fault is Fault.NO_DATA


@pytest.mark.parametrize(
    ("status", "fault"),
    [(401, Fault.REFUSED), (429, Fault.RATE_LIMITED), (503, Fault.UNREACHABLE)],
)
def test_errors_of_the_service(server, status, fault):
    server.on("/api", as_xml(f"<html>securityToken={KEY}</html>", status))
    with pytest.raises(SourceError) as error:
        ask(server)
    assert error.value.fault is fault
    assert KEY not in str(error.value)


ECHO = KEY.encode().hex().upper()
BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
MANY = series("B04", period(START, "PT60M", 3, {1: 1200, 4: 1}))
BAD = {
    "empty": "",
    "html": "<html><body>maintenance",
    "another document": document(NUCLEAR, root="Publication_MarketDocument"),
    "another type": document(NUCLEAR, kind="A73"),
    "a document type": document(NUCLEAR, before=BOMB),
    "a small document type": document(NUCLEAR, before=BOMB.lower()),
    "another zone": document(series("B14", period(START, "PT60M", 3, {1: 1}), code=EIC["ES"])),
    "another unit": document(series("B14", period(START, "PT60M", 3, {1: 1}), unit="KWT")),
    "no unit": document(NUCLEAR.replace("quantity_Measure_Unit.name", "other")),
    "another curve": document(series("B14", period(START, "PT60M", 3, {1: 1}), curve="A04")),
    "no type of plant": document(series("", period(START, "PT60M", 3, {1: 1}))),
    "an unknown type of plant": document(NUCLEAR, series("B99", period(START, "PT60M", 3, {1: 1}))),
    "a day at once": document(series("B14", period(START, "P1D", 1, {1: 1}))),
    "a position too far": document(MANY),
    "position 0": document(series("B14", period(START, "PT60M", 3, {0: 1}))),
    "a position that is text": document(series("B14", period(START, "PT60M", 3, {"one": 1}))),
    "negative": document(series("B14", period(START, "PT60M", 3, {1: -5}))),
    "not a number": document(series("B14", period(START, "PT60M", 3, {1: "NaN"}))),
    "infinite": document(series("B14", period(START, "PT60M", 3, {1: "1e999"}))),
    "no quantity": document(series("B14", period(START, "PT60M", 3, {1: ""}))),
    "the same time twice": document(NUCLEAR, NUCLEAR),
    "the same position twice": document(
        NUCLEAR.replace("<position>3</position>", "<position>1</position>"),
    ),
    "backwards": document(series("B14", period(START, "PT60M", -3, {1: 1}))),
    "no time": document(NUCLEAR.replace(iso(START), "soon")),
    "off its steps": document(series("B14", period(START + 60, "PT60M", 3, {1: 1}))),
    "a thousand years": document(NUCLEAR.replace(iso(START + 3 * HOUR), "2400-10-01T09:00Z")),
    "another reason": acknowledgement("A01", f"token {KEY}"),
    "a plant of 501 GW": document(series("B14", period(START, "PT60M", 3, {1: 501_000}))),
    "a zone of more than 1 TW": document(
        *(series(psr, period(START, "PT60M", 3, {1: 400_000})) for psr in ("B04", "B14", "B16"))
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_answer_is_an_error_and_never_a_number(server, case):
    server.on("/api", as_xml(BAD[case]))
    with pytest.raises(SourceError) as error:
        ask(server)
    assert error.value.fault is Fault.MALFORMED, error.value
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "echo",
    [
        document(NUCLEAR.replace("B14", ECHO)),
        document(NUCLEAR.replace("PT60M", ECHO)),
        document(NUCLEAR.replace("A03", ECHO)),
        document(NUCLEAR.replace("MAW", ECHO)),
        document(NUCLEAR.replace(FR, ECHO)),
        document(NUCLEAR.replace("41000", ECHO)),
        document(NUCLEAR.replace(iso(START), ECHO)),
        document(NUCLEAR, root=f"K{ECHO}"),
        document(NUCLEAR, kind=ECHO),
        document(f"&K{ECHO};"),
        document(f"<K{ECHO}>"),
        ECHO,
        acknowledgement("999", ECHO),
        acknowledgement(ECHO, ECHO),
    ],
)
def test_no_text_of_the_answer_is_quoted(server, echo):
    server.on("/api", as_xml(echo))
    with pytest.raises(SourceError) as error:
        ask(server)
    assert ECHO[:8] not in str(error.value)


LONG = (
    "<Period><timeInterval><start>2024-01-01T00:00Z</start><end>2027-01-01T00:00Z</end></timeInterval>"
    "<resolution>PT15M</resolution></Period>"
)


def test_long_periods_do_not_fill_the_memory(server):
    few = document(series("B14", LONG * 20))
    code_of = "the generation is said for more than 110000 steps"
    server.on("/api", as_xml(few))
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=code_of) as error:
            ask(server)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.value.fault is Fault.MALFORMED
    assert most < 8_000_000


def test_periods_of_another_time_are_ignored(server):
    past = LONG.replace("2024", "2020").replace("2027", "2023")
    server.on("/api", as_xml(document(series("B14", past * 50), NUCLEAR, GAS)))
    assert ask(server).values_g_per_kwh[0] == pytest.approx(mixed(41000, 1200))


@pytest.mark.parametrize("part", ["<a/>", "<Period/>", "<TimeSeries/>", "<Point/>", LONG])
def test_the_largest_answer_is_refused_in_a_moment(server, part):
    inside = f"<TimeSeries>{part * (3_900_000 // len(part))}</TimeSeries>"
    server.on("/api", as_xml(document(inside if part.startswith("<P") else part * (3_900_000 // len(part)))))
    begin = time.thread_time()  # other processes may have the machine
    with pytest.raises(SourceError):
        ask(server)
    assert time.thread_time() - begin < 3


@pytest.mark.parametrize(
    "body",
    [
        document(),
        document(series("B10", period(START, "PT60M", 3, {1: 9}), direction="out")),
        document(series("B14", period(START, "PT60M", 3, {1: 0}))),
        document(series("B14", period(START - 99 * HOUR, "PT60M", 3, {1: 9}))),
        document(series("B14", period(START, "PT60M", 3, {}))),
    ],
    ids=["no series", "only pumps", "nothing generated", "another time", "no points"],
)
def test_an_answer_without_generation_is_no_data(server, body):
    server.on("/api", as_xml(body))
    with pytest.raises(SourceError) as error:
        ask(server)
    assert error.value.fault is Fault.NO_DATA, error.value


def test_deep_xml_ends_in_an_error(server):
    server.on("/api", as_xml("<a>" * 100_000))
    with pytest.raises(SourceError) as error:
        ask(server)
    assert error.value.fault is Fault.MALFORMED


def test_without_a_key_it_opens_and_says_what_is_missing_when_asked(server):
    source = entsoe(server, key=None)
    assert "DE" in source.zones()
    with pytest.raises(
        SourceError, match=r"no key; set ECO_RAY_KEY_ENTSOE or ECO_RAY_KEY_ENTSOE_FILE to one from https://"
    ) as error:
        source.actual("FR", START, START + HOUR)
    assert error.value.fault is Fault.NO_KEY
    assert not server.requests


def test_a_key_that_comes_later_is_found(server):
    keys = [None, Secret(KEY, "test")]
    source = Entsoe(SourceOptions(url=server.url, key=lambda _: keys.pop(0)))
    with pytest.raises(SourceError):
        source.actual("FR", START, START + HOUR)
    assert source.actual("FR", START, START + HOUR).mean(START, START + HOUR) > 0


def test_the_key_is_in_no_log(server, caplog):
    with caplog.at_level(logging.DEBUG):
        ask(server)
    assert "HTTP Request: GET" in caplog.text
    assert KEY not in caplog.text


def test_there_is_no_forecast(server):
    with pytest.raises(SourceError, match="a forecast is made from its history instead") as error:
        entsoe(server).forecast("FR", START, START + HOUR)
    assert error.value.fault is Fault.NO_DATA
    assert not server.requests


def test_zones_and_options(server):
    own = entsoe(server, zones={"home": EIC["FR"], "DE": "DE-LU"})
    assert own.actual("home", START, START + HOUR).zone == "home"
    with pytest.raises(SourceError, match="inBiddingZone"):
        own.actual("DE", START, START + HOUR)  # the server always answers for France
    assert server.requests[-1].query["in_Domain"] == EIC["DE-LU"]
    assert own.actual(FR, START, START + HOUR).zone == FR
    with pytest.raises(NotFoundError, match="no zone 'FX' in entsoe; nearest name: F"):
        own.actual("FX", START, START + HOUR)
    with pytest.raises(UsageError, match="zone X is 'Paris', which is no EIC code"):
        entsoe(server, zones={"X": "Paris"})
    with pytest.raises(UsageError, match="unencrypted"):
        open_source(SourceOptions(url="http://grid.example"))
    with pytest.raises(UsageError, match="cannot be marginal; it is average-lifecycle or average-direct"):
        open_source(SourceOptions(kind=SignalKind.MARGINAL))


def test_the_table_of_zones_has_no_slip_of_the_pen():
    """The last character of an EIC code checks the others (EIC reference manual: weights 16 to 2, modulo 37)."""
    signs = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"
    for zone, code in EIC.items():
        total = sum(signs.index(sign) * (16 - i) for i, sign in enumerate(code[:15]))
        assert code[15] == signs[36 - (total - 1) % 37], zone
    assert len(set(EIC.values())) == len(EIC)
