#!/bin/bash
# alpaca2-7b-lora: 2 nodes x 8 GPUs = 16 ranks, one deepspeed launcher on each host of the hostfile
# made by: crossfoot launch configs/alpaca2-7b-lora.yaml --to deepspeed --no-ssh --hostfile launch/two-nodes.hostfile --write launch/two-nodes-deepspeed-no-ssh
node=${1:?say which host this is: 0 for the first, 1 for the second}
exec deepspeed --quiet --no_ssh --node_rank "$node" --master_addr node1 --master_port 29500 --hostfile launch/two-nodes.hostfile \
  --module crossfoot train configs/alpaca2-7b-lora.yaml
