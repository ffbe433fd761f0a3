"""kopf's webhook server and admission engine, with the injector's pure function as the handler.

Everything of kopf that a request passes is kopf's own. What an operator gets from a cluster at its
start is given here: that there are pods.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import kopf
from kopf._cogs.configs.configuration import OperatorSettings
from kopf._cogs.structs.ephemera import Memo
from kopf._cogs.structs.references import Insights, Resource
from kopf._core.engines.admission import serve_admission_request
from kopf._core.engines.indexing import OperatorIndexers
from kopf._core.reactor.inventory import ResourceMemories

from sidecar.injector.config import InjectConfig, load_config
from sidecar.injector.inject import TRACK, inject
from sidecar.injector.patch import patch_in_place


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kopf_webhook", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--tls-cert", required=True)
    parser.add_argument("--tls-key", required=True)
    parser.add_argument("--listen", required=True)
    given = parser.parse_args()
    host, _, port = given.listen.partition(":")
    server = kopf.WebhookServer(
        addr=host, port=int(port), certfile=given.tls_cert, pkeyfile=given.tls_key
    )
    asyncio.run(serve(server, load_config(given.config)))


async def serve(server: kopf.WebhookServer, config: InjectConfig) -> None:
    insights = Insights()
    pods = Resource(group="", version="v1", plural="pods", kind="Pod", namespaced=True)
    insights.webhook_resources.add(pods)
    operator: dict[str, Any] = {
        "settings": OperatorSettings(),
        "memories": ResourceMemories(),
        "memobase": Memo(),
        "registry": registry_of(config),
        "insights": insights,
        "indices": OperatorIndexers().indices,
    }

    async def answer(review: dict[str, Any], **call: object) -> object:
        return await serve_admission_request(review, **call, **operator)

    async for _ in server(answer):
        pass


def registry_of(config: InjectConfig) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.mutate("", "v1", "pods", id="inject", operation="CREATE", registry=registry)
    def handler(body: kopf.Body, patch: kopf.Patch, warnings: list[str], **_: object) -> None:
        decision = inject(dict(body), {TRACK: "true"}, config)
        warnings += decision.warnings
        if decision.operations:
            patch.fns.append(lambda pod: patch_in_place(pod, decision.operations))

    return registry


if __name__ == "__main__":
    main()
