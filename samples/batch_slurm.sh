#!/bin/bash
#SBATCH --job-name=ckptfmt
#SBATCH --array=1-20%4           # one task for each item of the manifest, four at a time
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=02:00:00
#SBATCH --requeue                # a task that loses its node goes on where it stopped
#SBATCH --output=%x-%A-%a.log
#
# Convert the items of a manifest as an array job:
#
#   sbatch samples/batch_slurm.sh /shared/models/manifest.yaml
#
# ckptfmt has to be on the PATH of the nodes, the manifest's folder on a file system that they share.
# To do what failed, submit it again: what is done is skipped.
set -euo pipefail

manifest="${1:?usage: sbatch $0 MANIFEST}"
item="${SLURM_ARRAY_TASK_ID:?is set by Slurm: submit this with sbatch}"

# A report of its own for each item: lines added by several nodes could mix.
exec ckptfmt batch "$manifest" --item "$item" --jobs 1 --verify \
    --report "$manifest.report.$item.jsonl"
