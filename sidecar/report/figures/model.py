"""The report as one JSON document: what pages, files and other programs read.

Amounts are under the names of records and of `Measures`, with their units; null is not known.
Sources are told once, in `factors`, and elsewhere by their number. Tables of projects by day and by
hour are in cells (`sidecar.report.figures.cells`), which sum to the total. The document is bounded
whatever the report is of: of each table it has the first rows, and tells how many it leaves out; the
CSV and Parquet files beside it have all.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sidecar.catalogue.names import region_key
from sidecar.catalogue.rows import Equivalent, Region
from sidecar.estimate import embodied
from sidecar.report.balance import balance_mapping
from sidecar.report.figures.budget import Budget, budget_row
from sidecar.report.figures.cells import cells
from sidecar.report.figures.citations import Citations
from sidecar.report.figures.coverage import (
    LEVELS,
    QUALITIES,
    coverage,
    energy_by,
    freshness,
    mix,
    pue_share,
)
from sidecar.report.figures.daily import AsOf, Daily
from sidecar.report.figures.equivalents import equivalent_amounts, equivalents
from sidecar.report.figures.geographies import geography_of
from sidecar.report.figures.hours import best_hours, what_if_hours
from sidecar.report.figures.idle import reserved_idle
from sidecar.report.figures.inputs import FactorUse, ReportInputs, RunFacts
from sidecar.report.figures.months import month_on_month, monthly
from sidecar.report.figures.numbers import quotient
from sidecar.report.figures.reconcile import reconciliation
from sidecar.report.figures.sci import sci
from sidecar.report.figures.table_columns import name_of, slug_of_project, slug_of_run
from sidecar.report.figures.what_if_regions import Candidates, best_regions, what_if_regions
from sidecar.report.measures import CELL_COLUMNS, PARTS_OF_RATES, Dimension, Measures, Row
from sidecar.version import VERSION

SCHEMA: Final = 2

ROWS_MAX: Final = 1000
"""Rows of each table in the document, those with most emissions, and of projects also as many that have
a budget; the files hold all. Of days there are all, of hours of the week as well."""

BUDGETS_NAMED: Final = 100
"""Projects that are named because they have a budget and no records."""

REGIONS_MAX: Final = 5000
"""Regions that are compared; Azure has about a hundred, but records may name any."""

REGIONS_OF_PROJECT_MAX: Final = 100

HOUR_CELLS_MAX: Final = 8_400
"""Rows of projects by hour of the week: fifty projects."""

_OF_SOURCES: Final = (
    "carbon_intensity_source", "carbon_intensity_year", "pue_source", "cpu_power_source",
)  # fmt: skip
"""Fields of `RunFacts` that are told as numbers of `factors`."""

_MEASURES: Final = tuple(item.name for item in fields(Measures) if item.name not in PARTS_OF_RATES)


def report_model(inputs: ReportInputs) -> dict[str, Any]:
    """Return the document, in a stable order. Raises ValueError where `now` has no time zone."""
    if inputs.now.tzinfo is None:
        raise ValueError(f"now ({inputs.now}) has no time zone; give a moment in UTC")
    return _Builder(inputs).document()


@dataclass(frozen=True, slots=True)
class _Lookups:
    """What is looked up for each project; regions and days by its place among those shown."""

    projects: Sequence[Row]
    regions: Mapping[int, list[Row]]
    days: Mapping[int, list[Row]]
    days_of_all: Daily
    factors: Mapping[str, list[FactorUse]]
    equivalents: Mapping[str, Equivalent]
    candidates: Candidates
    as_of: AsOf


class _Builder:
    """Builds one document; the parts share the citations and what is looked up often."""

    def __init__(self, inputs: ReportInputs) -> None:
        self._inputs = inputs
        self._tables = inputs.tables
        self._citations = Citations()
        self._regions = tuple(inputs.catalogue.regions())
        self._by_key = {region_key(region.name): region for region in self._regions}
        self._equivalents = tuple(inputs.catalogue.equivalents())
        as_of = _as_of(inputs)
        self._moment = as_of.moment
        self._days = self._tables.first("days")
        last = Daily.of(self._days).last_with_records
        projects = self._projects_shown()
        names = [row.keys.get("project") for row in projects]
        self._lookups = _Lookups(
            projects=projects,
            regions=_by_place(self._tables.of("project_regions", names)),
            days=_by_place(self._tables.of("project_days", names)),
            days_of_all=Daily.of(self._days, last),
            factors=_factors_by_project(inputs.factors),
            equivalents={item.item: item for item in self._equivalents},
            candidates=Candidates.of(self._regions),
            as_of=as_of.at_most(last),
        )

    def document(self) -> dict[str, Any]:
        """Return the whole document."""
        return {
            **self._about(),
            "total": self._total(),
            **self._projects(),
            **self._groups(),
            **self._comparisons(),
            **self._basis(),
            # Last: by then every source has been named.
            "factors": self._citations.rows(),
        }

    def _shown(self, table: str) -> Sequence[Row]:
        return self._tables.first(table, ROWS_MAX)

    def _projects_shown(self) -> Sequence[Row]:
        """Return the largest projects, and those of the others that have a budget."""
        largest = self._shown("projects")
        known = {row.keys.get("project") for row in largest}
        budgeted = (*self._inputs.budgets, *self._inputs.annotated_budgets)
        others = [name for name in dict.fromkeys(budgeted) if name not in known][:ROWS_MAX]
        return [*largest, *(row for _, row in self._tables.of("projects", others))]

    @functools.cached_property
    def _measures(self) -> Measures:
        return next((row.measures for row in self._tables.first("total", 1)), Measures())

    @functools.cached_property
    def _hours(self) -> dict[str, Any]:
        return what_if_hours(self._inputs.hours)

    def _about(self) -> dict[str, Any]:
        read, asked = self._inputs.read, self._inputs.selection
        counts = {
            "files": read.files,
            "records": read.records,
            "duplicates": read.duplicates,
            "left_out": dict(read.left_out),
        }
        return {
            "schema": SCHEMA,
            "tool_version": VERSION,
            "generated_at": _z(self._inputs.now),
            "title": self._inputs.title,
            "note": self._inputs.note,
            "selection": {
                "projects": sorted(asked.projects) if asked else [],
                "since": (asked.since or None) if asked else None,
                "until": (asked.until or None) if asked else None,
            },
            **counts,
            "sources": {"source": read.source, **counts, "late": read.late},
        }

    def _total(self) -> dict[str, Any]:
        measures = self._measures
        return {
            **_measure_row(measures),
            **_mixes(measures),
            "projects": self._tables.count("projects"),
            "sci": sci(measures),
            "idle": reserved_idle(measures),
            "month_on_month": month_on_month(self._lookups.days_of_all, self._lookups.as_of),
            "months": monthly(self._lookups.days_of_all),
        }

    def _projects(self) -> dict[str, Any]:
        """Return the projects, and their cells by day and region, and by hour of the week."""
        tables, shown = self._tables, self._lookups.projects
        names = [row.keys.get("project") for row in shown]
        hours: tuple[Dimension, Dimension] = ("weekday", "hour")
        return {
            "projects": [self._project(place, row) for place, row in enumerate(shown)],
            "project_day_regions": cells(tables, "project_day_regions", ("day", "region"), names),
            "project_hours": cells(tables, "project_hours", hours, names, HOUR_CELLS_MAX),
        }

    def _project(self, place: int, row: Row) -> dict[str, Any]:
        """Return one project."""
        measures, lookups = row.measures, self._lookups
        factors = lookups.factors.get(name_of(row, "project") or "", ())
        daily = Daily.of(lookups.days.get(place, ()), lookups.days_of_all.last)
        regions = lookups.regions.get(place, [])
        return {
            "project": row.keys.get("project"),
            "slug": slug_of_project(row),
            **_measure_row(measures),
            **_mixes(measures),
            "factors": list(map(_factor_row, factors)),
            "emissions_share": quotient(measures.emissions_g, self._measures.emissions_g),
            "sci": sci(measures),
            "idle": reserved_idle(measures),
            "budget": self._budget(name_of(row, "project") or "", daily),
            "month_on_month": month_on_month(daily, lookups.as_of),
            "months": monthly(daily),
            "regions": [_region_of_project(item) for item in regions[:REGIONS_OF_PROJECT_MAX]],
            "regions_left_out": max(0, len(regions) - REGIONS_OF_PROJECT_MAX),
            "best_region": best_regions(regions, lookups.candidates),
            "best_hours": best_hours(self._hours, factors),
            "equivalents": equivalent_amounts(measures, lookups.equivalents),
        }

    def _budget(self, project: str, daily: Daily) -> dict[str, Any] | None:
        """Return the budget of a project: of the settings, else of its annotation; None without."""
        budget, text = self._inputs.budgets.get(project), None
        if budget is None:
            text = self._inputs.annotated_budgets.get(project)
            if text is None:
                return None
            try:
                budget = Budget.parse(text, "annotation")
            except ValueError as error:
                return {"source": "annotation", "status": "unknown", "reason": str(error)}
        return {**budget_row(budget, daily, self._lookups.as_of), "reason": None}

    def _budgets_without_records(self) -> list[str]:
        """Return the projects that were given a budget and have no records: names mistyped, perhaps."""
        inputs = self._inputs
        asked = inputs.selection.projects if inputs.selection else ()
        found = {row.keys.get("project") for row in self._lookups.projects}
        wanted = (name for name in inputs.budgets if not asked or name in asked)
        return sorted(name for name in wanted if name not in found)[:BUDGETS_NAMED]

    def _groups(self) -> dict[str, Any]:
        """Return the other tables: their keys, measures, SCI of runs, and rows of each left out."""
        names = ("phases", "experiments", "namespaces", "workloads", "pools")
        shown = {
            "runs": [
                self._run_row(row, facts)
                for row, facts in itertools.islice(self._tables.runs(), ROWS_MAX)
            ],
            **{name: [_group_row(row) for row in self._shown(name)] for name in names},
            "days": list(map(_group_row, self._days)),
            "hours": list(map(_group_row, self._tables.first("hours"))),
            "regions": [self._region_row(row) for row in self._shown("regions")],
        }
        listed = {"projects": self._lookups.projects, **shown}
        left_out = {name: self._tables.count(name) - len(rows) for name, rows in listed.items()}
        return {**shown, "moments": self._moments(), "rows_left_out": left_out}

    def _run_row(self, row: Row, facts: RunFacts) -> dict[str, Any]:
        """Return a run: its sums, on what it ran and by which sources, where all its records agree."""
        sources = {
            factor: self._citations.number(text, year)
            for factor, (text, year) in _sources_of(facts).items()
        }
        return {
            **_keys(row),
            **{name: known for name, known in asdict(facts).items() if name not in _OF_SOURCES},
            "slug": slug_of_run(row),
            "project_slug": slug_of_project(row),
            "sources": sources,
            **_measure_row(row.measures),
            "sci": sci(row.measures),
            "idle": reserved_idle(row.measures),
        }

    def _moments(self) -> dict[str, Any] | None:
        """Return the sums of a short report by moment, as a table; null where it goes by days."""
        moments = self._inputs.moments
        if moments is None:
            return None
        places = {
            row.keys.get("project"): place for place, row in enumerate(self._lookups.projects)
        }
        return {
            "step_s": moments.step_s,
            "columns": ["project", "start", *CELL_COLUMNS],
            "rows": [
                [places.get(row["project"]), row["start"], *(row[name] for name in CELL_COLUMNS)]
                for row in moments.rows
            ],
        }

    def _region_row(self, row: Row) -> dict[str, Any]:
        name = row.keys.get("region")
        known = self._by_key.get(region_key(name)) if isinstance(name, str) else None
        return {
            **_group_row(row),
            "display_name": known.display_name if known else None,
            "geography": geography_of(known) if known else None,
        }

    def _comparisons(self) -> dict[str, Any]:
        measures = self._measures
        return {
            "what_if_regions": what_if_regions(
                self._tables.first("regions", REGIONS_MAX), self._lookups.candidates
            ),
            "what_if_hours": self._hours,
            "map": self._map(),
            "equivalents": equivalents(measures, self._equivalents, self._citations),
            "reconciliation": reconciliation(
                self._inputs.azure,
                self._inputs.subscriptions,
                self._lookups.days_of_all,
                self._inputs.selection,
            ),
        }

    def _map(self) -> list[dict[str, Any]]:
        used = {
            region_key(name): row.measures
            for row in self._tables.first("regions", REGIONS_MAX)
            if isinstance(name := row.keys.get("region"), str)
        }
        return [self._place(region, used.get(region_key(region.name))) for region in self._regions]

    def _place(self, region: Region, measures: Measures | None) -> dict[str, Any]:
        return {
            "region": region.name,
            "display_name": region.display_name,
            "country_iso3": region.country_iso3,
            "geography": geography_of(region),
            "physical_location": region.physical_location,
            "grid_zone": region.grid_zone,
            "status": region.status,
            "latitude": region.latitude,
            "longitude": region.longitude,
            **self._citations.figure(region.carbon_intensity, "carbon_intensity/g_per_kwh"),
            **self._citations.figure(region.pue, "pue"),
            **self._citations.figure(region.wue, "wue/l_per_kwh"),
            "energy_kwh": measures.energy_kwh if measures else None,
            "facility_energy_kwh": measures.facility_energy_kwh if measures else None,
            "emissions_g": measures.emissions_g if measures else None,
        }

    def _basis(self) -> dict[str, Any]:
        inputs, measures = self._inputs, self._measures
        return {
            "balance": _balance(inputs),
            "coverage": {
                **coverage(measures, inputs.read, inputs.pods),
                **freshness(measures, self._moment),
                "energy_with_pue_share": pue_share(inputs.factors),
                "budgets_without_records": self._budgets_without_records(),
            },
            "quality": mix(measures, QUALITIES),
            "factors_used": self._factors_used(),
        }

    def _factors_used(self) -> list[dict[str, Any]] | None:
        """Return the sources of the records' own factors by number, with the energy behind each."""
        if self._inputs.factors is None:
            return None
        energies: dict[tuple[str, int], float] = {}
        for item in self._inputs.factors:
            for factor, (text, year) in _sources_of(item).items():
                number = self._citations.number(text, year)
                if number is not None:
                    key = (factor, number)
                    energies[key] = energies.get(key, 0.0) + (item.energy_kwh or 0.0)
        if self._measures.embodied_g is not None:
            method = self._citations.number(embodied.SOURCE, embodied.YEAR)
            energies["embodied", method or 0] = self._measures.energy_kwh or 0.0
        ordered = sorted(energies.items(), key=lambda entry: (entry[0][0], -entry[1], entry[0][1]))
        return [
            {"factor": factor, "source": number, "energy_kwh": energy_kwh}
            for (factor, number), energy_kwh in ordered
        ]


