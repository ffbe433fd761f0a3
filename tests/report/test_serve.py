import http.client
import signal
import socket
import subprocess
import sys
from threading import Thread

import pytest

from sidecar.report.serve import NoReportError, serving


@pytest.fixture
def directory(tmp_path):
    report = tmp_path / "report"
    (report / "projects").mkdir(parents=True)
    (report / "index.html").write_text("<title>report</title>")
    (report / "projects" / "a.html").write_text("<title>a</title>")
    (report / "summary.json").write_text("{}")
    (report / "projects.csv").write_text("project\n")
    (report / ".secret.html").write_text("secret")
    (report / "notes.py").write_text("secret")
    (tmp_path / "outside.html").write_text("secret")
    (report / "link.html").symlink_to(tmp_path / "outside.html")
    return report


@pytest.fixture
def server(directory):
    with serving(directory) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    headers = {} if host is None else {"Host": host}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html?x=1#y", "text/html; charset=utf-8"),
        ("/projects/a.html", "text/html; charset=utf-8"),
        ("/summary.json", "application/json"),
        ("/projects.csv", "text/csv; charset=utf-8"),
    ],
)
def test_the_files_of_a_report_are_served_with_their_types(server, path, kind):
    answer, body = ask(server, path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
    assert body


@pytest.mark.parametrize(
    "path",
    [
        "/projects",
        "/projects/",
        "/../outside.html",
        "/projects/../../outside.html",
        "/%2e%2e/outside.html",
        "/..%2foutside.html",
        "/..%5coutside.html",
        "//etc/passwd",
        "/.secret.html",
        "/notes.py",
        "/link.html",
        "/index.html%00.html",
        "/%ff.html",
        "/" + "x" * 5000 + ".html",
        "/absent.html",
    ],
)
def test_nothing_else_is(server, path):
    answer, body = ask(server, path)
    assert answer.status == 404
    assert b"secret" not in body


def test_head_tells_the_size_alone(server):
    answer, body = ask(server, "/", "HEAD")
    assert (answer.status, answer.headers["Content-Length"], body) == (200, "21", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(server, method):
    assert ask(server, "/index.html", method)[0].status == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_page_that_rebinds_its_name_to_this_machine_gets_nothing(server, host):
    answer, body = ask(server, "/", host=host)
    assert answer.status == 421
    assert b"<title>report" not in body


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:1"])
def test_names_of_this_machine_are_answered(server, host):
    assert ask(server, "/", host=host)[0].status == 200


def test_a_browser_that_goes_away_harms_no_other(server):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.sendall(b"GET /index.html HTTP/1.1\r\nHo")
    assert ask(server, "/")[0].status == 200


def test_what_is_no_request_is_refused(server):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
        assert b"400" in connection.recv(1000)


def test_a_directory_without_a_report_is_told(tmp_path):
    with pytest.raises(NoReportError, match=r"has no index\.html: write a report there first"):
        serving(tmp_path).__enter__()


def test_ctrl_c_ends_it(directory):
    code = "import signal, sys; from pathlib import Path; from sidecar.report.serve import serve; "
    # Whoever runs the tests in the background may have Ctrl-C ignored, which is inherited.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler); serve(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(directory)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        line = run.stdout.readline()
        port = int(line.split("/ ")[0].rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=20) == 0
        assert run.stderr.read() == ""
