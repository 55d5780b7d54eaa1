#!/bin/sh
# Docker's convention for secrets: NAME_FILE names a file that holds NAME. Only for settings that a program reads from its
# environment alone and that stay in that one container; what Ray's nodes need (token, MLflow's and S3's credentials) is read from
# files by the libraries themselves, since a Ray job inherits the environment of its node.
set -eu
for name in PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING PREFECT_SERVER_DATABASE_CONNECTION_URL \
    MLFLOW_BACKEND_STORE_URI MLFLOW_FLASK_SERVER_SECRET_KEY; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    if [ ! -r "$file" ]; then
        echo "error: ${name}_FILE names $file, which user $(id -u) cannot read" >&2
        echo "hint: infra/make_secrets.py writes the secrets and, into infra/.env, the user that owns them" >&2
        exit 2
    fi
    export "$name=$(cat "$file")"
    unset "${name}_FILE"
done
exec "$@"
