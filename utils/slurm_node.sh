#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests of --backend slurm: no systemd, no accounting, nothing outside DIR.
#
# Usage: utils/slurm_node.sh start DIR     munged, slurmctld and slurmd; prints what to export
#        utils/slurm_node.sh stop DIR
# Needs root and the packages slurm-wlm and munge (Debian: apt-get install slurm-wlm munge).
set -euo pipefail
case ${1-} in start | stop) ;; *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;; esac
[[ $# == 2 ]] || { echo "$0: needs a directory" >&2; exit 2; }
mkdir -p "$2"
dir=$(cd "$2" && pwd)

stop() {
  local name pid
  for name in slurmd slurmctld munged; do
    [[ -f $dir/$name.pid ]] || continue
    pid=$(<"$dir/$name.pid")
    if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$name" ]]; then kill "$pid"; fi
    rm -f "$dir/$name.pid"
  done
}

if [[ $1 == stop ]]; then
  stop
  exit 0
fi

for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || { echo "$0: no $program; install slurm-wlm and munge" >&2; exit 2; }
done
[[ $EUID == 0 ]] || { echo "$0: needs root" >&2; exit 2; }
stop
mkdir -p "$dir/spool" "$dir/state"
chmod 755 "$dir"
(umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
munged --force --num-threads=2 --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
  --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
cat >"$dir/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$dir/munge.socket
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=0
KillWait=5
OverTimeLimit=0
MessageTimeout=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in {1..60}; do
  if [[ $(sinfo --noheader --format=%t 2>/dev/null) == idle ]]; then
    echo "export SLURM_CONF=$SLURM_CONF"
    exit 0
  fi
  sleep 0.5
done
echo "$0: the node does not come up; see $dir/slurmctld.log and $dir/slurmd.log" >&2
exit 1
