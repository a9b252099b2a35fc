"""An S3 server on a port of the system's choice, with one bucket and one user who may use it.

Prints its address, the access key's id and the access key. For each line on its standard input it prints what is in the bucket, and it
ends with it.
"""

import json
import os
import sys

# So many requests make the user; from then on every request has to be signed, and signed well.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "4"

import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

BUCKET = sys.argv[1]

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
address = f"http://{host}:{port}"


def client(service, key_id="nobody", key="nothing"):
    return boto3.client(
        service, region_name="us-east-1", endpoint_url=address, aws_access_key_id=key_id, aws_secret_access_key=key
    )


iam = client("iam")
iam.create_user(UserName="entente")
rule = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
policy = json.dumps({"Version": "2012-10-17", "Statement": rule})
iam.put_user_policy(UserName="entente", PolicyName="media", PolicyDocument=policy)
key = iam.create_access_key(UserName="entente")["AccessKey"]
client("s3").create_bucket(Bucket=BUCKET)
print(address, key["AccessKeyId"], key["SecretAccessKey"], flush=True)

s3 = client("s3", key["AccessKeyId"], key["SecretAccessKey"])
for line in sys.stdin:
    objects = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    uploads = s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    found = {"objects": [found["Key"] for found in objects], "uploads": [found["Key"] for found in uploads]}
    print(json.dumps(found), flush=True)
server.stop()
