"""The golden corpus: pods as API servers send them, and what becomes of each, for people to read.

`pods/NAME.json` is a pod with the labels of its namespace; `pods/NAME.expected.json` the decision.
What is the same for every pod is shortened: a volume of the configuration to its name, the container
to how it differs from the configuration's. Write the expected files anew with WRITE_GOLDEN=1, and
read the difference.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.injector.config import InjectConfig
from sidecar.injector.inject import Decision

HERE = Path(__file__).parent
CONFIG = InjectConfig.from_json((HERE / "config.json").read_bytes())


@dataclass(frozen=True)
class Case:
    """One pod of the corpus."""

    name: str
    about: str
    pod: dict[str, Any]
    namespace_labels: dict[str, str]

    @property
    def expected_file(self) -> Path:
        return HERE / "pods" / f"{self.name}.expected.json"


def cases() -> list[Case]:
    """All pods of the corpus."""
    files = sorted((HERE / "pods").glob("*.json"))
    return [_case(file) for file in files if not file.name.endswith(".expected.json")]


def case(name: str) -> Case:
    """One pod of the corpus."""
    return _case(HERE / "pods" / f"{name}.json")


def _case(file: Path) -> Case:
    content = json.loads(file.read_text())
    return Case(file.stem, content["about"], content["pod"], content["namespaceLabels"])


def readable(about: str, decision: Decision) -> dict[str, Any]:
    """The decision, shortened by what the configuration says."""
    return {
        "about": about,
        "reason": decision.reason,
        "status": decision.status,
        "warnings": list(decision.warnings),
        "operations": [
            {**operation, "value": _shortened(operation["value"])}
            for operation in decision.operations
        ],
    }


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, dict) and value.get("name") == CONFIG.container_name:
        return {"the sidecar, but": _difference(CONFIG.container, value)}
    if value in CONFIG.volumes:
        return f"the volume {value['name']}"
    return value


def _difference(before: Any, after: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, list) and isinstance(new, list):
            changes[f"{key}: added"] = [item for item in new if item not in old]
            changes[f"{key}: removed"] = [item for item in old if item not in new]
        elif old != new:
            changes[f"{key}: {'absent' if key not in after else 'changed'}"] = new
    return {key: value for key, value in changes.items() if value != []}
