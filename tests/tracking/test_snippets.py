"""CodeCarbon's README and tutorials: their calls, in our words, with the import alone changed.

Each snippet is a program that imports from `codecarbon`; here the name of the package is replaced.
"""

import ast
import csv
import json
import subprocess
import sys
import textwrap

import codecarbon
import codecarbon.emissions_tracker
import pytest

import sidecar
from tests.e2e.commands import PATIENCE_S, ROOT, environment

SNIPPETS = {
    "README: start and stop": """
        from codecarbon import EmissionsTracker

        tracker = EmissionsTracker()
        tracker.start()
        work()
        emissions = tracker.stop()
        print(f"Emissions: {emissions} kg")
        assert emissions > 0
    """,
    "tutorial: object": """
        from codecarbon import EmissionsTracker
        tracker = EmissionsTracker()
        tracker.start()
        try:
            work()
        finally:
            tracker.stop()
    """,
    "tutorial: tasks": """
        from codecarbon import EmissionsTracker
        try:
            tracker = EmissionsTracker(project_name="bert_inference", measure_power_secs=10)
            tracker.start_task("load dataset")
            work()
            of_loading = tracker.stop_task()
            tracker.start_task("build model")
            work()
            of_building = tracker.stop_task()
        finally:
            _ = tracker.stop()
        assert of_loading.emissions > 0
        assert of_building.duration > 0
    """,
    "tutorial: context": """
        from codecarbon import EmissionsTracker

        with EmissionsTracker() as tracker:
            work()
        print(f"{tracker.final_emissions:.6f} kg")
    """,
    "tutorial: decorator": """
        from codecarbon import track_emissions

        @track_emissions
        def training_loop():
            work()

        training_loop()
    """,
    "tutorial: decorator with brackets": """
        from codecarbon import track_emissions

        @track_emissions()
        def training_loop():
            work()

        training_loop()
    """,
    "tutorial: offline object": """
        from codecarbon import OfflineEmissionsTracker
        tracker = OfflineEmissionsTracker(country_iso_code="CAN")
        tracker.start()
        work()
        tracker.stop()
    """,
    "tutorial: offline context": """
        from codecarbon import OfflineEmissionsTracker

        with OfflineEmissionsTracker(country_iso_code="CAN") as tracker:
            work()
    """,
    "tutorial: offline decorator": """
        from codecarbon import track_emissions

        @track_emissions(offline=True, country_iso_code="CAN")
        def training_loop():
            work()

        training_loop()
    """,
    "quickstart": """
        from codecarbon import EmissionsTracker

        with EmissionsTracker(project_name="my-first-tracking") as tracker:
            work()

        import pandas as pd

        df = pd.read_csv("emissions.csv")
        columns = [
            "project_name", "duration", "emissions", "emissions_rate", "cpu_power", "ram_power",
            "energy_consumed",
        ]
        assert df[columns].notna().all().all()
        print(f"Total emissions: {tracker.final_emissions * 1000:.4f} g CO2eq")
        print(f"Duration: {tracker.final_emissions_data.duration:.2f} seconds")
        print(f"Energy consumed: {tracker.final_emissions_data.energy_consumed:.6f} kWh")
    """,
    "several runs of one tracker": """
        from codecarbon import EmissionsTracker

        tracker = EmissionsTracker()
        tracker.start()
        try:
            work()
            of_training = tracker.stop()
            tracker.start()
            work()
            of_prediction = tracker.stop()
        finally:
            tracker.stop()
        assert of_training > 0 and of_prediction > 0
    """,
    "callback of Keras": """
        from codecarbon import EmissionsTracker

        class Callback:
            def __init__(self, codecarbon_tracker):
                self.codecarbon_tracker = codecarbon_tracker

            def on_epoch_end(self, epoch, logs=None):
                self.codecarbon_tracker.flush()

        tracker = EmissionsTracker()
        tracker.start()
        callback = Callback(tracker)
        for epoch in range(3):
            work()
            callback.on_epoch_end(epoch)
        emissions: float = tracker.stop()
        print(f"Emissions: {emissions} kg")
    """,
    "threads": """
        import threading
        from codecarbon import OfflineEmissionsTracker

        def tracked():
            tracker = OfflineEmissionsTracker(
                country_iso_code="FRA", measure_power_secs=30, project_name="ultra_secret"
            )
            tracker.start()
            try:
                work()
            finally:
                tracker.stop()

        threads = [threading.Thread(target=tracked) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """,
    "PUE": """
        from codecarbon import track_emissions

        @track_emissions(
            project_name="pue", pue=1.5, wue=0.5, force_cpu_power=100, offline=True,
            country_iso_code="FRA", log_level="error",
        )
        def train():
            work()

        train()
    """,
    "log": """
        import logging
        from codecarbon import OfflineEmissionsTracker

        tracker = OfflineEmissionsTracker(
            country_iso_code="FRA", project_name="demo", log_level="debug", save_to_file=True,
        )
        logger = logging.getLogger("codecarbon")
        logger.addHandler(logging.FileHandler("codecarbon.log"))
        tracker.start()
        try:
            work()
        finally:
            emissions = tracker.stop()
        assert emissions > 0
    """,
    "results through a logger": """
        import logging
        from codecarbon.output import LoggerOutput
        from codecarbon import EmissionsTracker

        my_logger = LoggerOutput(logging.getLogger("mine"), logging.INFO)
        tracker = EmissionsTracker(save_to_logger=True, logging_logger=my_logger)
        tracker.start()
        work()
        emissions: float = tracker.stop()
    """,
    "methods of output": """
        from codecarbon import EmissionsTracker, OutputMethod

        with EmissionsTracker(output_methods=[OutputMethod.CSV, OutputMethod.API], api_key="k"):
            work()
    """,
    "service": """
        import os, signal
        from codecarbon import EmissionsTracker

        tracker = EmissionsTracker()
        signal.signal(signal.SIGTERM, tracker.service_shutdown)
        signal.signal(signal.SIGINT, tracker.service_shutdown)
        tracker.start()
        work()
        os.kill(os.getpid(), signal.SIGTERM)
        work()
        assert tracker.final_emissions > 0
        assert tracker.get_detected_hardware()["cpu_count"] > 0
    """,
}

