"""Recipes of other trainers in the manner of public ones, written for the tests. They train builtin:tiny on
data/, so that what is imported can be planned as it stands.
"""

SFT = """\
# 运行脚本前请仔细阅读
lr=1e-4
lora_rank=64
lora_alpha=128
lora_trainable="q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj"
modules_to_save="embed_tokens,lm_head"
lora_dropout=0.05

pretrained_model=builtin:tiny
chinese_tokenizer_path=builtin:tiny
dataset_dir=data
per_device_train_batch_size=1
per_device_eval_batch_size=1
gradient_accumulation_steps=8
max_seq_length=512
output_dir=output/sft
validation_file=valid.json

deepspeed_config_file=ds_zero2_no_offload.json

torchrun --nnodes 1 --nproc_per_node 1 run_clm_sft_with_peft.py \\
    --deepspeed ${deepspeed_config_file} \\
    --model_name_or_path ${pretrained_model} \\
    --tokenizer_name_or_path ${chinese_tokenizer_path} \\
    --dataset_dir ${dataset_dir} \\
    --per_device_train_batch_size ${per_device_train_batch_size} \\
    --per_device_eval_batch_size ${per_device_eval_batch_size} \\
    --do_train \\
    --do_eval \\
    --seed $RANDOM \\
    --fp16 \\
    --num_train_epochs 1 \\
    --lr_scheduler_type cosine \\
    --learning_rate ${lr} \\
    --warmup_ratio 0.03 \\
    --weight_decay 0 \\
    --logging_strategy steps \\
    --logging_steps 10 \\
    --save_strategy steps \\
    --save_total_limit 3 \\
    --evaluation_strategy steps \\
    --eval_steps 100 \\
    --save_steps 200 \\
    --gradient_accumulation_steps ${gradient_accumulation_steps} \\
    --preprocessing_num_workers 8 \\
    --max_seq_length ${max_seq_length} \\
    --output_dir ${output_dir} \\
    --overwrite_output_dir \\
    --ddp_timeout 30000 \\
    --logging_first_step True \\
    --lora_rank ${lora_rank} \\
    --lora_alpha ${lora_alpha} \\
    --trainable ${lora_trainable} \\
    --lora_dropout ${lora_dropout} \\
    --modules_to_save ${modules_to_save} \\
    --torch_dtype float16 \\
    --validation_file ${validation_file} \\
    --load_in_kbits 16 \\
    --save_safetensors False \\
    --gradient_checkpointing \\
    --ddp_find_unused_parameters False
"""
PT = """\
lr=2e-4
lora_rank=64
lora_alpha=128
lora_trainable="q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj"
modules_to_save="embed_tokens,lm_head"
lora_dropout=0.05

pretrained_model=builtin:tiny
chinese_tokenizer_path=builtin:tiny
dataset_dir=corpus
data_cache=temp_data_cache_dir
per_device_train_batch_size=1
gradient_accumulation_steps=8
block_size=512
output_dir=output/pt

deepspeed_config_file=ds_zero2_no_offload.json

torchrun --nnodes 1 --nproc_per_node 1 run_clm_pt_with_peft.py \\
    --deepspeed ${deepspeed_config_file} \\
    --model_name_or_path ${pretrained_model} \\
    --tokenizer_name_or_path ${chinese_tokenizer_path} \\
    --dataset_dir ${dataset_dir} \\
    --data_cache_dir ${data_cache} \\
    --validation_split_percentage 0.001 \\
    --per_device_train_batch_size ${per_device_train_batch_size} \\
    --do_train \\
    --low_cpu_mem_usage \\
    --seed 1337 \\
    --fp16 \\
    --num_train_epochs 1 \\
    --lr_scheduler_type cosine \\
    --learning_rate ${lr} \\
    --warmup_ratio 0.05 \\
    --weight_decay 0.01 \\
    --logging_strategy steps \\
    --logging_steps 10 \\
    --save_strategy steps \\
    --save_total_limit 3 \\
    --save_steps 200 \\
    --gradient_accumulation_steps ${gradient_accumulation_steps} \\
    --preprocessing_num_workers 8 \\
    --block_size ${block_size} \\
    --output_dir ${output_dir} \\
    --overwrite_output_dir \\
    --ddp_timeout 30000 \\
    --logging_first_step True \\
    --lora_rank ${lora_rank} \\
    --lora_alpha ${lora_alpha} \\
    --trainable ${lora_trainable} \\
    --lora_dropout ${lora_dropout} \\
    --modules_to_save ${modules_to_save} \\
    --torch_dtype float16 \\
    --load_in_kbits 16 \\
    --save_safetensors False \\
    --gradient_checkpointing \\
    --ddp_find_unused_parameters False
"""
LLAMA_FACTORY = """\
### model
model_name_or_path: builtin:tiny
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all

### dataset
dataset: reviews
template: llama3
cutoff_len: 1024
overwrite_cache: true
preprocessing_num_workers: 16

### output
output_dir: saves/tiny/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
report_to: none

### train
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null

### eval
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""
AXOLOTL = """\
base_model: builtin:tiny
# hub_model_id: username/custom_model_name
load_in_8bit: true
datasets:
  - path: data/reviews.json
    ds_type: json
    type: alpaca
val_set_size: 0.05
output_dir: ./outputs/lora-out
sequence_len: 4096
sample_packing: false
pad_to_sequence_len: true
adapter: lora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
wandb_project:
wandb_entity:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
tf32: false
gradient_checkpointing: true
logging_steps: 1
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
special_tokens:
  pad_token: "<|end_of_text|>"
"""
ARGUMENTS = """\
{
  "output_dir": "out/alpaca",
  "per_device_train_batch_size": 4,
  "gradient_accumulation_steps": 8,
  "num_train_epochs": 3,
  "learning_rate": 2e-5,
  "lr_scheduler_type": "cosine",
  "warmup_ratio": 0.03,
  "weight_decay": 0.0,
  "bf16": true,
  "evaluation_strategy": "no",
  "save_strategy": "steps",
  "save_steps": 2000,
  "save_total_limit": 1,
  "logging_steps": 1,
  "group_by_length": true,
  "dataloader_drop_last": true,
  "report_to": ["wandb"]
}
"""
ACCELERATE = """\
#!/bin/bash
export CUDA_VISIBLE_DEVICES=0,1,2,3
GPUS=4
accelerate launch \\
    --mixed_precision bf16 \\
    --num_machines 1 \\
    --num_processes $GPUS \\
    finetune.py \\
    --model_name_or_path builtin:tiny \\
    --train_file data/reviews.json \\
    --max_seq_length 1024 \\
    --use_lora \\
    --lora_rank 64 \\
    --lora_alpha 16 \\
    --per_device_train_batch_size 2 \\
    --gradient_accumulation_steps 16 \\
    --learning_rate 1e-5 \\
    --lr_scheduler_type linear \\
    --warmup_ratio 0.03 \\
    --weight_decay 0. \\
    --num_train_epochs 2 \\
    --output_dir output/tulu \\
    --with_tracking \\
    --report_to none \\
    --logging_steps 1
"""
