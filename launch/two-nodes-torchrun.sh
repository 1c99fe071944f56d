#!/bin/bash
# alpaca2-7b-lora: 2 nodes x 8 GPUs = 16 ranks, one torchrun on each of 2 machines
# made by: crossfoot launch configs/alpaca2-7b-lora.yaml --to torchrun --address node1 --write launch/two-nodes-torchrun
exec torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node1:29500 --rdzv-id alpaca2-7b-lora \
  -m crossfoot train configs/alpaca2-7b-lora.yaml
