"""GPUs by name: what their data sheets say, and what was measured beyond that. One table for MFU, memory and time.

Peaks are dense, without sparsity, and with fp32 accumulation. A GPU's `link` joins it to its neighbours in the node: NVLink,
or where it has none PCIe; `host` is PCIe (NVLink-C2C on Grace); both in one direction. Data sheets: NVIDIA H100, H200,
B200, B300, GB200, A100, A800, L40S, L40, L4, A40, A10, RTX A6000, RTX 6000 Ada; GeForce: the whitepapers of Ampere GA102, Ada, Blackwell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One model of GPU. Operations, bytes, and both of them per second."""

    key: str  # as --gpu takes it
    driver_name: str  # a part of the name that the driver gives it
    bf16: float  # TFLOP/s
    fp8: float | None  # TFLOP/s; None: it has no fp8
    memory: float  # GiB that the driver shows
    bandwidth: float  # of its memory, TB/s
    link: float  # GB/s in one direction to the other GPUs of the node
    host: float  # GB/s in one direction to the host's memory
    network: float  # GB/s per GPU in one direction between nodes, as clusters of this GPU usually have it
    hopper: bool = False
    measured: Mapping[str, float] = field(
        default_factory=dict
    )  # step_time.py's rates that replace its shares of the peaks

    @property
    def is_measured(self) -> bool:
        return bool(self.measured)


NVLINK_SWITCH_4, NVLINK_SWITCH_3 = 450.0, 300.0
PCIE_5, PCIE_4 = 64.0, 32.0
INFINIBAND_400, INFINIBAND_200, ETHERNET_25 = 50.0, 25.0, 3.125

# fmt: off
TABLE = (
    Gpu("h100-pcie", "H100 PCIe", 756, 1513, 79.6, 2.0, PCIE_5, PCIE_5, INFINIBAND_200, hopper=True),
    Gpu("h100-nvl", "H100 NVL", 835, 1671, 93.6, 3.9, PCIE_5, PCIE_5, INFINIBAND_200, hopper=True),
    Gpu("gh200", "GH200", 989, 1979, 95.6, 4.0, NVLINK_SWITCH_4, 450, INFINIBAND_400, hopper=True),
    # TFLOP/s of large matrix products in a training step: docs/performance.md, benchmarks/plan_time.md
    Gpu("h100", "H100", 989, 1979, 79.6, 3.35, NVLINK_SWITCH_4, PCIE_5, INFINIBAND_400, hopper=True, measured={"bf16": 727, "fp8": 1524}),
    Gpu("h200", "H200", 989, 1979, 140.4, 4.8, NVLINK_SWITCH_4, PCIE_5, INFINIBAND_400, hopper=True, measured={"bf16": 718, "fp8": 1441}),
    Gpu("h800", "H800", 989, 1979, 79.6, 3.35, 200, PCIE_5, INFINIBAND_400, hopper=True),
    Gpu("h20", "H20", 148, 296, 95.6, 4.0, NVLINK_SWITCH_4, PCIE_5, INFINIBAND_400, hopper=True),
    Gpu("gb200", "GB200", 2500, 5000, 185, 8.0, 900, 450, INFINIBAND_400),
    Gpu("b200", "B200", 2250, 4500, 179, 7.7, 900, PCIE_5, INFINIBAND_400),
    Gpu("b300", "B300", 2250, 4500, 268, 8.0, 900, PCIE_5, 2 * INFINIBAND_400),
    Gpu("a100", "A100-SXM4-80GB", 312, None, 80.0, 2.04, NVLINK_SWITCH_3, PCIE_4, INFINIBAND_200),
    Gpu("a100-40gb", "A100-SXM4-40GB", 312, None, 40.0, 1.56, NVLINK_SWITCH_3, PCIE_4, INFINIBAND_200),
    Gpu("a100-pcie", "A100 80GB PCIe", 312, None, 80.0, 1.94, PCIE_4, PCIE_4, INFINIBAND_200),
    Gpu("a100-pcie-40gb", "A100-PCIE-40GB", 312, None, 40.0, 1.56, PCIE_4, PCIE_4, INFINIBAND_200),
    Gpu("a800", "A800", 312, None, 80.0, 2.04, 200, PCIE_4, INFINIBAND_200),
    Gpu("l40s", "L40S", 362, 733, 45.0, 0.864, PCIE_4, PCIE_4, INFINIBAND_200),
    Gpu("l40", "L40", 181, 362, 45.0, 0.864, PCIE_4, PCIE_4, INFINIBAND_200),
    Gpu("l4", "L4", 121, 242, 22.5, 0.30, PCIE_4, PCIE_4, ETHERNET_25),
    Gpu("a40", "A40", 149.7, None, 45.0, 0.696, PCIE_4, PCIE_4, ETHERNET_25),
    Gpu("a10", "A10", 125, None, 22.5, 0.60, PCIE_4, PCIE_4, ETHERNET_25),
    Gpu("6000-ada", "RTX 6000 Ada", 364, 728, 48.0, 0.96, PCIE_4, PCIE_4, ETHERNET_25),
    Gpu("a6000", "RTX A6000", 154.8, None, 48.0, 0.768, PCIE_4, PCIE_4, ETHERNET_25),
    Gpu("5090", "RTX 5090", 209.5, 419, 31.8, 1.79, PCIE_5, PCIE_5, ETHERNET_25),
    Gpu("4090", "RTX 4090", 165.2, 330.3, 24.0, 1.008, PCIE_4, PCIE_4, ETHERNET_25),
    Gpu("3090", "RTX 3090", 71, None, 24.0, 0.936, PCIE_4, PCIE_4, ETHERNET_25),
)
# fmt: on
KEYS = tuple(sorted(gpu.key for gpu in TABLE))
BY_KEY = {gpu.key: gpu for gpu in TABLE}
DEFAULT = BY_KEY["h100"]


def by_driver_name(name: str) -> Gpu | None:
    """The GPU that the driver calls `name`, None if it is not in the table. 'NVIDIA A100-SXM4-80GB' is an A100, no A10."""
    words = name.replace("NVIDIA", "").replace("GeForce", "")
    found = [gpu for gpu in TABLE if _names(gpu.driver_name, words)]
    if not found and "A100" in words:
        return BY_KEY["a100"]
    return max(found, key=lambda gpu: len(gpu.driver_name), default=None)


def _names(part: str, name: str) -> bool:
    """Whether `part` stands in `name` and no letter or digit goes on with it: L40 is not in 'L40S'."""
    at = name.find(part)
    return (
        at >= 0 and not name[at + len(part) : at + len(part) + 1].isalnum() and not name[max(0, at - 1) : at].isalnum()
    )
