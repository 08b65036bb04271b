"""The names of a job's steps, on which dashboards and alerts hang."""

from pathlib import Path
from typing import Any

#: One a line, of every kind of job.
FILE = Path(__file__).parents[1] / "golden" / "step_names.txt"


def step_names(pipeline: Any) -> set[str]:
    """Return the names of the steps of a Pipeline proto, and of the parts of each.

    Those that Beam makes up are left out.
    """
    transforms = pipeline.components.transforms.values()
    names = {"/".join(each.unique_name.split("/")[:2]) for each in transforms}
    return {name for name in names if name and "(" not in name and not name.startswith("ref_")}
