#!/bin/bash
# demo: 1 node x 2 GPUs = 2 ranks, on this machine, by the deepspeed launcher
# made by: crossfoot launch configs/demo.yaml --to local --write launch/one-node-deepspeed
exec deepspeed --quiet --num_gpus 2 --master_port 29500 \
  --module crossfoot train configs/demo.yaml
