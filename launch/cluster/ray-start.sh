#!/usr/bin/env bash
# One node's part of a Ray cluster, without any scheduler:
#
#   launch/cluster/ray-start.sh head                  on the first node; prints the ADDRESS of the cluster
#   launch/cluster/ray-start.sh worker ADDRESS        on every other node
#   launch/cluster/ray-start.sh stop [--now]          on every node, the head last
#   launch/cluster/ray-start.sh address               prints the ADDRESS that `head` would have here
#
# `head` and `worker` return when Ray runs; with --block they stay until Ray ends, as a container or srun wants it.
# `stop` ends the Ray that was started here, and no other one of this machine. On the head it first asks the running
# jobs to write their checkpoints, and waits for them; --now does not.
#
# Settings, all from the environment:
#   NODE_IP           this node's address, as the others reach it (else that of INTERFACE, else the first one)
#   INTERFACE         the network interface whose address is taken
#   NODE_NAME         its name in Ray (else Slurm's or the host's)
#   DEVICE            cuda | npu | cpu | auto: what ACCELERATORS counts (auto: Ray finds them itself)
#   ACCELERATORS      how many of them Ray may hand out (else what Ray finds)
#   CPUS              likewise
#   GCS_PORT 6379, DASHBOARD_PORT 8265 (loopback only), NODE_MANAGER_PORT 6380, OBJECT_MANAGER_PORT 6381,
#   RUNTIME_ENV_PORT 6382, AGENT_PORT 52365, METRICS_PORT 8080, CLIENT_PORT 10001 (head), WORKER_PORTS 10002-19999
#   STATE_DIR         what is kept between start and stop, and Ray's session (else /tmp/rlhf-ray-<user id>): a folder of
#                     yours in which nobody else may write, made where there is none; keep it short, Ray's sockets live
#                     there
#   START_TIMEOUT 120, JOB_STOP_TIMEOUT 1800, STOP_TIMEOUT 60, in seconds
#   RAY_AUTH_MODE     token (default) | disabled. The token is RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH or
#                     ~/.ray/auth_token: `head` makes the file where there is none, and every node needs the same.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
STATE_DIR=$(realpath -sm "${STATE_DIR:-/tmp/rlhf-ray-$(id -u)}") # without a slash at its end, which would follow a link
LOG=$STATE_DIR/ray.log
START_TIMEOUT=${START_TIMEOUT:-120}
JOB_STOP_TIMEOUT=${JOB_STOP_TIMEOUT:-1800}
STOP_TIMEOUT=${STOP_TIMEOUT:-60}
GCS_PORT=${GCS_PORT:-6379}
DASHBOARD_PORT=${DASHBOARD_PORT:-8265}
DEVICE=${DEVICE:-auto}
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}

die() {
  echo "ray-start: $*" >&2
  exit 1
}

