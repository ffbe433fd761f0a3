"""Pods by Hypothesis: valid enough for an API server, odd in every way that matters here."""

from hypothesis import strategies as st

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=5,
)
QUANTITIES = st.sampled_from(["0", "100m", "1", "1.5", "2", "64Mi", "1Gi", "1e3", "1500M", "0.1"])
GPU_NAMES = st.sampled_from(
    [
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-1g.5gb",
        "nvidia.com/mig-1g.10gb.me",
        "nvidia.com/mig-3g.40gb",
        "nvidia.com/mig-2g.12gb",
        "nvidia.com/a100",
        "amd.com/gpu",
        "gpu.intel.com/i915",
        "example.com/gpu",
    ]
)
AMOUNTS = st.dictionaries(
    st.sampled_from(["cpu", "memory", "ephemeral-storage"]), QUANTITIES, max_size=3
) | st.dictionaries(GPU_NAMES, st.sampled_from(["0", "1", "3"]), min_size=1, max_size=2)
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "requests": st.none() | AMOUNTS,
        "limits": st.none() | AMOUNTS,
        "claims": st.none() | st.lists(st.just({"name": "gpu"}), max_size=1),
    },
)
GUARANTEED = st.fixed_dictionaries({"cpu": QUANTITIES, "memory": QUANTITIES}).map(
    lambda amounts: {"requests": amounts, "limits": dict(amounts)}
)
PATHS = st.sampled_from(
    [
        "/data",
        "/var/run/emissions",
        "/var/run/emissions/",
        "/var/run",
        "/var/run/emissions/x",
        "/va",
        "/",
        "/run",
        "/run/emissions/x",
        "/run/user",
        "/var//run/emissions",
        "var/run",
    ]
)


WINDOWS = {"windowsOptions": {"runAsUserName": "x"}}
VOLUME_KINDS = st.sampled_from(
    [
        {"emptyDir": {}},
        {"emptyDir": {}},
        {"emptyDir": {"sizeLimit": "1Gi"}},
        {"emptyDir": {"sizeLimit": "1Mi"}},
        {"emptyDir": {"medium": "Memory"}},
        {"secret": {"secretName": "x"}},
        {"persistentVolumeClaim": {"claimName": "x"}},
        {"persistentVolumeClaim": {"claimName": "x", "readOnly": True}},
        {"nfs": {"server": "x", "path": "/", "readOnly": False}},
    ]
)
AFFINITIES = st.sampled_from(["In", "NotIn"]).flatmap(
    lambda operator: st.sampled_from(
        [("kubernetes.io/os", "windows"), ("x", "windows"), ("type", "virtual-kubelet")]
    ).map(
        lambda asked: {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {
                                    "key": asked[0],
                                    "operator": operator,
                                    "values": ["linux", asked[1]],
                                }
                            ]
                        }
                    ]
                }
            }
        }
    )
)


def maybe(strategy):
    """The three ways in which there is nothing, or something."""
    return st.none() | strategy


AZUREML_VARIABLES = st.fixed_dictionaries(
    {"name": st.sampled_from(["AZUREML_RUN_ID", "AZUREML_ARM_PROJECT_NAME", "AZUREML_RUN_TOKEN"])},
    optional={"value": st.sampled_from(["", "a", "b$(HOME)", "ü" * 256, "ü" * 257])},
)


