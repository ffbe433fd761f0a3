"""Write what of the Helm chart follows from elsewhere: its README, and the settings its schema knows.

usage: python scripts/write_chart_reference.py [CHART]

The README is made from Chart.yaml and the comments of values.yaml: a value is described by the comment
`# -- …` above it; further comment lines continue it. The schema knows the sidecar's settings, so that a
misspelt one is refused at once: in a pod it would let the sidecar stand by, and meter nothing.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from sidecar.settings import declared_settings, environment_name

CHART: Final = Path(__file__).parent.parent / "helm/emissions-sidecar"

_KEY: Final = re.compile(r"(?P<indent> *)(?P<name>[A-Za-z]+):")
_COMMENT: Final = re.compile(r" *# (?P<begins>-- )?(?P<text>.*)")

_TEMPLATE: Final = """\
# emissions-sidecar

{description}

Chart {version}, Kubernetes {kubernetes}, Helm 3 and 4.

```sh
helm install emissions-sidecar helm/emissions-sidecar --namespace emissions --create-namespace \\
  --set image.registry=REGISTRY --set azure.clientId=CLIENT_ID \\
  --set azure.storage.accountUrl=https://NAME.blob.core.windows.net
helm test emissions-sidecar --namespace emissions
```

Then annotate the pods of a workload with `emissions/track: "true"`, or label a namespace with
`emissions/track=true`. What was done is in the pod's annotation `emissions/status`.

| mode | how | needs |
| --- | --- | --- |
| `webhook` | two webhooks, called for tracked pods only; a pod is never rejected | nothing |
| `policy` | a MutatingAdmissionPolicy: no server, no certificates; no warnings, no metrics of its own; \
`emissions/mount` in the first 32 containers | Kubernetes 1.36 |
| `none` | `emissions-sidecar inject -f FILE` | nothing in the cluster |

## Values

This table is made from `values.yaml`; `values.schema.json` refuses what is not in it.

| key | default | |
| --- | --- | --- |
{rows}
"""


@dataclass(frozen=True)
class Value:
    """One value that can be set."""

    key: str
    default: object
    description: str

    def row(self) -> str:
        """Return its row of the table."""
        default = self.default
        text = default if isinstance(default, str) and default else json.dumps(default)
        shown = f"`{text}`".replace("|", "\\|")
        return f"| `{self.key}` | {shown} | {self.description.replace('|', chr(92) + '|')} |"


def described_values(text: str) -> Iterator[Value]:
    """Yield the values that have a description, in the order of the file."""
    content = yaml.safe_load(text)
    path: list[str] = []
    description: list[str] = []
    for line in text.splitlines():
        if comment := _COMMENT.fullmatch(line):
            if comment["begins"]:
                description = [comment["text"]]
            elif description:
                description.append(comment["text"])
        elif key := _KEY.match(line):
            path = [*path[: len(key["indent"]) // 2], key["name"]]
            if description:
                yield Value(".".join(path), _value_at(content, path), " ".join(description))
            description = []


def _value_at(content: Mapping[str, Any], path: list[str]) -> object:
    value: Any = content
    for name in path:
        value = value[name]
    return value


def readme(chart: Path) -> str:
    """Return the README of a chart."""
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    values = described_values((chart / "values.yaml").read_text())
    return _TEMPLATE.format(
        description=about["description"],
        version=about["version"],
        kubernetes=about["kubeVersion"].removesuffix("-0"),
        rows="\n".join(value.row() for value in values),
    )


def schema(chart: Path) -> str:
    """Return the schema of the values, with the names of all settings."""
    content = json.loads((chart / "values.schema.json").read_text())
    content["definitions"]["setting"] = {
        "description": "A setting of the sidecar; written by make docs",
        "enum": sorted(environment_name(item.name) for item in declared_settings()),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write README.md and values.schema.json beside Chart.yaml."""
    chart = Path(arguments[0]) if arguments else CHART
    (chart / "README.md").write_text(readme(chart))
    (chart / "values.schema.json").write_text(schema(chart))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
