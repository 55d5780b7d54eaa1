# Run once by PostgreSQL's image, on an empty data folder: a database and a role of its own for each of the two servers.
# psql reads the passwords from the secrets itself, so they stand in no command line.
set -e # sourced by the entry of the image, which could not bear `-u`
for name in prefect mlflow; do
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --set name="$name" <<SQL
\set password \`cat "${SECRETS:-/run/secrets}/${name}_database_password"\`
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
