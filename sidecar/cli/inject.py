"""`emissions-sidecar inject`: manifests in, the same manifests with the sidecar out; no cluster."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.cli.extras import require_extra
from sidecar.cli.options import command_parser
from sidecar.settings import SettingsError

if TYPE_CHECKING:
    import argparse

    from sidecar.injector.config import InjectConfig
    from sidecar.injector.manifest import Injected, Workload

EXIT_OK: Final = 0
EXIT_UNREADABLE: Final = 1

TRACK: Final = "emissions/track"
_MODULES: Final = ("jsonpatch", "ruamel.yaml")
_STANDARD_INPUT: Final = Path("-")


def main(argv: Sequence[str]) -> int:
    """Print the manifest with the sidecar in it; say on standard error what was done."""
    arguments = _parser().parse_args(argv)
    require_extra("inject", "injector", _MODULES)
    from sidecar.injector.manifest import ManifestError  # noqa: PLC0415
    from sidecar.injector.pod_shape import PodShapeError  # noqa: PLC0415

    config, labels = _config(arguments), _namespace_labels(arguments)
    shown = "standard input" if arguments.file == _STANDARD_INPUT else str(arguments.file)
    try:
        injected = _injected(_content(arguments.file), labels, config)
    except (OSError, ManifestError, PodShapeError, UnicodeDecodeError) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or str(error)
        _tell(f"{shown}: {what}")
        return EXIT_UNREADABLE
    sys.stdout.flush()
    sys.stdout.buffer.write(injected.text.encode(errors="surrogatepass"))
    sys.stdout.buffer.flush()
    for workload in injected.workloads:
        _tell_of(workload)
    if not injected.workloads:
        _tell(f"{shown} holds no pod and no pod template; nothing is injected")
    elif arguments.config is None and arguments.image is None:
        _tell(f"the image is {config.container['image']}; name yours with --image")
    return EXIT_OK


def _parser() -> "argparse.ArgumentParser":
    parser = command_parser(
        "inject",
        "Print a manifest with the sidecar in its pods, as the webhook would put it there. Pods and pod "
        f"templates of any workload are taken, where {TRACK} asks for it.",
        (
            "-f job.yaml --image REGISTRY/emissions-sidecar:0.1.0 | kubectl apply -f -",
            "-f - --all < job.yaml",
            "-f job.yaml --config injector.json --namespace-label emissions/track=true",
        ),
    )
    parser.add_argument(
        "-f", "--file", required=True, type=Path, metavar="FILE", help="YAML or JSON; - reads stdin"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="container and volumes to inject, as the Helm chart renders them; default: the chart's own",
    )
    parser.add_argument("--image", metavar="IMAGE", help="image of the sidecar")
    parser.add_argument(
        "--namespace-label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"a label of the pods' namespace; {TRACK}=true asks for all its pods",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help=f'inject without an annotation, too; {TRACK}: "false" still counts',
    )
    return parser


def _config(arguments: "argparse.Namespace") -> "InjectConfig":
    from sidecar.injector.config import default_config, load_config  # noqa: PLC0415

    config = load_config(arguments.config) if arguments.config else default_config()
    return config.with_image(arguments.image) if arguments.image is not None else config


def _namespace_labels(arguments: "argparse.Namespace") -> dict[str, str]:
    labels = {TRACK: "true"} if arguments.all else {}
    for text in arguments.namespace_label:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SettingsError(f"--namespace-label {text!r} is not KEY=VALUE, as {TRACK}=true is")
        labels.setdefault(key, value)
    return labels


def _content(file: Path) -> str:
    content = sys.stdin.buffer.read() if file == _STANDARD_INPUT else file.read_bytes()
    return content.decode()


def _injected(text: str, labels: dict[str, str], config: "InjectConfig") -> "Injected":
    from sidecar.injector.inject import inject  # noqa: PLC0415
    from sidecar.injector.manifest import inject_manifest  # noqa: PLC0415

    return inject_manifest(text, lambda pod: inject(pod, labels, config))


def _tell_of(workload: "Workload") -> None:
    from sidecar.injector.inject import Reason  # noqa: PLC0415

    words = {
        Reason.ALREADY_INJECTED: "left as it is: it has the sidecar",
        Reason.OPTED_OUT: f'left as it is: its {TRACK} is "false"',
        Reason.NOT_TRACKED: f'not injected: annotate its pod template {TRACK}: "true", or use --all',
        Reason.ANNOTATIONS_SIZE: "not injected: its annotations leave no room",
    }
    decision = workload.decision
    outcome = decision.status or words[decision.reason]
    name = workload.name if workload.name.isprintable() else ascii(workload.name)
    if decision.reason is Reason.NOT_TRACKED and workload.is_marked_outside:
        outcome = f"not injected: {TRACK} counts on the pod template, not on the workload"
    _tell(f"{name}: {outcome}")
    for warning in decision.warnings:
        _tell(f"{name}: warning: {warning}")


def _tell(text: str) -> None:
    print(f"emissions-sidecar inject: {text}", file=sys.stderr)
