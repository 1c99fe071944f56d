#!/bin/bash
# alpaca2-7b-lora: 2 nodes x 8 GPUs = 16 ranks, by accelerate, on 2 machines
# made by: crossfoot launch configs/alpaca2-7b-lora.yaml --to accelerate --address node1 --write launch/two-nodes-accelerate
node=${1:?say which host this is: 0 for the first, 1 for the second}
exec accelerate launch --config_file launch/two-nodes-accelerate.yaml --machine_rank "$node" \
  -m crossfoot train configs/alpaca2-7b-lora.yaml
