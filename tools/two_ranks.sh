#!/usr/bin/env bash
# tools/two_ranks.sh CONFIG [WORDS]: train.py on 2 ranks, started by the real deepspeed launcher.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python

# Two ranks need two GPUs (NCCL refuses two ranks on one); with fewer it runs on the CPU.
if [ -z "${DS_ACCELERATOR-}" ]; then
  gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
  if [ "$gpus" -lt 2 ]; then export DS_ACCELERATOR=cpu; fi
fi
if [ "${DS_ACCELERATOR-}" = cpu ] && [ -z "${OMP_NUM_THREADS-}" ]; then
  cores=$("$python" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
  export OMP_NUM_THREADS=$((cores < 4 ? 1 : cores / 2))
fi
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

echo "deepspeed --num_gpus 2 train.py $*   on ${DS_ACCELERATOR:-GPUs}"
exec .venv/bin/deepspeed --quiet --num_gpus 2 --master_port "$port" train.py "$@"
