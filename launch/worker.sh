#!/usr/bin/env bash
# Runs on a worker of a TPU VM: `worker.sh COMMAND JOB …`, over `gcloud … ssh --command`. All that varies comes as arguments.
# A run is detached from the connection that started it: ~/.mof/JOB/ has its log, its pid and, once it has ended, its status.
# One line of what it prints is for the launcher: `@mof WORKER STATE CODE BASE64`, the last the end of the log.
set -euo pipefail
umask 077

command=$1
job=$2
shift 2
home=$HOME/.mof/$job
log=$home/log
worker=${MOF_WORKER:-$(hostname)}
PATH=$HOME/.local/bin:$PATH
mkdir -p "$home"

say() { # STATE CODE
  local tail=""
  if [[ -f $log ]]; then tail=$(tail -c 4000 -- "$log" | base64 -w 0); fi
  printf '@mof\t%s\t%s\t%s\t%s\n' "$worker" "$1" "$2" "$tail"
}

running() { # a zombie does not run
  [[ -f $home/pid ]] && [[ ! -f $home/exit ]] && [[ $(ps -o stat= -p "$(<"$home/pid")") == [^Z]* ]]
}

# setup PYTHON EXTRAS git URL REV | setup PYTHON EXTRAS wheel FILE
setup() {
  local python=$1 extras=$2 kind=$3 what=$4 rev=${5:-} wanted="$*"
  exec 9>"$home/lock"
  flock 9
  if [[ -f $home/installed && $(<"$home/installed") == "$wanted" ]]; then
    say ready 0
    return
  fi
  if ! command -v uv >/dev/null; then python3 -m pip install --quiet --user uv; fi
  rm -rf -- "$home/venv" "$home/installed"
  uv venv --quiet --python "$python" "$home/venv"
  mkdir -p "$home/repo"
  if [[ $kind == git ]]; then
    if [[ ! -d $home/repo/.git ]]; then git clone --quiet -- "$what" "$home/repo"; fi
    git -C "$home/repo" fetch --quiet --tags -- "$what"
    # A branch is what the remote says now; a tag or a commit is itself.
    git -C "$home/repo" checkout --quiet --detach "origin/$rev" 2>/dev/null ||
      git -C "$home/repo" checkout --quiet --detach "$rev"
    uv pip install --quiet --python "$home/venv/bin/python" -e "$home/repo[$extras]"
  else
    uv pip install --quiet --python "$home/venv/bin/python" "$home/${what}[$extras]"
  fi
  printf '%s' "$wanted" >"$home/installed"
  say ready 0
}

# Puts the run's folder, programs and secrets in place. Takes KEY=REFERENCE words up to `--` and leaves what follows in `words`.
words=()
enter() {
  # shellcheck disable=SC1091  # written by the launcher, if the job has secrets of its machine
  if [[ -f $home/secrets ]]; then source "$home/secrets"; fi
  while [[ $1 != -- ]]; do
    local reference=${1#*=} value
    reference=${reference#secret-manager:}
    case $reference in */versions/*) ;; *) reference=$reference/versions/latest ;; esac
    value=$(gcloud secrets versions access "$reference") || return 1
    export "${1%%=*}=$value"
    shift
  done
  shift
  words=("$@")
  PATH=$home/venv/bin:$PATH
  export PATH PYTHONUNBUFFERED=1
  cd "$home/repo" || return 1
}

# start SECONDS [KEY=SECRET …] -- WORD…
start() {
  if running; then
    say running -
    return
  fi
  rm -f -- "$home/exit"
  setsid nohup bash "$0" supervise "$job" "$@" >>"$log" 2>&1 9>&- </dev/null &
  echo $! >"$home/pid"
  say running -
}

supervise() {
  local seconds=$1 code=0
  shift
  trap : TERM # a machine that goes down tells every process: let the run save, then write down how it ended
  exec 3>&2 2>/dev/null # keeps bash's own "Aborted" out of the log, whose last line is to be the run's
  { enter "$@" 2>&3 && timeout --signal=TERM --kill-after=300 "$seconds" "${words[@]}" 2>&3; } || code=$?
  echo "$code" >"$home/exit.part"
  mv -- "$home/exit.part" "$home/exit"
}

# guard SECONDS ZONE PROJECT: deletes the slices if the launcher has not done so by then (its machine may sleep)
guard() {
  if [[ ${worker##*-w-} != 0 ]]; then return; fi
  if [[ -f $home/guard ]]; then kill -- "-$(<"$home/guard")" 2>/dev/null || true; fi
  # shellcheck disable=SC2016  # the inner shell expands its own arguments
  setsid nohup bash -c '
    sleep "$1"
    exec gcloud compute tpus queued-resources delete "$2" --zone="$3" --project="$4" --force --quiet' \
    guard "$1" "$job" "$2" "$3" >>"$home/guard.log" 2>&1 </dev/null &
  echo $! >"$home/guard"
}

poll() {
  if running; then
    say running -
  elif [[ -f $home/exit ]]; then # looked for last: a run writes it before it is gone
    say exited "$(<"$home/exit")"
  elif [[ -f $home/pid ]]; then
    say exited 137 # killed before it could say so
  else
    say idle -
  fi
}

# stop SECONDS: asks the run to save, waits that long, then ends it
stop() {
  if running; then
    # The run is a child of `timeout`, which leads a group of its own and hands the signal on.
    pkill -TERM --session "$(<"$home/pid")" timeout || true
    for ((i = 0; i < $1 * 5; i++)); do
      if ! running; then break; fi
      sleep 0.2
    done
    if running; then
      pkill -KILL --session "$(<"$home/pid")" || true
      echo 137 >"$home/exit"
    fi
  fi
  poll
}

# preflight [KEY=SECRET …] -- FLAG…
preflight() {
  enter "$@"
  PYTHONPATH=$HOME/.mof:$home/repo timeout 900 python -m launch.preflight "${words[@]}"
}

case $command in
  setup | start | supervise | guard | poll | stop | preflight) "$command" "$@" ;;
  logs) tail -n "$1" -- "$log" ;;
  *)
    echo "worker.sh: no command '$command'" >&2
    exit 2
    ;;
esac
