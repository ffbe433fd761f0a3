"""Creates an annotated pod as a dry run; exits with 1 unless a sidecar that can meter is in it."""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from sidecar.settings import SettingsError, load_settings

ACCOUNT = Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
HOST = os.environ["KUBERNETES_SERVICE_HOST"]
PORT = os.environ["KUBERNETES_SERVICE_PORT"]
TRIES = int(os.environ.get("TRIES", "30"))

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "emissions-test-", "annotations": {"emissions/track": "true"}},
    "spec": {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "train",
                "image": os.environ["IMAGE"],
                "resources": {
                    "requests": {"cpu": "1", "memory": "1Gi"},
                    "limits": {"cpu": "1", "memory": "1Gi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    },
}


def admitted_pod() -> dict:
    """Return the pod as the API server would have stored it."""
    host = f"[{HOST}]" if ":" in HOST else HOST
    request = urllib.request.Request(
        f"https://{host}:{PORT}/api/v1/namespaces/{os.environ['NAMESPACE']}/pods?dryRun=All",
        data=json.dumps(POD).encode(),
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
            "Content-Type": "application/json",
        },
    )
    context = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(
            f"the Kubernetes API answers {error.code}: {error.read()[:500]!r}"
        ) from error


for _ in range(TRIES):  # a policy takes a moment until it is heard of
    pod = admitted_pod()
    first = pod["spec"].get("initContainers", [{}])[0]
    if first.get("name") == "emissions-sidecar" and first.get("restartPolicy") == "Always":
        break
    time.sleep(1)
else:
    raise SystemExit(
        "no sidecar in the annotated pod; status: "
        f"{pod['metadata']['annotations'].get('emissions/status', 'none')}. "
        "Is the injector ready? Is the namespace excluded?"
    )
environment = {one["name"]: one.get("value", "") for one in first["env"]}
try:
    load_settings({}, environment)
except SettingsError as error:
    raise SystemExit(
        f"the sidecar would meter nothing: {error}; correct the chart's values"
    ) from error
if environment.get("EMISSIONS_REQUESTS_CPU") != "1000m":
    raise SystemExit(
        f"EMISSIONS_REQUESTS_CPU is {environment.get('EMISSIONS_REQUESTS_CPU')}, not 1000m"
    )
print("the annotated pod has the sidecar:", first["image"])  # noqa: T201
