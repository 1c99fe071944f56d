"""What starts a run: hostfile, batch script, accelerate file, launch script, SLURM's variables."""
