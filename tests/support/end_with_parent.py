"""Run a command that ends when the process that asked for it does, with all that it started.

python end_with_parent.py PARENT_PID COMMAND...

Start it in a session of its own: it kills its process group.
"""

import os
import signal
import subprocess
import sys
import time

if __name__ == "__main__":
    parent = int(sys.argv[1])
    child = subprocess.Popen(sys.argv[2:])
    while os.getppid() == parent and child.poll() is None:
        time.sleep(0.2)
    os.killpg(os.getpgrp(), signal.SIGKILL)
