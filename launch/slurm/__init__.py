"""Training under Slurm: scripts for sbatch that requeue and resume, and the verbs submit, status and cancel.

submit.py calls sbatch (client.py) with what script.py makes of arguments.py and pipeline.py, kept in RUN/slurm/
(folder.py). The job's script asks lives.py before each start whether to go on, and after it what to do next.
"""
