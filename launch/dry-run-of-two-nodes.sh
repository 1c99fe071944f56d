#!/bin/bash
# alpaca2-7b-lora: 2 nodes x 8 GPUs = 16 ranks, folded into one process by accelerate: a dry run
# made by: crossfoot launch configs/alpaca2-7b-lora.yaml --to accelerate --dry-run --steps 3 --write launch/dry-run-of-two-nodes
exec accelerate launch --config_file launch/dry-run-of-two-nodes.yaml \
  -m crossfoot train configs/alpaca2-7b-lora.yaml run.dir=runs/alpaca2-7b-lora-dryrun --stop-after 3
