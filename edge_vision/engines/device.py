"""The GPU that an engine is built for and runs on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What of a GPU decides whether an engine fits it.

    Attributes:
        name: As CUDA gives it, such as 'Orin' or 'NVIDIA H100 80GB HBM3'.
        compute_capability: Major and minor, such as (8, 7).
        integrated: CPU and GPU share their memory.
        total_memory: In bytes.

    """

    name: str
    compute_capability: tuple[int, int]
    integrated: bool = False
    total_memory: int = 0