def _sources_of(item: FactorUse | RunFacts) -> dict[str, tuple[str | None, int | None]]:
    """Return text and year of the source of each factor."""
    return {
        "carbon_intensity": (item.carbon_intensity_source, item.carbon_intensity_year),
        "pue": (item.pue_source, None),
        "cpu_power": (item.cpu_power_source, None),
    }


def _balance(inputs: ReportInputs) -> dict[str, Any] | None:
    """Return the balance of the nodes, with the share that nobody used."""
    if inputs.nodes is None:
        return None
    row = balance_mapping(inputs.nodes)
    share = quotient(row["unallocated_energy_kwh"], row["node_energy_kwh"])
    return {**row, "unallocated_share": share}


def _as_of(inputs: ReportInputs) -> AsOf:
    """Return the moment of the report: now, or where the selection ends before it."""
    moment, asked = inputs.now.astimezone(UTC), inputs.selection
    if asked is None:
        return AsOf(moment)
    if asked.until:
        moment = min(moment, datetime.fromisoformat(asked.until).astimezone(UTC))
    return AsOf(moment, _first_whole_day(asked.since))


def _first_whole_day(since: str) -> date | None:
    """Return the first day that a selection takes whole; None where it has no beginning."""
    if not since:
        return None
    begin = datetime.fromisoformat(since).astimezone(UTC)
    return (begin + timedelta(days=1, microseconds=-1)).date()


