"""The markers in a run's folder and the exit codes of training. No torch: launchers and scripts read it.

A marker proves what no exit code does: launchers pass on the wrong one, or 0.
"""

FINISHED, STOPPED = "FINISHED", "STOPPED"  # the last step is done; stopped when asked, `STEP REASON`
LAUNCHER_GONE = "the launcher is gone"  # the reason where no signal asked, but the launcher of the ranks ended
MISTAKE = 2  # exit code: a person can mend it, and one line on stderr says how
AGAIN = 75  # exit code: stopped as asked, or by the watchdog: the same command goes on; EX_TEMPFAIL of sysexits.h
