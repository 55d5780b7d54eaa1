"""Makes the buckets that are named on the command line, where AWS_ENDPOINT_URL points to; those that are there stay as they are."""

import sys

import boto3
from botocore.exceptions import ClientError


def main() -> None:
    """Makes each bucket, or says in one sentence why not."""
    client = boto3.client("s3")  # address and credentials from the environment
    for name in sys.argv[1:]:
        try:
            client.head_bucket(Bucket=name)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                sys.exit(f"error: bucket `{name}`: {error}\nhint: AWS_SHARED_CREDENTIALS_FILE must name an identity that may make buckets")
            client.create_bucket(Bucket=name)
            print(f"bucket {name} made")


if __name__ == "__main__":
    main()
