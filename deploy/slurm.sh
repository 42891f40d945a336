#!/bin/bash
# Ray across the nodes of a SLURM allocation, for one command of neural-hamilton; it ends with the exit code of that command.
#
#   sbatch --nodes 4 deploy/slurm.sh train /shared/data --arch mambonet --workers 4 --out /shared/run --resume
#
# Activate the environment first. Datasets and run folders must lie where all nodes see them. Options of sbatch may be added below, or
# given on its command line, which has precedence.
#SBATCH --job-name=neural-hamilton
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00

set -euo pipefail

if [ $# -eq 0 ]; then
  echo "error: no command; give one of neural-hamilton, such as: sbatch deploy/slurm.sh train DATASET --out RUN" >&2
  exit 2
fi

# A port and a token for each allocation: two on one node, or of two users, never join each other.
port=$((20000 + ${SLURM_JOB_ID:?run this script with sbatch} % 20000))
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# On the node's own disk, with a short path: Ray's sockets lie there.
export RAY_TMPDIR="${NEURAL_HAMILTON_RAY_TMPDIR:-/tmp}/nh-$SLURM_JOB_ID"

cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
address=${address%% *}

# Steps of one allocation run at the same time only where they may overlap.
start_node() {
  local host=$1
  shift
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" --cpus-per-task="$cpus" ray start --block --num-cpus="$cpus" "$@" &
}

# --block: Ray ends with its step, and the steps with this script.
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$RAY_TMPDIR"' EXIT
start_node "$head" --head --node-ip-address="$address" --port="$port" --include-dashboard=false --temp-dir="$RAY_TMPDIR"
for host in "${hosts[@]:1}"; do
  start_node "$host" --address="$address:$port"
done

export RAY_ADDRESS="$address:$port"
for _ in $(seq 120); do
  # Until all nodes are there: a command divides its work among those that it finds.
  alive=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" python -c \
    'import ray; ray.init(log_to_driver=False, logging_level="ERROR"); print(sum(node["Alive"] for node in ray.nodes()))' 2>/dev/null || echo 0)
  [ "${alive##* }" -ge "${#hosts[@]}" ] && break
  sleep 2
done
if [ "${alive##* }" -lt "${#hosts[@]}" ]; then
  echo "error: ${alive##* } of ${#hosts[@]} nodes have started Ray; look at the log of this job above" >&2
  exit 1
fi

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" --cpus-per-task="$cpus" python -m neural_hamilton.platform "$@"
