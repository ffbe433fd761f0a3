"""Every region and every VM size, from a full IMDS document to watts and grams.

No row may fall through silently: what is not known at the finest level is marked as coarser.
"""

import json
from collections import Counter

import pytest

from sidecar.catalogue.lookup import Catalogue
from sidecar.estimate.attribution import WHOLE_NODE
from sidecar.estimate.emissions import estimate_window
from sidecar.factors import Place, choose_factors, with_country
from sidecar.identity.fields import Hardware
from sidecar.identity.imds import parse_document
from sidecar.identity.resolve import choose, imds_findings
from sidecar.meters.reading import NodeUsage
from sidecar.recording import Metered, Occasion, window_record
from sidecar.settings import load_settings
from sidecar.windows import Window
from tests.fakes.imds import AKS_REGULAR

CATALOGUE = Catalogue()
REGIONS = tuple(region.name for region in CATALOGUE.regions())
VM_SIZES = tuple(CATALOGUE.vm_sizes())
SETTINGS = load_settings({}, {})
HOUR_S = 3600.0


def record_of(location, vm_size, vcpus=4, memory_gib=16.0):
    """Meter one hour at half load on the machine this IMDS document describes."""
    content = json.dumps({**AKS_REGULAR, "location": location, "vmSize": vm_size}).encode()
    identity = identity_of(content)
    hardware = Hardware(logical_cpus=vcpus, memory_total_gib=memory_gib)
    factors = choose_factors(Place(identity, hardware), SETTINGS, CATALOGUE)
    usage = NodeUsage(
        duration_s=HOUR_S,
        cpus=vcpus,
        cpu_busy_s=vcpus * HOUR_S / 2,
        cpu_total_s=vcpus * HOUR_S,
        memory_total_gib=memory_gib,
        memory_used_gib=1.0,
        package_energy_uj=None,
        gpus=(),
        pod_cpu_s=None,
        pod_working_set_gib=None,
    )
    estimate = estimate_window(usage, WHOLE_NODE, factors)
    occasion = Occasion("u.b.1", Window(0.0, HOUR_S, HOUR_S, 0.0), "window")
    metered = Metered(usage, estimate, "whole-node")
    return window_record(with_country(identity, CATALOGUE), factors, occasion, metered)


def identity_of(content):
    return choose_identity(imds_findings(parse_document(content)))


def choose_identity(findings):
    from sidecar.identity.fields import Identity

    chosen = choose({}, findings, {}, {}) if choose.__code__.co_argcount == 4 else findings
    values = {name: found.value for name, found in chosen.items()}
    sources = {name: found.source for name, found in chosen.items()}
    return Identity(**values, sources=sources)
