# SPDX-License-Identifier: GPL-3.0-or-later
"""The one task of all golden workflows: its arguments say what it does."""

import argparse
import json
import os
import pwd
import signal
import sys
import time


def main():
    """Run as a Fractal task, of any type."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--args-json", required=True)
    parser.add_argument("--out-json", required=True)
    given = parser.parse_args()
    with open(given.args_json, encoding="utf-8") as file:
        args = json.load(file)
    url = args.get("zarr_url", "")
    name = os.path.basename(url)
    umask = os.umask(0o022)
    os.umask(umask)
    print(f"{name} as {pwd.getpwuid(os.getuid()).pw_name}, umask {umask:03o}, init_args {args.get('init_args')}")
    print({key: os.environ.get(key) for key in ("FRACTAL_CACHE_DIR", "EXPORTED", "GREETING", "HOME")}, flush=True)
    if "say" in args:
        print(args["say"], flush=True)
        print(args["say"], file=sys.stderr, flush=True)
    is_meant = not args.get("only") or name in args["only"]
    out = {}
    if "make" in args:
        urls = [f"{args['zarr_dir']}/plate/W{number:05d}" for number in range(args["make"])]
        out["image_list_updates"] = [{"zarr_url": each, "attributes": {"well": each[-6:]}} for each in urls]
    elif "list" in args:
        urls = args.get("zarr_urls") or [f"{args['zarr_dir']}/plate/W{n:05d}" for n in range(max(args["list"], 1))]
        out["parallelization_list"] = [
            {"zarr_url": urls[number % len(urls)], "init_args": {"number": number}} for number in range(args["list"])
        ]
    elif "set" in args:
        urls = [url] if url else args["zarr_urls"]
        out["image_list_updates"] = [{"zarr_url": each, "attributes": args["set"]} for each in urls]
    if is_meant and "exit_after" in args:
        with open(given.out_json, "w", encoding="utf-8") as file:
            json.dump(out, file)
        sys.exit(args["exit_after"])
    if is_meant and "mark" in args:
        folder = args["mark"]
        os.makedirs(folder, mode=0o777, exist_ok=True)
        with open(os.path.join(folder, name or "one"), "x", encoding="ascii"):
            pass
    if is_meant and "sleep" in args:
        time.sleep(args["sleep"])
    if is_meant and "signal" in args:
        os.kill(os.getpid(), getattr(signal, args["signal"]))
        time.sleep(5)
    if is_meant and "exit" in args:
        sys.exit(args["exit"])
    if "text" in args:
        if is_meant:
            with open(given.out_json, "w", encoding="utf-8") as file:
                file.write(args["text"])
    elif not args.get("silent"):
        with open(given.out_json, "w", encoding="utf-8") as file:
            json.dump(out, file)


if __name__ == "__main__":
    main()
