"""Train one run, on every rank that a launcher starts:

    deepspeed --num_gpus 2 train.py configs/demo.yaml        DeepSpeed, two ranks
    accelerate launch train.py configs/demo.yaml             one process, the plan's ranks folded into it
    python train.py configs/demo.yaml                        the same

The steps (src/crossfoot/training/session.py): read and check what was written, tokenise once, plan; agree
with all ranks; build; train; close with a receipt. The same as `crossfoot train CONFIG`.
"""

import sys

from crossfoot.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
