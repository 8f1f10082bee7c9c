# SPDX-License-Identifier: GPL-3.0-or-later
"""Does the work of the bootstrap script of pip that ``ansible-test --venv`` downloads, without the download.

ansible-test calls it with pip's own options and pinned requirements. The interpreter's bundled pip installs them
from the package index that this machine is set up for.
"""

import subprocess
import sys

subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], stdout=subprocess.DEVNULL, check=True)
arguments = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", "--upgrade", *arguments], check=False).returncode)