def _z(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _by_place(rows: Iterable[tuple[int, Row]]) -> Mapping[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for place, row in rows:
        found.setdefault(place, []).append(row)
    return found


def _factors_by_project(factors: Iterable[FactorUse] | None) -> Mapping[str, list[FactorUse]]:
    found: dict[str, list[FactorUse]] = {}
    for item in factors or ():
        found.setdefault(item.project, []).append(item)
    return found


def _measure_row(measures: Measures) -> dict[str, Any]:
    return {name: getattr(measures, name) for name in _MEASURES}


def _mixes(measures: Measures) -> dict[str, Any]:
    """Return energy by quality and by level as mappings, as schema 1 had them."""
    return {
        "energy_kwh_by_quality": energy_by(measures, QUALITIES),
        "energy_kwh_by_carbon_intensity_level": energy_by(measures, LEVELS),
    }


def _keys(row: Row) -> dict[str, Any]:
    return {str(name): key for name, key in row.keys.items()}


def _group_row(row: Row) -> dict[str, Any]:
    return {**_keys(row), **_measure_row(row.measures)}


def _region_of_project(row: Row) -> dict[str, Any]:
    names = (*CELL_COLUMNS, "carbon_intensity_g_per_kwh", "records_without_emissions")
    return {**_keys(row), **{name: getattr(row.measures, name) for name in names}}


def _factor_row(item: FactorUse) -> dict[str, Any]:
    """Return the factors as schema 1 had them, and the range of the intensity."""
    names = (name.name for name in fields(FactorUse) if name.name != "project")
    return {name: getattr(item, name) for name in names}
