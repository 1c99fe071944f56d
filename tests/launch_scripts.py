"""Launch files as people write them, all of them right for CONFIG: 2 nodes with 8 GPUs each."""

CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny}
data: {train: [data/demo/zh.jsonl]}
batch: {micro_batch_size: 4, grad_accum_steps: 2}
cluster:
  num_nodes: 2
  gpus_per_node: 8
lr: {reference: 1e-4}
deepspeed: zero2.json
train: {epochs: 1}
"""
HOSTFILE = "# two machines\nworker-1 slots=8\nworker-2 slots=8\n"
ACCELERATE_FILE = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: MULTI_GPU
downcast_bf16: 'no'
enable_cpu_affinity: false
gpu_ids: all
machine_rank: 0
main_process_ip: 10.0.0.1
main_process_port: 29500
main_training_function: main
mixed_precision: bf16
num_machines: 2
num_processes: 16
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""

MATCHING = {
    "slurm, torchrun with c10d": r"""#!/bin/bash
#SBATCH --job-name=alpaca2
#SBATCH --nodes=2                  # number of nodes
#SBATCH --ntasks-per-node=1        # one launcher each
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=logs/%x-%j.out
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --exclusive
##SBATCH --nodes=4

set -euo pipefail
source ~/.bashrc
module load cuda/12.1
conda activate crossfoot

export OMP_NUM_THREADS=8
nodes=( $( scontrol show hostnames $SLURM_JOB_NODELIST ) )
head_node=${nodes[0]}
head_node_ip=$(srun --nodes=1 --ntasks=1 -w "$head_node" hostname --ip-address)
GPUS_PER_NODE=8
CONFIG=config.yaml
echo Node IP: $head_node_ip

crossfoot check $CONFIG
srun torchrun \
    --nnodes $SLURM_NNODES \
    --nproc_per_node $GPUS_PER_NODE \
    --rdzv_id $RANDOM \
    --rdzv_backend c10d \
    --rdzv_endpoint $head_node_ip:29500 \
    train.py $CONFIG
""",
    "slurm, srun python": r"""#!/usr/bin/env bash
#SBATCH -J alpaca
#SBATCH -N 2
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:a100:8
#SBATCH -c 8
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=29500
export WORLD_SIZE=$(($SLURM_NNODES * $SLURM_NTASKS_PER_NODE))
cd "$SLURM_SUBMIT_DIR"
srun --kill-on-bad-exit=1 --cpu-bind=none python -u train.py config.yaml 2>&1 | tee log.txt
""",
    "deepspeed with a hostfile": r"""#!/bin/bash
N=8
deepspeed --hostfile hosts --num_gpus $N --master_port ${PORT:-29500} \
    train.py config.yaml
""",
    "srun bash -c python -m torch.distributed.run": r"""#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
export GPUS_PER_NODE=8
export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)
srun --jobid $SLURM_JOBID bash -c 'python -m torch.distributed.run \
 --nproc_per_node $GPUS_PER_NODE --nnodes $SLURM_NNODES --node_rank $SLURM_PROCID \
 --master_addr $MASTER_ADDR --master_port 9901 train.py config.yaml'
""",
    "srun accelerate, put together from variables": r"""#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=160
source activateEnvironment.sh
export GPUS_PER_NODE=8
head_node_ip=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)
export LAUNCHER="accelerate launch \
    --num_processes $((SLURM_NNODES * GPUS_PER_NODE)) \
    --num_machines $SLURM_NNODES \
    --rdzv_backend c10d \
    --main_process_ip $head_node_ip \
    --main_process_port 29500 \
    --machine_rank \$SLURM_PROCID \
    "
export SCRIPT="train.py"
export SCRIPT_ARGS=" \
    config.yaml \
    "
export CMD="$LAUNCHER $SCRIPT $SCRIPT_ARGS"
srun $CMD
""",
    "deepspeed in a batch script, with a hostfile of its own": r"""#!/bin/bash
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/$/ slots=8/' > hostfile
deepspeed --hostfile hostfile --master_addr $(hostname) train.py config.yaml
""",
    "deepspeed without ssh under srun": r"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
#SBATCH --gpus-per-node=8
HOSTFILE=hosts.$SLURM_JOB_ID
MASTER=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -1)
scontrol show hostnames $SLURM_JOB_NODELIST | sed 's/$/ slots=8/' > $HOSTFILE
srun bash -c "deepspeed --no_ssh --node_rank \$SLURM_NODEID --master_addr $MASTER \
    --hostfile $HOSTFILE train.py config.yaml"
""",
    "in a container": r"""#!/bin/bash
#SBATCH -N2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
srun --mpi=pmix --container-image=x.sqsh apptainer exec --nv img.sif python -u train.py config.yaml
""",
    "torchrun by hand on each node": r"""#!/bin/bash
NNODES=${NNODES:-2}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
DISTRIBUTED_ARGS=(
    --nproc_per_node=8 --nnodes=$NNODES   # as everywhere
    --node_rank=$NODE_RANK --master_addr=$MASTER_ADDR --master_port=29500
)
torchrun "${DISTRIBUTED_ARGS[@]}" train.py config.yaml "$@"
""",
    "a dry run in one process": "accelerate launch --num_processes 1 train.py config.yaml --stop-after 3\n",
    "plain python": "python train.py config.yaml\n",
    "the verbs": """set -e
crossfoot plan config.yaml
crossfoot check config.yaml
crossfoot train config.yaml
""",
    "a dry run in a job of one task": r"""#!/bin/bash
#SBATCH --nodes=1
#SBATCH --gres=gpu:1
#SBATCH --ntasks=1
srun --ntasks=1 nvidia-smi
accelerate launch --num_processes=1 --num_machines=1 --mixed_precision=no train.py config.yaml
""",
}
