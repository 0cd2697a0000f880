#!/usr/bin/env bash
# Runs a target of the Makefile (default: test) on each version in $PYTHONS: called by `make test-matrix`.
# Exit status 1 where one fails, 2 where none of them is installed.
set -uo pipefail
target=${1:-test}
summary=()
status=2

# A command named python3.12 may be the shim of a version manager that has not chosen this version: it is
# there and does not run. pyenv keeps its versions under one folder, each with an interpreter of its own.
find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1"*/bin/python; do
    if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ]; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

for version in $PYTHONS; do
  if ! python=$(find_python "$version"); then
    summary+=("Python $version: not installed")
    continue
  fi
  started=$SECONDS
  if "$MAKE" --no-print-directory PYTHON="$python" VENV="$VENV-$version" "$target"; then
    result=passed
    [ "$status" = 1 ] || status=0
  else
    result=FAILED
    status=1
  fi
  jax=$("$VENV-$version/bin/python" -c 'import jax; print(jax.__version__)' 2>/dev/null)
  summary+=("$("$python" -V), jax ${jax:-missing}: make $target $result, $((SECONDS - started)) s")
done
printf '%s\n' "${summary[@]}"
exit "$status"
