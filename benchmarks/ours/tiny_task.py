# SPDX-License-Identifier: BSD-3-Clause
"""A task as small as a Python script can be: it reads its args, and writes them to its out-JSON."""

import argparse
import json

parser = argparse.ArgumentParser()
parser.add_argument("--args-json")
parser.add_argument("--out-json")
arguments = parser.parse_args()
with open(arguments.args_json) as file:
    args = json.load(file)
with open(arguments.out_json, "w") as file:
    json.dump(args, file)
