"""The pages in a real browser: seen, filtered, sorted, printed, and read by other means than sight."""

import itertools
import re
from contextlib import contextmanager
from threading import Thread

import pytest

from sidecar.report.page.numbers import energy, mass
from sidecar.report.serve import serving
from tests.report.page.conftest import write, write_realistic
from tests.report.page.realistic import Scale, realistic_model

pytestmark = pytest.mark.needs("chromium")

PROJECTS = '[data-table="projects"]'
RUNS = '[data-table="runs"]'
PHONE = {"width": 360, "height": 740}


def column(page, table, number):
    cells = page.locator(f"{table} tbody tr:not(.detail) > *:nth-child({number})")
    return cells.all_inner_texts()


def grams(text):
    value, unit = text.split()
    return float(value.replace(",", "")) * {"mg": 1e-3, "g": 1, "kg": 1e3, "t": 1e6}[unit]


def choose(page, name, *texts):
    page.locator(f"#{name}-chosen").click()
    for text in texts:
        page.locator(f"#{name.rstrip('s')}-boxes label", has_text=text).locator("input").check()
    page.keyboard.press("Escape")


def test_the_headline_is_the_total_of_the_model(visit, report):
    page = visit(report.index)
    assert mass(report.model["total"]["emissions_g"]) in page.locator(".big").inner_text()


def test_every_project_is_in_the_table_with_a_link_to_its_page(visit, report):
    page = visit(report.index)
    links = page.locator(f"{PROJECTS} tbody th a")
    assert links.count() == 12
    for link in links.all():
        assert (report.directory / link.get_attribute("href")).is_file()


def test_a_chosen_project_is_the_only_one_left(visit, report):
    page = visit(report.index)
    choose(page, "projects", "radiology")
    assert page.locator(f"{PROJECTS} tbody tr").count() == 1
    (row,) = (row for row in report.model["projects"] if row["project"] == "radiology")
    selection = page.locator("#selection").inner_text()
    assert mass(row["emissions_g"]) in selection
    assert energy(row["energy_kwh"]) in selection
    assert "1 of 12 projects" in selection


def test_a_filter_of_projects_is_followed_by_the_runs(visit, report):
    page = visit(report.index)
    choose(page, "projects", "sandbox")
    assert set(column(page, RUNS, 2)) == {"sandbox"}


def test_a_filter_of_time_sums_the_days_within_it(visit, report):
    page = visit(report.index)
    page.fill("#from", "2026-08-01")
    page.fill("#to", "2026-08-31")
    days = [row for row in report.model["days"] if row["day"].startswith("2026-08")]
    expected = mass(sum(row["emissions_g"] for row in days))
    assert f"Selected: {expected} CO₂e" in page.locator("#selection").inner_text()


def test_a_filter_of_regions_leaves_those_alone(visit, report):
    page = visit(report.index)
    choose(page, "regions", "UK South", "France Central")
    found = set(page.locator('[data-table="regions"] tbody th bdi').all_inner_texts())
    assert found == {"UK South", "France Central"}


def test_a_selection_without_records_says_so(visit, report):
    page = visit(report.index)
    choose(page, "projects", "sandbox")
    page.fill("#from", "2026-09-21")
    page.fill("#to", "2026-09-20")
    assert page.get_by_text("No records in this selection.").count() == 2


def test_projects_are_found_by_a_part_of_their_name(visit, report):
    page = visit(report.index)
    page.locator("#projects-chosen").click()
    page.fill("#find-project", "GRAPH")
    shown = page.locator("#project-boxes label:visible")
    assert shown.all_inner_texts() == ["fraud-graph"]


@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 900}], ids=["phone", "desk"])
def test_the_names_in_an_open_list_can_be_read(visit, report, viewport):
    page = visit(report.index, viewport=viewport)
    page.locator("#projects-chosen").click()
    panel = page.locator("details.choose[open] > div").bounding_box()
    name = page.locator("#project-boxes bdi").first.bounding_box()
    assert panel["x"] < name["x"] < name["x"] + name["width"] < panel["x"] + panel["width"]
    assert panel["x"] + panel["width"] <= viewport["width"]


