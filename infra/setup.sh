#!/bin/sh
# What the servers need once, and again after a change of pipelines.yaml: every step leaves alone what is there already.
set -eu
cd "$(dirname "$0")/.."
python infra/make_buckets.py kinora mlflow
python -m components.registry.accounts
prefect work-pool create kinora --type process --base-job-template infra/prefect/work-pool.json --overwrite
kinora deploy --profile "${KINORA_PROFILE:-servers}"