def containers(volume_names, resources=RESOURCES):
    mounts = st.lists(
        st.fixed_dictionaries({"name": st.sampled_from(volume_names), "mountPath": PATHS}),
        max_size=3,
        unique_by=lambda mount: mount["mountPath"],
    )
    return st.fixed_dictionaries(
        {"name": NAMES, "image": st.just("registry.example.com/a:1"), "resources": resources},
        optional={
            "volumeMounts": maybe(mounts),
            "restartPolicy": st.sampled_from(["Always"]),
            "env": maybe(
                st.lists(
                    st.fixed_dictionaries({"name": TEXT, "value": TEXT}) | AZUREML_VARIABLES,
                    max_size=3,
                )
            ),
            "ports": maybe(
                st.lists(
                    st.fixed_dictionaries({"containerPort": st.sampled_from([80, 9877])}),
                    max_size=2,
                )
            ),
            "securityContext": maybe(st.sampled_from([{}, {"runAsNonRoot": True}, WINDOWS])),
            "fieldToCome": JSON,
        },
    )


ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "emissions/track": st.sampled_from(["true", "true", "true", "false", "yes", ""]),
        "emissions/mount": st.sampled_from(["true", "false", "/somewhere", "x"]),
        "emissions/volume": st.sampled_from(["data", "emissions", "absent", "B@d"]),
        "emissions/share-process-namespace": st.sampled_from(["true", "false", " true "]),
        "emissions/status": st.sampled_from(["injected", "skipped: x"]),
        "emissions/injector": st.sampled_from(["0.0.1", "0.1.0"]),
        "emissions/project": TEXT,
        "azure.workload.identity/skip-containers": st.sampled_from(["", "a", "a;b"]),
        "a/b~c": TEXT,
        "io.katacontainers.config.agent.policy": TEXT,
    },
)
OWNERS = st.lists(
    st.fixed_dictionaries(
        {
            "apiVersion": st.just("apps/v1"),
            "kind": st.sampled_from(["ReplicaSet", "ReplicaSet", "Job", "PyTorchJob"]),
            "name": st.sampled_from(["serve-7d4b9", "serve-7d4b9", "-7d4b9", "bert", "7d4b9"]),
            "uid": st.just("u"),
        },
        optional={"controller": st.booleans()},
    ),
    max_size=2,
)
LABELS = st.fixed_dictionaries(
    {},
    optional={
        "pod-template-hash": st.sampled_from(["7d4b9", ""]),
        "azure.workload.identity/use": st.sampled_from(["true", "false"]),
        "ml.azure.com/run-id": st.just("brave_tooth"),
        "x": TEXT,
    },
)


@st.composite
def pods(draw, resources=RESOURCES):
    """A pod; lists and objects may be absent, null or empty."""
    names = draw(st.lists(NAMES | st.just("data"), unique=True, max_size=3))
    names += ["data"] if "data" not in names else []
    volumes = [{"name": name, **draw(VOLUME_KINDS)} for name in names]
    one = containers(names, resources)
    spec = draw(
        st.fixed_dictionaries(
            {"containers": st.lists(one, min_size=1, max_size=3)},
            optional={
                "initContainers": maybe(st.lists(one, max_size=2)),
                "volumes": st.just(volumes) | maybe(st.just([])),
                "hostNetwork": st.booleans(),
                "hostPID": st.booleans(),
                "shareProcessNamespace": st.booleans(),
                "affinity": maybe(AFFINITIES),
                "securityContext": maybe(st.sampled_from([{}, {"fsGroup": 1}, WINDOWS])),
                "restartPolicy": st.just("Never"),
                "nodeSelector": maybe(
                    st.sampled_from(
                        [
                            {},
                            {"kubernetes.io/os": "linux"},
                            {"agentpool": "a100"},
                            {"virtualization": "virtualnode2"},
                            {"type": "gpu"},
                        ]
                    )
                ),
                "tolerations": maybe(
                    st.sampled_from(
                        [
                            [],
                            [{"operator": "Exists"}],
                            [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                            [{"key": "nvidia.com/gpu"}, {"key": "virtual-kubelet.io/provider"}],
                        ]
                    )
                ),
                "fieldToCome": JSON,
            },
        )
    )
    metadata = st.fixed_dictionaries(
        {},
        optional={
            "annotations": maybe(ANNOTATIONS),
            "labels": maybe(LABELS),
            "name": NAMES,
            "ownerReferences": maybe(OWNERS),
        },
    )
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": spec}
    return pod | draw(st.fixed_dictionaries({}, optional={"metadata": maybe(metadata)}))


NAMESPACES = st.sampled_from([{}, {"emissions/track": "true"}, {"emissions/track": "false"}])
