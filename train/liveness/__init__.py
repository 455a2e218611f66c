"""Stopping and stalling: signals, the launcher's end, the watchdog, and the markers and exit codes of a run.

stop.py, lifeline.py, exit_status.py and permanent_failure.py are imported before torch.
"""