def test_reset_shows_everything_again(visit, report):
    page = visit(report.index)
    choose(page, "projects", "radiology")
    page.fill("#from", "2026-08-01")
    page.click("#clear")
    assert page.locator("#selection").inner_text().startswith("Everything: ")
    assert page.locator(f"{PROJECTS} tbody tr").count() == 12


def test_a_column_sorts_by_its_numbers_and_then_the_other_way(visit, report):
    page = visit(report.index)
    head = page.locator(f"{PROJECTS} thead th", has_text="Emissions")
    falling = [grams(text) for text in column(page, PROJECTS, 2)]
    assert falling == sorted(falling, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    rising = [grams(text) for text in column(page, PROJECTS, 2)]
    assert rising == sorted(rising)
    assert head.get_attribute("aria-sort") == "ascending"


def test_names_sort_alphabetically(visit, report):
    page = visit(report.index)
    page.locator(f"{PROJECTS} thead button", has_text="Project").click()
    names = page.locator(f"{PROJECTS} tbody th a").all_inner_texts()
    assert names == sorted(names)


def test_a_row_unfolds_its_bounds_and_how_they_were_obtained(visit, report):
    page = visit(report.index)
    page.locator(f"{PROJECTS} button.unfold").first.click()
    detail = page.locator(f"{PROJECTS} tr.detail").inner_text()
    assert "measured" in detail
    assert "Embodied" in detail


def test_one_drills_down_to_a_project_and_a_run_and_back(visit, report):
    page = visit(report.index)
    page.locator(f"{PROJECTS} tbody th a").first.click()
    assert page.locator("h1").inner_text() == f"Project {report.model['projects'][0]['project']}"
    page.locator(f"{RUNS} tbody th a").first.click()
    assert page.locator("h1").inner_text().startswith("Run ")
    page.locator(".crumbs a").first.click()
    assert page.locator("h1").inner_text() == "Emissions report"


def test_all_runs_are_shown_when_asked(visit, report):
    page = visit(report.index)
    assert page.locator(f"{RUNS} tbody tr").count() == 12
    page.get_by_role("button", name="Show all 300 runs").click()
    assert page.locator(f"{RUNS} tbody tr").count() == 300


def test_every_chart_has_a_name_for_those_who_do_not_see_it(visit, report):
    page = visit(report.index)
    charts = page.locator("[data-chart] svg[role=img]")
    assert charts.count() == 8
    assert all(chart.get_attribute("aria-label") for chart in charts.all())


def test_the_map_has_a_dot_for_every_region_with_an_intensity(visit, report):
    page = visit(report.index)
    dots = page.locator('[data-chart="map"] g[data-mark="dot"] circle')
    placed = [
        row
        for row in report.model["map"]
        if None not in (row["latitude"], row["longitude"], row["carbon_intensity_g_per_kwh"])
    ]
    assert dots.count() == len(placed) > 50


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_system_preference_decides_between_light_and_dark(visit, report):
    assert background(visit(report.index, color_scheme="light")) == "rgb(246, 246, 243)"
    assert background(visit(report.index, color_scheme="dark")) == "rgb(17, 23, 26)"


def test_the_reader_may_choose_otherwise_and_it_is_kept_on_the_next_page(visit, report):
    page = visit(report.index, color_scheme="light")
    page.click("#theme")
    assert background(page) == "rgb(17, 23, 26)"
    page.locator(f"{PROJECTS} tbody th a").first.click()
    assert background(page) == "rgb(17, 23, 26)"


def test_paper_is_light_and_explains_every_number(visit, report):
    page = visit(report.index, color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert background(page) == "rgb(255, 255, 255)"
    assert page.locator("details.known:not([open])").count() == 0
    assert not page.locator("#filters").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.known[open]").count() == 0


def test_a_selection_of_unknown_quality_is_not_said_to_be_unmeasured(visit, tmp_path):
    day = {"project": "p", "day": "2026-01-01", "energy_kwh": 1.0, "emissions_g": 5.0}
    later = {**day, "day": "2026-01-02"}
    projects = [{"project": "p", "energy_kwh": 2.0, "energy_measured_kwh": 2.0}]
    model = {"projects": projects, "project_day_regions": [day, later]}
    page = visit(write(tmp_path, model).index)
    assert column(page, PROJECTS, 7) == ["measured"]
    page.fill("#from", "2026-01-02")
    assert column(page, PROJECTS, 7) == ["–"]


def test_it_prints_on_some_pages_of_a4(visit, report):
    paper = visit(report.index).pdf(format="A4")
    pages = re.findall(rb"/Type\s*/Page[^s]", paper)
    assert 4 <= len(pages) <= 30


def focused(page):
    return page.evaluate("document.activeElement.textContent.trim()")


def test_the_first_tab_offers_to_skip_to_the_content(visit, report):
    page = visit(report.index)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_a_filter_is_set_with_the_keyboard_alone(visit, report):
    page = visit(report.index)
    page.locator("#filters summary").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    assert "1 of 12 projects" in page.locator("#selection").inner_text()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert page.locator("details.choose[open]").count() == 0


def test_a_table_is_sorted_and_unfolded_with_the_keyboard_alone(visit, report):
    page = visit(report.index)
    page.locator(f"{PROJECTS} thead button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(f"{PROJECTS} thead th").first.get_attribute("aria-sort") == "ascending"
    page.locator(f"{PROJECTS} button.unfold").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(f"{PROJECTS} tr.detail").count() == 1
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"


def test_the_focus_is_seen_wherever_it_goes(visit, report):
    page = visit(report.index)
    for _ in range(40):
        page.keyboard.press("Tab")
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style != "none", focused(page)


@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 900}], ids=["phone", "desk"])
@pytest.mark.parametrize("folder", ["", "projects", "runs"])
def test_nothing_is_wider_than_the_screen(visit, report, folder, viewport):
    page = visit(report.first(folder) if folder else report.index, viewport=viewport)
    page.evaluate(
        "document.querySelectorAll('details:not(.choose)').forEach((d) => (d.open = true))"
    )
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("folder", ["", "projects", "runs"])
def test_axe_finds_nothing(visit, report, axe, folder, scheme):
    page = visit(report.first(folder) if folder else report.index, color_scheme=scheme)
    page.evaluate(
        "document.querySelectorAll('details:not(.choose)').forEach((d) => (d.open = true))"
    )
    page.evaluate(axe)
    found = page.evaluate("axe.run(document)")
    assert len(found["passes"]) > 10
    assert {item["id"]: item["nodes"][0]["html"][:200] for item in found["violations"]} == {}


