#!/usr/bin/env bash
# The array path, for sites where no scheduler may run for long: prepare, then an array, then finish.
#
#   array.sh plan VOLUME PLAN TASKS [OPTION...]
#   array.sh apply PLAN TASKS [OPTION...]
#
# The options are those of overseg, the same for all parts. Partition, account, time: SBATCH_PARTITION,
# SBATCH_ACCOUNT, SBATCH_TIMELIMIT. OVERSEG_AT_ONCE: tasks that may run at the same time. OVERSEG_FINISH_CPUS and
# OVERSEG_FINISH_MEM: of the last part (8, 16G).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  sed -n '4,5s/^# *//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

case ${1:-} in
  plan)
    [ $# -ge 4 ] || usage
    what=(plan "$2" --out "$3")
    tasks=$4
    shift 4
    ;;
  apply)
    [ $# -ge 3 ] || usage
    what=(apply "$2")
    tasks=$3
    shift 3
    ;;
  *) usage ;;
esac
[[ $tasks =~ ^[1-9][0-9]*$ ]] || usage

# A job whose turn can never come is not left in the queue; nor those before one that is refused: an application
# that is prepared, with nobody to do it, holds the volume.
submit() {
  local id
  id=$(sbatch --parsable --kill-on-invalid-dep=yes "$@") || return
  echo "${id%%;*}"
}
submitted=()
refused() {
  [ ${#submitted[@]} -eq 0 ] || scancel "${submitted[@]}"
  echo "array.sh: a job was refused, so that none is left in the queue" >&2
}
trap refused ERR

job=$here/array.sbatch
prepare=$(submit --output="overseg-prepare-%j.log" "$job" "${what[@]}" "$@" --prepare "$tasks")
submitted+=("$prepare")
array=$(submit --output="overseg-task-%A-%a.log" --dependency="afterok:$prepare" \
  --array="0-$((tasks - 1))${OVERSEG_AT_ONCE:+%$OVERSEG_AT_ONCE}" "$job" "${what[@]}" "$@")
submitted+=("$array")
# afterany: what a task left undone, the last part does.
finish=$(submit --output="overseg-finish-%j.log" --dependency="afterok:$prepare,afterany:$array" \
  --cpus-per-task="${OVERSEG_FINISH_CPUS:-8}" --mem="${OVERSEG_FINISH_MEM:-16G}" \
  "$job" "${what[@]}" "$@" --finish)
echo "prepare $prepare, array $array, finish $finish"
