"""A fake kubelet, or API server: documents by path behind a token, over real HTTP or HTTPS.

with FakeKubelet(tls=certificate) as kubelet:
    kubelet.documents[SUMMARY_PATH] = (DATA / "summary.json").read_bytes()
    kubelet.faults.append(fake.hang)
    ... kubelet.url ..., kubelet.requests

Faults, certificates and the server itself are those of `tests/fakes/collector.py`. Refusals are spelled
as kubelet (pkg/kubelet/server/server.go) and kube-apiserver spell theirs.
"""

from pathlib import Path

from tests.fakes.collector import Certificate, FakeCollector, Handler

TOKEN = "header.claims.of-the-service-account"
ACCOUNT = "system:serviceaccount:team-a:default"
SUMMARY_PATH = "/stats/summary"
DATA = Path(__file__).parent.parent / "data"


class FakeKubelet(FakeCollector):
    """The server as a context manager. `allowed` is whether the account may read the documents."""

    def __init__(self, *, host: str = "127.0.0.1", tls: Certificate | None = None) -> None:
        super().__init__(host=host, tls=tls)
        self.documents: dict[str, bytes] = {}
        self.created: dict[str, bytes] = {}
        self.token = TOKEN
        self.allowed = True

    def behave(self, handler: Handler) -> None:
        """Answer as kubelet does."""
        asked = handler.request_read
        bare_path = asked.path.partition("?")[0]
        documents = self.documents if asked.method == "GET" else self.created
        found = documents.get(asked.path) or documents.get(bare_path)
        if asked.headers.get("Authorization") != f"Bearer {self.token}":
            handler.answer(401, b"Unauthorized", Content_Type="text/plain")
        elif not self.allowed:
            handler.answer(
                403,
                f"Forbidden (user={ACCOUNT}, verb=get, resource=nodes, subresource=stats)".encode(),
                Content_Type="text/plain; charset=utf-8",
            )
        elif found is None:
            handler.answer(404, b"404 page not found\n", Content_Type="text/plain")
        else:
            handler.answer(200 if asked.method == "GET" else 201, found)