def test_axe_finds_nothing_on_a_phone_with_a_list_open(visit, report, axe):
    page = visit(report.index, viewport=PHONE)
    page.locator("#projects-chosen").click()
    page.evaluate(axe)
    found = page.evaluate("axe.run(document)")
    assert {item["id"]: item["nodes"][0]["html"][:200] for item in found["violations"]} == {}


def test_those_who_want_less_motion_get_none(visit, report):
    page = visit(report.index, reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_the_policy_of_the_page_lets_no_other_script_run(visit, report, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(report.index)
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran === undefined")
    context.close()


def test_without_scripts_the_numbers_are_there(visit, report):
    page = visit(report.index, java_script_enabled=False)
    assert mass(report.model["total"]["emissions_g"]) in page.locator(".big").inner_text()
    assert page.locator(f"{PROJECTS} tbody tr").count() == 12


@contextmanager
def served(directory):
    with serving(directory) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_links_lead_on_where_the_report_is_served(visit, report):
    with served(report.directory) as address:
        page = visit(f"{address}/")
        page.locator(f"{PROJECTS} tbody th a").first.click()
        page.locator(f"{RUNS} tbody th a").first.click()
        assert page.locator("h1").inner_text().startswith("Run ")
        page.close()


HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "=cmd|' /C calc'!A0",
    "../../../etc/passwd",
    "\u202eevil\u2066 name",
    "{{ 7 * 7 }}${1+1}`&quot;\"'",
    "javascript:alert(3)",
    "a" * 5000,
    "<!--<script>",
    "\ud800 lone",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    model = realistic_model(Scale(projects=len(HOSTILE), days=20, runs=30, names=HOSTILE))
    return write(tmp_path_factory.mktemp("hostile"), model)


def test_hostile_names_are_text_on_every_page(visit, hostile):
    page = visit(hostile.index)
    shown = page.locator(f"{PROJECTS} tbody th bdi").all_inner_texts()
    assert set(HOSTILE[:3]) <= set(shown)
    assert "\ufffdevil\ufffd name" in shown  # nothing turns the direction of what follows
    assert page.locator("main img, main iframe").count() == 0
    for place in range(len(HOSTILE)):
        visit(
            (
                hostile.directory / "projects" / f"{hostile.model['projects'][place]['slug']}.html"
            ).as_uri()
        )
    visit(hostile.first("runs"))


def test_hostile_names_make_no_page_wider_than_a_phone(visit, hostile):
    page = visit(hostile.index, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_model_without_anything_is_a_page_that_says_so(visit, tmp_path):
    page = visit(write(tmp_path, {}).index)
    assert page.locator(".big").inner_text().startswith("Not known")
    assert page.get_by_text("No records", exact=True).count() == 1


def test_a_report_of_no_records_is_a_page(visit, tmp_path):
    page = visit(write(tmp_path, realistic_model(Scale(projects=0, runs=0))).index)
    assert page.get_by_text("No project has records in this selection.").count() == 1


def test_a_report_of_one_run_is_a_page(visit, tmp_path):
    page = visit(
        write(tmp_path, realistic_model(Scale(projects=1, runs=1, days=1, regions=1))).index
    )
    assert page.locator(f"{PROJECTS} tbody tr").count() == 1
    assert page.locator(f"{RUNS} tbody tr").count() == 1


def test_ten_thousand_projects_can_be_filtered(visit, many_projects):
    page = visit(many_projects.index)
    assert page.locator("#selection").inner_text().endswith("10,000 projects.")
    choose(page, "projects", many_projects.model["projects"][0]["project"])
    assert "1 of 10,000 projects" in page.locator("#selection").inner_text()
    choose(page, "projects", "other projects")
    assert "and 9,975 other projects together" in page.locator("#selection").inner_text()


def test_all_other_projects_together_rank_last_and_flatten_no_bar(visit, many_projects):
    page = visit(many_projects.index)
    last = page.locator(f"{PROJECTS} tbody tr").last
    assert "other projects" in last.inner_text()
    names = page.locator('[data-chart="projects"] svg').text_content()
    assert "other" not in names
    assert "other projects come to" in page.locator("#projects-more").inner_text()
    page.locator(f"{PROJECTS} thead button", has_text="Project").click()
    assert "other projects" in page.locator(f"{PROJECTS} tbody tr").last.inner_text()


def energies(page, table):
    """Return the energies of a table in kWh, as its rows say them."""
    sizes = {"Wh": 1e-3, "kWh": 1.0, "MWh": 1e3}
    texts = page.locator(f'[data-table="{table}"] td[data-label="Energy"]').all_inner_texts()
    return [float(value.replace(",", "")) * sizes[unit] for value, unit in map(str.split, texts)]


@pytest.mark.parametrize("table", ["days", "regions", "components", "namespaces", "pools"])
def test_what_a_table_shows_adds_up_to_the_headline(visit, report, table):
    page = visit(report.index)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    page.evaluate(
        "document.querySelectorAll('.panel').forEach((p) => p.classList.remove('hidden'))"
    )
    whole = report.model["total"]["energy_kwh"]
    assert sum(energies(page, table)) == pytest.approx(whole, rel=5e-3)


def test_the_emissions_of_a_region_are_its_own_whether_filtered_or_not(visit, report):
    page = visit(report.index)
    (row,) = (row for row in report.model["regions"] if row["region"] == "swedencentral")
    cell = page.locator('[data-table="regions"] tr', has_text="Sweden Central").locator("td").first
    assert cell.inner_text() == mass(row["emissions_g"])
    choose(page, "regions", "Sweden Central")
    assert cell.inner_text() == mass(row["emissions_g"])
    assert mass(row["emissions_g"]) in page.locator("#selection").inner_text()


def test_a_project_page_has_its_own_days_hours_and_experiments(visit, report):
    page = visit(report.first("projects"))
    for chart in ("energy-days", "emissions-days", "components", "idle", "hours"):
        assert page.locator(f'[data-chart="{chart}"] svg').count() == 1, chart
    assert page.locator('[data-table="experiments"] tbody tr').count() == 4


def test_tabs_show_one_group_at_a_time_and_are_moved_with_arrows(visit, report):
    page = visit(report.index)
    tabs = page.get_by_role("tab")
    assert tabs.all_inner_texts() == ["Namespace", "Workload", "Node pool", "Experiment"]
    assert page.locator("#by-namespaces").is_visible()
    tabs.first.focus()
    page.keyboard.press("ArrowLeft")
    assert focused(page) == "Experiment"
    assert page.locator("#by-experiments").is_visible()
    assert not page.locator("#by-namespaces").is_visible()


def test_a_source_of_the_map_is_one_click_away_though_folded(visit, report):
    page = visit(report.index)
    page.locator("#map details.rows summary").click()
    link = page.locator('[data-table="map"] a.ref').first
    target = link.get_attribute("href")
    link.click()
    page.wait_for_function(f"document.querySelector('{target}').checkVisibility()")


def test_the_bar_of_sections_stays_and_says_where_one_is(visit, report):
    page = visit(report.index)
    page.locator("nav.sections a", has_text="Map").click()
    page.wait_for_selector('nav.sections a[aria-current]:has-text("Map")')
    assert page.locator("nav.sections").bounding_box()["y"] == 0


EDGES = """(name) => {
    const host = document.querySelector(`[data-chart="${name}"]`);
    const edges = (selector) => [...host.querySelectorAll(selector)].map((node) => {
        const { left, right } = node.getBoundingClientRect();
        return [left, right];
    });
    return { bars: edges("rect, path"), texts: edges("svg text") };
}"""


def test_labels_of_a_bar_stay_within_their_part(visit, report):
    page = visit(report.index)
    for name in ("components", "idle"):
        found = page.evaluate(EDGES, name)
        for left, right in found["texts"]:
            assert any(start <= left and right <= end for start, end in found["bars"]), name


SHORT = Scale(projects=1, runs=1, days=1, regions=1)


def test_a_report_of_one_day_is_a_column_and_no_slab(visit, tmp_path):
    page = visit(write_realistic(tmp_path, SHORT).index)
    chart = page.locator('[data-chart="energy-days"] svg')
    assert chart.bounding_box()["width"] < 300
    axis = chart.text_content()
    assert "24 Sep" in axis
    assert "AM" not in axis


def test_there_is_nothing_to_filter_in_one_project_of_one_day(visit, tmp_path):
    page = visit(write_realistic(tmp_path, SHORT).index)
    assert page.locator("#filters").count() == 0


MOMENTS = {
    "step_s": 5,
    "columns": ["project", "start", "energy_kwh", "cpu_energy_kwh", "emissions_g"],
    "rows": [
        [0, f"2026-09-23T07:00:{second:02}.000Z", 1e-5, 1e-5, 0.003] for second in range(0, 30, 5)
    ],
}


def test_a_report_of_seconds_goes_by_seconds(visit, tmp_path):
    model = realistic_model(SHORT) | {"moments": MOMENTS}
    page = visit(write(tmp_path, model).index)
    axis = page.locator('[data-chart="energy-days"] svg').text_content()
    assert "07:00:10" in axis
    assert "Wh per 5 s" in axis
    page.locator("#time details summary").click()
    assert page.locator('[data-table="days"] tbody tr').count() == 6
    assert energy(1e-5) in page.locator('[data-table="days"]').inner_text()


def test_a_report_of_hours_has_a_column_an_hour(visit, tmp_path):
    hours = [[0, f"2026-09-23T{hour:02}:00:00.000Z", 1e-5, 1e-5, 0.003] for hour in range(6)]
    moments = MOMENTS | {"step_s": 3600, "rows": hours}
    page = visit(write(tmp_path, realistic_model(SHORT) | {"moments": moments}).index)
    assert page.locator("#time-steps").inner_text() == "One column an hour (UTC)."


HOURS = [{"hour": hour, "carbon_intensity_g_per_kwh": 200.0 + hour} for hour in range(24)]
VARYING = {"region": "westeurope", "best_hour": 0, "hours": HOURS}
TICKS = """() => [...document.querySelectorAll('[data-mark="x-axis tick label"]')].map((axis) =>
    [...axis.querySelectorAll("text")].map((text) => {
        const { left, right } = text.getBoundingClientRect();
        return [left, right];
    }).filter(([left, right]) => right > left).sort((one, other) => one[0] - other[0]))"""


def test_no_two_ticks_of_a_phone_run_into_one_another(visit, tmp_path):
    regions = [VARYING | {"emissions_g": 500.0, "difference_at_best_g": -9.0}]
    model = realistic_model() | {"what_if_hours": {"known": True, "regions": regions}}
    page = visit(write(tmp_path, model).index, viewport=PHONE)
    axes = page.evaluate(TICKS)
    assert len(axes) >= 5
    for edges in axes:
        for (_, right), (left, _) in itertools.pairwise(edges):
            assert right + 2 < left


def test_a_phone_names_the_line_of_a_region(visit, tmp_path):
    regions = [VARYING | {"emissions_g": 500.0, "difference_at_best_g": -9.0}]
    model = realistic_model(SHORT) | {"what_if_hours": {"known": True, "regions": regions}}
    page = visit(write(tmp_path, model).index, viewport=PHONE)
    assert "West Europe" in page.locator('[data-chart="hour-intensity"] svg').text_content()


def test_a_phone_chooses_from_a_list_what_to_sort_by(visit, report):
    page = visit(report.index, viewport=PHONE)
    page.locator(f"{PROJECTS} select").select_option(label="Project")
    names = page.locator(f"{PROJECTS} tbody th a").all_inner_texts()
    assert names == sorted(names)
    assert page.evaluate("document.documentElement.scrollHeight") < 14_000


def test_lines_along_which_nothing_has_a_name_are_not_shown(visit, tmp_path):
    groups = {"namespaces": [{"namespace": None, "energy_kwh": 1.0}],
              "pools": [{"pool": "gpu", "energy_kwh": 1.0}]}  # fmt: skip
    page = visit(write(tmp_path, groups).index)
    assert page.locator("#by-pools").is_visible()
    assert page.locator("#by-namespaces").count() == 0


def test_one_project_alone_is_compared_with_none(visit, tmp_path):
    page = visit(write_realistic(tmp_path, SHORT).index)
    assert not page.locator('[data-chart="projects"]').is_visible()
    assert page.locator(f"{PROJECTS} tbody tr").count() == 1
