"""What a text such as type:nvidia-l4;count:1;install-nvidia-driver asks Dataflow for.

The rules are Google's, as its pages gave them in 2026:
https://cloud.google.com/dataflow/docs/gpu/use-gpus,
https://cloud.google.com/dataflow/docs/gpu/use-l4-gpus and
https://cloud.google.com/compute/docs/gpus.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

#: GPUs on offer, and with what the types of the machines begin that take them.
_MACHINES_OF_GPUS = {
    "nvidia-tesla-t4": "n1-",
    "nvidia-tesla-p4": "n1-",
    "nvidia-tesla-p100": "n1-",
    "nvidia-tesla-v100": "n1-",
    "nvidia-l4": "g2-",
    "nvidia-tesla-a100": "a2-highgpu-",
    "nvidia-a100-80gb": "a2-ultragpu-",
    "nvidia-h100-80gb": "a3-highgpu-",
}

#: What is on offer as an example of each of these, with one GPU.
_EXAMPLES = {
    "n1-": "n1-standard-8",
    "g2-": "g2-standard-8",
    "a2-highgpu-": "a2-highgpu-1g",
    "a2-ultragpu-": "a2-ultragpu-1g",
    "a3-highgpu-": "a3-highgpu-1g",
}

#: Dataflow's machines where nobody names a type.
_DEFAULT_MACHINES = "n1-"

_PARTS = ("type", "count", "machine_type", "install-nvidia-driver", "use_nvidia_mps")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The GPU of a resource hint."""

    text: str
    parts: dict[str, str]
    """What stands before and behind each colon; nothing behind it for one that stands alone."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a text apart, right or wrong."""
        return cls(text, dict(part.partition(":")[::2] for part in text.split(";")))

    @property
    def kind(self) -> str:
        """Return the name of the GPU, such as nvidia-l4."""
        return self.parts.get("type", "")

    @property
    def shares_between_processes(self) -> bool:
        """Return whether processes are meant to share a GPU (MPS)."""
        return "use_nvidia_mps" in self.parts

    def problems(self, machine_type: str | None) -> Iterator[str]:
        """Yield why no worker would have one GPU, with its driver, for the model.

        Args:
            machine_type: of the whole job, where the text names none; None: Dataflow's default.

        Example:
            >>> t4 = Accelerator.parse("type:nvidia-t4;count:1;install-nvidia-driver")
            >>> list(t4.problems(None))
            ['nvidia-t4 is no GPU that Dataflow has; did you mean nvidia-tesla-t4?']
        """
        for part in self.parts.keys() - set(_PARTS):
            yield f"{part} is no part of an accelerator; {_nearest(part, _PARTS)}"
        series = _MACHINES_OF_GPUS.get(self.kind)
        if series is None:
            yield (
                f"{self.kind or 'an accelerator without a type'} is no GPU that Dataflow has; "
                f"{_nearest(self.kind, tuple(_MACHINES_OF_GPUS))}"
            )
            return
        if "install-nvidia-driver" not in self.parts:
            yield f"the accelerator {self.text} comes without a driver; add ;install-nvidia-driver"
        count = self.parts.get("count", "1")
        if count != "1":
            yield (
                f"the accelerator {self.text} asks for {count} GPUs a machine, of which the model "
                "uses one; use count:1 and more workers"
            )
        machine = self.parts.get("machine_type") or machine_type or _DEFAULT_MACHINES
        if not machine.startswith(series):
            yield (
                f"the accelerator {self.text} is found in machines of type {series}* only; add "
                f";machine_type:{_EXAMPLES[series]}"
            )
        elif gpus_of_machine(machine) != 1:
            yield (
                f"each {machine} comes with {gpus_of_machine(machine)} GPUs, of which the model "
                f"uses one; use one that has one, such as {_EXAMPLES[series]}"
            )


def gpus_of_machine(machine_type: str) -> int:
    """Return how many GPUs a machine comes with; 1 where they are attached, as to N1.

    Example:
        >>> gpus_of_machine("g2-standard-24"), gpus_of_machine("a2-highgpu-4g")
        (2, 4)
    """
    counted = re.fullmatch(r"a\d-\w+-(\d+)g", machine_type)
    if counted:
        return int(counted[1])
    return {"g2-standard-24": 2, "g2-standard-48": 4, "g2-standard-96": 8}.get(machine_type, 1)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    # t4 and nvidia-t4 are nvidia-tesla-t4, whatever other names are nearer by their letters.
    near = [each for each in known if each.rpartition("-")[2] == name.rpartition("-")[2]]
    near = near or difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
