# SPDX-License-Identifier: GPL-3.0-or-later
"""A task that takes the seconds it is told, and says where it ran."""

import argparse
import json
import platform
import time

parser = argparse.ArgumentParser()
parser.add_argument("--args-json", required=True)
parser.add_argument("--out-json", required=True)
given = parser.parse_args()
with open(given.args_json, encoding="utf-8") as file:
    seconds = json.load(file)["seconds"]
time.sleep(seconds)
with open(given.out_json, "w", encoding="utf-8") as file:
    json.dump({"host": platform.node()}, file)