usage() {
  sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

# --- the folder between start and stop: what stands in it is believed, so nobody else may have put it there ---

check_state_dir() {
  local parent mode
  parent=$(dirname "$STATE_DIR")
  [ ! -L "$STATE_DIR" ] || die "STATE_DIR=$STATE_DIR is a symbolic link: remove it, or name another folder"
  [ -d "$STATE_DIR" ] || die "STATE_DIR=$STATE_DIR is no folder: name another one"
  [ -O "$STATE_DIR" ] || die "STATE_DIR=$STATE_DIR belongs to $(stat -c %U "$STATE_DIR"): name a folder of your own"
  mode=$(stat -c %a "$STATE_DIR")
  ((!(8#$mode & 8#022))) || die "STATE_DIR=$STATE_DIR may be written by others (mode $mode): chmod go-w $STATE_DIR"
  mode=$(stat -L -c %a "$parent")
  ((!(8#$mode & 8#002) || 8#$mode & 8#1000)) ||
    die "STATE_DIR=$STATE_DIR may be replaced by others, who may write in $parent: name another folder"
}

make_state_dir() { # with no moment in which it is open to others; an old one is taken if it is ours alone
  (umask 077 && mkdir -p "$(dirname "$STATE_DIR")")
  [ -L "$STATE_DIR" ] || mkdir -m 700 "$STATE_DIR" 2>/dev/null || true
  check_state_dir
}

# --- what this script started: a pid, and a mark that all its processes inherit in their environment ---

marked() { # marked MARK: the ids of the processes that carry it
  local environ
  for environ in /proc/[0-9]*/environ; do
    if tr '\0' '\n' <"$environ" | grep -qxF "RLHF_RAY_MARK=$1"; then
      basename "$(dirname "$environ")"
    fi
  done 2>/dev/null
}

is_marked() { # is_marked PID MARK
  { tr '\0' '\n' <"/proc/$1/environ" | grep -qxF "RLHF_RAY_MARK=$2"; } 2>/dev/null
}

load_state() { # sets PID, MARK and ROLE; fails where nothing was started
  PID='' MARK='' ROLE=''
  [ -e "$STATE_DIR" ] || [ -L "$STATE_DIR" ] || return 1
  check_state_dir
  [ -s "$STATE_DIR/state" ] || return 1
  read -r PID ROLE MARK <"$STATE_DIR/state"
}

signal_marked() { # signal_marked SIGNAL: to every process of this Ray
  local pid
  for pid in $(marked "$MARK"); do
    kill "-$1" "$pid" 2>/dev/null || true
  done
}

need_ray() { # the checkout's own environment, where none is active
  if ! command -v ray >/dev/null && [ -x "$ROOT/.venv/bin/ray" ]; then
    PATH=$ROOT/.venv/bin:$PATH
  fi
  command -v ray >/dev/null || die "no ray on PATH: activate the environment that has it"
}

# --- starting ---

own_address() {
  if [ -n "${NODE_IP:-}" ]; then
    echo "$NODE_IP"
  elif [ -n "${INTERFACE:-}" ]; then
    ip -4 -o address show dev "$INTERFACE" | awk '{sub("/.*", "", $4); print $4; exit}'
  else
    hostname -I | awk '{print $1}'
  fi
}

token_ready() { # token_ready ROLE: the head makes the token where there is none
  [ "$RAY_AUTH_MODE" = token ] && [ -z "${RAY_AUTH_TOKEN:-}" ] || return 0
  local file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
  [ -s "$file" ] && return 0
  [ "$1" = head ] || die "no token in $file: copy it from the head, or name it with RAY_AUTH_TOKEN_PATH"
  mkdir -p "$(dirname "$file")"
  (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file.new" && mv -n "$file.new" "$file")
  rm -f "$file.new"
  echo "ray-start: made a token in $file: every node needs it"
}

resource_arguments() { # fills ARGUMENTS with what Ray may hand out
  if [ -n "${CPUS:-}" ]; then
    ARGUMENTS+=("--num-cpus=$CPUS")
  fi
  case $DEVICE in
    auto | cpu) ;;
    cuda) [ -z "${ACCELERATORS:-}" ] || ARGUMENTS+=("--num-gpus=$ACCELERATORS") ;;
    npu) [ -z "${ACCELERATORS:-}" ] || ARGUMENTS+=("--resources={\"NPU\": $ACCELERATORS}") ;;
    *) die "DEVICE=$DEVICE: expected cuda, npu, cpu or auto" ;;
  esac
}

load_cann() { # Ascend's libraries, where this shell does not have them yet
  local setup=/usr/local/Ascend/ascend-toolkit/set_env.sh
  if [ "$DEVICE" = npu ] && [ -z "${ASCEND_HOME_PATH:-}" ] && [ -f "$setup" ]; then
    set +u
    # shellcheck disable=SC1090
    . "$setup"
    set -u
  fi
}

start() { # start ROLE ADDRESS BLOCK
  local role=$1 address=$2 block=$3 ip ports=${WORKER_PORTS:-10002-19999}
  if load_state && is_marked "$PID" "$MARK"; then
    die "the Ray of $STATE_DIR still runs (pid $PID): $0 stop, or another STATE_DIR"
  fi
  need_ray
  ip=$(own_address)
  [ -n "$ip" ] || die "cannot tell this node's address: set NODE_IP"
  make_state_dir
  token_ready "$role"
  load_cann
  ARGUMENTS=("--node-ip-address=$ip" "--node-name=${NODE_NAME:-${SLURMD_NODENAME:-$(hostname -s)}}"
    "--temp-dir=$STATE_DIR/ray"
    "--node-manager-port=${NODE_MANAGER_PORT:-6380}" "--object-manager-port=${OBJECT_MANAGER_PORT:-6381}"
    "--runtime-env-agent-port=${RUNTIME_ENV_PORT:-6382}" "--dashboard-agent-listen-port=${AGENT_PORT:-52365}"
    "--metrics-export-port=${METRICS_PORT:-8080}"
    "--min-worker-port=${ports%-*}" "--max-worker-port=${ports#*-}" --disable-usage-stats --block)
  if [ "$role" = head ]; then
    address=$ip:$GCS_PORT
    ARGUMENTS+=(--head "--port=$GCS_PORT" --dashboard-host=127.0.0.1 "--dashboard-port=$DASHBOARD_PORT"
      "--ray-client-server-port=${CLIENT_PORT:-10001}")
  else
    ARGUMENTS+=("--address=$address")
  fi
  resource_arguments

  MARK=$STATE_DIR:$$:$(date +%s%N)
  unset RAY_ADDRESS # it would send `ray start` to another cluster
  if [ "$block" = yes ]; then
    echo "$$ $role $MARK" >"$STATE_DIR/state"
    echo "ray-start: $role $address"
    exec env RLHF_RAY_MARK="$MARK" ray start "${ARGUMENTS[@]}"
  fi
  RLHF_RAY_MARK=$MARK setsid nohup ray start "${ARGUMENTS[@]}" >"$LOG" 2>&1 </dev/null &
  PID=$!
  echo "$PID $role $MARK" >"$STATE_DIR/state"
  wait_started "$role"
  echo "ray-start: $role runs, address $address, log $LOG"
  if [ "$role" = head ]; then
    echo "ray-start: on the other nodes: launch/cluster/ray-start.sh worker $address"
    echo "ray-start: jobs go to --address http://127.0.0.1:$DASHBOARD_PORT, with RAY_AUTH_MODE=$RAY_AUTH_MODE"
  fi
}

wait_started() { # until Ray says so; with the end of its log where it does not
  local deadline=$((SECONDS + START_TIMEOUT))
  until grep -q 'Ray runtime started' "$LOG" &&
    { [ "$1" != head ] || (exec 3<>"/dev/tcp/127.0.0.1/$DASHBOARD_PORT") 2>/dev/null; }; do
    if ! kill -0 "$PID" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 20 "$LOG" >&2
      end_ray
      die "Ray did not start within $START_TIMEOUT s; the end of its log is above"
    fi
    sleep 0.5
  done
}

# --- stopping ---

end_ray() { # SIGTERM to `ray start`, which ends its children; SIGKILL to what is left after STOP_TIMEOUT
  local deadline=$((SECONDS + STOP_TIMEOUT))
  if is_marked "$PID" "$MARK"; then
    kill -TERM "$PID" 2>/dev/null || true
  fi
  while is_marked "$PID" "$MARK" && [ "$SECONDS" -lt "$deadline" ]; do
    sleep 0.5
  done
  if [ -n "$(marked "$MARK")" ]; then
    signal_marked TERM
    sleep 2
    signal_marked KILL
  fi
  rm -f "$STATE_DIR/state"
}

stop() { # stop NOW
  if ! load_state; then
    echo "ray-start: nothing was started from $STATE_DIR"
    return
  fi
  if [ "$ROLE" = head ] && [ "$1" = no ] && is_marked "$PID" "$MARK"; then
    need_ray
    python "$HERE/ray_jobs.py" stop --address "http://127.0.0.1:$DASHBOARD_PORT" --timeout "$JOB_STOP_TIMEOUT" ||
      echo "ray-start: not all jobs ended in time; Ray is ended all the same" >&2
  fi
  end_ray
  echo "ray-start: stopped the $ROLE"
}

COMMAND=${1:-}
ADDRESS='' FLAG=no
shift || true
for argument in "$@"; do
  case $COMMAND:$argument in
    head:--block | worker:--block | stop:--now) FLAG=yes ;;
    worker:*:*) ADDRESS=$argument ;;
    *) die "$COMMAND does not know $argument" ;;
  esac
done
case $COMMAND in
  head) start head '' "$FLAG" ;;
  worker)
    [ -n "$ADDRESS" ] || die "worker: expected the head's ADDRESS, HOST:PORT"
    start worker "$ADDRESS" "$FLAG"
    ;;
  stop) stop "$FLAG" ;;
  address) echo "$(own_address):$GCS_PORT" ;;
  -h | --help) usage ;;
  *) usage >&2 && exit 2 ;;
esac
