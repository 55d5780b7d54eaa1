"""Writes the secrets of compose.yaml as files of mode 0600, and infra/.env, which names their owner; never overwrites, never prints one.

Files of `docker compose` are bind mounts: a container sees the owner and the mode that they have on the host, whatever `uid` or `mode`
the compose file asks for, and a root that has lost its capabilities may not read what another owns. So all containers run as
the owner of the files, and this script writes that owner into infra/.env.
"""

import argparse
import json
import os
import secrets
import sys
from pathlib import Path

INFRA = Path(__file__).resolve().parent
IMAGE_USER = 10001  # who runs Kinora when root makes the secrets
IDENTITIES = {  # of object storage: what each may do, in the words of SeaweedFS
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "kinora": ["Read:kinora", "Write:kinora", "List:kinora", "Tagging:kinora"],
    "mlflow": ["Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"],
}
MLFLOW_USERS = ("admin", "trainer", "promoter")


def word(num_bytes: int = 32) -> str:
    """Makes a secret of letters and digits alone, which needs no quoting in an address, an INI file or a shell."""
    return secrets.token_hex(num_bytes)


def keep(folder: Path, name: str, value: str) -> str:
    """Writes a secret unless it is there, and answers the one that counts from now on."""
    path = folder / name
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(handle, "w") as file:
        file.write(value)
    return value


def write_secrets(folder: Path) -> None:
    """Writes every secret that compose.yaml names."""
    keep(folder, "postgres_password", word())
    for name, driver in (("prefect", "postgresql+asyncpg"), ("mlflow", "postgresql+psycopg2")):
        password = keep(folder, f"{name}_database_password", word())
        keep(folder, f"{name}_database_url", f"{driver}://{name}:{password}@postgres:5432/{name}")
    keep(folder, "prefect_auth_string", f"kinora:{word()}")
    keep(folder, "ray_auth_token", word())
    keep(folder, "webhook_url", "")  # a person writes one in
    keep(folder, "mlflow_secret_key", word())
    for user in MLFLOW_USERS:
        password = keep(folder, f"mlflow_{user}_password", word())
        if user != "promoter":  # a promoter only for the moment of a promotion, never the identity of a whole process
            keep(folder, f"mlflow_{user}", f"[mlflow]\nmlflow_tracking_username = {user}\nmlflow_tracking_password = {password}\n")
    keep(
        folder, "mlflow_auth.ini", mlflow_auth((folder / "mlflow_admin_password").read_text(), (folder / "mlflow_database_url").read_text())
    )
    keys = {name: keep(folder, f"s3_{name}", s3_credentials(word(10), word())) for name in IDENTITIES}
    keep(folder, "s3_identities.json", s3_identities(keys))


def mlflow_auth(admin_password: str, database: str) -> str:
    """Writes what MLflow's basic-auth reads at its start; who may do what is granted later, by components.registry.accounts."""
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {database}\n"
        "admin_username = admin\n"
        f"admin_password = {admin_password}\n"
        "authorization_function = components.registry.authorize:authenticate\n"  # MLflow alone lets anyone make a registered model
    )


def s3_credentials(key: str, secret: str) -> str:
    """Writes a file that AWS_SHARED_CREDENTIALS_FILE may name."""
    return f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"


def s3_identities(credentials: dict[str, str]) -> str:
    """Writes the identities of object storage in SeaweedFS' form, one for each credentials file."""
    entries = []
    for name, text in credentials.items():
        values = dict(line.split(" = ") for line in text.splitlines() if " = " in line)
        pair = {"accessKey": values["aws_access_key_id"], "secretKey": values["aws_secret_access_key"]}
        entries.append({"name": name, "credentials": [pair], "actions": IDENTITIES[name]})
    return json.dumps({"identities": entries}, indent=2)


def main() -> None:
    """Makes infra/secrets and infra/.env."""
    parser = argparse.ArgumentParser(description="Write the secrets that compose.yaml mounts; what is there stays as it is.")
    parser.add_argument("--folder", type=Path, default=INFRA / "secrets", help="where to (default: infra/secrets)")
    parser.add_argument("--footage", type=Path, default=INFRA / "footage", help="the folder of your videos, for infra/.env")
    arguments = parser.parse_args()
    root = os.geteuid() == 0
    owner, group = (IMAGE_USER, IMAGE_USER) if root else (os.geteuid(), os.getegid())
    folder: Path = arguments.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    before = {path.name for path in folder.iterdir()}
    write_secrets(folder)
    if root:
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner, group, follow_symlinks=False)
    readable = [path.name for path in folder.iterdir() if path.stat().st_mode & 0o077]
    if readable:
        sys.exit(f"error: `{folder / readable[0]}` is readable by others\nhint: chmod 600 {folder}/*")
    arguments.footage.mkdir(parents=True, exist_ok=True)
    settings = {"KINORA_UID": owner, "KINORA_GID": group, "KINORA_FOOTAGE": arguments.footage.resolve()}
    made = keep(folder.parent, ".env", "".join(f"{name}={value}\n" for name, value in settings.items()))
    new = sum(path.name not in before for path in folder.iterdir())
    print(f"{new} secrets written to {folder}, {len(before)} were there; {folder.parent / '.env'} says:\n{made}", end="")


if __name__ == "__main__":
    main()
