#!/usr/bin/env bash
# A one-node SLURM for tests, on this machine alone: it listens on loopback, keeps all its files and its own
# munge key in one folder, and leaves /etc/slurm, /etc/munge and running services as they are.
#
#   test-cluster.sh start       bring it up (about five seconds; as root; installs slurm-wlm and munge where missing)
#   test-cluster.sh stop        end it, with its jobs
#   test-cluster.sh env         print what a shell needs: eval "$(deploy/slurm/test-cluster.sh env)"
#   test-cluster.sh run CMD...  start, run the command, stop whatever happens; give the command's exit status
#
# `run` without root only runs the command (tests that need SLURM are skipped then), unless CI is set: there,
# and for root, a cluster that does not come up is an error.
set -euo pipefail

LAB=${OVERSEG_SLURM:-/tmp/overseg-slurm}
CPUS=${OVERSEG_SLURM_CPUS:-4}      # slots for jobs; may be more than the machine's cores
GPUS=${OVERSEG_SLURM_GPUS:-1}      # made up: a null device stands for each
PORT=${OVERSEG_SLURM_PORT:-16817}  # and the one after it
CONF=$LAB/slurm.conf
HOST=$(hostname -s)

fail() { echo "test-cluster: $*" >&2; exit 1; }

installed() { command -v slurmctld slurmd munged sbatch >/dev/null; }

# A zombie, which nobody collects in a container without init, is not alive.
alive() { [ -e "/proc/$1" ] && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"; }

install_packages() {
  command -v apt-get >/dev/null || fail "SLURM is not installed and there is no apt-get; install slurm-wlm and munge"
  echo "test-cluster: installing slurm-wlm and munge" >&2
  export DEBIAN_FRONTEND=noninteractive
  local log
  log=$(mktemp)
  { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; fail "apt-get could not install slurm-wlm and munge (above)"; }
  rm -f "$log"
}

configure() {
  local memory
  memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
  mkdir -p "$LAB"/{state,spool,log,run,munge}
  chmod 0755 "$LAB" "$LAB"/munge
  cat >"$CONF" <<CONF
ClusterName=overseg-test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# Loopback only, where SLURM would listen everywhere.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthInfo=socket=$LAB/munge/socket
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd.log
# No control groups, accounting, mail or MPI: only what jobs need to start and end.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
MailProg=/bin/true
# The node has as many slots as it is told, not as many as there are cores.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=5
OverTimeLimit=0
MinJobAge=300
GresTypes=gpu
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$memory Gres=gpu:$GPUS State=UNKNOWN
DefMemPerCPU=500
PartitionName=main Nodes=$HOST Default=YES MaxTime=01:00:00 State=UP
CONF
  : >"$LAB/gres.conf"
  for ((i = 0; i < GPUS; i++)); do
    [ -e "$LAB/gpu$i" ] || mknod "$LAB/gpu$i" c 1 3
    echo "NodeName=$HOST Name=gpu File=$LAB/gpu$i" >>"$LAB/gres.conf"
  done
}

start_munge() {
  local m=$LAB/munge
  (umask 077 && head -c 128 /dev/urandom >"$m/key")
  munged --key-file="$m/key" --socket="$m/socket" --pid-file="$m/pid" --log-file="$m/log" \
    --seed-file="$m/seed" --num-threads=2 --force >/dev/null 2>&1 ||
    { cat "$m/log" >&2; fail "munged does not start (above)"; }
  munge -n -S "$m/socket" | unmunge -S "$m/socket" >/dev/null || fail "munge does not answer"
}

start() {
  [ "$(id -u)" = 0 ] || fail "root is needed to start SLURM"
  installed || install_packages
  stop
  rm -rf "$LAB"
  for port in "$PORT" $((PORT + 1)); do
    ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null ||
      fail "port $port is taken, perhaps by another SLURM: choose one with OVERSEG_SLURM_PORT"
  done
  getent hosts "$HOST" >/dev/null || echo "127.0.0.1 $HOST" >>/etc/hosts
  configure
  start_munge
  slurmctld -f "$CONF" || fail "slurmctld does not start: see $LAB/log/slurmctld.log"
  slurmd -f "$CONF" || fail "slurmd does not start: see $LAB/log/slurmd.log"
  local state=unknown
  for _ in $(seq 120); do
    state=$(SLURM_CONF=$CONF sinfo -h -N -o %T 2>/dev/null || true)
    case $state in
      idle | mixed | allocated)
        echo "test-cluster: up, $CPUS slots and $GPUS made-up cards on $HOST" >&2
        return
        ;;
    esac
    sleep 0.25
  done
  tail -n 20 "$LAB"/log/*.log >&2
  stop
  fail "SLURM did not come up within 30 seconds; its node is '${state:-unknown}' (logs above)"
}

stop() {
  [ -d "$LAB" ] || return 0
  local pids=() pid file
  if [ -s "$LAB/run/slurmctld.pid" ] && alive "$(cat "$LAB/run/slurmctld.pid")"; then
    SLURM_CONF=$CONF timeout 10 scancel --full --signal=KILL --user="$(id -un)" 2>/dev/null || true
    SLURM_CONF=$CONF timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
  fi
  for file in "$LAB"/run/slurmd.pid "$LAB"/run/slurmctld.pid "$LAB"/munge/pid; do
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null && pids+=("$pid")
  done
  for pid in "${pids[@]}"; do
    for _ in $(seq 50); do alive "$pid" || break; sleep 0.1; done
    alive "$pid" && kill -9 "$pid" 2>/dev/null || true
  done
}

run() {
  if [ "$(id -u)" != 0 ] && [ -z "${CI:-}" ]; then
    exec "$@"
  fi
  trap stop EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
  start
  SLURM_CONF=$CONF "$@"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  env) echo "export SLURM_CONF=$CONF" ;;
  run) shift; run "$@" ;;
  *) echo "usage: $0 start | stop | env | run COMMAND..." >&2; exit 2 ;;
esac
