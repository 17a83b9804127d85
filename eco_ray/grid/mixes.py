"""The public figures behind the modelled profile, in one place: life-cycle factors, annual mixes, wind climates.

Life-cycle factors [gCO2e/kWh], medians:
  IPCC AR5 WGIII (2014), Annex III, table A.III.2; oil, which that table leaves out: IPCC SRREN (2011), Annex II,
  table A.II.4.

Direct factors [gCO2e/kWh], what leaves the stack of the plant: the same table A.III.2, column of direct emissions (coal
  pulverised, gas combined cycle; sources that burn nothing fossil have none); oil: 77.4 kgCO2/GJ of residual fuel oil,
  IPCC 2006 Guidelines, volume 2, table 2.2, at an efficiency of 37 %: 77.4 x 3.6 / 0.37.

Annual mixes: share of each source in the generation of calendar year 2023 [%], our own rounding to about one point of
what the public yearbooks print; "other" and waste are counted with bioenergy or gas. Shares need not sum to 100: they
are scaled. They describe what is GENERATED in a zone; imports are left out.
  countries: Ember Yearly Electricity Data and European Electricity Review 2024; IEA Electricity 2024
  US-CAL-CISO: California Energy Commission, Total System Electric Generation 2023 (in-state), small solar left out
  US-TEX-ERCOT (zone key US-TEX-ERCO): ERCOT Fuel Mix Report 2023
  US-MIDA-PJM: Monitoring Analytics, State of the Market Report for PJM 2023
  CA-ON: IESO, 2023 Year in Review (transmission connected) and the distribution-connected solar beside it
  AU-SA: AEMO, South Australian Electricity Report 2023, rooftop solar included
  AU-NSW, AU-VIC, AU-TAS: OpenElectricity (AEMO's market data), calendar year 2023, rooftop solar included
  BR-CS: ONS, subsystem Southeast/Centre-West and South, 2023; CA-QC: Hydro-Québec, Annual Report 2023, with purchases
  DK-DK1: Energinet, 2023; IT-NO: Terna, Dati statistici 2023, north; NO-NO1: NVE and Statnett, 2023
  SE-SE1, SE-SE3: Svenska kraftnät and SCB, 2023; SG: EMA, Singapore Energy Statistics 2024; TW: Taiwan Energy
    Administration, 2023; IN-WE: CEA, generation by region, fiscal year 2023-24
  US-NY-NYIS: NYISO, Power Trends 2024; US-MIDW-MISO: MISO fuel mix 2023; US-NW-PACW: EIA Hourly Grid Monitor 2023
  Parts of countries (BR-CS, DK-DK1, IN-WE, IT-NO, NO-NO1, SE-SE1, SE-SE3, US-NW-PACW) are less sure: to some points.
  JP-TK: METI and ISEP statistics for the Tokyo area, fiscal year 2023 (area shares are less sure than the others)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: bump when a figure or the physics changes: it is part of the source text of every series
VERSION = "2 (mixes of 2023)"

FACTORS_G_PER_KWH: Mapping[str, float] = MappingProxyType(
    {
        "solar": 48.0,  # utility-scale PV
        "wind": 11.0,  # onshore; offshore is 12
        "nuclear": 12.0,
        "hydro": 24.0,
        "bio": 230.0,  # dedicated biomass
        "geothermal": 38.0,
        "gas": 490.0,  # combined cycle
        "oil": 840.0,
        "coal": 820.0,  # pulverised; lignite is counted as coal
    }
)
DIRECT_G_PER_KWH: Mapping[str, float] = MappingProxyType(
    {**dict.fromkeys(FACTORS_G_PER_KWH, 0.0), "gas": 370.0, "oil": 753.0, "coal": 760.0}
)
#: what follows the residual demand
FOSSIL = ("gas", "oil", "coal")


@dataclass(frozen=True, slots=True)
class Wind:
    """Mean yearly and daily course of wind generation, relative to its annual mean."""

    #: amplitude of the yearly course (0..1) and the day of the year of its crest
    season: float
    crest_day: float
    #: amplitude of the daily course (0..1) and the local solar hour of its crest
    day: float
    crest_h: float


# Mean courses in the order of magnitude of the monthly and hourly capacity factors that the operators above publish.
_ATLANTIC = Wind(season=0.35, crest_day=15, day=0.04, crest_h=14)
_MEDITERRANEAN = Wind(season=0.25, crest_day=30, day=0.10, crest_h=17)
_PLAINS = Wind(season=0.15, crest_day=100, day=0.20, crest_h=0)  # nocturnal low-level jet
_PACIFIC = Wind(season=0.35, crest_day=160, day=0.30, crest_h=20)  # sea breeze through the mountain passes
_CONTINENTAL = Wind(season=0.35, crest_day=15, day=0.08, crest_h=0)
_SOUTHERN = Wind(season=0.10, crest_day=225, day=0.15, crest_h=22)
_MONSOON = Wind(season=0.60, crest_day=195, day=0.10, crest_h=18)
_WINTER_MONSOON = Wind(season=0.60, crest_day=350, day=0.10, crest_h=14)


@dataclass(frozen=True, slots=True)
class Zone:
    """One electricity grid zone of the model."""

    #: where its solar plants and people are, on average [degrees north, degrees east]
    latitude_deg: float
    longitude_deg: float
    #: annual generation by source [%]; scaled to sum 1
    mix: Mapping[str, float]
    wind: Wind
    #: demand in midwinter and in midsummer above (below) that of spring, from heating and cooling
    winter: float
    summer: float
    #: demand on Sundays relative to working days; Saturdays lie half-way
    sunday: float = 0.85

    @property
    def shares(self) -> dict[str, float]:
        """Annual share of every source of FACTORS_G_PER_KWH, sum 1."""
        total = sum(self.mix.values())
        return {source: self.mix.get(source, 0.0) / total for source in FACTORS_G_PER_KWH}

    @property
    def mean_g_per_kwh(self) -> float:
        """Annual mean life-cycle intensity: sum of share x factor."""
        return sum(share * FACTORS_G_PER_KWH[source] for source, share in self.shares.items())


def _mix(
    solar: float,
    wind: float,
    nuclear: float,
    hydro: float,
    bio: float,
    gas: float,
    oil: float,
    coal: float,
    geothermal: float = 0.0,
) -> Mapping[str, float]:
    return MappingProxyType(
        {
            "solar": solar,
            "wind": wind,
            "nuclear": nuclear,
            "hydro": hydro,
            "bio": bio,
            "gas": gas,
            "oil": oil,
            "coal": coal,
            "geothermal": geothermal,
        }
    )


ZONES: Mapping[str, Zone] = MappingProxyType(
    {
        #                          solar wind nuc  hydro bio  gas  oil coal
        "AU-NSW": Zone(-33.4, 150.5, _mix(21, 9, 0, 4, 0.5, 2, 0, 63), _SOUTHERN, 0.08, 0.05, 0.93),
        "AU-SA": Zone(-34.5, 138.6, _mix(26, 45, 0, 0, 0, 28, 0.5, 0), _SOUTHERN, 0.05, 0.10, 0.93),
        "AU-TAS": Zone(-42.0, 147.0, _mix(2.5, 17, 0, 80, 0, 0.5, 0, 0), _SOUTHERN, 0.12, -0.05, 0.95),
        "AU-VIC": Zone(-37.6, 145.0, _mix(13, 21, 0, 4, 0.5, 2, 0, 60), _SOUTHERN, 0.08, 0.03, 0.93),
        "BR-CS": Zone(-21.0, -47.5, _mix(9, 1, 3, 72, 9, 3.5, 0.5, 2), _SOUTHERN, -0.03, 0.08, 0.83),
        "CA-ON": Zone(43.7, -79.6, _mix(2, 8.5, 52, 25, 0.5, 12, 0, 0), _CONTINENTAL, 0.08, 0.08, 0.92),
        "CA-QC": Zone(46.5, -72.5, _mix(0, 6, 0, 93, 0.7, 0.1, 0.2, 0), _CONTINENTAL, 0.35, -0.08, 0.95),
        "DE": Zone(51.0, 10.0, _mix(12, 27, 1.5, 4, 9, 16, 4, 26), _ATLANTIC, 0.10, -0.06, 0.80),
        "DK-DK1": Zone(56.0, 9.3, _mix(11, 60, 0, 0, 16, 3, 1, 9), _ATLANTIC, 0.10, -0.06),
        "ES": Zone(39.5, -3.7, _mix(17, 23, 20, 9, 2, 23, 4, 1.5), _MEDITERRANEAN, 0.06, 0.06),
        "FI": Zone(62.0, 25.5, _mix(1, 18, 42, 19, 14, 1.5, 1, 4), _ATLANTIC, 0.20, -0.12, 0.92),
        "FR": Zone(46.6, 2.4, _mix(4.5, 9.5, 65, 11, 2, 6, 0.7, 0.5), _ATLANTIC, 0.25, -0.10),
        "GB": Zone(52.5, -1.5, _mix(5, 29, 14, 2, 12, 34, 2, 1.5), _ATLANTIC, 0.13, -0.08),
        "IE": Zone(53.2, -7.5, _mix(2, 36, 0, 2.5, 3.5, 49, 3, 4), _ATLANTIC, 0.10, -0.05, 0.88),
        "IN": Zone(22.0, 78.0, _mix(6, 4, 2.5, 8, 2, 2.5, 0, 75), _MONSOON, -0.05, 0.06, 0.95),
        "IN-WE": Zone(21.5, 75.0, _mix(6, 6, 2.5, 3, 0.5, 2, 0, 80), _MONSOON, 0.0, 0.04, 0.95),
        "IT": Zone(43.0, 12.0, _mix(12, 9, 0, 15, 6, 46, 3, 5, geothermal=2), _MEDITERRANEAN, 0.03, 0.08, 0.78),
        "IT-NO": Zone(45.3, 9.8, _mix(10, 0.2, 0, 24, 8, 54, 1, 2.5), _MEDITERRANEAN, 0.03, 0.08, 0.75),
        "JP-TK": Zone(36.0, 139.7, _mix(9, 1, 0, 5, 4, 55, 4, 22), _CONTINENTAL, 0.12, 0.15),
        "KR": Zone(36.5, 127.8, _mix(5, 0.5, 30, 1, 2, 28, 1, 32), _CONTINENTAL, 0.10, 0.10),
        "NL": Zone(52.1, 5.3, _mix(17, 24, 3.5, 0, 6, 38, 3, 8), _ATLANTIC, 0.08, -0.05),
        "NO": Zone(61.0, 9.0, _mix(0.2, 9, 0, 89, 0.2, 1, 0.2, 0), _ATLANTIC, 0.25, -0.18, 0.94),
        "NO-NO1": Zone(60.5, 10.5, _mix(0.3, 7, 0, 92, 0.5, 0, 0.2, 0), _ATLANTIC, 0.28, -0.18, 0.94),
        "PL": Zone(52.0, 19.5, _mix(7, 14, 0, 2, 5, 9, 2, 61), _ATLANTIC, 0.08, -0.03, 0.80),
        "SE": Zone(60.0, 16.0, _mix(2, 21, 29, 40, 6.5, 0.2, 0.8, 0.2), _ATLANTIC, 0.22, -0.15, 0.90),
        "SE-SE1": Zone(66.0, 21.0, _mix(0.1, 21, 0, 78, 0.8, 0, 0.1, 0), _ATLANTIC, 0.12, -0.08, 0.96),
        "SE-SE3": Zone(59.3, 16.0, _mix(2, 14, 60, 14, 9, 0.2, 0.6, 0.2), _ATLANTIC, 0.22, -0.15, 0.90),
        "SG": Zone(1.35, 103.8, _mix(2, 0, 0, 0, 2.5, 94.5, 0.2, 1), _MONSOON, 0.0, 0.02, 0.90),
        "TW": Zone(23.8, 120.8, _mix(4.5, 2, 6.5, 1.5, 1.5, 40, 1.5, 42), _WINTER_MONSOON, -0.08, 0.15, 0.88),
        "US-CAL-CISO": Zone(
            36.0, -119.5, _mix(19, 6.5, 8, 14, 2.5, 44, 0.1, 0.3, geothermal=5), _PACIFIC, 0.0, 0.20, 0.93
        ),
        "US-MIDA-PJM": Zone(40.0, -79.0, _mix(1.5, 3.5, 33, 2, 1, 44, 0.3, 14), _CONTINENTAL, 0.10, 0.15, 0.92),
        "US-MIDW-MISO": Zone(41.0, -90.0, _mix(1.5, 15, 14.5, 1.5, 0.5, 39, 0.3, 28), _PLAINS, 0.06, 0.15, 0.93),
        "US-NW-PACW": Zone(44.0, -121.5, _mix(6, 18, 0, 26, 2, 48, 0, 0), _PACIFIC, 0.10, 0.05, 0.94),
        "US-NY-NYIS": Zone(41.8, -74.5, _mix(3, 4, 21, 22, 2, 47, 0.5, 0), _CONTINENTAL, 0.05, 0.18, 0.92),
        "US-TEX-ERCO": Zone(31.5, -98.5, _mix(7.5, 24, 9, 0.2, 0.2, 45, 0, 14), _PLAINS, 0.04, 0.28, 0.95),
        "ZA": Zone(-28.0, 27.5, _mix(6, 5, 4, 1.5, 0.2, 0, 1.5, 82), _SOUTHERN, 0.08, -0.03, 0.90),
    }
)
