#!/usr/bin/env bash
# One stretch of at most ten minutes on a bare GPU machine: checks, a probe, measurements, then as many
# runs as fit. A second call goes on where the first one stopped.
#
# The machine has Python with torch and torchvision, and no network. This checkout, the data and an
# output folder are all that is needed; what else Python lacks is carried as wheels (hydra-core,
# omegaconf and antlr4-python3-runtime, on most machines).
#
#   scripts/gpu_session.sh --out FOLDER --data FOLDER [--data FOLDER ...] [options] RUNS...
#
#   RUNS               what python -m experiments takes: figure7 "figure7 --seeds 1,2" feedback; or
#                      files with one of these a line
#   --out FOLDER       logs, measurements, and the records as records.tar.gz.00, .01, ... (15 MiB each)
#   --data FOLDER      data sets, laid out as under data_root, or parts of them: a large set may come in
#                      halves, one a call; what has been brought is kept
#   --unpack FILE      of the data, python FILE DATA_ROOT: makes a data set of what was brought
#   --wheels FOLDER    packages that are not installed
#   --deadline SECONDS when all has to be over (default 570)
#   --device cuda      or cpu, and
#   --scale paper      or smoke: a rehearsal
#   --work FOLDER      records, checkpoints and what has been done, kept between calls
#                      (default /tmp/bpgrad-gpu)
#   --only STEPS       of checks,probe,bench,runs (default: all)
set -euo pipefail
begin=$SECONDS
here=$(cd "$(dirname "$0")/.." && pwd)

fail() { echo "error: $*" >&2; exit 2; }

out='' data=() unpack='' wheels='' deadline=570 device=cuda scale=paper work=/tmp/bpgrad-gpu
only=checks,probe,bench,runs runs=()
while [ $# -gt 0 ]; do
  case $1 in
    --out | --data | --unpack | --wheels | --deadline | --device | --scale | --work | --only)
      [ $# -gt 1 ] || fail "$1: needs a value"
      case $1 in
        --data) data+=("$(realpath -m "$2")") ;;
        --out | --work | --wheels) printf -v "${1#--}" %s "$(realpath -m "$2")" ;;
        *) printf -v "${1#--}" %s "$2" ;;
      esac
      shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;;
    -*) fail "$1: unknown; see $0 --help" ;;
    *) runs+=("$1"); shift ;;
  esac
done
[ -n "$out" ] || fail "--out: say where the results go"
case $device in cuda | cpu) ;; *) fail "--device $device: cuda or cpu" ;; esac
[[ $deadline =~ ^[0-9]+$ ]] || fail "--deadline $deadline: a whole number of seconds"
for step in ${only//,/ }; do
  case $step in checks | probe | bench | runs) ;; *) fail "--only $step: unknown" ;; esac
done
for folder in "${data[@]}" $wheels; do [ -d "$folder" ] || fail "$folder: no such folder"; done

cd "$here"
python=${PYTHON:-python3}
mkdir -p "$out" "$work/data" "$work/brought" "$work/done"
# What is compiled on the way stays for the next call.
export PYTHONUNBUFFERED=1 XDG_CACHE_HOME="$work/cache" TRITON_CACHE_DIR="$work/triton"
export BPGRAD_DATA="$work/data" PYTHONDONTWRITEBYTECODE=1

say() { echo "[$((SECONDS - begin)) s] $*"; }
left() { echo $((deadline - (SECONDS - begin) - $1)); }  # seconds, but for as many

# within SECONDS COMMAND...: end it then as SIGTERM does, later by force
within() { timeout --signal=TERM --kill-after=15 "$@"; }

if [ -n "$wheels" ]; then
  if [ ! -d "$work/site" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site.new" \
      "$wheels"/*.whl
    mv "$work/site.new" "$work/site"
  fi
  export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
fi
if [ -d "$here/.git" ]; then
  BPGRAD_GIT_SHA=${BPGRAD_GIT_SHA:-$(git rev-parse HEAD 2>/dev/null || true)}
  export BPGRAD_GIT_SHA
fi
"$python" scripts/gpu_runs.py machine --device "$device" | tee "$out/machine.json"

for folder in "${data[@]}"; do
  cp -RLu "$folder"/. "$work/brought"/
  chmod -R u+w "$work/brought"  # what comes next may belong into the same folders
done
for entry in "$work/brought"/*/; do
  [ -d "$entry" ] && ln -sfn "${entry%/}" "$work/data/$(basename "$entry")"
done
if [ -n "$unpack" ] && [ ! -e "$work/done/unpack" ]; then
  if "$python" "$work/brought/$unpack" "$work/data" > "$out/unpack.log" 2>&1; then
    touch "$work/done/unpack"
  else
    say "$unpack: not whole yet: $(tail -n 1 "$out/unpack.log")"
  fi
fi

# step NAME SECONDS COMMAND...: unless it has been done; its output also goes to NAME.log
step() {
  local name=$1 limit=$2 code=0
  shift 2
  [[ ,$only, == *,$name,* ]] || return 0
  if [ -e "$work/done/$name" ]; then say "$name: done before"; return 0; fi
  [ "$(left 40)" -gt 20 ] || { say "$name: no time left"; return 0; }
  [ "$limit" -lt "$(left 40)" ] || limit=$(left 40)
  say "$name"
  within "$limit" "$@" > "$out/$name.log" 2>&1 || code=$?
  tail -n 15 "$out/$name.log"
  if [ $code -eq 0 ]; then touch "$work/done/$name"; else say "$name: ended with $code"; fi
  failed=$((failed + (code != 0)))
}

failed=0
smoke=()
[ "$scale" = paper ] || smoke=(--smoke)
mapfile -t files < <(grep -rl --include='*.py' 'mark\.cuda' tests)
step checks 150 "$python" -m pytest -q -m cuda -p no:cacheprovider "${files[@]}"
step probe 60 "$python" scripts/bench_gpu.py probe --device "$device" "${smoke[@]}" --output "$out/probe"
step bench 150 "$python" scripts/bench_gpu.py loop steps --device "$device" "${smoke[@]}" \
  --output "$out/bench"

if [[ ,$only, == *,runs,* ]] && [ ${#runs[@]} -gt 0 ] && [ "$(left 25)" -gt 5 ]; then
  say "runs"
  code=0
  within "$(left 25)" "$python" scripts/gpu_runs.py train "${runs[@]}" --work "$work" \
    --device "$device" --scale "$scale" 2>&1 | tee "$out/runs.log" || code=$?
  # The time is over, and the runs resume: by 124 timeout says so, by 137 that it took force.
  case $code in
    0 | 124 | 137) ;;
    *) say "runs: ended with $code"; failed=$((failed + 1)) ;;
  esac
fi
"$python" scripts/gpu_runs.py pack "$work" "$out"
say "over"
[ $failed -eq 0 ] || fail "$failed steps failed; see the logs in $out"
