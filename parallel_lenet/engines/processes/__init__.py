"""Worker processes on this machine, with shared memory."""
