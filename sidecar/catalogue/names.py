"""Names as people, Azure, NVML and `/proc/cpuinfo` write them, brought to one comparable form."""

import re
from dataclasses import dataclass
from typing import Final

_VM_SIZE: Final = re.compile(
    r"(?P<tier>standard|basic)_(?P<letters>[a-z]+)(?P<count>\d+)(-(?P<active>\d+))?(?P<rest>[^-]*)"
)
_CLOCK: Final = re.compile(r"@ *[\d.]+ *ghz$")
_CORES: Final = re.compile(r" \d+-core( processor)?$")
_TRADE_MARKS: Final = re.compile(r"\((r|tm)\)")
_GPU_BRANDS: Final = ("nvidia ", "grid ", "tesla ")
_GPU_GUEST_SUFFIXES: Final = (" mxgpu", " vf")
_VGPU_PROFILE: Final = re.compile(r"(?P<card>.+)-(?P<memory_gib>\d+)[abcq]")


def region_key(name: str) -> str:
    """`West Europe`, ` westeurope ` and `WESTEUROPE` are one region."""
    return "".join(name.split()).casefold()


def vm_size_key(name: str) -> str:
    """`Standard_D8s_v5`, `d8s_v5`, `D8s v5` and `Standard_D8s_v5_Promo` are one size."""
    key = "_".join(name.split()).casefold().removesuffix("_promo")
    return key if key.startswith(("standard_", "basic_")) else f"standard_{key}"


def vm_family_key(name: str) -> str | None:
    """Series of a size: its name without tier and vCPU counts. None where it is no size name."""
    match = _VM_SIZE.fullmatch(vm_size_key(name))
    return None if match is None else f"{match['tier']}_{match['letters']}#{match['rest']}"


@dataclass(frozen=True, slots=True)
class ConstrainedName:
    """A constrained-core name such as E64-16s_v5: key of the full size, and the active vCPUs."""

    parent_key: str
    count: str
    active_vcpus: int

    @classmethod
    def parse(cls, name: str) -> "ConstrainedName | None":
        """Take a name apart; None where it is no constrained-core name."""
        match = _VM_SIZE.fullmatch(vm_size_key(name))
        if match is None or match["active"] is None:
            return None
        parent = f"{match['tier']}_{match['letters']}{match['count']}{match['rest']}"
        return cls(parent, match["count"], int(match["active"]))

    def applied_to(self, parent_name: str) -> str:
        """Spell the name like the parent's: Standard_E64s_v5 gives Standard_E64-16s_v5."""
        return parent_name.replace(self.count, f"{self.count}-{self.active_vcpus}", 1)


def cpu_key(name: str) -> str:
    """Drop trade marks, `CPU`, clock and core count; what is left must be equal to match."""
    text = _TRADE_MARKS.sub("", " ".join(name.split()).casefold())
    text = _CORES.sub("", _CLOCK.sub("", text).rstrip())
    return " ".join(word for word in text.split() if word != "cpu")


def gpu_key(name: str) -> str:
    """Drop the brand words that drivers add or leave out, and the suffixes of virtual functions."""
    text = " ".join(name.split()).casefold()
    for brand in _GPU_BRANDS:
        text = text.removeprefix(brand)
    for suffix in _GPU_GUEST_SUFFIXES:
        text = text.removesuffix(suffix)
    return text


@dataclass(frozen=True, slots=True)
class VgpuProfile:
    """An NVIDIA vGPU profile such as A10-8Q: 8 GiB of an A10."""

    card_key: str
    memory_gib: int

    @classmethod
    def parse(cls, name: str) -> "VgpuProfile | None":
        """Take a profile name apart; None where it is none."""
        match = _VGPU_PROFILE.fullmatch(gpu_key(name))
        return None if match is None else cls(match["card"], int(match["memory_gib"]))
