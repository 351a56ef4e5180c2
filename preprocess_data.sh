#!/usr/bin/env bash
# JSON lines -> Megatron .bin/.idx: the front door of `python -m nemo_workflow.preprocess` (--help lists the flags).
set -euo pipefail

folder=${BASH_SOURCE[0]%/*}
[[ $folder != "${BASH_SOURCE[0]}" ]] || folder=.
here=$(cd -- "$folder" && pwd -P && printf x) # the x keeps a line break at the end of a folder's name
here=${here%$'\n'x}
python=$here/.venv/bin/python
if [[ ! -x $python ]]; then
    python=$(command -v python3) || {
        echo "preprocess_data.sh: error: no python3: install Python 3.11, or run 'make install' in $here" >&2
        exit 2
    }
fi
export PREPROCESS_PROGRAM=preprocess_data.sh PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m nemo_workflow.preprocess "$@"
