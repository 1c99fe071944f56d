#!/bin/bash
# alpaca2-7b-lora: 2 nodes x 8 GPUs = 16 ranks, by the deepspeed launcher over pdsh and ssh
# made by: crossfoot launch configs/alpaca2-7b-lora.yaml --to deepspeed --hostfile launch/two-nodes.hostfile --write launch/two-nodes-deepspeed
# a host that no longer answers ends the job
export PDSH_SSH_ARGS_APPEND='-o ServerAliveInterval=5 -o ServerAliveCountMax=2'
# what deepspeed sets on every host, besides PYTHON* and NCCL_*; no file keeps secrets
export DS_ENV_FILE=$(mktemp) && exec 9<> "$DS_ENV_FILE" && rm "$DS_ENV_FILE"
grep -hs = ~/.deepspeed_env .deepspeed_env >&9
env | grep -E '^(PATH|CROSSFOOT_LAUNCH|DS_ACCELERATOR|OMP_NUM_THREADS|GLOO_SOCKET_IFNAME|HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE|MODELSCOPE_CACHE)=' >&9
export DS_ENV_FILE=/dev/fd/9
exec deepspeed --quiet --hostfile launch/two-nodes.hostfile --master_port 29500 \
  --module crossfoot train configs/alpaca2-7b-lora.yaml
