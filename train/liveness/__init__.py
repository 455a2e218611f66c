"""Stopping and stalling: signals, the launcher's end, the watchdog, and the markers and exit codes of a run.

stop.py and exit_status.py are imported before torch. Begin with stop.py. May import recipe and dist."""
