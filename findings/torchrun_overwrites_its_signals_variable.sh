#!/usr/bin/env bash
# torchrun: TORCHELASTIC_SIGNALS_TO_HANDLE, set by the user, is overwritten by the default of --signals-to-handle.
#
# Version: torch 2.14.1. Behaviour: the agent reads the signals that it takes from this variable, but the launcher sets it
# first from its own flag, whose default is SIGTERM,SIGINT,SIGHUP,SIGQUIT. So a job that is to outlive its terminal, by
# `nohup env TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGINT torchrun ...`, is ended by SIGHUP all the same, although nohup
# made the command ignore that signal. Only the flag --signals-to-handle=SIGTERM,SIGINT has the effect.
#
# Output seen:
#   by the variable: SIGTERM,SIGINT,SIGHUP,SIGQUIT
#   by the flag: SIGTERM,SIGINT
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.3.5"
echo 'import os; print(os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"])' > "$folder/worker.py"
run() { "$folder/venv/bin/python" -m torch.distributed.run --standalone --nproc-per-node=1 "$@" "$folder/worker.py" 2>/dev/null; }
variable=$(TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGINT run)
flag=$(run --signals-to-handle=SIGTERM,SIGINT)
echo "by the variable: $variable"
echo "by the flag: $flag"
[ "$variable" = SIGTERM,SIGINT,SIGHUP,SIGQUIT ] && [ "$flag" = SIGTERM,SIGINT ] || { echo "this finding is no longer true"; exit 1; }
