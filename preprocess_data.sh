#!/usr/bin/env bash
# JSON lines -> Megatron .bin/.idx: the front door of `python -m nemo_workflow.preprocess` (--help lists the flags).
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh preprocess_data.sh
set -euo pipefail

script=$(readlink -f -- "${BASH_SOURCE[0]}") # a link may stand elsewhere
here=${script%/*}
python=$here/.venv/bin/python
if [[ ! -x $python ]]; then
    python=$(command -v python3) || {
        echo "preprocess_data.sh: error: no python3: install Python 3.11, or run 'make install' in $here" >&2
        exit 2
    }
fi
export PREPROCESS_PROGRAM=preprocess_data.sh PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m nemo_workflow.preprocess "$@"
