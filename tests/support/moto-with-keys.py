"""Starts moto with keys in AWS KMS whose ids and material are given, so that they decrypt what was encrypted earlier.

The first argument is a list of keys as ID=MATERIAL, separated by commas; the material is 32 bytes in hex. The others
are those of `moto_server`.
"""

import sys

from moto.core import DEFAULT_ACCOUNT_ID
from moto.kms.models import kms_backends
from moto.server import main

backend = kms_backends[DEFAULT_ACCOUNT_ID]["us-east-1"]
for known in sys.argv[1].split(","):
    key_id, material = known.split("=")
    key = backend.create_key(None, "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT", "", None)
    del backend.keys[key.id]
    key.arn = key.arn.replace(key.id, key_id)
    key.id, key.key_material = key_id, bytes.fromhex(material)
    backend.keys[key_id] = key
main(sys.argv[2:])
