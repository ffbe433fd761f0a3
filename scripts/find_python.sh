#!/bin/sh
# Print the Python to build .venv with: the machine's own python3 if it is new enough,
# else the newest other one. Tried by running it: a version manager's shim may exist and not work.
set -eu

too_old=""
no_venv=""
for name in python3 python3.13 python3.12 python3.11 python; do
  path=$(command -v "$name") || continue
  version=$("$path" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
  if ! "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    too_old="$too_old $path ($version)"
  elif ! "$path" -c 'import ensurepip, venv' 2>/dev/null; then
    no_venv="$no_venv $path ($version)"
  else
    echo "$path"
    exit 0
  fi
done

if [ -n "$no_venv" ]; then
  echo "python: cannot create a virtual environment with$no_venv: its venv module is incomplete." \
    "Install it (Debian, Ubuntu: apt-get install python3-venv)." >&2
else
  echo "python: Python 3.11 or newer is needed; found:${too_old:- none}." \
    "Install one, or name it: make PYTHON=/path/to/python3" >&2
fi
exit 1
