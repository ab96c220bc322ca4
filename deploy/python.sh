#!/usr/bin/env bash
# Makes a virtual environment: deploy/python.sh PYTHON FOLDER
# On Debian the module behind `python -m venv` is a package of its own; as root it is installed, else named.
set -euo pipefail
python=$1 folder=$2
command -v "$python" >/dev/null || { echo "no $python here: install Python 3.11 or newer, or run make PYTHON=/path/to/python3" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "$("$python" --version) is too old: run make PYTHON=/path/to/python3.11" >&2; exit 1; }
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq python3-venv python3-pip
  else
    echo "python has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1
  fi
fi
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