TASKS = """
    from {module} import TaskEmissionsTracker, track_task_emissions
    from {package} import EmissionsTracker

    tracker = EmissionsTracker(project_name="tasks")
    with TaskEmissionsTracker(task_name="Grid search", tracker=tracker):
        work()

    @track_task_emissions(tracker=tracker, task_name="fit")
    def fit():
        work()

    fit()
    tracker.stop()
"""

WORK = """
import time

def work():
    until = time.process_time() + 0.05
    while time.process_time() < until:
        sum(range(1000))
"""


def program(snippet):
    """The snippet with our package in the import; what outputs CodeCarbon has stays its own."""
    return WORK + textwrap.dedent(snippet).replace("from codecarbon import", "from sidecar import")


def run(source, directory, *arguments):
    env = environment(EMISSIONS_SIDECAR_URL="none", EMISSIONS_CONFIG="none")
    command = [sys.executable, *(arguments or ("-c", source))]
    outcome = subprocess.run(
        command, cwd=directory, env=env, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome


def rows(directory):
    with (directory / "emissions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def records(directory):
    files = (directory / "emissions" / "records").glob("*.ndjson")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
def test_a_snippet_of_codecarbons_runs_with_only_the_import_changed(tmp_path, snippet):
    run(program(snippet), tmp_path)
    assert all(float(row["emissions"]) > 0 for row in rows(tmp_path))
    runs = {record["run_id"] for record in records(tmp_path)}
    assert len(rows(tmp_path)) == len(runs) >= 1


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
def test_a_snippet_imports_what_both_have(snippet):
    for node in ast.walk(ast.parse(textwrap.dedent(snippet))):
        if isinstance(node, ast.ImportFrom) and node.module == "codecarbon":
            for name in node.names:
                assert hasattr(codecarbon, name.name)
                assert hasattr(sidecar, name.name)


def test_tasks_by_context_and_decorator_run_with_only_the_imports_changed(tmp_path):
    assert codecarbon.emissions_tracker.TaskEmissionsTracker
    assert codecarbon.emissions_tracker.track_task_emissions
    run(WORK + textwrap.dedent(TASKS.format(module="sidecar", package="sidecar")), tmp_path)
    (tasks,) = tmp_path.glob("emissions_base_*.csv")
    with tasks.open(newline="") as stream:
        assert [row["task_name"] for row in csv.DictReader(stream)] == ["Grid search", "fit"]


# -- the examples on digits ------------------------------------------------------------------------


def test_the_example_on_digits_says_what_it_emitted(tmp_path):
    printed = run("", tmp_path, ROOT / "examples" / "mnist.py").stdout
    accuracy, emitted = printed.splitlines()
    assert float(accuracy.split()[1]) > 0.8
    assert float(emitted.split()[0]) == pytest.approx(float(rows(tmp_path)[0]["emissions"]))
    assert rows(tmp_path)[0]["project_name"] == "mnist"


def test_the_decorated_example_on_digits_is_recorded_with_its_phases(tmp_path):
    printed = run("", tmp_path, ROOT / "examples" / "mnist_decorator.py").stdout
    assert float(printed.split()[1]) > 0.8
    assert rows(tmp_path)[0]["project_name"] == "mnist"
    marked = {name for record in records(tmp_path) for name in record["phases"] or {}}
    assert {"load", "train"} <= marked <= {"load", "train", "evaluate"}
