"""What TensorFlow says of a failure, made short."""

import re


def one_line(error: Exception) -> str:
    """Return what TensorFlow's message says, without where in its graph it happened."""
    message = getattr(error, "message", None) or str(error)
    message = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:[^\]]*\]", "", message)
    idle = ("Graph execution error", "Detected at node", "<stack traces", "Hint:", "File ")
    lines = (line.strip() for line in message.splitlines())
    return " ".join(line for line in lines if line and not line.startswith(idle))
