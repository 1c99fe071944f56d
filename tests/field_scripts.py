"""Launch scripts as public repositories have them, started with crossfoot: `@@` is the number of GPUs per
node, right with 8, for CONFIG on 2 nodes or, with cluster.num_nodes=1, on one.
"""
# ruff: noqa: E501  the scripts are as people write them

FIELD = {
    "pt": r"""#!/bin/bash
lora_rank=64
lora_alpha=128
pretrained_model=path/to/hf/llama-2/dir
per_device_train_batch_size=1
gradient_accumulation_steps=8
block_size=512
output_dir=output_dir
deepspeed_config_file=ds_zero2_no_offload.json
torchrun --nnodes 1 --nproc_per_node @@ train.py config.yaml cluster.num_nodes=1 \
    run.dir=${output_dir} \
    batch.micro_batch_size=${per_device_train_batch_size} \
    batch.grad_accum_steps=${gradient_accumulation_steps} \
    data.max_seq_len=${block_size}
""",
    "nccl": """#!/bin/bash
export NCCL_DEBUG=INFO
export NCCL_IB_DISABLE=0 NCCL_SOCKET_IFNAME=eth0
export NCCL_P2P_LEVEL=NVL
ulimit -n 65535
export CUDA_DEVICE_MAX_CONNECTIONS=1
set -x
GPUS=@@
deepspeed --num_gpus=$GPUS --master_port $((RANDOM % 1000 + 29500)) train.py config.yaml cluster.num_nodes=1 2>&1 | tee logs/train_$(date +%F).log
""",
    "conda": """#!/bin/bash
eval "$(conda shell.bash hook)"
conda activate llama
source ~/.bashrc
deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "apptainer": """#!/bin/bash
#SBATCH --job-name=alpaca
#SBATCH --partition=gpu
#SBATCH --nodes=2
#SBATCH --gres=gpu:8 --ntasks-per-node=1
HEAD=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n1)
srun apptainer exec --nv --env NCCL_DEBUG=INFO img.sif torchrun --nnodes=2 --nproc_per_node=@@ --rdzv_backend=c10d --rdzv_endpoint=$HEAD:29500 train.py config.yaml
""",
    "docker": """#!/bin/bash
docker run --rm --gpus all --ipc=host -v $PWD:/w -w /w img:latest deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "srunbash": """#!/bin/bash
#SBATCH --job-name=alpaca
#SBATCH --partition=gpu
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1
export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)
export MASTER_PORT=29500
export GPUS_PER_NODE=@@
srun --jobid $SLURM_JOBID bash -c 'python -m torch.distributed.run --nproc_per_node $GPUS_PER_NODE --nnodes $SLURM_NNODES --node_rank $SLURM_PROCID --master_addr $MASTER_ADDR --master_port $MASTER_PORT train.py config.yaml'
""",
    "loop hostfile": """#!/bin/bash
#SBATCH --job-name=alpaca
#SBATCH --partition=gpu
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
HOSTFILE=hostfile_$SLURM_JOB_ID
> $HOSTFILE
for h in $(scontrol show hostnames $SLURM_JOB_NODELIST); do
  echo "$h slots=@@" >> $HOSTFILE
done
deepspeed --hostfile $HOSTFILE --master_addr $(head -n1 $HOSTFILE | cut -d' ' -f1) train.py config.yaml
""",
    "heredoc hostfile": """#!/bin/bash
cat > hf <<EOF
node1 slots=@@
node2 slots=@@
EOF
deepspeed --hostfile=hf train.py config.yaml
""",
    "nohup": """#!/bin/bash
nohup deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1 > log.txt 2>&1 &
echo $! > pid
""",
    "tmux": """#!/bin/bash
tmux new-session -d -s train 'deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1'
""",
    "screen": """#!/bin/bash
screen -dmS train bash -c 'deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1'
""",
    "while": """#!/bin/bash
while true; do
  deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1 --continue auto && break
  sleep 10
done
""",
    "until": """#!/bin/bash
until deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1 --continue auto; do sleep 10; done
""",
    "timeout": """#!/bin/bash
timeout -s TERM 24h deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "numactl": """#!/bin/bash
numactl --cpunodebind=0 --membind=0 torchrun --standalone --nproc-per-node=@@ train.py config.yaml cluster.num_nodes=1
""",
    "ray": """#!/bin/bash
ray job submit --working-dir . -- deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "lsf": """#!/bin/bash
#BSUB -n 8
#BSUB -gpu "num=8"
#BSUB -q gpu
deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "pbs": """#!/bin/bash
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -q gpu
cd $PBS_O_WORKDIR
deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "function": """#!/bin/bash
run() {
  local n=$1; shift
  deepspeed --num_gpus "$n" train.py "$@"
}
run @@ config.yaml cluster.num_nodes=1
""",
    "array args": """#!/bin/bash
ARGS=(--num_gpus @@ --master_port 29501)
TRAIN=(train.py config.yaml cluster.num_nodes=1)
deepspeed "${ARGS[@]}" "${TRAIN[@]}"
""",
    "uv": """#!/bin/bash
uv run --extra train deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "conda run": """#!/bin/bash
conda run -n llama --no-capture-output deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "set -e trap": """#!/bin/bash
set -euo pipefail
trap 'echo failed; exit 1' ERR
cd "$(dirname "$0")"
mkdir -p logs
( deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1 ) |& tee logs/a.log
exit ${PIPESTATUS[0]}
""",
    "python -m ds": """#!/bin/bash
python3 -m deepspeed.launcher.runner --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "crossfoot": """#!/bin/bash
deepspeed --num_gpus @@ --module crossfoot train config.yaml cluster.num_nodes=1
""",
    "sbatch heredoc": """#!/bin/bash
sbatch <<EOT
#!/bin/bash
#SBATCH -N 2
#SBATCH --ntasks-per-node=@@
#SBATCH --gpus-per-node=8
srun python train.py config.yaml
EOT
""",
    "wrap": """#!/bin/bash
sbatch -N 2 --ntasks-per-node=@@ --gpus-per-node=8 --wrap 'srun python train.py config.yaml'
""",
    "sudo": """#!/bin/bash
sudo -E env PATH=$PATH deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "stdbuf": """#!/bin/bash
stdbuf -oL -eL deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1 | tee log
""",
    "time": """#!/bin/bash
time deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1
""",
    "subst": """#!/bin/bash
CMD="deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1"
echo $CMD
$CMD
""",
    "eval": """#!/bin/bash
CMD="deepspeed --num_gpus @@ train.py config.yaml cluster.num_nodes=1"
eval $CMD
""",
    "accelerate": r"""#!/bin/bash
#SBATCH --job-name=alpaca
#SBATCH --partition=gpu
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8 --ntasks-per-node=1
export HEAD=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)
export LAUNCHER="accelerate launch --multi_gpu --num_machines $SLURM_NNODES --num_processes $((SLURM_NNODES * @@)) --main_process_ip $HEAD --main_process_port 29500 --machine_rank \$SLURM_PROCID --rdzv_backend c10d"
export CMD="$LAUNCHER train.py config.yaml"
srun bash -c "$CMD"
""",
}
