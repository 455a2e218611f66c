"""How a run ends, as others are told: markers in its folder, and exit codes. No torch: launchers and scripts read it.

A marker proves what no exit code does: launchers pass on the wrong one, or 0.
"""

FINISHED, STOPPED = "FINISHED", "STOPPED"
"""The last step is done; left when asked, `STEP REASON`."""
LAUNCHER_GONE = "the launcher is gone"
"""The reason where no signal asked, but the end of what had started the ranks."""
MISTAKE = 2
"""Exit code: a person can mend it, and one line on stderr says how."""
AGAIN = 75
"""Exit code: stopped as asked, or by the watchdog: the same command goes on; EX_TEMPFAIL of sysexits.h."""
