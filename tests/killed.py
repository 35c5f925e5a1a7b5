"""Runs of `emphasis` that are killed once they have written a checkpoint."""

import signal
import subprocess
import sys
import time


def kill_after_a_checkpoint(arguments, folder, times=2):
    """Start the command so often, and kill -9 it each time it has written a checkpoint since."""
    seen = 0.0
    for _ in range(times):
        process = subprocess.Popen([sys.executable, "-m", "emphasis", *arguments], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            # Not those that are half written, whose names begin with a dot.
            written = max((path.stat().st_mtime for path in folder.glob("cells/[!.]*.pt")), default=0.0)
            if written > seen:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "killed too late to test anything"
        seen = time.time()
