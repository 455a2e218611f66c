#!/usr/bin/env bash
# Slurm on this machine: munged, slurmctld and two slurmd on loopback, everything in the folder $1, which holds
# slurm.conf. Lives until its standard input ends: whoever holds the other end of that pipe may end however it likes.
# A line on it is the name of a node whose slurmd is to be started again.
# As root this is process 1 of a process namespace of its own, so its end is the end of daemons, steps and jobs.
set -euo pipefail
d=$1
export SLURM_CONF=$d/slurm.conf
PATH=$PATH:/usr/sbin:/sbin
start_node() { SLAM_ASR_NODE=$1 slurmd -D -N "$1" </dev/null & }
munged -F -f -S "$d/munge.sock" --key-file="$d/munge.key" --log-file="$d/munge.log" --pid-file="$d/munge.pid" \
    --seed-file="$d/munge.seed" </dev/null &
until [ -S "$d/munge.sock" ]; do sleep 0.02; done
slurmctld -D -i </dev/null &
start_node n1
start_node n2
while read -r node; do start_node "$node"; done
# Where there is no namespace: steps live apart from slurmd.
scontrol show jobs -o | sed -n 's/^JobId=\([0-9]*\) .*JobState=\(RUNNING\|PENDING\|COMPLETING\) .*/\1/p' |
    xargs -r scancel --full -s KILL || true
kill -TERM 0 2>/dev/null || true
