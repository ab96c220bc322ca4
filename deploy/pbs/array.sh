#!/usr/bin/env bash
# The array path, for sites where no scheduler may run for long: prepare, then an array, then finish.
#
#   array.sh plan VOLUME PLAN TASKS [FILE.toml]
#   array.sh apply PLAN TASKS [FILE.toml]
#
# Two tasks or more; no path may have a comma in it. OVERSEG_QUEUE: the queue. OVERSEG_FINISH_SELECT: of the last
# part (select=1:ncpus=8:mem=16gb).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  sed -n '4,5s/^# *//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

case ${1:-} in
  plan)
    [ $# -ge 4 ] && [ $# -le 5 ] || usage
    what="VERB=plan,TARGET=$2,OUT=$3"
    shift 3
    ;;
  apply)
    [ $# -ge 3 ] && [ $# -le 4 ] || usage
    what="VERB=apply,TARGET=$2"
    shift 2
    ;;
  *) usage ;;
esac
tasks=$1
[[ $tasks =~ ^[1-9][0-9]*$ ]] && ((tasks >= 2)) || usage
[ -z "${2:-}" ] || what+=",CONFIG=$2"

# Where one is refused, those before it go too: an application that is prepared, with nobody to do it, holds the
# volume.
submitted=()
refused() {
  [ ${#submitted[@]} -eq 0 ] || qdel "${submitted[@]}"
  echo "array.sh: a job was refused, so that none is left in the queue" >&2
}
trap refused ERR

submit() { qsub ${OVERSEG_QUEUE:+-q "$OVERSEG_QUEUE"} "$@" "$here/array.pbs"; }

prepare=$(submit -v "$what,PART=prepare,TASKS=$tasks")
submitted+=("$prepare")
array=$(submit -v "$what,PART=task" -J "0-$((tasks - 1))" -W "depend=afterok:$prepare")
submitted+=("$array")
# afterany: what a task left undone, the last part does.
finish=$(submit -v "$what,PART=finish" -W "depend=afterok:$prepare,afterany:$array" \
  -l "${OVERSEG_FINISH_SELECT:-select=1:ncpus=8:mem=16gb}")
echo "prepare $prepare, array $array, finish $finish"
