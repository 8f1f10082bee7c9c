# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that talk to a fractal-server."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of ``module_utils/fractal_server.py``."""

    DOCUMENTATION = r"""
options:
  api_url:
    description:
      - The address of fractal-server, as the host sees it. Messages show it, so it may hold no password.
    type: str
    default: http://127.0.0.1:8000
  token:
    description:
      - A token of an administrator of fractal-server. Keep it in a vault. It is never shown or logged.
      - One of this, O(username) and O(fractalctl) is needed.
    type: str
  username:
    description: The e-mail address of an administrator, with O(password), for whom a token is got.
    type: str
  password:
    description: The password of O(username). Keep it in a vault. It is never shown or logged.
    type: str
  validate_certs:
    description: Whether the certificate of O(api_url) is checked.
    type: bool
    default: true
  ca_path:
    description: A file with certificates of authorities that are trusted for O(api_url).
    type: path
  fractalctl:
    description:
      - The path of C(fractalctl) in the virtual environment of fractal-server on the host. With it, no token is needed,
        and the server need not run. The Python beside it reads and writes the database with code of fractal-server.
      - Its settings are those that C(fractalctl) would find. They are the file C(.fractal_server.env) in
        O(fractalctl_dir) and the variables of the task's C(environment).
    type: path
  fractalctl_dir:
    description: The folder in which C(fractalctl) is started, with the file C(.fractal_server.env). Without it, C(/).
    type: path
  fractalctl_user:
    description: The account that C(fractalctl) runs as. The default is the account of the task. Root may name another.
    type: str
  timeout:
    description: Seconds for each question, above zero.
    type: int
    default: 30
"""
