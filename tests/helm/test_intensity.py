"""Carbon intensity hour by hour, as the chart sets it up: who asks, with whose token, by which port."""

import pytest

from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.collector.intensity import open_intensity
from sidecar.settings import load_settings
from tests.helm.tools import injector_json, render

pytestmark = pytest.mark.needs("helm")


def environment(value_set, *options):
    """What the sidecar's container is told of it."""
    env = injector_json(value_set, *options)["container"]["env"]
    return {one["name"]: one["value"] for one in env if "INTENSITY" in one["name"]}


def collector(value_set, *options):
    pod = render(value_set, *options).one("Deployment", "-collector")["spec"]["template"]["spec"]
    return pod["containers"][0], {volume["name"]: volume for volume in pod["volumes"]}


def parsed(container):
    """The collector's arguments as the command reads them."""
    parser = command_parser("collector", "", ())
    add_settings(parser)
    arguments, _ = parser.parse_known_args(container["args"][1:])
    return settings_from(arguments, {})


def ports(value_set, *options):
    policy = render(value_set, *options).one("NetworkPolicy", "-collector")
    return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}


def test_by_default_nothing_of_it_is_there():
    assert environment("blob") == {}
    assert "intensity" not in " ".join(collector("blob")[0]["args"])
    assert "intensity" not in collector("blob")[1]


def test_sidecars_ask_the_collector_and_have_no_token():
    assert environment("intensity") == {
        "EMISSIONS_INTENSITY_SOURCE": "electricity-maps",
        "EMISSIONS_INTENSITY_ZONE": "NL",
        "EMISSIONS_INTENSITY_REFRESH": "2h",
    }


def test_the_sidecars_settings_are_ones_it_takes():
    env = injector_json("intensity")["container"]["env"]
    settings = load_settings({}, {one["name"]: one.get("value", "") for one in env})
    assert (settings.intensity_source, settings.transport) == ("electricity-maps", "collector")


def test_the_collector_reads_the_token_from_a_secret_that_is_there(tmp_path):
    container, volumes = collector("intensity")
    assert volumes["intensity"]["secret"] == {
        "secretName": "electricity-maps",
        "items": [{"key": "token", "path": "token"}],
        "defaultMode": 0o440,
    }
    mount = {"name": "intensity", "mountPath": "/etc/emissions/intensity", "readOnly": True}
    assert mount in container["volumeMounts"]
    settings = parsed(container)
    assert str(settings.intensity_token_file) == "/etc/emissions/intensity/token"
    assert (settings.intensity_zone, settings.intensity_refresh) == ("NL", 7200)
    assert settings.intensity_cache is None  # the replicas share what they keep, in the container
    assert open_intensity(settings).zones == {"NL"}


def test_replicas_with_a_volume_share_what_they_keep_there():
    container, _ = collector("directory", "--set=intensity.source=uk")
    assert str(parsed(container).intensity_cache) == "/records/intensity"
    assert "/records" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_no_value_holds_a_token():
    text = render("intensity").text
    assert "auth-token" not in text
    render("intensity", "--set=intensity.token=abc", fails=True)


def test_the_node_meter_is_told_the_same():
    pod = render("intensity", "--set=nodeMeter.enabled=true").one("DaemonSet")["spec"]["template"][
        "spec"
    ]
    args = [one for one in pod["containers"][0]["args"] if "intensity" in one]
    assert args == [
        "--intensity-refresh=2h",
        "--intensity-source=electricity-maps",
        "--intensity-zone=NL",
    ]


def test_a_schedule_comes_from_a_config_map_that_is_there():
    options = ("--set=intensity.source=schedule", "--set=intensity.existingConfigMap=hours")
    container, volumes = collector("blob", *options)
    assert volumes["intensity"]["configMap"]["name"] == "hours"
    assert str(parsed(container).intensity_file) == "/etc/emissions/intensity/schedule"
    assert environment("blob", *options) == {"EMISSIONS_INTENSITY_SOURCE": "schedule"}


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://carbon-aware.green", 80),
        ("http://carbon-aware.green:8080/base", 8080),
        ("https://carbon-aware.example.com:8443", 8443),
        ("https://carbon-aware.example.com", 443),
    ],
)
def test_the_collector_may_reach_the_port_of_an_address_of_ones_own(url, port):
    options = ("--set=intensity.source=carbon-aware", f"--set=intensity.url={url}")
    assert port in ports("blob", *options)
    assert parsed(collector("blob", *options)[0]).intensity_url == url


def test_without_a_collector_sidecars_ask_a_free_service_themselves():
    options = ("--set=intensity.source=carbon-aware", "--set=intensity.url=http://ca:8080")
    alone = ("--set=collector.enabled=false", "--set=sidecar.transport=none")
    assert environment("blob", *options, *alone) == {
        "EMISSIONS_INTENSITY_SOURCE": "carbon-aware",
        "EMISSIONS_INTENSITY_URL": "http://ca:8080",
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("source=electricity-maps",), "set intensity.existingSecret"),
        (("source=schedule",), "set intensity.existingConfigMap"),
        (("source=carbon-aware",), "set intensity.url"),
        (("zone=DE",), "remove intensity.zone"),
        (("source=electricity-maps", "existingSecret=x", "../sidecar.transport=none"), "not collector"),
    ],
)  # fmt: skip
def test_what_could_not_work_is_refused(options, told):
    given = [
        f"--set={one.removeprefix('../')}" if one.startswith("../") else f"--set=intensity.{one}"
        for one in options
    ]
    assert told in render("blob", *given, fails=True).error


@pytest.mark.parametrize(
    "value",
    ["source=gridstatus", "refresh=30m", "refresh=25h", "zone=D E", "url=ftp://x", "url=http://u:p@x",
     "existingSecret=A_B", "key=abc"],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_the_schema(value):
    render("blob", f"--set=intensity.{value}", fails=True)
